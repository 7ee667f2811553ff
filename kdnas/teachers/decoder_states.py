"""A causal teacher's residual stream on fixed text: computed once, kept memory-mapped in bf16 for trials and workers.

The folder that it lies in is cache_folder.py's; where the cache has no room, the states stay in memory. Knows no
student.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from functools import partial
from typing import IO, Any

import torch
from torch import Tensor

from kdnas.measuring import devices, memory
from kdnas.measuring.device_lock import Turn
from kdnas.models.decoder_blocks import layout_of
from kdnas.models.decoders import body_and_head, sizes
from kdnas.models.least_squares_init import watched
from kdnas.system import disk_cache
from kdnas.system.errors import UsageError
from kdnas.system.progress import Progress
from kdnas.teachers import cache_folder
from kdnas.teachers.causal import CausalModel

VERSION = 1  # of what an entry holds
BUILD_BATCH = 16  # chunks at a time, as long as they fit


class DecoderStates:
    """What enters each block of a teacher, by the block's place, and what leaves the last one after them all."""

    def __init__(self, key: str, states: Sequence[Tensor], lock: IO[bytes] | None) -> None:
        self.key, self._states, self._lock = key, list(states), lock

    def __len__(self) -> int:
        return len(self._states)

    def __getitem__(self, place: int) -> Tensor:
        """bf16 [chunks, length, width] on the CPU."""
        return self._states[place]

    def close(self) -> None:
        self._states.clear()
        if self._lock is not None:
            self._lock.close()
            self._lock = None


def entry_key(teacher: CausalModel, ids: Tensor) -> str:
    """Of weights, tokenizer, text, chunk length and the precision that the teacher computes in: equal keys, equal
    bytes (to rounding)."""
    facts = ["stream", VERSION, teacher.fingerprint, list(ids.shape), "bfloat16", devices.numerics(teacher.device)]
    digest = hashlib.sha256(json.dumps(facts).encode())
    digest.update(ids.contiguous().numpy().data)
    return digest.hexdigest()[:32]


def states_of(teacher: CausalModel, ids: Tensor, on_progress: Progress, what: str) -> DecoderStates:
    """The states on `ids` [chunks, length] (on the CPU), from the cache where it has them. `what` is the text, in
    words. Raises UsageError where they are no finite numbers."""
    key, own = entry_key(teacher, ids), sizes(teacher.config)
    count = own.layers + 1
    lock = cache_folder.opened(key)
    if lock is None:
        if not disk_cache.make_room(2 * ids.numel() * own.width * count):
            parts = list(_passes(teacher, ids, on_progress, what))
            return DecoderStates(key, [torch.cat(state) for state in zip(*parts, strict=True)], None)
        lock = cache_folder.opened_or_built(key, lambda: _build(key, teacher, ids, on_progress, what))
    shape = (*ids.shape, own.width)
    folder = cache_folder.root() / key
    mapped = [
        torch.from_file(str(folder / _name(place)), size=ids.numel() * own.width, dtype=torch.bfloat16).view(shape)
        for place in range(count)
    ]
    return DecoderStates(key, mapped, lock)


def _name(place: int) -> str:
    return f"stream-{place:03d}.bf16"


def _build(key: str, teacher: CausalModel, ids: Tensor, on_progress: Progress, what: str) -> None:
    own = sizes(teacher.config)
    facts: dict[str, Any] = {
        "version": VERSION,
        "teacher": teacher.name,
        "fingerprint": teacher.fingerprint,
        "text": what,
        "layers": list(range(own.layers + 1)),
        "chunks": len(ids),
        "length": ids.shape[1],
        "hidden": own.width,
        "dtype": "bfloat16",
    }
    with cache_folder.written(key, facts) as build:
        row = ids.shape[1] * own.width * 2
        files = [build.file(_name(place), row) for place in range(own.layers + 1)]
        for states in _passes(teacher, ids, on_progress, what, build.done):
            for file, state in zip(files, states, strict=True):
                file.write(state.contiguous().view(torch.uint8).numpy().data)
            build.wrote(len(states[0]))


def _passes(
    teacher: CausalModel, ids: Tensor, on_progress: Progress, what: str, done: int = 0
) -> Iterator[list[Tensor]]:
    """The states of all chunks after `done` of them in order; where memory runs out, of fewer chunks at a time."""
    body, layout = body_and_head(teacher.model)[0], layout_of(teacher.config)
    names = [*map(layout.name, range(sizes(teacher.config).layers)), layout.last]

    def states(part: Tensor) -> list[Tensor]:
        found: dict[str, list[Tensor]] = {name: [] for name in names}

        def keep(name: str, rows: Tensor) -> None:
            found[name].append(rows.to(torch.bfloat16).cpu().view(*part.shape, -1))

        watched(body, part, {name: partial(keep, name) for name in names}, last=layout.last, batch=len(part))
        return [found[name][0] for name in names]

    with Turn(teacher.device) as turn:
        for part, made in memory.halving(ids[done:], BUILD_BATCH, teacher.device, states):
            odd = next((place for place, state in enumerate(made) if not bool(state.isfinite().all())), None)
            if odd is not None:
                raise UsageError(
                    f"The teacher {teacher.name!r} gives values that are not finite numbers on {what}, at layer {odd}.",
                    "Check its weights and the text; a checkpoint that overflowed in fp16 cannot teach.",
                )
            yield made
            done += len(part)
            turn.step()
            on_progress(f"caching the teacher on {what}", done / len(ids))
