"""The form for a new study: each field says its hint, and what it starts is what it shows."""

from __future__ import annotations

import asyncio
import shlex
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from textual.pilot import Pilot
from textual.widgets import Input

from kdnas.models.open import locate
from kdnas.study.spec import TeacherSpec, from_values
from kdnas.study.spec_differences import flatten
from kdnas.study.spec_flags import assigned, command, overlay
from kdnas.study.spec_toml import read_toml
from kdnas.system.errors import UsageError
from kdnas.system.paths import presets
from kdnas_tui import workers
from kdnas_tui.screens import form_reading, new_study
from kdnas_tui.screens.ask import Ask
from kdnas_tui.screens.new_study import NewStudyScreen
from kdnas_tui.screens.spec_fields import form_values, number, plan_words, preset_values, split_settings
from kdnas_tui.screens.studies import StudiesScreen
from tests.tui.driving import SIZES, app_on, driven, listed, screen, shows, text_of, until


@pytest.fixture
async def pilot(three_studies: Path) -> AsyncIterator[Pilot[str]]:
    async with driven(app_on(str(three_studies))) as pilot:
        await listed(pilot)
        await pilot.press("n")
        form(pilot).give_up_asking()
        yield pilot


def form(pilot: Pilot[str]) -> NewStudyScreen:
    found = pilot.app.screen
    assert isinstance(found, NewStudyScreen)
    return found


async def test_the_form_takes_every_teacher_that_the_command_line_takes(pilot: Pilot[str]) -> None:
    found = form(pilot)
    for name in ("roberta-base", "gpt2", "albert-base-v2", "owner/model"):
        found.query_one("#f-teacher-model", Input).value = name
        await until(
            pilot,
            lambda name=name: found.spec is not None and found.spec.teacher.model == name,  # type: ignore[misc]
            "the form makes a spec",
        )


async def test_form_and_command_line_refuse_a_teacher_in_the_same_words(
    pilot: Pilot[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    (tmp_path / "empty").mkdir()
    (tmp_path / "nowhere").write_text("a file")
    found = form(pilot)
    for name in ("all-minilm-l6-v1", "sotu", "nowhere", "./nowhere", "two words", "empty"):
        with pytest.raises(UsageError) as refused:
            locate(TeacherSpec(model=name))
        words = str(refused.value)
        found.query_one("#f-teacher-model", Input).value = name
        await until(
            pilot,
            lambda words=words: found._faults.get("teacher.model") == words,  # type: ignore[misc]
            "the same is said",
        )


HINTS = (
    ("name", "minilm", "There is a study minilm already."),
    ("name", "with space", "letters, digits"),
    ("name", "", "Nothing is written here."),
    ("teacher-model", "all-minilm-l6-v1", "Did you mean 'all-minilm-l6-v2'?"),
    ("teacher-model", "/nowhere/model", "There is no model at '/nowhere/model'."),
    ("data-source", "missing.csv", "There is no missing.csv."),
    ("data-source", "stou", "Did you mean 'sotu'?"),
    ("recipe-name", "hiden-state", "Did you mean 'hidden-state'?"),
    ("strategy-name", "lstmm", "Did you mean 'lstm'?"),
    ("reward-alpha", "3", "Give a number from -2 to 0."),
    ("reward-alpha", "fast", "α = 'fast' is no number. Give a number from -2 to 0."),
    ("reward-beta", "0", "Give a number of more than 0 and at most 10."),
    ("budget-trials", "0", "Give a whole number from 1 to 1000000."),
    ("budget-trials", "many", "trials = 'many' is no whole number."),
    ("budget-trials", "1,000", "A comma is no part of a number: write 1000"),
    ("budget-proxy-fraction", "2", "Give a number of more than 0 and at most 1."),
    ("device", "gpu", "device = 'gpu' is not known. Give auto, cpu, cuda, cuda:1 or mps."),
    ("workers", "0", "Give 1 to 256, or gpus."),
    ("seed", "-1", "Give a whole number from 0 to 2147483647."),
    ("more", "data.lenght=64", "Did you mean 'length'?"),
    ("more", "data.length", "field=value"),
    ("more", "data.length=[1", "Close the brackets."),
)


@pytest.mark.heavy
async def test_each_field_says_its_hint_under_itself(pilot: Pilot[str]) -> None:
    """One after the other on one form; between them all is right again."""
    found = form(pilot)
    for field, value, hint in HINTS:
        entry, said = found.query_one(f"#f-{field}"), found.query_one(f"#f-{field}-hint")
        usual, entry.value = entry.value, value  # type: ignore[attr-defined]
        await until(pilot, lambda said=said, hint=hint: said.display and hint in str(said.content), hint)  # type: ignore[misc]
        assert "correct it to see the command" in text_of(pilot.app), field
        pilot.app.set_focus(None)
        await pilot.press("ctrl+s")
        await pilot.pause()
        assert found.focused is not None and found.focused.id == f"f-{field}"
        entry.value = usual  # type: ignore[attr-defined]
        await until(pilot, lambda: not found._faults, f"{field} is right again")


async def test_the_command_shown_begins_the_same_study(pilot: Pilot[str], three_studies: Path) -> None:
    found = form(pilot)
    for field, value in (("name", "mine"), ("strategy-name", "random"), ("reward-alpha", "−0.2"), ("workers", "gpus")):
        found.query_one(f"#f-{field}").value = value  # type: ignore[attr-defined]
    found.query_one("#f-more").value = "data.length=64"  # type: ignore[attr-defined]
    await until(pilot, shows(pilot.app, "kdnas search mine"), "the command is shown")
    words = shlex.split(str(found.query_one("#command").content).removeprefix("$ "))  # type: ignore[attr-defined]
    assert words == [
        "kdnas", "search", "mine", "--strategy", "random", "--alpha", "-0.2", "--set", "data.length=64",
        "--storage", str(three_studies), "--workers", "gpus",
    ]  # fmt: skip
    assert "10 times faster is worth 0.295 of loss" in text_of(pilot.app)


async def test_no_plan_is_asked_for_while_the_study_begins_and_one_is_where_that_failed(
    pilot: Pilot[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    found, asked, go_on = form(pilot), list[str](), threading.Event()

    def begin(*_: object) -> None:
        go_on.wait()
        raise UsageError("no room")

    monkeypatch.setattr(workers, "begin", begin)
    monkeypatch.setattr(new_study, "PLAN_AFTER_S", 0.2)
    monkeypatch.setattr(found, "_ask_plan", asked.append)
    found.query_one("#f-name", Input).value = "mine"
    await until(pilot, lambda: found.spec is not None and found.spec.name == "mine", "the form makes a spec")
    found._start()
    before = len(asked)
    try:
        await asyncio.sleep(0.3)
        assert len(asked) == before
    finally:
        go_on.set()
    await until(pilot, lambda: len(asked) > before, "the plan is asked for again")


async def test_choices_that_ship_are_listed_and_taken(pilot: Pilot[str]) -> None:
    found = form(pilot)
    found.query_one("#f-data-source").focus()
    await pilot.press("f2")
    screen(pilot.app, Ask)
    assert "public domain" in text_of(pilot.app)
    await pilot.press("down", "enter")
    await until(pilot, lambda: found.query_one("#f-data-source").value == "rotten-tomatoes", "it is taken")  # type: ignore[attr-defined]


async def test_a_preset_fills_the_whole_form(pilot: Pilot[str]) -> None:
    found = form(pilot)
    await pilot.press("f4")
    names = list(presets())
    await pilot.press(*["down"] * names.index("quickstart"), "enter")
    await until(pilot, lambda: found.query_one("#f-name").value == "quickstart", "it is filled")  # type: ignore[attr-defined]
    assert found.spec == read_toml(presets()["quickstart"])


async def test_escape_begins_nothing(pilot: Pilot[str]) -> None:
    await pilot.press("escape")
    await until(pilot, lambda: isinstance(pilot.app.screen, StudiesScreen), "the list is shown")


@pytest.mark.parametrize("size", ["48x40", "80x24", "120x36"])
async def test_the_start_button_is_one_key_away_with_a_preset(tmp_path: Path, size: str) -> None:
    async with driven(app_on(f"sqlite:///{tmp_path / 'k.db'}", preset="quickstart"), SIZES[size]) as pilot:
        await until(pilot, lambda: isinstance(pilot.app.screen, NewStudyScreen), "the form is shown")
        found = form(pilot)
        found.give_up_asking()
        assert found.focused is not None and found.focused.id == "start"
        await pilot.pause()
        shown = text_of(pilot.app)
        assert "quickstart" in shown and "all-minilm-l6-v2" in shown and "Start ^s" in shown, shown


async def test_a_preset_whose_study_exists_opens_it(three_studies: Path, tmp_path: Path) -> None:
    from kdnas.store.database import open_store
    from kdnas_tui.screens.study import StudyScreen
    from tests.tui.filled import study

    with open_store(tmp_path / "k.db", create=True) as store:
        study(store, "quickstart", rows=3)
    async with driven(app_on(f"sqlite:///{tmp_path / 'k.db'}", preset="quickstart")) as pilot:
        await until(pilot, lambda: isinstance(pilot.app.screen, StudyScreen), "the study is shown")


@pytest.mark.parametrize("name", presets())
def test_what_a_form_shows_of_a_preset_is_the_preset(name: str) -> None:
    shown = form_values(preset_values(name))
    pairs = [assigned(part) for part in split_settings(shown.pop("more"))]
    shown.pop("workers")
    texts = {"name", "teacher.model", "data.source", "data.text_column", "device"}
    pairs += [(field, text if field in texts else number(text)) for field, text in shown.items() if text]
    assert flatten(from_values(overlay({}, pairs))) == flatten(read_toml(presets()[name]))


@pytest.mark.parametrize("dtype", ["auto", "bfloat16"])
def test_the_dtype_of_latencies_goes_through_the_form(dtype: str) -> None:
    shown = form_values({"name": "half", "latency": {"dtype": dtype}})
    assert shown["more"] == ("" if dtype == "auto" else 'latency.dtype="bfloat16"')
    read = form_reading.read(shown, [], 0.0)
    assert read.spec is not None and read.spec.latency.dtype == dtype
    assert ("--set latency.dtype=bfloat16" in command(read.spec)) == (dtype != "auto")


def test_a_dtype_that_a_cpu_does_not_serve_is_said_in_the_form() -> None:
    shown = form_values({"name": "half"}) | {"device": "cpu", "more": "latency.dtype=float16"}
    read = form_reading.read(shown, [], 0.0)
    assert read.spec is None and "float16, which is for GPUs" in " ".join(read.faults.values())


def test_an_unknown_preset_names_the_nearest() -> None:
    with pytest.raises(UsageError, match="Did you mean 'quickstart'"):
        preset_values("quikstart")


@given(st.lists(st.sampled_from(["a=1", 'b="x y"', "c=[1, 2]", "d={x = [1, '] ']}", "e='a \"b'"]), max_size=5))
def test_settings_are_split_only_where_nothing_is_open(parts: list[str]) -> None:
    assert split_settings(" ".join(parts)) == parts


@pytest.mark.parametrize("size", SIZES)
async def test_command_figures_and_hint_are_in_sight_at_every_size(
    tmp_path: Path, size: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"sqlite:///{tmp_path / 'k.db'}"
    monkeypatch.setenv("KDNAS_STORAGE", url)  # the store of every day, which the command need not name
    async with driven(app_on(url, preset="quickstart"), SIZES[size]) as pilot:
        found = screen(pilot.app, NewStudyScreen)
        await until(pilot, lambda: found.spec is not None, "the form is read")
        found.give_up_asking()
        found.plan = {
            "space_size": 4096, "dimensions": {}, "proxy_tokens": 1000, "cache_bytes": 100 * 2**20,
            "seconds_per_trial": 20, "seconds": 240, "device": "cpu", "notes": [],
        }  # fmt: skip
        found.show_plan()
        found.query_one("#f-strategy-name").focus()
        await until(pilot, shows(pilot.app, "Who proposes the next candidate."), "the hint is in sight")
        shown = " ".join(text_of(pilot.app).split())
        assert "4,096 candidates" in shown and "100 MiB of cache" in shown and "about 4m, 20s each" in shown
        assert "$ kdnas search quickstart --preset quickstart" in shown and "--set" not in shown
        assert "^s start" in shown


async def test_a_long_command_says_which_key_shows_the_whole(tmp_path: Path) -> None:
    async with driven(app_on(f"sqlite:///{tmp_path / 'k.db'}", preset="quickstart"), (80, 24)) as pilot:
        found = screen(pilot.app, NewStudyScreen)
        found.give_up_asking()
        found.query_one("#f-more").value += " data.held_out=0.1 latency.batch_size=4 latency.threads=2 data.length=32"
        found.query_one("#f-name").value = "a-study-with-a-name-of-its-own"
        await until(pilot, lambda: found.spec is not None and found.spec.data.length == 32, "the form is read")
        await until(pilot, shows(pilot.app, "… F5 shows all"), "the cut command says how it goes on")
        await pilot.press("f5")
        await until(pilot, shows(pilot.app, "The same study as one command"), "the whole command is shown")
        whole = "".join(part.strip(" │") for part in text_of(pilot.app).splitlines()).replace(" ", "")
        assert all(part.replace(" ", "") in whole for part in ("data.length=32", "latency.threads=2", "--storage"))


def test_a_study_without_training_is_not_said_to_learn() -> None:
    plan = {
        "space_size": 8, "dimensions": {}, "proxy_tokens": 20_800, "epochs": 0, "cache_bytes": None, "seconds": None,
        "notes": [],
    }  # fmt: skip
    (said,) = dict(plan_words(plan))["what it takes, roughly"]
    assert said == "20.8k tokens to fit each candidate to, none is trained."
    (said,) = dict(plan_words({**plan, "epochs": 2}))["what it takes, roughly"]
    assert said == "20.8k tokens learnt from in each epoch."
