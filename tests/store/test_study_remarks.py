"""Tags and notes of studies lie where Optuna keeps what users say of a study; old stores and recordings open."""

from __future__ import annotations

import shutil
from pathlib import Path

import optuna
import pytest
import sqlalchemy as sa

from kdnas.store import changes, copies, queries, recording
from kdnas.store.database import Store, open_reader, open_store
from kdnas.store.optuna_storage import optuna_storage
from kdnas.system.errors import BadOptionError, UsageError
from tests import fakes

NOTE = "the one for Monday;\nπ \u202e\x1b[31m, \0 and all"


def test_they_are_what_was_written_and_move_the_revision(store: Store, study_id: int) -> None:
    before = queries.study_row(store, "fake")
    assert (before.tags, before.note) == ((), "")
    assert changes.set_study_tags(store, study_id, add=["slow", "paper", "slow"]) == ("slow", "paper")
    assert changes.set_study_tags(store, study_id, add=["new"], remove=["slow"]) == ("paper", "new")
    changes.set_study_note(store, study_id, NOTE)
    after = queries.study_row(store, "fake")
    assert (after.tags, after.note) == (("paper", "new"), NOTE)
    assert after.revision == before.revision + 3
    changes.replace_study_tags(store, study_id, [])
    changes.set_study_note(store, study_id, "")
    assert queries.study_row(store, "fake").tags == ()
    assert queries.study_row(store, "fake").note == ""


@pytest.mark.parametrize("tag", ["", "two words", "tab\t", "\x1b[2J", "left\u202e"])
def test_a_tag_that_nobody_could_type_is_refused(store: Store, study_id: int, tag: str) -> None:
    with pytest.raises(BadOptionError, match="is not one word"):
        changes.set_study_tags(store, study_id, add=["good", tag])
    assert queries.study_row(store, "fake").tags == ()


def test_what_cannot_be_written_or_is_not_there_is_refused(store: Store, study_id: int) -> None:
    with pytest.raises(BadOptionError, match="lone surrogate"):
        changes.set_study_note(store, study_id, "half \udc80")
    changes.set_study_tags(store, study_id, add=["there"])
    with pytest.raises(UsageError, match=r"no tag 'gone'. It has: there."):
        changes.set_study_tags(store, study_id, remove=["gone"])


def test_optunas_own_tools_show_them_and_other_attributes_are_left_alone(store: Store, study_id: int) -> None:
    storage = optuna_storage(store)
    storage.set_study_user_attr(study_id, "mine", 3)
    changes.set_study_tags(store, study_id, add=["paper"])
    changes.set_study_note(store, study_id, "π")
    seen = optuna.load_study(study_name="fake", storage=storage).user_attrs
    assert seen == {"mine": 3, "kdnas:tags": ["paper"], "kdnas:note": "π"}
    storage.set_study_user_attr(study_id, "kdnas:tags", {"of": "another program"})
    storage.engine.dispose()
    assert queries.study_row(store, "fake").tags == ()


def test_a_copy_has_them_and_a_deleted_study_leaves_none(
    store: Store, study_id: int, tmp_path: Path, empty: Path
) -> None:
    from kdnas.store.studies import create_study, delete_study

    changes.set_study_tags(store, study_id, add=["paper"])
    shutil.copy(empty, tmp_path / "copy.db")
    with open_store(tmp_path / "copy.db") as target:
        create_study(target, fakes.spec(name="other"))  # another number there
        copies.copy(store, target)
        assert {row.name: row.tags for row in queries.study_rows(target)} == {"fake": ("paper",), "other": ()}
        delete_study(target, "fake")
        with target.connect() as connection:
            assert connection.execute(sa.text("SELECT count(*) FROM study_user_attributes")).scalar_one() == 0


def test_a_recording_has_no_place_for_them_and_says_so(tmp_path: Path) -> None:
    with open_store(tmp_path / "demo.db", create=True) as store:
        recording.read(recording.shipped(), store)
        row = queries.study_rows(store)[0]
        assert (row.tags, row.note) == ((), "")
        with pytest.raises(UsageError, match="takes no tags"):
            changes.set_study_tags(store, row.study_id, add=["x"])
    with open_reader(tmp_path / "demo.db") as reader, pytest.raises(UsageError, match="reading only"):
        changes.set_study_note(reader, row.study_id, "x")
