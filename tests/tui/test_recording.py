"""The recordings of the first five minutes: whole files, and every step of them shows what it says, at its size."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from docs.recording import SIZES, frames

FOLDER = Path(__file__).parents[2] / "docs"
SHOWN = {  # step → words that its screen must show
    "What it will take": ("candidates", "of cache", "^s start"),
    "The same study as one command": ("kdnas search quickstart --preset quickstart",),
    "The search begins": ("RUNNING", "/12 trials"),
    "Candidates arrive, the best on top": ("RUNNING", "done"),
    "Come back: the best stand on top": ("FINISHED", "best 0.526"),
    "Speed counts more": ("ranked again",),
    "Filter table and plots": (" of 12",),
    "Compare them": ("compare", "the same in all"),
    "Copy it as people paste it": ("JSON", "a row of a LaTeX table and its heading", "esc to go back"),
    "Make a model of it": ("epochs",),
    "Export the best to a file": ("the Pareto front", "^s write"),
}


@pytest.mark.parametrize("size", SIZES)
def test_every_step_shows_what_it_says(size: str) -> None:
    text = (FOLDER / f"five-minutes.{size}.cast").read_text(encoding="utf-8")
    assert len(text) < 250_000
    head, *events = map(json.loads, text.splitlines())
    assert (head["version"], f"{head['width']}x{head['height']}") == (2, size)
    moments = [moment for moment, _, _ in events]
    assert moments == sorted(moments)
    found = {title: "\n".join(lines) for title, lines in frames(text)}
    for title, words in SHOWN.items():
        for word in words:
            assert word in found[title], f"{title} lacks {word!r}\n{found[title]}"
    assert "Traceback" not in text
