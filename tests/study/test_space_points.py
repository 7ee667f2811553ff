"""Points of a space against the plain product: one name a candidate, every neighbour, nothing that is not a choice."""

from __future__ import annotations

import itertools
import json
from math import prod

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdnas.study.space import Candidate, Ceiling, Dimension, SearchSpace
from kdnas.system.errors import UsageError

CELLS = Dimension("cell", ("lstm", "encoder", "gru"), ordered=False)
WIDTHS = Dimension("width", (32, 64, 128, 256))
HEADS = Dimension("heads", (1, 2, 4), when=("cell", ("encoder",)))
BOTH = Dimension("both", (True, False), ordered=False, when=("cell", ("lstm", "gru")))
SPACE = SearchSpace((CELLS, WIDTHS, HEADS, BOTH))
COSTS = {"width": (1, 2, 4, 8), "heads": (2, 3, 5)}
LIMITED = SearchSpace(SPACE.dimensions, Ceiling(most=30, fixed=6, factors=COSTS, gives="width"))
SPACES = (SPACE, LIMITED, SearchSpace((CELLS, WIDTHS)), SearchSpace((WIDTHS,)))


def points(space: SearchSpace) -> list[Candidate]:
    """The bare product, in the order of ordinals."""
    names = [d.name for d in space.dimensions]
    return [dict(zip(names, drawn, strict=True)) for drawn in itertools.product(*(d.choices for d in space.dimensions))]


def folded(space: SearchSpace, point: Candidate) -> Candidate:
    """The candidate that a point stands for, worked out anew: what does not count at its first choice, then the dearest
    width that the ceiling leaves."""
    found: Candidate = {}
    for d in space.dimensions:
        counts = d.when is None or found[d.when[0]] in d.when[1]
        found[d.name] = point[d.name] if counts else d.choices[0]
    if space.ceiling is not None:
        others = COSTS["heads"][HEADS.choices.index(int(found["heads"]))]
        fits = [n for n, factor in enumerate(COSTS["width"]) if 6 + factor * others <= 30]
        found["width"] = WIDTHS.choices[min(WIDTHS.choices.index(found["width"]), fits[-1])]
    return found


@pytest.mark.parametrize("space", SPACES)
def test_every_point_has_the_name_of_the_candidate_it_stands_for(space: SearchSpace) -> None:
    every = points(space)
    assert space.product_size == len(every) == prod(space.shape)
    for place, point in enumerate(every):
        wanted = folded(space, point)
        assert space.canonical(point) == wanted and space.from_ordinal(place) == wanted
        assert space.ordinal(point) == every.index(wanted) and space.key(point) == str(every.index(wanted))
        assert space.at(space.indices(point)) == point
        row = space.encode(point)
        assert row.dtype == np.int64 and row.tolist() == list(space.indices(wanted))
    wanted = [point for point in every if folded(space, point) == point]
    assert list(space.candidates()) == wanted and space.size == len(wanted)
    assert (space.size == space.product_size) is all(d.when is None for d in space.dimensions)


def test_an_ordinal_outside_of_the_product_is_no_candidate() -> None:
    for place in (-1, SPACE.product_size):
        with pytest.raises(ValueError, match=rf"^ordinal {place} outside 0 … 71$"):
            SPACE.from_ordinal(place)
    assert SPACE.from_ordinal(71) == {"cell": "gru", "width": 256, "heads": 1, "both": False}


@pytest.mark.parametrize("space", SPACES)
def test_neighbours_are_all_candidates_one_step_away_and_no_other(space: SearchSpace) -> None:
    for point in space.candidates():
        wanted = []
        for d in space.dimensions:
            if d.when is not None and point[d.when[0]] not in d.when[1]:
                continue  # a step there would be another name of the same
            here = d.choices.index(point[d.name])
            for place, choice in enumerate(d.choices):
                step = folded(space, {**point, d.name: choice})
                if (abs(place - here) == 1 or not d.ordered) and step != point and step not in wanted:
                    wanted.append(step)
        found = space.neighbours(point)
        assert sorted(map(space.key, found)) == sorted(map(space.key, wanted)) and all(near in wanted for near in found)
    far = {"cell": "encoder", "width": 256, "heads": 4, "both": False}
    if space is SPACE:  # a name of its own only once it is folded
        assert space.neighbours(far) == space.neighbours({**far, "both": True})


@given(st.integers(0, 2**32 - 1))
def test_a_sample_is_a_candidate_and_is_that_of_its_seed(seed: int) -> None:
    for space in SPACES:
        found = space.sample(np.random.default_rng(seed))
        assert found == folded(space, found)
        rng = np.random.default_rng(seed)
        assert found == folded(space, {d.name: d.choices[int(rng.integers(len(d.choices)))] for d in space.dimensions})


def test_a_value_that_is_no_choice_is_named_with_those_that_are() -> None:
    whole = {"cell": "gru", "width": 32, "heads": 1, "both": True}
    with pytest.raises(UsageError) as raised:
        SPACE.indices({**whole, "width": 48})
    assert raised.value.problem == "width = 48 is not in the search space."
    assert raised.value.hint == "It is one of [32, 64, 128, 256]."
    del whole["both"]
    with pytest.raises(UsageError) as raised:
        SPACE.indices(whole)
    assert raised.value.problem == "The candidate gives no both."
    assert raised.value.hint == "It is one of [True, False]."


def test_a_dimension_without_a_choice_or_with_one_twice_is_refused() -> None:
    with pytest.raises(UsageError) as raised:
        Dimension("width", ())
    assert raised.value.problem == "The search space has no choice left for width."
    assert raised.value.hint == "Allow at least one value."
    with pytest.raises(UsageError) as raised:
        Dimension("width", (1, 2, 1))
    assert raised.value.problem == "The search space lists a value of width twice: [1, 2, 1]."
    assert raised.value.hint == "List each value once."
    assert Dimension("width", (1,)).ordered


def test_a_dimension_that_depends_on_a_later_one_is_refused() -> None:
    for order in ((HEADS, CELLS), (HEADS,)):
        with pytest.raises(ValueError, match=r"^heads depends on cell, which does not stand before it$"):
            SearchSpace(order)
    SearchSpace((CELLS, WIDTHS, HEADS, BOTH))


def test_a_ceiling_is_refused_only_where_the_cheapest_does_not_fit_beside_the_dearest_of_the_others() -> None:
    ranks, layers = Dimension("r", (2, 4)), Dimension("layers", (1, 3))
    factors = {"layers": (10, 30), "r": (2, 4)}
    just = SearchSpace((layers, ranks), Ceiling(65, 5, factors, "r"))  # 5 + 2·30
    assert just.canonical({"layers": 3, "r": 4}) == {"layers": 3, "r": 2}
    assert just.canonical({"layers": 1, "r": 4}) == {"layers": 1, "r": 4}
    with pytest.raises(ValueError, match=r"^no choice of r fits under 64 everywhere$"):
        SearchSpace((layers, ranks), Ceiling(64, 5, factors, "r"))


def test_the_dearest_that_fits_is_the_one_of_the_largest_factor_wherever_it_stands() -> None:
    mixed = Dimension("r", (8, 2, 4), ordered=False)
    space = SearchSpace((mixed,), Ceiling(45, 5, {"r": (80, 20, 40)}, "r"))
    assert [space.canonical({"r": r})["r"] for r in (8, 2, 4)] == [4, 2, 4]


def test_a_space_is_written_as_ever() -> None:
    """Stores hold this text; one that is read or written otherwise would be another study."""
    rows = [
        {"name": "cell", "choices": ["lstm", "encoder"], "ordered": False, "when": None},
        {"name": "heads", "choices": [1, 2], "ordered": True, "when": ["cell", ["encoder"]]},
    ]
    ceiling = {"most": 9, "fixed": 1, "factors": {"heads": [2, 4]}, "gives": "heads"}
    space = SearchSpace(
        (Dimension("cell", ("lstm", "encoder"), False), Dimension("heads", (1, 2), when=("cell", ("encoder",))))
    )
    limited = SearchSpace(space.dimensions, Ceiling(9, 1, {"heads": (2, 4)}, "heads"))
    for text, wanted in ((rows, space), ({"dimensions": rows, "ceiling": ceiling}, limited)):
        assert json.loads(wanted.to_json()) == text
        assert SearchSpace.from_json(json.dumps(text)) == wanted
