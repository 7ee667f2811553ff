"""Tags and notes of studies on the list of studies."""

from __future__ import annotations

import shutil
from pathlib import Path

from kdnas.store import changes, queries
from kdnas.store.database import open_reader, open_store
from kdnas.study.rows import StudyRow
from kdnas_tui.widgets.list_table import ListTable
from tests.tui.driving import app_on, driven, listed, shows, text_of, until
from tests.tui.test_studies import at


def row(path: Path, name: str) -> StudyRow:
    with open_reader(path) as store:
        return queries.study_row(store, name)


async def test_tags_and_a_note_are_written_shown_and_found(three_studies: Path, tmp_path: Path) -> None:
    path = tmp_path / "kdnas.db"
    shutil.copy(three_studies, path)
    async with driven(app_on(str(path)), (120, 36)) as pilot:
        await listed(pilot)
        at(pilot, "kdnas-paper")
        await pilot.press("t", *"paper old", "enter")
        await until(pilot, lambda: row(path, "kdnas-paper").tags == ("paper", "old"), "the tags are stored")
        await pilot.press("N", *"for Monday", "enter")
        await until(pilot, lambda: row(path, "kdnas-paper").note == "for Monday", "the note is stored")
        await until(pilot, shows(pilot.app, "tags: paper old · note: for Monday"), "both are shown")
        await until(pilot, shows(pilot.app, " tags"), "the column has come")
        await pilot.press("slash", *"tag:old", "enter")
        await until(pilot, lambda: len(pilot.app.screen.query_one(ListTable).lines) == 1, "it is found")


async def test_text_from_outside_is_drawn_without_control_characters(three_studies: Path, tmp_path: Path) -> None:
    path = tmp_path / "kdnas.db"
    shutil.copy(three_studies, path)
    with open_store(path) as store:
        changes.set_study_note(store, queries.study_row(store, "minilm").study_id, "a\x1b[2Jb\u202ec")
    async with driven(app_on(str(path))) as pilot:
        await listed(pilot)
        at(pilot, "minilm")
        await until(pilot, shows(pilot.app, "note: a�[2Jb�c"), "it is shown harmlessly")
        assert "\x1b" not in text_of(pilot.app)
