"""Two to four candidates side by side, what they differ in first."""

from __future__ import annotations

import json
from collections.abc import Sequence

from rich.text import Text
from textual.app import ComposeResult
from textual.widgets import Static

from kdnas.study.export import candidate
from kdnas.study.ranking import Scored
from kdnas_tui import words
from kdnas_tui.desk import Desk
from kdnas_tui.feed import News
from kdnas_tui.screens.frame import Frame, bindings
from kdnas_tui.watched import Watched
from kdnas_tui.widgets.key_bar import KeyBar
from kdnas_tui.widgets.list_table import Column, Line, ListTable


class CompareScreen(Frame):
    NAME = "compare"
    BINDINGS = bindings("compare")
    PANES = {
        "compare": "One column for each candidate, the best first. What they differ in stands above, what they share "
        "below; the best figure of a line is marked with a star."
    }

    def __init__(self, watched: Watched, desk: Desk, numbers: Sequence[int]) -> None:
        super().__init__(desk)
        self._watched, self._numbers = watched, numbers

    def compose(self) -> ComposeResult:
        yield Static(id="head", classes="head")
        yield ListTable((Column(""),), cursor=False, id="compare")
        yield KeyBar("compare")

    def on_mount(self) -> None:
        self._draw()
        self.query_one(ListTable).focus()

    def hear(self, news: News) -> None:
        self._draw()

    def _chosen(self) -> list[Scored]:
        board = self._watched.trials
        found = [board.scored(number) for number in self._numbers] if board is not None else []
        return [scored for scored in found if scored is not None]

    def _draw(self) -> None:
        chosen = self._chosen()
        if not chosen:
            return
        head = Text(no_wrap=True, overflow="ellipsis")
        head.append(f"{self._watched.name}  ", style="dim")
        head.append("compare " + ", ".join(str(s.number) for s in chosen), style="bold")
        self.query_one("#head", Static).update(head)
        titles = [Column(""), *(Column(f"#{s.number}", "right") for s in chosen), Column("", flex=True)]
        self.query_one(ListTable).fill(compared(chosen), titles)

    def action_copy(self) -> None:
        chosen = [candidate(scored) for scored in self._chosen()]
        name = "-".join(str(number) for number in self._numbers)
        text = json.dumps(chosen, indent=2, ensure_ascii=False) + "\n"
        self.desk.copy(text, f"{self._watched.name}-{name}.json")


def compared(chosen: list[Scored]) -> list[Line]:
    """The lines of the comparison: differing ones, a rule, equal ones."""
    figures: list[tuple[str, list[float | None], list[str], int]] = []  # name, values, shown, +1: more is better

    def figure(name: str, values: list[float | None], shown: list[str], better: int) -> None:
        figures.append((name, values, shown, better))

    rows = [scored.row for scored in chosen]
    figure("rank", [s.rank for s in chosen], [str(s.rank or "–") for s in chosen], -1)
    figure("reward", [s.reward for s in chosen], [words.figure(s.reward, 4) for s in chosen], 1)
    figure("loss", [s.loss_used for s in chosen], [words.figure(s.loss_used, 4) for s in chosen], -1)
    figure("loss, raw", [r.raw_loss for r in rows], [words.figure(r.raw_loss, 5) for r in rows], 0)
    figure("latency ms", [r.latency_ms for r in rows], [words.milliseconds(r.latency_ms) for r in rows], -1)
    p90 = [r.latency_p90_ms for r in rows]
    figure("90th percentile ms", p90, [words.milliseconds(value) for value in p90], -1)
    figure("times faster", [s.speedup for s in chosen], [words.figure(s.speedup, 2) for s in chosen], 1)
    figure("parameters", [r.parameters for r in rows], [words.count(r.parameters) for r in rows], -1)
    figure("peak memory", [r.memory_mib for r in rows], [words.mib(r.memory_mib) for r in rows], -1)
    for key in dict.fromkeys(key for r in rows for key in r.extra):
        values = [r.extra.get(key) for r in rows]
        figure(key, values, [words.figure(v, 4) for v in values], 0)
    settings = dict.fromkeys(key for r in rows for key in (*r.candidate, *r.config))
    for key in settings:
        shown = [str(r.candidate.get(key, r.config.get(key, "–"))) for r in rows]
        figures.append((key, [None] * len(rows), shown, 0))
    figures.append(("tags", [None] * len(rows), [" ".join(r.tags) or "–" for r in rows], 0))
    figures.append(("state", [None] * len(rows), [r.state for r in rows], 0))

    differ: list[Line] = []
    same: list[Line] = []
    for name, values, shown, better in figures:
        known = [v for v in values if v is not None]
        best = (max if better > 0 else min)(known) if better and known else None
        differs = len(set(shown)) > 1
        starred = [differs and best is not None and value == best for value in values]
        stars = [f"{text} *" if star else f"{text}  " for text, star in zip(shown, starred, strict=True)]
        looks = ("quiet", *("strong" if s.endswith("*") else "" for s in stars), "")
        line = Line(name, (name, *stars, ""), looks if differs else ("quiet",) * (len(chosen) + 2))
        (differ if differs else same).append(line)
    rule = Line("—", ("the same in all", *[""] * len(chosen), ""), ("strong", *[""] * (len(chosen) + 1)))
    blank = Line(" ", ("",) * (len(chosen) + 2))
    return [*differ, blank, rule, *same] if same else differ
