"""`init = "fitted"`: after slicing, the remaining weights are re-solved to reproduce the teacher's block outputs.

Ridge regression, no gradient. The dimensions that a matrix reads (hidden ones, heads' outputs) are correlated on real
text, so the remaining ones predict the removed ones, and the matrix absorbs that prediction. What follows, each
feed-forward part solved on the student's own states, is in solved_blocks.py. Knows no loss, no store, no strategy.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from transformers import PretrainedConfig

from kdnas.models.encoder_cut import EncoderCut, sliced
from kdnas.models.encoders import Family
from kdnas.models.kept_results import KeptResults

TOKENS = 16_384  # most tokens that a candidate of a search is solved on
IN_FULL = 4  # times as many for a student that is distilled in full
BATCH = 32
BLOCK = 64  # steps of a decomposition after which its matrices are brought up to date
RIDGE = 1e-3  # of the mean variance, towards nothing: a direction that hardly varies is not trusted


@dataclass(frozen=True)
class Moments:
    """Of what leads into a teacher's layers on real text, and which of its neurons explain most.

    `hidden`, `context` and `read` [layers, width, width]: covariances of the inputs of query, key and value, of
    attention's output, and of the feed-forward part; `mean_hidden` … [layers, width]: their means; float32. `order`
    [layers, intermediate], int64: the neurons as `explaining` orders them. Shared layers count as one.
    """

    hidden: Tensor
    context: Tensor
    read: Tensor
    mean_hidden: Tensor
    mean_context: Tensor
    mean_read: Tensor
    order: Tensor

    def tensors(self) -> dict[str, Tensor]:
        return dict(vars(self))


class _Sums:
    """Running first and second moments of rows [n, size], kept in float64 on the CPU."""

    def __init__(self) -> None:
        self.count, self.first, self.second = 0, torch.zeros(()), torch.zeros(())

    def add(self, rows: Tensor) -> None:
        rows = rows.float()
        self.count += len(rows)
        self.first = self.first + rows.sum(0).to("cpu", torch.float64)
        self.second = self.second + (rows.t() @ rows).to("cpu", torch.float64)

    def mean(self) -> Tensor:
        return self.first / self.count

    def covariance(self) -> Tensor:
        return self.second / self.count - torch.outer(self.mean(), self.mean())


def sample(ids: Tensor, times: int = 1) -> Tensor:
    """The first of the chunks `ids` [chunks, length], of so many times TOKENS: those that are looked at."""
    return ids[: max(1, times * TOKENS // ids.shape[1])]


class _Seen(Exception):  # noqa: N818 - no error: the rest of a pass is of no use
    pass


@torch.inference_mode()
def watched(
    body: torch.nn.Module,
    ids: Tensor,
    inputs: Mapping[str, Callable[[Tensor], None]],
    last: str | None = None,
    batch: int = BATCH,
    outputs: Callable[[tuple[Tensor, ...]], None] | None = None,
) -> None:
    """Run the body over chunks, `batch` at a time, and give each named module's input, as rows [tokens, size], to its
    listener; `outputs` hears each pass's hidden states [chunks, length, width], from the embeddings' on.

    Each pass ends at the module `last`, where one is named: what comes after it is not computed.
    """

    def hook(name: str, listen: Callable[[Tensor], None]) -> Callable[..., None]:
        def heard(_module: torch.nn.Module, given: tuple[Tensor, ...]) -> None:
            listen(given[0].flatten(0, -2))
            if name == last:
                raise _Seen

        return heard

    hooks = [body.get_submodule(name).register_forward_pre_hook(hook(name, listen)) for name, listen in inputs.items()]
    device = next(body.parameters()).device
    try:
        for part in ids.split(batch):
            with contextlib.suppress(_Seen):
                if outputs is None:
                    body(input_ids=part.to(device))
                else:
                    outputs(body(input_ids=part.to(device), output_hidden_states=True).hidden_states)
    finally:
        for handle in hooks:
            handle.remove()


def moments(
    body: torch.nn.Module,
    family: Family,
    ids: Tensor,
    batch: int = BATCH,
    also: Mapping[str, Callable[[Tensor], None]] | None = None,
    outputs: Callable[[tuple[Tensor, ...]], None] | None = None,
) -> Moments:
    """Measured on the chunks `ids` [chunks, length], on the body's device, `batch` at a time. `also` are listeners to
    further modules on the same passes, and `outputs` hears their hidden states, as `watched` has them."""
    config: PretrainedConfig = body.config  # type: ignore[assignment]
    layers = range(1 if family.shared_layers else family.sizes(config).layers)
    names = {"hidden": family.query, "context": family.out, "read": family.up, "inner": family.down}
    sums = {(part, layer): _Sums() for part in names for layer in layers}
    heard = {family.layer_prefix(layer) + names[part]: s.add for (part, layer), s in sums.items()}
    watched(body, ids, {**heard, **(also or {})}, batch=batch, outputs=outputs)
    outgoing = [body.get_parameter(f"{family.layer_prefix(layer)}{family.down}.weight") for layer in layers]
    found: dict[str, Tensor] = {}
    for part in ("hidden", "context", "read"):
        found[part] = torch.stack([sums[part, layer].covariance() for layer in layers]).float()
        found[f"mean_{part}"] = torch.stack([sums[part, layer].mean() for layer in layers]).float()
    with ThreadPoolExecutor(torch.get_num_threads()) as threads:
        inner = [sums["inner", layer].covariance() for layer in layers]
        order = list(threads.map(explaining, inner, [weight.detach().cpu() for weight in outgoing]))
    return Moments(**found, order=torch.stack(order))


def explaining(covariance: Tensor, outgoing: Tensor) -> Tensor:
    """The order [n] in which inputs x explain most of `outgoing @ x` beside those before them.

    `covariance` [n, n] of x, `outgoing` [outputs, n]. A pivoted Cholesky decomposition; each step takes the input whose
    part that the earlier ones do not give tells most of the outputs' variance that they do not give either. The
    covariance is brought up to date a block of steps at a time, since it is reading it that takes the time.
    """
    remaining = covariance.float()  # [rows, rows]: what of the covariance the inputs taken before the block leave
    told = remaining @ outgoing.float().t()  # [rows, outputs]: covariance with the outputs, less what is explained
    left = remaining.diagonal().clone()
    floor = 1e-5 * float(left.mean())
    names = torch.arange(len(left))  # the inputs that the rows belong to
    order: list[int] = []
    while len(names):
        steps = min(BLOCK, len(names))
        factors = torch.zeros(steps, len(names))  # what the block's own steps take from `remaining`
        taken: list[int] = []
        for step in range(steps):
            gain = torch.linalg.vecdot(told, told) / left.clamp_min(floor)
            gain[taken] = -1.0
            row = int(gain.argmax())
            taken.append(row)
            root = left[row].clamp_min(floor).sqrt()
            column = (remaining[row] - factors[:step, row] @ factors[:step]) / root
            told.addr_(column, told[row] / root, alpha=-1.0)
            left -= column.square()
            factors[step] = column
        order += names[taken].tolist()
        stay = torch.ones(len(names), dtype=torch.bool)
        stay[taken] = False
        names, told, left, factors = names[stay], told[stay], left[stay], factors[:, stay]
        remaining = remaining[stay][:, stay].addmm_(factors.t(), factors, alpha=-1.0)
    return torch.tensor(order)


def predicted(covariance: Tensor, mean: Tensor, kept: Tensor) -> tuple[Tensor, Tensor]:
    """The `given` [n, kept] and `offset` [n] with which x ≈ given @ x[kept] + offset; what is kept is itself."""
    c, m = covariance.double(), mean.double()
    own = c[kept][:, kept]
    own.diagonal().add_(RIDGE * own.diagonal().mean())
    given = torch.linalg.solve(own, c[kept]).t().contiguous()
    given[kept] = torch.eye(len(kept), dtype=given.dtype)
    return given, m - given @ m[kept]


def reading(weight: Tensor, bias: Tensor, given: Tensor, offset: Tensor) -> tuple[Tensor, Tensor]:
    """The linear layer `weight` [outputs, n], `bias` [outputs] of x ≈ given @ kept + offset, as one of `kept`."""
    own = weight.double()
    return (own @ given.double()).to(weight.dtype), (own @ offset.double() + bias.double()).to(bias.dtype)


Prediction = tuple[Tensor, Tensor]
"""What `predicted` gives."""


def taken_over(
    weights: Mapping[str, Tensor], cut: EncoderCut, found: Moments, known: KeptResults[Prediction] | None = None
) -> dict[str, Tensor]:
    """The student's weights as `encoder_cut.sliced` gives them, the neurons by the moments' order; what read the cut
    hidden dimensions and heads reads their prediction from the kept ones. `known` keeps predictions of one teacher."""
    known = KeptResults(0) if known is None else known
    places = torch.argsort(found.order, dim=1)
    cut = replace(cut, importance=replace(cut.importance, inner=(places.shape[1] - places).double()))
    family, width = cut.family, cut.width
    made = sliced(weights, cut)
    for parts in cut.layers():
        at = parts.source  # 0 where layers are shared
        prefix, target = family.layer_prefix(at), family.layer_prefix(parts.index)
        for name, part, rows, kept, scale in (
            (family.query, "hidden", parts.logits, width, cut.sharpen),
            (family.key, "hidden", parts.logits, width, 1.0),
            (family.value, "hidden", parts.context, width, 1.0),
            (family.out, "context", width, parts.context, 1.0),
            (family.up, "read", parts.neurons, width, 1.0),
        ):
            moment: Tensor = getattr(found, part)[at]
            if len(kept) == len(moment):
                continue
            named = (part, at, tuple(kept.tolist()))
            prediction = known.get(named)
            if prediction is None:
                prediction = predicted(moment, getattr(found, f"mean_{part}")[at], kept)
                known.put(named, prediction, sum(tensor.nbytes for tensor in prediction))
            given, offset = prediction
            weight, bias = weights[f"{prefix}{name}.weight"], weights[f"{prefix}{name}.bias"]
            read, shifted = reading(weight[rows] * scale, bias[rows] * scale, given, offset)
            made[f"{target}{name}.weight"], made[f"{target}{name}.bias"] = read, shifted
    return made
