"""How alike two rankings are: Kendall's τ."""

from __future__ import annotations

from typing import Any

import numpy as np


def kendall(one: list[float], two: list[float], groups: list[Any] | None = None) -> float:
    """Kendall's τ-b, from all pairs, or from those of one group each."""
    a, b = np.asarray(one, dtype=float), np.asarray(two, dtype=float)
    upper = np.triu_indices(len(a), 1)
    if groups is not None:
        alike = np.asarray(groups)[upper[0]] == np.asarray(groups)[upper[1]]
        upper = upper[0][alike], upper[1][alike]
    signs = np.sign(a[:, None] - a)[upper], np.sign(b[:, None] - b)[upper]
    norm = np.sqrt((signs[0] ** 2).sum() * (signs[1] ** 2).sum())
    return float((signs[0] * signs[1]).sum() / norm) if norm else 0.0
