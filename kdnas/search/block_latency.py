"""Fills a table of blocks on a workbench: models of each block in two depths, measured whole by the studies' protocol.

Which models, what a search predicts from them (`latency.by = "blocks"`), and what measured trials say of the table. The
table itself is `kdnas.measuring.block_table`. Figures are remembered like those of any candidate, so that no study
measures them again. Evaluates no candidate.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from kdnas.measuring.block_table import Block, BlockTable, NoiseError, Reading
from kdnas.measuring.device_lock import Turn
from kdnas.recipes.contract import DEPTH, Workbench
from kdnas.search.candidate import Aside, Measure, Timed, no_asides
from kdnas.study.rows import TrialRow
from kdnas.study.space import Candidate, Value
from kdnas.study.spec import StudySpec
from kdnas.system.errors import UsageError
from kdnas.system.progress import Progress
from kdnas.training.contract import Student

AGAIN = 2  # times that doubtful models are measured again


def probes(bench: Workbench, candidates: Iterable[Candidate]) -> list[Candidate]:
    """The models that a table for these candidates needs: each of their blocks once, and as often as the deepest
    candidate of the space has it. The farther apart the two depths are, the less the noise of each matters.

    Raises UsageError for a space without depths.
    """
    depths = next((d.choices for d in bench.space.dimensions if d.name == DEPTH), None)
    if depths is None:
        raise UsageError("Candidates of this recipe have no blocks to add up.", "Measure each of them.")
    deepest = max(2, *(int(depth) for depth in depths))
    found: dict[str, Candidate] = {}
    for candidate in candidates:
        for depth in (1, deepest):
            for probe in bench.repeated(candidate, depth):
                found.setdefault(bench.shape_key(probe), probe)
    return list(found.values())


def timed_reading(bench: Workbench, measure: Measure, probe: Candidate) -> tuple[Reading, float]:
    """One such model, of whatever weights, by the protocol, and the teacher's milliseconds beside it."""
    with Turn(bench.device):
        model = bench.probe(probe)
    timed = measure(bench, model, probe)
    return Reading(bench.blocks(probe), timed.p50, (timed.high - timed.low) / 2, timed.flag), timed.teacher_p50


def over_teacher(bench: Workbench, measure: Measure, probe: Candidate) -> Reading:
    """The same as a ratio to the teacher's time."""
    reading, teacher = timed_reading(bench, measure, probe)
    return Reading(reading.blocks, reading.ms / teacher, reading.half / teacher, reading.flag)


def filled(
    wanted: Sequence[Candidate],
    read: Callable[[Candidate], Reading],
    on_progress: Progress,
    before: int = 0,
    of: int = 0,
) -> BlockTable:
    """The table of these models. Where a part comes out as no time at all, those whose figures are doubtful are
    measured again, at most `AGAIN` times. `before` models of `of` are told of already.

    Raises UsageError, KdnasError.
    """
    of = of or len(wanted)
    readings = []
    for done, probe in enumerate(wanted, before):
        on_progress(f"measuring blocks, {done + 1} of {of}", done / of)
        readings.append(read(probe))
    for _ in range(AGAIN):
        try:
            return BlockTable.of(readings)
        except NoiseError:
            doubtful = [place for place, reading in enumerate(readings) if reading.flag]
            if not doubtful:
                raise
            on_progress(f"measuring {len(doubtful)} doubtful models again: a part came out below zero", None)
            for place in doubtful:
                readings[place] = read(wanted[place])
    return BlockTable.of(readings)


def table_of(
    bench: Workbench,
    measure: Measure,
    candidates: Sequence[Candidate],
    on_progress: Progress = lambda words, share: None,
) -> BlockTable:
    """The table that predicts every candidate of these blocks and depths. Raises UsageError, KdnasError."""
    return filled(probes(bench, candidates), lambda probe: timed_reading(bench, measure, probe)[0], on_progress)


@dataclass(frozen=True)
class PredictedTime:
    """What a search gets in place of a measurement; `flag` says so wherever the figure is shown."""

    p50: float
    low: float
    high: float
    flag: str
    teacher_p50: float  # measured, beside the models of the table
    p90: float | None = None
    count: int = 0  # passes of the candidate itself


class ByBlocks:
    """A `Measure` that predicts: it measures a candidate's block in two depths where nobody has, and adds up.

    Each prediction comes from the candidate's own block alone, so that it does not depend on which others were measured
    before. All candidates of a search are predicted, also those that are such a model themselves: they must compare.
    """

    def __init__(self, measure: Measure) -> None:
        self._measure = measure
        self._known: dict[str, tuple[Reading, float]] = {}  # with the teacher's milliseconds

    def __call__(self, bench: Workbench, student: Student, chosen: Candidate) -> Timed:
        return self.predicted(bench, chosen)

    def predicted(self, bench: Workbench, chosen: Candidate) -> PredictedTime:
        """The same for a candidate that nobody has built."""
        wanted, asked = probes(bench, [chosen]), set[str]()

        def read(probe: Candidate) -> Reading:
            key = bench.shape_key(probe)
            if key in asked or key not in self._known:  # asked for twice: what is known is doubtful
                self._known[key] = timed_reading(bench, self._measure, probe)
            asked.add(key)
            return self._known[key][0]

        found = filled(wanted, read, lambda words, share: None).predict(bench.blocks(chosen))
        return PredictedTime(found.ms, found.low, found.high, found.flag, self._known[bench.shape_key(wanted[-1])][1])


INNER, ACT = "intermediate_size", "hidden_act"
POINTS = 3  # numbers of neurons at which a block is measured; those between lie on a line


def predicted_ratios(bench: Workbench, measure: Measure, on_progress: Progress) -> np.ndarray:
    """Latency over the teacher's for every candidate of the space, in its order, from few models measured whole; [n].

    Of each width and number of heads the blocks with the fewest neurons, the most and some between are measured in the
    deepest students, the fewest and the most in one layer, too; further activations in one width, with the fewest and
    the most neurons: what they cost more has a part that no number of neurons changes. Raises UsageError, KdnasError.
    """
    choices = {d.name: d.choices for d in bench.space.dimensions}
    deepest, inners, acts = max(2, *map(int, choices[DEPTH])), sorted(map(int, choices[INNER])), choices[ACT]
    points = sorted({inners[round(i * (len(inners) - 1) / (POINTS - 1))] for i in range(POINTS)})
    bodies = {
        bench.shape_key({**c, DEPTH: 1, INNER: points[0], ACT: acts[0]}): {**c, ACT: acts[0]}
        for c in bench.space.candidates()
    }
    wanted: dict[str, Candidate] = {}
    for body in bodies.values():
        for depth, inner in ((1, points[0]), (1, points[-1]), *((deepest, point) for point in points)):
            probe = {**body, DEPTH: depth, INNER: inner}
            wanted.setdefault(bench.shape_key(probe), probe)
    middle = list(bodies.values())[len(bodies) // 2]
    ends = sorted({points[0], points[-1]})
    others = [{**middle, DEPTH: deepest, INNER: end, ACT: act} for act in acts[1:] for end in ends]
    wanted |= {bench.shape_key(probe): probe for probe in others}
    table = filled(list(wanted.values()), partial(over_teacher, bench, measure), on_progress)

    def block(candidate: Candidate, inner: int, act: Value) -> float:
        return table.blocks[bench.blocks({**candidate, INNER: inner, ACT: act})[0]]

    extra = {act: [block(middle, end, act) - block(middle, end, acts[0]) for end in ends] for act in acts}
    lines = {key: [block(body, point, acts[0]) for point in points] for key, body in bodies.items()}
    found = []
    for candidate in bench.space.candidates():
        line = lines[bench.shape_key({**candidate, DEPTH: 1, INNER: points[0], ACT: acts[0]})]
        inner = int(candidate[INNER])
        one = float(np.interp(inner, points, line) + np.interp(inner, ends, extra[candidate[ACT]]))
        found.append(table.around[bench.blocks(candidate)[0].width] + int(candidate[DEPTH]) * one)
    return np.array(found)


def of_search(spec: StudySpec, measure: Measure, aside: Aside) -> tuple[Measure, Aside]:
    """How the search of a spec comes to its candidates' latencies, and to those of further passes; `measure` and
    `aside` are the protocol. Of further passes nothing is predicted: where no candidate is measured, there are none."""
    return (ByBlocks(measure), no_asides) if spec.latency.by == "blocks" else (measure, aside)


def readings_of(bench: Workbench, rows: Iterable[TrialRow], known: Iterable[Block] | None = None) -> list[Reading]:
    """What trials that were measured whole say, to check a table by: those without a doubt, of `known` blocks."""
    allowed = None if known is None else set(known)
    found = []
    for row in rows:
        if row.latency_ms is None or row.latency_low_ms is None or row.latency_high_ms is None or row.latency_flag:
            continue
        blocks = bench.blocks(row.candidate)
        if allowed is None or allowed.issuperset(blocks):
            found.append(Reading(blocks, row.latency_ms, (row.latency_high_ms - row.latency_low_ms) / 2))
    return found
