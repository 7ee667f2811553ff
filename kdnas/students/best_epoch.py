"""Which epoch of a full distillation is kept, from the history of its epochs, and how that is told. Loads no torch.

A history is a list of points in order, each with the `epoch` that it is of and the held-out `loss` after it. It may
begin with epoch 0, the student before any step.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

History = Sequence[Mapping[str, Any]]


def done(history: History) -> int:
    """Finished epochs."""
    return int(history[-1]["epoch"]) if history else 0


def best(history: History) -> int:
    """The epoch with the least held-out loss, 0 where no step made it less; of equal ones the first."""
    return int(min(history, key=lambda point: (point["loss"], point["epoch"]))["epoch"])


def over(history: History, patience: int) -> bool:
    """Whether the last `patience` epochs were no better than an earlier one."""
    return bool(history) and done(history) - best(history) >= patience


def words(metrics: Mapping[str, Any]) -> str:
    """Which epoch of how many was kept, from `best_epoch`, `epochs` and perhaps `stopped_early` and `fitted_tokens`."""
    epochs, kept = metrics["epochs"], metrics["best_epoch"]
    if not epochs:
        fitted = metrics.get("fitted_tokens")
        return f"as built{f' on {fitted:,} tokens' if fitted else ''}, without a step"
    early = ", stopped early" if metrics.get("stopped_early") else ""
    if not kept:
        return f"as built, since no epoch of {epochs} made it less{early}"
    return f"after epoch {kept} of {epochs}{early}"
