"""The marked studies in one picture: their fronts and their histories over each other, and their settings side by side.

An axis on which they may not be compared is not drawn; why not is said in its place.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from rich.text import Text
from textual.app import ComposeResult
from textual.containers import Horizontal
from textual.widgets import Static

from kdnas.system.text import clean
from kdnas_tui import words
from kdnas_tui.desk import Desk
from kdnas_tui.feed import News
from kdnas_tui.screens.frame import bindings
from kdnas_tui.screens.parts import PartsScreen
from kdnas_tui.widgets.compare_table import CompareTable, Fact, Section
from kdnas_tui.widgets.key_bar import KeyBar
from kdnas_tui.widgets.overlay_plot import COLOURS, SIGNS, Drawn, OverlayPlot
from kdnas_tui.widgets.tab_bar import TabBar

if TYPE_CHECKING:
    from kdnas.reports.study_comparison import Comparison


class CompareStudiesScreen(PartsScreen):
    NAME = "studies-compare"
    TABS = (("settings", "Settings"), ("front", "Fronts"), ("past", "Histories"))
    WIDE, TALL = 96, 30
    BINDINGS = bindings("studies-compare")
    PANES = {
        "settings": "One column for each study. What was found of it stands above, then the settings in which they "
        "differ; what is the same is folded below. ▲ stands before the best figure of a line that may be ranked.",
        "front": "The front of each study: loss against latency. Losses are compared only of one teacher, one kind of "
        "loss and the same data, latencies only of one device and one protocol; where latencies are not, parameters "
        "stand in their place.",
        "past": "The best reward so far, trial by trial, all at the α and β of the first study. Where only losses may "
        "be compared, the best loss so far.",
    }

    def __init__(self, desk: Desk, study_ids: tuple[int, ...]) -> None:
        super().__init__(desk, "settings")
        self._ids = study_ids
        self.compared: Comparison | None = None
        self._reading = False

    def compose(self) -> ComposeResult:
        yield Static(id="head", classes="head")
        yield Static(id="signs")
        yield TabBar(self.TABS, self.tab, id="tabs")
        with Horizontal(id="plots"):
            yield OverlayPlot(id="front")
            yield OverlayPlot(steps=True, id="past")
        yield CompareTable(id="settings")
        yield Static(id="refused")
        yield KeyBar("studies-compare")

    def on_mount(self) -> None:
        self.show_parts()
        self.query_one("#settings").focus()
        self._read()

    def show_around(self, shown: Mapping[str, bool]) -> None:
        self.query_one("#plots").display = shown["front"] or shown["past"]
        self.query_one("#plots").set_class(self.whole, "beside")

    # ------------------------------------------------------------------ what is compared

    def hear(self, news: News) -> None:
        """Read again what has changed."""
        if self.compared is None or news.studies is None:
            return
        known = {row.study_id: row.revision for row in self.compared.rows}
        if any(known.get(row.study_id, row.revision) != row.revision for row in news.studies):
            self._read()

    def _read(self) -> None:
        if self._reading:
            return
        self._reading = True
        found: list[Comparison] = []

        def read() -> None:
            from kdnas.reports import study_comparison
            from kdnas.store.database import open_reader

            try:
                with open_reader(self.desk.storage) as store:
                    found.append(study_comparison.compare(store, self._ids))
                    for board in found[0].boards:
                        _ = board.standing  # ranked here, not on the event loop
            finally:
                self._reading = False

        def then() -> None:
            self.compared = found[0]
            if self.is_attached:
                self._draw()

        self.desk.command(read, then=then)

    # ------------------------------------------------------------------ drawing

    def _draw(self) -> None:
        compared = self.compared
        if compared is None:
            return
        from kdnas.reports.study_comparison import refusals

        self.query_one("#head", Static).update(Text.assemble(("compare studies", "bold"), no_wrap=True))
        colours = self.app.theme_variables
        signs = Text()
        for sign, look, name in zip(SIGNS, COLOURS, compared.names, strict=False):
            signs.append(f"{sign} ", style=colours.get(look, "")).append(f"{clean(name)}   ")
        if not compared.verdict.reward:
            signs.append(f"ranked at α {words.signed(compared.alpha)}, β {compared.beta:g}", style="dim")
        self.query_one("#signs", Static).update(signs)
        self._draw_plots(compared)
        titles = [f"{sign} {name}" for sign, name in zip(SIGNS, compared.names, strict=False)]
        self.query_one(CompareTable).fill(titles, sections(compared))
        self.query_one("#refused", Static).update(Text(clean(" ".join(refusals(compared)))))

    def _draw_plots(self, compared: Comparison) -> None:
        verdict = compared.verdict
        by_size = bool(verdict.latency)
        lines = []
        for front in compared.fronts():
            x = front.parameters / 1e6 if by_size else front.latency_ms
            order = x.argsort(kind="stable")
            lines.append(Drawn(x[order], front.loss[order]))
        x_name = "parameters, millions" if by_size else "latency ms"
        why = f"No fronts: {verdict.loss}" if verdict.loss else ""
        self.query_one("#front", OverlayPlot).show(lines, x_name, "loss", why)
        past = [Drawn(finished, best) for finished, best in compared.histories()]
        why = f"No histories: {verdict.loss}" if verdict.loss else ""
        of = "best loss so far" if verdict.reward else "best reward so far"
        self.query_one("#past", OverlayPlot).show(past, "finished trials", of, why)

    # ------------------------------------------------------------------ keys

    def action_whole(self) -> None:
        self.query_one(CompareTable).whole()

    def action_across(self, by: int) -> None:
        self.query_one(CompareTable).across(by)

    def action_log(self) -> None:
        self.query_one("#front", OverlayPlot).toggle_log()

    def action_copy(self) -> None:
        if self.compared is None:
            return
        from kdnas.reports.study_comparison import values

        text = json.dumps(values(self.compared), indent=2, ensure_ascii=False) + "\n"
        self.desk.copy(text, "-".join(self.compared.names) + ".json")


def sections(compared: Comparison) -> list[Section]:
    """What was found, the settings that differ, and folded those that are the same."""
    from kdnas.reports.study_comparison import best_places, figures

    def shown(value: Any) -> str:
        return "–" if value is None else str(value)

    facts = [Fact(name, cells, best_places(cells, better)) for name, cells, better in figures(compared)]
    differ = tuple(Fact(field, tuple(map(shown, those))) for field, those in compared.differing)
    count = len(compared.rows)
    same = tuple(Fact(field, (shown(value),) * count) for field, value in compared.shared)
    return [
        Section("", tuple(facts)),
        Section("settings that differ", differ),
        Section("the same in all", same, folded=True),
    ]
