"""What a long job tells where there is no terminal: each thing once, and how far it is every so often."""

from __future__ import annotations

import pytest

from kdnas.cli import progress


def test_a_log_hears_each_thing_once(capsys: pytest.CaptureFixture[str]) -> None:
    with progress.Told("distilling") as told:
        for step in (1, 2, 3):
            told.on_progress(f"epoch 1, step {step} of 3", step / 3)
        told.on_progress("writing the folder", None)
    assert capsys.readouterr().err.splitlines() == ["epoch 1, step 1 of 3 (33%)", "writing the folder"]


def test_a_long_thing_is_heard_of_again(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "EVERY_S", 0.0)
    with progress.Told("distilling") as told:
        told.on_progress("epoch 1, step 1 of 3", 1 / 3)
        told.on_progress("epoch 1, step 2 of 3", 2 / 3)
    assert capsys.readouterr().err.splitlines() == ["epoch 1, step 1 of 3 (33%)", "epoch 1, step 2 of 3 (67%)"]
