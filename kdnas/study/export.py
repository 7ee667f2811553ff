"""The best candidates as a file: versioned JSON that is checked against its schema on the way out, CSV, Markdown.

Knows rows, not databases, and imports nothing heavy: the screens write the same files. docs/export.md describes
the format; export.schema.json defines it.
"""

from __future__ import annotations

import csv
import json
import time
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Literal, cast

from kdnas import __version__
from kdnas.study import timed_words
from kdnas.study.constraints import PART, limits_of
from kdnas.study.filter import Filter
from kdnas.study.plain_values import unwritable
from kdnas.study.ranked_rows import passing
from kdnas.study.ranking import Scored
from kdnas.study.reference_time import factor
from kdnas.study.rows import PREDICTED, StudyRow
from kdnas.study.spec import StudySpec, from_store, from_values
from kdnas.system.errors import KdnasError, UsageError, nearest
from kdnas.system.text import escaped, markdown

FORMAT = "kdnas-export"
VERSION = 1
USUAL = {  # of the latency's protocol: left out where so
    "by": "model",
    "what": timed_words.FIRST,
    "when": "now",
    "dtype": timed_words.AUTO,
}
Style = Literal["json", "csv", "markdown"]
SUFFIXES: dict[str, Style] = {".json": "json", ".csv": "csv", ".md": "markdown", ".markdown": "markdown"}


@cache
def schema() -> dict[str, Any]:
    """The JSON schema (draft 2020-12) that every exported document fulfils."""
    return cast(dict[str, Any], json.loads(Path(__file__).with_name("export.schema.json").read_text(encoding="utf-8")))


def select(
    scored: Sequence[Scored],
    *,
    top: int | None = None,
    pareto: bool = False,
    only: Filter | None = None,
) -> list[Scored]:
    """The ranked trials asked for, best first: what the filter lets through, of the front if asked, the top.

    Raises UsageError where all that passes stayed on lower rungs than others, and so has no rank.
    """
    passed = scored if only is None else passing(only, scored)
    if any(s.behind for s in passed) and not any(s.rank for s in passed):
        raise UsageError("All that pass stayed on lower rungs than others, so none has a rank.", "Loosen the filter.")
    return [s for s in passed if s.rank is not None and (s.front or not pareto)][:top]


def document(
    study: StudyRow,
    scored: Sequence[Scored],
    *,
    alpha: float,
    beta: float,
    provenance: Mapping[str, Any],
) -> dict[str, Any]:
    """The export of a study: `scored` are the candidates to list, ranked at `alpha` and `beta`.

    `provenance` is what the study's workers wrote of versions, fingerprints and the device. Raises UsageError where
    there is nothing to export.
    """
    if not scored:
        raise UsageError(
            f"Study {study.name} has no finished candidate to export.",
            "Let it finish a trial first, or loosen the filter.",
        )
    spec = from_store(study.spec)
    body = {
        "format": FORMAT,
        "version": VERSION,
        "kdnas": __version__,
        "written": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "study": {
            "name": study.name,
            "seed": spec.seed,
            "status": str(study.status),
            "trials": study.trials,
            "done": study.done,
            "space_size": study.space_size,
        },
        "teacher": {**_plain(spec.teacher), **_found(provenance, "teacher")},
        "data": {**_plain(spec.data), **_found(provenance, "data")},
        "recipe": _plain(spec.recipe),
        "strategy": _plain(spec.strategy),
        "reward": {"alpha": alpha, "beta": beta, "loss": spec.reward.loss},
        "latency": {
            "teacher_ms": study.teacher_latency_ms,
            "device": provenance.get("device"),
            "protocol": {name: value for name, value in _plain(spec.latency).items() if USUAL.get(name) != value},
        },
        "versions": dict(provenance.get("versions", {})),
        "provenance": dict(provenance),
        "spec": spec.model_dump(mode="json"),
        "candidates": [candidate(s) for s in scored],
    }
    validate(body)
    return body


def _plain(part: Any) -> dict[str, Any]:
    return cast(dict[str, Any], part.model_dump(mode="json"))


def _found(provenance: Mapping[str, Any], subject: str) -> dict[str, Any]:
    """What the workers found of the teacher or the data: `teacher_fingerprint` becomes `fingerprint`."""
    prefix = f"{subject}_"
    return {key.removeprefix(prefix): value for key, value in provenance.items() if key.startswith(prefix)}


def candidate(scored: Scored) -> dict[str, Any]:
    """One entry of an export's `candidates`."""
    row = scored.row
    return {
        "rank": scored.rank,
        "trial": row.number,
        "reward": scored.reward,
        "tie": scored.tie,
        "pareto": scored.front,
        **({} if scored.miss is None else {"feasible": not scored.infeasible}),
        "loss": row.loss,
        "raw_loss": row.raw_loss,
        "mean_loss": row.mean_loss,
        "loss_spread": row.loss_spread,
        "repeats": row.repeats,
        "latency_ms": {
            "p50": row.latency_ms,
            "p90": row.latency_p90_ms,
            "low": row.latency_low_ms,
            "high": row.latency_high_ms,
            "flag": row.latency_flag,
        },
        "teacher_latency_ms": row.teacher_latency_ms,
        "speedup": row.speedup,
        "parameters": row.parameters,
        "seed": row.seed,
        "epochs": row.epoch,
        **({} if row.rung is None else {"rung": row.rung}),
        "candidate": dict(row.candidate),
        "config": dict(row.config),
        "tags": list(row.tags),
        "note": row.note,
        "extra": dict(row.extra),
    }


def validate(body: Mapping[str, Any]) -> None:
    """Raise KdnasError where a document does not fulfil the schema; names the first place."""
    import jsonschema

    fault = jsonschema.exceptions.best_match(jsonschema.Draft202012Validator(schema()).iter_errors(body))
    if fault is not None:
        place = "/".join(str(p) for p in fault.absolute_path) or "the document"
        raise KdnasError(f"The export does not fulfil its schema at {place}: {fault.message}.")


def read(path: Path) -> dict[str, Any]:
    """An exported JSON file, checked. Raises UsageError for one that is missing, broken or of a newer version."""
    try:
        body = json.loads(path.read_text(encoding="utf-8-sig"), parse_constant=_no_number)
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}.", "Give a file that kdnas export wrote.") from None
    except ValueError:
        raise UsageError(f"{path} is not JSON.", "Give a file that kdnas export wrote.") from None
    except RecursionError:
        raise UsageError(f"{path} is nested too deeply.", "Give a file that kdnas export wrote.") from None
    if (wrong := unwritable(body)) is not None:
        raise UsageError(f"{path} {wrong}.", "Give a file that kdnas export wrote.")
    if not isinstance(body, dict) or body.get("format") != FORMAT:
        raise UsageError(f"{path} is not an export of kdnas.", "Give a JSON file that kdnas export wrote.")
    if isinstance(body.get("version"), int) and body["version"] > VERSION:
        raise UsageError(
            f"{path} is of version {body['version']}; this kdnas reads up to {VERSION}.", "Update kdnas to read it."
        )
    try:
        validate(body)
    except KdnasError as fault:
        raise UsageError(f"{path} was changed by hand: {fault.problem}", "Export it again.") from None
    return body


def _no_number(constant: str) -> float:
    raise ValueError(f"{constant} is no JSON")


# ---------------------------------------------------------------------------------------- as text, as a file


def style_of(path: Path | None, asked: str | None = None) -> Style:
    """The format that was asked for, else the one of the file's suffix. Raises UsageError for a suffix unknown."""
    if asked is not None:
        if asked not in ("json", "csv", "markdown"):
            raise UsageError(f"There is no format {asked!r}.", nearest(asked, ("json", "csv", "markdown")))
        return asked  # type: ignore[return-value]
    if path is None:
        return "json"
    if path.suffix.lower() not in SUFFIXES:
        raise UsageError(
            f"The name {path.name} does not say which format to write.",
            f"End it in {', '.join(SUFFIXES)}, or name one with --format.",
        )
    return SUFFIXES[path.suffix.lower()]


def render(body: Mapping[str, Any], style: Style) -> str:
    """A document as text of one format, a newline at the end."""
    if style == "json":
        return escaped(json.dumps(body, indent=2, ensure_ascii=False, allow_nan=False)) + "\n"
    if style == "csv":
        return _as_csv(body)
    return _as_markdown(body)


Entries = Sequence[Mapping[str, Any]]
"""Several of `candidate`'s."""


def _dimensions(entries: Entries) -> list[str]:
    names: dict[str, None] = {}
    for entry in entries:
        names.update(dict.fromkeys(entry["candidate"]))
    return list(names)


def _as_csv(body: Mapping[str, Any]) -> str:
    return "".join(csv_lines(body["candidates"], body["latency"]["teacher_ms"]))


def csv_lines(entries: Entries, teacher_ms: float | None) -> list[str]:
    """The heading and a line for each candidate, each with its end; milliseconds for one time of the teacher."""
    lines: list[str] = []
    dimensions = _dimensions(entries)
    writer = csv.writer(_Lines(lines), lineterminator="\n")
    before = ("rank", "trial", "reward", "loss", "raw_loss")
    after = ("speedup", "parameters", "seed")
    signs = ("latency_flag", "front", "tie", *(["feasible"] if bounded(entries) else []))
    timed = ("latency_p50_ms", "latency_p90_ms", "teacher_latency_ms")
    rung = ["rung"] if any("rung" in entry for entry in entries) else []
    writer.writerow([*before, *timed, *after, *dimensions, "config", *signs, *rung])
    for entry in entries:
        candidate = entry["candidate"]
        cells = [*(entry[key] for key in before), *_at_reference(entry, teacher_ms), *(entry[key] for key in after)]
        cells += [unspreadsheet(candidate.get(name)) for name in dimensions]
        cells += [json.dumps(entry["config"]), unspreadsheet(entry["latency_ms"]["flag"])]
        cells += [str(entry["pareto"]).lower(), str(entry["tie"]).lower()]
        cells += [str(entry.get("feasible", True)).lower()] if bounded(entries) else []
        writer.writerow([*cells, *(entry.get(name) for name in rung)])
    return lines


class _Lines:
    """What csv writes to: a list of its lines."""

    def __init__(self, lines: list[str]) -> None:
        self.write = lines.append


def bounded(entries: Entries) -> bool:
    """Whether one of them misses a constraint of its study, so that all say whether they do."""
    return not all(entry.get("feasible", True) for entry in entries)


def _at_reference(
    entry: Mapping[str, Any], teacher_ms: float | None
) -> tuple[float | None, float | None, float | None]:
    """A candidate's median and 90th percentile in ms, and its teacher's median, told for the study's one time of the
    teacher: what was measured is their ratio."""
    latency, teacher = entry["latency_ms"], entry["teacher_latency_ms"]
    by = factor(teacher, teacher_ms)
    p50, p90, taught = (None if ms is None else ms * by for ms in (latency["p50"], latency["p90"], teacher))
    return p50, p90, taught


def _predicted(body: Mapping[str, Any]) -> bool:
    """Whether a candidate's latency was not measured."""
    return any((entry["latency_ms"]["flag"] or "").startswith(PREDICTED) for entry in body["candidates"])


def unspreadsheet(value: Any) -> Any:
    """A cell of CSV; one that begins like a formula would be one to a spreadsheet, and is marked as text."""
    return "'" + value if isinstance(value, str) and value[:1] in ("=", "+", "-", "@", "\t", "\r") else value


def _as_markdown(body: Mapping[str, Any]) -> str:
    study, reward = body["study"], body["reward"]
    latency = body["latency"]
    rungs = sorted({entry["rung"] for entry in body["candidates"] if "rung" in entry})
    on_rung = f" All are on rung {rungs[0]}, the highest that was reached." if rungs else ""
    protocol = latency["protocol"]
    other = timed_words.what(protocol) != timed_words.FIRST or timed_words.dtype(protocol) != timed_words.AUTO
    timed = f" Latency is that of {timed_words.in_words(protocol)}." if other else ""
    predicted = " Latencies are predicted by a table of blocks, not measured." if _predicted(body) else ""
    teacher_ms = "not measured" if latency["teacher_ms"] is None else f"{latency['teacher_ms']:.3g} ms"
    lines = [
        f"# {markdown(study['name'])}",
        "",
        f"Teacher {markdown(body['teacher']['model'])} ({teacher_ms}, batch {protocol['batch_size']}, "
        f"length {protocol['length']}), data {markdown(body['data']['source'])}, "
        f"recipe {markdown(body['recipe']['name'])}, strategy {markdown(body['strategy']['name'])}, "
        f"α {reward['alpha']:g}, β {reward['beta']:g}, seed {study['seed']}, "
        f"{study['done']} of {study['trials']} trials.{on_rung}{timed}{predicted}{_kept(body)}",
        "",
        *markdown_lines(body["candidates"], body["latency"]["teacher_ms"]),
    ]
    about = "Front: of loss and latency. Tie: cannot be told from a better one within its noise. "
    about += "× teacher is what was measured; milliseconds are told from it for one time of the teacher. "
    lines += ["", f"{about}Written by kdnas {body['kdnas']}.", ""]
    return "\n".join(lines)


def _kept(body: Mapping[str, Any]) -> str:
    """What the study's constraints are, and how many of the candidates listed keep them; empty where it has none."""
    limits = limits_of(body["spec"].get(PART), body["latency"]["teacher_ms"])
    kept = sum(entry.get("feasible", True) for entry in body["candidates"])
    return f" Constraints: {limits}; {kept} of {len(body['candidates'])} listed keep them." if limits else ""


def markdown_lines(entries: Entries, teacher_ms: float | None) -> list[str]:
    """The heading's two lines and a line for each candidate; milliseconds for the study's time of the teacher."""
    heading, *rows = table_cells(entries, teacher_ms)
    lines = [[*row[:FIGURES], *map(markdown, row[FIGURES:])] for row in (heading, *rows)]
    rule = "|" + " ---: |" * FIGURES + " --- |" * (len(heading) - FIGURES)
    first, *others = ["| " + " | ".join(line) + " |" for line in lines]
    return [first, rule, *others]


FIGURES = 7  # columns of a table before the candidates' dimensions


def table_cells(entries: Entries, teacher_ms: float | None) -> list[list[str]]:
    """The heading and a row for each candidate, for people to read."""
    dimensions = _dimensions(entries)
    heading = ["rank", "trial", "reward", "loss", "latency p50 ms", "× teacher", "parameters", *dimensions]
    kept = ["constraints"] if bounded(entries) else []
    found = [[*heading, "front", "tie", *kept, "latency is"]]
    for entry in entries:
        figures = [
            str(entry["rank"]),
            str(entry["trial"]),
            f"{entry['reward']:.4f}",
            f"{entry['loss']:.4f}",
            f"{_at_reference(entry, teacher_ms)[0]:.3g}",
            "–" if entry["speedup"] is None else f"{entry['speedup']:.2f}",
            "–" if entry["parameters"] is None else f"{entry['parameters']:,}",
        ]
        signs = ["yes" if entry["pareto"] else "no", "yes" if entry["tie"] else "no"]
        signs += ["kept" if entry.get("feasible", True) else "missed"] if kept else []
        values = [str(entry["candidate"].get(name, "–")) for name in dimensions]
        found.append([*figures, *values, *signs, entry["latency_ms"]["flag"] or "settled"])
    return found


def spec_of(body: Mapping[str, Any]) -> StudySpec:
    """The spec of the study that a document came from."""
    return from_values(body["spec"])
