"""The torture itself: it kills, and it tells a study that went on otherwise."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import torture


@pytest.mark.long
def test_it_kills_and_tells_what_went_wrong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KDNAS_STATE", str(tmp_path / "state"))
    for name in ("good", "bad"):
        (tmp_path / name).mkdir()
    assert torture.study("random", 3, tmp_path / "good", 3)[1] is None
    real = torture.told
    monkeypatch.setattr(torture, "told", lambda path: real(path)[1 if path.name == "whole.db" else 0 :])
    assert torture.study("random", 3, tmp_path / "bad", 1)[1] == "went on otherwise"
