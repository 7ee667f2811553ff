"""The plots of a study's screen: which are mounted, drawn one after the other, and what keys do to those in sight."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from functools import partial

from textual.widget import Widget

from kdnas.study.trial_columns import Board
from kdnas_tui.keys import worded
from kdnas_tui.screens.filtering import Filtering
from kdnas_tui.screens.frame import BREATH_S
from kdnas_tui.screens.panes import Panes
from kdnas_tui.widgets.controller import Controller
from kdnas_tui.widgets.curves import Curves, wanted_curves
from kdnas_tui.widgets.importance import Importance
from kdnas_tui.widgets.parallel import Parallel
from kdnas_tui.widgets.pareto_plot import ParetoPlot
from kdnas_tui.widgets.picture import Picture
from kdnas_tui.widgets.plot import Plot
from kdnas_tui.widgets.reward_history import RewardHistory
from kdnas_tui.widgets.slices import Slices
from kdnas_tui.widgets.timeline import Timeline
from kdnas_tui.widgets.trials_table import TrialsTable

AT_CURSOR = (ParetoPlot, RewardHistory, Slices, Parallel, Timeline)  # what shows the trial under the cursor


class Plotting(Filtering):
    """`panes` says which of them are on the screen."""

    panes: Panes
    _drawing = False  # the plots, one after the other …
    _lagging = False  # … and something is new since that began

    # ------------------------------------------------------------------ mounting

    def mount_shown(self) -> None:
        """Plots that not everybody looks at come to the screen when their tab is first shown."""
        kinds: dict[str, Callable[..., Widget]] = {
            "slice": Slices,
            "parallel": Parallel,
            "timeline": partial(Timeline, self.desk.clock),
            "curves": Curves,
            "controller": Controller,
        }
        name = self.panes.shown
        if name in kinds and not self.query(f"#{name}"):
            self.query_one("#right").mount(kinds[name](id=name))

    # ------------------------------------------------------------------ drawing

    def draw_plots(self) -> None:
        """Draw those in sight, now or after those that are being drawn."""
        self.draw_curves()
        self._lagging = True
        if not self._drawing:
            self._drawing = True
            self.run_worker(self._draw_plots(), group="plots")

    async def _draw_plots(self) -> None:
        """One after the other, so that keys are heard between two of a hundred thousand trials."""
        draws: list[Callable[[Board], None]] = [partial(self._draw_at_cursor, kind) for kind in AT_CURSOR]
        draws += [self._draw_controller, self._ask_importance]
        try:
            while self._lagging:
                self._lagging = False
                for draw in draws:
                    await asyncio.sleep(BREATH_S)
                    if self.watched.trials is not None and self.panes.layout != "card" and self.is_mounted:
                        draw(self.watched.trials)
        finally:
            self._drawing = False

    def _draw_at_cursor(self, kind: type[Widget], trials: Board) -> None:
        for plot in self.query(kind):  # none where the screen has just closed, or nobody has looked at it
            assert isinstance(plot, AT_CURSOR)
            if isinstance(plot, Timeline):
                plot.show_crew(self.watched.crew, self.watched.readings)
            plot.show(trials, self.watched.mask)
            if self.watched.cursor is not None:
                plot.point_at(self.watched.cursor)

    def _draw_controller(self, trials: Board) -> None:
        for controller in self.query(Controller):
            controller.show(trials, self.watched.episodes)

    def _ask_importance(self, _: Board) -> None:
        study = self.watched.study
        for importance in self.query(Importance):
            if study is not None:
                rate = (study.alpha, study.beta)
                importance.ask(self.watched.name, self.desk.storage, study.done, rate)

    def draw_curves(self) -> None:
        trials = self.watched.trials
        if trials is not None:
            looks = wanted_curves(trials, self.watched.cursor)
            for curves in self.query(Curves):
                curves.show(self.watched.curves, looks, trials.loss)
            self.desk.feed.want_curves(frozenset(looks))

    def point_plots_at(self, number: int) -> None:
        """The cursor is on another trial."""
        for kind in AT_CURSOR:
            for plot in self.query(kind):
                assert isinstance(plot, AT_CURSOR)
                plot.point_at(number)
        self.draw_curves()

    # ------------------------------------------------------------------ keys

    def _in_sight(self) -> Iterator[Widget]:
        """The focused plot, or all that are on the screen where something else has the focus."""
        if isinstance(self.focused, Plot | Picture):
            yield self.focused
        elif self.panes.layout != "card":
            for plot in self.query("#right > *").results(Widget):
                if isinstance(plot, Plot | Picture) and plot.is_on_screen:
                    yield plot

    def action_closer(self, by: int) -> None:
        """Double the axes around the cursor's trial, or halve them."""
        self._zoom(by, "xy")

    def action_wider(self) -> None:
        self._zoom(1, "x")

    def action_taller(self) -> None:
        self._zoom(1, "y")

    def action_whole_plot(self) -> None:
        self._zoom(0, "xy")

    def _zoom(self, by: int, axis: str) -> None:
        plots = [plot for plot in self._in_sight() if isinstance(plot, Plot | Timeline)]
        if not plots:
            self.notify(
                worded("No plot with axes is shown: <study.previous_tab> and <study.next_tab> turn to one."),
                timeout=3,
                markup=False,
            )
        elif not [plot for plot in plots if plot.closer(by, axis)]:  # all of them, not only the first
            self.notify("The plot is shown whole." if by <= 0 else "It goes no closer.", timeout=3, markup=False)

    def action_measure(self) -> None:
        """Another quantity in the plots that have several."""
        plots = [plot for plot in self._in_sight() if isinstance(plot, RewardHistory | Slices)]
        for plot in plots:
            plot.another_measure()
        if not plots:
            self.notify(
                worded("History and Slice show several quantities: <study.next_tab> turns to them."),
                timeout=3,
                markup=False,
            )

    def action_step(self, by: int) -> None:
        """The next trial in the table's order, from a pane that has no lines of its own."""
        self.watched.step(by)

    def action_sideways(self, by: int) -> None:
        """The pages of the focused pane, or along the front, or the pages of the table."""
        if isinstance(self.focused, Picture):
            self.focused.turn_page(by)
        elif isinstance(self.focused, ParetoPlot):
            self.focused.go_along(by)
        else:
            self.query_one(TrialsTable).turn_page(by)
