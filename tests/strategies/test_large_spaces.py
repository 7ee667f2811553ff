"""Spaces of more candidates than anybody could list: every strategy proposes from them, and never walks them."""

from __future__ import annotations

import numpy as np
import pytest

from kdnas.strategies.refused import Refusal, Refused
from kdnas.strategies.without_replacement import LISTED, draw
from kdnas.study.constraints import limits_of
from kdnas.study.space import Candidate, Dimension, SearchSpace
from kdnas.system.errors import KdnasError
from tests.strategies.loop import Search, spec

DEPTHS = (2, 4, 6)


def of_layers(layer: int) -> tuple[Dimension, ...]:
    deep = tuple(depth for depth in DEPTHS if depth >= layer)
    when = ("num_hidden_layers", deep) if len(deep) < len(DEPTHS) else None
    sizes = (("num_attention_heads", (1, 2, 3, 4)), ("intermediate_size", (64, 128, 256, 512, 1024, 1536)))
    return tuple(Dimension(f"{name}_{layer}", choices, when=when) for name, choices in sizes)


LARGE = SearchSpace(
    (Dimension("num_hidden_layers", DEPTHS), *(dimension for layer in range(1, 7) for dimension in of_layers(layer)))
)
ASKED = ["surrogate", "gp", "lstm", "lstm-paper", "tpe", "evolution", "nsga2", "random", "grid"]


def test_it_is_large_and_counted_all_the_same() -> None:
    assert LARGE.size == 24**2 + 24**4 + 24**6 < LARGE.product_size == 3 * 24**6
    assert LARGE.product_size > LISTED


@pytest.mark.parametrize("name", ASKED)
def test_every_strategy_proposes_valid_candidates_and_none_twice(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    walked = SearchSpace.candidates

    def few(space: SearchSpace):  # type: ignore[no-untyped-def]
        for place, candidate in enumerate(walked(space)):
            assert place < 1000, "the space is walked"
            yield candidate

    monkeypatch.setattr(SearchSpace, "candidates", few)
    count = 2 if name == "lstm" else 6  # an episode of its own, whose controller has learnt nothing yet
    done = Search(spec(name, trials=count), space=LARGE).run(range(count))
    assert len({LARGE.key(c) for c in done}) == len(done) == count
    assert all(LARGE.canonical(c) == c for c in done)


def test_students_of_every_depth_are_drawn_though_nearly_all_candidates_have_the_most_layers() -> None:
    rng = np.random.default_rng(0)
    drawn = [draw(LARGE, rng, set())["num_hidden_layers"] for _ in range(300)]
    assert all(80 < drawn.count(depth) < 120 for depth in DEPTHS)


def test_a_constraint_that_hardly_any_candidate_keeps_is_told_as_one() -> None:
    def figures(candidate: Candidate) -> dict[str, float | None]:
        return {"parameters": 1000.0 * int(candidate["num_hidden_layers"])}

    refusal = Refusal(LARGE, [(limits_of({"max_parameters": 100}, None), figures)])
    with pytest.raises(KdnasError, match="10,000 were drawn, and none that keeps to max_parameters 100 is left"):
        draw(LARGE, np.random.default_rng(0), Refused((), refusal))
