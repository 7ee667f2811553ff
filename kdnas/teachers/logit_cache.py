"""What a causal teacher says about every token of fixed chunks: the k likeliest tokens and the mass of the rest.

On disk, built once for a teacher, a text, a k and a temperature, shared by trials, workers and studies; cache_folder.py
looks after the folder that it lies in. Knows no student.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from torch import Tensor

from kdnas.measuring import devices, memory
from kdnas.measuring.device_lock import Turn
from kdnas.system import disk_cache
from kdnas.system.progress import Progress
from kdnas.teachers import cache_folder
from kdnas.training.losses.divergences import Signal, between, full_signal, top_signal

Logits = Callable[[Tensor], Tensor]
"""Token ids [rows, length] → logits [rows · (length − 1), vocabulary] of every position that has a successor."""

VERSION = 1  # of what an entry holds
BUILD_TOKENS = 512
SAMPLE_CHUNKS = 8  # on which the error is measured
INDICES, LOG_PROBS = "indices.i32", "log_probs.f16"  # an entry's files


@dataclass(frozen=True)
class Lost:
    """What keeping only the top k loses against the full distribution, measured on the first chunks.

    By the chain rule the forward divergence that the cache cannot see is tail mass × KL(teacher's tail ‖ student's
    tail); `unseen_nats` is that for a student whose tail is even. `rounding` is the largest error of a kept
    log-probability by its storage in 16 bits, `rounding_nats` the mean KL that it makes.
    """

    tail_mass: float
    unseen_nats: float
    rounding: float
    rounding_nats: float

    def facts(self) -> dict[str, float]:
        return asdict(self)

    def __str__(self) -> str:
        return f"{self.tail_mass:.1%} of the mass in the tail, {self.unseen_nats:.3f} nats of it unseen"


class LogitCache:
    """`signal(rows)` hands out what the teacher said, for chunks in any order."""

    def __init__(self, folder: Path, facts: dict[str, Any], lock: IO[bytes]) -> None:
        chunks, positions, k = facts["chunks"], facts["positions"], facts["k"]
        self._indices = np.memmap(folder / INDICES, np.int32, "r", shape=(chunks, positions, k))
        self._log_probs = np.memmap(folder / LOG_PROBS, np.float16, "r", shape=(chunks, positions, k + 1))
        self._lock: IO[bytes] | None = lock
        self.facts = facts

    def signal(self, rows: Tensor, device: torch.device, first: int = 0) -> Signal:
        """Of chunks `rows` [n]: Signal of n · (length − 1 − first) positions on `device`, `first` of each left out."""
        places = rows.numpy()
        indices = torch.from_numpy(self._indices[places, first:]).flatten(0, 1)
        log_probs = torch.from_numpy(self._log_probs[places, first:]).flatten(0, 1)
        return Signal(log_probs.to(device, torch.float32), indices.to(device, torch.int64))

    @property
    def lost(self) -> dict[str, float]:
        found: dict[str, float] = self.facts["lost"]
        return found

    def close(self) -> None:
        if self._lock is not None:
            self._lock.close()
            self._lock = None


def entry_key(fingerprint: str, ids: Tensor, k: int, temperature: float, device: torch.device) -> str:
    """Of teacher (weights, configuration, tokenizer), text, length, k, temperature and the precision that the teacher
    computes in on `device`: equal keys, equal content."""
    facts = ["logits", VERSION, fingerprint, list(ids.shape), k, temperature, devices.numerics(device)]
    digest = hashlib.sha256(json.dumps(facts).encode())
    digest.update(ids.contiguous().numpy().data)
    return digest.hexdigest()[:32]


def bytes_per_token(k: int) -> int:
    """Token numbers in 32 bits, log-probabilities in 16."""
    return 4 * k + 2 * (k + 1)


@dataclass(frozen=True)
class Predictions:
    """What an entry holds: whose predictions, on which text, and how much of them."""

    name: str  # of the teacher
    fingerprint: str
    logits: Logits
    device: torch.device  # the teacher's
    ids: Tensor  # [chunks, length], on the CPU
    what: str  # the text, in words
    k: int
    temperature: float

    @property
    def key(self) -> str:
        return entry_key(self.fingerprint, self.ids, self.k, self.temperature, self.device)

    @property
    def positions(self) -> int:
        return self.ids.shape[1] - 1

    def facts(self) -> dict[str, Any]:
        """The manifest, without what only the building shows."""
        return {
            "version": VERSION,
            "kind": "logits",
            "teacher": self.name,
            "fingerprint": self.fingerprint,
            "text": self.what,
            "chunks": len(self.ids),
            "length": self.ids.shape[1],
            "positions": self.positions,
            "k": self.k,
            "temperature": self.temperature,
            "dtype": "int32, float16",
        }


def open_or_build(wanted: Predictions, on_progress: Progress) -> LogitCache | None:
    """The entry, built if need be; None where it does not fit."""
    key = wanted.key
    lock = cache_folder.opened(key)
    if lock is None:
        if not disk_cache.make_room(len(wanted.ids) * wanted.positions * bytes_per_token(wanted.k)):
            return None
        lock = cache_folder.opened_or_built(key, lambda: _build(key, wanted, on_progress))
    return LogitCache(cache_folder.root() / key, cache_folder.manifest(key), lock)


def _build(key: str, wanted: Predictions, on_progress: Progress) -> None:
    ids, device, k, temperature = wanted.ids, wanted.device, wanted.k, wanted.temperature
    batch = max(1, BUILD_TOKENS // ids.shape[1])
    facts = wanted.facts()

    def signal_of(part: Tensor) -> Signal:
        return top_signal(wanted.logits(part), temperature, k)

    with cache_folder.written(key, facts) as build:
        indices = build.file(INDICES, wanted.positions * k * 4)
        log_probs = build.file(LOG_PROBS, wanted.positions * (k + 1) * 2)
        begin, rest = time.perf_counter(), len(ids) - build.done
        with Turn(device) as turn:
            for part, signal in memory.halving(ids[build.done :], batch, device, signal_of):
                assert signal.indices is not None
                indices.write(signal.indices.to(torch.int32).cpu().contiguous().numpy().data)
                log_probs.write(signal.log_probs.to(torch.float16).cpu().contiguous().numpy().data)
                build.wrote(len(part))
                turn.step()
                on_progress(f"caching the teacher's predictions on {wanted.what}", build.done / len(ids))
            error = memory.whole(
                min(SAMPLE_CHUNKS, batch), device, lambda rows: lost(wanted.logits(ids[:rows]), temperature, k)
            )
        facts["lost"] = error.facts()
        facts["timing"] = {"teacher_ms_per_chunk": (time.perf_counter() - begin) * 1000 / max(1, rest)}


def lost(logits: Tensor, temperature: float, k: int) -> Lost:
    """The error of the kept form against full logits [n, vocabulary]."""
    full = full_signal(logits, temperature).log_probs
    signal = top_signal(logits, temperature, k)
    assert signal.indices is not None
    tail = signal.log_probs[:, -1].exp()
    others = full.shape[-1] - signal.indices.shape[-1]
    even = signal.log_probs[:, -1:] - float(np.log(others))
    missed = full.exp() * (full - even)
    unseen = missed.scatter(-1, signal.indices, 0.0).sum(-1)
    stored = signal.log_probs.to(torch.float16).float()
    return Lost(
        float(tail.mean()),
        float(unseen.mean()),
        float((stored - signal.log_probs)[:, :-1].abs().max()),
        float(between(signal.log_probs, stored, "forward").abs().mean()),
    )
