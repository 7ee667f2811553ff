"""`custom.toml`: keys, themes and notices are what a person wrote; what is wrong is one line with what is possible."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from textual.color import Color

from kdnas.system.errors import UsageError
from kdnas_tui import custom, keys, main, settings, theme
from kdnas_tui.app import KdnasApp
from kdnas_tui.screens.ask import Write
from kdnas_tui.screens.help import HelpScreen
from kdnas_tui.screens.new_study import NewStudyScreen
from kdnas_tui.screens.studies import StudiesScreen
from kdnas_tui.widgets.key_bar import KeyBar
from tests.test_docs import ROOT
from tests.tui.driving import app_on, driven, listed, opened, screen, text_of, until


@pytest.fixture(autouse=True)
def _default_keys_again() -> Iterator[None]:
    yield
    keys.use({})


def written(text: str) -> custom.Custom:
    custom.path().parent.mkdir(parents=True, exist_ok=True)
    custom.path().write_text(text, encoding="utf-8")
    return custom.read()


def test_no_file_changes_nothing() -> None:
    assert custom.read() == custom.Custom()
    keys.use(custom.read().keys)
    assert [keys.table(name) for name in keys.KEYS] == list(keys.KEYS.values())
    assert keys.keymap() == {}


WRONG = [
    ("notfy = 'bell'", "there is no setting 'notfy'. Did you mean 'notify'?"),
    ("notify = 'bel'", "notify: 'bel' is no way to notify. Did you mean 'bell'?"),
    ("notify = 3", "notify is 3. Write it in quotes."),
    ("keys = 3", "keys is 3, and no table."),
    ("[keys.stdy]\npause = 'P'", "there is no keys.stdy. Did you mean 'study'?"),
    ("[keys.study]\npuase = 'P'", "keys.study has no 'puase'. Did you mean 'pause'?"),
    ("[keys.study]\npause = 'hyper'", "keys.study.pause: 'hyper' is no key. Write one character, or a name"),
    ("[keys.study]\npause = 'ctrl+'", "'ctrl+' is no key."),
    ("[keys.study]\npause = ''", "'' is no key."),
    ("[keys.study]\npause = []", "keys.study.pause has no key."),
    ("[keys.study]\npause = 's'", "on keys.study 's' is both pause and stop. Give one of them another key."),
    ("[keys.everywhere]\nleave = 'p'", "on keys.study 'p' is both pause and leave."),
    ("[keys.study]\npause = 'j'", "'j' moves the cursor."),
    ("[keys.new]\nstart = 's'", "'s' is written in fields. Give it one with ctrl, or f1 to f12."),
    ("[keys.everywhere]\nhelp_in_fields = 'h'", "'h' is written in fields."),
    ("[themes.kdnas-dark]", "themes.kdnas-dark is the name of a theme that ships."),
    ("[themes.mine]\nprimry = 'red'", "themes.mine has no 'primry'. Did you mean 'primary'?"),
    ("[themes.mine]\nprimary = 'reddish'", "themes.mine.primary: 'reddish' is no colour."),
    ("[themes.mine]\ndark = 'no'", "themes.mine.dark is 'no'. Write true or false."),
    ("[themes.mine.variables]\nbrder = 'red'", "themes.mine.variables has no 'brder'. Did you mean 'border'?"),
    ("[keys.study", "is not TOML"),
]


@pytest.mark.parametrize(("text", "line"), WRONG, ids=[text for text, _ in WRONG])
def test_what_is_wrong_is_one_line(
    text: str, line: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UsageError) as error:
        written(text)
    assert line in str(error.value)
    assert main.run(["--serve", "--port", "0"]) == 2  # before anything is served or drawn
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and line in said


@pytest.mark.parametrize(
    ("text", "name", "shown"),
    [("P", "P", "P"), ("?", "question_mark", "?"), ("^x", "ctrl+x", "^x"), ("F6", "f6", "F6"),
     ("ctrl+right", "ctrl+right", "^→"), ("é", "é", "é"), ("Escape", "escape", "esc"),
     ("space", "space", "space"), ("-", "minus", "-"), ("^", "circumflex_accent", "^")],
)  # fmt: skip
def test_a_key_is_written_as_people_call_it(text: str, name: str, shown: str) -> None:
    found = written(f"[keys.study]\nzoom = [{text!r}]\nback = 'f9'\nmark = 'f10'\n[keys.everywhere]\nhelp = 'f8'")
    assert found.keys["study"]["zoom"] == (name,)
    assert keys.shown(name) == shown


def test_every_key_of_the_table_is_shown_as_the_table_says() -> None:
    for table in keys.KEYS.values():
        for key in table:
            first = key.keys.split(",")[0]
            assert keys.shown(first) == key.shown, key


async def test_own_keys_work_are_shown_and_the_old_ones_do_nothing(three_studies: Path, tmp_path: Path) -> None:
    own = written("[keys.studies]\nnew = 'b'\nduplicate = 'n'\nrename = ['R', 'f6']\n[keys.everywhere]\nhelp = 'H'")
    shutil.copy(three_studies, tmp_path / "kdnas.db")
    async with driven(app_on(str(tmp_path / "kdnas.db"), custom=own)) as pilot:
        await listed(pilot)
        assert "b new" in text_of(pilot.app) and "n duplicate" in text_of(pilot.app)
        await pilot.press("e", "question_mark")
        screen(pilot.app, StudiesScreen)
        for key in ("R", "f6"):
            await pilot.press(key)
            screen(pilot.app, Write)
            await pilot.press("escape")
        await pilot.press("H")
        screen(pilot.app, HelpScreen)
        assert re.search(r"R/F6 +Give the study another name", text_of(pilot.app))
        await pilot.press("escape", "n")
        assert screen(pilot.app, NewStudyScreen).query_one("#f-name").value.endswith("-2")
        bar = pilot.app.screen.query_one(KeyBar)
        assert ("H", "help") not in [(key.shown, key.label) for key in bar._keys]  # F1 where one writes


async def test_two_keys_may_change_places(three_studies: Path, tmp_path: Path) -> None:
    own = written("[keys.study]\nreward = 'i'\ncandidate = 'a'")
    shutil.copy(three_studies, tmp_path / "kdnas.db")
    async with driven(app_on(str(tmp_path / "kdnas.db"), custom=own)) as pilot:
        await opened(pilot, "minilm")
        await pilot.press("i")
        await until(pilot, lambda: type(pilot.app.screen).__name__ == "RescoreScreen", "α and β are shown")


def test_a_theme_of_ones_own_is_gone_through_and_remembered(tmp_path: Path) -> None:
    own = written(
        "[themes.paper]\ndark = false\nprimary = 'navy'\nbackground = '#fff'\n[themes.paper.variables]\nborder='red'"
    )
    (paper,) = own.themes
    assert (paper.dark, paper.primary, paper.background) == (False, Color.parse("navy").hex, "#FFFFFF")
    assert paper.variables["border"] == Color.parse("red").hex
    assert paper.variables["scrollbar-background"] == paper.background  # went with it
    assert paper.accent == theme.LIGHT.accent
    app = KdnasApp(str(tmp_path / "k.db"), custom=own)
    seen = []
    for _ in range(3):
        app.action_next_theme()
        seen.append(app.theme)
    assert seen == ["kdnas-light", "paper", "kdnas-dark"]
    settings.keep(theme="paper")
    assert KdnasApp(str(tmp_path / "k.db"), custom=own).theme == "paper"
    assert KdnasApp(str(tmp_path / "k.db")).theme == "kdnas-dark"  # no longer there


def test_the_page_shows_a_file_that_is_taken() -> None:
    (block,) = re.findall(r"^```toml\n(.*?)^```", (ROOT / "docs" / "custom.md").read_text(), re.DOTALL | re.MULTILINE)
    own = written(block)
    assert (own.notify, own.keys["study"]["compare"], own.themes[0].name) == ("bell", ("c", "f6"), "paper")


async def test_sentences_name_the_keys_that_work(three_studies: Path, tmp_path: Path) -> None:
    own = written("[keys.study]\nzoom = 'F6'\nresume = 'R'\nback = 'f9'\nbudget = 'b'\n[keys.finalize]\nstart = '^g'")
    shutil.copy(three_studies, tmp_path / "kdnas.db")
    async with driven(app_on(str(tmp_path / "kdnas.db"), custom=own)) as pilot:
        await opened(pilot, "minilm")
        await pilot.press("question_mark")
        said = screen(pilot.app, HelpScreen)._pane
        assert "F6 gives a pane the whole" in said and "<study." not in said
        await pilot.press("escape", "f")
        await until(pilot, lambda: "Distil ^g" in text_of(pilot.app), "the button names its key")
    assert keys.worded("Press <study.budget>, then <study.resume>; < rung") == "Press b, then R; < rung"


def test_every_key_that_a_sentence_names_is_in_the_table() -> None:
    package = Path(keys.__file__).parent
    named = {
        (table, name)
        for file in package.rglob("*.py")
        for table, name in re.findall(r"<([a-z-]+)\.(\w+)>", file.read_text(encoding="utf-8"))
        if (table, name) != ("screen", "name")  # the pattern itself
    }
    assert ("study", "zoom") in named
    for table, name in named:
        assert name in keys.named(table), f"{table}.{name}"
