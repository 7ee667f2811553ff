"""Every key of the table, pressed on its screen at three sizes, and what it must have done; none may be left out."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from textual.command import CommandPalette
from textual.pilot import Pilot
from textual.screen import Screen

from kdnas.store import campaigns, queries
from kdnas.store import tables as t
from kdnas.store.changes import set_remark, set_reward, set_wanted
from kdnas.store.database import Store, open_store
from kdnas.study.rows import TrialRow
from kdnas.system.paths import state_folder
from kdnas_tui import keys, workers
from kdnas_tui.app import KdnasApp
from kdnas_tui.keys import Key
from kdnas_tui.screens.about import AboutScreen
from kdnas_tui.screens.ask import Ask, Write
from kdnas_tui.screens.campaign import CampaignScreen
from kdnas_tui.screens.candidate import CandidateScreen
from kdnas_tui.screens.columns import ChooseColumns
from kdnas_tui.screens.compare import CompareScreen
from kdnas_tui.screens.compare_studies import CompareStudiesScreen
from kdnas_tui.screens.export import ExportScreen
from kdnas_tui.screens.finalize import FinalizeScreen
from kdnas_tui.screens.help import HelpScreen
from kdnas_tui.screens.jump import Jump
from kdnas_tui.screens.new_campaign import NewCampaignScreen
from kdnas_tui.screens.new_study import NewStudyScreen
from kdnas_tui.screens.rescore import RescoreScreen
from kdnas_tui.screens.studies import StudiesScreen
from kdnas_tui.screens.study import StudyScreen
from kdnas_tui.widgets.compare_table import CompareTable
from kdnas_tui.widgets.list_table import ListTable
from kdnas_tui.widgets.log_tail import LogTail
from kdnas_tui.widgets.pareto_plot import ParetoPlot
from kdnas_tui.widgets.reward_history import RewardHistory
from kdnas_tui.widgets.trials_table import TrialsTable
from tests.campaigns import formulas
from tests.tui.driving import SIZES, app_on, driven, listed, opened, until


@dataclass
class Site:
    """One app on a store of its own, and what its keys have left behind."""

    pilot: Pilot[str]
    store: Store
    folder: Path

    @property
    def app(self) -> KdnasApp:
        assert isinstance(self.pilot.app, KdnasApp)
        return self.pilot.app

    @property
    def screen(self) -> Any:
        return self.app.screen

    @property
    def study(self) -> StudyScreen:
        return next(shown for shown in self.app.screen_stack if isinstance(shown, StudyScreen))

    @property
    def table(self) -> TrialsTable:
        return self.study.query_one(TrialsTable)

    async def press(self, *names: str) -> None:
        for name in names:
            await self.pilot.press(name)

    async def until(self, condition: Callable[[], Any], what: str) -> None:
        await until(self.pilot, condition, what)

    async def shown(self, kind: type[Screen[Any]]) -> None:
        await self.until(lambda: isinstance(self.screen, kind), f"{kind.__name__} is shown")

    def told(self, words: str) -> bool:
        return any(words in notice.message for notice in self.app._notifications)

    def row(self, number: int) -> TrialRow:
        study_id = queries.study_row(self.store, "minilm").study_id
        return next(row for row in queries.trial_rows(self.store, study_id) if row.number == number)

    def wanted(self) -> str:
        with self.store.connect() as connection:
            return str(connection.execute(sa.select(t.study.c.wanted).where(t.study.c.name == "minilm")).scalar_one())

    def copied(self, name: str) -> Path:
        return state_folder() / "copies" / name


Effect = Callable[[Site, str], Awaitable[None]]


def opens(kind: type[Screen[Any]]) -> Effect:
    async def effect(site: Site, key: str) -> None:
        before = site.screen
        await site.press(key)
        await site.shown(kind)
        await site.press("escape")
        await site.until(lambda: site.screen is before, "the screen before is shown again")

    return effect


def leads_to(kind: type[Screen[Any]]) -> Effect:
    async def effect(site: Site, key: str) -> None:
        await site.press(key)
        await site.shown(kind)

    return effect


def changes(value: Callable[[Site], object], what: str) -> Effect:
    async def effect(site: Site, key: str) -> None:
        before = value(site)
        await site.press(key)
        await site.until(lambda: value(site) != before, what)

    return effect


def tells(words: str) -> Effect:
    async def effect(site: Site, key: str) -> None:
        await site.press(key)
        await site.until(lambda: site.told(words), words)

    return effect


def copies(name: Callable[[Site], str]) -> Effect:
    async def effect(site: Site, key: str) -> None:
        path = site.copied(name(site))
        path.unlink(missing_ok=True)
        await site.press(key)
        await site.until(path.exists, f"{path.name} is written")
        assert site.app.clipboard == path.read_text()

    return effect


def focus(site: Site) -> object:
    return site.app.focused


def tab(site: Site) -> object:
    study = site.study
    return (study.panes.aside if study.panes.layout == "wide" else study.panes.tab), site.app.focused


async def pause(site: Site, key: str) -> None:
    await site.press(key)
    await site.until(lambda: site.wanted() == "pause", "pause is wanted")
    await site.until(lambda: site.study.watched.study.status == "pausing", "the screen knows")  # type: ignore[union-attr]
    await site.press(key)
    await site.until(lambda: site.wanted() == "run", "it is to go on")


async def resume(site: Site, key: str) -> None:
    set_wanted(site.store, queries.study_row(site.store, "minilm").study_id, "pause")
    await site.until(lambda: site.study.watched.study.status == "pausing", "the screen knows")  # type: ignore[union-attr]
    await site.press(key)
    await site.until(lambda: site.wanted() == "run", "it is to go on")


async def worker(site: Site, key: str) -> None:
    heard = site.folder / "heard.json"
    heard.unlink(missing_ok=True)
    await site.press(key)
    await site.until(lambda: heard.exists() and heard.read_text(), "a worker is started")
    assert json.loads(heard.read_text()) == ["worker", "minilm", "--storage", site.store.url]


async def filters(site: Site, key: str) -> None:
    await site.press(key, *"layers", "greater_than_sign", "equals_sign", "5", "enter")
    await site.until(lambda: site.study.watched.filter.text == "layers>=5", "the filter is used")
    assert 0 < site.table.count < len(site.study.watched.trials or ())


async def back_from_study(site: Site, key: str) -> None:
    site.study._show_tab("trials")  # from the log, esc and / are its own
    await filters(site, "slash")
    await site.press(key)
    await site.until(lambda: site.study.watched.filter.empty, "the filter is cleared first")
    await site.press(key)
    await site.shown(StudiesScreen)


async def marks(site: Site, key: str) -> None:
    number = site.study.watched.cursor
    assert number is not None
    before = site.row(number).marked
    await site.press(key)
    await site.until(lambda: site.row(number).marked is not before, "the mark is stored")
    await site.until(lambda: site.study.watched.trials.scored(number).row.marked is not before, "and shown")  # type: ignore[union-attr]


async def compare(site: Site, key: str) -> None:
    study_id = queries.study_row(site.store, "minilm").study_id
    for number in (25, 16):
        set_remark(site.store, study_id, number, marked=True)
    await site.until(lambda: len(site.study.watched.marked()) >= 2, "two are marked")
    await opens(CompareScreen)(site, key)


async def starts_nothing_with_a_fault(site: Site, key: str) -> None:
    name = site.screen.query_one("#f-name")
    usual, name.value = name.value, "no name"
    await site.until(lambda: "name" in site.screen._faults, "the fault is seen")
    await site.press(key)
    await site.until(lambda: site.app.focused is name, "the faulty field is gone to")
    name.value = usual


async def leaves_the_form(site: Site, key: str) -> None:
    site.screen.query_one("#f-seed").value = "77"
    await site.press(key)
    await site.shown(Ask)
    await site.press("down", "enter")
    await site.shown(StudiesScreen)


async def lists_choices(site: Site, key: str) -> None:
    site.screen.query_one("#f-data-source").focus()
    await site.pilot.pause()
    await opens(Ask)(site, key)


async def copies_command(site: Site, key: str) -> None:
    site.screen.query_one("#f-name").value = "mine"
    await site.until(lambda: site.screen.spec is not None and site.screen.spec.name == "mine", "the form is right")
    await site.press(key)
    await site.until(lambda: site.app.clipboard.startswith("kdnas search mine"), "the command is copied")


async def uses_reward(site: Site, key: str) -> None:
    site.screen.query_one("#alpha").value = "−0.2"
    await site.press(key)
    await site.until(lambda: queries.study_row(site.store, "minilm").alpha == -0.2, "the study uses it")
    study_id = queries.study_row(site.store, "minilm").study_id
    set_reward(site.store, study_id, -0.06, 0.6)


async def exports(site: Site, key: str) -> None:
    path = site.folder / "minilm.json"
    path.unlink(missing_ok=True)
    await site.press(key)
    await site.until(path.exists, "the file is written")
    assert len(json.loads(path.read_text())["candidates"]) >= 2
    await site.shown(StudyScreen)


async def distils(site: Site, key: str) -> None:
    heard = site.folder / "heard.json"
    heard.unlink(missing_ok=True)
    await site.press(key)
    await site.until(lambda: heard.exists() and heard.read_text(), "the command is started")
    assert json.loads(heard.read_text())[:3] == ["finalize", "minilm", "--trial"]


async def finds_studies(site: Site, key: str) -> None:
    await site.press(key, *"paper", "enter")
    await site.until(lambda: len(site.screen.query_one(ListTable).lines) == 1, "one is left")


async def shows_all_studies(site: Site, key: str) -> None:
    await finds_studies(site, "slash")
    await site.press(key)
    await site.until(lambda: len(site.screen.query_one(ListTable).lines) == 3, "all are shown")


async def compares_studies(site: Site, key: str) -> None:
    site.screen.marked = {row.study_id for row in site.screen.rows}
    await opens(CompareStudiesScreen)(site, key)


async def at_a_campaign(site: Site) -> None:
    """The cursor of the list is on one."""
    if campaigns.find_campaign(site.store, "c") is None:
        campaigns.begin_campaign(site.store, formulas.spec(10), "/nowhere")
    await site.until(lambda: site.screen.campaigns, "it is listed")
    site.screen.query_one(ListTable).go_to("campaign 1")
    await site.pilot.pause()


async def unfolds(site: Site, key: str) -> None:
    await at_a_campaign(site)
    await changes(lambda site: set(site.screen.unfolded), "its members are shown")(site, key)


async def folds(site: Site, key: str) -> None:
    await changes(lambda site: set(site.screen.unfolded), "they are hidden")(site, key)
    campaigns.delete_campaign(site.store, "c")
    await site.until(lambda: not site.screen.campaigns, "it is listed no longer")


def runs(*words: str) -> Effect:
    async def effect(site: Site, key: str) -> None:
        heard = site.folder / "heard.json"
        heard.unlink(missing_ok=True)
        await site.press(key)
        await site.until(lambda: heard.exists() and heard.read_text(), "the command is started")
        said = json.loads(heard.read_text())
        assert [said[0], *said[2:]] == ["campaign", *words, "--storage", site.store.url], said

    return effect


async def across_studies(site: Site, key: str) -> None:
    """To the next study where one has no room, and back."""
    table = site.screen.query_one(CompareTable)
    table.left = 0 if key == "right" else len(table.titles) - len(table.in_sight)
    before, room = table.left, len(table.titles) > len(table.in_sight)
    await site.press(key)
    await site.until(lambda: (table.left != before) == room, "the next study is in sight")


async def leaves(site: Site, key: str) -> None:
    await site.press(key)
    await site.until(lambda: site.app._exit, "the app ends")


async def previous_candidate(site: Site, key: str) -> None:
    await changes(cursor, "the next candidate is shown")(site, "right_square_bracket")
    await changes(cursor, "the candidate before is shown")(site, key)


def cursor(site: Site) -> object:
    return site.study.watched.cursor


def order(site: Site) -> object:
    return site.table.sort_key, site.table.descending


def page(site: Site) -> int:
    return site.table.pages.page


async def turns_page(site: Site, key: str) -> None:
    before, last = page(site), len(site.table.pages.pages) - 1
    await site.press(key)
    assert page(site) == min(before + 1, last)


async def turns_back(site: Site, key: str) -> None:
    await turns_page(site, "right")
    before = page(site)
    await site.press(key)
    assert page(site) == max(0, before - 1)


async def steps_back(site: Site, key: str) -> None:
    await changes(cursor, "the cursor is on the next trial")(site, "down")
    await changes(cursor, "it is back")(site, key)


def axes(site: Site) -> object:
    plot = site.study.query_one(ParetoPlot)
    return plot._x_min, plot._x_max, plot._y_min, plot._y_max


async def comes_closer(site: Site, key: str) -> None:
    if site.study.panes.layout == "tabs":
        await tells("No plot with axes is shown")(site, key)
        return
    await changes(axes, "less of the plot is shown")(site, key)
    await changes(axes, "all of it again")(site, "0")


async def goes_farther(site: Site, key: str) -> None:
    if site.study.panes.layout == "tabs":
        await tells("No plot with axes is shown")(site, key)
        return
    await changes(axes, "less of the plot is shown")(site, "e")
    await changes(axes, "all of it again")(site, key)


async def shows_another_quantity(site: Site, key: str) -> None:
    if site.study.panes.layout == "tabs":
        await tells("several quantities")(site, key)
        return
    await changes(lambda site: site.study.query_one(RewardHistory).hypervolume, "the hypervolume is shown")(site, key)
    await site.press(key)


async def goes_to_match(site: Site, key: str) -> None:
    log = site.study.query_one(LogTail)
    site.study._show_tab("log")
    await site.press("slash", *"the", "enter")
    await changes(lambda site: log._here, "another line is found")(site, key)
    await site.press("escape")
    site.study._show_tab("trials")


async def zooms(site: Site, key: str) -> None:
    """Where the screen is wide enough for all panes, and back; elsewhere it says that there is one already."""
    panes = site.study.panes
    if panes.layout == "tabs":
        await tells("the whole screen already")(site, key)
        return
    await changes(lambda site: panes.layout, "one pane is shown")(site, key)
    await changes(lambda site: panes.layout, "all panes are shown")(site, key)


async def moves_border(site: Site, key: str) -> None:
    if site.study.panes.layout == "tabs":
        await tells("no border to move")(site, key)
        return
    await changes(lambda site: site.study.query_one("#left").size.width, "the border moved")(site, key)


def first_column(site: Site) -> object:
    return site.screen.query_one(CompareTable).left


async def back_across(site: Site, key: str) -> None:
    await changes(first_column, "the next candidates are in sight")(site, "right")
    await changes(first_column, "those before are in sight")(site, key)


def candidate_file(site: Site) -> str:
    return f"minilm-{site.study.watched.cursor}.json"


EFFECTS: dict[str, dict[str, Effect]] = {
    "everywhere": {
        "help": opens(HelpScreen),
        "app.command_palette": opens(CommandPalette),
        "app.next_theme": changes(lambda site: site.app.theme, "the other theme is on"),
        "app.leave": leaves,
    },
    "studies": {
        "new": opens(NewStudyScreen),
        "filter": finds_studies,
        "duplicate": opens(NewStudyScreen),
        "rename": opens(Write),
        "tags": opens(Write),
        "note": opens(Write),
        "copy_as": opens(Ask),
        "mark": changes(lambda site: set(site.screen.marked), "it is marked"),
        "compare": compares_studies,
        "delete": opens(Ask),
        "sort(1)": changes(lambda site: site.screen._order, "sorted by another column"),
        "sort(-1)": changes(lambda site: site.screen._order, "sorted by another column"),
        "sort(0)": changes(lambda site: site.screen._order, "the order is turned round"),
        "back": shows_all_studies,
        "open": leads_to(StudyScreen),
        "unfold": unfolds,
        "fold": folds,
        "new_campaign": opens(NewCampaignScreen),
    },
    "campaign": {
        "open": tells("poor has no study: waiting."),
        "resume": runs(),
        "stop": tells("c does not run; it is new."),
        "measure": tells("come with the ending"),
        "log": changes(lambda site: site.screen.query_one("#front").log_x, "the axis is another"),
        "copy": copies(lambda site: "c.sh"),
        "report": tells("The report comes with the ending."),
        "turn(1)": changes(lambda site: site.screen.tab, "another part is shown"),
        "turn(-1)": changes(lambda site: site.screen.tab, "another part is shown"),
        "back": leads_to(StudiesScreen),
    },
    "new-campaign": {
        "start": runs(),
        "plan": runs("--plan"),
        "choose": opens(Ask),
        "copy_command": copies(lambda site: "campaign-films.sh"),
        "back": leads_to(StudiesScreen),
    },
    "studies-compare": {
        "turn(1)": changes(lambda site: site.screen.tab, "another part is shown"),
        "turn(-1)": changes(lambda site: site.screen.tab, "another part is shown"),
        "whole": changes(lambda site: site.screen.query_one(CompareTable)._opened.copy(), "the value is shown whole"),
        "across(-1)": across_studies,
        "across(1)": across_studies,
        "log": changes(lambda site: site.screen.query_one("#front").log_x, "the axis is another"),
        "copy": copies(lambda site: "-".join(site.screen.compared.names) + ".json"),
        "back": leads_to(StudiesScreen),
    },
    "new": {
        "start": starts_nothing_with_a_fault,
        "choose": lists_choices,
        "copy_command": copies_command,
        "preset": opens(Ask),
        "command": opens(Ask),
        "app.focus_next": changes(focus, "another field has the focus"),
        "app.focus_previous": changes(focus, "another field has the focus"),
        "back": leaves_the_form,
    },
    "study": {
        "pause": pause,
        "stop": opens(Ask),
        "resume": resume,
        "reward": opens(RescoreScreen),
        "filter": filters,
        "mark": marks,
        "tags": opens(Write),
        "note": opens(Write),
        "compare": compare,
        "finalize": opens(FinalizeScreen),
        "export": opens(ExportScreen),
        "copy": copies(candidate_file),
        "copy_as": opens(Ask),
        "budget": opens(Write),
        "constraints": opens(Write),
        "worker": worker,
        "candidate": opens(CandidateScreen),
        "about": opens(AboutScreen),
        "sort(1)": changes(order, "sorted by another column"),
        "sort(-1)": changes(order, "sorted by another column"),
        "sort(0)": changes(order, "the order is turned round"),
        "jump": opens(Jump),
        "step(1)": changes(cursor, "the cursor is on the next trial"),
        "step(-1)": steps_back,
        "closer(1)": comes_closer,
        "closer(-1)": goes_farther,
        "wider": comes_closer,
        "taller": comes_closer,
        "whole_plot": goes_farther,
        "measure": shows_another_quantity,
        "sideways(1)": turns_page,
        "sideways(-1)": turns_back,
        "log_axis": changes(lambda site: site.study.query_one(ParetoPlot).log_latency, "the axis is another"),
        "hours": changes(lambda site: site.study.query_one(RewardHistory).by_time, "the axis is another"),
        "level": changes(lambda site: site.study.query_one(LogTail).level, "other lines are shown"),
        "match(1)": goes_to_match,
        "match(-1)": goes_to_match,
        "columns": opens(ChooseColumns),
        "zoom": zooms,
        "share(1)": moves_border,
        "share(-1)": moves_border,
        "next_pane": changes(tab, "another pane is shown"),
        "previous_pane": changes(tab, "another pane is shown"),
        "next_tab": changes(tab, "another tab is shown"),
        "previous_tab": changes(tab, "another tab is shown"),
        "back": back_from_study,
    },
    "reward": {
        "step(-1)": changes(lambda site: site.screen.query_one("#alpha").value, "α is lower"),
        "step(1)": changes(lambda site: site.screen.query_one("#alpha").value, "α is higher"),
        "other": changes(focus, "the other value has the focus"),
        "use": uses_reward,
        "back": leads_to(StudyScreen),
    },
    "candidate": {
        "copy": copies(candidate_file),
        "copy_as": opens(Ask),
        "next": changes(cursor, "the next candidate is shown"),
        "previous": previous_candidate,
        "mark": marks,
        "back": leads_to(StudyScreen),
    },
    "compare": {
        "whole": changes(lambda site: site.screen.query_one(CompareTable)._opened.copy(), "the value is shown whole"),
        "across(-1)": back_across,
        "across(1)": changes(first_column, "the next candidates are in sight"),
        "copy": copies(lambda site: "minilm-" + "-".join(str(n) for n in site.screen._numbers) + ".json"),
        "back": leads_to(StudyScreen),
    },
    "about": {
        "copy": copies(lambda site: "minilm.toml"),
        "back": leads_to(StudyScreen),
    },
    "export": {
        "app.focus_next": changes(focus, "another field has the focus"),
        "app.focus_previous": changes(focus, "another field has the focus"),
        "write": exports,
        "back": leads_to(StudyScreen),
    },
    "finalize": {
        "start": distils,
        "score": tells("No model has been made yet."),
        "stop": tells("Nothing runs."),
        "app.focus_next": changes(focus, "another field has the focus"),
        "app.focus_previous": changes(focus, "another field has the focus"),
        "back": leads_to(StudyScreen),
    },
    "dialog": {"back": leads_to(StudyScreen)},
    "help": {"help": leads_to(StudyScreen)},
}


async def arrive(site: Site, name: str) -> None:
    """Go to the screen, if it is not the one that is shown."""
    kinds: dict[str, tuple[type[Screen[Any]], str]] = {
        "new": (NewStudyScreen, "n"), "campaign": (CampaignScreen, "enter"),
        "new-campaign": (NewCampaignScreen, "C"), "studies-compare": (CompareStudiesScreen, "c"),
        "reward": (RescoreScreen, "a"), "candidate": (CandidateScreen, "i"),
        "compare": (CompareScreen, "c"), "about": (AboutScreen, "v"), "export": (ExportScreen, "x"),
        "finalize": (FinalizeScreen, "f"), "dialog": (Ask, "s"),
        "help": (HelpScreen, "question_mark"),
    }  # fmt: skip
    kind, key = kinds.get(name, (StudiesScreen if name == "studies" else StudyScreen, ""))
    if isinstance(site.screen, kind):
        return
    if name in ("studies", "new", "studies-compare", "campaign", "new-campaign"):
        while not isinstance(site.screen, StudiesScreen):
            site.app.pop_screen()
            await site.pilot.pause()
        await listed(site.pilot)
        site.screen.marked = {row.study_id for row in site.screen.rows}
        if name == "campaign":
            await at_a_campaign(site)
    else:
        await opened(site.pilot, "minilm")
        if name == "compare":
            study_id = queries.study_row(site.store, "minilm").study_id
            for scored in site.study.watched.trials.best(9):  # type: ignore[union-attr]
                set_remark(site.store, study_id, scored.number, marked=True)
            await site.until(lambda: len(site.study.watched.marked()) == 9, "nine are marked")
    if key:
        await site.press(key)
        await site.shown(kind)
        await site.pilot.pause()
    if name == "studies-compare":
        await site.until(lambda: site.screen.compared is not None, "the studies are read")
    if name == "new":
        site.screen.give_up_asking()


def pressed(key: Key) -> str:
    return key.keys.split(",")[0]


@pytest.mark.parametrize("size", ["48x40", "80x24", "120x36"])
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.heavy) if name in ("studies", "study", "new") else name
        for name in keys.KEYS
        if name != "everywhere"
    ],
)
async def test_every_key_does_what_it_says(
    name: str, size: str, three_studies: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy(three_studies, tmp_path / "kdnas.db")
    monkeypatch.chdir(tmp_path)
    heard = f"import json, sys; open({str(tmp_path / 'heard.json')!r}, 'w').write(json.dumps(sys.argv[1:]))"
    monkeypatch.setattr(workers, "KDNAS", (sys.executable, "-c", heard))
    with open_store(tmp_path / "kdnas.db") as store:
        async with driven(app_on(store.url), SIZES[size]) as pilot:
            site = Site(pilot, store, tmp_path)
            await listed(pilot)
            ends = [key for key in keys.KEYS["everywhere"] if key.action == "app.leave"]
            last = next(key for key in ends if key.priority or name not in keys.FORMS)
            for key in (*keys.KEYS[name], *everywhere(name), last):
                await arrive(site, name)
                effect = {**EFFECTS["everywhere"], **EFFECTS[name]}[key.action]
                try:
                    await effect(site, pressed(key))
                except AssertionError as error:
                    raise AssertionError(f"{key.shown} ({key.action}) on {name} at {size}: {error}") from error


def everywhere(name: str) -> list[Key]:
    """The keys that every screen has, but for those that end the app, and letters where there are fields."""
    out = {"app.leave", "help"} if name == "help" else {"app.leave"}  # help closes by the key that opens it
    found = [key for key in keys.KEYS["everywhere"] if key.action not in out]
    return [key for key in found if key.priority or name not in keys.FORMS]


def test_no_key_is_left_out() -> None:
    for name, table in keys.KEYS.items():
        assert {key.action for key in table} == set(EFFECTS[name]), name
