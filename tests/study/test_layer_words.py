"""Sizes of layers in a few words, and the size of a space of many layers without walking it."""

from __future__ import annotations

import itertools

from kdnas.study import layer_words
from kdnas.study.space import Dimension, SearchSpace

CANDIDATE = {
    "num_hidden_layers": 2,
    "hidden_size": 24,
    "num_attention_heads_1": 4,
    "intermediate_size_1": 64,
    "num_attention_heads_2": 1,
    "intermediate_size_2": 8,
    "num_attention_heads_3": 1,
    "intermediate_size_3": 8,
}


def test_layers_that_a_student_lacks_are_not_shown_and_other_candidates_are_as_they_were() -> None:
    assert layer_words.shown(CANDIDATE) == {
        "num_hidden_layers": 2,
        "hidden_size": 24,
        "num_attention_heads": "4 1",
        "intermediate_size": "64 8",
    }
    plain = {"num_hidden_layers": 2, "intermediate_size": 64, "stage_1": 3}
    assert layer_words.shown(plain) == plain and layer_words.shown({"variant": "a"}) == {"variant": "a"}


def test_dimensions_of_layers_with_the_same_choices_stand_once() -> None:
    dimensions = {"hidden_size": (8,), **{f"intermediate_size_{i}": (4, 8) for i in (1, 2, 4)}}
    dimensions |= {"intermediate_size_3": (4,)}
    assert layer_words.grouped(dimensions) == {
        "hidden_size": (8,),
        "intermediate_size, layer 1, 2, 4": (4, 8),
        "intermediate_size, layer 3": (4,),
    }
    alike = {f"num_attention_heads_{i}": (1, 2) for i in range(1, 7)}
    assert layer_words.grouped(alike) == {"num_attention_heads, layers 1 … 6": (1, 2)}


def test_conditions_of_conditions_are_counted_as_they_are_walked() -> None:
    space = SearchSpace(
        (
            Dimension("n", (1, 2, 4)),
            Dimension("a", (1, 2, 3)),
            Dimension("b", (1, 2, 3), when=("n", (2, 4))),
            Dimension("c", (7, 8), when=("n", (4,))),
            Dimension("e", (7, 8, 9), when=("b", (2,))),
        )
    )
    points = [space.at(place) for place in itertools.product(*(range(n) for n in space.shape))]
    meant = [point for point in points if space.canonical(point) == point]
    assert list(space.candidates()) == meant
    assert space.size == len(meant) < space.product_size


def test_a_space_of_twelve_layers_is_counted_at_once() -> None:
    depths = tuple(range(1, 13))
    of_layers = (Dimension(f"a{i}", tuple(range(90)), when=("n", tuple(range(i, 13)))) for i in depths)
    space = SearchSpace((Dimension("n", depths), *of_layers))
    assert space.size == sum(90**depth for depth in depths)
    first = list(itertools.islice(space.candidates(), 92))
    assert [c["n"] for c in first] == [1] * 90 + [2, 2] and space.size > 10**23
    assert space.from_ordinal(space.ordinal(first[-1])) == first[-1]
