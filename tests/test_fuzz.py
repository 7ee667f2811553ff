"""`make fuzz` itself: every reader survives some inputs of it, and what a reader does wrong is found, told and kept."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path

import click
import pytest
from hypothesis import strategies as st

from benchmarks.fuzz import __main__ as fuzz
from benchmarks.fuzz import commands, readers, rounds, tables
from benchmarks.fuzz.reader import Given, Reader, Reading, Wrong
from kdnas.cli import frame
from kdnas.data.documents import Documents, LeftOut
from kdnas.system.errors import UsageError


@pytest.mark.parametrize("title", [reader.title for reader in readers.READERS])
def test_a_reader_falls_over_what_is_almost_sound(
    title: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = fuzz.main(["--only", title, "--inputs", "25", "--found", str(tmp_path), "--json", str(tmp_path / "table")])
    assert code == 0, capsys.readouterr().out
    [told] = json.loads((tmp_path / "table").read_text())["readers"]
    assert told["tried"] == told["refused"] + told["accepted"] == 25


Fed = Callable[[Callable[[Given], bool]], dict[str, object]]


@pytest.fixture
def fed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Fed:
    """What is told of a reader that takes `sound` and does as it likes with numbers."""

    def told(feed: Callable[[Given], bool]) -> dict[str, object]:
        def careful(given: Given) -> bool:
            return given.raw == b"sound" or feed(given)

        inputs = st.integers(0, 255).map(lambda number: Given(bytes([number])))
        reader = Reader("odd", lambda _: Reading(inputs, careful, Given(b"sound")))
        monkeypatch.setattr(readers, "READERS", [reader])
        book = tmp_path / "book"
        code = fuzz.main(["--inputs", "60", "--found", str(tmp_path / "found"), "--json", str(book)])
        [one] = json.loads(book.read_text())["readers"]
        assert code == (1 if one["found"] else 0)
        return one  # type: ignore[no-any-return]

    return told


def test_an_error_of_another_kind_is_told_with_the_input_that_repeats_it(fed: Fed, tmp_path: Path) -> None:
    def feed(given: Given) -> bool:
        return bool(1 // given.raw[0])  # 0 fails, 1 is accepted, all others are refused

    one = fed(feed)
    [found] = one["found"]  # type: ignore[misc]
    assert found["what"].startswith("ZeroDivisionError")
    assert Path(found["file"]).read_bytes() == b"\x00"
    assert one["tried"] == one["accepted"] + one["refused"] + found["times"]  # type: ignore[operator]
    assert fuzz.main(["--input", found["file"], "--found", str(tmp_path / "again")]) == 1


def test_what_takes_too_long_or_is_wrong_is_told_each_once(fed: Fed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rounds, "SLOW_S", 0.01)

    def feed(given: Given) -> bool:
        if given.raw[0] > 128:
            raise Wrong("too large", str(given.raw[0]))
        return sum(range(2_000_000)) > 0 if given.raw[0] == 0 else True

    found = {one["what"]: one["times"] for one in fed(feed)["found"]}  # type: ignore[attr-defined]
    assert set(found) == {"too large", "more than a second of computing"}
    assert found["too large"] > 1


def test_a_process_that_dies_is_a_fault_and_others_go_on(fed: Fed) -> None:
    def feed(given: Given) -> bool:
        if given.raw[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return True

    one = fed(feed)
    [found] = one["found"]  # type: ignore[misc]
    assert found["what"] == "the process was ended by SIGKILL"
    assert Path(found["file"]).read_bytes() == b"\x00"
    assert one["accepted"]


@click.command()
@click.argument("how")
def evil(how: str) -> None:
    """Prints what no command may."""
    if how == "escape":
        click.echo("\x1b]0;title\x07")
    elif how == "turned":
        click.echo("\u202edrow", err=True)
    elif how == "forged":
        frame.say("kdnas: forged")
    elif how == "talks":
        frame.say("first")
        raise UsageError("It was wrong.", "Do otherwise.")
    raise UsageError("It was wrong:\nvery wrong.", "Do otherwise.")


@pytest.mark.parametrize(
    ("how", "kind"),
    [
        ("escape", "a character that is not seen is printed"),
        ("turned", "a character that is not seen is printed"),
        ("forged", "a refusal has 2 lines"),
        ("talks", "a refusal has 2 lines"),
    ],
)
def test_what_a_command_may_not_print_passes(how: str, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commands, "COMMANDS", {"evil": (f"{__name__}:evil", "Evil")})
    with pytest.raises(Wrong) as wrong:
        commands.command("evil", how)
    assert wrong.value.kind == kind
    assert commands.command("evil", "well").err == "kdnas: It was wrong: very wrong. Do otherwise.\n"
    assert commands.command("evil", "talks", lines=2).code == 2


def test_an_error_of_two_lines_or_of_half_a_letter_passes() -> None:
    for problem in ("It was\nwrong.", "It was \ud83d."):
        error = UsageError("", "Do otherwise.")
        error.problem = problem  # given, it would have become one line
        with pytest.raises(Wrong):
            commands.refusal(error)
    commands.refusal(UsageError("It was wrong.", "Do otherwise."))


def test_rows_that_were_dropped_or_changed_pass() -> None:
    rows = (("one", "a"), (" ", "b"), ("\ufefftwo", "b"))

    def read(texts: list[str], labels: list[str], empty: int = 1) -> None:
        found = Documents("x", texts, "f", labels, left_out=LeftOut(rows=empty))
        tables._consistent(found)
        tables._same(found, Given(b"", ".csv", rows))

    read(["one", "two"], ["a", "b"])
    for texts, labels, empty in (
        (["one"], ["a"], 1),
        (["one", "two "], ["a", "b"], 1),
        (["two", "one"], ["a", "b"], 1),
        (["one", "two"], ["b", "a"], 1),
        (["one", "two"], ["a"], 1),
        (["one", "two"], ["a", "b"], 0),
    ):
        with pytest.raises(Wrong):
            read(texts, labels, empty)
