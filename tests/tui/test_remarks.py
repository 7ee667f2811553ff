"""What `auto` takes and what going on is expected to gain stand on the screens of such a study, and of no other."""

from __future__ import annotations

from pathlib import Path

from kdnas.store import advising, changes, queries
from kdnas.store.database import open_reader, open_store
from tests.tui.driving import app_on, driven, opened, shows, text_of, until
from tests.tui.filled import study, url_of


async def test_a_study_of_auto_says_what_it_takes_and_what_is_left(tmp_path: Path) -> None:
    with open_store(url_of(tmp_path), create=True) as store:
        study_id = study(store, "minilm", strategy="auto", rows=30)
    with open_reader(url_of(tmp_path)) as store:
        told = advising.remarks(store, queries.study_row(store, "minilm"))
    assert told.advice is not None and told.strategy is not None
    async with driven(app_on(url_of(tmp_path)), (200, 60)) as pilot:
        screen = await opened(pilot, "minilm")
        await until(pilot, shows(pilot.app, str(told.advice)), "the advice is below the table")
        await pilot.press("enter")
        await until(pilot, shows(pilot.app, "Strategy auto takes surrogate"), "the candidate's page says it")
        await pilot.press("escape")
        with open_store(url_of(tmp_path)) as store:
            changes.set_reward(store, study_id, alpha=-1.0, beta=0.6)
            again = advising.remarks(store, queries.study_row(store, "minilm")).advice
        assert again is not None and again != told.advice
        await until(pilot, lambda: screen.watched.remarks.advice == again, "it is asked anew for another α")


async def test_where_the_line_has_no_room_the_advice_is_told_in_few_words(tmp_path: Path) -> None:
    with open_store(url_of(tmp_path), create=True) as store:
        study(store, "minilm", strategy="auto", rows=30)
    with open_reader(url_of(tmp_path)) as store:
        told = advising.remarks(store, queries.study_row(store, "minilm")).advice
    assert told is not None and len(str(told)) > 48
    async with driven(app_on(url_of(tmp_path)), (48, 40)) as pilot:
        await opened(pilot, "minilm")
        await until(pilot, shows(pilot.app, told.brief), "the advice is below the table, in few words")
        assert str(told)[:30] not in text_of(pilot.app)
        await pilot.resize_terminal(200, 60)
        await until(pilot, shows(pilot.app, str(told)), "there is room for sentences now")


async def test_a_study_of_another_strategy_says_nothing(tmp_path: Path) -> None:
    with open_store(url_of(tmp_path), create=True) as store:
        study(store, "minilm", strategy="tpe", rows=30)
    async with driven(app_on(url_of(tmp_path)), (200, 60)) as pilot:
        await opened(pilot, "minilm")
        assert "expected to gain" not in text_of(pilot.app)
