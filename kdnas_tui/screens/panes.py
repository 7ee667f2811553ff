"""Which pane of a study stands where, for a size of the terminal and a chosen tab.

Plain decisions about names, without widgets: the screen asks, and shows or hides accordingly.
"""

from __future__ import annotations

from typing import Literal

WIDE = 100  # columns from which table and plots stand side by side
CARD = (40, 12)  # below it, only a card
LOW = 16  # lines below which the table goes without its legend
PLOTS = 40  # cells that the plots keep where the table would take all
STEP = 4  # cells by which the border moves

Layout = Literal["wide", "tabs", "card"]
Tab = tuple[str, str]  # name and title

TABS: tuple[Tab, ...] = (
    ("trials", "Trials"),
    ("pareto", "Pareto"),
    ("history", "History"),
    ("slice", "Slice"),
    ("parallel", "Parallel"),
    ("timeline", "Timeline"),
    ("curves", "Curves"),
    ("controller", "Controller"),
    ("importance", "Importance"),
    ("log", "Log"),
)
NAMES = tuple(name for name, _ in TABS)
ASIDE = TABS[2:]  # beside the table the Pareto plot stands above the tabs
SIDE_BY_SIDE = ("trials", "pareto")

OF_A_PANE = {  # pane → keys that the footer names while it has the focus; they act from everywhere
    "pareto": frozenset({"log_axis"}),
    "history": frozenset({"hours"}),
    "log": frozenset({"level", "match(1)", "match(-1)"}),
}

EXPLAINED = {  # name of a part → what `?` says of it
    "trials": "The trials, best reward first; what runs stands above them. <study.sort_previous> and <study.sort_next> "
    "sort by another column, <study.sort_turn> turns the order round, a click on a title sorts by it. "
    "<study.sideways_previous> and <study.sideways_next> turn to the columns that have no room, <study.columns> "
    "chooses them, <study.share_previous> and <study.share_next> move the border, <study.zoom> gives a pane the whole "
    "screen.\n"
    "* is:front, nothing is both better and faster\n"
    "~ is:tie, its reward cannot be told from a better one's\n"
    "! is:flagged, its latency is doubtful (the candidate's page says why)\n"
    "≈ flag:predicted, its latency is a sum of measured blocks\n"
    "^ is:infeasible, it misses a constraint of the study; it ranks behind all that keep them\n"
    "< rung below that of others, so that it has no rank\n"
    "● is:marked, by <study.mark>\n"
    "▰ state:running, how far the evaluation is, and its finished epochs\n"
    "lat milliseconds, the median, for one time of the teacher · ± half of its 95 % interval"
    " · ×T times faster than the teacher · L layers · H "
    "width · A heads. Each heading is a word of the filter.",
    "pareto": "Loss against latency, every ranked trial a point; the line is the front. The cursor is the one of the "
    "table: ← and → walk along the front, a click takes the nearest trial, Enter opens it; <study.log_axis> makes the "
    "latency's axis logarithmic or linear, which else its span decides. <study.closer_next> comes closer to the "
    "cursor, <study.whole_plot> shows all. ^ misses a constraint.",
    "history": "The best reward so far, trial by trial, and each trial's own, of those that pass the filter; "
    "<study.hours> shows them over hours. ✛ is the trial under the table's cursor, ◆ a marked one. <study.measure> "
    "shows the hypervolume instead: what the front covers of the square from the teacher's loss, 0, to a constant "
    "prediction's, 1, and from no latency to the teacher's. <study.closer_next> comes closer to the cursor, "
    "<study.wider> and <study.taller> along one axis, <study.whole_plot> shows all.",
    "slice": "Each dimension of the space by itself: its values from left to right, every finished trial a point. "
    "<study.measure> shows loss, latency and reward in turn, ← and → the dimensions that have no room.\n"
    "─ the median of a value\n"
    "● on the front · ★ the best · ◆ marked, by <study.mark> · ✛ the trial under the table's cursor",
    "parallel": "A line for each trial across the dimensions of the space, its loss, latency and reward; where there "
    "are many, some of each kind. ← and → turn to the dimensions that have no room, a filter leaves lines out.\n"
    "unbroken: the best tenth by reward · dashed: the others up to the median · dotted: the rest\n"
    "★ the best · ◆ marked, by <study.mark> · ✛ the trial under the table's cursor",
    "timeline": "A row for each worker, and its trials from start to end: those that live (●) first. A cell shows the "
    "state that fills most of it; · and blanks are times without a trial. <study.closer_next> and <study.wider> come "
    "closer to the cursor's trial, <study.whole_plot> shows all, ← and → turn to workers that have no room. worker:2 "
    "filters by worker.\n"
    "█ done · ≈ pruned · × failed · ? lost · ○ reused · ▸ running, up to now · = waits for latency · "
    "╌ hidden by the filter\n"
    "◆ marked, by <study.mark> · ✛ the trial under the table's cursor\n"
    "Below, ! where a trial with a doubtful latency ended, and how busy this machine's devices were meanwhile, since "
    "the study was opened here.",
    "curves": "Loss after each epoch, of the running trials, the marked ones and the one under the cursor.",
    "controller": "For a search by the LSTM controller: the reward it foresaw against the one that came, and ε.",
    "importance": "Which dimensions of the space the reward depends on, as Optuna estimates it.",
    "log": "What the workers wrote down. End follows the newest line, <study.level> leaves out lower levels, "
    "<study.filter> searches, and <study.match_next> and <study.match_previous> go from match to match.",
    "filter": "Only trials that pass are shown, in table and plots: state:done latency<8 layers>=4 act:gelu, "
    "joined by and, or, not. is:front, is:tie, is:feasible, is:flagged, is:marked, tag:word, and bare words work too. "
    "→ or Tab writes the word out, ↑ and ↓ go through earlier filters, <study.back> clears it.",
}


class Panes:
    """`tab` is what is looked at; `aside` the tab beside the table where the terminal is wide."""

    def __init__(self, share: int = 0) -> None:
        """`share`: the table's part of a wide screen in percent, 0 for what its columns want."""
        self.share = share
        self.zoomed = False  # one pane has a screen that is wide enough for all
        self.tab = "trials"
        self.aside = "history"
        self.layout: Layout = "wide"
        self.with_controller = False  # only a search by the controller has such a pane

    def fit(self, width: int, height: int) -> None:
        """Choose the layout for a size of the terminal."""
        card = width < CARD[0] or height < CARD[1]
        self.layout = "card" if card else "wide" if width >= WIDE and not self.zoomed else "tabs"
        if width < WIDE:
            self.zoomed = False
        if self.layout == "wide" and self.tab not in SIDE_BY_SIDE:
            self.aside = self.tab

    def show(self, name: str) -> None:
        self.tab = name
        if name not in SIDE_BY_SIDE:
            self.aside = name

    def keep_in_sight(self, name: str | None) -> None:
        """What is looked at beside the table stays in sight where the terminal becomes narrow."""
        if self.layout == "wide" and name in NAMES:
            self.tab = name

    def table_cells(self, width: int, wanted: int) -> int:
        """The table's part of a wide screen, in cells, where its columns want so many."""
        cells = width * self.share // 100 if self.share else wanted
        return max(PLOTS, min(cells, width - PLOTS // 2 if self.share else width - PLOTS))

    def move_border(self, by: int, width: int, cells: int) -> None:
        """Give the table, which has so many cells, a step more or less."""
        moved = max(PLOTS, min(cells + by * STEP, width - PLOTS // 2))
        self.share = max(1, -(-moved * 100 // width))

    @property
    def tabs(self) -> list[Tab]:
        """What this study has to show."""
        return [tab for tab in TABS if tab[0] != "controller" or self.with_controller]

    @property
    def tabs_aside(self) -> list[Tab]:
        return self.tabs[len(SIDE_BY_SIDE) :]

    @property
    def shown(self) -> str:
        """The tab that changes, beside the table or alone."""
        return self.aside if self.layout == "wide" else self.tab

    def visible(self, name: str) -> bool:
        """Whether a pane is on the screen, where there is more than a card."""
        return name in (*SIDE_BY_SIDE, self.aside) if self.layout == "wide" else name == self.tab

    def next_pane(self, focused: str | None, by: int) -> str:
        """The pane that follows in the order of Tab."""
        order = [*SIDE_BY_SIDE, self.aside] if self.layout == "wide" else [name for name, _ in self.tabs]
        here = order.index(focused) if focused in order else order.index(self.tab) if self.tab in order else -by
        return order[(here + by) % len(order)]

    def next_tab(self, by: int) -> str:
        names = [name for name, _ in (self.tabs_aside if self.layout == "wide" else self.tabs)]
        here = names.index(self.shown) if self.shown in names else -by
        return names[(here + by) % len(names)]
