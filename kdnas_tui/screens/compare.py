"""The marked candidates side by side: what they differ in first, what they share and their labels folded away."""

from __future__ import annotations

import json
from collections.abc import Sequence

from rich.text import Text
from textual.app import ComposeResult
from textual.widgets import Static

from kdnas.study import layer_words
from kdnas.study.export import candidate
from kdnas.study.ranking import Scored
from kdnas.study.rows import RUNG
from kdnas_tui import words
from kdnas_tui.desk import Desk
from kdnas_tui.feed import News
from kdnas_tui.screens.frame import Frame, bindings
from kdnas_tui.watched import Watched
from kdnas_tui.widgets.compare_table import CompareTable, Fact, Section
from kdnas_tui.widgets.key_bar import KeyBar

MOST = 12  # candidates; more are no comparison
LABELS = frozenset({"id2label", "label2id", "labels", "label_names"})  # long, and seldom what one compares


class CompareScreen(Frame):
    NAME = "compare"
    BINDINGS = bindings("compare")
    PANES = {
        "compare": "One column for each candidate, the best first. What they differ in stands above; what they share "
        "and their labels are folded below. ▲ stands before the best figure of a line. Enter shows a value that was "
        "cut whole, and folds or unfolds a section; ← and → go to candidates that do not fit."
    }

    def __init__(self, watched: Watched, desk: Desk, numbers: Sequence[int]) -> None:
        super().__init__(desk)
        self._watched, self._numbers = watched, numbers

    def compose(self) -> ComposeResult:
        yield Static(id="head", classes="head")
        yield CompareTable(id="compare")
        yield KeyBar("compare")

    def on_mount(self) -> None:
        self._draw()
        self.query_one(CompareTable).focus()

    def hear(self, news: News) -> None:
        if self.is_mounted:
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
        self.query_one(CompareTable).fill([f"#{s.number}" for s in chosen], compared(chosen))

    def action_whole(self) -> None:
        self.query_one(CompareTable).whole()

    def action_across(self, by: int) -> None:
        self.query_one(CompareTable).across(by)

    def action_copy(self) -> None:
        chosen = [candidate(scored) for scored in self._chosen()]
        name = "-".join(str(number) for number in self._numbers)
        text = json.dumps(chosen, indent=2, ensure_ascii=False) + "\n"
        self.desk.copy(text, f"{self._watched.name}-{name}.json")


def compared(chosen: Sequence[Scored]) -> list[Section]:
    """What they differ in, then folded what all share, and their labels."""
    rows = [scored.row for scored in chosen]
    facts = _figures(chosen)
    sizes = [{**r.config, **layer_words.shown(r.candidate)} for r in rows]
    for key in dict.fromkeys(key for r in rows for key in (*layer_words.shown(r.candidate), *r.config)):
        if key not in LABELS:
            facts.append(Fact(key, tuple(str(one.get(key, "–")) for one in sizes)))
    facts.append(Fact("tags", tuple(" ".join(r.tags) or "–" for r in rows)))
    facts.append(Fact("note", tuple(r.note or "–" for r in rows)))
    facts.append(Fact("state", tuple(r.state for r in rows)))
    labels = [
        Fact(key, tuple(str(r.config.get(key, "–")) for r in rows))
        for key in dict.fromkeys(key for r in rows for key in r.config if key in LABELS)
    ]
    differ = tuple(fact for fact in facts if len(set(fact.cells)) > 1)
    same = tuple(Fact(fact.name, fact.cells) for fact in facts if len(set(fact.cells)) == 1)
    return [
        Section("" if differ else "nothing differs", differ),
        Section("the same in all", same, folded=bool(differ)),
        Section("labels", tuple(labels), folded=True),
    ]


def _figures(chosen: Sequence[Scored]) -> list[Fact]:
    """What was measured, the best of each line marked where there is a better and a worse."""
    rows = [scored.told for scored in chosen]
    found: list[Fact] = []

    def figure(name: str, values: Sequence[float | None], shown: Sequence[str], better: int) -> None:
        known = [v for v in values if v is not None]
        top = (max if better > 0 else min)(known) if better and known else None
        differs = top is not None and len(set(shown)) > 1
        best = frozenset(place for place, value in enumerate(values) if differs and value == top)
        found.append(Fact(name, tuple(shown), best))

    figure("rank", [s.rank for s in chosen], [str(s.rank or "–") for s in chosen], -1)
    if any(r.rung is not None for r in rows):
        figure("rung", [r.rung for r in rows], ["–" if r.rung is None else str(r.rung) for r in rows], 0)
    alike = int(not any(s.behind for s in chosen))  # what was trained for longer is no better for that
    figure("reward", [s.reward for s in chosen], [words.figure(s.reward, 4) for s in chosen], alike)
    figure("loss", [s.loss_used for s in chosen], [words.figure(s.loss_used, 4) for s in chosen], -alike)
    figure("loss, raw", [r.raw_loss for r in rows], [words.figure(r.raw_loss, 5) for r in rows], 0)
    figure("latency ms", [r.latency_ms for r in rows], [words.milliseconds(r.latency_ms) for r in rows], -1)
    p90 = [r.latency_p90_ms for r in rows]
    figure("90th percentile", p90, [words.milliseconds(value) for value in p90], -1)
    flags = [r.latency_flag or "–" for r in rows]
    if any(r.latency_flag for r in rows):
        name = "latency flag" if any(r.latency_predicted for r in rows) else "latency doubtful"
        figure(name, [None] * len(rows), flags, 0)
    figure("times faster", [s.speedup for s in chosen], [words.figure(s.speedup, 2) for s in chosen], 1)
    figure("parameters", [r.parameters for r in rows], [words.count(r.parameters) for r in rows], -1)
    figure("peak memory", [r.memory_mib for r in rows], [words.mib(r.memory_mib) for r in rows], -1)
    for key in dict.fromkeys(key for r in rows for key in r.extra if key != RUNG):
        values = [r.extra.get(key) for r in rows]
        figure(key, values, [words.figure(v, 4) for v in values], 0)
    return found
