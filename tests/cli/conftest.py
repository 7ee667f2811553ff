"""A tiny teacher, a little text and a place of its own for every test of the command line; models are real."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.forks import Command
from tests.tiny import WORDS, tiny_folder


@dataclass(frozen=True)
class Said:
    """How a command ended and what it wrote."""

    code: int
    out: str
    err: str

    @property
    def data(self) -> Any:
        return json.loads(self.out)

    @property
    def line(self) -> str:
        """The one line that says what was wrong."""
        lines = [line for line in self.err.splitlines() if line.startswith("kdnas: ")]
        assert len(lines) == 1, self.err
        assert "Traceback" not in self.err
        return lines[0]


@dataclass(frozen=True)
class Place:
    """Where one test's studies live; `kdnas` runs a command there as a user would."""

    folder: Path
    spec: Path
    environment: Mapping[str, str] = field(repr=False)

    @property
    def store(self) -> Path:
        return self.folder / "studies.db"

    def start(self, *arguments: str, **more: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "kdnas", *arguments],
            cwd=self.folder,
            env={**self.environment, **more},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def fork(self, *arguments: str, **more: str) -> Command:
        """The same in a process that has loaded all that is heavy; so have the workers that it starts."""
        environment = {**self.environment, **more}
        return Command(["kdnas.cli", *arguments], self.folder, environment, self.folder.parent / "said")

    def kdnas(self, *arguments: str, **more: str) -> Said:
        process = self.start(*arguments, **more)
        out, err = process.communicate(timeout=300)
        return Said(process.returncode, out, err)

    def forked(self, *arguments: str, **more: str) -> Said:
        process = self.fork(*arguments, **more)
        out, err = process.communicate()
        assert process.returncode is not None
        return Said(process.returncode, out, err)


@pytest.fixture(scope="session")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`teacher`, `text.txt` and a cache that all tests share."""
    folder = tmp_path_factory.mktemp("shelf")
    tiny_folder(folder / "teacher")
    rng = np.random.default_rng(0)
    lines = [" ".join(rng.choice(WORDS, 12)) + "." for _ in range(400)]
    (folder / "text.txt").write_text("\n\n".join(lines))
    return folder


def spec_text(teacher: object, text: object, **values: object) -> str:
    """A spec that a search finishes in seconds; keywords replace values."""
    known = {"trials": 4, "seed": 1, "strategy": "random", "max_seconds": 0.02, **values}
    return f"""
name = "tiny"
seed = {known["seed"]}
device = "cpu"
[teacher]
model = '{teacher}'
[data]
source = '{text}'
length = 32
batch_size = 8
max_held_out = 8
[strategy]
name = "{known["strategy"]}"
[budget]
trials = {known["trials"]}
epochs = 1
short_text = "train"
[latency]
length = 32
precision = 0.5
max_seconds = {known["max_seconds"]}
"""


@pytest.fixture
def place(tmp_path: Path, shelf: Path) -> Place:
    folder = tmp_path / "here"
    folder.mkdir()
    spec = folder / "tiny.toml"
    spec.write_text(spec_text(shelf / "teacher", shelf / "text.txt"))
    environment = {
        **{k: v for k, v in os.environ.items() if not k.startswith(("KDNAS_", "COLUMNS"))},
        "KDNAS_STORAGE": str(folder / "studies.db"),
        "KDNAS_CACHE": str(shelf / "cache"),
        "KDNAS_STATE": str(tmp_path / "state"),
        "KDNAS_CONFIG": str(tmp_path / "config"),
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
        "TERM": "dumb",
    }
    return Place(folder, spec, environment)


Quick = Callable[..., Said]


@pytest.fixture
def quick(place: Place, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Quick:
    """A command that loads no model, run in this process."""
    for name, value in place.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(place.folder)

    def call(*arguments: str) -> Said:
        from kdnas.cli import COMMANDS
        from kdnas.cli.frame import Lazy, run

        capsys.readouterr()
        code = run(Lazy("kdnas", COMMANDS), arguments)
        captured = capsys.readouterr()
        return Said(code, captured.out, captured.err)

    return call
