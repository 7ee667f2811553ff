"""A new study as a form: every field is checked while it is typed, and its plan is shown before anything runs.

A short-lived `kdnas plan` says what the study would cost. Nothing is begun before Start.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from rich.text import Text
from textual import events, work
from textual.app import ComposeResult
from textual.containers import Container, Horizontal, VerticalScroll
from textual.geometry import Size
from textual.timer import Timer
from textual.widgets import Input, Static
from textual.worker import get_current_worker

from kdnas.study import spec_flags
from kdnas.study.reward import exchange
from kdnas.study.spec import StudySpec, from_values
from kdnas.study.spec_toml import to_toml
from kdnas.system.errors import KdnasError, UsageError
from kdnas.system.paths import presets
from kdnas_tui import words, workers
from kdnas_tui.desk import Desk
from kdnas_tui.feed import News
from kdnas_tui.later import later
from kdnas_tui.screens import form_reading
from kdnas_tui.screens.ask import Answer, Ask
from kdnas_tui.screens.frame import Frame, bindings, writes
from kdnas_tui.screens.spec_fields import (
    ENTRIES,
    asset_of,
    choices,
    figures,
    first_comment,
    form_values,
    id_of,
    number,
    plan_words,
    preset_values,
)
from kdnas_tui.widgets.act_button import ActButton
from kdnas_tui.widgets.field import Field
from kdnas_tui.widgets.key_bar import KeyBar
from kdnas_tui.widgets.lines import wrapped

TALL = 30  # lines from which the command may take four
PLAN_AFTER_S = 0.7  # without a key before the plan is asked for


class NewStudyScreen(Frame):
    NAME = "new"
    BINDINGS = bindings("new")
    PANES = {
        "form": "What the study is. Each field is checked while you type; a fault and its hint stand under it. "
        "<new.choose> lists what ships for the field. Everything else of a spec goes into `more` as field=value.",
        "plan": "What the study would do, asked of a short process of its own: the search space, the cache on disk and "
        "a rough time. Nothing has been begun.",
        "": "Begin a study. <new.start> starts it.",
    }

    def __init__(self, desk: Desk, values: Mapping[str, Any], preset: str = "") -> None:
        """`values`: nested values of a spec to begin from (a preset, a study to duplicate)."""
        super().__init__(desk)
        self._preset = preset  # the spec that ships from which the form was filled
        self._values = dict(values)
        self._opening = False
        self._faults: dict[str, str] = {}
        self.spec: StudySpec | None = None
        self._taken: set[str] = set()
        self.plan: dict[str, Any] | None = None
        self._plan_fault = ""
        self._plan_for = ""
        self._planning = False
        self._timer: Timer | None = None
        self._question: workers.Question | None = None
        self._starting = False
        self._given: dict[str, str] = {}  # what stood in the form before anybody wrote

    def compose(self) -> ComposeResult:
        self._fit(self.app.size, update=False)  # else every field is styled anew for each class, once it is there
        shown = self._given = form_values(self._values)
        yield Static(Text.assemble(("kdnas", "bold"), "  new study"), classes="head")
        with VerticalScroll(id="sheet", can_focus=False):
            with Container(id="form"):
                for entry in ENTRIES:
                    with Horizontal(classes="row gap" if entry.gap else "row"):
                        yield Static(Text(entry.label), classes="label")
                        yield Field(shown.get(entry.field, ""), id=id_of(entry.field))
                        yield Static("▾" if entry.choices else " ", classes="open", name=entry.field)
                    yield Static("", id=f"{id_of(entry.field)}-hint", classes="hint")
                with Horizontal(classes="row gap"):
                    yield Static("", classes="label")
                    yield ActButton("Start", "new.start", id="start")
            with Container(id="plan"):
                yield Static("", id="says")
        yield Static("", id="hint")
        yield Static("", id="figures")
        yield Static("", id="command")
        yield KeyBar("new")

    def on_mount(self) -> None:
        self.app.theme_changed_signal.subscribe(self, lambda _: self.show_plan())
        for entry in ENTRIES:
            self.query_one(f"#{id_of(entry.field)}-hint").display = False
        self._check()
        self._ask_names()
        if self._values:
            self._opening = True
            self.query_one("#start").focus(scroll_visible=False)
        else:
            self.query_one(f"#{id_of('name')}").focus()

    def on_resize(self, event: events.Resize) -> None:
        self._fit(event.size)
        if self.is_mounted:
            self.show_plan()

    def _fit(self, size: Size, update: bool = True) -> None:
        self.update_classes({"wide": size.width >= 100, "low": size.height < TALL}, update=update)

    def on_unmount(self) -> None:
        self.give_up_asking()

    def hear(self, news: News) -> None:
        if news.studies is not None:
            self._names_known({row.name for row in news.studies})

    @work(thread=True, exit_on_error=False)
    def _ask_names(self) -> None:
        from kdnas.store import queries
        from kdnas.store.database import open_reader

        try:
            with open_reader(self.desk.storage) as store:
                names = {row.name for row in queries.study_rows(store)}
        except KdnasError:
            return  # no store yet; Start makes one, or says what is wrong with it
        self.app.call_from_thread(self._names_known, names)

    def _names_known(self, names: set[str]) -> None:
        if names == self._taken or self._starting:
            return
        self._taken = names
        field = self._field("name")
        if not self._values and field.value in names:
            self._given["name"] = field.value = words.free_name(field.value, names)
        self._check()

    # ------------------------------------------------------------------ checking

    def _field(self, name: str) -> Input:
        return self.query_one(f"#{id_of(name)}", Input)

    def _texts(self) -> dict[str, str]:
        return {entry.field: self._field(entry.field).value.strip() for entry in ENTRIES}

    def _check(self) -> None:
        """Read the form, show every fault under its field, and ask for a new plan where it makes a spec."""
        read = form_reading.read(self._texts(), self._taken, self.desk.clock())
        self.spec, self._faults = read.spec, read.faults
        for entry in ENTRIES:
            hint = self.query_one(f"#{id_of(entry.field)}-hint", Static)
            fault = self._faults.get(entry.field, "")
            hint.update(Text(fault))
            hint.display = bool(fault)
            self._field(entry.field).set_class(bool(fault), "wrong")
        column = self._field("data.text_column")
        ships = asset_of(self._field("data.source").value.strip()) is not None
        if column.parent is not None:
            column.parent.display = not ships
        self.show_plan()
        self._ask_plan_later()

    def show_plan(self) -> None:
        command = self.query_one("#command", Static)
        if self.spec is None:
            command.update(Text("the form has a fault: correct it to see the command", style="dim"))
        else:
            command.update(self._shortened(self._command()))
        self.query_one("#figures", Static).update(self._figures())
        self.query_one("#says", Static).update(self._says())

    def _command(self) -> str:
        from kdnas.system.paths import default_storage

        assert self.spec is not None
        storage = self.desk.storage
        base = (self._preset, from_values(preset_values(self._preset))) if self._preset else None
        shown = None if storage == default_storage() else words.shown_storage(storage)
        line = spec_flags.command(self.spec, shown, base)
        count = self._field("workers").value.strip()
        return line if count == "1" else f"{line} --workers {count}"

    def _shortened(self, line: str) -> Text:
        """The command in as many lines as there is room for; where it is longer, the key that shows the whole."""
        most = 2 if self.app.size.height < TALL else 4
        lines = wrapped(f"$ {line}", max(20, self.app.size.width - 4))
        if len(lines) > most:
            end = " … F5 shows all"
            lines = [*lines[: most - 1], lines[most - 1][: self.app.size.width - 4 - len(end)] + end]
        return Text("\n".join(lines))

    def action_command(self) -> None:
        """The whole command, to read and to copy."""
        if self.spec is None:
            self._to_fault()
            return

        def answered(answer: str | None) -> None:
            if answer == "copy":
                self.action_copy_command()

        answers = [Answer("copy", "Copy it"), Answer("back", "Go back")]
        self.app.push_screen(Ask("The same study as one command", answers, self._command()), answered)

    # ------------------------------------------------------------------ the plan

    def _figures(self) -> Text:
        """What one wants to know before one starts, in sight at every size: how much, how large, how long."""
        if self._plan_fault:
            return Text(f"It would not start: {self._plan_fault}", style=self.app.theme_variables.get("error", ""))
        if self.plan is None:
            return Text("reckoning candidates, cache and time …" if self._planning else "", style="dim")
        return Text(" · ".join(figures(self.plan)), style="bold")

    def _ask_plan_later(self) -> None:
        wanted = "" if self.spec is None else to_toml(self.spec)
        if wanted == self._plan_for:
            return
        self._plan_for, self.plan, self._plan_fault = wanted, None, ""
        self.give_up_asking()
        self._planning = bool(wanted)
        self.show_plan()
        if wanted:
            self._timer = later(self, PLAN_AFTER_S, lambda: self._ask_plan(wanted))

    def give_up_asking(self) -> None:
        """Ask for no plan, and wait for none."""
        if self._timer is not None:
            self._timer.stop()
        if self._question is not None:
            self._question.give_up()
            self._question = None

    @work(thread=True, exclusive=True, group="plan", exit_on_error=False)
    def _ask_plan(self, wanted: str) -> None:
        plan: dict[str, Any] | None = None
        fault = ""
        question: workers.Question | None = None
        try:
            self._question = question = workers.plan(wanted, self.desk.storage)
            plan = question.answer()
        except (KdnasError, OSError) as error:
            fault = str(error)
        given_up = question is not None and question is not self._question
        if not given_up and not get_current_worker().is_cancelled and self.is_attached:
            self.app.call_from_thread(self._planned, wanted, plan, fault)

    def _planned(self, wanted: str, plan: dict[str, Any] | None, fault: str) -> None:
        if wanted == self._plan_for:
            self._planning, self.plan, self._plan_fault = False, plan, fault
            self.show_plan()

    def _says(self) -> Text:
        text = Text()

        def part(title: str, *lines: str) -> None:
            text.append(f"{title}\n", style="bold")
            for line in lines:
                text.append(f"{line}\n")
            text.append("\n")

        alpha = number(self._field("reward.alpha").value)
        if isinstance(alpha, int | float) and "reward.alpha" not in self._faults:
            part("reward", f"{str(exchange(float(alpha))).capitalize()}.")
        for field, what in (("teacher.model", "teacher"), ("data.source", "data")):
            asset = asset_of(self._field(field).value.strip())
            if asset is not None:
                part(what, f"{asset.what}.", f"Licence: {asset.licence}.")
        if self.plan is not None:
            for title, lines in plan_words(self.plan):
                part(title, *lines)
        if more := self._field("more").value.strip():  # longer than its field, as a rule
            part("more", more)
        return text

    # ------------------------------------------------------------------ events

    def on_input_changed(self, event: Input.Changed) -> None:
        self._check()

    def on_input_submitted(self) -> None:
        self.focus_next()

    def on_descendant_focus(self, event: events.DescendantFocus) -> None:
        entry = next((e for e in ENTRIES if id_of(e.field) == event.widget.id), None)
        says = entry.says if entry else ""
        if entry is not None and entry.choices:
            says += " F2 lists them." if "F2" not in says else ""
        self.query_one("#hint", Static).update(Text(says))
        if self._opening:  # a filled form opens at its top, though its button has the focus
            self._opening = False
        else:
            event.widget.scroll_visible(animate=False)

    def on_button_pressed(self) -> None:
        self.action_start()

    def on_click(self, event: events.Click) -> None:
        widget = event.widget
        if widget is not None and widget.has_class("open") and widget.name:
            self._field(widget.name).focus()
            self.action_choose()

    # ------------------------------------------------------------------ actions

    def action_choose(self) -> None:
        """The choices that ship for the focused field; the first field that has some where none is focused."""
        at = self.focused
        entry = next((e for e in ENTRIES if at is not None and id_of(e.field) == at.id and e.choices), None)
        if entry is None:
            self.notify("This field has no list: write it.", timeout=3, markup=False)
            return

        def chosen(value: str | None) -> None:
            if value is not None:
                self._field(entry.field).value = value

        self.app.push_screen(Ask(f"Choose the {entry.label}", choices(entry.field, self._taken)), chosen)

    def action_preset(self) -> None:
        known = presets()

        def chosen(name: str | None) -> None:
            if name is None:
                return
            try:
                values = preset_values(name)
            except KdnasError as error:
                self.desk.fault(error)
                return
            self._ask_to_lose(
                "Replace what you have written?", f"Replace it by {name}", lambda: self._fill(name, values)
            )

        answers = [Answer(name, name, first_comment(path)) for name, path in known.items()]
        self.app.push_screen(Ask("Fill the form from a spec that ships", answers), chosen)

    def _fill(self, preset: str, values: Mapping[str, Any]) -> None:
        self._preset = preset
        self._given = form_values(values)
        for field, text in self._given.items():
            self._field(field).value = text

    def _ask_to_lose(self, question: str, lose: str, then: Callable[[], None]) -> None:
        """Do what loses what was written in the form: at once where nothing was, else after a question."""
        written = [entry.label for entry in ENTRIES if self._field(entry.field).value != self._given[entry.field]]
        if not written:
            then()
            return

        def answered(answer: str | None) -> None:
            if answer == "lose":
                then()

        answers = [Answer("keep", "Keep it"), Answer("lose", lose)]
        self.app.push_screen(Ask(question, answers, f"Written: {', '.join(written)}."), answered)

    def action_back(self) -> None:
        self._ask_to_lose("Leave the form?", "Leave; it is lost, and nothing is begun", super().action_back)

    def action_copy_command(self) -> None:
        if self.spec is None:
            self._to_fault()
        else:
            self.desk.copy(self._command() + "\n", f"{self.spec.name}.command.txt")

    def _to_fault(self) -> None:
        field = next(entry.field for entry in ENTRIES if entry.field in self._faults)
        self._field(field).focus()
        self.notify(self._faults[field], severity="error", timeout=8, markup=False)

    @writes
    def action_start(self) -> None:
        """Start, once the field has taken in what was typed before the key: on a busy machine that may still wait."""
        at = self.focused
        if at is None:
            self._start()
        else:
            at.call_later(self._start)

    def _start(self) -> None:
        if self._starting:
            return
        self._check()
        spec = self.spec
        if spec is None:
            self._to_fault()
            return
        self._starting = True
        self.give_up_asking()  # a plan loads what the search loads, which would begin the later for it
        self.query_one(ActButton).busy("Starting …")
        self._begin(spec, self._field("workers").value.strip())

    @work(thread=True, exit_on_error=False)
    def _begin(self, spec: StudySpec, count: str) -> None:
        try:
            workers.begin(to_toml(spec), spec.name, self.desk.storage, count)
        except (KdnasError, OSError) as error:
            fault = error if isinstance(error, KdnasError) else UsageError(str(error))
            self.app.call_from_thread(self._failed, fault)
            return
        self.app.call_from_thread(self.desk.open_study, spec.name)

    def _failed(self, error: KdnasError) -> None:
        self._starting = False
        self.query_one(ActButton).ready()
        self.desk.fault(error)
        if self._planning:
            self._plan_for = ""
            self._ask_plan_later()
