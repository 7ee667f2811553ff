"""A text becomes a vector: tokens, hidden states, pooling and what follows it, as the folder's layout says.

The same arithmetic as sentence-transformers', which need not be installed. Trains nothing; layouts are read in
sentence_layout.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kdnas.models import open as opening
from kdnas.models import sentence_layout
from kdnas.models.encoders import without_dropout
from kdnas.models.sentence_layout import Layout

BATCH = 32


def pooled(states: Tensor, mask: Tensor, poolings: Sequence[str]) -> Tensor:
    """One vector a row of hidden states [rows, length, width], of the tokens whose `mask` [rows, length] is 1:
    [rows, width · poolings], the poolings side by side."""
    weights = mask.to(states.dtype).unsqueeze(-1)
    parts: list[Tensor] = []
    for how in poolings:
        if how == "cls":
            parts.append(states[torch.arange(len(states)), mask.argmax(1)])
        elif how == "lasttoken":
            places = torch.arange(mask.shape[1], device=mask.device)
            parts.append(states[torch.arange(len(states)), (mask * places).argmax(1)])
        elif how == "max":
            parts.append(states.masked_fill(weights == 0, -1e9).max(1).values)
        elif how == "weightedmean":
            rising = weights * torch.arange(1, mask.shape[1] + 1, device=mask.device, dtype=states.dtype)[None, :, None]
            parts.append((states * rising).sum(1) / rising.sum(1).clamp_min(1e-9))
        else:
            count = weights.sum(1).clamp_min(1e-9)
            parts.append((states * weights).sum(1) / (count if how == "mean" else count.sqrt()))
    return torch.cat(parts, 1)


@dataclass(frozen=True)
class SentenceEncoder:
    """An encoder with its tokenizer and layout, frozen."""

    body: Any
    tokenizer: Any
    layout: Layout

    def shortened(self, length: int) -> SentenceEncoder:
        """The same, with texts cut at `length` tokens where its own limit is higher."""
        longest = min(length, self.layout.max_seq_length or length)
        return replace(self, layout=replace(self.layout, max_seq_length=longest))

    @torch.inference_mode()
    def encode(self, texts: Sequence[str], prompt: str = "", batch: int = BATCH) -> Tensor:
        """float32 [texts, width] on the CPU, in their order. `prompt` goes before each; what is too long is cut, as
        the layout says; an empty text is its special tokens."""
        longest = self.layout.max_seq_length or opening.longest(self.body.config, 512)
        given = [prompt + text for text in texts]
        if self.layout.do_lower_case:
            given = [text.lower() for text in given]
        ids: list[list[int]] = self.tokenizer(given, truncation=True, max_length=longest)["input_ids"] if given else []
        skipped = 0
        if prompt and not self.layout.include_prompt:
            skipped = len(self.tokenizer(prompt)["input_ids"]) - 1
        order = sorted(range(len(ids)), key=lambda place: len(ids[place]))
        made: list[Tensor] = [torch.empty(0)] * len(ids)
        for start in range(0, len(order), batch):
            places = order[start : start + batch]
            for place, vector in zip(places, self.of_ids([ids[p] for p in places], skipped).cpu(), strict=True):
                made[place] = vector
        return torch.stack(made) if made else torch.empty(0, 0)

    @torch.inference_mode()
    def of_ids(self, rows: Sequence[Sequence[int]], skipped: int = 0) -> Tensor:
        """[rows, width] of token ids, the first `skipped` of each row not pooled."""
        length = max(map(len, rows))
        ids = torch.full((len(rows), length), opening.pad_id(self.tokenizer), dtype=torch.long)
        mask = torch.zeros_like(ids)
        for place, row in enumerate(rows):
            ids[place, : len(row)] = torch.tensor(row)
            mask[place, : len(row)] = 1
        device = next(self.body.parameters()).device
        ids, mask = ids.to(device), mask.to(device)
        states = self.body(input_ids=ids, attention_mask=mask).last_hidden_state
        if skipped:
            mask = mask.clone()
            mask[:, :skipped] = 0
        return self.layout.finished(pooled(states, mask, self.layout.pooling))


def open_encoder(folder: Path, name: str, device: torch.device, layout: Layout | None = None) -> SentenceEncoder:
    """The sentence encoder in a folder. Raises UsageError for one that is none.

    A plain encoder has no layout of its own; it takes the one given, if any.
    """
    own = sentence_layout.read(folder, name) or layout
    if own is None:
        raise sentence_layout.no_sentence_encoder(name)
    config = opening.open_config(folder, name)
    body = without_dropout(opening.open_body(folder, name, config).model).to(device).eval().requires_grad_(False)
    tokenizer = opening.open_tokenizer(folder, name)
    return SentenceEncoder(body, tokenizer, with_length(own, config, tokenizer))


def with_length(layout: Layout, config: Any, tokenizer: Any) -> Layout:
    """The layout with the most tokens that the model has room for, where it says no number or too high a one."""
    stated = int(getattr(tokenizer, "model_max_length", 512))
    longest = opening.longest(config, min(layout.max_seq_length or stated, stated, 1 << 20))
    return replace(layout, max_seq_length=longest)
