"""Figures that are no numbers, infinite, tiny or all the same, and spaces of one point or of fewer than the budget:
with every strategy the study ends, and what cannot be ranked is a failed trial with a line."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from benchmarks.torture.faults import Fault, Ground, Lost
from benchmarks.torture.searches import STRATEGIES, file_store, rows_of, said_last, spec_of, told, working
from kdnas.search.begin import begin
from kdnas.store import queries
from kdnas.store.check import check
from kdnas.store.database import open_reader
from kdnas.study.rows import Status
from tests import fakes

LOSSES = (float("nan"), float("inf"), float("-inf"), 0.0, -1.0, 5e-324, 1e-300, 1e300, 1.0)
TIMES = (5e-324, 1e-300, 1e-3, 1e300)  # a clock that runs gives no others


def odd(ground: Ground, strategy: str) -> int:
    """Losses and latencies of some candidates are odd; the others are evaluated."""
    spec = spec_of(strategy, ground.seed)
    place = file_store(ground)
    begin(spec, place)

    def figure(candidate: Any, usual: float, odd: tuple[float, ...], part: int) -> float:
        nth = (fakes.SPACE.ordinal(candidate) * 31 + part * 7 + ground.seed) % (3 * len(odd))
        return odd[nth] if nth < len(odd) else usual

    def work() -> int:
        usual_loss, usual_ms = fakes.loss, fakes.latency_ms
        fakes.loss = lambda candidate, epoch=2: figure(candidate, usual_loss(candidate, epoch), LOSSES, 0)
        fakes.latency_ms = lambda candidate: figure(candidate, usual_ms(candidate), TIMES, 1)
        return working(place)()

    ended_well(ground, place, work, (0, 1))
    return len(rows_of(place))


def constant(ground: Ground, strategy: str) -> int:
    """Every candidate is as good and as fast as any other."""
    place = file_store(ground)
    begin(spec_of(strategy, ground.seed), place)

    def work() -> int:
        fakes.loss = lambda candidate, epoch=2: 0.5
        fakes.latency_ms = lambda candidate: 2.0
        return working(place)()

    ended_well(ground, place, work, (0,))
    if len(told(place)) != 8:
        raise Lost(f"{len(told(place))} of 8 trials")
    return 8


def small(ground: Ground, strategy: str, points: int) -> int:
    """A space of one point, or of fewer than the budget: each once, and an end that says so."""
    layers = [1, 2, 3, 4, 6][: max(1, points)]
    choices = {
        "num_hidden_layers": layers,
        "num_attention_heads": [2],
        "intermediate_size": [256],
        "hidden_act": ["gelu"],
    }
    place = file_store(ground)
    begin(spec_of(strategy, ground.seed, space={"choices": choices}), place)
    ended_well(ground, place, working(place), (0,))
    if len(told(place)) != points:
        raise Lost(f"{len(told(place))} trials of a space of {points}")
    return points


def ended_well(ground: Ground, place: str, work: Callable[[], int], codes: tuple[int, ...]) -> None:
    code = ground.ended(ground.fork(work))
    if code not in codes:
        raise Lost(f"the worker ended with {code}: {said_last(ground)}")
    with open_reader(place) as store:
        row = queries.study_row(store, "fake")
        bad = [found.what for found in check(store) if found.state == "damaged"]
        lines = [line.line for line in queries.logs(store, row.study_id)]
    if bad:
        raise Lost(bad[0])
    if code == 0 and row.status != Status.FINISHED:
        raise Lost(f"it is {row.status}")
    if any("Traceback" in line or "A fault of kdnas" in line for line in lines):
        raise Lost("a traceback in the study's log")
    for words in (("show", "fake"), ("studies",), ("export", "fake", "--format", "csv")):
        ground.ran(*words, codes=(0, 1, 2), KDNAS_STORAGE=place)


def every(attempt: Callable[..., int], **more: Any) -> Callable[[Ground], int]:
    """With the strategy that is the seed's turn."""

    def with_one(ground: Ground) -> int:
        strategy = list(STRATEGIES)[ground.seed % len(STRATEGIES)]
        return attempt(ground, strategy, **more)

    return with_one


FAULTS = [
    Fault("numbers", "no numbers, infinities, zeros, denormals", every(odd), 1.5, quick=True),
    Fault("numbers", "constants", every(constant)),
    Fault("numbers", "a space of one point", every(small, points=1)),
    Fault("numbers", "a space of five points and a budget of eight", every(small, points=5)),
]
