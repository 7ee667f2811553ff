"""The feed-forward parts of a student solved one after the other, on one way through it: ridge regression, no gradient.

Each block is solved for what the teacher's last block before the next kept one gives: it stands for the layers that are
left out, too. The student's states are carried from layer to layer, so that each of its layers runs once. Knows no
loss, no store and no strategy.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from kdnas.models.encoder_cut import EncoderCut
from kdnas.models.encoders import Family
from kdnas.models.kept_results import KeptResults
from kdnas.system.errors import KdnasError

HOLD = 0.1  # of the mean variance, towards the weights as they are
STEP = 1024  # tokens that go through a layer at a time: what they leave stays in the processor's cache
HELD_BYTES = 2**29  # of what a layer makes up to its neurons; beyond that it is made again
BLOCK = 192  # columns of a Gram matrix that are made at once: its lower half is the upper one's mirror

Listen = Callable[[int, slice, Tensor], None]
"""Called with a layer of the student, the chunks, and what it gives on them [chunks, length, width]."""


class _Seen(Exception):  # noqa: N818 - no error: the rest of a pass is of no use
    pass


@dataclass(frozen=True)
class Gram:
    """Of rows less `shift` [size], which is near their mean: second moments [size, size], a sum for each pair."""

    shift: Tensor
    second: Tensor

    @property
    def bytes(self) -> int:
        return self.second.nbytes + self.shift.nbytes


class _Equations:
    """The normal equations of targets from neurons, as sums over tokens: what a feed-forward output is solved from.

    Neurons are taken less the mean of the first rows, so that float32 sums do not lose the variance of one whose mean
    is large. `known` is their Gram matrix where it has been worked out before.
    """

    def __init__(self, known: Gram | None) -> None:
        self.known, self.count = known, 0
        self._shift = None if known is None else known.shift
        self._second, self._cross = torch.zeros(()), torch.zeros(())
        self._first, self._targets = torch.zeros(()), torch.zeros(())

    def add(self, neurons: Tensor, targets: Tensor) -> None:
        """`neurons` [tokens, size] are changed: they come back less the shift."""
        if self._shift is None:
            self._shift = neurons.mean(0)
        neurons.sub_(self._shift)
        if not self.count:
            size, outputs = neurons.shape[1], targets.shape[1]
            if self.known is None:
                self._second = neurons.new_zeros(size, size)
            self._cross = neurons.new_zeros(size, outputs)
            self._first, self._targets = neurons.new_zeros(size), neurons.new_zeros(outputs)
        self.count += len(neurons)
        if self.known is None:
            for begin in range(0, neurons.shape[1], BLOCK):
                end = begin + BLOCK
                self._second[begin:end, begin:].addmm_(neurons[:, begin:end].t(), neurons[:, begin:])
        self._cross.addmm_(neurons.t(), targets)
        self._first += neurons.sum(0)
        self._targets += targets.sum(0)

    def gram(self) -> Gram:
        if self.known is None:
            assert self._shift is not None
            upper = self._second.triu()
            self.known = Gram(self._shift, upper + upper.triu(1).t())
        return self.known

    def solved(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        """Weight [outputs, size] and bias [outputs], of the neurons as `add` leaves them: the targets with the least
        mean squared error plus HOLD of the neurons' mean variance times the squared change of `weight`; float64 on the
        CPU. Raises KdnasError for what is no number."""
        gram, count = self.gram(), self.count
        mean, wanted = (part.to("cpu", torch.float64) / count for part in (self._first, self._targets))
        covariance = gram.second.to("cpu", torch.float64).div_(count).sub_(torch.outer(mean, mean))
        told = self._cross.to("cpu", torch.float64).div_(count).sub_(torch.outer(mean, wanted))
        before = weight.detach().to("cpu", torch.float64)
        strength = HOLD * float(covariance.diagonal().mean())
        if not (bool(covariance.isfinite().all()) and bool(told.isfinite().all()) and bool(before.isfinite().all())):
            raise KdnasError(
                "The student cannot be fitted: what its layers give is not finite numbers.",
                "Check the teacher's weights, or leave out recipe.init = fitted.",
            )
        if strength > 0:  # else no neuron ever changes, and nothing tells one weight from another: they stay
            covariance.diagonal().add_(strength)
            told.add_(before.t(), alpha=strength)
            before = torch.cholesky_solve(told, torch.linalg.cholesky(covariance)).t()
        return before, wanted - before @ mean


def ends_of(cut: EncoderCut) -> list[int]:
    """For each layer of the student the last of the teacher's that it stands for."""
    return ends_at(cut.sources, cut.own.layers)


def ends_at(sources: Sequence[int], layers: int) -> list[int]:
    """The same for layers cut from the teacher's `sources`, of `layers` in all."""
    return [*(source - 1 for source in sources[1:]), layers - 1]


def rows_of(length: int) -> int:
    """Chunks of `length` tokens that go through a layer at a time."""
    return max(1, STEP // length)


def solves(cut: EncoderCut) -> bool:
    """Whether the cut's blocks are solved at all. A student that is the whole teacher is left as it is; so are shared
    layers: one weight cannot be solved for one depth after the other."""
    return not cut.family.shared_layers and cut.sizes != cut.own


@torch.no_grad()
def solve_blocks(
    student: torch.nn.Module,
    cut: EncoderCut,
    weights: Mapping[str, Tensor],
    ids: Tensor,
    wanted: Mapping[int, Tensor],
    *,
    kept: KeptResults[Gram] | None = None,
    listen: Listen | None = None,
    at_once: int | None = None,
) -> None:
    """Solve each feed-forward output of the student, from the first layer on, for what enters its last norm to be what
    enters the norm of the teacher's last layer before the next kept one; and take that norm. In place.

    `weights` are the teacher's, `ids` [chunks, length] the text, `wanted` for each of `ends_of` what enters that
    layer's last norm in the teacher [chunks, length, the teacher's width]. Each is solved on what the student itself
    gives by then, held to its present weights where the text does not tell. `listen` hears what each layer then gives.
    `at_once` chunks go through a layer, by default about STEP tokens. Raises KdnasError where that is not
    finite.
    """
    student.eval()
    step = at_once or rows_of(ids.shape[1])
    parts = [slice(begin, begin + step) for begin in range(0, len(ids), step)]
    device = next(student.parameters()).device
    if not solves(cut):
        if listen is not None:
            for rows in parts:
                states = student(input_ids=ids[rows].to(device), output_hidden_states=True).hidden_states[1:]
                for index, state in enumerate(states):
                    listen(index, rows, state)
        return
    for module in student.modules():
        if hasattr(module, "chunk_size_feed_forward"):
            # A layer's tokens in one piece; the figures are the same.
            module.chunk_size_feed_forward = 0  # type: ignore[assignment]
    family, width = cut.family, cut.width.to(device)
    carried = [before_first(student, family, ids[rows].to(device)) for rows in parts]
    for index, end in enumerate(ends_of(cut)):
        prefix = family.layer_prefix(index)
        down: Any = student.get_submodule(prefix + family.down)
        norm: Any = student.get_submodule(prefix + family.norm)
        for leaf in ("weight", "bias"):
            theirs = weights[f"{family.layer_prefix(end)}{family.norm}.{leaf}"]
            getattr(norm, leaf).copy_(theirs[cut.width])
        # The first layer's neurons are the same for all students of these sizes, whatever follows them.
        sizes, own = cut.sizes, cut.sizes.layer(0)
        first = (tuple(cut.sources[:1]), sizes.width, sizes.head_size, own.heads, own.inner, sizes.act)
        name = None if index else first
        equations = _Equations(None if name is None or kept is None else kept.get(name))
        halves: list[tuple[Tensor, Tensor] | None] = []
        room = HELD_BYTES
        for rows, given in zip(parts, carried, strict=True):
            read, neurons = to_neurons(student, family, index, given)
            target = wanted[end][rows].to(device).flatten(0, 1).float()
            target = target.index_select(1, width)
            equations.add(neurons, target.sub_(read))
            room -= read.nbytes + neurons.nbytes
            halves.append((read, neurons) if room >= 0 else None)
        if name is not None and kept is not None:
            kept.put(name, equations.gram(), equations.gram().bytes)
        weight, bias = equations.solved(down.weight)
        shift = equations.gram().shift
        down.weight.copy_(weight)
        down.bias.copy_(bias - weight @ shift.to("cpu", torch.float64))
        bias = bias.to(down.bias)
        halves.reverse()
        for place, rows in enumerate(parts):
            half = halves.pop()
            if half is None:
                read, neurons = to_neurons(student, family, index, carried[place])
                half = read, neurons.sub_(shift)
            read, neurons = half
            shape = carried[place].states.shape
            state = norm(functional.linear(neurons, down.weight, bias).add_(read)).view(shape)
            carried[place].states = state
            if listen is not None:
                listen(index, rows, state)


@dataclass
class Carried:
    """What one of the student's layers is called with: its states, and what else all its layers are given."""

    states: Tensor
    others: tuple[Any, ...]
    named: Mapping[str, Any]


def before_first(student: torch.nn.Module, family: Family, ids: Tensor) -> Carried:
    """What the first layer is called with on `ids` [chunks, length]."""
    found: list[Carried] = []

    def heard(_module: torch.nn.Module, given: tuple[Any, ...], named: dict[str, Any]) -> None:
        found.append(Carried(given[0], given[1:], named))
        raise _Seen

    first = student.get_submodule(family.layer_prefix(0).removesuffix("."))
    handle = first.register_forward_pre_hook(heard, with_kwargs=True)
    try:
        student(input_ids=ids)
    except _Seen:
        pass
    finally:
        handle.remove()
    return found[0]


def to_neurons(student: torch.nn.Module, family: Family, index: int, given: Carried) -> tuple[Tensor, Tensor]:
    """A layer up to its neurons: what its feed-forward part reads [tokens, width], and they [tokens, inner].

    What is read is also what its output is added to: a layer of these families ends with norm(read + output).
    """
    found: list[Tensor] = []

    def heard(_module: torch.nn.Module, inputs: tuple[Tensor, ...]) -> None:
        found.append(inputs[0].flatten(0, -2))
        if len(found) == 2:
            raise _Seen

    prefix = family.layer_prefix(index)
    hooks = [student.get_submodule(prefix + part).register_forward_pre_hook(heard) for part in (family.up, family.down)]
    try:
        student.get_submodule(prefix.removesuffix("."))(given.states, *given.others, **given.named)
    except _Seen:
        pass
    finally:
        for handle in hooks:
            handle.remove()
    return found[0], found[1]
