"""What is said of a copy is true: in a real tmux that drops it, in one that takes it, and where nobody can know."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from kdnas_tui.clipboard import outcome

FILE = Path("/state/copies/minilm-3.json")


@pytest.fixture
def inside(tmp_path: Path) -> Iterator[dict[str, str]]:
    """The environment of a program in a tmux of its own, with no configuration."""
    if shutil.which("tmux") is None:
        pytest.skip("tmux is not installed")
    socket = tmp_path / "tmux"
    bare = {key: value for key, value in os.environ.items() if not key.startswith("TMUX")}
    call = ["tmux", "-f", "/dev/null", "-S", str(socket)]
    subprocess.run([*call, "new-session", "-d", "sleep 60"], check=True, env={**bare, "TERM": "screen"})
    try:
        yield {**bare, "TMUX": f"{socket},0,0"}
    finally:
        subprocess.run([*call, "kill-server"], check=True, env=bare)


def test_a_default_tmux_drops_it_and_the_line_that_changes_that_is_named(inside: dict[str, str]) -> None:
    said = outcome(FILE, inside)
    assert said.startswith("Not copied: tmux drops it (set-clipboard is external).") and str(FILE) in said
    line = said.split("`")[1]
    socket = inside["TMUX"].split(",")[0]
    subprocess.run(["tmux", "-S", socket, *line.split()], check=True, env=inside)  # what the user would configure
    assert outcome(FILE, inside) == f"Copied through tmux. Also in {FILE}"


def test_a_tmux_that_does_not_answer_is_not_believed(tmp_path: Path) -> None:
    said = outcome(FILE, {"TMUX": f"{tmp_path / 'nobody'},0,0", "PATH": os.environ["PATH"]})
    assert said.startswith("Not copied: tmux drops it (set-clipboard is unknown).")


def test_elsewhere_nothing_is_claimed() -> None:
    said = outcome(FILE, {})
    assert "Copied" not in said and "not every terminal takes" in said and str(FILE) in said
