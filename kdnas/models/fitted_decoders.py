"""`init = "fitted"` for decoders: every matrix of a student solved by least squares on what its own layers give.

The residual stream is cut to the directions that the teacher's states use. A norm does not commute with that, so what
reads a norm reads its prediction from the student's norm, and what writes is solved for the teacher's states in those
directions. A student that is the whole teacher is a copy of it. Knows no loss, no cache and no strategy.
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
from kdnas.models.decoder_blocks import GPT2, Blocks, Seen, States, layout_of, parts_of, rows_of
from kdnas.models.decoder_measures import Measured, checked
from kdnas.models.decoders import Importance, body_and_head, sizes
from kdnas.models.stream_directions import Directions, directions_of
from kdnas.models.tied_head import tied_map, tied_norm
from kdnas.models.weighted_equations import WeightedEquations

READ_HOLD = 1e-3  # how strongly what is solved is held to what it was: see WeightedEquations
WRITE_HOLD = 0.05
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


class _Fit:
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
        teacher = theirs.model
        self.teacher, self.cut, self._states, self._theirs = teacher, cut, states, theirs
        self.model = decoders.unset(config).to(cast(Any, teacher.device)).eval()
        self.layout = layout_of(config)
        self._norm = cast(Any, theirs.body.get_submodule(self.layout.last))
        self._vocabulary, self._likely = body_and_head(teacher)[1].weight, measured.likely
        self._directions: Directions = directions_of(measured.moments, self._norm.weight, sizes(config).width)
        self._down = self._directions.into.to(teacher.device)
        # The student's matrices as they would read and write the teacher's whole stream.
        every = replace(cut, channels=torch.arange(sizes(teacher.config).width))
        named = [name for name, _ in self.model.named_parameters()]  # tied ones once
        self._wide = decoders.sliced(teacher.state_dict(), named, teacher.config, config, every)
        last = checked(ids)
        self._ids, self._checked = ids[:-last], ids[-last:]
        self._parts = parts_of(len(self._ids), at_once or rows_of(ids.shape[1]))
        self._begin()
        self._own = Blocks(self.model, ids[:1])
        own = self._own.body
        places = None if config.model_type != "gpt2" else own.wpe.weight[: ids.shape[1]]
        table = own.get_input_embeddings().weight
        self._carried = [
            functional.embedding(self._ids[rows].to(teacher.device), table) + (0 if places is None else places)
            for rows in self._parts
        ]

    def _begin(self) -> None:
        """Plain norms, and what no text is needed for: tables and the norms of queries and keys."""
        tables = ("embed_tokens.weight", "wte.weight", "wpe.weight", "lm_head.weight")
        for name, parameter in self.model.named_parameters():
            if name.endswith(tables):
                parameter.copy_(self._wide.pop(name).to(parameter.device) @ self._down)
            elif ".q_norm." in name or ".k_norm." in name:
                parameter.copy_(self._wide[name])
            elif _is_norm(name):
                parameter.fill_(1.0 if name.endswith("weight") else 0.0)

    def _module(self, index: int, part: str) -> Any:
        return self._own.layers[index].get_submodule(part)

    def _wide_of(self, index: int, part: str) -> tuple[Tensor, Tensor | None]:
        """Weight [outputs, inputs] and bias of a part, as if the stream were whole."""
        body = next(n for n, m in self.model.named_modules() if m is self._own.body)
        name = f"{body}.{self.layout.name(index)}.{part}"
        weight = self._wide[f"{name}.weight"].double()
        bias = self._wide.get(f"{name}.bias")
        return weight.t() if self.layout is GPT2 else weight, None if bias is None else bias.double()

    def _put(self, index: int, part: str, weight: Tensor, bias: Tensor | None) -> None:
        module = self._module(index, part)
        module.weight.copy_(weight.t() if self.layout is GPT2 else weight)
        if bias is not None:
            module.bias.copy_(bias)

    def _centred(self, states: Tensor) -> Tensor:
        """Without what the teacher's norms leave out, in the student's directions."""
        states = states.float().to(self.teacher.device)
        if self.layout is GPT2:
            states = states - states.mean(-1, keepdim=True)
        return states @ self._down

    def _read(self, index: int, parts: Sequence[str], norm: str, own: list[Tensor], theirs: list[Tensor]) -> None:
        """Solve what reads the norms `own` of the student for what the teacher's same parts read in `theirs`."""
        offset = self._module(index, parts[0]).bias is not None
        equations = WeightedEquations(READ_HOLD, offset=offset)
        for mine, wanted in zip(own, theirs, strict=True):
            equations.add(mine, wanted)
        gain = self._theirs.layers[self.cut.layers[index]].get_submodule(norm).weight
        given, shift = equations.solved(gain.detach().cpu()[:, None] * self._directions.back)
        for part in parts:
            weight, bias = self._wide_of(index, part)
            self._put(index, part, weight @ given, None if bias is None else bias + weight @ shift)

    def _write(self, index: int, part: str, inputs: list[Tensor], before: list[Tensor], wanted: list[Tensor]) -> None:
        """Solve what adds to the stream `before` for the stream to be `wanted`; `before` becomes what it then is.

        A row counts by the inverse of its target's size: the next norm divides by that, and the few tokens on which a
        teacher's states are a hundred times the others' would else decide everything.
        """
        weight, bias = self._wide_of(index, part)
        equations = WeightedEquations(WRITE_HOLD, offset=bias is not None)
        for x, stream, target in zip(inputs, before, wanted, strict=True):
            size = target.square().mean(-1, keepdim=True).sqrt().clamp_min(1e-6)
            equations.add(x, target - stream, 1 / size)
        solved, shift = equations.solved(self._directions.into.double().t() @ weight)
        self._put(index, part, solved, None if bias is None else shift)
        module = self._module(index, part)
        for place, x in enumerate(inputs):
            before[place] = before[place] + module(x)

    def solve_block(self, index: int) -> None:
        layout, source = self.layout, self.cut.layers[index]
        entering, leaving = self._states(source), self._states([*self.cut.layers, len(self._theirs.layers)][index + 1])
        heard = [layout.reading[0], layout.middle, layout.ups[0]]
        theirs: dict[str, list[Tensor]] = {part: [] for part in heard}
        for rows in self._parts:
            given = entering[rows].to(self.teacher.device).float()
            for part, found in self._theirs.inputs(source, given, heard, layout.ups[0]).items():
                theirs[part].append(found)
        enter, middle = self._module(index, layout.enter), self._module(index, layout.middle)
        self._read(index, layout.reading, layout.enter, [enter(x) for x in self._carried], theirs[layout.reading[0]])
        context = [self._own.inputs(index, x, [], layout.out)[layout.out] for x in self._carried]
        between = [self._centred(state) for state in theirs[layout.middle]]
        self._write(index, layout.out, context, self._carried, between)
        normed = [middle(x) for x in self._carried]
        self._read(index, layout.ups, layout.middle, normed, theirs[layout.ups[0]])
        neurons = [self._neurons(index, x) for x in normed]
        self._write(index, layout.down, neurons, self._carried, [self._centred(leaving[rows]) for rows in self._parts])

    def _neurons(self, index: int, normed: Tensor) -> Tensor:
        found: list[Tensor] = []

        def heard(_module: torch.nn.Module, given: tuple[Tensor, ...]) -> None:
            found.append(given[0])
            raise Seen

        handle = self._module(index, self.layout.down).register_forward_pre_hook(heard)
        try:
            self._module(index, self.layout.mlp)(normed)
        except Seen:
            pass
        finally:
            handle.remove()
        return found[0]

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
        last = self._own.body.get_submodule(self.layout.last)
        final = self._states(len(self._theirs.layers))
        pairs = [
            (last(mine), self._norm(final[rows].to(self.teacher.device).float()))
            for rows, mine in zip(self._parts, self._carried, strict=True)
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
            given, _ = equations.solved(self._norm.weight.detach().cpu()[:, None] * self._directions.back)
            head.weight.copy_(self._vocabulary @ given.to(self._vocabulary))
        scale = surest(self.model, self._checked)
        for parameter in last.parameters():
            parameter.mul_(scale)


def _turned(name: str, weight: Tensor, turn: Tensor) -> Tensor:
    """A tensor of a Llama-like student whose stream is `stream @ turn` instead."""
    if name.endswith(("o_proj.weight", "down_proj.weight", "o_proj.bias", "down_proj.bias")):
        return turn.t() @ weight
    if name.endswith(".bias") or ".q_norm." in name or ".k_norm." in name or _is_norm(name):
        return weight
    return weight @ turn


def _is_norm(name: str) -> bool:
    return name.split(".")[-2].startswith(("ln_", "input_layernorm", "post_attention_layernorm", "norm"))


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
