"""Studies and trials as plain tables and as JSON values, the same in every command."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from kdnas.cli.frame import ago, line, table
from kdnas.store import queries
from kdnas.store.database import Store
from kdnas.study import layer_words, reference_time, timed_words
from kdnas.study.constraints import of_study
from kdnas.study.filter import ALIASES
from kdnas.study.ranked_rows import rank_of
from kdnas.study.ranking import Scored
from kdnas.study.reward import exchange
from kdnas.study.rows import Status, StudyRow, TrialRow
from kdnas.study.states import WAITS, TrialState
from kdnas.study.time_budget import end_words
from kdnas.system import time_left

LOWER = "< stayed on a lower rung, and has no rank."
MEASURED = ("rank", "#", "reward", "loss", "lat ms", "±", "× T", "params")
SHORT = {key: short for short, keys in ALIASES.items() for key in keys}  # as the filter calls them


def ranked(store: Store, study: StudyRow, alpha: float | None = None, beta: float | None = None) -> list[Scored]:
    """All trials of a study, ranked by its present α and β or by other ones."""
    return rank_of(study, queries.trial_rows(store, study.study_id), alpha, beta)


def study_table(rows: Sequence[StudyRow]) -> None:
    """Studies, one a line; tags and notes where any study has some."""
    tagged, noted = any(row.tags for row in rows), any(row.note for row in rows)
    columns = ["study", "status", "trials", "best", "ETA", "teacher", "data", "recipe", "strategy", "updated"]
    columns += ["tags"] * tagged + ["note"] * noted
    table(columns, [study_cells(row) + [" ".join(row.tags)] * tagged + [row.note] * noted for row in rows])


def study_cells(row: StudyRow) -> list[object]:
    """What a line of the table of studies shows, but for tags and note."""
    return [
        row.name,
        row.status,
        row.counted,
        _number(row.best_reward, 3),
        None if row.eta is None else time_left.words(row.eta),
        row.spec["teacher"]["model"],
        row.spec["data"]["source"],
        row.spec["recipe"]["name"],
        row.spec["strategy"]["name"],
        ago(row.updated),
    ]


def study_head(row: StudyRow) -> None:
    """A study in a few lines."""
    counts = [row.counted_words]
    counts += [f"{n} {word}" for word in ("pruned", "failed", "reused", "running") if (n := getattr(row, word))]
    counts += [f"{row.waiting} {WAITS}"] if row.waiting else []
    best = "" if row.best_reward is None else f"   best {row.best_reward:.4f} (#{row.best_number})"
    eta = "" if row.eta is None else f"   ETA {time_left.words(row.eta)}"
    spec = row.spec
    teacher_ms = "" if row.teacher_latency_ms is None else f" ({row.teacher_latency_ms:.3g} ms)"
    lines = [
        f"{row.name}   {row.status}   {', '.join(counts)}{best}{eta}",
        f"teacher {spec['teacher']['model']}{teacher_ms}, data {spec['data']['source']}, "
        f"recipe {spec['recipe']['name']}, strategy {spec['strategy']['name']}, seed {spec['seed']}",
        f"α {row.alpha:g}, β {row.beta:g}: {exchange(row.alpha)}",
    ]
    if (asked := timed_words.dtype(spec.get("latency", {}))) != timed_words.AUTO:
        lines.append(f"teacher and students are timed in {asked}")
    if limits := of_study(row):
        lines.append(f"constraints: {limits}")
    if row.end is not None and row.status != Status.FINISHED:
        lines.append(f"runs {end_words(row.end, row.trials, time.time())}")
    if row.workers:
        lines.append(f"{row.workers} worker(s) on {', '.join(row.hosts)}, last heard {ago(row.heartbeat)}")
    if row.ending:
        lines.append(row.ending)
    lines += [f"tags {' '.join(row.tags)}"] if row.tags else []
    lines += [f"note {row.note}"] if row.note else []
    for text in lines:
        line(text)


def trial_table(scored: Sequence[Scored]) -> None:
    """Trials with what was measured of them; latencies are told for the study's one time of the teacher."""
    dimensions = list(dict.fromkeys(name for s in scored for name in layer_words.shown(s.row.candidate)))
    table(
        [*MEASURED, *(SHORT.get(name, name) for name in dimensions), "state"],
        [_trial(s, dimensions) for s in scored],
    )


def legend(scored: Sequence[Scored]) -> str:
    """What the table's signs and figures mean, of those that stand in it."""
    signs = [("*", "on the front of loss and latency", any(s.front for s in scored))]
    signs.append(("~", "ties with a better one within its noise", any(s.tie for s in scored)))
    signs.append(("^", "misses a constraint", any(s.infeasible for s in scored)))
    signs.append(("!", "a doubtful latency", any(s.row.latency_flag for s in scored)))
    parts = [f"{sign} {means}" for sign, means, there in signs if there]
    parts.append("± half the 95 % interval of lat ms")
    reference_ms = next((s.reference_ms for s in scored if s.reference_ms is not None), None)
    if reference_ms is not None:
        parts.append(f"× T is measured, lat ms is told from it for a teacher of {reference_ms:.3g} ms")
    return "; ".join(parts) + "."


def _trial(s: Scored, dimensions: Sequence[str]) -> list[object]:
    row = s.told
    sizes = layer_words.shown(row.candidate)
    state = row.state
    if state == TrialState.RUNNING:
        state = f"{row.phase or 'running'} {row.epoch}/{row.epochs}" if row.epochs else row.phase or "running"
    elif state == TrialState.WAITING:
        state = row.phase or WAITS
    elif row.reused_from is not None:
        state = f"reused #{row.reused_from}"
    elif row.error:
        state = f"{state}: {' '.join(row.error.split())[:60]}"
    elif row.rung is not None:
        state = f"{state}, rung {row.rung}" + (f", latency {row.latency_flag}" if row.latency_flag else "")
    elif row.latency_flag:
        state = f"{state}, latency {row.latency_flag}"
    spread = None
    if row.latency_low_ms is not None and row.latency_high_ms is not None:
        spread = f"{(row.latency_high_ms - row.latency_low_ms) / 2:.2g}"
    return [
        "<" if s.behind else None if s.rank is None else f"{s.rank}{'~' if s.tie else '^' if s.infeasible else ''}",
        f"{row.number}{'*' if s.front else ''}",
        _number(s.reward, 4),
        _number(s.loss_used, 4),
        None if row.latency_ms is None else f"{row.latency_ms:.3g}{'!' if row.latency_flag else ''}",
        spread,
        None if row.speedup is None else f"{row.speedup:.2f}×",
        None if row.parameters is None else f"{row.parameters / 1e6:.2f}M",
        *(sizes.get(name) for name in dimensions),
        state,
    ]


def figures(row: TrialRow, reference_ms: float | None) -> str:
    """What was measured of a trial, in words."""
    words = []
    row = reference_time.at(row, reference_ms)
    if row.reward is not None:
        words.append(f"reward {row.reward:.4f}")
    if row.loss is not None:
        words.append(f"loss {row.loss:.4f}")
    if row.latency_ms is not None:
        words.append(f"{row.latency_ms:.3g} ms{' predicted' if row.latency_predicted else ''}")
    if row.speedup is not None:
        words.append(f"{row.speedup:.2f}×")
    return "  ".join(words)


def _number(value: float | None, digits: int) -> str | None:
    return None if value is None else f"{value:.{digits}f}"


def study_values(row: StudyRow) -> dict[str, Any]:
    """A study as plain values for JSON."""
    return {**asdict(row), "status": str(row.status)}


def trial_values(s: Scored) -> dict[str, Any]:
    """A trial as plain values for JSON: what is stored, and how it stands among the others."""
    return {
        **asdict(s.row),
        "reward": s.reward,
        "rank": s.rank,
        "tie": s.tie,
        "pareto": s.front,
        "feasible": None if s.miss is None else not s.infeasible,
        "rung": s.row.rung,
        "speedup": s.row.speedup,
        "latency_told_ms": s.told.latency_ms,  # what tables show and filters mean; `latency_ms` is as it was timed
    }
