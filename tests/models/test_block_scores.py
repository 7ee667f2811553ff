"""Blocks fitted in place: their scores are those of an independent ridge regression in double precision."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModel

from kdnas.models import encoder_cut, encoders
from kdnas.models.block_scores import RIDGE, unexplained
from kdnas.models.encoder_cut import EncoderCut
from kdnas.models.encoders import FAMILIES, Sizes
from kdnas.system.errors import KdnasError
from tests.encoders import VOCABULARY, tiny_encoder

IDS = torch.randint(5, len(VOCABULARY), (12, 16), generator=torch.Generator().manual_seed(0))
ORDER = torch.randperm(64, generator=torch.Generator().manual_seed(1))
COUNTS = (1, 8, 40, 64)


def opened(folder: Path, family: str) -> tuple[Any, EncoderCut, torch.nn.Module]:
    """A teacher, and one block of its layer 1 with half of its hidden dimensions."""
    teacher = AutoModel.from_pretrained(tiny_encoder(folder, family)).eval()
    own = FAMILIES[family]
    sizes = Sizes(1, 16, 2, 64, "gelu")
    cut = EncoderCut(own, teacher.config, sizes, encoder_cut.importance(teacher, own, IDS), [1])
    values = encoders.config_values(own, teacher.config, sizes)
    named = dict(teacher.named_buffers())
    body = encoders.inherit(values, encoder_cut.sliced(teacher.state_dict(), cut), named)
    return teacher, cut, body.eval()


def neurons_of(body: torch.nn.Module, cut: EncoderCut, given: Tensor) -> tuple[Tensor, Tensor]:
    """What the layer's feed-forward part reads, and its neurons, by a plain call of the layer."""
    heard: dict[str, Tensor] = {}
    prefix = cut.family.layer_prefix(0)
    for part in (cut.family.up, cut.family.down):
        module = body.get_submodule(prefix + part)
        module.register_forward_pre_hook(lambda _m, x, part=part: heard.__setitem__(part, x[0].flatten(0, -2)))
    with torch.no_grad():
        body.get_submodule(prefix.removesuffix("."))(given)
    found = heard[cut.family.up].double(), heard[cut.family.down].double()
    for part in (cut.family.up, cut.family.down):
        body.get_submodule(prefix + part)._forward_pre_hooks.clear()
    return found


def expected(read: Tensor, neurons: Tensor, goal: Tensor, count: int) -> float:
    """The penalised objective at its least over the variance of the goal, from the stacked system."""
    x = neurons[:, ORDER] - neurons[:, ORDER].mean(0)
    strength = RIDGE * float(x.square().mean())
    y = (goal - read) - (goal - read).mean(0)
    stacked = torch.cat([x[:, :count], (len(x) * strength) ** 0.5 * torch.eye(count, dtype=x.dtype)])
    wanted = torch.cat([y, torch.zeros(count, y.shape[1], dtype=x.dtype)])
    weight = torch.linalg.lstsq(stacked, wanted, driver="gelsd").solution
    left = (wanted - stacked @ weight).square().sum(0) / len(x)
    return float(left.sum() / goal.var(0, correction=0).sum())


@pytest.mark.parametrize("family", ["bert", "distilbert"])
def test_one_factorisation_gives_the_scores_of_all_numbers_of_neurons(tmp_path: Path, family: str) -> None:
    teacher, cut, body = opened(tmp_path, family)
    with torch.no_grad():
        states = teacher(input_ids=IDS, output_hidden_states=True).hidden_states
    wanted = {1: states[2], 3: states[4]}
    found = unexplained(body, cut.family, cut.width, IDS, states[1], wanted, ORDER, COUNTS)
    read, neurons = neurons_of(body, cut, states[1][..., cut.width])
    for place, end in enumerate(wanted):
        goal = wanted[end].flatten(0, 1)[:, cut.width].double()
        for which, count in enumerate(COUNTS):
            by_hand = expected(read, neurons, goal, count)
            assert float(found[place, which]) == pytest.approx(by_hand, rel=1e-3)
    assert bool((found.diff(dim=1) < 0).all())  # more neurons always explain more


def test_a_block_of_the_first_layer_reads_its_own_embeddings(tmp_path: Path) -> None:
    teacher, cut, body = opened(tmp_path, "bert")
    with torch.no_grad():
        states = teacher(input_ids=IDS, output_hidden_states=True).hidden_states
        embedded = body.embeddings(input_ids=IDS)  # type: ignore[operator]
    read, neurons = neurons_of(body, cut, embedded)
    found = unexplained(body, cut.family, cut.width, IDS, None, {0: states[1]}, ORDER, COUNTS)
    goal = states[1].flatten(0, 1)[:, cut.width].double()
    assert float(found[0, -1]) == pytest.approx(expected(read, neurons, goal, 64), rel=1e-3)


def test_neurons_that_never_change_explain_nothing_and_what_is_no_number_is_refused(tmp_path: Path) -> None:
    teacher, cut, body = opened(tmp_path, "bert")
    with torch.no_grad():
        states = teacher(input_ids=IDS, output_hidden_states=True).hidden_states
        up: Any = body.get_submodule(cut.family.layer_prefix(0) + cut.family.up)
        up.weight.zero_()
        goal = {1: states[2]}
        dead = unexplained(body, cut.family, cut.width, IDS, states[1], goal, ORDER, COUNTS)
        assert len(dead.unique()) == 1 and bool(dead.isfinite().all())
        up.weight[3] = float("nan")
        with pytest.raises(KdnasError, match="A block cannot be scored: what it gives is not finite numbers"):
            unexplained(body, cut.family, cut.width, IDS, states[1], goal, ORDER, COUNTS)
