"""The columns of the list of studies, the line of a study in it, and the paragraph about the one under the cursor."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from kdnas.study.rows import Status, StudyRow, WorkerRow
from kdnas.study.time_budget import end_words
from kdnas.system.text import clean
from kdnas_tui import words
from kdnas_tui.keys import worded
from kdnas_tui.screens.campaign_lines import Item
from kdnas_tui.theme import MARKS
from kdnas_tui.widgets.list_table import Column, Line

COLUMNS = (
    Column("name", flex=True, most=16),
    Column("status"),
    Column("teacher", leaves=4),
    Column("data", leaves=5),
    Column("recipe", leaves=6),
    Column("strategy", leaves=3),
    Column("trials", "right"),
    Column("best", "right", leaves=1),
    Column("updated", "right", leaves=2),
)
TAGS = Column("tags", leaves=3, most=24)
# Column → what it is sorted by, and whether it falls first.
ORDERS: dict[str, tuple[Callable[[StudyRow], Any], bool]] = {
    "name": (lambda row: row.name.casefold(), False),
    "status": (lambda row: list(Status).index(row.status), False),
    "teacher": (lambda row: _of(row, "teacher", "model").casefold(), False),
    "data": (lambda row: _of(row, "data", "source").casefold(), False),
    "recipe": (lambda row: _of(row, "recipe", "name"), False),
    "strategy": (lambda row: _of(row, "strategy", "name"), False),
    "trials": (lambda row: row.done, True),
    "best": (lambda row: float("-inf") if row.best_reward is None else row.best_reward, True),
    "updated": (lambda row: row.updated, True),
}
TITLES = [column.title for column in COLUMNS]


def study_line(item: Item, marked: bool, now: float) -> Line:
    """Of a study that stands alone, or below its campaign."""
    row = item.study
    assert row is not None
    sign, look = MARKS[row.status]
    name = f"◆ {item.name}" if marked else item.name
    return Line(
        item.key,
        (
            name if item.campaign is None else f"  {name}",
            f"{sign} {row.status}",
            _of(row, "teacher", "model"),
            _of(row, "data", "source"),
            _of(row, "recipe", "name"),
            _of(row, "strategy", "name"),
            row.counted,
            words.figure(row.best_reward),
            words.ago(now, row.updated),
            " ".join(row.tags),
        ),
        ("strong", look, "", "", "quiet", "quiet", "", "", "quiet", ""),
    )


def about_study(row: StudyRow, crew: Sequence[WorkerRow], now: float) -> str:
    """Its status, who runs it, and what was said of it. `crew`: its workers."""
    parts = [f"{row.name}: {row.status}"]
    alive = [w for w in crew if w.alive]
    if alive:
        parts += [f"pid {w.pid} on {w.host}, heard {words.ago(now, w.heartbeat)} ago" for w in alive[:3]]
    elif row.status is Status.DEAD:
        parts.append(
            worded(
                f"its worker was last heard {words.ago(now, row.heartbeat)} ago; "
                "open it and press <study.resume> to go on"
            )
        )
    if row.end is not None and row.status is Status.RUNNING:
        parts.append(f"runs {end_words(row.end, row.trials, now)}")
    elif row.eta is not None and row.status is Status.RUNNING:
        parts.append(f"ready in {words.span(*row.eta)}")
    if row.ending:
        parts.append(row.ending)
    space = f"{row.space_size:,} candidates" if row.space_size else "space not known yet"
    parts.append(f"{space}, α {words.signed(row.alpha)}, β {row.beta:g}, begun {words.ago(now, row.created)} ago")
    parts += [f"tags: {' '.join(row.tags)}"] if row.tags else []
    parts += [f"note: {row.note}"] if row.note else []
    return clean(" · ".join(parts))


def _of(row: StudyRow, part: str, field: str) -> str:
    """A setting of a study as it is shown."""
    return words.short(row.spec.get(part, {}).get(field))
