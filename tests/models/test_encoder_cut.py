"""What a student is cut from: the best parts, each weight at its place, whichever family names it how."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from transformers import AutoConfig, AutoModel

from kdnas.models import encoders
from kdnas.models.encoder_cut import EncoderCut, Importance, attention_rows, best, sliced
from kdnas.models.encoders import Sizes
from kdnas.models.layer_choice import last, spread, uniform
from tests.encoders import FAMILIES

SIZES = Sizes(layers=2, width=24, heads=3, inner=40, act="gelu")  # heads of 8, as the teacher's
LAYERS, WIDTH, HEADS, INNER = 4, 32, 4, 64


def drawn(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@given(st.lists(st.integers(0, 5), min_size=1, max_size=12), st.data())
def test_the_best_are_the_largest_in_their_own_order_and_the_earlier_of_equals(scores: list[int], data: Any) -> None:
    count = data.draw(st.integers(0, len(scores)))
    wanted = sorted(sorted(range(len(scores)), key=lambda place: (-scores[place], place))[:count])
    assert best(torch.tensor(scores), count).tolist() == wanted


QUERY = torch.tensor([[1.0, 2, 3, 4], [4, 3, 2, 1], [1, 9, 1, 8]])
VALUE = torch.tensor([[5.0, 1, 1, 6], [2, 2, 2, 2], [9, 1, 1, 8]])  # the third head is the loudest, the second least


def test_a_students_heads_are_the_loudest_by_value_and_in_each_its_best_dimensions() -> None:
    """Dimensions of query and key are chosen by the query's importance, those of value and output by the value's."""
    for heads, size, logits, context in (
        (3, 4, list(range(12)), list(range(12))),
        (2, 4, [0, 1, 2, 3, 8, 9, 10, 11], [0, 1, 2, 3, 8, 9, 10, 11]),
        (2, 2, [2, 3, 9, 11], [0, 3, 8, 11]),
        (1, 1, [9], [8]),
        (3, 1, [3, 4, 9], [3, 4, 8]),
    ):
        found = attention_rows(QUERY, VALUE, heads, size)
        assert [rows.tolist() for rows in found] == [logits, context]


def test_other_heads_are_the_loudest_laid_end_to_end_and_cut_anew() -> None:
    for heads, size, rows in (
        (1, 8, [0, 1, 2, 3, 8, 9, 10, 11]),  # two of the teacher's heads make one
        (1, 6, [0, 1, 2, 3, 8, 9]),
        (6, 1, [0, 1, 2, 3, 8, 9]),
        (4, 2, [0, 1, 2, 3, 8, 9, 10, 11]),
        (1, 5, [0, 1, 2, 3, 8]),
        (4, 3, list(range(12))),
    ):
        assert [found.tolist() for found in attention_rows(QUERY, VALUE, heads, size)] == [rows, rows]


def test_layers_are_chosen_as_their_definitions_say() -> None:
    for theirs in range(1, 13):
        for ours in range(1, theirs + 1):
            steps = [i * (theirs - 1) / max(1, ours - 1) for i in range(ours)]
            assert spread(ours, theirs) == [int(step + 0.5) for step in steps]
            assert uniform(ours, theirs) == [int(i * theirs / ours) for i in range(ours)]
            assert last(ours, theirs) == list(range(theirs))[theirs - ours :]
    assert spread(3, 6) == [0, 3, 5] and spread(1, 6) == [0] and spread(2, 6) == [0, 5]


def cut_of(family: str, sizes: Sizes = SIZES, **changes: Any) -> tuple[Any, EncoderCut]:
    config = AutoConfig.for_model(family, **{**FAMILIES[family], **changes})
    body = AutoModel.from_config(config)
    weights = Importance(
        drawn(1, WIDTH), drawn(2, LAYERS, INNER), drawn(3, LAYERS, HEADS, 8), drawn(4, LAYERS, HEADS, 8)
    )
    return body, EncoderCut(encoders.FAMILIES[family], config, sizes, weights, [0, 2])


@pytest.mark.parametrize("family", FAMILIES)
def test_each_layer_takes_the_best_of_the_layer_it_comes_from(family: str) -> None:
    _, cut = cut_of(family)
    weights, shared = cut.importance, cut.family.shared_layers
    assert cut.width.tolist() == best(weights.width, 24).tolist() and cut.own.head_size == 8 and cut.sharpen == 1.0
    parts = list(cut.layers())
    assert [(p.index, p.source) for p in parts] == ([(0, 0)] if shared else [(0, 0), (1, 2)])
    for p in parts:  # a shared layer is weighed by the mean over the depths at which it is called
        query, value, inner = (
            kind.mean(0) if shared else kind[p.source] for kind in (weights.query, weights.value, weights.inner)
        )
        logits, context = attention_rows(query, value, 3, 8)
        assert (p.logits.tolist(), p.context.tolist()) == (logits.tolist(), context.tolist())
        assert p.neurons.tolist() == best(inner, 40).tolist()


def cut_by_name(family: encoders.Family, weights: dict[str, Tensor], cut: EncoderCut) -> dict[str, Tensor]:
    """The student's weights, worked out anew: each axis of a weight is of one kind, and loses what its kind loses."""
    made = {}
    for name, tensor in weights.items():
        if family.layer.partition("{")[0] in name:
            continue
        rows: Any = slice(None)
        columns: Any = slice(None)
        if family.project is not None and name.startswith(family.project):
            rows = cut.width  # from the embeddings' own width, which stays
        elif family.pooler is not None and name.startswith(family.pooler):
            rows = columns = cut.width
        elif not separate(family, cut):
            rows = cut.width if tensor.dim() == 1 else rows
            columns = cut.width
        made[name] = tensor[rows] if tensor.dim() == 1 else tensor[rows][:, columns]
    for part in cut.layers():
        prefix = family.layer_prefix(part.source)
        axes = {
            family.query: (part.logits, cut.width), family.key: (part.logits, cut.width),
            family.value: (part.context, cut.width), family.out: (cut.width, part.context),
            family.up: (part.neurons, cut.width), family.down: (cut.width, part.neurons),
        }  # fmt: skip
        for name, tensor in weights.items():
            if name.startswith(prefix):
                module = name[len(prefix) :].rpartition(".")[0]
                rows, columns = axes.get(module, (cut.width, None))
                kept = tensor[rows] if tensor.dim() == 1 else tensor[rows][:, columns]
                factor = cut.sharpen if module == family.query else 1.0
                made[family.layer_prefix(part.index) + name[len(prefix) :]] = kept * factor
    return made


def separate(family: encoders.Family, cut: EncoderCut) -> bool:
    return family.embedding is not None and getattr(cut.teacher, family.embedding) != cut.own.width


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("heads", [3, 12])
def test_every_weight_of_the_student_is_the_teachers_at_the_kept_places(family: str, heads: int) -> None:
    body, cut = cut_of(family, Sizes(layers=2, width=24, heads=heads, inner=40, act="gelu"))
    weights = {name: tensor.clone() for name, tensor in body.state_dict().items()}
    for place, tensor in enumerate(weights.values()):
        if tensor.is_floating_point():
            tensor.copy_(drawn(place, *tensor.shape))  # no two numbers alike
    before = {name: tensor.clone() for name, tensor in weights.items()}
    made, wanted = sliced(weights, cut), cut_by_name(cut.family, weights, cut)
    assert set(made) == set(wanted)
    for name, tensor in wanted.items():
        torch.testing.assert_close(made[name], tensor, rtol=1e-6, atol=0, msg=name)
        made[name].zero_()
    assert all(torch.equal(tensor, before[name]) for name, tensor in weights.items())  # fresh tensors, not views


def test_queries_of_narrower_heads_are_softened_by_the_root_of_the_sizes() -> None:
    """The student divides its logits by the root of its own head size, which is smaller."""
    body, cut = cut_of("bert", Sizes(layers=2, width=24, heads=12, inner=40, act="gelu"))
    assert cut.sharpen == 0.5  # heads of 2 where the teacher's are of 8
    weights = body.state_dict()
    made = sliced(weights, cut)
    part = next(iter(cut.layers()))
    name = "encoder.layer.0.attention.self.query.weight"
    torch.testing.assert_close(made[name], 0.5 * weights[name][part.logits][:, cut.width])


def test_embeddings_as_wide_as_the_body_are_cut_with_it() -> None:
    for family in ("albert", "electra"):
        body, cut = cut_of(family, embedding_size=WIDTH)
        weights = body.state_dict()
        made = sliced(weights, cut)
        name = "embeddings.word_embeddings.weight"
        assert torch.equal(made[name], weights[name][:, cut.width])
        if cut.family.always_projects:
            name = f"{cut.family.project}.weight"
            assert torch.equal(made[name], weights[name][cut.width][:, cut.width])
