"""Classification heads taken over: opened for a data set's classes, and solved for the students of a classifier.

Of a student's head, what stands before the last layer is taken over as the pooler is; the last layer is solved, by
ridge regression, for the student to give the teacher's logits. Nothing is trained, and no label is looked at.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForSequenceClassification, PretrainedConfig

from kdnas.models import class_order
from kdnas.models import open as opening
from kdnas.models.encoders import Family
from kdnas.models.least_squares_init import BATCH as WATCHED
from kdnas.models.least_squares_init import watched

CHUNKS = 2048  # most of them that the last layer is solved from
RIDGE = 1e-3  # times the mean square of the layer's inputs
BATCH = 64

# A linear layer [width, width] of the teacher's, weight and bias, to one that a student of another width can have.
TakenOver = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


def opened(folder: Path, device: torch.device) -> Any:
    """The classifier in a folder, fp32 and frozen. Raises UsageError."""
    config = opening.open_config(folder, str(folder))
    whole = opening.open_weights(AutoModelForSequenceClassification, folder, str(folder), config).model
    return whole.requires_grad_(False).to(device)


def opened_for(
    folder: Path, name: str, config: PretrainedConfig, names: Sequence[str], **arguments: Any
) -> tuple[Any, frozenset[str]]:
    """A classifier of the classes `names`, in their order, and the names of its parameters that begin fresh.

    The folder's own head is taken over where it tells the same classes apart: its rows by its classes' names, or as
    they are where it has none. A head of other classes, or for another use, begins fresh.
    """
    own: tuple[int, ...] | None = None
    if opening.classifies(config) and config.num_labels == len(names):
        theirs = class_order.class_names(config)
        own = tuple(range(len(names))) if theirs is None else class_order.places(theirs, names)
    other_use = own is None and bool(config.architectures)
    config = copy.deepcopy(config)
    class_order.rename(config, names)
    found = opening.open_weights(AutoModelForSequenceClassification, folder, name, config, other_head=True, **arguments)
    model, fresh = found.model, found.fresh
    if own is not None and own != tuple(range(len(names))) and not _last(model, len(names)) & fresh:
        class_order.reorder(model, own, names)
    elif other_use:
        begun = _last(model, len(names)) - fresh
        _begin_afresh(model, begun)
        fresh |= begun
    return model, fresh


def _last(model: Any, classes: int) -> frozenset[str]:
    """Names of the parameters of a classifier's last layer."""
    layer = class_order.last_layer(model, classes)
    return frozenset(n for n, p in model.named_parameters() if any(p is own for own in layer.parameters()))


@torch.no_grad()
def _begin_afresh(model: Any, names: Collection[str]) -> None:
    spread = float(getattr(model.config, "initializer_range", 0.02))
    for name, parameter in model.named_parameters():
        if name in names:
            parameter.normal_(0.0, spread) if parameter.dim() > 1 else parameter.zero_()


@torch.no_grad()
def classifier(
    whole: Any,
    family: Family,
    config: PretrainedConfig,
    body: Mapping[str, Tensor],
    taken_over: TakenOver,
    ids: Tensor,
    batch: int = BATCH,
) -> Any:
    """A student's classifier, on the CPU, in eval mode.

    `whole` is the teacher's. `body` holds the student's weights and its pooler's, named as in the body; `config` is the
    student's, and becomes the classifier's. The last layer is solved from the first tokens of the chunks `ids` [chunks,
    length], `batch` of them at a time.
    """
    class_order.rename(config, [str(whole.config.id2label[place]) for place in range(whole.config.num_labels)])
    config.problem_type = whole.config.problem_type
    with torch.random.fork_rng(devices=[]):  # every weight is given below
        made = AutoModelForSequenceClassification.from_config(config, dtype=torch.float32)
    config.architectures = [type(made).__name__]
    made.base_model.load_state_dict(dict(body), strict=False)
    if len(family.head) > 1:
        own, theirs = made.get_submodule(family.head[0]), whole.get_submodule(family.head[0])
        weight, bias = taken_over(theirs.weight.cpu(), theirs.bias.cpu())
        own.weight.copy_(weight)
        own.bias.copy_(bias)
    made.eval().to(whole.device)
    last = family.head[-1]
    inputs: list[Tensor] = []
    ids = ids[:CHUNKS]
    watched(made, ids, {last: lambda rows: inputs.append(rows.cpu().double())}, batch=min(batch, WATCHED))
    weight, bias = regression(torch.cat(inputs), logits(whole, ids, batch))
    made.get_submodule(last).weight.copy_(weight)
    made.get_submodule(last).bias.copy_(bias)
    return made.cpu()


@torch.no_grad()
def agreement(made: Any, whole: Any, ids: Tensor, batch: int = BATCH) -> float:
    """Share of the chunks `ids` [chunks, length] that the student's classifier labels as its teacher does."""
    return float((logits(made, ids, batch).argmax(-1) == logits(whole, ids, batch).argmax(-1)).double().mean())


def logits(model: Any, ids: Tensor, batch: int = BATCH) -> Tensor:
    """float64 [chunks, labels] of whole chunks [chunks, length], `batch` at a time, on the CPU."""
    parts = [model(input_ids=rows.to(model.device)).logits.cpu().double() for rows in ids.split(batch)]
    return torch.cat(parts)


def regression(inputs: Tensor, outputs: Tensor, ridge: float = RIDGE) -> tuple[Tensor, Tensor]:
    """Weight [m, n] and bias [m] of the linear layer that gives `outputs` [rows, m] from `inputs` [rows, n] best.

    `ridge` is a share of the inputs' mean variance.
    """
    middle, wanted = inputs.mean(0), outputs.mean(0)
    x, y = inputs - middle, outputs - wanted
    gram = x.t() @ x
    gram.diagonal().add_(ridge * gram.diagonal().mean() + torch.finfo(gram.dtype).tiny)
    weight = torch.linalg.solve(gram, x.t() @ y).t()
    return weight, wanted - weight @ middle
