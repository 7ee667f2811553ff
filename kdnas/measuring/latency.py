"""The measuring protocol: how long one forward pass takes, beside the teacher's, and how far to trust the figure.

Interleaves teacher, student, teacher and divides by the teacher's bracketing passes, so that a drifting machine
cancels. Each pass follows one of the other model and finds the caches as that left them: passes of one small model in a
row live on the last cache, and so on what the machine's other guests leave of it, which changes from minute to minute
and slows a student more than its teacher. Stops when the 95 % interval of the median ratio is narrow enough. The
interval is of looks, the medians of some rounds in a row, since rounds of one moment share what the machine then does.
Knows no recipe and no store: it is given two functions to call, and two more to look up and remember shapes already
measured.
"""

from __future__ import annotations

import contextlib
import gc
import hashlib
import json
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from math import ceil, floor, sqrt
from typing import Any

import torch

from kdnas.measuring.device_lock import device_lock
from kdnas.measuring.devices import device_name
from kdnas.study.spec import LatencySpec

VERSION = 4  # of the protocol
WINDOW = 5  # passes in one window of the warm-up
SETTLED = 0.02  # two windows whose medians differ by no more end the warm-up
LOOKS = 20  # looks in the longest measurement: one lasts a second where that is 20 s
FEWEST = 10  # looks before the interval may end the measurement: of fewer it is itself too uncertain
FAIR = 0.9  # share of the wall time that a pass must have had of its core
CONTENDED = 0.1  # share of rounds below FAIR from which the figure is flagged

Once = Callable[[], object]
Lookup = Callable[[str, str, str], Mapping[str, Any] | None]
Remember = Callable[[str, str, str, Mapping[str, Any]], None]


@dataclass(frozen=True)
class Measured:
    """Milliseconds of one forward pass. All student figures are the ratio to the bracketing teacher passes times
    `teacher_p50`, so that `p50 / teacher_p50` is the ratio: the median over the looks."""

    p50: float
    p90: float
    low: float  # 95 % interval of the median, from order statistics of the looks
    high: float
    spread: float  # interquartile range over the median
    count: int  # rounds that counted
    flag: str | None  # why the figure is doubtful
    teacher_p50: float
    share: float | None  # of its core that the timed thread had; None on a GPU
    contended: float  # share of rounds left out for having had less than a fair part of the core
    seconds: float
    graph_p50: float | None = None  # GPU: replay of a CUDA graph, without the launches
    teacher_graph_p50: float | None = None

    @property
    def ratio(self) -> float:
        """Student over teacher."""
        return self.p50 / self.teacher_p50

    @property
    def precision(self) -> float:
        """Half the 95 % interval, as a share of the median."""
        return (self.high - self.low) / (2 * self.p50)

    def scaled(self, teacher_p50: float) -> Measured:
        """The same ratios beside another reading of the teacher, so that trials of one study can be compared."""
        factor = teacher_p50 / self.teacher_p50
        values = asdict(self)
        for name in ("p50", "p90", "low", "high", "teacher_p50"):
            values[name] *= factor
        return Measured(**values)


def measure(
    student: Once,
    teacher: Once | None,
    settings: LatencySpec,
    device: torch.device,
    *,
    shape: str | None = None,
    teacher_shape: str | None = None,
    lookup: Lookup | None = None,
    remember: Remember | None = None,
) -> Measured:
    """Time `student` beside `teacher` (alone where that is None), holding the device's lock.

    With `shape`, `lookup` and `remember`, a shape measured before on this device by this protocol is not measured
    again; flagged figures are not remembered. With `teacher_shape` figures are scaled to the teacher's first reading.
    """
    where, protocol = device_name(device), protocol_key(settings)
    if shape is not None and lookup is not None:
        found = lookup(where, protocol, _key(shape))
        if found is not None:
            return Measured(**found)
    with device_lock(device), _threads(settings.threads, device), _no_collection():
        measured = _measure(student, teacher, settings, device)
        if measured.flag is not None and measured.contended > CONTENDED:
            again = _measure(student, teacher, settings, device)
            if again.flag is None or again.contended < measured.contended:
                measured = again
    if teacher_shape is not None and lookup is not None and remember is not None:
        key = _key(f"teacher {teacher_shape}")
        reference = lookup(where, protocol, key)
        if reference is not None:
            measured = measured.scaled(float(reference["p50"]))
        elif measured.flag is None:
            remember(where, protocol, key, {"p50": measured.teacher_p50})
    if shape is not None and remember is not None and measured.flag is None:
        remember(where, protocol, _key(shape), asdict(measured))
    return measured


# ---------------------------------------------------------------- the protocol


@dataclass(frozen=True)
class _Pass:
    """One timed call, milliseconds; CPU time of the calling thread where it is the one that computes."""

    wall: float
    cpu: float


@dataclass(frozen=True)
class _Round:
    """A student pass between two teacher passes."""

    student: float
    teacher: float  # mean of the two around it
    share: float
    at: float  # seconds since the measurement began


def _measure(student: Once, teacher: Once | None, settings: LatencySpec, device: torch.device) -> Measured:
    begin = time.perf_counter()
    clock = _clock(device)
    _warm(student, teacher, clock, settings)
    rounds: list[_Round] = []
    before = clock(teacher) if teacher is not None else None
    while True:
        ours = clock(student)
        after = clock(teacher) if teacher is not None else None
        at = time.perf_counter() - begin
        rounds.append(_round(ours, before, after, at))
        before = after
        fair = [r for r in rounds if r.share >= FAIR]
        looks = _looks(fair, settings.max_seconds / LOOKS)
        if len(looks) >= FEWEST:
            low, high = interval(looks)
            if (high - low) / 2 <= settings.precision * statistics.median(looks):
                break
        if at > settings.max_seconds and len(rounds) >= 3:
            break
    contended = 1 - len(fair) / len(rounds)
    kept = fair if len(fair) >= FEWEST else sorted(rounds, key=lambda r: -r.share)[:FEWEST]
    ratios = sorted(_ratios(kept))
    looks = _looks(kept, settings.max_seconds / LOOKS)
    middle = statistics.median(looks)
    low, high = interval(looks)
    scale = statistics.median(r.teacher for r in kept)
    quarters = statistics.quantiles(ratios, n=4) if len(ratios) > 1 else [middle] * 3
    on_cpu = device.type == "cpu"
    share = statistics.median(r.share for r in rounds) if on_cpu else None
    flag = None
    if contended > CONTENDED:
        flag = f"contended: {contended:.0%} of the passes shared their core"
    elif (high - low) / 2 > settings.precision * middle:
        flag = f"±{(high - low) / 2 / middle:.1%} after {settings.max_seconds:g} s"
    graph = teacher_graph = None
    if device.type == "cuda":
        try:
            graph = _graph(student, device)
            teacher_graph = _graph(teacher, device) if teacher is not None else None
        except RuntimeError:  # a pass that waits for the GPU in its middle can't be captured: eager alone then
            graph = teacher_graph = None
    return Measured(
        p50=middle * scale,
        p90=ratios[ceil(0.9 * len(ratios)) - 1] * scale,
        low=low * scale,
        high=high * scale,
        spread=(quarters[2] - quarters[0]) / middle,
        count=len(kept),
        flag=flag,
        teacher_p50=scale,
        share=share,
        contended=contended,
        seconds=time.perf_counter() - begin,
        graph_p50=graph,
        teacher_graph_p50=teacher_graph,
    )


def _ratios(rounds: Sequence[_Round]) -> list[float]:
    return [r.student / r.teacher for r in rounds]


def _looks(rounds: Sequence[_Round], seconds: float) -> list[float]:
    """Median ratio of each stretch of that many seconds that holds a round."""
    stretches: dict[int, list[_Round]] = {}
    for one in rounds:
        stretches.setdefault(int(one.at / seconds), []).append(one)
    return [statistics.median(_ratios(stretch)) for stretch in stretches.values()]


def _round(ours: _Pass, before: _Pass | None, after: _Pass | None, at: float = 0.0) -> _Round:
    around = [p for p in (before, after) if p is not None]
    # Alone, a model is measured against one millisecond: ratios are milliseconds.
    bracket = statistics.fmean(p.wall for p in around) if around else 1.0
    return _Round(ours.wall, bracket, min(p.cpu / p.wall for p in (ours, *around)), at)


def interval(values: Sequence[float]) -> tuple[float, float]:
    """95 % interval of the median, from order statistics: the ranks n/2 ± 0.98·√n (the binomial's normal form)."""
    ordered = sorted(values)
    n = len(ordered)
    reach = 0.98 * sqrt(n)
    return ordered[max(0, floor(n / 2 - reach))], ordered[min(n - 1, ceil(n / 2 + reach) - 1)]


def _warm(student: Once, teacher: Once | None, clock: Callable[[Once], _Pass], settings: LatencySpec) -> None:
    """Pass until the medians of two windows agree, for at most a quarter of the time."""
    until = time.perf_counter() + settings.max_seconds / 4
    for once in (student, teacher):
        if once is None:
            continue
        earlier = statistics.median(clock(once).wall for _ in range(WINDOW))
        while True:
            later = statistics.median(clock(once).wall for _ in range(WINDOW))
            if abs(later - earlier) <= SETTLED * earlier or time.perf_counter() > until:
                break
            earlier = later


def _clock(device: torch.device) -> Callable[[Once], _Pass]:
    if device.type == "cuda":

        def on_gpu(once: Once) -> _Pass:
            begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            begin.record()
            once()
            end.record()
            end.synchronize()
            wall = begin.elapsed_time(end)
            return _Pass(wall, wall)

        return on_gpu
    if device.type == "mps":

        def on_mps(once: Once) -> _Pass:
            begin = time.perf_counter_ns()
            once()
            torch.mps.synchronize()
            wall = (time.perf_counter_ns() - begin) / 1e6
            return _Pass(wall, wall)

        return on_mps

    def on_cpu(once: Once) -> _Pass:
        cpu, wall = time.thread_time_ns(), time.perf_counter_ns()
        once()
        wall = time.perf_counter_ns() - wall
        return _Pass(wall / 1e6, (time.thread_time_ns() - cpu) / 1e6)

    return on_cpu


def _graph(once: Once, device: torch.device) -> float:
    """Median milliseconds of a replayed CUDA graph of the pass: the arithmetic without the launches."""
    side = torch.cuda.Stream(device)
    side.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(side):
        for _ in range(3):
            once()
    torch.cuda.current_stream(device).wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        once()
    clock = _clock(device)
    return statistics.median(clock(graph.replay).wall for _ in range(50))


@contextlib.contextmanager
def _threads(count: int, device: torch.device) -> Iterator[None]:
    before = torch.get_num_threads()
    if device.type == "cpu":
        torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextlib.contextmanager
def _no_collection() -> Iterator[None]:
    was = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


# ---------------------------------------------------------------- what a figure belongs to


def protocol_key(settings: LatencySpec) -> str:
    """Fingerprint of the protocol, its settings and torch's version."""
    facts = {"version": VERSION, "torch": torch.__version__, **settings.model_dump(mode="json")}
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def _key(shape: str) -> str:
    return hashlib.sha256(shape.encode()).hexdigest()


# ---------------------------------------------------------------- the device's lock
