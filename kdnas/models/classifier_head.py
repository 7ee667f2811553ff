"""A classifying teacher's head for its students, so that their folders classify at once.

What stands between the body and the head's last layer is taken over as the pooler is; the last layer is solved, by
ridge regression, for the student to give the teacher's logits. Nothing is trained, and no label is looked at.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForSequenceClassification, PretrainedConfig

from kdnas.models.encoders import Family
from kdnas.models.least_squares_init import watched
from kdnas.models.open import loading

CHUNKS = 2048  # most of them that the last layer is solved from
RIDGE = 1e-3  # times the mean square of the layer's inputs
BATCH = 64

# A linear layer [width, width] of the teacher's, weight and bias, to one that a student of another width can have.
TakenOver = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


def opened(folder: Path, device: torch.device) -> Any:
    """The classifier in a folder, fp32 and frozen. Raises UsageError."""
    with loading(f"The classifier in {folder}", "Give a sound model folder."):
        whole: Any = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32)
    return whole.requires_grad_(False).eval().to(device)


@torch.no_grad()
def classifier(
    whole: Any, family: Family, config: PretrainedConfig, body: Mapping[str, Tensor], taken_over: TakenOver, ids: Tensor
) -> Any:
    """A student's classifier, on the CPU, in eval mode.

    `whole` is the teacher's. `body` holds the student's weights and its pooler's, named as in the body; `config` is the
    student's, and becomes the classifier's. The last layer is solved from the first tokens of the chunks `ids` [chunks,
    length].
    """
    config.id2label, config.label2id = whole.config.id2label, whole.config.label2id
    config.problem_type = whole.config.problem_type
    config.architectures = [type(whole).__name__]
    with torch.random.fork_rng(devices=[]):  # every weight is given below
        made = AutoModelForSequenceClassification.from_config(config, dtype=torch.float32)
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
    watched(made, ids, {last: lambda rows: inputs.append(rows.cpu().double())})
    weight, bias = regression(torch.cat(inputs), logits(whole, ids))
    made.get_submodule(last).weight.copy_(weight)
    made.get_submodule(last).bias.copy_(bias)
    return made.cpu()


@torch.no_grad()
def agreement(made: Any, whole: Any, ids: Tensor) -> float:
    """Share of the chunks `ids` [chunks, length] that the student's classifier labels as its teacher does."""
    return float((logits(made, ids).argmax(-1) == logits(whole, ids).argmax(-1)).double().mean())


def logits(model: Any, ids: Tensor) -> Tensor:
    """float64 [chunks, labels] of whole chunks [chunks, length], on the CPU."""
    parts = [model(input_ids=rows.to(model.device)).logits.cpu().double() for rows in ids.split(BATCH)]
    return torch.cat(parts)


def regression(inputs: Tensor, outputs: Tensor) -> tuple[Tensor, Tensor]:
    """Weight [m, n] and bias [m] of the linear layer that gives `outputs` [rows, m] from `inputs` [rows, n] best."""
    middle, wanted = inputs.mean(0), outputs.mean(0)
    x, y = inputs - middle, outputs - wanted
    gram = x.t() @ x
    gram.diagonal().add_(RIDGE * gram.diagonal().mean() + torch.finfo(gram.dtype).tiny)
    weight = torch.linalg.solve(gram, x.t() @ y).t()
    return weight, wanted - weight @ middle
