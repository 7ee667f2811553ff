"""The moments of what leads into a teacher's layers, measured once and kept on the disk.

The same passes give the teacher's states, so that the caches of these need no passes of their own over the same chunks.

Writes no cache of states itself. Knows no student.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import psutil
import torch

from kdnas.measuring import memory
from kdnas.measuring.device_lock import Turn
from kdnas.measuring.devices import autocasts
from kdnas.models.least_squares_init import Moments, moments
from kdnas.system.tensor_files import computed_once
from kdnas.teachers import cache_folder, hidden_state_cache
from kdnas.teachers.encoder import Teacher
from kdnas.teachers.hidden_state_cache import Kind, Known

MOMENTS_BATCH = 32  # chunks at a time, as long as they fit


def moments_of(teacher: Teacher, ids: torch.Tensor, beside: dict[Kind, Known] | None = None) -> Moments:
    """The moments of what leads into the teacher's layers, on the chunks `ids` [chunks, length].

    Cached because they rank: two workers whose sums differ in the last bit must still cut the same student.

    Where they have to be measured and memory is not short, `beside` gets what else these passes gave: the teacher's
    states on the same chunks, which `hidden_states` takes as `known`.
    """
    path = cache_folder.root() / "moments" / f"{hidden_state_cache.entry_key(teacher, ids, [-1])}.safetensors"
    listening = _Beside(teacher, ids) if beside is not None else None

    def measure(rows: int) -> dict[str, torch.Tensor]:
        if listening is None or not listening.begins(rows):
            return moments(teacher.body, teacher.family, ids, rows).tensors()
        also, outputs = listening.inputs(), listening.outputs()
        return moments(teacher.body, teacher.family, ids, rows, also, outputs).tensors()

    def make() -> dict[str, torch.Tensor]:
        with Turn(teacher.device):
            return memory.whole(MOMENTS_BATCH, teacher.device, measure)

    found = Moments(**computed_once(path, make))
    if beside is not None and listening is not None:
        beside.update(listening.found)
    return found


class _Beside:
    """The states that passes over `ids` give while something else is measured, as a cache of them holds them: both
    kinds where the teacher computes in full precision for either."""

    def __init__(self, teacher: Teacher, ids: torch.Tensor) -> None:
        self._teacher, self._chunks, self._length = teacher, len(ids), ids.shape[1]
        self._layers = range(teacher.family.sizes(teacher.config).layers)
        self.found: dict[Kind, dict[int, list[torch.Tensor]]] = {}

    def begins(self, rows: int) -> bool:
        """Anew, with so many chunks at a time. False where the states are not to be kept."""
        self.found = {}
        size = 2 * self._chunks * self._length * self._teacher.hidden * 2 * len(self._layers)
        room = size <= 0.25 * psutil.virtual_memory().available
        if rows != hidden_state_cache.BUILD_BATCH or not room or self._teacher.family.shared_layers:
            return False
        kinds: tuple[Kind, ...] = ("entering",) if autocasts(self._teacher.device) else ("entering", "outputs")
        self.found = {kind: {layer: [] for layer in self._layers} for kind in kinds}
        return True

    def inputs(self) -> dict[str, Callable[[torch.Tensor], None]]:
        def kept(parts: list[torch.Tensor], rows: torch.Tensor) -> None:
            parts.append(rows.view(-1, self._length, self._teacher.hidden).to(torch.bfloat16).cpu())

        family = self._teacher.family
        return {family.layer_prefix(n) + family.norm: partial(kept, self.found["entering"][n]) for n in self._layers}

    def outputs(self) -> Callable[[tuple[torch.Tensor, ...]], None] | None:
        if "outputs" not in self.found:
            return None

        def kept(states: tuple[torch.Tensor, ...]) -> None:
            for layer, state in enumerate(states[1:]):
                self.found["outputs"][layer].append(state.to(torch.bfloat16).cpu())

        return kept
