"""`init = "fitted"` for decoders: every matrix of a student solved by least squares on what its own layers give.

Its blocks are decoder_fit.py's; here are its tables, the order of its parts and its vocabulary head. A student that is
the whole teacher is a copy of it. Knows no loss, no cache and no strategy.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn import functional
from transformers import PreTrainedConfig, PreTrainedModel

from kdnas.models import decoders
from kdnas.models.decoder_blocks import GPT2, Blocks, States, parts_of, rows_of
from kdnas.models.decoder_fit import READ_HOLD, TABLES, BlockFit, heard_in, is_norm
from kdnas.models.decoder_measures import Measured, checked
from kdnas.models.decoders import Importance, body_and_head, sizes
from kdnas.models.stream_directions import directions_of
from kdnas.models.tied_head import tied_map, tied_norm
from kdnas.models.weighted_equations import WeightedEquations

SCALES = tuple(place / 20 for place in range(6, 31))  # 0.3 … 1.5: what the last norm may be multiplied by


def solves(teacher: PreTrainedConfig, config: PreTrainedConfig) -> bool:
    """Whether anything is solved at all: not in a student that is the whole teacher."""
    return sizes(teacher) != sizes(config)


@torch.no_grad()
def fitted(
    teacher: Blocks,
    config: PreTrainedConfig,
    sources: Sequence[int],
    importance: Importance,
    ids: Tensor,
    states: States,
    orders: Mapping[int, Tensor],
    measured: Measured,
    *,
    at_once: int | None = None,
) -> PreTrainedModel:
    """A student of the configuration that keeps the teacher's blocks `sources`, on the teacher's device, in float32.

    `ids` [chunks, length], at least two of them, is the text, `states` the teacher's on it, `orders` each source's
    feed-forward units as `unit_order` has them. The last chunks only tell how sure the student may be. `at_once` chunks
    go through a block, by default about STEP tokens. Raises KdnasError where what is solved is not finite.
    """
    model = teacher.model
    if not solves(model.config, config):
        return decoders.inherited(model, config, importance).to(cast(Any, model.device))
    cut = decoders.cut_of(model.config, config, importance, sources)
    inner = sizes(config).inner
    cut = replace(cut, units=tuple(orders[source][:inner].sort().values for source in sources))
    fit = _Fit(teacher, config, cut, ids, states, measured, at_once)
    for index in range(len(sources)):
        fit.solve_block(index)
    fit.solve_head()
    return fit.model


class _Fit(BlockFit):
    """One student on its way from the embeddings to the vocabulary head."""

    def __init__(
        self,
        theirs: Blocks,
        config: PreTrainedConfig,
        cut: decoders.DecoderCut,
        ids: Tensor,
        states: States,
        measured: Measured,
        at_once: int | None,
    ) -> None:
        teacher, model = theirs.model, decoders.unset(config).to(cast(Any, theirs.model.device)).eval()
        self._norm = cast(Any, theirs.body.get_submodule(theirs.layout.last))
        directions = directions_of(measured.moments, self._norm.weight, sizes(config).width)
        super().__init__(theirs, model, cut, directions, ids.shape[1])
        self._states = states
        self._vocabulary, self._likely = body_and_head(teacher)[1].weight, measured.likely
        last = checked(ids)
        self._ids, self._checked = ids[:-last], ids[-last:]
        self._parts = parts_of(len(self._ids), at_once or rows_of(ids.shape[1]))
        self._set_tables()
        places = None if config.model_type != "gpt2" else self.own.body.wpe.weight[: ids.shape[1]]
        table = self.own.body.get_input_embeddings().weight
        self.carried = [
            functional.embedding(self._ids[rows].to(teacher.device), table) + (0 if places is None else places)
            for rows in self._parts
        ]

    def _set_tables(self) -> None:
        """The teacher's in the student's directions, for which no text is needed."""
        tables = [name for name, _ in self.model.named_parameters() if name.endswith(TABLES)]  # tied ones once
        weights = self.teacher.state_dict()
        for name in tables:
            parameter = self.model.get_parameter(name)
            parameter.copy_(weights[name].detach().float().to(parameter.device) @ self.down)

    def solve_block(self, index: int) -> None:
        leaving = self._states([*self.cut.layers, len(self.theirs.layers)][index + 1])
        neurons = self.to_neurons(index, heard_in(self.theirs, self.cut.layers[index], self._states, self._parts))
        self.finish(index, neurons, [leaving[rows] for rows in self._parts])

    def _turn(self, turn: Tensor) -> None:
        """Turn the stream by the orthogonal `turn`, which plain norms of root mean squares do not see."""
        for name, parameter in self.model.named_parameters():
            parameter.copy_(_turned(name, parameter.cpu().double(), turn))  # not every accelerator has float64

    def solve_head(self) -> None:
        """The vocabulary head and the last norm, for the teacher's logits.

        A head of its own is solved. A tied one is the embedding table, whose directions were chosen so that it serves.
        Solved is what comes before it, for which there is only the last norm's factor of each dimension. Norms that do
        not centre are the same in any turned stream, so that the stream is turned until such factors are enough.
        Either head is as sure as the checked chunks allow.
        """
        last = self.own.body.get_submodule(self.layout.last)
        final = self._states(len(self.theirs.layers))
        pairs = [
            (last(mine), self._norm(final[rows].to(self.teacher.device).float()))
            for rows, mine in zip(self._parts, self.carried, strict=True)
        ]
        head = body_and_head(self.model)[1]
        if self.model.config.tie_word_embeddings:
            if self.layout is GPT2:
                weight, bias = tied_norm(pairs, self._vocabulary, head.weight, self._likely)
                last.bias.copy_(bias)
            else:
                weight, turn = torch.linalg.eigh(tied_map(pairs, self._vocabulary, head.weight, self._likely))
                self._turn(turn)
            last.weight.copy_(weight)
        else:
            equations = WeightedEquations(READ_HOLD, offset=False)
            for mine, wanted in pairs:
                equations.add(mine, wanted)
            given, _ = equations.solved(self._norm.weight.detach().cpu()[:, None] * self.directions.back)
            head.weight.copy_(self._vocabulary @ given.to(self._vocabulary))
        scale = surest(self.model, self._checked)
        for parameter in last.parameters():
            parameter.mul_(scale)


def _turned(name: str, weight: Tensor, turn: Tensor) -> Tensor:
    """A tensor of a Llama-like student whose stream is `stream @ turn` instead."""
    if name.endswith(("o_proj.weight", "down_proj.weight", "o_proj.bias", "down_proj.bias")):
        return turn.t() @ weight
    if name.endswith(".bias") or ".q_norm." in name or ".k_norm." in name or is_norm(name):
        return weight
    return weight @ turn


def surest(model: PreTrainedModel, ids: Tensor) -> float:
    """Which of SCALES the logits of the model want, for the least cross-entropy of the next tokens of `ids`: least
    squares on the tokens that it was solved on leaves it surer than it may be of others."""
    body, head = body_and_head(model)
    totals = torch.zeros(len(SCALES), dtype=torch.float64)
    for row in ids:
        states = body(input_ids=row[None].to(model.device), use_cache=False).last_hidden_state[0, :-1]
        logits = functional.linear(states, head.weight)
        labels = row[1:].to(model.device)
        totals += torch.stack([functional.cross_entropy(logits * scale, labels).cpu().double() for scale in SCALES])
    return SCALES[int(totals.argmin())]
