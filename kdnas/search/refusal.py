"""Which candidates a search never proposes: those that miss a constraint by a figure known before training.

Sizes are counted without building the student, where the recipe can; latencies are known where the search predicts them
from blocks, each block being measured when the first candidate that has it is about to be proposed. The episodes of the
strategy lstm are chosen in one transaction, in which nothing can be measured: they see sizes alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from kdnas.recipes.contract import Workbench
from kdnas.search.block_latency import ByBlocks
from kdnas.search.candidate import Measure
from kdnas.strategies.refused import Figures, Part, Refusal
from kdnas.study.constraints import NONE, Limits, figures
from kdnas.study.space import Candidate, SearchSpace
from kdnas.system.errors import UsageError


class Present:
    """The refusal by a study's constraints of now; made anew where people have changed them."""

    def __init__(self, bench: Workbench, measure: Measure) -> None:
        self._bench, self._measure = bench, measure
        self._for: tuple[Limits, Limits] | None = None
        self._refusal: Refusal | None = None

    def now(self, limits: Limits) -> Refusal | None:
        """By these constraints; None where nothing is refused beforehand."""
        sizes, times = replace(limits.on_sizes(), reference_ms=None), limits.on_times()
        if not isinstance(self._measure, ByBlocks):
            times = NONE  # a figure of no candidate before it is measured
        if (sizes, times) != self._for:
            self._for, self._refusal = (sizes, times), refusal_of(self._bench, sizes, times, self._measure)
        return self._refusal


def refusal_of(bench: Workbench, sizes: Limits, times: Limits, measure: Measure) -> Refusal | None:
    """What constraints on sizes and on predicted latencies refuse on this workbench; None where that is nothing."""
    parts: list[Part] = []
    if sizes and bench.parameters(bench.space.from_ordinal(0)) is not None:
        parts.append((sizes, lambda candidate: figures(parameters=bench.parameters(candidate))))
    late = None
    if times and isinstance(measure, ByBlocks):
        late = (times, _predicted(bench, measure, times.reference_ms))
    return Refusal(bench.space, parts, late) if parts or late else None


def of_sizes(space: SearchSpace, known: Limits, parameters: Callable[[Candidate], int]) -> Refusal | None:
    """What the constraints on sizes refuse of a space, before anything is loaded; None where there are none."""
    sizes = known.on_sizes()
    return Refusal(space, [(sizes, lambda one: figures(parameters=parameters(one)))]) if sizes else None


def require_some(refusal: Refusal | None) -> None:
    """Raises UsageError where a space that can be looked at as a whole has no candidate left."""
    if refusal is not None and refusal.counted and not refusal.allowed:
        raise UsageError(
            f"No candidate of this space keeps to {refusal}; the nearest has {refusal.nearest()}.",
            "Loosen the constraint, or widen the space.",
        )


def _predicted(bench: Workbench, measure: ByBlocks, reference_ms: float | None) -> Figures:
    def told(candidate: Candidate) -> Mapping[str, float | None]:
        found = measure.predicted(bench, candidate)
        return figures(latency_ms=found.p50, teacher_latency_ms=found.teacher_p50, reference_ms=reference_ms)

    return told
