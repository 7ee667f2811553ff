"""A filter while it is typed: nothing unfinished filters, nothing finished waits, and words are written out."""

from __future__ import annotations

from pathlib import Path

import pytest

from kdnas_tui import settings
from kdnas_tui.filter_words import completed, finished
from kdnas_tui.widgets.filter_field import FilterField
from kdnas_tui.widgets.trials_table import TrialsTable
from tests.tui.driving import app_on, driven, opened, settled


def values(key: str) -> list[str]:
    return ["gelu", "relu"] if key in ("act", "hidden_act") else []


@pytest.mark.parametrize(
    ("typed", "filters"),
    [
        ("i", ""), ("is", ""), ("is:", ""), ("is:fr", ""), ("is:front", "is:front"), ("is:front ", "is:front "),
        ("is:front a", "is:front "), ("is:front an", "is:front "), ("is:front and", "is:front "),
        ("is:front and ", "is:front "), ("is:front and not", "is:front "), ("is:front and (", "is:front "),
        ("is:front and lat", "is:front "), ("is:front or latency<8", "is:front or latency<8"),
        ("laten", ""), ("latency", ""), ("latency<", ""), ("latency<8", "latency<8"), ("act:ge", ""),
        ("act:gelu", "act:gelu"), ("act:gelu,re", ""), ("act:tanh", "act:tanh"), ("state:do", ""),
        ("state:done", "state:done"), ("gelu ", "gelu "), ("", ""), ("not", ""), ("(layers>=4", "(layers>=4"),
        ("latncy<3", "latncy<3"),
    ],
)  # fmt: skip
def test_only_what_is_finished_filters(typed: str, filters: str) -> None:
    assert finished(typed, values).strip() == filters.strip()


@pytest.mark.parametrize(
    ("typed", "whole"),
    [
        ("is:fr", "is:front"), ("lat", "latency"), ("is:front and sp", "is:front and spread"), ("act:re", "act:relu"),
        ("act:gelu,r", "act:gelu,relu"), ("state:do", "state:done"), ("latency<8", None), ("", None),
        ("is:front", None),
        ("dim_", "dim_out"),
    ],
)  # fmt: skip
def test_the_last_word_is_written_out(typed: str, whole: str | None) -> None:
    assert completed(typed, ["dim_out"], values) == whole


async def test_the_table_never_jumps_while_a_filter_is_typed(recorded: Path) -> None:
    async with driven(app_on(str(recorded)), (120, 36)) as pilot:
        study = await opened(pilot, "quickstart")
        table = study.query_one(TrialsTable)
        whole = table.count
        front = int(study.watched.trials.standing.front.sum())  # type: ignore[union-attr]
        await pilot.press("slash")
        counts = []
        for letter in "is:front and act:gelu":
            await pilot.press(letter)
            await pilot.pause()
            counts.append(table.count)
        assert counts[:7] == [whole] * 7 and counts[7:-1] == [front] * 13 and 0 < counts[-1] < front
        assert not study.query_one(FilterField).fault


async def test_earlier_filters_come_back_and_words_are_completed(recorded: Path) -> None:
    async with driven(app_on(str(recorded)), (120, 36)) as pilot:
        study = await opened(pilot, "quickstart")
        await pilot.press("slash", *"lay", "tab")
        field = study.query_one(FilterField)
        assert field.value == "layers"
        await pilot.press(*">=3", "enter")
        await settled(pilot)
        assert study.watched.filter.text == "layers>=3" and settings.read().filters == ("layers>=3",)
        await pilot.press("escape", "slash", *"is:ma", "up")
        assert field.value == "layers>=3"
        await pilot.press("down")
        assert field.value == "is:ma"
        assert not field.fault
