"""What is said of a study around its panes: the line above, the line below the table, and the card of a small terminal.

Pure functions from rows to text; they ask nothing and draw nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from rich.cells import cell_len
from rich.text import Text

from kdnas.study.advice import Advice
from kdnas.study.filter import Filter
from kdnas.study.ranked_rows import nearest_of
from kdnas.study.ranking import Scored
from kdnas.study.rows import PREDICTED, Status, StudyRow, WorkerRow
from kdnas.study.states import WAITS
from kdnas.study.trial_columns import Board
from kdnas.system.moments import clock_words
from kdnas_tui import words
from kdnas_tui.keys import worded
from kdnas_tui.machine import Reading
from kdnas_tui.theme import LOOKS, MARKS
from kdnas_tui.widgets.column_fit import fitting
from kdnas_tui.widgets.lines import clean, fitted

MOST_DEVICES = 4
ROOMY = 60  # cells from which the legend says more than a word
WITH_UNITS = 72  # cells from which the numbers say what they count


def head(
    name: str,
    row: StudyRow | None,
    *,
    fault: str,
    devices: Sequence[Reading],
    now: float,
    readonly: bool,
    eta: tuple[float, float] | None,
    lent: str = "",
    width: int,
    colours: Mapping[str, str],
) -> Text:
    """State, progress and the best reward on one line; of what does not fit, the least important leaves first."""
    bold = Text(no_wrap=True, overflow="ellipsis")
    if row is None:
        return bold.append(name, style="bold").append(f"  {fault or 'reading …'}", style="dim")
    sign, look = MARKS[row.status]
    parts: list[tuple[int, Text]] = [(9, Text("kdnas", style="dim"))]  # the highest number leaves first, 0 never

    def part(leaves: int, *pieces: tuple[str, str]) -> None:
        parts.append((leaves, Text.assemble(*pieces)))

    part(0, (fitted(name, min(cell_len(name), max(10, width - 56))), "bold"))
    part(0, (f"{sign} {str(row.status).upper()}", colours.get(LOOKS[look], "")))
    if readonly:
        part(3, ("read only", "dim"))
    if fault:
        part(0, (fault, colours.get("error", "")))
        return _joined([text for _, text in parts], bold)
    if row.status is Status.RUNNING:
        part(5, (words.duration(now - row.created), ""))
    if row.workers:
        part(6, (words.plural(row.workers, "worker"), ""))
    if row.heartbeat is not None and (row.workers or row.status is Status.DEAD):
        part(3 if row.status is Status.DEAD else 8, (f"heard {words.duration(now - row.heartbeat)} ago", "dim"))
    part(0, (row.counted, ""), (" trials", "dim") if width >= WITH_UNITS else ("", ""))
    for word, number in (("pruned", row.pruned), ("failed", row.failed), ("reused", row.reused)):
        if number:
            style = colours.get("error", "") if word == "failed" else ""
            part(4 if word == "failed" else 7, (f"{word} ", "dim"), (str(number), style))
    if row.waiting:
        part(4, (f"{WAITS} ", "dim"), (str(row.waiting), ""))
    if row.best_reward is not None:
        part(1, ("best ", "dim"), (f"{row.best_reward:.3f}", f"bold {colours.get('accent', '')}"))
    if row.until is not None and row.workers:
        part(4, ("until ", "dim"), (clock_words(row.until, now), ""))
    if eta is not None:
        part(2, ("ETA ", "dim"), (words.span(*eta), ""))
    if lent:
        part(11, ("lent ", "dim"), (clean(lent), "dim"))
    if row.workers and devices:
        part(10, ("  ".join(str(reading) for reading in devices[:MOST_DEVICES]), "dim"))
    sizes = [text.cell_len for _, text in parts]
    stays = fitting(sizes, [leaves for leaves, _ in parts], width - 2, gap=2)
    return _joined([parts[place][1] for place in stays], bold)


def _joined(parts: Sequence[Text], text: Text) -> Text:
    for place, part in enumerate(parts):
        text.append("  " if place else "").append_text(part)
    return text


def legend(trials: Board, elsewhere: int, width: int, colours: Mapping[str, str]) -> Text:
    """What the signs of the table mean, those that stand in it, and how many columns have no room."""
    text = Text(no_wrap=True, overflow="ellipsis", style="dim")
    predicted = [flag.startswith(PREDICTED) for flag in trials.flags()]
    standing, accent, error = trials.standing, colours.get("accent", ""), colours.get("error", "")
    for sign, look, says, there in (
        ("*", accent, "front", bool(standing.front.any())),
        ("~", "", "tie", bool(standing.tie.any())),
        ("<", "", "lower rung, no rank" if width >= ROOMY else "lower rung", bool(trials.behind().any())),
        ("^", "", "misses a constraint" if width >= ROOMY else "infeasible", bool((standing.miss > 0).any())),
        ("!", error, "doubtful latency" if width >= ROOMY else "doubtful", not all(predicted)),
        ("≈", "", "predicted latency" if width >= ROOMY else "predicted", any(predicted)),
        ("●", accent, "marked", bool(trials.marked().any())),
    ):
        if there:
            text.append(sign, style=look).append(f" {says}  ")
    if elsewhere:
        text.append(f"→ {words.plural(elsewhere, 'more column')}")
    return text


def below(
    row: StudyRow,
    trials: Board,
    chosen: Filter,
    mask: np.ndarray | None,
    crew: Sequence[WorkerRow],
    doing: str | None,
    scored: Scored | None,
    advice: Advice | None,
    width: int,
) -> Text:
    """One line under the table: what stands in it, or why the study does not run; remarks on the cursor's trial; and
    what going on is expected to gain, in few words where a line of `width` has no room for sentences."""
    text = Text(no_wrap=True, overflow="ellipsis", style="dim")
    if (nearest := standing_nearest(trials)) is not None and chosen.empty:
        text.append(f"none feasible, {nearest_of([nearest], trials.limits)}   ")
    if not chosen.empty:
        shown = len(trials) if mask is None else int(mask.sum())
        text.append(f"/ {chosen.text}   {shown:,} of {len(trials):,}")
    elif row.ending:
        text.append(clean(row.ending))
    elif row.status is Status.DEAD:
        text.append(worded("its worker is gone; press <study.resume> to go on"))
    elif row.status is Status.FAILED:
        fault = next((worker.error for worker in reversed(crew) if worker.error), None)
        text.append(clean(fault or "its worker failed").rstrip("."))
        text.append(worded("; press <study.resume> to try again"))
    elif row.status in (Status.PAUSED, Status.STOPPED):
        text.append(worded(f"{row.status}; press <study.resume> to go on"))
    else:
        text.append(clean(doing or ""))
    if scored is not None and (scored.row.tags or scored.row.note):
        said = " · ".join(part for part in (" ".join(scored.row.tags), scored.row.note) if part)
        text.append(f"   #{scored.number}: {clean(said)}")
    if advice is not None and chosen.empty and not row.ending:
        gap = "   " if text.plain else ""
        text.append(gap + (str(advice) if text.cell_len + len(gap) + len(str(advice)) <= width else advice.brief))
    return text


def standing_nearest(trials: Board) -> Scored | None:
    """Where no ranked trial keeps the study's constraints: the one that misses them by least."""
    place = trials.standing.nearest if len(trials) and trials.limits else None
    return None if place is None else trials.at(place)


def card(row: StudyRow, best: Scored | None, doing: str | None, last_log: str, width: int) -> Text:
    """The few lines that a small terminal has room for."""
    text = Text()
    length = max(8, min(30, width - 20))
    full = round(length * (row.share or 0.0))
    text.append(f"{row.counted}  {'▰' * full}{'▱' * (length - full)}\n")
    if best is not None and row.best_reward is not None:
        text.append(f"best  {row.best_reward:.3f}", style="bold")
        loss, latency = words.figure(best.loss_used), words.milliseconds(best.told.latency_ms)
        text.append(f"  #{best.number}  loss {loss}  {latency} ms\n")
    if row.eta is not None and row.status is Status.RUNNING:
        text.append(f"ETA   {words.span(*row.eta)}\n")
    if doing:
        text.append(f"now   {clean(doing)}\n")
    if last_log:
        text.append(f"{clean(last_log)}\n", style="dim")
    return text


def nothing(row: StudyRow | None, doing: str | None, filtered: bool) -> str:
    """What an empty table says."""
    if filtered:
        return worded("No trial passes the filter. Press <study.back> to see all.")
    if doing:
        return f"No trial yet: {doing}."
    if row is not None and row.status in (Status.STOPPED, Status.DEAD, Status.FAILED, Status.NEW):
        return worded("No trial yet. Press <study.resume> to start a worker.")
    return "No trial yet."
