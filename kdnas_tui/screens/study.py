"""One study, live: the table of its trials beside plots that show the same trials.

This composes the parts and passes on what is new: what is known stands in `Watched`, what is changed in `Steering`,
and `Panes` decides which part stands where. It runs nothing.
"""

from __future__ import annotations

from rich.text import Text
from textual.app import ComposeResult
from textual.containers import Horizontal, Vertical

from kdnas.system.errors import UsageError
from kdnas_tui import settings
from kdnas_tui.desk import Desk
from kdnas_tui.feed import MANY, News
from kdnas_tui.keys import worded
from kdnas_tui.later import later
from kdnas_tui.screens.columns import ChooseColumns
from kdnas_tui.screens.frame import BREATH_S, bindings
from kdnas_tui.screens.opening import Opening
from kdnas_tui.screens.panes import ASIDE, EXPLAINED, LOW, OF_A_PANE, TABS, Panes
from kdnas_tui.screens.plotting import Plotting
from kdnas_tui.screens.steering import WRITING, idle_keys, mark
from kdnas_tui.watched import Watched
from kdnas_tui.widgets import study_head
from kdnas_tui.widgets.filter_field import FilterField
from kdnas_tui.widgets.importance import Importance
from kdnas_tui.widgets.key_bar import KeyBar
from kdnas_tui.widgets.log_tail import LogTail
from kdnas_tui.widgets.pareto_plot import ParetoPlot
from kdnas_tui.widgets.reward_history import RewardHistory
from kdnas_tui.widgets.says import Says
from kdnas_tui.widgets.tab_bar import TabBar
from kdnas_tui.widgets.trials_table import TrialsTable

AGES_S = 5.0  # how often the times that pass are written anew: each costs some bytes on a slow line


class StudyScreen(Plotting, Opening):
    NAME = "study"
    BINDINGS = bindings("study")
    PANES = EXPLAINED

    def __init__(self, name: str, desk: Desk) -> None:
        super().__init__(Watched(name), desk)
        self.panes = Panes(settings.read().table_share)
        self._at_top = True
        self.watched.follow(self._cursor_moved)
        self.watched.redraw = self.draw

    # ------------------------------------------------------------------ composition and size

    def compose(self) -> ComposeResult:
        self._fit()  # first, so that everything is styled but once
        yield Says(id="head", classes="head")
        yield TabBar(TABS, "trials", id="tabs")
        with Horizontal(id="body"):
            with Vertical(id="left"):
                yield TrialsTable(empty="Reading the store …", id="trials")
                yield Says(id="legend")
                yield Says(id="below")
            with Vertical(id="right"):
                yield ParetoPlot(id="pareto")
                yield TabBar(ASIDE, "history", id="aside")
                yield RewardHistory(id="history")
                yield Importance(id="importance")
                yield LogTail(id="log")
        yield FilterField(id="filter")
        yield Says(id="filter-hint", classes="hint")
        yield Says(id="card")
        yield KeyBar("study")

    def on_mount(self) -> None:
        self._show_field(False)
        self._arrange()
        kept = settings.read()
        self.query_one(TrialsTable).choose(frozenset(kept.columns_hidden), frozenset(kept.columns_added))
        self.query_one("#trials").focus()
        self._draw_head()
        self.set_interval(AGES_S, self._draw_head)
        self.app.theme_changed_signal.subscribe(self, self._draw_coloured)

    def on_screen_resume(self) -> None:
        if self.watched.study is None:
            self.desk.feed.watch(self.watched.name)

    def on_resize(self) -> None:
        self.panes.keep_in_sight(self.focused.id if self.focused is not None else None)
        later(self, BREATH_S, self._resized)  # Textual has just painted everything

    def _resized(self) -> None:
        self._arrange()
        self.call_after_refresh(self._settled)

    def _settled(self) -> None:
        """All parts know their places: draw, once, and go back to the pane that a card had hidden."""
        self.draw()
        if self.is_mounted and self.focused is None and self.panes.layout != "card":
            self.query_one(f"#{self.panes.tab}").focus()

    def _fit(self) -> None:
        self.panes.fit(*self.app.size)
        self.set_class(self.panes.layout == "wide", "wide")

    def _arrange(self) -> None:
        """Show and hide the parts as the terminal's size and the chosen tab ask."""
        self._fit()
        panes = self.panes
        card, wide = panes.layout == "card", panes.layout == "wide"
        self.query_one("#card").display = card
        self.query_one("#body").display = not card
        self.query_one("#tabs").display = panes.layout == "tabs"
        self.query_one("#aside").display = wide
        self.query_one("#left").display = wide or panes.tab == "trials"
        self.query_one("#right").display = wide or panes.tab != "trials"
        self.query_one("#legend").display = self.app.size.height >= LOW
        self._share()
        self.mount_shown()
        for name, _ in TABS[1:]:
            for pane in self.query(f"#{name}"):
                pane.display = panes.visible(name)
        self.query_one("#tabs", TabBar).show(panes.tabs, panes.tab)
        self.query_one("#aside", TabBar).show(panes.tabs_aside, panes.aside)

    def _share(self) -> None:
        """Give the table the room that its columns want, or the share that somebody chose."""
        left, right = self.query_one("#left"), self.query_one("#right")
        wide = self.panes.layout == "wide"
        cells = self.panes.table_cells(self.app.size.width, self.query_one(TrialsTable).wanted_width + 1)
        left.styles.width = cells if wide else "1fr"
        right.styles.width = "1fr"

    def action_share(self, by: int) -> None:
        """Move the border between table and plots, and remember where it is."""
        if self.panes.layout != "wide":
            self.notify("One pane has the whole screen: there is no border to move.", timeout=3, markup=False)
            return
        self.panes.move_border(by, self.app.size.width, self.query_one("#left").size.width)
        settings.keep(table_share=self.panes.share)
        self._resized()

    def action_zoom(self) -> None:
        """One pane on the whole screen, or all of them again."""
        focused = self.focused.id if self.focused is not None else None
        if self.panes.layout == "tabs" and not self.panes.zoomed:
            self.notify("This pane has the whole screen already.", timeout=3, markup=False)
            return
        if not self.panes.zoomed:
            self.panes.keep_in_sight(focused)
        self.panes.zoomed = not self.panes.zoomed
        self._resized()

    def action_columns(self) -> None:
        """Choose what the table shows; the choice is remembered."""
        table = self.query_one(TrialsTable)

        def chosen(_: object) -> None:
            settings.keep(columns_hidden=tuple(table.pages.hidden), columns_added=tuple(table.pages.added))

        self.app.push_screen(ChooseColumns(table, self._columns_chosen), chosen)

    def _columns_chosen(self) -> None:
        self._share()
        self._draw_below()

    def action_sideways(self, by: int) -> None:
        super().action_sideways(by)
        self._draw_below()

    def _bring(self, name: str) -> None:
        """Show the pane that a key acts on."""
        if not self.panes.visible(name):
            self._show_tab(name)

    def action_log_axis(self) -> None:
        self._bring("pareto")
        self.query_one(ParetoPlot).turn_axis()

    def action_hours(self) -> None:
        self._bring("history")
        self.query_one(RewardHistory).turn_axis()

    def action_level(self) -> None:
        self._bring("log")
        self.query_one(LogTail).next_level()

    def action_match(self, step: int) -> None:
        self._bring("log")
        log = self.query_one(LogTail)
        if log.matches():
            log.go_to_match(step)
        else:
            self.notify(worded("Nothing is searched for: press <study.filter> in the log."), timeout=3, markup=False)

    def _show_tab(self, name: str) -> None:
        self.panes.show(name)
        self._arrange()
        if self.panes.layout != "card":
            for pane in self.query(f"#{name}"):
                pane.focus()
        self._draw_panes()

    def on_log_tail_moved(self) -> None:
        self._draw_keys()

    def on_tab_bar_chosen(self, event: TabBar.Chosen) -> None:
        self._show_tab(event.tab)

    def action_next_pane(self) -> None:
        self._step_pane(1)

    def action_previous_pane(self) -> None:
        self._step_pane(-1)

    def _step_pane(self, by: int) -> None:
        self._show_tab(self.panes.next_pane(self.focused.id if self.focused is not None else None, by))

    def action_next_tab(self) -> None:
        self._show_tab(self.panes.next_tab(1))

    def action_previous_tab(self) -> None:
        self._show_tab(self.panes.next_tab(-1))

    # ------------------------------------------------------------------ news

    def hear(self, news: News) -> None:
        if news.gone:
            self.desk.fault(UsageError(f"{self.watched.name} was deleted.", "Choose another study."))
            self.dismiss()
            return
        first = self.watched.study is None
        changed = self.watched.take(news)
        if news.devices is not None:
            self.watched.keep_reading(self.desk.clock())
        study, trials = self.watched.study, self.watched.trials
        if first and study is not None:
            self.panes.with_controller = study.spec["strategy"].get("name") == "lstm"
            self._arrange()
        log = self.query_one(LogTail)
        if news.board is not None:
            log.clear()
        if news.logs:
            log.add(news.logs)
        if not changed:
            self._draw_head()
        elif trials is not None and trials.rank() and len(trials) >= MANY:
            later(self, BREATH_S, self.draw)  # ranking so many is enough at once
        else:
            self.draw()

    # ------------------------------------------------------------------ drawing

    def draw(self) -> None:
        if not self.is_mounted:
            return
        self._draw_head()
        self._draw_panes()
        self._draw_below()
        self._draw_card()

    def _draw_panes(self) -> None:
        watched = self.watched
        if watched.trials is None:
            return
        table = self.query_one(TrialsTable)
        self._follow(table)
        filtered = not watched.filter.empty and bool(len(watched.trials))
        table.empty = study_head.nothing(watched.study, watched.doing(), filtered)
        before = table.wanted_width
        table.show(watched.trials, watched.mask)
        if table.wanted_width != before:
            self._share()
        if self._at_top and table.count:
            table.action_edge(0)  # who has not left the best trial stays on it when another becomes the best
        self.draw_plots()

    def _draw_head(self) -> None:
        watched = self.watched
        text = study_head.head(
            watched.name,
            watched.study,
            fault=watched.fault,
            devices=watched.devices,
            now=self.desk.clock(),
            readonly=bool(self.desk.readonly),
            eta=watched.eta(self.desk.clock()),
            lent=watched.lent,
            width=self.app.size.width,
            colours=self.app.theme_variables,
        )
        self.query_one("#head", Says).show(text)
        self._draw_keys()

    def _draw_coloured(self, _: object) -> None:  # with colours of the theme, rather than by styles that it changes
        self._draw_head()
        self._draw_below()

    def _draw_keys(self) -> None:
        """The footer names what can be done here and now, with the keys of the pane that has the focus."""
        watched = self.watched
        idle = idle_keys(watched.study, len(watched.marked()) if watched.trials is not None else 0)
        idle |= WRITING if self.desk.readonly else frozenset()
        at = self.focused
        for pane, actions in OF_A_PANE.items():
            if at is None or at.id != pane:
                idle |= actions
        if not self.query_one(LogTail).searched:
            idle |= {"match(1)", "match(-1)"}
        self.query_one(KeyBar).leave_out(idle)

    def on_descendant_focus(self) -> None:
        self._draw_keys()

    def _draw_below(self) -> None:
        watched = self.watched
        text = Text()
        if watched.trials is not None and watched.study is not None:
            text = study_head.below(
                watched.study,
                watched.trials,
                watched.filter,
                watched.mask,
                watched.crew,
                watched.doing(),
                watched.current(),
                None if watched.remarks is None else watched.remarks.advice,
                self.query_one("#below", Says).content_size.width,
            )
            table = self.query_one(TrialsTable)
            legend = study_head.legend(
                watched.trials, table.pages.elsewhere, self.app.size.width, self.app.theme_variables
            )
            self.query_one("#legend", Says).show(legend)
        self.query_one("#below", Says).show(text)

    def _draw_card(self) -> None:
        row, trials = self.watched.study, self.watched.trials
        if self.panes.layout != "card":
            return
        text = Text()
        if row is not None:
            best = None if trials is None or row.best_number is None else trials.scored(row.best_number)
            text = study_head.card(row, best, self.watched.doing(), self.watched.last_log, self.app.size.width)
        self.query_one("#card", Says).show(text)

    # ------------------------------------------------------------------ the cursor, one in all panes

    def on_trials_table_cursor_moved(self, event: TrialsTable.CursorMoved) -> None:
        if not isinstance(event, TrialsTable.Chosen | TrialsTable.MarkClicked):
            self._follow(event.table)

    def _follow(self, table: TrialsTable) -> None:
        """Go where the table's cursor is by now: its messages may be older, and would chase each other."""
        if table.cursor is not None:
            self.watched.point_at(table.cursor)

    def on_pareto_plot_cursor_moved(self, event: ParetoPlot.CursorMoved) -> None:
        self.watched.point_at(event.number)

    def on_trials_table_chosen(self, event: TrialsTable.Chosen) -> None:
        self.watched.point_at(event.number)
        self.action_candidate()

    def on_trials_table_mark_clicked(self, event: TrialsTable.MarkClicked) -> None:
        mark(self.watched, self.desk, event.number)

    def on_trials_table_refitted(self) -> None:
        self._draw_below()

    def on_trials_table_sort_changed(self, event: TrialsTable.SortChanged) -> None:
        self.watched.sort_key, self.watched.descending = event.key, event.descending

    def _cursor_moved(self, number: int) -> None:
        """The cursor is on another trial, moved here or on a screen above."""
        table = self.query_one(TrialsTable)
        table.go_to(number)
        self._at_top = table.first == number
        self._draw_below()
        self.point_plots_at(number)

    def action_jump(self) -> None:
        """Go to a trial by its number, or to a pane by its letter."""
        from kdnas_tui.screens.jump import Jump

        def go(answer: str | None) -> None:
            if answer is not None and answer.isdigit():
                self.watched.point_at(int(answer))
            elif answer is not None and self.panes.layout != "card":
                self._show_tab(answer)

        self.app.push_screen(Jump(TABS, [name for name, _ in self.panes.tabs], self.watched.check_shown), go)

    def action_sort(self, step: int) -> None:
        self.query_one(TrialsTable).action_sort(step)

    def focus_pane(self, name: str) -> None:
        shown = self.panes.visible(name) if name else False
        if self.panes.layout != "card":
            self.query_one(f"#{name if shown else 'trials' if self.panes.layout == 'wide' else self.panes.tab}").focus()

    def action_back(self) -> None:
        if self.panes.zoomed and self.filter_is_empty():
            self.action_zoom()
        else:
            super().action_back()
