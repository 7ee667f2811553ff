"""The measuring protocol: how long one forward pass takes, beside the teacher's, and how far to trust the figure.

Interleaves teacher, student, teacher and divides by the teacher's bracketing passes, so that a drifting machine
cancels. Each pass follows a pass of the other model. Repeated passes of a small model stay in the L3 cache, whose share
changes with neighbouring VMs; interleaving removes that bias. Stops when the 95 % interval of the median ratio is
narrow enough. The interval is of looks, medians of some rounds in a row: rounds close in time are not independent.
On a GPU the passes are replays of CUDA graphs where the spec wants them and they can be captured. Knows no recipe and
no store: it is given two functions to call, and two more to look up and remember shapes already measured.
"""

from __future__ import annotations

import contextlib
import gc
import hashlib
import json
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from math import ceil, floor, sqrt
from typing import Any

import torch

from kdnas.measuring import devices
from kdnas.measuring.clocks import Crowd, Pass, clock_of
from kdnas.measuring.device_lock import device_lock
from kdnas.measuring.passes import Once, captured
from kdnas.study.spec_latency import LatencySpec
from kdnas.study.timed_words import AUTO

VERSION = 4  # of the protocol
GPU_VERSION = 2  # of what it does on a GPU besides
WINDOW = 5  # passes in one window of the warm-up
SETTLED = 0.02  # two windows whose medians differ by no more end the warm-up
LOOKS = 20  # looks in the longest measurement: one lasts a second where that is 20 s
FEWEST = 10  # looks before the interval may end the measurement: of fewer it is itself too uncertain
FAIR = 0.9  # share of the wall time that a pass must have had of its core
CONTENDED = 0.1  # share of rounds below FAIR, or of the GPU's time, from which the figure is flagged
EAGER = 50  # eager rounds beside replays

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
    share: float | None  # of its core that the timed thread had
    contended: float  # share of rounds left out for having had less than a fair part of the core
    seconds: float
    way: str = "eager"  # or "graph": replays of CUDA graphs
    eager_p50: float | None = None  # beside replays: the median of the same pass without a graph
    teacher_eager_p50: float | None = None

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
    clock: Callable[[Once], Pass] | None = None,
) -> Measured:
    """Time `student` beside `teacher` (alone where that is None), holding the device's lock, by the device's clock
    unless another one is given.

    With `shape`, `lookup` and `remember`, a shape measured before on this device by this protocol is not measured
    again; flagged figures are not remembered. With `teacher_shape` figures are scaled to the teacher's first reading.
    """
    where, protocol = devices.device_name(device), protocol_key(settings, device)
    if shape is not None and lookup is not None:
        found = lookup(where, protocol, _key(shape))
        if found is not None:
            return _read(found)
    count = settings.threads if device.type == "cpu" else None
    with device_lock(device), devices.threads(count), _no_collection():
        given = (student, teacher, settings, device)
        measured = _measure(*given) if clock is None else _timed(*given, clock)
        if measured.flag is not None and measured.contended > CONTENDED:
            again = _measure(*given) if clock is None else _timed(*given, clock)
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
class _Round:
    """A student pass between two teacher passes."""

    student: float
    teacher: float  # mean of the two around it
    share: float
    at: float  # seconds since the measurement began


def _measure(student: Once, teacher: Once | None, settings: LatencySpec, device: torch.device) -> Measured:
    if device.type != "cuda" or settings.gpu == "eager":
        return _timed(student, teacher, settings, device)
    replays = [captured(once, device) for once in (student, teacher) if once is not None]
    if None in replays:
        made = _timed(student, teacher, settings, device)
        return replace(made, flag=made.flag or "eager: a pass cannot be captured as a CUDA graph")
    made = _timed(replays[0], replays[1] if teacher is not None else None, settings, device)  # type: ignore[arg-type]
    eager, teachers = _beside(student, teacher, device)
    return replace(made, way="graph", eager_p50=eager, teacher_eager_p50=teachers)


def _beside(student: Once, teacher: Once | None, device: torch.device) -> tuple[float, float | None]:
    """Median milliseconds of eager passes, student and teacher in turn."""
    clock = clock_of(device)
    rounds = [(clock(student).wall, None if teacher is None else clock(teacher).wall) for _ in range(EAGER)]
    theirs = [wall for _, wall in rounds[WINDOW:] if wall is not None]
    return statistics.median(ours for ours, _ in rounds[WINDOW:]), statistics.median(theirs) if theirs else None


def _timed(
    student: Once,
    teacher: Once | None,
    settings: LatencySpec,
    device: torch.device,
    clock: Callable[[Once], Pass] | None = None,
) -> Measured:
    begin = time.perf_counter()
    clock, crowd = clock or clock_of(device), Crowd(device)
    _warm(student, teacher, clock, settings)
    rounds = _rounds(student, teacher, clock, settings, begin)
    made = _figures(rounds, settings, crowd.busy())
    return replace(made, share=None if device.type == "mps" else made.share, seconds=time.perf_counter() - begin)


def _figures(rounds: Sequence[_Round], settings: LatencySpec, others: float | None) -> Measured:
    """What rounds say, as of when the last one ended; `others` is the share of the GPU that other processes had."""
    fair = [r for r in rounds if r.share >= FAIR]
    contended = 1 - len(fair) / len(rounds)
    counted = fair if len(fair) >= FEWEST else sorted(rounds, key=lambda r: -r.share)[:FEWEST]
    ratios = sorted(_ratios(counted))
    looks = _looks(counted, settings.max_seconds / LOOKS)
    middle = statistics.median(looks)
    low, high = interval(looks)
    scale = statistics.median(r.teacher for r in counted)
    quarters = statistics.quantiles(ratios, n=4) if len(ratios) > 1 else [middle] * 3
    flag = None
    if contended > CONTENDED:
        flag = f"contended: {contended:.0%} of the passes shared their core"
    elif others is not None and others > CONTENDED:
        flag = f"contended: the GPU worked for other processes {others:.0%} of the time"
    elif (high - low) / 2 > settings.precision * middle:
        flag = f"±{(high - low) / 2 / middle:.1%} after {settings.max_seconds:g} s"
    return Measured(
        p50=middle * scale,
        p90=ratios[ceil(0.9 * len(ratios)) - 1] * scale,
        low=low * scale,
        high=high * scale,
        spread=(quarters[2] - quarters[0]) / middle,
        count=len(counted),
        flag=flag,
        teacher_p50=scale,
        share=statistics.median(r.share for r in rounds),
        contended=max(contended, others or 0.0),
        seconds=rounds[-1].at,
    )


def _rounds(
    student: Once, teacher: Once | None, clock: Callable[[Once], Pass], settings: LatencySpec, begin: float
) -> list[_Round]:
    """Rounds until the interval is narrow enough or the time is over.

    The rule is evaluated once a look, when one has ended, and never between two passes that count: what it leaves in
    the caches would slow the next pass, always of the same model. After it each model passes once uncounted.
    """
    length = settings.max_seconds / LOOKS
    rounds: list[_Round] = []
    looks: list[float] = []  # of the looks that have ended
    first = 0  # round of the present look
    before = clock(teacher) if teacher is not None else None
    while True:
        ours = clock(student)
        after = clock(teacher) if teacher is not None else None
        at = time.perf_counter() - begin
        rounds.append(_round(ours, before, after, at))
        before = after
        if at > settings.max_seconds and len(rounds) >= 3:
            return rounds
        if _look_of(rounds[-1], length) == _look_of(rounds[first], length):
            continue
        fair = [r for r in rounds[first:-1] if r.share >= FAIR]
        if fair:
            looks.append(statistics.median(_ratios(fair)))
        if narrow(looks, settings.precision):
            return rounds[:-1]
        if len(rounds) - first > 2 and teacher is not None:
            clock(student)
            before = clock(teacher)
        first = len(rounds) - 1


def narrow(looks: Sequence[float], precision: float) -> bool:
    """Whether half the interval of the median of so many looks is within that share of it."""
    if len(looks) < FEWEST:
        return False
    low, high = interval(looks)
    return (high - low) / 2 <= precision * statistics.median(looks)


def _ratios(rounds: Sequence[_Round]) -> list[float]:
    return [r.student / r.teacher for r in rounds]


def _looks(rounds: Sequence[_Round], seconds: float) -> list[float]:
    """Median ratio of each stretch of that many seconds that holds a round."""
    stretches: dict[int, list[_Round]] = {}
    for one in rounds:
        stretches.setdefault(_look_of(one, seconds), []).append(one)
    return [statistics.median(_ratios(stretch)) for stretch in stretches.values()]


def _look_of(one: _Round, seconds: float) -> int:
    return int(one.at / seconds)


def _round(ours: Pass, before: Pass | None, after: Pass | None, at: float = 0.0) -> _Round:
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


def _warm(student: Once, teacher: Once | None, clock: Callable[[Once], Pass], settings: LatencySpec) -> None:
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


def protocol_key(settings: LatencySpec, device: torch.device | None = None) -> str:
    """Fingerprint of the protocol, its settings and torch's version. What only concerns GPUs is left out elsewhere."""
    given = settings.model_dump(mode="json")
    way = given.pop("gpu")
    del given["by"], given["what"], given["when"]  # what a search asks for: all that is measured is measured alike
    if given["dtype"] == AUTO:
        del given["dtype"]  # figures were kept before there was a choice
    facts = {"version": VERSION, "torch": torch.__version__, **given}
    if device is not None and device.type == "cuda":
        facts["gpu"] = [GPU_VERSION, way]
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def _read(found: Mapping[str, Any]) -> Measured:
    """A remembered figure; older ones have parts that are no more."""
    known = {part.name for part in fields(Measured)}
    return Measured(**{name: value for name, value in found.items() if name in known})


def _key(shape: str) -> str:
    return hashlib.sha256(shape.encode()).hexdigest()
