"""A space with a ceiling: what costs too much has no name of its own, and no strategy meets it."""

from __future__ import annotations

import numpy as np
import pytest

from kdnas.study.space import Ceiling, Dimension, SearchSpace

RANKS, LAYERS = (2, 4, 8, 16), (1, 2, 4)
SPACE = SearchSpace(
    (
        Dimension("r", RANKS),
        Dimension("layers", LAYERS),
        Dimension("placement", ("first", "last"), ordered=False, when=("layers", (1, 2))),
    ),
    Ceiling(most=100, fixed=20, factors={"r": RANKS, "layers": tuple(5 * n for n in LAYERS)}, gives="r"),
)


def cost(candidate: dict[str, object]) -> int:
    return 20 + 5 * int(str(candidate["r"])) * int(str(candidate["layers"]))


def test_every_candidate_is_within_the_ceiling_and_has_one_name() -> None:
    points = list(SPACE.candidates())
    assert all(cost(point) <= 100 for point in points)
    assert len({SPACE.key(point) for point in points}) == len(points) == SPACE.size
    # 20 + 5·16·1 is exactly 100: what just fits is there.
    assert {point["r"] for point in points if point["layers"] == 1} == set(RANKS)
    assert {point["r"] for point in points if point["layers"] == 2} == {2, 4, 8}
    assert {point["r"] for point in points if point["layers"] == 4} == {2, 4}


def test_a_dearer_point_is_another_name_of_the_dearest_that_fits() -> None:
    assert SPACE.canonical({"r": 16, "layers": 4, "placement": "last"}) == {"r": 4, "layers": 4, "placement": "first"}
    rng = np.random.default_rng(0)
    assert all(cost(SPACE.sample(rng)) <= 100 for _ in range(200))
    assert all(cost(SPACE.from_ordinal(place)) <= 100 for place in range(SPACE.product_size))
    for point in SPACE.candidates():
        assert all(cost(near) <= 100 for near in SPACE.neighbours(point))


def test_the_ceiling_survives_being_written_down() -> None:
    again = SearchSpace.from_json(SPACE.to_json())
    assert again == SPACE and again.size == SPACE.size
    plain = SearchSpace(SPACE.dimensions)
    assert SearchSpace.from_json(plain.to_json()) == plain


def test_a_ceiling_under_which_a_point_has_no_way_to_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="no choice of r fits"):
        SearchSpace(SPACE.dimensions, Ceiling(50, 20, {"r": RANKS, "layers": tuple(5 * n for n in LAYERS)}, "r"))
