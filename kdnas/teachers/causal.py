"""A frozen causal language model as a teacher: opened, fingerprinted, asked.

Knows no student.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import log
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedModel

from kdnas.data import shipped
from kdnas.data.tokens import tokenizer_fingerprint
from kdnas.measuring import memory
from kdnas.measuring.devices import autocast
from kdnas.models import decoders, gguf
from kdnas.models import open as opening
from kdnas.models.decoders import body_and_head
from kdnas.study.spec import TeacherSpec
from kdnas.system.errors import UsageError
from kdnas.system.progress import Progress
from kdnas.training.losses.divergences import hard_loss, head_loss

SCORE_TOKENS = 2048


@dataclass(frozen=True)
class CausalModel:
    """A frozen causal language model with its tokenizer."""

    name: str
    folder: Path
    model: PreTrainedModel
    tokenizer: Any
    fingerprint: str

    @property
    def config(self) -> PreTrainedConfig:
        return self.model.config

    @property
    def device(self) -> torch.device:
        return self.model.device

    def hidden(self, ids: Tensor) -> Tensor:
        """Hidden states under the vocabulary head, [rows, length, width]; bf16 autocast where the GPU has it."""
        body, _ = body_and_head(self.model)
        with torch.no_grad(), autocast(self.device):
            states: Tensor = body(input_ids=ids.to(self.device), use_cache=False).last_hidden_state
        return states

    def logits(self, hidden: Tensor) -> Tensor:
        """[n, width] → [n, vocabulary] in float32."""
        _, head = body_and_head(self.model)
        with torch.no_grad(), autocast(self.device):
            return cast(Tensor, head(hidden)).float()

    def next_logits(self, ids: Tensor) -> Tensor:
        """Of every position that has a successor: [rows, length] → [rows · (length − 1), vocabulary]."""
        return self.logits(self.hidden(ids)[:, :-1].flatten(0, 1))


def model_folder(spec: TeacherSpec, on_progress: Progress | None = None) -> Path:
    """The ordinary model folder of a teacher given by shipped name, hub id, folder, or GGUF file. Raises UsageError."""
    if spec.checkpoint is not None:
        folder = Path(spec.checkpoint).expanduser()
        if not folder.is_dir():
            raise UsageError(f"There is no checkpoint at {spec.checkpoint!r}.", "Give a fine-tuned model's folder.")
        return folder
    path = Path(spec.model).expanduser()
    if path.suffix == ".gguf" and path.is_file():
        return gguf.rebuilt(path, on_progress)
    alone = gguf.gguf_file(path) if path.is_dir() else None
    if alone is not None:
        return gguf.rebuilt(alone, on_progress)
    folder = opening.locate(spec, on_progress)
    file = gguf.gguf_file(folder) if spec.model in shipped.ASSETS else None
    return folder if file is None else gguf.rebuilt(file, on_progress)


def read_config(folder: Path, name: str) -> PreTrainedConfig:
    """The configuration of a causal model's folder. Raises UsageError for what is none that the recipes take."""
    config = opening.open_config(folder, name)
    decoders.sizes(config)
    return config


def load(spec: TeacherSpec, device: torch.device, on_progress: Progress | None = None) -> CausalModel:
    """Load and freeze: fp32, eval. Raises UsageError for a model that cannot be one, or that lacks weights."""
    folder = model_folder(spec, on_progress)
    name = spec.model if spec.checkpoint is None else spec.checkpoint
    config = read_config(folder, name)
    if on_progress is not None:
        on_progress(f"loading {name}", None)
    model = opening.open_causal(folder, name, config)
    model.requires_grad_(False)
    has_own = (folder / "tokenizer_config.json").is_file() or spec.checkpoint is None
    base = folder if has_own else model_folder(spec.model_copy(update={"checkpoint": None}), on_progress)
    tokenizer = opening.open_tokenizer(base, name)
    opening.require_vocabulary(tokenizer, config, name)
    return CausalModel(name, folder, model.to(device), tokenizer, opening.model_fingerprint(model, config, tokenizer))


def same_vocabulary(one: CausalModel, other: CausalModel) -> None:
    """Raise UsageError where two models do not mean the same by a token id."""
    ours, theirs = one.config.vocab_size, other.config.vocab_size
    if ours != theirs:
        raise UsageError(
            f"The teacher {one.name!r} has a vocabulary of {ours:,} tokens, the student {other.name!r} of {theirs:,}.",
            "Distillation on tokens needs two models of the same tokenizer.",
        )
    if tokenizer_fingerprint(one.tokenizer) != tokenizer_fingerprint(other.tokenizer):
        raise UsageError(
            f"The teacher {one.name!r} and the student {other.name!r} split text differently.",
            "Distillation on tokens needs two models of the same tokenizer.",
        )


@torch.inference_mode()
def cross_entropy(model: PreTrainedModel, ids: Tensor) -> float:
    """Mean cross-entropy of every next token of the chunks [chunks, length], in nats, in eval mode."""
    training = model.training
    model.eval()
    body, head = body_and_head(model)
    device = model.device

    def loss(part: Tensor) -> float:
        part = part.to(device)
        labels = part[:, 1:].flatten()
        with autocast(device):
            hidden = body(input_ids=part, use_cache=False).last_hidden_state[:, :-1].flatten(0, 1)
            return float(head_loss(hidden, head.weight, hard_loss(labels), bias=head.bias))

    total = sum(found for _, found in memory.halving(ids, max(1, SCORE_TOKENS // ids.shape[1]), device, loss))
    model.train(training)
    return total / (len(ids) * (ids.shape[1] - 1))


def unigram_loss(counts: Tensor, held_out: Tensor) -> float:
    """Cross-entropy in nats of the next held-out token under the shares of counts [vocabulary], one added to each."""
    added = counts.double() + 1.0
    return float(-(added.log() - log(float(added.sum())))[held_out[:, 1:].flatten()].mean())
