"""Candidates that no strategy proposes, because they miss a constraint whose figure is known before training.

`Refused` stands where the keys of taken candidates stand: all that asks whether a key is taken asks this, too. Knows no
recipe; a `Refusal` is given what tells a candidate's figures.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from functools import cached_property

from kdnas.study.constraints import Limits
from kdnas.study.space import Candidate, SearchSpace

COUNTED = 20_000  # points of a space up to which all are looked at, to count what is left

Figures = Callable[[Candidate], Mapping[str, float | None]]


Part = tuple[Limits, Figures]
"""Constraints, and what tells the figures that they bound. A figure that is not known refuses nothing."""


class Refusal:
    """Which candidates of a space miss constraints. Each is looked at once.

    `late` is a part whose figures cost seconds: only who is about to propose a candidate asks for them (`at_last`).
    """

    def __init__(self, space: SearchSpace, parts: Iterable[Part], late: Part | None = None) -> None:
        self.space = space
        self.parts = tuple(parts)
        self.late = late
        self._known: dict[str, bool] = {}

    def __call__(self, key: str) -> bool:
        """Whether the candidate of this key is refused."""
        if key not in self._known:
            candidate = self.space.from_ordinal(int(key))
            self._known[key] = any(_misses(limits, figures(candidate)) for limits, figures in self.parts)
        return self._known[key]

    @cached_property
    def at_last(self) -> Refusal:
        """The same with its late part among the others, the last of them."""
        return self if self.late is None else LateRefusal(self.space, (*self.parts, self.late))

    @cached_property
    def allowed(self) -> list[str]:
        """Keys of all candidates that are not refused, in the order of the space; looks at every one of them."""
        return [key for key in map(self.space.key, self.space.candidates()) if not self(key)]

    @property
    def counted(self) -> bool:
        """Whether the space is small enough to look at every candidate before the first proposal."""
        return self.space.product_size <= COUNTED

    def __str__(self) -> str:
        return ", ".join(str(limits) for limits, _ in self.parts)

    def nearest(self) -> str:
        """The figures of the candidate that misses the constraints by least, beside them: `3,100,000 parameters for at
        most 2,000,000`. In a large space the least that a descent from its first candidate finds."""
        space = self.space
        if self.counted:
            best = min(space.candidates(), key=self._miss)
        else:
            best, on = space.from_ordinal(0), True
            while on:
                near = min(space.neighbours(best), key=self._miss, default=best)
                on = self._miss(near) < self._miss(best)
                best = near if on else best
        return ", ".join(filter(None, (limits.told(figures(best)) for limits, figures in self.parts)))

    def _miss(self, candidate: Candidate) -> float:
        return sum(limits.miss(figures(candidate)) for limits, figures in self.parts)


class LateRefusal(Refusal):
    """One of which every look costs seconds: nobody looks at all candidates to count them."""

    @property
    def counted(self) -> bool:
        return False


def _misses(limits: Limits, figures: Mapping[str, float | None]) -> bool:
    known = {name: value for name, value in figures.items() if value is not None}
    return any(limit.figure in known and limit.violation(known[limit.figure]) > 0 for limit in limits.limits)


class Refused(Collection[str]):
    """Keys that are taken, and those that a refusal refuses. Of a large space its length counts the taken ones only,
    until every candidate has been looked at."""

    def __init__(self, taken: Iterable[str], refusal: Refusal) -> None:
        self._taken = set(taken)
        self.refusal = refusal

    def __contains__(self, key: object) -> bool:
        return isinstance(key, str) and (key in self._taken or self.refusal(key))

    def __len__(self) -> int:
        if not (self.refusal.counted or "allowed" in vars(self.refusal)):
            return len(self._taken)
        # An enqueued candidate may be taken and refused: nobody else is given it.
        return self.refusal.space.size - sum(key not in self._taken for key in self.refusal.allowed)

    def __iter__(self) -> Iterator[str]:
        """The taken ones."""
        return iter(self._taken)

    def add(self, key: str) -> None:
        self._taken.add(key)

    def at_last(self) -> Refused:
        """The same keys, and those that the refusal's late part refuses."""
        return Refused(self._taken, self.refusal.at_last)

    def free(self) -> list[str]:
        """Keys of the candidates that may be proposed, in the order of the space."""
        return [key for key in self.refusal.allowed if key not in self._taken]


def also(taken: Collection[str], keys: Iterable[str]) -> Collection[str]:
    """A copy of `taken` with more keys taken."""
    if isinstance(taken, Refused):
        return Refused({*taken, *keys}, taken.refusal)
    return {*taken, *keys}
