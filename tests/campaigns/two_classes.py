"""A task that tiny models can learn: ten words, most of them of one half of the vocabulary."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np

from tests.encoders import WORDS


def write(path: Path, rows: int = 240, pure: float = 1.0, seed: int = 0) -> None:
    """A CSV of so many texts, each `high` or `low`; `pure` is the share of words that are of the label's half."""
    rng = np.random.default_rng(seed)
    halves = np.array([WORDS[32:], WORDS[:32]])
    with path.open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["text", "label"])
        for nth in range(rows):
            own = nth % 2
            sides = np.where(rng.random(10) < pure, own, 1 - own)
            table.writerow([" ".join(halves[sides, rng.integers(32, size=10)]), "high" if own else "low"])
