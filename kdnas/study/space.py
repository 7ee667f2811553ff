"""The search space: a finite product of choices in which every point is a valid candidate.

Knows nothing of what a candidate means; a recipe builds the space and reads the candidate. A dimension that
matters only under a condition (heads of a transformer cell in a space that also has LSTM cells) is folded to
its first choice wherever the condition does not hold, so that two names for one student never differ. In the same way
a point that costs more than a limit is folded to the nearest one that does not: it is never proposed.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from math import prod
from typing import Any

import numpy as np

from kdnas.system.errors import UsageError

Value = int | float | str | bool
Candidate = dict[str, Value]
Condition = tuple[str, tuple[Value, ...]]
"""An earlier dimension, and its choices under which a later one counts."""


@dataclass(frozen=True)
class Dimension:
    """One choice to make. `ordered` says that neighbouring choices are alike (sizes, not activations)."""

    name: str
    choices: tuple[Value, ...]
    ordered: bool = True
    when: Condition | None = None

    def __post_init__(self) -> None:
        if not self.choices:
            raise UsageError(f"The search space has no choice left for {self.name}.", "Allow at least one value.")
        if len(set(self.choices)) != len(self.choices):
            raise UsageError(
                f"The search space lists a value of {self.name} twice: {list(self.choices)}.", "List each value once."
            )


@dataclass(frozen=True)
class Ceiling:
    """The most that a candidate may cost (trainable parameters, say): `fixed` plus the product of its choices' factors.

    Where a point costs more, its dimension `gives` is folded to its dearest choice that fits.
    """

    most: int
    fixed: int
    factors: Mapping[str, tuple[int, ...]]  # dimension → one factor for each of its choices
    gives: str

    def room(self, others: int) -> int:
        """The largest factor of `gives` that fits beside the product of all other factors."""
        return (self.most - self.fixed) // others


@dataclass(frozen=True)
class SearchSpace:
    """All candidates of a study. A candidate's *ordinal* is its place in the product, its *key* the ordinal as text.

    Under a `ceiling` the cheapest choice of the dimension that gives must fit whatever the others are: ValueError.
    """

    dimensions: tuple[Dimension, ...]
    ceiling: Ceiling | None = None

    def __post_init__(self) -> None:
        earlier: set[str] = set()
        for dimension in self.dimensions:
            if dimension.when is not None and dimension.when[0] not in earlier:
                raise ValueError(f"{dimension.name} depends on {dimension.when[0]}, which does not stand before it")
            earlier.add(dimension.name)
        if self.ceiling is not None:
            dearest = prod(max(f) for name, f in self.ceiling.factors.items() if name != self.ceiling.gives)
            if min(self.ceiling.factors[self.ceiling.gives]) > self.ceiling.room(dearest):
                raise ValueError(f"no choice of {self.ceiling.gives} fits under {self.ceiling.most} everywhere")

    @cached_property
    def shape(self) -> tuple[int, ...]:
        return tuple(len(d.choices) for d in self.dimensions)

    @cached_property
    def product_size(self) -> int:
        """Points of the bare product, folded ones counted separately."""
        return prod(self.shape)

    @cached_property
    def size(self) -> int:
        """The number of different candidates (walks the product once where there is a ceiling)."""
        if self.ceiling is not None:
            return sum(1 for _ in self.candidates())
        # Only dimensions on which others depend are walked; the others that count under their choices are multiplied.
        asked = {d.when[0] for d in self.dimensions if d.when is not None}
        deciding = [d for d in self.dimensions if d.name in asked]
        others = [d for d in self.dimensions if d.name not in asked]
        total = 0
        for values in itertools.product(*(d.choices for d in deciding)):
            given = dict(zip((d.name for d in deciding), values, strict=True))
            if all(self.active(d, given) or given[d.name] == d.choices[0] for d in deciding):
                total += prod(len(d.choices) for d in others if self.active(d, given))
        return total

    def candidates(self) -> Iterator[Candidate]:
        """Every candidate once, in the order of ordinals."""
        for candidate in self._from(0, {}):
            if self.ceiling is None or self.canonical(candidate) == candidate:
                yield candidate

    def _from(self, place: int, begun: Candidate) -> Iterator[Candidate]:
        """What can follow the choices of the dimensions before `place`; where one does not count, its first choice."""
        if place == len(self.dimensions):
            yield dict(begun)
            return
        dimension = self.dimensions[place]
        for value in dimension.choices if self.active(dimension, begun) else dimension.choices[:1]:
            begun[dimension.name] = value
            yield from self._from(place + 1, begun)

    def at(self, indices: tuple[int, ...]) -> Candidate:
        return {d.name: d.choices[i] for d, i in zip(self.dimensions, indices, strict=True)}

    def active(self, dimension: Dimension, candidate: Mapping[str, Value]) -> bool:
        return dimension.when is None or candidate[dimension.when[0]] in dimension.when[1]

    def canonical(self, candidate: Mapping[str, Value]) -> Candidate:
        """The candidate with every dimension that does not count folded to its first choice, and under the ceiling."""
        folded: Candidate = {}
        for d in self.dimensions:
            folded[d.name] = candidate[d.name]
            if not self.active(d, folded):
                folded[d.name] = d.choices[0]
        return folded if self.ceiling is None else self._under(self.ceiling, folded)

    def _under(self, ceiling: Ceiling, candidate: Candidate) -> Candidate:
        choices = {d.name: d.choices for d in self.dimensions}
        factor = {name: f[choices[name].index(candidate[name])] for name, f in ceiling.factors.items()}
        own = factor.pop(ceiling.gives)
        room = ceiling.room(prod(factor.values()))
        if own <= room:
            return candidate
        offered = zip(ceiling.factors[ceiling.gives], choices[ceiling.gives], strict=True)
        return {**candidate, ceiling.gives: max((f, value) for f, value in offered if f <= room)[1]}

    def indices(self, candidate: Mapping[str, Value]) -> tuple[int, ...]:
        """One index per dimension. Raises UsageError for a value that is not among the choices."""
        found = []
        for d in self.dimensions:
            if d.name not in candidate:
                raise UsageError(f"The candidate gives no {d.name}.", f"It is one of {list(d.choices)}.")
            value = candidate[d.name]
            if value not in d.choices:
                raise UsageError(
                    f"{d.name} = {value!r} is not in the search space.", f"It is one of {list(d.choices)}."
                )
            found.append(d.choices.index(value))
        return tuple(found)

    def ordinal(self, candidate: Mapping[str, Value]) -> int:
        """The canonical candidate's place in the product, mixed radix, the last dimension fastest."""
        place = 0
        for index, n in zip(self.indices(self.canonical(candidate)), self.shape, strict=True):
            place = place * n + index
        return place

    def key(self, candidate: Mapping[str, Value]) -> str:
        return str(self.ordinal(candidate))

    def from_ordinal(self, ordinal: int) -> Candidate:
        """The (canonical) candidate at a place of the product."""
        if not 0 <= ordinal < self.product_size:
            raise ValueError(f"ordinal {ordinal} outside 0 … {self.product_size - 1}")
        indices: list[int] = []
        for n in reversed(self.shape):
            ordinal, index = divmod(ordinal, n)
            indices.append(index)
        return self.canonical(self.at(tuple(reversed(indices))))

    def sample(self, rng: np.random.Generator) -> Candidate:
        """One candidate, uniform over the product."""
        return self.canonical(self.at(tuple(int(rng.integers(n)) for n in self.shape)))

    def neighbours(self, candidate: Mapping[str, Value]) -> list[Candidate]:
        """Candidates one step away: the next choice up or down where ordered, any other choice where not."""
        here = self.canonical(candidate)
        own = self.ordinal(here)
        seen: dict[int, Candidate] = {}
        for position, d in enumerate(self.dimensions):
            if not self.active(d, here):
                continue
            index = d.choices.index(here[d.name])
            others = [index - 1, index + 1] if d.ordered else [i for i in range(len(d.choices)) if i != index]
            for other in others:
                if 0 <= other < len(d.choices):
                    indices = list(self.indices(here))
                    indices[position] = other
                    neighbour = self.canonical(self.at(tuple(indices)))
                    place = self.ordinal(neighbour)
                    if place != own:
                        seen[place] = neighbour
        return list(seen.values())

    def encode(self, candidate: Mapping[str, Value]) -> np.ndarray:
        """Indices as int64 [dimensions], for embedding tables and models of the reward."""
        return np.asarray(self.indices(self.canonical(candidate)), dtype=np.int64)

    def to_json(self) -> str:
        """A list of dimensions; with a ceiling, an object of both."""
        rows = [
            {"name": d.name, "choices": list(d.choices), "ordered": d.ordered, "when": d.when} for d in self.dimensions
        ]
        if self.ceiling is None:
            return json.dumps(rows)
        return json.dumps({"dimensions": rows, "ceiling": asdict(self.ceiling)})

    @staticmethod
    def from_json(text: str) -> SearchSpace:
        found: Any = json.loads(text)
        rows: list[dict[str, Any]] = found if isinstance(found, list) else found["dimensions"]
        ceiling = None
        if not isinstance(found, list):
            values = found["ceiling"]
            factors = {name: tuple(f) for name, f in values["factors"].items()}
            ceiling = Ceiling(values["most"], values["fixed"], factors, values["gives"])
        return SearchSpace(
            tuple(
                Dimension(
                    r["name"],
                    tuple(r["choices"]),
                    r["ordered"],
                    (r["when"][0], tuple(r["when"][1])) if r["when"] else None,
                )
                for r in rows
            ),
            ceiling,
        )
