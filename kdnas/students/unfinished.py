"""What lies beside a model folder that is not finished, in words: for the command that goes on, and for screens.

`run.json` says what the checkpoints beside it are of; how far they are stands in their names. Loads no tensor and no
torch.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from kdnas.system.files import write_atomically
from kdnas.system.folders import partial_of

FILE = "run.json"
_STATE = re.compile(r"state-(\d+)(?:-(\d+))?")


@dataclass(frozen=True)
class Unfinished:
    """A distillation that was left: which, and how much of it is kept."""

    study: str | None
    trial: int | None
    epochs: int  # at most so many
    patience: int
    done: int  # finished epochs that are kept
    step: int  # steps of the next one that are kept

    def words(self) -> str:
        """How much is kept: `3 of 20 epochs and 120 steps of the next`."""
        kept = f"{self.done:,} of {self.epochs:,} epochs"
        return f"{kept} and {self.step:,} steps of the next" if self.step else kept


def write(partial: Path, *, study: str | None, trial: int | None, epochs: int, patience: int) -> None:
    """What the checkpoints in a folder are of."""
    run = {"study": study, "trial": trial, "epochs": epochs, "patience": patience}
    write_atomically(partial / FILE, json.dumps(run) + "\n")


def read(output: Path) -> Unfinished | None:
    """What is kept beside `output`; None where nothing is, or an older kdnas left it."""
    partial = partial_of(output)
    with contextlib.suppress(OSError, ValueError, RecursionError):
        found = json.loads((partial / FILE).read_text(encoding="utf-8"))
        states = sorted(path.stem for path in partial.glob("state-*.safetensors"))
        place = _STATE.fullmatch(states[-1]) if states else None
        done, step = (0, 0) if place is None else (int(place[1]), int(place[2] or 0))
        if isinstance(found, Mapping) and all(type(found.get(name)) is int for name in ("epochs", "patience")):
            study, trial = found.get("study"), found.get("trial")
            return Unfinished(
                study if isinstance(study, str) else None,
                trial if type(trial) is int else None,
                found["epochs"],
                found["patience"],
                done,
                step,
            )
    return None
