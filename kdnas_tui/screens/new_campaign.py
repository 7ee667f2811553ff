"""Begins a campaign of a TOML file: what it compares, what it would need, and the same as one command.

What is in the file is changed there; here it is only read, by the same code as `kdnas campaign` reads it.
"""

from __future__ import annotations

import shlex
from pathlib import Path

from rich.text import Text
from textual.app import ComposeResult
from textual.containers import Horizontal
from textual.widgets import Input, Static

from kdnas.study.campaign_spec import CampaignSpec, read_campaign
from kdnas.system.errors import KdnasError, UsageError
from kdnas.system.paths import shipped_campaigns
from kdnas.system.text import clean
from kdnas_tui import words, workers
from kdnas_tui.desk import Desk
from kdnas_tui.keys import worded
from kdnas_tui.screens.ask import Answer, Ask
from kdnas_tui.screens.frame import Frame, bindings, writes
from kdnas_tui.widgets.field import Field
from kdnas_tui.widgets.key_bar import KeyBar
from kdnas_tui.widgets.list_table import Column, Line, ListTable
from kdnas_tui.widgets.sheet import Sheet

MEMBERS = (
    Column("member", flex=True, most=24),
    Column("teacher", leaves=1, most=32),
    Column("recipe"),
    Column("strategy", leaves=2),
)


class NewCampaignScreen(Frame):
    NAME = "new-campaign"
    BINDINGS = bindings("new-campaign")
    PANES = {
        "": "A campaign compares several teachers and recipes on one task. Its file says what: docs/campaigns.md has "
        "all settings. <new-campaign.plan> says what it would need, <new-campaign.start> begins it in a process of its "
        "own.",
    }

    def __init__(self, desk: Desk) -> None:
        super().__init__(desk)
        self.spec: CampaignSpec | None = None
        self._begins = False

    def compose(self) -> ComposeResult:
        yield Static(Text("new campaign", style="bold"), classes="head")
        with Horizontal(classes="row"):
            yield Static("file", classes="label")
            yield Field(next(iter(shipped_campaigns()), ""), placeholder="a campaign's TOML file", id="file")
        yield Static("", id="hint", classes="hint")
        yield Static("", id="about")
        yield ListTable(MEMBERS, cursor=False, id="members")
        with Sheet(id="needs"):
            yield Static("", id="plan")
        yield Static("", id="command")
        yield KeyBar("new-campaign")

    def on_mount(self) -> None:
        self.query_one("#file").focus()
        self._read()

    # ------------------------------------------------------------------ the file

    @property
    def given(self) -> str:
        return self.query_one("#file", Input).value.strip()

    def _path(self) -> Path:
        return shipped_campaigns().get(self.given) or Path(self.given).expanduser()

    def _read(self) -> None:
        """What the file says, or what is wrong with it."""
        fault, self.spec = "", None
        try:
            if self.given:
                self.spec = read_campaign(self._path())
        except KdnasError as error:
            fault = str(error)
        self.query_one("#hint", Static).update(Text(clean(fault)))
        self.query_one("#plan", Static).update(Text(worded("<new-campaign.plan> says what it needs."), style="dim"))
        self.query_one("#about", Static).update(Text(clean(_about(self.spec))))
        self.query_one("#command", Static).update(Text("" if self.spec is None else self._command()))
        lines = []
        for name in () if self.spec is None else self.spec.members:
            assert self.spec is not None
            own = self.spec.member(name)
            cells = (name, words.short(own.teacher.model), own.recipe.name, own.strategy.name)
            lines.append(Line(name, tuple(map(clean, cells)), ("strong", "", "", "quiet")))
        self.query_one("#members", ListTable).fill(lines)

    def _command(self) -> str:
        return f"kdnas campaign {shlex.quote(self.given)}"

    def on_input_changed(self) -> None:
        self._read()

    def on_input_submitted(self) -> None:
        self.action_plan()

    # ------------------------------------------------------------------ keys

    def action_choose(self) -> None:
        answers = [Answer(name, name) for name in shipped_campaigns()]

        def answered(name: str | None) -> None:
            if name is not None:
                self.query_one("#file", Input).value = name

        self.app.push_screen(Ask("Campaigns that ship", answers), answered)

    def action_plan(self) -> None:
        """Ask what it would need, which takes a moment; nothing is begun."""
        if self.spec is None:
            self._refuse()
            return
        path, told = str(self._path()), list[str]()
        self.query_one("#plan", Static).update(Text("Asking …", style="dim"))

        def ask() -> None:
            try:
                told.extend(workers.campaign_plan(path, self.desk.storage))
            except KdnasError as error:
                told.append(str(error))

        def then() -> None:
            if self.is_attached and path == str(self._path()):
                self.query_one("#plan", Static).update(Text("\n".join(map(clean, told))))

        self.desk.command(ask, then=then)

    @writes
    def action_start(self) -> None:
        if self.spec is None:
            self._refuse()
            return
        if self._begins:
            return
        self._begins = True
        path, name = str(self._path()), self.spec.name

        def begin() -> None:
            try:
                workers.begin_campaign(path, name, self.desk.storage)
            finally:
                self._begins = False

        def then() -> None:
            if self.is_current:
                self.dismiss()

        self.notify(f"{name} begins …", timeout=4, markup=False)
        self.desk.command(begin, f"{name} runs in a process of its own.", then)

    def _refuse(self) -> None:
        hint = (
            "Correct what is said below it." if self.given else worded("<new-campaign.choose> lists those that ship.")
        )
        self.desk.fault(UsageError("There is no campaign in this file." if self.given else "Name a file.", hint))

    def action_copy_command(self) -> None:
        if self.spec is not None:
            self.desk.copy(f"{self._command()}\n", f"{self.spec.name}.sh")


def _about(spec: CampaignSpec | None) -> str:
    if spec is None:
        return ""
    budget = f"{spec.budget.trials:,} trials" if spec.budget.trials is not None else f"{spec.budget.hours:g} hours"
    parts = [f"{spec.name}: task {spec.task.source}", f"{budget} for {words.plural(len(spec.members), 'member')}"]
    parts.append(f"seed {spec.seed}; what is in the file is changed there")
    return " · ".join(parts)
