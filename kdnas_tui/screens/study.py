"""One study, live: the table of its trials beside plots that show the same trials, and everything that steers it.

The cursor, the filter and the marks belong to this screen and go to every pane. It reads what the feed brings and
writes rows that workers read; it runs nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from rich.highlighter import Highlighter
from rich.text import Text
from textual.app import ComposeResult
from textual.containers import Horizontal, Vertical
from textual.widgets import Input

from kdnas.study.filter import ALIASES, COLUMNS, Filter, FilterError, parse
from kdnas.study.ranking import Scored
from kdnas.study.rows import CurvePoint, EpisodeRow, EventRow, RunRow, Status, StudyRow, WorkerRow
from kdnas.study.trial_columns import Board
from kdnas.system.errors import BadOptionError, UsageError
from kdnas_tui import words
from kdnas_tui.feed import MANY, News
from kdnas_tui.screens.ask import Answer, Ask, Write
from kdnas_tui.screens.candidate import as_json
from kdnas_tui.screens.frame import BREATH_S, LOOKS, MARKS, Frame, bindings
from kdnas_tui.widgets.controller import Controller
from kdnas_tui.widgets.curves import Curves, wanted_curves
from kdnas_tui.widgets.devices import Reading
from kdnas_tui.widgets.field import Field
from kdnas_tui.widgets.importance import Importance
from kdnas_tui.widgets.key_bar import KeyBar
from kdnas_tui.widgets.log_tail import LogTail
from kdnas_tui.widgets.pareto_plot import ParetoPlot
from kdnas_tui.widgets.reward_history import RewardHistory
from kdnas_tui.widgets.says import Says
from kdnas_tui.widgets.tab_bar import TabBar
from kdnas_tui.widgets.trials_table import TrialsTable

WIDE = 100  # columns from which table and plots stand side by side
CARD = (60, 16)  # below it, only a card
AGES_S = 5.0  # how often the times that pass are told anew: each costs some bytes on a slow line

TABS = (
    ("trials", "Trials"),
    ("pareto", "Pareto"),
    ("history", "History"),
    ("curves", "Curves"),
    ("controller", "Controller"),
    ("importance", "Importance"),
    ("log", "Log"),
)
ASIDE = TABS[2:]  # beside the table the Pareto plot stands above the tabs


class Underlined(Highlighter):
    """Underlines what is wrong in a filter while it is typed."""

    def __init__(self) -> None:
        self.fault: FilterError | None = None

    def highlight(self, text: Text) -> None:
        if self.fault is not None and self.fault.text == text.plain:
            text.stylize("underline bold", self.fault.start, self.fault.end)


class StudyScreen(Frame):
    NAME = "study"
    BINDINGS = bindings("study")
    PANES = {
        "trials": "The trials, best reward first; < and > sort by another column, = turns the order round, a click on "
        "a title sorts by it. * stands for the Pareto front (nothing is both better and faster), ~ for a reward that "
        "cannot be told from a better one's, ± for half of the latency's 95 % interval, ×T for how many times faster "
        "than the teacher it is.",
        "pareto": "Loss against latency, every finished trial a point; the line is the front. The cursor is the one "
        "of the table: arrows walk along the front, a click takes the nearest trial, Enter opens it; l makes the "
        "latency's axis logarithmic.",
        "history": "The best reward so far, trial by trial, and each trial's own; h shows them over hours.",
        "curves": "Loss after each epoch, of the running trials, the marked ones and the one under the cursor.",
        "controller": "For a search by the LSTM controller: the reward it foresaw against the one that came, and ε.",
        "importance": "Which dimensions of the space the reward depends on, as Optuna estimates it.",
        "log": "What the workers wrote down. End follows the newest line, l leaves out lower levels, / searches, and < "
        "and > go from match to match.",
        "filter": "Only trials that pass are shown, in table and plots: state:done latency<8 layers>=4 act:gelu, "
        "joined by and, or, not. is:front, is:tie and is:marked, tag:word, and bare words work too. Esc clears it.",
    }

    def __init__(self, name: str) -> None:
        super().__init__()
        self.study_name = name
        self.study: StudyRow | None = None
        self.board: Board | None = None
        self.crew: list[WorkerRow] = []
        self.curves: dict[int, list[CurvePoint]] = {}
        self.provenance: dict[str, Any] = {}
        self.last_news: News | None = None
        self.cursor: int | None = None
        self.filter: Filter = parse("")
        self.mask: np.ndarray | None = None
        self.tab = "trials"
        self.aside = "history"
        self.layout_now = "wide"
        self.events: list[EventRow] = []  # what was changed on the study, oldest first
        self.episodes: list[EpisodeRow] = []
        self.runs: list[RunRow] = []  # models made of candidates, and their scores
        self._underlined = Underlined()
        self._fault = ""
        self._at_top = True
        self._drawing = False  # the plots, one after the other …
        self._lagging = False  # … and something is new since that began
        self._searching = False  # the field below searches the log instead of filtering
        self.last_log = ""
        self.devices: tuple[Reading, ...] = ()

    # ------------------------------------------------------------------ composition and size

    def compose(self) -> ComposeResult:
        self._measure(self.app.size.width, self.app.size.height)  # first, so that everything is styled but once
        yield Says(id="head", classes="head")
        yield TabBar(TABS, "trials", id="tabs")
        with Horizontal(id="body"):
            with Vertical(id="left"):
                yield TrialsTable(empty="Reading the store …", id="trials")
                yield Says(id="below")
            with Vertical(id="right"):
                yield from self._plots()
        yield Field(placeholder="state:done latency<8 layers>=4", id="filter", highlighter=self._underlined)
        yield Says(id="filter-hint", classes="hint")
        yield Says(id="card")
        yield KeyBar("study")

    def _plots(self) -> ComposeResult:
        yield ParetoPlot(id="pareto")
        yield TabBar(ASIDE, "history", id="aside")
        yield RewardHistory(id="history")
        yield Importance(id="importance")
        yield LogTail(id="log")

    def on_mount(self) -> None:
        self._show_field(False)
        self._arrange(self.app.size.width, self.app.size.height)
        self.query_one("#trials").focus()
        self._draw_head()
        self.set_interval(AGES_S, self._draw_head)

    def on_screen_resume(self) -> None:
        if self.study is None:
            self.kdnas.feed.watch(self.study_name)

    def on_resize(self) -> None:
        if self.layout_now == "wide" and self.focused is not None and self.focused.id in dict(TABS):
            self.tab = str(self.focused.id)  # what was looked at stays in sight
        self.set_timer(BREATH_S, self._resized)  # Textual has just painted all of it

    def _resized(self) -> None:
        self._arrange(self.app.size.width, self.app.size.height)
        self.call_after_refresh(self._draw)  # once all parts know their places, so that nothing is drawn twice

    def _arrange(self, width: int, height: int) -> None:
        """Which parts stand where, for a size of the terminal."""
        self._measure(width, height)
        card, wide = self.layout_now == "card", self.layout_now == "wide"
        if wide and self.tab not in ("trials", "pareto"):
            self.aside = self.tab
        self.query_one("#card").display = card
        self.query_one("#body").display = not card
        self.query_one("#tabs").display = self.layout_now == "tabs"
        self.query_one("#aside").display = wide
        self.query_one("#left").display = wide or self.tab == "trials"
        self.query_one("#right").display = wide or self.tab != "trials"
        self._mount_shown()
        for name, _ in TABS[1:]:
            for pane in self.query(f"#{name}"):
                pane.display = (name in ("pareto", self.aside)) if wide else name == self.tab
        status = self.query_one(LogTail).status
        self.query_one("#tabs", TabBar).show(self._tabs(), self.tab, status if self.tab == "log" else "")
        self.query_one("#aside", TabBar).show(self._tabs()[2:], self.aside, status if self.aside == "log" else "")

    def _measure(self, width: int, height: int) -> None:
        card = width < CARD[0] or height < CARD[1]
        self.layout_now = "card" if card else "wide" if width >= WIDE else "tabs"
        self.set_class(self.layout_now == "wide", "wide")

    def _mount_shown(self) -> None:
        """Plots that not everybody looks at come to the screen when their tab is first shown."""
        shown = self.aside if self.layout_now == "wide" else self.tab
        for name, kind in (("curves", Curves), ("controller", Controller)):
            if name == shown and not self.query(kind):
                self.query_one("#right").mount(kind(id=name))

    def _tabs(self) -> list[tuple[str, str]]:
        """What this study has to show: a controller only where one searches."""
        strategy = {} if self.study is None else self.study.spec["strategy"]
        return [tab for tab in TABS if tab[0] != "controller" or strategy.get("name") == "lstm"]

    def _show_tab(self, name: str) -> None:
        self.tab = name
        if name not in ("trials", "pareto"):
            self.aside = name
        self._arrange(self.app.size.width, self.app.size.height)
        if self.layout_now != "card":
            pane = self.query(f"#{name}")
            if pane:
                pane.first().focus()
        self._draw_panes()

    def on_log_tail_moved(self) -> None:
        self._arrange(self.app.size.width, self.app.size.height)

    def on_tab_bar_chosen(self, event: TabBar.Chosen) -> None:
        self._show_tab(event.tab)

    # ------------------------------------------------------------------ news

    def tell(self, news: News) -> None:
        if news.gone:
            self.kdnas.fault(UsageError(f"{self.study_name} was deleted.", "Choose another study."))
            self.dismiss()
            return
        if news.error is not None:
            self._fault = f"{news.error.problem} {news.error.hint}"
        if news.healed or news.study is not None:
            self._fault = ""
        if news.study is not None and (self.study is None or news.study.study_id == self.study.study_id):
            first = self.study is None
            self.study, self.study_name = news.study, news.study.name
            if first:
                self._arrange(self.app.size.width, self.app.size.height)
        if news.board is not None:
            self.board = news.board
        if self.board is not None:
            self.board.update(list(news.trials.values()))
            if self.study is not None:
                self.board.rescore(self.study.alpha, self.study.beta)
        if news.workers is not None:
            self.crew = news.workers
        if news.provenance is not None:
            self.provenance = news.provenance
        if news.episodes is not None:
            self.episodes = news.episodes
        if news.events is not None:
            self.events = news.events
        if news.runs is not None:
            self.runs = news.runs
        self.curves.update(news.curves)
        log = self.query_one(LogTail)
        if news.board is not None:
            log.clear()
        if news.logs:
            log.add(news.logs)
            self.last_log = news.logs[-1].line
        if news.devices is not None:
            self.devices = news.devices
        if news.board is not None or news.trials or news.study is not None or news.curves:
            self._filter_again()
            if self.board is not None and self.board.rank() and len(self.board) >= MANY:
                self.set_timer(BREATH_S, self._draw)  # ranking so many is enough at once
            else:
                self._draw()
        else:
            self._draw_head()

    def _filter_again(self) -> None:
        if self.board is None or not len(self.board):
            self.mask = None
        else:
            self.mask = None if self.filter.empty else self.board.mask(self.filter)

    # ------------------------------------------------------------------ drawing

    def _draw(self) -> None:
        if not self.is_mounted:
            return
        self._draw_head()
        self._draw_panes()
        self._draw_below()
        self._draw_card()

    def _draw_panes(self) -> None:
        if self.board is None:
            return
        table = self.query_one(TrialsTable)
        self._follow(table)
        table.empty = self._nothing()
        table.show(self.board, self.mask)
        if self._at_top and table.count:
            table.action_edge(0)  # who has not left the best trial stays on it when another becomes the best
        self._draw_curves()
        self._lagging = True
        if not self._drawing:
            self._drawing = True
            self.run_worker(self._draw_plots(), group="plots")

    async def _draw_plots(self) -> None:
        """One after the other, so that keys are heard between two of a hundred thousand trials."""
        try:
            while self._lagging:
                self._lagging = False
                for draw in (self._draw_pareto, self._draw_history, self._draw_controller, self._ask_importance):
                    await asyncio.sleep(BREATH_S)
                    if self.board is not None and self.layout_now != "card" and self.is_mounted:
                        draw(self.board)
        finally:
            self._drawing = False

    def _draw_pareto(self, board: Board) -> None:
        pareto = self.query_one(ParetoPlot)
        pareto.show(board, self.mask)
        pareto.point_at(self.cursor)

    def _draw_history(self, board: Board) -> None:
        self.query_one(RewardHistory).show(board)

    def _draw_controller(self, board: Board) -> None:
        for controller in self.query(Controller):
            controller.show(board, self.episodes)

    def _ask_importance(self, _: Board) -> None:
        if self.study is not None:
            rate = (self.study.alpha, self.study.beta)
            self.query_one(Importance).ask(self.study_name, self.kdnas.storage, self.study.done, rate)

    def _draw_curves(self) -> None:
        if self.board is not None:
            looks = wanted_curves(self.board, self.cursor)
            for curves in self.query(Curves):
                curves.show(self.curves, looks, self.board.loss)
            self.kdnas.feed.want_curves(frozenset(looks))

    def _nothing(self) -> str:
        if not self.filter.empty and self.board is not None and len(self.board):
            return "No trial passes the filter. Press esc to see all."
        doing = next((w.doing for w in self.crew if w.alive and w.doing), None)
        if doing:
            return f"No trial yet: {doing}."
        if self.study is not None and self.study.status in (Status.STOPPED, Status.DEAD, Status.FAILED, Status.NEW):
            return "No trial yet. Press r to start a worker."
        return "No trial yet."

    def _draw_head(self) -> None:
        width = self.app.size.width
        text = self._head(width)
        text.no_wrap, text.overflow = True, "ellipsis"
        self.query_one("#head", Says).show(text)

    def _head(self, width: int) -> Text:
        text = Text()
        text.append("kdnas  " if width >= WIDE else "", style="dim")
        text.append(self.study_name, style="bold")
        row = self.study
        if row is None:
            text.append(f"  {self._fault or 'reading …'}", style="dim")
            return text
        variables = self.app.theme_variables
        sign, look = MARKS[row.status]
        text.append(f"  {sign} {str(row.status).upper()}", style=variables.get(LOOKS[look], ""))
        if self._fault:
            text.append(f"  {self._fault}", style=variables.get("error", ""))
            return text
        now = self.kdnas.now()
        wide = width >= WIDE
        gap = "   " if wide else "  "
        if row.status is Status.RUNNING:
            text.append(f" {words.duration(now - row.created)}")
        if wide and row.workers:
            text.append(f"{gap}{words.plural(row.workers, 'worker')}")
        if row.heartbeat is not None and (row.workers or row.status is Status.DEAD):
            text.append(f"{gap}hb {words.duration(now - row.heartbeat)}", style="dim")
        text.append(f"{gap}trials " if wide else gap, style="dim")
        text.append(f"{row.done}/{row.trials}")
        if wide:
            for word, number in (("pruned", row.pruned), ("failed", row.failed), ("reused", row.reused)):
                if number:
                    text.append(f"{gap}{word} ", style="dim")
                    text.append(str(number), style=variables.get("error", "") if word == "failed" else "")
        if row.best_reward is not None:
            text.append(f"{gap}best ", style="dim")
            text.append(f"{row.best_reward:.3f}", style=f"bold {variables.get('accent', '')}")
        if row.eta_s is not None and row.status in (Status.RUNNING, Status.NEW):
            left = words.duration(row.eta_s)
            if text.cell_len + len(f"{gap}ETA {left}") <= width - 2:
                text.append(f"{gap}ETA ", style="dim")
                text.append(left)
        if row.workers and self.devices:
            says = gap + "  ".join(str(reading) for reading in self.devices[:4])
            if text.cell_len + len(says) <= width - 2:
                text.append(says, style="dim")
        return text

    def _draw_below(self) -> None:
        """One line under the table: what stands in it, and why the study does not run."""
        board, row = self.board, self.study
        text = Text(no_wrap=True, overflow="ellipsis", style="dim")
        if board is not None and row is not None:
            shown = len(board) if self.mask is None else int(self.mask.sum())
            if not self.filter.empty:
                text.append(f"/ {self.filter.text}   {shown:,} of {len(board):,}")
            elif row.ending:
                text.append(row.ending)
            elif row.status is Status.DEAD:
                text.append("its worker is gone; press r to go on")
            elif row.status is Status.FAILED:
                fault = next((w.error for w in reversed(self.crew) if w.error), None)
                text.append(f"{fault or 'its worker failed'}; press r to try again")
            elif row.status in (Status.PAUSED, Status.STOPPED):
                text.append(f"{row.status}; press r to go on")
            else:
                text.append(next((w.doing for w in self.crew if w.alive and w.doing), "") or "")
            scored = self.current()
            if scored is not None and (scored.row.tags or scored.row.note):
                said = " · ".join(part for part in (" ".join(scored.row.tags), scored.row.note) if part)
                text.append(f"   #{scored.number}: {said}")
        self.query_one("#below", Says).show(text)

    def _draw_card(self) -> None:
        if self.layout_now != "card":
            return
        row = self.study
        text = Text()
        if row is not None:
            width = max(8, min(30, self.app.size.width - 20))
            full = round(width * row.done / max(1, row.trials))
            text.append(f"{row.done}/{row.trials}  {'▰' * full}{'▱' * (width - full)}\n")
            best = None if self.board is None or row.best_number is None else self.board.scored(row.best_number)
            if best is not None and row.best_reward is not None:
                text.append(f"best  {row.best_reward:.3f}", style="bold")
                text.append(
                    f"  #{best.number}  loss {words.figure(best.loss_used)}  "
                    f"{words.milliseconds(best.row.latency_ms)} ms\n"
                )
            if row.eta_s is not None and row.status is Status.RUNNING:
                text.append(f"ETA   {words.duration(row.eta_s)}\n")
            doing = next((w.doing for w in self.crew if w.alive and w.doing), None)
            if doing:
                text.append(f"now   {doing}\n")
            if self.last_log:
                text.append(f"{self.last_log}\n", style="dim")
        self.query_one("#card", Says).show(text)

    # ------------------------------------------------------------------ cursor and marks

    def on_trials_table_cursor_moved(self, event: TrialsTable.CursorMoved) -> None:
        if not isinstance(event, TrialsTable.Chosen | TrialsTable.MarkClicked):
            self._follow(event.table)

    def _follow(self, table: TrialsTable) -> None:
        """Go where the table's cursor is by now: its messages may be older, and would chase each other."""
        if table.cursor is not None and table.cursor != self.cursor:
            self.cursor_to(table.cursor)

    def on_pareto_plot_cursor_moved(self, event: ParetoPlot.CursorMoved) -> None:
        self.cursor_to(event.number)

    def on_trials_table_chosen(self, event: TrialsTable.Chosen) -> None:
        self.cursor_to(event.number)
        self.action_candidate()

    def on_trials_table_mark_clicked(self, event: TrialsTable.MarkClicked) -> None:
        self._mark(event.number)

    def cursor_to(self, number: int) -> None:
        if number == self.cursor:
            return
        self.cursor = number
        table = self.query_one(TrialsTable)
        table.go_to(number)
        self._at_top = table.first == number
        self._draw_below()
        self.query_one(ParetoPlot).point_at(number)
        self._draw_curves()

    def marked(self) -> list[Scored]:
        """The marked trials, the best first."""
        if self.board is None or not len(self.board):
            return []
        return self.board.ranked(self.board.mask(parse("is:marked")))

    def current(self) -> Scored | None:
        """The trial under the cursor."""
        if self.board is None or self.cursor is None:
            return None
        return self.board.scored(self.cursor)

    def _still_reading(self) -> bool:
        """Whether there is only a sketch of very many trials yet, which the next second completes; says so."""
        reading = self.board is not None and not self.board.whole
        if reading:
            self.notify("Still reading the trials: try again in a moment.", timeout=3, markup=False)
        return reading

    def change(self, what: Callable[[Any, int], Any], done: str = "", then: Callable[[], Any] | None = None) -> None:
        """Write to this study: `what(store, study_id)` in a thread."""
        row = self.study
        if row is not None:
            self.kdnas.change(lambda store: what(store, row.study_id), done, then)

    def _mark(self, number: int) -> None:
        from kdnas.store import changes

        scored = self.board.scored(number) if self.board is not None else None
        if scored is not None:
            marked = not scored.row.marked
            self.change(lambda store, study: changes.set_remark(store, study, number, marked=marked))

    def action_mark(self) -> None:
        if self.cursor is not None:
            self._mark(self.cursor)

    def action_tags(self) -> None:
        if self._still_reading():
            return
        scored = self.current()
        if scored is None:
            return
        from kdnas.store import changes

        number = scored.number

        def answered(value: str | None) -> None:
            if value is not None:
                self.change(lambda store, study: changes.set_remark(store, study, number, tags=value.split()))

        detail = "Words separated by spaces; tag:word finds them."
        self.app.push_screen(Write(f"Tags of trial {number}", " ".join(scored.row.tags), detail=detail), answered)

    def action_note(self) -> None:
        if self._still_reading():
            return
        scored = self.current()
        if scored is None:
            return
        from kdnas.store import changes

        number = scored.number

        def answered(value: str | None) -> None:
            if value is not None:
                self.change(lambda store, study: changes.set_remark(store, study, number, note=value.strip()))

        self.app.push_screen(Write(f"A note to trial {number}", scored.row.note), answered)

    # ------------------------------------------------------------------ panes and filter

    def _order(self) -> list[str]:
        """Panes in the order of Tab."""
        return ["trials", "pareto", self.aside] if self.layout_now == "wide" else [name for name, _ in self._tabs()]

    def _step_pane(self, by: int) -> None:
        order = self._order()
        at = self.focused.id if self.focused is not None else None
        here = order.index(at) if at in order else order.index(self.tab) if self.tab in order else -by
        self._show_tab(order[(here + by) % len(order)])

    def action_next_pane(self) -> None:
        self._step_pane(1)

    def action_previous_pane(self) -> None:
        self._step_pane(-1)

    def _step_tab(self, by: int) -> None:
        shown = self._tabs()[2:] if self.layout_now == "wide" else self._tabs()
        tabs = [name for name, _ in shown]
        at = self.aside if self.layout_now == "wide" else self.tab
        if tabs:
            self._show_tab(tabs[((tabs.index(at) if at in tabs else -by) + by) % len(tabs)])

    def action_next_tab(self) -> None:
        self._step_tab(1)

    def action_previous_tab(self) -> None:
        self._step_tab(-1)

    def action_filter(self) -> None:
        """Filter the trials, or search the log where that is the focused pane."""
        field = self.query_one("#filter", Input)
        self._searching = isinstance(self.focused, LogTail)
        field.placeholder = "words in the log" if self._searching else "state:done latency<8 layers>=4"
        with field.prevent(Input.Changed):
            field.value = self.query_one(LogTail).searched if self._searching else self.filter.text
        self._show_field(True)
        self.set_focus(field)  # at once: what is typed next is for it

    def _show_field(self, shown: bool) -> None:
        """The field, and under it a line for what is wrong: it stays while one types, so that nothing jumps."""
        self.query_one("#filter").display = shown
        hint = self.query_one("#filter-hint", Says)
        hint.show(Text())
        hint.display = shown and not self._searching

    def on_input_changed(self, event: Input.Changed) -> None:
        if event.input.id != "filter":
            return
        if self._searching:
            self.query_one(LogTail).search(event.value)
            return
        self._use_filter(event.value, typing=True)

    def _use_filter(self, text: str, *, typing: bool) -> None:
        """Filter by the text; where it cannot be read, say why and keep the last good one."""
        hint = self.query_one("#filter-hint", Says)
        keys = frozenset() if self.board is None else self.board.keys()
        try:
            whole = parse(text, keys)
            chosen = parse(without_unfinished(text, keys), keys) if typing else whole
        except FilterError as error:
            self._underlined.fault = error if error.text == text else None
            hint.show(Text(str(error)))
        else:
            self._underlined.fault = None
            hint.show(Text())
            if chosen != self.filter:
                self.filter = chosen
                self._filter_again()
                self._draw()
        self.query_one("#filter").refresh()

    def on_input_submitted(self, event: Input.Submitted) -> None:
        if event.input.id != "filter":
            return
        if not self._searching:
            self._use_filter(event.value, typing=False)
        if self._underlined.fault is not None:
            return
        self._show_field(False)
        self._focus_pane()

    def _focus_pane(self) -> None:
        name = "log" if self._searching else "trials" if self.layout_now == "wide" else self.tab
        self._searching = False
        if self.layout_now != "card":
            self.query_one(f"#{name}").focus()

    def action_back(self) -> None:
        field = self.query_one("#filter", Input)
        log = self.query_one(LogTail)
        if self._searching or (isinstance(self.focused, LogTail) and log.searched):
            self._searching = True
            log.search("")
            self._show_field(False)
            self._focus_pane()
        elif field.display or not self.filter.empty:
            field.value = ""
            self._show_field(False)
            self._underlined.fault = None
            self.filter = parse("")
            self._filter_again()
            self._draw()
            self._focus_pane()
        else:
            self.dismiss()

    # ------------------------------------------------------------------ steering the search

    def _wanted(self, wanted: str, done: str) -> None:
        from kdnas.store import changes

        self.change(lambda store, study: changes.set_wanted(store, study, wanted), done)

    def action_pause(self) -> None:
        row = self.study
        if row is None:
            return
        if row.status in (Status.PAUSED, Status.PAUSING):
            self.action_resume()
        elif row.status is Status.RUNNING:
            self._wanted("pause", "Pausing after the running epoch; its training is kept.")
        else:
            self.kdnas.fault(UsageError(f"{row.name} is {row.status}: there is nothing to pause.", _hint(row)))

    def action_stop(self) -> None:
        row = self.study
        if row is None:
            return
        if not row.workers:
            self.kdnas.fault(UsageError(f"{row.name} is {row.status}: no worker runs.", _hint(row)))
            return

        def answered(answer: str | None) -> None:
            if answer in ("stop", "abandon"):
                done = "Stopping after the running trial." if answer == "stop" else "Stopping now."
                self._wanted(answer, done)

        self.app.push_screen(
            Ask(
                f"Stop {row.name}?",
                [
                    Answer("stop", "Finish the running trial, then stop", "nothing is lost"),
                    Answer("abandon", "Stop now", "the running trial is lost, and tried again on resuming"),
                    Answer("run", "Keep running"),
                ],
            ),
            answered,
        )

    def action_resume(self) -> None:
        row = self.study
        if row is None:
            return
        if row.status is Status.RUNNING:
            self.notify(f"{row.name} is running.", timeout=3, markup=False)
        elif row.done >= row.trials:
            self.kdnas.fault(UsageError(f"{row.name} has finished its {row.trials} trials.", "Press + for more."))
        elif row.workers:
            self._wanted("run", "Going on.")
        else:
            self._start()

    def _start(self) -> None:
        from kdnas_tui import workers

        name, storage = self.study_name, self.kdnas.storage
        self.notify("Starting a worker …", timeout=3, markup=False)
        self.kdnas.command(lambda: workers.resume(name, storage))

    def action_worker(self) -> None:
        row = self.study
        if row is None:
            return
        if not row.workers:
            self.action_resume()
            return
        from kdnas_tui import workers

        name, storage = row.name, self.kdnas.storage
        self.kdnas.command(lambda: workers.add_worker(name, storage), "One more worker is starting.")

    def action_budget(self) -> None:
        row = self.study
        if row is None:
            return
        from kdnas.store import changes

        ended = row.status is Status.FINISHED

        def check(value: str) -> int:
            plain = value.replace(",", "").strip()
            if not plain.isdigit() or not 1 <= int(plain) <= 1_000_000:
                raise BadOptionError("trials", f"{value!r} is no number of trials.", "Give 1 to 1,000,000.")
            if int(plain) < row.done:
                raise BadOptionError("trials", f"{row.done} trials have ended already.", f"Give at least {row.done}.")
            return int(plain)

        def answered(value: str | None) -> None:
            if value is None:
                return
            trials = check(value)
            self.change(
                lambda store, study: changes.set_trials(store, study, trials),
                f"The budget is {trials:,} trials now.",
                self._start if ended and trials > row.trials else None,
            )

        detail = f"{row.done} have ended."
        if ended:
            detail += " With more, the search goes on at once."
        self.app.push_screen(
            Write(f"How many trials for {row.name}?", str(row.trials), detail=detail, check=check), answered
        )

    # ------------------------------------------------------------------ other screens

    def action_candidate(self) -> None:
        if self.current() is not None and not self._still_reading():
            from kdnas_tui.screens.candidate import CandidateScreen

            self.app.push_screen(CandidateScreen(self))

    def action_sort(self, step: int) -> None:
        self.query_one(TrialsTable).action_sort(step)

    def action_reward(self) -> None:
        if self.board is None or self.study is None:
            return
        from kdnas_tui.screens.rescore import RescoreScreen

        self.app.push_screen(RescoreScreen(self))

    def action_compare(self) -> None:
        if self._still_reading():
            return
        chosen = self.marked()
        if len(chosen) < 2:
            self.kdnas.fault(
                UsageError(f"{words.plural(len(chosen), 'trial')} marked.", "Mark two to four with space.")
            )
            return
        from kdnas_tui.screens.compare import CompareScreen

        self.app.push_screen(CompareScreen(self, [scored.number for scored in chosen[:4]]))

    def action_export(self) -> None:
        if self.study is None or self.board is None or self._still_reading():
            return
        from kdnas_tui.screens.export import ExportScreen

        self.app.push_screen(ExportScreen(self))

    def action_finalize(self) -> None:
        scored = self.current()
        if self.study is None or scored is None or self._still_reading():
            return
        from kdnas_tui.screens.finalize import FinalizeScreen

        self.app.push_screen(FinalizeScreen(self, scored.number))

    def action_about(self) -> None:
        if self.study is not None:
            from kdnas_tui.screens.about import AboutScreen

            self.app.push_screen(AboutScreen(self))

    def action_copy(self) -> None:
        if self._still_reading():
            return
        scored = self.current()
        if scored is not None:
            self.kdnas.copy(as_json(scored), f"{self.study_name}-{scored.number}.json")


def without_unfinished(text: str, keys: Iterable[str]) -> str:
    """The filter without a last word that may yet become a comparison: the table does not go empty under `laten`."""
    *_, last = text.split(" ")
    names = {*COLUMNS, *ALIASES, *keys}
    return text[: len(text) - len(last)] if last and any(name.startswith(last) for name in names) else text


def _hint(row: StudyRow) -> str:
    return "Press + to raise its budget." if row.status is Status.FINISHED else "Press r to go on."
