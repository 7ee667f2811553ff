"""A study as one page: pictures of the search, the best candidates, what was traded for what, and where it comes from.

`report.html` needs nothing beside it and no network; `report.md` has its pictures as PNG files in a folder beside it,
for a pull request. Reads the store, writes nothing into it.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import sqlalchemy as sa

from kdnas import __version__
from kdnas.reports import pictures
from kdnas.store import queries, tables
from kdnas.store.database import Store
from kdnas.study import layer_words, timed_words
from kdnas.study.constraints import of_study
from kdnas.study.ranked_rows import nearest_of, rank_of
from kdnas.study.ranking import Scored
from kdnas.study.reward import exchange
from kdnas.study.rows import EpisodeRow, EventRow, RunRow, StudyRow
from kdnas.study.space import SearchSpace
from kdnas.study.spec import StudySpec, from_store
from kdnas.study.spec_differences import flatten
from kdnas.system.errors import UsageError
from kdnas.system.files import write_atomically
from kdnas.system.moments import written
from kdnas.system.templates import render

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SUFFIXES = (".html", ".htm", ".md", ".markdown")
BEST = 25


@dataclass(frozen=True)
class Picture:
    """One drawing with what it shows."""

    name: str
    title: str
    words: str
    figure: Figure


@dataclass(frozen=True)
class Content:
    """Everything that a report says, however it is written."""

    study: StudyRow
    spec: StudySpec
    scored: Sequence[Scored]
    pictures: Sequence[Picture]
    episodes: Sequence[EpisodeRow]
    events: Sequence[EventRow]
    runs: Sequence[RunRow]
    provenance: Mapping[str, Any]


def gather(store: Store, name: str) -> Content:
    """What the store says of a study. Raises UsageError where there is none, or no finished trial."""
    pictures.require()
    study = queries.study_row(store, name)
    spec = from_store(study.spec)
    scored = rank_of(study, queries.trial_rows(store, study.study_id))
    if not any(s.rank is not None for s in scored):
        raise UsageError(f"Study {name} has no finished trial to report.", f"Let it finish one: kdnas search {name}")
    with store.connect() as connection:
        text = connection.execute(
            sa.select(tables.study.c.space).where(tables.study.c.study_id == study.study_id)
        ).scalar_one_or_none()
    episodes = queries.episodes(store, study.study_id)
    return Content(
        study,
        spec,
        scored,
        _pictures(study, spec, scored, episodes, SearchSpace.from_json(text) if text else None),
        episodes,
        queries.events(store, study.study_id),
        queries.runs(store, study.study_id),
        queries.provenance(store, study.study_id),
    )


def _pictures(
    study: StudyRow,
    spec: StudySpec,
    scored: Sequence[Scored],
    episodes: Sequence[EpisodeRow],
    space: SearchSpace | None,
) -> list[Picture]:
    from kdnas.reports.parameter_importance import importance

    found = [
        Picture(
            "pareto",
            "Loss and latency",
            f"Each dot is a finished trial{_of_rung(scored)}{_by_blocks(scored)}; no other one is better in both than "
            "those on the front.",
            pictures.pareto(scored),
        ),
        Picture(
            "history",
            "The search",
            f"Rewards{_of_rung(scored)} at α = {study.alpha:g} and β = {study.beta:g}, and the best so far.",
            pictures.history(scored),
        ),
    ]
    foreseen = pictures.controller(scored, episodes)
    if foreseen is not None:
        words = "On the dotted line the controller predicted the reward exactly."
        found.append(Picture("controller", "The controller's predictions", words, foreseen))
    if space is not None:
        try:
            matters = importance([s.row for s in scored], space, study.alpha, study.beta, spec.reward.loss)
        except UsageError:
            pass  # too few trials, or all alike
        else:
            words = f"By Optuna's {matters.evaluator} on {matters.trials} trials."
            found.append(Picture("importance", "What matters", words, pictures.importance(matters.shares)))
    return found


def _by_blocks(scored: Sequence[Scored]) -> str:
    return ", its latency predicted by a table of blocks" if any(s.row.latency_predicted for s in scored) else ""


def _of_rung(scored: Sequence[Scored]) -> str:
    """Which trials are ranked, where a study has rungs."""
    first = next((s.row.rung for s in scored if s.rank is not None), None)
    return "" if first is None else f" on rung {first}"


def write(content: Content, output: Path) -> list[Path]:
    """Write the report in the format of the file's suffix; the files written. Raises UsageError."""
    suffix = output.suffix.lower()
    if suffix not in SUFFIXES:
        raise UsageError(f"The name {output.name} does not say which format to write.", "End it in .html or .md.")
    if not output.parent.is_dir():
        raise UsageError(f"The folder {output.parent} does not exist.", "Make it first, or name another.")
    if suffix.startswith(".htm"):
        write_atomically(output, as_html(content))
        return [output]
    files = output.with_name(f"{output.stem}-pictures")
    if files.exists() and not files.is_dir():
        raise UsageError(f"{files} is a file; the pictures go into a folder of that name.", "Move it away.")
    files.mkdir(exist_ok=True)
    written = []
    for picture in content.pictures:
        path = files / f"{picture.name}.png"
        write_atomically(path, pictures.png(picture.figure))
        written.append(path)
    write_atomically(output, as_markdown(content, files.name))
    return [output, *written]


# ------------------------------------------------------------------------------------------------- what it says


def _facts(content: Content) -> list[tuple[str, str]]:
    study, spec = content.study, content.spec
    counts = [study.counted_words]
    counts += [f"{getattr(study, word)} {word}" for word in ("pruned", "failed", "reused") if getattr(study, word)]
    teacher_ms = "" if study.teacher_latency_ms is None else f" ({study.teacher_latency_ms:.3g} ms)"
    size = "" if study.space_size is None else f" of a space of {study.space_size:,} candidates"
    return [
        ("Status", f"{study.status}, {', '.join(counts)}{size}"),
        ("Teacher", f"{spec.teacher.model}{teacher_ms}"),
        ("Data", spec.data.source),
        ("Recipe", spec.recipe.name),
        ("Strategy", spec.strategy.name),
        ("Seed", str(spec.seed)),
        ("Reward", f"(1 − loss) · (latency / (β · teacher's latency))^α, α = {study.alpha:g}, β = {study.beta:g}"),
        ("Exchange", str(exchange(study.alpha))),
        *_constraints(content),
    ]


def _constraints(content: Content) -> list[tuple[str, str]]:
    """The bounds of a study that has some, and how many trials keep them."""
    limits = of_study(content.study)
    if not limits:
        return []
    ranked = [s for s in content.scored if s.rank is not None]
    kept = f"{sum(not s.infeasible for s in ranked)} of {len(ranked)} ranked trials keep to them"
    nearest = nearest_of(content.scored, limits)
    return [("Constraints", "; ".join(filter(None, (str(limits), kept, nearest))))]


def _protocol(content: Content) -> list[tuple[str, str]]:
    spec = content.spec
    latency, budget = spec.latency, spec.budget
    normalised = spec.reward.loss == "normalised"
    kind = "normalised (0 matches the teacher, 1 is a constant prediction)" if normalised else "raw"
    return [
        (
            "Evaluation",
            f"{_training(spec, content.provenance)}, scored on at most {spec.data.max_held_out} held-out chunks; "
            f"pruner {budget.pruner}",
        ),
        *_rungs(content.scored),
        ("Loss", kind),
        (
            "Latency",
            f"{_predicted(content.scored)}median of {timed_words.in_words(latency.model_dump())}, "
            f"{latency.threads} thread(s); student and teacher in turn; until the 95 % interval of the median is "
            f"within ±{latency.precision:.0%}, at most {latency.max_seconds:g} s",
        ),
        (
            "Ties",
            "~ marks a reward that noise cannot tell from a better one; * a trial on the Pareto front"
            + ("; ^ one that misses a constraint" if of_study(content.study) else ""),
        ),
    ]


def _training(spec: StudySpec, provenance: Mapping[str, Any]) -> str:
    """What candidates had before they were scored."""
    budget = spec.budget
    if "short_text" in provenance:
        found = provenance["short_text"]
        return f"no training, since {found['proxy_tokens']:,} tokens are too few to learn from: candidates as fitted"
    if not budget.epochs:
        return f"no training: candidates as they are built (recipe {spec.recipe.name})"
    epochs = f"{budget.epochs} epoch{'s' if budget.epochs > 1 else ''}"
    trained = f"{epochs} on {budget.proxy_fraction:.0%} of the training data"
    if not budget.rungs:
        return trained
    shares = ", then ".join(f"{share:.0%}" for share in budget.rungs)
    return f"as built, then up to {trained} in {len(budget.rungs)} part(s), for the best {shares} of those before"


def _predicted(scored: Sequence[Scored]) -> str:
    """What stands before the protocol where candidates were not measured by it."""
    if not any(s.row.latency_predicted for s in scored):
        return ""
    return "of candidates predicted, as the sum of blocks measured in models of two depths, each by the "


def _rungs(scored: Sequence[Scored]) -> list[tuple[str, str]]:
    """How many trials reached each rung, and which of them are ranked."""
    done = [s.row for s in scored if s.rank is not None or s.behind]
    reached = {row.rung: row.scored_after for row in done if row.rung is not None}
    if not reached:
        return []
    counts = [f"{sum(row.rung == rung for row in done)} on rung {rung} ({reached[rung]})" for rung in sorted(reached)]
    which = f"ranks, front and best are of rung {max(reached)} alone"
    return [("Rungs", f"{', '.join(counts)}; {which}")]


def _columns(content: Content) -> tuple[list[str], list[list[Any]]]:
    """The table of the best: names, and rows of plain values."""
    best = [s for s in content.scored if s.rank is not None][:BEST]
    dimensions = list(dict.fromkeys(name for s in best for name in layer_words.shown(s.row.candidate)))
    names = ["rank", "trial", "reward", "loss", "raw loss", "latency ms", "p90 ms", "× teacher", "parameters"]
    if any(s.row.latency_predicted for s in best):
        names[names.index("latency ms")] = "predicted ms"
    rows: list[list[Any]] = []
    for s in best:
        row = s.told
        figures = [row.raw_loss, row.latency_ms, row.latency_p90_ms, row.speedup, row.parameters]
        sizes = layer_words.shown(row.candidate)
        values = [sizes.get(name) for name in dimensions]
        rows.append([s.rank, row.number, s.reward, s.loss_used, *figures, *values])
    return [*names, *dimensions], rows


def _shown(name: str, value: Any, scored: Scored) -> str:
    if value is None:
        return "–"
    if name == "rank":
        return f"{value}{' ~' if scored.tie else ' ^' if scored.infeasible else ''}"
    if name == "trial":
        return f"{value}{'*' if scored.front else ''}"
    if name == "parameters":
        return f"{value:,}"
    if name in ("reward", "loss"):
        return f"{value:.4f}"
    if isinstance(value, float):
        return f"{value:.3g}"
    return str(value)


def _runs(content: Content) -> list[list[str]]:
    """What became of candidates: finalized folders and their scores."""
    rows = []
    for run in content.runs:
        said = []
        metrics, latency = run.result.get("metrics"), run.result.get("latency")
        if metrics:
            said.append(f"held-out loss {metrics['loss']:.4f} after {metrics['epochs']} epochs")
        if latency:
            timed = f"{latency['student_ms']:.3g} ms{timed_words.in_dtype(latency)}"
            said.append(f"{timed}, {latency['speedup']:.2f} × the teacher's speed")
        for name, entry in (run.result.get("tasks") or {}).items():
            kept = "" if entry["kept"] is None else f" ({entry['kept']:.1f} % of the teacher's)"
            said.append(f"{name} {100 * entry['student']['score']:.1f}{kept}")
        if run.error:
            said.append(run.error)
        number = "–" if run.number is None else str(run.number)
        rows.append([run.kind, number, Path(run.folder).name, run.state, "; ".join(said)])
    return rows


RUN_COLUMNS = ["what", "trial", "folder", "state", "result"]


def _history(content: Content) -> list[str]:
    return [f"{_moment(event.time)}: {event.kind} {json.dumps(dict(event.detail))}" for event in content.events]


def _moment(seconds: float) -> str:
    return written(seconds, "%Y-%m-%d %H:%M UTC", utc=True)


# ---------------------------------------------------------------------------------------------------- as a document

TEMPLATES = Path(__file__).with_name("templates")


def as_markdown(content: Content, folder: str) -> str:
    """The report as Markdown; pictures are taken from `folder`, beside the file."""
    return render(TEMPLATES, "report.md", folder=quote(folder), **_values(content))


def as_html(content: Content) -> str:
    """The report as one page that needs nothing beside it."""
    from markupsafe import Markup

    drawings = {each.name: Markup(pictures.svg(each.figure, each.name, each.title)) for each in content.pictures}
    return render(TEMPLATES, "report.html", drawings=drawings, **_values(content))


def _values(content: Content) -> dict[str, Any]:
    """What both templates say."""
    columns, rows = _columns(content)
    numeric = [all(isinstance(row[i], int | float) or row[i] is None for row in rows) for i in range(len(columns))]
    best = []
    for scored, row in zip(content.scored, rows, strict=False):
        named = zip(columns, row, strict=True)
        best.append([("" if value is None else value, _shown(name, value, scored)) for name, value in named])
    return {
        "study": content.study.name,
        "facts": _facts(content),
        "pictures": content.pictures,
        "columns": list(zip(columns, numeric, strict=True)),
        "best": best,
        "run_columns": RUN_COLUMNS,
        "runs": _runs(content),
        "protocol": _protocol(content),
        "history": _history(content),
        "provenance": json.dumps(dict(content.provenance), indent=1, ensure_ascii=False),
        "settings": [(name, json.dumps(value, ensure_ascii=False)) for name, value in flatten(content.spec).items()],
        "version": __version__,
        "now": _moment(time.time()),
    }
