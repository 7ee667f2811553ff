"""A causal model learns text, or summaries after their texts, without distillation.

The training itself is training/finetune.py.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from kdnas.data import chunks as chunking
from kdnas.data import documents as reading
from kdnas.data import splits
from kdnas.data import tokens as tokenising
from kdnas.data.causal_text import SEPARATOR, end_of_text, ids_fingerprint, paired
from kdnas.measuring.devices import autocast
from kdnas.models.decoders import body_and_head
from kdnas.study.spec import DataSpec
from kdnas.system.errors import BadOptionError, UsageError
from kdnas.system.progress import Progress
from kdnas.teachers.causal import CausalModel
from kdnas.training.finetune import Task
from kdnas.training.losses.divergences import IGNORED, hard_loss, head_loss, next_token_labels


class Language(Task):
    """Next tokens of joined text in fixed chunks, or of a summary after its text, everything else being given."""

    def __init__(self, model: CausalModel, ids: Sequence[np.ndarray], given: Sequence[int], held: np.ndarray) -> None:
        """`ids` are token ids per example, `given` how many of them are not learned; `held` are rows of both."""
        self.causal, self.model, self.device = model, model.model, model.device
        self.model.requires_grad_(True)
        self._ids, self._given = list(ids), list(given)
        scored = set(held.tolist())
        self._held = held
        self._train = np.array([i for i in range(len(ids)) if i not in scored], dtype=np.int64)
        self.lengths = np.array([len(self._ids[i]) for i in self._train])
        self._pad = end_of_text(model.tokenizer)

    def units(self, rows: np.ndarray) -> int:
        return sum(self._units(int(i)) for i in self._train[rows])

    def _units(self, i: int) -> int:
        return len(self._ids[i]) - max(1, self._given[i])

    def loss(self, rows: np.ndarray) -> Tensor:
        return self._loss(self._train[rows])

    def _loss(self, rows: np.ndarray) -> Tensor:
        ids, mask, labels = self._batch(rows)
        body, head = body_and_head(cast(Any, self.model))
        with autocast(self.device):
            hidden = body(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state
            wanted = labels != IGNORED
            return head_loss(hidden[wanted], head.weight, hard_loss(labels[wanted]), bias=head.bias)

    def _batch(self, rows: np.ndarray) -> tuple[Tensor, Tensor, Tensor]:
        """Padded on the right: ids, mask and labels [rows, longest]; labels are IGNORED within what is given."""
        parts = [self._ids[int(i)] for i in rows]
        longest = max(len(part) for part in parts)
        ids = torch.full((len(rows), longest), self._pad)
        mask = torch.zeros((len(rows), longest), dtype=torch.long)
        for place, part in enumerate(parts):
            ids[place, : len(part)] = torch.from_numpy(part)
            mask[place, : len(part)] = 1
        labels = next_token_labels(ids, mask)
        for place, i in enumerate(rows):
            labels[place, : max(1, self._given[int(i)]) - 1] = IGNORED
        return ids.to(self.device), mask.to(self.device), labels.to(self.device)

    @torch.inference_mode()
    def score(self) -> dict[str, float]:
        total = sum(float(self._loss(rows)) for rows in np.array_split(self._held, math.ceil(len(self._held) / 8)))
        mean = total / max(1, sum(self._units(int(i)) for i in self._held))
        return {"loss": mean, "perplexity": math.exp(min(mean, 700.0))}

    def save(self, place: Path) -> None:
        self.causal.model.save_pretrained(place)
        self.causal.tokenizer.save_pretrained(place)

    def facts(self) -> dict[str, Any]:
        return {
            "kind": "language",
            "model": self.causal.fingerprint,
            "training_examples": len(self._train),
            "held_out_examples": len(self._held),
            "tokens": int(self.lengths.sum()),
            "data": ids_fingerprint(torch.from_numpy(np.concatenate(self._ids))),
            "given": sum(self._given),
        }


def language(model: CausalModel, source: DataSpec, on_progress: Progress) -> Language:
    """The task for a data set: pairs where `label_column` is given, else joined text. Raises UsageError."""
    positions = int(model.config.max_position_embeddings)
    if source.length > positions:
        raise BadOptionError(
            "length", f"length = {source.length} is more than the model's {positions} positions.", "Lower it."
        )
    if source.label_column is None:
        documents = reading.read(source, on_progress=on_progress)
        reading.tell_repeats(documents, on_progress)
        tokens = tokenising.tokenise(documents, model.tokenizer, on_progress)
        frame = chunking.Frame(None, end_of_text(model.tokenizer), None)
        made = chunking.cut(tokens, documents, source, 1.0, frame)
        rows = [*made.train, *made.held_out]
        return Language(model, rows, [1] * len(rows), np.arange(len(made.train), len(rows)))
    return _pairs(model, source, on_progress)


def _pairs(model: CausalModel, source: DataSpec, on_progress: Progress) -> Language:
    """Each example is text, SEPARATOR, summary, end of text; what does not fit is cut from the text's end."""
    documents = reading.read(source, summaries=True, on_progress=on_progress)
    assert documents.labels is not None
    end, split = end_of_text(model.tokenizer), model.tokenizer(SEPARATOR, add_special_tokens=False)["input_ids"]
    joined = paired(documents)
    reading.tell_repeats(joined, on_progress)
    lengths = tokenising.tokenise(joined, model.tokenizer, on_progress).lengths
    held, train = splits.by_tokens(lengths, joined, source.held_out)  # what a study of these pairs holds out
    if not len(held) or not len(train):
        raise UsageError(
            f"The data set {documents.name!r} has too few examples: {len(documents.texts)}.", "Give at least two."
        )
    total = len(lengths) if source.limit is None else min(source.limit, len(lengths))
    held = held[: min(max(1, round(total * source.held_out)), source.max_held_out)]
    train = train[: max(1, total - len(held))]
    ids, given = [], []
    for place in (*held, *train):
        summary = model.tokenizer(documents.labels[place], add_special_tokens=False)["input_ids"]
        room = source.length - len(split) - 1
        if room < 2:
            raise BadOptionError("length", f"length = {source.length} leaves no room for a summary.", "Raise it.")
        summary = summary[: max(1, room - 1)]
        text = model.tokenizer(documents.texts[place], add_special_tokens=False, verbose=False)["input_ids"]
        before = [*text[: max(1, room - len(summary))], *split]
        ids.append(np.array([*before, *summary, end], dtype=np.int64))
        given.append(len(before))
    return Language(model, ids, given, np.arange(len(held)))
