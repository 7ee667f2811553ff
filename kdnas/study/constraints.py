"""Which trials keep a study's constraints, by how much the others miss them, and what is known before training.

A violation is relative to its bound: at most 0 where the constraint is kept, 0.1 where it is missed by a tenth. Pure
arithmetic, on single figures and on arrays alike; loads neither numpy nor the spec.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from math import log
from typing import Any

from kdnas.study.rows import StudyRow

BYTES_PER_MIB = 2**20
BYTES_PER_PARAMETER = 4  # students are saved in fp32
UNKNOWN = 1.0
"""The violation by a figure that a finished trial lacks: it counts as missed by its whole bound."""
LEAST = 1e-3
"""Figures below this share of their bound tell a sampler no more than that they are far below it."""

PART = "constraints"  # of the spec
EVENT = "constraints"  # in a study's history, where they were changed
_FIELDS = {  # field of the spec → figure, whether it bounds from above
    "max_latency_ms": ("latency_ms", True),
    "min_speedup": ("speedup", False),
    "max_parameters": ("parameters", True),
    "max_size_mib": ("size_mib", True),
    "max_loss": ("loss", True),
}
_SIZES = frozenset({"max_parameters", "max_size_mib"})
_TIMES = frozenset({"max_latency_ms", "min_speedup"})


@dataclass(frozen=True)
class Limit:
    """One constraint."""

    field: str  # of the spec's part
    bound: float

    @property
    def figure(self) -> str:
        return _FIELDS[self.field][0]

    def violation(self, value: Any) -> Any:
        """By how much a figure, or each of an array, misses the bound, as a share of it; at most 0 where it is kept."""
        over = value - self.bound if _FIELDS[self.field][1] else self.bound - value
        return over / self.bound

    def log_violation(self, value: float) -> float:
        """The logarithm of the figure over its bound, or of the bound over the figure where that is a lower one: of the
        sign of the violation."""
        ratio = value / self.bound if _FIELDS[self.field][1] else self.bound / max(value, LEAST * self.bound)
        return log(max(ratio, LEAST))

    def __str__(self) -> str:
        return f"{self.field} {self.bound:,}" if self.field == "max_parameters" else f"{self.field} {self.bound:g}"

    def told(self, value: float) -> str:
        """A figure that misses the bound, beside it: `5.6 ms for at most 5`."""
        shown, bound = _apart(self.figure, value, self.bound)
        return f"{shown} for at {'most' if _FIELDS[self.field][1] else 'least'} {bound}"


@dataclass(frozen=True)
class Limits:
    """All constraints of a study. False where there are none."""

    limits: tuple[Limit, ...] = ()
    reference_ms: float | None = None  # the time of the teacher for which latencies are told

    def __bool__(self) -> bool:
        return bool(self.limits)

    def __str__(self) -> str:
        return ", ".join(map(str, self.limits))

    def violations(self, figures: Mapping[str, float | None]) -> dict[str, float]:
        """Field → by how much a trial misses it, at most 0 where it keeps it; a figure that it lacks is missed."""
        found = {}
        for limit in self.limits:
            value = figures.get(limit.figure)
            # NaN is no figure either.
            found[limit.field] = UNKNOWN if value is None or value != value else limit.violation(value)
        return found

    def scaled(self, figures: Mapping[str, float | None]) -> dict[str, float]:
        """The violations as samplers get them, of the same sign and order: logarithms on both sides of the bound. Sizes
        change a latency or a loss by factors, so that a model of effects of sizes sees sums of them; and a few trials
        far from the bound do not hide where it is."""
        found = {}
        for limit in self.limits:
            value = figures.get(limit.figure)
            found[limit.field] = log(1 + UNKNOWN) if value is None or value != value else limit.log_violation(value)
        return found

    def miss(self, figures: Mapping[str, float | None]) -> float:
        """The sum of all that is missed; 0 where every constraint is kept."""
        return sum(max(0.0, by) for by in self.violations(figures).values())

    def told(self, figures: Mapping[str, float | None]) -> str:
        """What a trial misses, in words: `5.6 ms for at most 5, loss 0.31 for at most 0.2`; empty where nothing."""
        parts = []
        for limit in self.limits:
            value = figures.get(limit.figure)
            if value is None or value != value:
                parts.append(f"no {limit.figure} for {limit}")
            elif limit.violation(value) > 0:
                parts.append(limit.told(value))
        return ", ".join(parts)

    def on_sizes(self) -> Limits:
        """Those on figures that are known of a candidate before it is built."""
        return self._of(_SIZES)

    def on_times(self) -> Limits:
        """Those on the latency, which no training changes, and which may be predicted."""
        return self._of(_TIMES)

    def _of(self, fields: frozenset[str]) -> Limits:
        return Limits(tuple(limit for limit in self.limits if limit.field in fields), self.reference_ms)


NONE = Limits()


def limits_of(constraints: Mapping[str, float | None] | None, reference_ms: float | None) -> Limits:
    """From the values of a spec's part, of which an earlier version has none."""
    given = constraints or {}
    found = tuple(Limit(field, value) for field in _FIELDS if (value := given.get(field)) is not None)
    return Limits(found, reference_ms)


def of_study(row: StudyRow) -> Limits:
    """A study's constraints of now."""
    return limits_of(row.spec.get(PART), row.teacher_latency_ms)


def size_mib(parameters: Any) -> Any:
    """MiB of so many weights; of a number or an array."""
    return parameters * (BYTES_PER_PARAMETER / BYTES_PER_MIB)


def figures(
    *,
    loss: float | None = None,
    latency_ms: float | None = None,
    teacher_latency_ms: float | None = None,
    parameters: float | None = None,
    reference_ms: float | None = None,
) -> dict[str, float | None]:
    """A trial's figures by the names that constraints give them; the latency as it is shown, for one time of the
    teacher."""
    timed = bool(latency_ms and teacher_latency_ms)
    speedup = teacher_latency_ms / latency_ms if timed else None  # type: ignore[operator]
    told = reference_ms / speedup if speedup and reference_ms else latency_ms
    return {
        "loss": loss,
        "latency_ms": told,
        "speedup": speedup,
        "parameters": parameters,
        "size_mib": None if parameters is None else size_mib(parameters),
    }


def _apart(figure: str, value: float, bound: float) -> tuple[str, str]:
    """The two as people read them, with as many digits as it takes to see that they differ."""
    if figure == "parameters":
        return f"{value:,.0f} parameters", f"{bound:,.0f}"
    before, after = {"latency_ms": ("", " ms"), "size_mib": ("", " MiB"), "speedup": ("", "×"), "loss": ("loss ", "")}[
        figure
    ]
    for digits in range(3, 18):
        shown, at = _plain(value, digits), _plain(bound, digits)
        if shown != at:
            break
    return f"{before}{shown}{after}", _plain(bound, 6) if float(f"{bound:.6g}") == bound else at


def _plain(value: float, digits: int) -> str:
    """Rounded to so many digits, and written without a power of ten where people would."""
    text = f"{value:.{digits}g}"
    return f"{Decimal(text):,f}" if 1000 <= value < 1e15 else text
