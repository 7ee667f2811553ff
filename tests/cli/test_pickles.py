"""Weights that are a pickle: what is in one never runs, and one that is no model is one line."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import Place, Quick
from tests.tiny import tiny_folder


class Runs:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("what", ["code", "nothing"])
@pytest.mark.parametrize("words", [["latency", "m", "--max-seconds", "0.1"], ["evaluate", "m", "--no-teacher"]])
def test_pickled_weights_run_or_end_in_a_traceback(what: str, words: list[str], place: Place, quick: Quick) -> None:
    ran = place.folder / "ran"
    folder = tiny_folder(place.folder / "m")
    for path in folder.glob("*.safetensors"):
        path.unlink()
    content = pickle.dumps({"weight": Runs(ran)}) if what == "code" else b"no pickle"
    (folder / "pytorch_model.bin").write_bytes(content)
    said = quick(*words)
    assert said.code == 2
    assert "cannot be loaded" in said.line
    assert not ran.exists()
