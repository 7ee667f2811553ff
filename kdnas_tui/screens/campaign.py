"""One campaign: its members, what was decided and why, and the fronts of all members in one picture by task score.

Before the end the picture has the scores of the rounds; then those of the final table. The two are never drawn
together.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.text import Text
from textual.app import ComposeResult
from textual.containers import Horizontal, Vertical
from textual.widgets import Static

from kdnas.study import campaign_words
from kdnas.study.campaign_fronts import Fronts, of_ending, of_rounds
from kdnas.study.campaign_rows import CampaignRow, MemberRow, MemberState
from kdnas.study.rows import Status, StudyRow
from kdnas.system.errors import UsageError
from kdnas.system.text import clean
from kdnas_tui import words, workers
from kdnas_tui.desk import Desk
from kdnas_tui.feed import News
from kdnas_tui.keys import worded
from kdnas_tui.screens.campaign_lines import about
from kdnas_tui.screens.frame import bindings, writes
from kdnas_tui.screens.parts import PartsScreen
from kdnas_tui.theme import MARKS
from kdnas_tui.widgets.key_bar import KeyBar
from kdnas_tui.widgets.list_table import Column, Line, ListTable
from kdnas_tui.widgets.overlay_plot import COLOURS, SIGNS, Drawn, OverlayPlot
from kdnas_tui.widgets.says import Says
from kdnas_tui.widgets.sheet import Sheet
from kdnas_tui.widgets.tab_bar import TabBar

DRAWN = len(SIGNS) - 1  # members that have a sign of their own; the last sign is the teachers'
LOOKS = {
    MemberState.SEARCHING: "good",
    MemberState.GOING: "good",
    MemberState.OUT: "quiet",
    MemberState.FAILED: "bad",
}
MEMBERS = (
    Column("member", flex=True, most=24),
    Column("state"),
    Column("trials", "right"),
    Column("share", "right", leaves=2),
    Column("held-out", "right"),
    Column("teacher", leaves=3, most=20),
    Column("recipe", leaves=4),
)


class CampaignScreen(PartsScreen):
    NAME = "campaign"
    TABS = (("members", "Members"), ("front", "Fronts"), ("table", "Table"), ("why", "Decisions"))
    WIDE, TALL = 96, 26
    BINDINGS = bindings("campaign")
    PANES = {
        "members": "One line for each member: its state, the trials that have ended, all its shares so far, and its "
        "best score in the rounds, on the task's held-out part. <campaign.open> opens its study.",
        "front": "The front of each member: task score against latency. While the campaign runs these are the scores "
        "of the rounds, after the short distillation; at the end those of the final table, on the test part. "
        "<campaign.measure> changes between the two, which are never drawn together.",
        "table": "The final table: every member's best student distilled in full, and the teachers, scored on the test "
        "part and timed side by side.",
        "why": "What was decided after each round, by which scores.",
    }

    def __init__(self, desk: Desk, campaign: CampaignRow) -> None:
        super().__init__(desk, "members")
        self.campaign = campaign
        self.studies: Mapping[int, StudyRow] = {}
        self.rounds = False  # show the scores of the rounds although there is a table

    def compose(self) -> ComposeResult:
        yield Says(id="head", classes="head")
        yield Static(id="detail", classes="detail")
        yield TabBar(self.TABS, self.tab, id="tabs")
        with Horizontal(id="upper"):
            yield ListTable(MEMBERS, id="members")
            with Vertical(id="picture"):
                yield Static(id="signs")
                yield OverlayPlot(id="front")
        with Horizontal(id="lower"):
            yield ListTable((Column("model"),), id="table", empty="The table comes with the ending.")
            with Sheet(id="why"):
                yield Static(id="decisions")
        yield KeyBar("campaign")

    def on_mount(self) -> None:
        self.show_parts()
        self.query_one("#members").focus()
        self._draw()

    def on_screen_resume(self) -> None:
        self.desk.feed.watch(None)

    def show_around(self, shown: Mapping[str, bool]) -> None:
        self.query_one("#picture").display = shown["front"]
        self.query_one("#upper").display = shown["members"] or shown["front"]
        self.query_one("#lower").display = shown["table"] or shown["why"]

    def hear(self, news: News) -> None:
        if news.campaigns is None:
            return
        found = next((one for one in news.campaigns if one.campaign_id == self.campaign.campaign_id), None)
        if found is None:
            self.desk.fault(UsageError(f"The campaign {self.campaign.name} was deleted.", "Its members' studies stay."))
            if self.is_current:
                self.dismiss()
            return
        self.campaign = found
        self.studies = {row.study_id: row for row in news.studies or ()}
        self._draw()

    # ------------------------------------------------------------------ drawing

    def _draw(self) -> None:
        if not self.is_mounted:
            return
        row = self.campaign
        sign, _ = MARKS[Status(row.status)]
        unit = "hours" if row.timed else "trials"
        head = Text.assemble(
            ("campaign ", ""), (clean(row.name), "bold"), f"   {sign} {row.status}", no_wrap=True, overflow="ellipsis"
        )
        spent = "" if row.timed else f"{sum(one.done for one in self._own_studies())} of "
        head.append(f"   {spent}{row.budget:g} {unit}", style="dim")
        head.append(f"   task {clean(words.short(row.spec['task']['source']))}", style="dim")
        self.query_one("#head", Says).show(head)
        told = str(row.result["verdict"]) if row.result else about(row, self.desk.clock())
        self.query_one("#detail", Static).update(Text(clean(told)))
        self.query_one("#members", ListTable).fill([self._line(member) for member in row.members])
        self._draw_front(self._fronts())
        self._draw_table()
        self.query_one("#decisions", Static).update(_decisions(row))

    def _own_studies(self) -> list[StudyRow]:
        return [study for member in self.campaign.members if (study := self._study_of(member)) is not None]

    def _study_of(self, member: MemberRow) -> StudyRow | None:
        return None if member.study_id is None else self.studies.get(member.study_id)

    def _line(self, member: MemberRow) -> Line:
        study = self._study_of(member)
        cells = (
            clean(member.name),
            str(member.state),
            "–" if study is None else f"{study.done:,}",
            f"{member.granted:g}",
            words.figure(member.best, 4),
            clean(words.short(member.teacher)),
            member.recipe,
        )
        return Line(member.name, cells, ("strong", LOOKS.get(member.state, ""), "", "quiet", "", "", "quiet"))

    def _fronts(self) -> Fronts:
        return of_ending(self.campaign) if self.campaign.result and not self.rounds else of_rounds(self.campaign)

    def _draw_front(self, fronts: Fronts) -> None:
        lines = [_drawn(front.points) for front in fronts.members[:DRAWN]]
        lines += [Drawn(np.zeros(0), np.zeros(0))] * (DRAWN - len(lines))
        if fronts.teachers:
            lines.append(_drawn(fronts.teachers, joined=False))
        why = "" if fronts.members or fronts.teachers else "No student has been scored on the task yet."
        self.query_one("#front", OverlayPlot).show(lines, "latency ms", fronts.of, why)
        colours = self.app.theme_variables
        signs = Text()
        for sign, colour, front in zip(SIGNS, COLOURS, fronts.members[:DRAWN], strict=False):
            signs.append(f"{sign} ", style=colours.get(colour, "")).append(f"{clean(front.member)}   ")
        if fronts.teachers:
            signs.append(f"{SIGNS[DRAWN]} teachers   ", style=colours.get(COLOURS[DRAWN], ""))
        left = len(fronts.members) - DRAWN
        if left > 0:
            signs.append(f"{words.plural(left, 'member')} with lower scores not drawn   ", style="dim")
        if fronts.untimed:
            signs.append(f"{words.plural(fronts.untimed, 'student')} without a latency not drawn", style="dim")
        self.query_one("#signs", Static).update(signs)

    def _draw_table(self) -> None:
        if not self.campaign.result:
            return
        names = campaign_words.columns(self.campaign)
        right = {"rank", "trial", "score", "own head", "fine-tuned", "ms", "×", "parameters", "MiB"}
        leaves = {"remark": 1, "parameters": 3, "MiB": 2, "trial": 4, "front": 5, "own head": 6, "fine-tuned": 7}
        columns = [
            Column(name, "right" if name in right else "left", leaves=leaves.get(name, 0), flex=name == "remark")
            for name in names
        ]
        lines = [
            Line(str(nth), tuple("" if cell is None else clean(str(cell)) for cell in cells))
            for nth, cells in enumerate(campaign_words.cells(self.campaign))
        ]
        table = self.query_one("#table", ListTable)
        table.fill(lines, columns if tuple(columns) != table.columns else None)

    # ------------------------------------------------------------------ keys

    def _member(self) -> MemberRow | None:
        key = self.query_one("#members", ListTable).current
        return next((member for member in self.campaign.members if member.name == key), None)

    def on_list_table_chosen(self, event: ListTable.Chosen) -> None:
        if event.table.id == "members":
            self.action_open()

    def action_open(self) -> None:
        member = self._member()
        study = None if member is None else self._study_of(member)
        if study is not None:
            from kdnas_tui.screens.study import StudyScreen

            self.desk.forget_faults()
            self.app.push_screen(StudyScreen(study.name, self.desk))
        elif member is not None:
            why = f": {member.reason}" if member.reason else ""
            self.notify(f"{member.name} has no study: {member.state}{why}.", timeout=4, markup=False)

    @writes
    def action_resume(self) -> None:
        row = self.campaign
        if row.status in ("running", "finished"):
            self.notify(f"{row.name} is {row.status}.", timeout=4, markup=False)
            return
        self.desk.command(lambda: workers.go_on(row.name, self.desk.storage), f"{row.name} goes on.")

    @writes
    def action_stop(self) -> None:
        row = self.campaign
        if row.status != "running":
            self.notify(f"{row.name} does not run; it is {row.status}.", timeout=4, markup=False)
            return
        self.desk.command(lambda: workers.stop_campaign(row), f"{row.name} is told to stop.")

    def action_measure(self) -> None:
        if not self.campaign.result:
            self.notify("The final table's scores come with the ending.", timeout=4, markup=False)
            return
        self.rounds = not self.rounds
        self._draw_front(self._fronts())

    def action_log(self) -> None:
        self.query_one("#front", OverlayPlot).toggle_log()

    def action_copy(self) -> None:
        self.desk.copy(f"kdnas campaign {self.campaign.name}\n", f"{self.campaign.name}.sh")

    def action_report(self) -> None:
        row = self.campaign
        if not row.result:
            self.notify("The report comes with the ending.", timeout=4, markup=False)
            return
        page = Path(row.folder) / "report.html"
        self.desk.command(lambda: workers.report(row.name, page, self.desk.storage), f"Written: {page}")


def _drawn(points: Sequence[tuple[float, float]], joined: bool = True) -> Drawn:
    x, y = np.asarray(points, dtype=float).T
    return Drawn(x, y, joined)


def _decisions(row: CampaignRow) -> Text:
    """Each round's scores, who goes on, and why the others are out."""
    if not row.decisions:
        return Text(worded("Nothing is decided yet: the first round ends with the first scores."), style="dim")
    text = Text()
    for decision in row.decisions:
        facts: Mapping[str, Any] = decision.facts
        replaced = decision.stage >= row.rounds  # who was in the last stage has failed
        text.append("in the last stage\n" if replaced else f"after round {decision.stage + 1}\n", style="bold")
        for name, score in facts["scores"].items():
            text.append(f"  {clean(name)}  {'no feasible student' if score is None else f'{score:.4f}'}\n")
        text.append(f"  {clean(', '.join(facts['going']))} {'goes' if len(facts['going']) == 1 else 'go'} on\n")
        for name, why in facts["out"].items():
            text.append(f"  {clean(name)} is out: {clean(str(why))}\n", style="dim")
    failed = [member for member in row.members if member.state is MemberState.FAILED]
    for member in failed:
        text.append(f"{clean(member.name)} has failed: {clean(member.reason)}\n", style="bold")
    return text
