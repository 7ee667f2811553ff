"""What one block of a decoder student leaves unexplained when it is fitted in place: a score for each number of units.

The block reads the teacher's own states in the student's directions, and is solved as a student's block is (see
decoder_fit.py). Units are taken in one order, so that one factorisation serves all numbers of them. Builds no student,
and knows no loss, no store and no strategy.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, cast

import torch
from torch import Tensor
from transformers import PreTrainedConfig

from kdnas.models import decoders
from kdnas.models.decoder_blocks import GPT2, Blocks, States
from kdnas.models.decoder_fit import READ_HOLD, WRITE_HOLD, BlockFit, Heard, row_weights, seen_by_norms
from kdnas.models.decoder_measures import normed
from kdnas.models.decoders import Importance, body_and_head, sizes
from kdnas.models.stream_directions import Directions, root_of
from kdnas.models.tied_head import metric_of
from kdnas.models.weighted_equations import WeightedEquations


def block_config(teacher: PreTrainedConfig, heads: int, head_size: int, act: str, source: int) -> PreTrainedConfig:
    """A student of one block that is cut from the teacher's block `source`, with all of its units and no words."""
    whole = {"num_hidden_layers": 1, "intermediate_size": sizes(teacher).inner}
    own = {"num_attention_heads": heads, "head_size": head_size, "hidden_act": act}
    config = decoders.student_config(teacher, {**whole, **own}, [source])
    config.vocab_size = 1
    for name in ("pad_token_id", "bos_token_id", "eos_token_id"):
        setattr(config, name, None)
    return config


@torch.no_grad()
def in_place(
    theirs: Blocks,
    config: PreTrainedConfig,
    source: int,
    importance: Importance,
    directions: Directions,
    length: int,
) -> BlockFit:
    """The teacher's block `source` as the only one of a student, with all its units, ready to be solved for chunks of
    `length` tokens. `config` is that of `block_config`."""
    cut = decoders.cut_of(theirs.model.config, config, importance, [source])
    cut = replace(cut, units=(torch.arange(sizes(config).inner),))
    model = decoders.unset(config).to(cast(Any, theirs.model.device)).eval()
    return BlockFit(theirs, model, cut, directions, length)


@torch.no_grad()
def unexplained(
    fit: BlockFit,
    states: States,
    heard: Heard,
    parts: Sequence[slice],
    order: Tensor,
    ends: Sequence[int],
    counts: Sequence[int],
) -> Tensor:
    """Shares [ends, counts] of the variance of the teacher's states that the block does not give, float64 on the CPU.

    `fit` is the block (`in_place`), `heard` what the teacher's own hears on the chunks `parts` (`heard_in`), `ends` the
    places among the `states` that the block may stand up to. `order` [units] says which units come first, `counts` how
    many of them each score is of.

    The share is of the whole state, each dimension times the root of the last norm's weight (`root_of`), so that blocks
    of all widths compare: what `WeightedEquations.left` has in the student's directions, and all that lies outside
    them. Tokens count by `row_weights`. It is 0, to rounding, where nothing is cut. Raises KdnasError where that is no
    number.
    """
    theirs, directions, device = fit.theirs, fit.directions, cast(Any, fit.teacher.device)
    entering = states(fit.cut.layers[0])
    fit.carried = [fit.centred(entering[rows]) for rows in parts]
    places = order.to(device)
    neurons = [part.index_select(-1, places) for part in fit.to_neurons(0, heard)]
    root = root_of(cast(Any, theirs.body.get_submodule(theirs.layout.last)).weight).float()
    counted = (root[:, None] * directions.back).norm(dim=0)  # each direction; they are orthogonal in that measure
    prior, offset = fit.held(0, fit.layout.down)
    prior, root, scale = prior[:, order] * counted[:, None].double(), root.to(device), counted.to(device)
    found = []
    for end in ends:
        equations = WeightedEquations(WRITE_HOLD, offset=offset)
        goals = [fit.centred(states(end)[rows]) for rows in parts]
        weights = [row_weights(goal) for goal in goals]
        for x, stream, goal, weight in zip(neurons, fit.carried, goals, weights, strict=True):
            equations.add(x, (goal - stream) * scale, weight)
        whole = [seen_by_norms(fit.layout, states(end)[rows].to(device).float()) * root for rows in parts]
        total = _variance(whole, weights)
        outside = max(0.0, total - _variance([goal * scale for goal in goals], weights))
        found.append((equations.left(prior, counts) + outside) / total)
    return torch.stack(found)


@torch.no_grad()
def untold(theirs: Blocks, directions: Directions, final: Tensor, parts: Sequence[slice], likely: Tensor) -> float:
    """The share of the variance of the teacher's logits that its last states `final` [chunks, length, width] no longer
    tell in the student's `directions`, as the best linear layer after a plain norm gives it.

    Logits count by the divergence's curvature at the mean prediction `likely` [vocabulary] (`metric_of`).
    """
    device = cast(Any, theirs.model.device)
    norm, head = cast(Any, theirs.body.get_submodule(theirs.layout.last)), body_and_head(theirs.model)[1].weight
    values, vectors = torch.linalg.eigh(metric_of(head, head, likely)[0])
    root = vectors * values.clamp_min(0).sqrt()  # of the metric: the squares of what it gives are those of logits
    equations, goals = WeightedEquations(READ_HOLD, offset=True), []
    for rows in parts:
        given = final[rows].to(device).float()
        stream = seen_by_norms(theirs.layout, given) @ directions.into.to(device)
        goals.append(norm(given) @ root.to(given))
        equations.add(normed(stream, centred=theirs.layout is GPT2), goals[-1])
    prior = root.t() @ (norm.weight.detach().cpu().double()[:, None] * directions.back.double())
    left = equations.left(prior, [prior.shape[1]])
    return float(left) / _variance(goals, [goal.new_ones(*goal.shape[:-1], 1) for goal in goals])


def _variance(rows: Sequence[Tensor], weights: Sequence[Tensor]) -> float:
    """Σ w² ‖row − mean‖² / Σ w² of rows [..., size] with weights [..., 1], the mean with the same weights."""
    flat = torch.cat([part.flatten(0, -2).cpu().double() for part in rows])
    squares = torch.cat([part.flatten(0, -2).cpu().double() for part in weights]).square()
    mean = (flat * squares).sum(0) / squares.sum()
    spread = ((flat - mean).square() * squares).sum() / squares.sum()
    return float(spread.clamp_min(torch.finfo(torch.float64).tiny))
