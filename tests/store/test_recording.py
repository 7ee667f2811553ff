"""A study as text and back, and the recording that ships."""

from __future__ import annotations

from pathlib import Path

import pytest

from kdnas.store import queries, recording
from kdnas.store.database import Store, open_reader, open_store
from kdnas.study.rows import Status
from kdnas.system.errors import UsageError
from tests.tui.filled import study


def test_what_is_read_back_is_what_was_written(store: Store, tmp_path: Path) -> None:
    with store:
        study_id = study(store, "minilm", worker="running")
        recording.write(store, "minilm", tmp_path / "kept")
        before = queries.trial_rows(store, study_id)
        curves = queries.curves(store, study_id, [1, 2, 3])
        lines = [log.line for log in queries.logs(store, study_id)]
    with recording.opened(tmp_path / "kept") as (url, name), open_reader(url) as store:
        row = queries.study_row(store, name)
        assert row.status not in (Status.RUNNING, Status.DEAD)
        assert queries.trial_rows(store, row.study_id) == before
        assert queries.curves(store, row.study_id, [1, 2, 3]) == curves
        assert [log.line for log in queries.logs(store, row.study_id)] == lines
        assert all(not worker.alive and worker.host == "recorded" for worker in queries.workers(store, row.study_id))


def test_other_files_are_refused(tmp_path: Path) -> None:
    with open_store(tmp_path / "k.db", create=True) as store:
        study(store, "minilm", rows=2)
        recording.write(store, "minilm", tmp_path)
        (tmp_path / recording.ROWS).write_text('{"format": "something else"}\n')
        with pytest.raises(UsageError, match="holds no recording"):
            recording.read(tmp_path, store)
        (tmp_path / recording.ROWS).write_text('{"format": "kdnas-recording", "version": 99}\n')
        with pytest.raises(UsageError, match="version 99"):
            recording.read(tmp_path, store)


def test_the_shipped_recording_is_a_finished_real_study() -> None:
    with recording.opened(recording.shipped()) as (url, name), open_reader(url) as store:
        row = queries.study_row(store, name)
        assert row.status is Status.FINISHED
        assert row.best_reward is not None
        assert queries.provenance(store, row.study_id)["versions"]
