"""The teacher's hidden states on fixed text: computed once, kept memory-mapped in bf16.

Builds, opens and reads the cache whose folder cache_folder.py looks after; decides by timing whether to keep the states
or to compute them again. Knows no student and no loss.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import IO, Any, Literal

import psutil
import torch
from safetensors.torch import load_file, save_file

from kdnas.measuring import memory
from kdnas.measuring.device_lock import Turn
from kdnas.measuring.devices import autocasts, numerics, synchronise
from kdnas.models.encoder_cut import Importance, importance
from kdnas.models.least_squares_init import watched
from kdnas.system import disk_cache, paths
from kdnas.system.errors import UsageError
from kdnas.system.progress import Progress
from kdnas.system.tensor_files import computed_once
from kdnas.teachers import cache_folder
from kdnas.teachers.encoder import Teacher

VERSION = 1  # of what an entry holds
SAMPLE_CHUNKS = 16  # of the proxy set, for timing and for the importance
BUILD_BATCH = 32  # chunks at a time, as long as they fit
IMPORTANCE_BATCH = 8  # likewise


@dataclass(frozen=True)
class Decision:
    """Where the teacher's hidden states come from, and the timings that decided it."""

    place: str  # "device" | "memory" | "disk" | "recompute"
    reason: str
    bytes: int
    teacher_ms_per_chunk: float
    read_ms_per_chunk: float | None

    def facts(self) -> dict[str, Any]:
        return {
            "place": self.place,
            "reason": self.reason,
            "mib": round(self.bytes / 2**20, 1),
            "teacher_ms_per_chunk": round(self.teacher_ms_per_chunk, 3),
            "read_ms_per_chunk": None if self.read_ms_per_chunk is None else round(self.read_ms_per_chunk, 3),
        }


@dataclass(frozen=True)
class LayerStatistics:
    """Mean and variance of each hidden dimension over all tokens, float64 [hidden], for each layer kept."""

    mean: Mapping[int, torch.Tensor]
    variance: Mapping[int, torch.Tensor]


class HiddenStates:
    """The teacher's block outputs on fixed chunks, for chosen layers: bf16 [chunks, length, hidden] each.

    `batch` hands out rows; whether they come from the device, from memory, from a mapped file or from the teacher
    itself makes no difference to the values: all of them are rounded to bf16.
    """

    def __init__(
        self,
        teacher: Teacher,
        ids: torch.Tensor,
        layers: Sequence[int],
        decision: Decision,
        maps: Mapping[int, torch.Tensor],
        statistics: LayerStatistics,
        lock: IO[bytes] | None,
        kind: Kind,
    ) -> None:
        self.teacher, self.ids, self.layers, self._kind = teacher, ids, tuple(layers), kind
        self.decision, self.statistics = decision, statistics
        self._maps, self._lock = dict(maps), lock

    def batch(self, rows: torch.Tensor, layers: Sequence[int], positions: slice = slice(None)) -> list[torch.Tensor]:
        """bf16 [rows, positions, hidden] for each of `layers`, on the place's own device."""
        if self._maps:
            where = rows.to(next(iter(self._maps.values())).device)
            return [self._maps[layer][:, positions].index_select(0, where) for layer in layers]
        with torch.inference_mode():
            states = _read(self._kind, self.teacher, self.ids[rows])
            # Cloned: what inference mode makes can't be saved for a backward pass.
            kept = [states[layer][:, positions].to(torch.bfloat16) for layer in layers]
        return [state.clone() for state in kept]

    def first(self, count: int, layers: Sequence[int]) -> dict[int, torch.Tensor]:
        """bf16 [count, length, hidden] of the first chunks for each of `layers`; where nothing is kept, by one pass of
        the teacher for all of them."""
        if self._maps:
            return {layer: self._maps[layer][:count] for layer in layers}
        parts = [self.batch(rows, layers) for rows in torch.arange(count).split(BUILD_BATCH)]
        return {layer: torch.cat([part[i] for part in parts]) for i, layer in enumerate(layers)}

    def close(self) -> None:
        self._maps.clear()
        if self._lock is not None:
            self._lock.close()
            self._lock = None


def require_finite(states: HiddenStates, what: str) -> None:
    """Raise UsageError where the teacher's states on some chunk are not finite numbers: its sums then are none."""
    odd = next((layer for layer in states.layers if not bool(states.statistics.variance[layer].isfinite().all())), None)
    if odd is not None:
        raise UsageError(
            f"The teacher {states.teacher.name!r} gives values that are not finite numbers on {what}, at layer {odd}.",
            "Check its weights and the text; a checkpoint that overflowed in fp16 cannot teach.",
        )


def run(teacher: Teacher, ids: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Block outputs [rows, length, hidden], the embeddings left out; bf16 autocast where the GPU has it."""
    device = teacher.device
    with torch.autocast(device.type, torch.bfloat16, enabled=autocasts(device)):
        out = teacher.body(input_ids=ids.to(device), output_hidden_states=True)
    return tuple(out.hidden_states[1:])


def entering(teacher: Teacher, ids: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """What enters the norm at each layer's end [rows, length, hidden]; in full precision, since it is solved for."""
    family = teacher.family
    found: dict[int, list[torch.Tensor]] = {layer: [] for layer in range(family.sizes(teacher.config).layers)}
    names = {family.layer_prefix(layer) + family.norm: found[layer].append for layer in found}
    watched(teacher.body, ids, names)
    return tuple(torch.cat(parts).view(*ids.shape, -1) for parts in found.values())


Kind = Literal["outputs", "entering"]
"""Which of the teacher's states: its block outputs, or what enters the norm at the end of each layer."""

Known = Mapping[int, Sequence[torch.Tensor]]
"""States of one kind on the first chunks, BUILD_BATCH of them to a tensor: bf16 on the CPU, for each layer."""


def _read(kind: Kind, teacher: Teacher, ids: torch.Tensor) -> tuple[torch.Tensor, ...]:
    return entering(teacher, ids) if kind == "entering" else run(teacher, ids)


def entry_key(teacher: Teacher, ids: torch.Tensor, layers: Sequence[int], kind: Kind = "outputs") -> str:
    """Of weights, tokenizer, text, chunk length, layers, the dtype of the entry and the precision that the teacher
    computes in: equal keys, equal bytes (to rounding)."""
    digest = hashlib.sha256()
    facts = [VERSION, teacher.fingerprint, list(ids.shape), list(layers), "bfloat16", numerics(teacher.device)]
    if kind != "outputs":
        facts.append(kind)
    digest.update(json.dumps(facts).encode())
    digest.update(ids.contiguous().numpy().data)
    return digest.hexdigest()[:32]


def hidden_states(
    teacher: Teacher,
    ids: torch.Tensor,
    layers: Sequence[int],
    *,
    passes: int,
    on_progress: Progress,
    what: str = "the text",
    kind: Kind = "outputs",
    known: Known | None = None,
) -> HiddenStates:
    """The teacher's states on `ids` [chunks, length] (on the CPU), from the cache or, where that is quicker, live.

    `passes` is how often the whole text will be asked for in this study: what is asked for once isn't kept. `known`
    are the states of the first chunks, where a pass has given them already.
    """
    key = entry_key(teacher, ids, layers, kind)
    size = ids.numel() * teacher.hidden * 2 * len(layers)
    lock = cache_folder.opened(key)
    if lock is None:
        decision = decide(teacher, ids, layers, size, passes, kind)
        if decision.place == "recompute":
            statistics = _live_statistics(teacher, ids, layers, on_progress, what, kind)
            return HiddenStates(teacher, ids, layers, decision, {}, statistics, None, kind)
        cost, given = decision.teacher_ms_per_chunk, known or {}
        lock = cache_folder.opened_or_built(
            key, lambda: _build(key, teacher, ids, layers, on_progress, what, kind, given, cost)
        )
    manifest = cache_folder.manifest(key)
    timing = manifest["timing"]
    place, reason = _place(size, teacher.device)
    decision = Decision(place, reason, size, timing["teacher_ms_per_chunk"], timing["read_ms_per_chunk"])
    maps = _mapped(key, ids, layers, int(manifest["hidden"]))
    if place == "device":
        maps = {layer: states.to(teacher.device) for layer, states in maps.items()}
    elif place == "memory":
        for states in maps.values():  # touched once, so that the pages stand in the page cache for all workers
            states.view(torch.int16).flatten()[:: 2048 // 2].sum()
    flat = load_file(cache_folder.root() / key / "statistics.safetensors")
    statistics = LayerStatistics(
        {layer: flat[f"mean.{layer}"] for layer in layers}, {layer: flat[f"variance.{layer}"] for layer in layers}
    )
    return HiddenStates(teacher, ids, layers, decision, maps, statistics, lock, kind)


def _place(size: int, device: torch.device) -> tuple[str, str]:
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        if size <= 0.3 * free:
            return "device", f"{_mib(size)} take less than 30 % of the GPU's free memory"
    available = psutil.virtual_memory().available
    if size <= 0.25 * available:
        return "memory", f"{_mib(size)} take less than a quarter of the free memory"
    return "disk", f"{_mib(size)} are more than a quarter of the free memory"


def decide(
    teacher: Teacher, ids: torch.Tensor, layers: Sequence[int], size: int, passes: int, kind: Kind = "outputs"
) -> Decision:
    """Keep or recompute, from the time of the teacher and of a cold read of the same states on a few chunks."""
    sample = ids[:SAMPLE_CHUNKS]
    rows = len(sample)
    with Turn(teacher.device), torch.inference_mode():
        list(_halved(teacher, sample[:2], 2, layers, kind))  # to warm up
        synchronise(teacher.device)
        begin = time.perf_counter()
        parts = [states for _, states in _halved(teacher, sample, rows, layers, kind)]
        synchronise(teacher.device)
        teacher_ms = (time.perf_counter() - begin) * 1000 / len(sample)
    if passes <= 1:
        return Decision("recompute", "the text is read only once", size, teacher_ms, None)
    if not disk_cache.make_room(size):
        limit = _mib(disk_cache.limit_bytes())
        return Decision("recompute", f"{_mib(size)} do not fit into the cache's {limit}", size, teacher_ms, None)
    read_ms = _cold_read([states[layer].cpu() for states in parts for layer in layers]) / len(sample)
    kept, live = teacher_ms + passes * read_ms, passes * teacher_ms
    if kept >= live:
        why = f"reading takes {read_ms:.2g} ms a chunk, the teacher {teacher_ms:.2g} ms"
        return Decision("recompute", why, size, teacher_ms, read_ms)
    place, why = _place(size, teacher.device)
    return Decision(place, why, size, teacher_ms, read_ms)


def _cold_read(states: Sequence[torch.Tensor]) -> float:
    """Milliseconds to read the states from the cache's disk, its pages dropped from memory first."""
    paths.own_folder(cache_folder.root())
    path = cache_folder.root() / f".timing-{os.getpid()}"
    try:
        with path.open("wb") as file:
            for state in states:
                file.write(state.contiguous().view(torch.uint8).numpy().data)
            cache_folder.on_disk(file)
            if hasattr(os, "posix_fadvise"):
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        begin = time.perf_counter()
        path.read_bytes()
        return (time.perf_counter() - begin) * 1000
    except OSError as error:
        raise cache_folder.unwritable(error) from None
    finally:
        path.unlink(missing_ok=True)


def _mapped(key: str, ids: torch.Tensor, layers: Sequence[int], hidden: int) -> dict[int, torch.Tensor]:
    shape = (*ids.shape, hidden)
    count = ids.numel() * hidden
    return {
        layer: torch.from_file(str(cache_folder.root() / key / _name(layer)), size=count, dtype=torch.bfloat16).view(
            shape
        )
        for layer in layers
    }


def _name(layer: int) -> str:
    return f"layer-{layer:02d}.bf16"


class _Moments:
    """Sums over tokens in float64, for each layer."""

    def __init__(self, layers: Sequence[int], hidden: int) -> None:
        self.count = 0
        self.first = {layer: torch.zeros(hidden, dtype=torch.float64) for layer in layers}
        self.second = {layer: torch.zeros(hidden, dtype=torch.float64) for layer in layers}

    def add(self, states: Mapping[int, torch.Tensor]) -> None:
        for layer, state in states.items():
            flat = state.flatten(0, 1).double()
            self.first[layer] += flat.sum(0).cpu()
            self.second[layer] += flat.square().sum(0).cpu()
        self.count += flat.shape[0]

    def statistics(self) -> LayerStatistics:
        mean = {layer: first / self.count for layer, first in self.first.items()}
        variance = {layer: (self.second[layer] / self.count - mean[layer].square()).clamp_min(0) for layer in mean}
        return LayerStatistics(mean, variance)


def _passes(
    teacher: Teacher,
    ids: torch.Tensor,
    layers: Sequence[int],
    on_progress: Progress,
    doing: str,
    kind: Kind,
    done: int = 0,
) -> Iterator[dict[int, torch.Tensor]]:
    """The states of all chunks after `done` of them in order, bf16 on the CPU. Where memory runs out, with fewer chunks
    at a time."""
    with Turn(teacher.device) as turn, torch.inference_mode():
        for part, states in _halved(teacher, ids[done:], BUILD_BATCH, layers, kind):
            yield {layer: state.cpu() for layer, state in states.items()}
            done += len(part)
            turn.step()
            on_progress(doing, done / len(ids))


def _halved(
    teacher: Teacher, ids: torch.Tensor, rows: int, layers: Sequence[int], kind: Kind
) -> Iterator[tuple[torch.Tensor, dict[int, torch.Tensor]]]:
    """Chunks, and the teacher's states on them in bf16 on its device."""

    def states(part: torch.Tensor) -> dict[int, torch.Tensor]:
        found = _read(kind, teacher, part)
        return {layer: found[layer].to(torch.bfloat16) for layer in layers}

    return memory.halving(ids, rows, teacher.device, states)


def _live_statistics(
    teacher: Teacher, ids: torch.Tensor, layers: Sequence[int], on_progress: Progress, what: str, kind: Kind
) -> LayerStatistics:
    moments = _Moments(layers, teacher.hidden)
    for states in _passes(teacher, ids, layers, on_progress, f"measuring the teacher on {what}", kind):
        moments.add(states)
    return moments.statistics()


def _build(
    key: str,
    teacher: Teacher,
    ids: torch.Tensor,
    layers: Sequence[int],
    on_progress: Progress,
    what: str,
    kind: Kind,
    known: Known,
    cost: float,
) -> None:
    """`cost` is what a pass takes, in milliseconds a chunk: recorded where all is `known`, so that none is timed."""
    facts: dict[str, Any] = {
        "version": VERSION,
        "teacher": teacher.name,
        "fingerprint": teacher.fingerprint,
        "text": what,
        "layers": list(layers),
        "chunks": len(ids),
        "length": ids.shape[1],
        "hidden": teacher.hidden,
        "dtype": "bfloat16",
    }
    moments = _Moments(layers, teacher.hidden)
    with cache_folder.written(key, facts) as build:
        files = {layer: build.file(_name(layer), ids.shape[1] * teacher.hidden * 2) for layer in layers}
        for states in _again(build, ids, layers, teacher.hidden):
            moments.add(states)

        def keep(states: Mapping[int, torch.Tensor]) -> None:
            moments.add(states)
            for layer, state in states.items():
                files[layer].write(state.contiguous().view(torch.uint8).numpy().data)
            build.wrote(len(state))

        given, before = known.get(layers[0], ()), 0
        for place, part in enumerate(given):
            before += len(part)
            if before - len(part) == build.done and (len(part) == BUILD_BATCH or before == len(ids)):
                keep({layer: known[layer][place] for layer in layers})  # as they would be built
        begin, rest = time.perf_counter(), len(ids) - build.done
        for states in _passes(teacher, ids, layers, on_progress, f"caching the teacher on {what}", kind, build.done):
            keep(states)
        if rest:
            cost = (time.perf_counter() - begin) * 1000 / rest
        files[layers[0]].flush()  # it is read below
        statistics = moments.statistics()
        save_file(
            {f"mean.{layer}": statistics.mean[layer] for layer in layers}
            | {f"variance.{layer}": statistics.variance[layer] for layer in layers},
            build.folder / "statistics.safetensors",
        )
        begin = time.perf_counter()
        sample = (build.folder / _name(layers[0])).read_bytes()
        read = (time.perf_counter() - begin) * 1000 * len(layers) / len(ids)
        del sample
        facts["timing"] = {"teacher_ms_per_chunk": cost, "read_ms_per_chunk": read}


def _again(
    build: cache_folder.Build, ids: torch.Tensor, layers: Sequence[int], hidden: int
) -> Iterator[dict[int, torch.Tensor]]:
    """What an earlier attempt left, in the batches in which it would be built."""
    if not build.done:
        return
    shape = (build.done, ids.shape[1], hidden)
    maps = {
        layer: torch.from_file(str(build.folder / _name(layer)), size=prod(shape), dtype=torch.bfloat16).view(shape)
        for layer in layers
    }
    for rows in torch.arange(build.done).split(BUILD_BATCH):
        yield {layer: states[rows] for layer, states in maps.items()}


def _mib(size: int) -> str:
    return f"{size / 2**20:,.0f} MiB"


def importance_of(teacher: Teacher, ids: torch.Tensor) -> Importance:
    """The importance of the teacher's parts on the first chunks of the proxy set, cached beside the states.

    Cached because it ranks: two workers whose sums differ in the last bit must still cut the same student.
    """
    sample = ids[:SAMPLE_CHUNKS]
    path = cache_folder.root() / "importance" / f"{entry_key(teacher, sample, [-1])}.safetensors"

    def measure(rows: int) -> dict[str, torch.Tensor]:
        return importance(teacher.body, teacher.family, sample, rows).tensors()

    def make() -> dict[str, torch.Tensor]:
        with Turn(teacher.device):
            return memory.whole(IMPORTANCE_BATCH, teacher.device, measure)

    return Importance(**computed_once(path, make))
