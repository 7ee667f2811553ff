"""A small text classifier: embeddings, recurrent (or convolution, or transformer) layers, attention, one linear layer.

This file is the whole model. A copy of it lies in every folder that kdnas writes, as `modeling_recurrent.py`, so that
`AutoModelForSequenceClassification.from_pretrained(FOLDER, trust_remote_code=True)` opens it where kdnas is not
installed; where it is, importing this module registers both classes and the flag is not needed. Trains nothing.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForSequenceClassification,
    PretrainedConfig,
    PreTrainedModel,
)
from transformers.modeling_outputs import SequenceClassifierOutput

CELLS = ("lstm", "gru", "convolution", "transformer")
RECURRENT = ("lstm", "gru")
HEAD = 32  # width of an attention head of the transformer cell
KERNEL = 3  # tokens that a convolution sees


class RecurrentConfig(PretrainedConfig):
    """Sizes of a RecurrentForSequenceClassification.

    `cell`: lstm, gru, convolution or transformer. `vocab_size`: ids of the tokenizer. `rows`: of the embedding table;
    the last one stands for all ids that the training text never had. `embedding_size`, `hidden_size` (of one
    direction; a multiple of 32 for the transformer cell), `num_hidden_layers`. `intermediate_size`: of the transformer
    cell. `attention_size`: of the additive attention. `bidirectional`: for lstm and gru. `dropout`: of embeddings and
    of what layers hand on. `max_position_embeddings`: longest text, in tokens.
    """

    model_type = "kdnas-recurrent"

    def __init__(
        self,
        cell: str = "lstm",
        vocab_size: int = 30522,
        rows: int = 30523,
        embedding_size: int = 128,
        hidden_size: int = 128,
        num_hidden_layers: int = 2,
        intermediate_size: int | None = None,
        attention_size: int | None = None,
        bidirectional: bool = True,
        dropout: float = 0.3,
        max_position_embeddings: int = 512,
        **kwargs: Any,
    ) -> None:
        if cell not in CELLS:
            raise ValueError(f"cell {cell!r} is none of {', '.join(CELLS)}")
        self.cell = cell
        self.vocab_size = vocab_size
        self.rows = rows
        self.embedding_size = embedding_size
        self.hidden_size = hidden_size
        self.num_hidden_layers = num_hidden_layers
        self.intermediate_size = intermediate_size if intermediate_size is not None else 2 * hidden_size
        self.attention_size = attention_size if attention_size is not None else hidden_size
        self.bidirectional = bidirectional and cell in RECURRENT
        self.dropout = dropout
        self.max_position_embeddings = max_position_embeddings
        super().__init__(**kwargs)

    @property
    def width(self) -> int:
        """Of what the layers give for one token."""
        return int(self.hidden_size * (2 if self.bidirectional else 1))


class AdditiveAttention(nn.Module):
    """One vector out of many: softmax over v·tanh(W·h + b) of the real tokens (Bahdanau et al., 2015)."""

    def __init__(self, width: int, size: int) -> None:
        super().__init__()
        self.project = nn.Linear(width, size)
        self.score = nn.Linear(size, 1, bias=False)

    def forward(self, states: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """[batch, length, width], bool [batch, length] → [batch, width] and the weights [batch, length].

        Padding has a weight of exactly 0.
        """
        scores = self.score(torch.tanh(self.project(states))).squeeze(-1)
        weights = torch.softmax(scores.float().masked_fill(~mask, float("-inf")), -1).to(states.dtype)
        return torch.bmm(weights.unsqueeze(1), states).squeeze(1), weights


class RecurrentLayer(nn.Module):
    """One LSTM or GRU, and a second one that reads each text from its last real token to its first."""

    def __init__(self, cell: str, inputs: int, size: int, bidirectional: bool) -> None:
        super().__init__()
        make = nn.LSTM if cell == "lstm" else nn.GRU
        self.ahead = make(inputs, size, batch_first=True)
        self.back = make(inputs, size, batch_first=True) if bidirectional else None

    def forward(self, states: Tensor, mask: Tensor, mirror: Tensor) -> Tensor:
        found, _ = self.ahead(states)
        if self.back is None:
            return found
        turned, _ = self.back(_turned(states, mirror))
        return torch.cat([found, _turned(turned, mirror)], -1)


def _turned(states: Tensor, mirror: Tensor) -> Tensor:
    return states.gather(1, mirror.unsqueeze(-1).expand(-1, -1, states.shape[-1]))


class ConvolutionLayer(nn.Module):
    """A convolution over KERNEL tokens; padding counts as nothing."""

    def __init__(self, inputs: int, size: int) -> None:
        super().__init__()
        self.convolution = nn.Conv1d(inputs, size, KERNEL, padding=KERNEL // 2)

    def forward(self, states: Tensor, mask: Tensor, mirror: Tensor) -> Tensor:
        real = states * mask.unsqueeze(-1).to(states.dtype)
        return torch.relu(self.convolution(real.transpose(1, 2))).transpose(1, 2)


class TransformerLayer(nn.Module):
    """A pre-norm block; the first one takes the embeddings to its width and adds positions."""

    def __init__(self, inputs: int, size: int, inner: int, positions: int) -> None:
        super().__init__()
        self.enter = nn.Linear(inputs, size) if inputs != size else None
        self.positions = nn.Embedding(positions, size) if positions else None
        if self.positions is not None:
            nn.init.normal_(self.positions.weight, std=0.1)
        self.norm, self.inner_norm = nn.LayerNorm(size), nn.LayerNorm(size)
        self.attend, self.leave = nn.Linear(size, 3 * size), nn.Linear(size, size)
        self.up, self.down = nn.Linear(size, inner), nn.Linear(inner, size)

    def forward(self, states: Tensor, mask: Tensor, mirror: Tensor) -> Tensor:
        if self.enter is not None:
            states = self.enter(states)
        batch, length, size = states.shape
        if self.positions is not None:
            states = states + self.positions(torch.arange(length, device=states.device))
        parts = self.attend(self.norm(states)).view(batch, length, 3, size // HEAD, HEAD).permute(2, 0, 3, 1, 4)
        mixed = nn.functional.scaled_dot_product_attention(
            parts[0], parts[1], parts[2], attn_mask=mask[:, None, None, :]
        )
        states = states + self.leave(mixed.transpose(1, 2).reshape(batch, length, size))
        return states + self.down(nn.functional.gelu(self.up(self.inner_norm(states))))


class RecurrentForSequenceClassification(PreTrainedModel):
    """Token ids and a mask to logits. `row_of[id]` is the embedding row of a token id."""

    config_class = RecurrentConfig
    base_model_prefix = ""
    main_input_name = "input_ids"
    _supports_sdpa = True

    def __init__(self, config: RecurrentConfig) -> None:
        super().__init__(config)
        self.row_of: Tensor
        self.register_buffer("row_of", torch.zeros(config.vocab_size, dtype=torch.int32))
        self.embeddings = nn.Embedding(config.rows, config.embedding_size)
        self.layers = nn.ModuleList(_layer(config, place) for place in range(config.num_hidden_layers))
        self.dropout = nn.Dropout(config.dropout)
        self.attention = AdditiveAttention(config.width, config.attention_size)
        self.output = nn.Linear(config.width, int(config.num_labels or 2))
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        """Every layer begins as torch makes it."""
        return None

    def get_input_embeddings(self) -> nn.Module:
        return self.embeddings

    def states(self, input_ids: Tensor, mask: Tensor) -> Tensor:
        """What the layers give: [batch, length] and bool [batch, length] → [batch, length, width]."""
        length = input_ids.shape[1]
        places = torch.arange(length, device=input_ids.device).unsqueeze(0)
        last = mask.sum(1, keepdim=True) - 1
        mirror = torch.where(places <= last, last - places, places)  # its own inverse; padding stays where it is
        found = self.dropout(self.embeddings(self.row_of[input_ids]))
        for layer in self.layers:
            found = self.dropout(layer(found, mask, mirror))
        return found

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        **_: Any,
    ) -> SequenceClassifierOutput:
        """`input_ids` [batch, length], padded on the right; `attention_mask` 1 for real tokens (None: all are);
        `labels` [batch] give a cross-entropy. Logits are [batch, classes]."""
        mask = torch.ones_like(input_ids, dtype=torch.bool) if attention_mask is None else attention_mask.bool()
        summary, _weights = self.attention(self.states(input_ids, mask), mask)
        logits = self.output(summary)
        loss = None if labels is None else nn.functional.cross_entropy(logits.float(), labels)
        return SequenceClassifierOutput(loss=loss, logits=logits)


def _layer(config: RecurrentConfig, place: int) -> nn.Module:
    inputs = config.embedding_size if place == 0 else config.width
    if config.cell in RECURRENT:
        return RecurrentLayer(config.cell, inputs, config.hidden_size, config.bidirectional)
    if config.cell == "convolution":
        return ConvolutionLayer(inputs, config.hidden_size)
    positions = config.max_position_embeddings if place == 0 else 0
    return TransformerLayer(inputs, config.hidden_size, config.intermediate_size, positions)


AutoConfig.register(RecurrentConfig.model_type, RecurrentConfig, exist_ok=True)
AutoModel.register(RecurrentConfig, RecurrentForSequenceClassification, exist_ok=True)
AutoModelForSequenceClassification.register(RecurrentConfig, RecurrentForSequenceClassification, exist_ok=True)
