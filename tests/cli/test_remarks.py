"""`kdnas tag` and `kdnas note`: shown in the lists, found by the filter, harmless on a terminal."""

from __future__ import annotations

import pytest

from kdnas.store.database import open_store
from kdnas.store.studies import create_study
from tests import fakes
from tests.cli.conftest import Place, Quick


@pytest.fixture
def _two(place: Place) -> None:
    with open_store(place.store, create=True) as store:
        create_study(store, fakes.spec(name="one"))
        create_study(store, fakes.spec(name="two"))


@pytest.mark.usefixtures("_two")
def test_tags_are_given_listed_found_and_taken_away(quick: Quick) -> None:
    assert "tags" not in quick("studies").out
    assert quick("tag", "one", "paper", "slow").err == "one has the tags: paper slow.\n"
    assert quick("tag", "one").out == "paper\nslow\n"
    assert quick("tag", "one", "--json").data == ["paper", "slow"]
    assert "paper slow" in quick("studies").out
    assert [row["name"] for row in quick("studies", "--filter", "tag:paper", "--json").data] == ["one"]
    assert quick("studies", "--filter", "tag:pap").err == "None of the 2 studies has these words.\n"
    assert quick("tag", "one", "--remove", "slow").err == "one has the tags: paper.\n"
    assert quick("tag", "one", "--remove").err == "one has no tags.\n"
    assert quick("tag", "one").err == "one has no tags.\n"


@pytest.mark.usefixtures("_two")
def test_a_note_is_kept_whole_and_reaches_a_terminal_without_its_control_characters(quick: Quick) -> None:
    text = "look \x1b[2J\nhere"
    assert quick("note", "two", text).code == 0
    assert quick("studies", "--json", "--filter", "look").data[0]["note"] == text
    assert "\x1b" not in quick("studies").out + quick("show", "two").out
    assert "note look �[2J here" in quick("show", "two").out
    assert quick("note", "two", "--remove").code == 0
    assert quick("note", "two").err == "two has no note.\n"


@pytest.mark.usefixtures("_two")
def test_what_cannot_be_is_one_line(quick: Quick) -> None:
    assert quick("tag", "one", "two words").line == (
        "kdnas: The tag 'two words' is not one word. Write it without blanks, as in good-one."
    )
    assert "Did you mean 'one'?" in quick("tag", "oen", "x").line
    assert "no tag 'x'. It has none." in quick("tag", "one", "--remove", "x").line
    assert "Give one of them." in quick("note", "one", "text", "--remove").line
