"""Perplexity of any encoder or causal model on held-out text: a score without any task data.

A causal model is scored on every next token. An encoder is scored on masked tokens:

A model that has a masked-language head is scored as it is. For a bare body a small head, tied to the body's own
word embeddings, is trained first on the training text while the body stays frozen: the same head, steps, text and
masks for every model, so that the figures of a student and its teacher can be compared.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from kdnas.data.chunks import chunks
from kdnas.models import lora_adapters
from kdnas.models import open as opening
from kdnas.models.open import longest
from kdnas.models.quiet_transformers import hushed
from kdnas.scores.training_texts import seen_by, tokenizer_of
from kdnas.study.spec import DataSpec
from kdnas.system import seeds
from kdnas.system.errors import UsageError
from kdnas.system.progress import Note, Progress


@dataclass(frozen=True)
class PerplexityProtocol:
    """Chunks of joined text, BERT's masking of single tokens (every chosen one becomes the mask token)."""

    length: int = 128
    batch_size: int = 16
    steps: int = 200  # of the head, where the model has none
    learning_rate: float = 2e-3
    masked: float = 0.15
    chunks: int = 128  # held-out chunks that are scored, at most


class TiedHead(nn.Module):
    """Dense, GELU, layer norm, then the product with the frozen word embeddings: BERT's own head without its size."""

    embeddings: torch.Tensor  # [vocabulary, embedding width]

    def __init__(self, width: int, embeddings: torch.Tensor) -> None:
        super().__init__()
        self.dense = nn.Linear(width, embeddings.shape[1])
        self.norm = nn.LayerNorm(embeddings.shape[1])
        nn.init.zeros_(self.norm.weight)  # the head begins as its bias: the unigram distribution
        self.bias = nn.Parameter(torch.zeros(len(embeddings)))
        self.register_buffer("embeddings", embeddings)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """[tokens, width] → logits [tokens, vocabulary]."""
        inner = self.norm(nn.functional.gelu(self.dense(hidden)))
        # Scaled, since word embeddings of a trained body are far from unit length in either direction.
        scale = self.embeddings.shape[1] ** -0.5 / self.embeddings.std().clamp_min(1e-6)
        return inner @ self.embeddings.T * scale + self.bias


def perplexity(
    model: Path,
    teacher: Path | None,
    data: DataSpec,
    device: torch.device,
    on_progress: Progress,
    protocol: PerplexityProtocol | None = None,
) -> dict[str, Any]:
    """exp of the mean cross-entropy over masked (of a causal model: all) held-out tokens, of the model and its
    teacher, where given. No document is scored that one of the two was trained on. Raises UsageError for a model that
    predicts no tokens, and for too little or missing text.
    """
    chosen = protocol or PerplexityProtocol()
    subjects = {"student": model} | ({} if teacher is None else {"teacher": teacher})
    seen = seen_by(list(subjects.values()), on_progress).trained
    result: dict[str, Any] = {}
    for place, (who, folder) in enumerate(subjects.items()):

        def tell(words: str, share: float | None, base: int = place, who: str = who) -> None:
            if isinstance(words, Note):
                on_progress(words, None)
                return
            on_progress(f"perplexity: {who}, {words}", None if share is None else (base + share) / len(subjects))

        with hushed():
            result[who] = _one(folder, data, device, chosen, tell, seen)
    if all(result[who].get("causal") for who in subjects):
        how = f"Every next token of {chosen.chunks} held-out chunks of {chosen.length} tokens of {data.source} at most."
        return {**result, "how": how, "protocol": asdict(chosen), "data": data.model_dump(mode="json")}
    bare = [who for who in subjects if not result[who]["own_head"]]
    how = (
        f"Every token masked with probability {chosen.masked:g}, {chosen.chunks} held-out chunks of {chosen.length} "
        f"tokens of {data.source} at most."
    )
    if bare:
        how += (
            f" The {' and the '.join(bare)} without a masked-language head: a head tied to the word embeddings "
            f"trained for {chosen.steps} steps of {chosen.batch_size} chunks on the training text, the body frozen."
        )
    return {**result, "how": how, "protocol": asdict(chosen), "data": data.model_dump(mode="json")}


def _one(
    folder: Path,
    data: DataSpec,
    device: torch.device,
    protocol: PerplexityProtocol,
    on_progress: Progress,
    seen: frozenset[str],
) -> dict[str, Any]:
    from transformers import AutoModelForMaskedLM

    import kdnas.models.recurrent  # noqa: F401, registers its classes

    adapter = lora_adapters.is_adapter(folder)
    base = lora_adapters.base_of(folder) if adapter else folder
    config = opening.open_config(base, str(base))
    if config.model_type in opening.OWN_TYPES:
        kind = "a recurrent classifier" if config.model_type == opening.RECURRENT else "an encoder without a head"
        raise UsageError(f"{folder} is {kind}, which predicts no tokens.", "Leave out the task perplexity.")
    tokenizer = tokenizer_of(folder)
    opening.require_vocabulary(tokenizer, config, str(folder))
    if adapter and _is_causal(config):
        raise UsageError(
            f"{folder} is an adapter on a causal model, whose perplexity kdnas does not score.",
            "Merge it into its base with PEFT (merge_and_unload), and give that folder.",
        )
    if _is_causal(config):
        return _causal(folder, tokenizer, data, device, protocol, on_progress, seen)
    if tokenizer.mask_token_id is None:
        raise UsageError(f"{folder} has no mask token and is no causal model.", "Give one that predicts tokens.")
    # An adapter changes the body under a masked-language head, which then no longer fits it.
    own_head = not adapter and any("MaskedLM" in name or "PreTraining" in name for name in config.architectures or ())
    on_progress("reading the text", 0.0)
    text = chunks(data.model_copy(update={"length": longest(config, protocol.length)}), 1.0, tokenizer, None, seen)
    _tell(text.unscored, on_progress)
    special = torch.tensor(sorted(set(tokenizer.all_special_ids)))
    mask_id = int(tokenizer.mask_token_id)
    if own_head:
        whole = opening.open_weights(AutoModelForMaskedLM, folder, str(folder), config).model.to(device)

        def logits(ids: torch.Tensor, hidden: torch.Tensor) -> torch.Tensor:
            return whole(input_ids=ids).logits[hidden]
    else:
        body = opening.open_body(base, str(base), config).model
        body = (lora_adapters.into_body(body, folder, base) if adapter else body).to(device)
        head = _trained_head(body, text.train, special, mask_id, device, protocol, on_progress)

        def logits(ids: torch.Tensor, hidden: torch.Tensor) -> torch.Tensor:
            return head(body(input_ids=ids).last_hidden_state[hidden])

    rng = seeds.split(seeds.Split.MASKS)
    held_out = text.held_out[: protocol.chunks]
    loss, count = 0.0, 0
    with torch.inference_mode():
        for start in range(0, len(held_out), protocol.batch_size):
            rows = held_out[start : start + protocol.batch_size]
            ids, hidden, wanted = _masked(rows, special, mask_id, rng, protocol)
            if len(wanted) == 0:
                continue
            given = logits(ids.to(device), hidden.to(device)).float()
            loss += float(nn.functional.cross_entropy(given, wanted.to(device), reduction="sum"))
            count += len(wanted)
            on_progress("scoring", 0.9 + 0.1 * start / len(held_out))
    if count == 0:
        raise UsageError("The held-out text is too short to mask a token.", "Give more text.")
    mean = loss / count
    return {
        "perplexity": math.exp(min(mean, 700.0)),
        "loss": mean,
        "tokens": count,
        "own_head": own_head,
        "left_out": text.unscored,
    }


def _is_causal(config: Any) -> bool:
    return any("CausalLM" in name or "LMHead" in name for name in config.architectures or ())


def _tell(unscored: int, on_progress: Progress) -> None:
    if unscored:
        words = f"{unscored:,} held-out document(s) are not scored: a model was trained on their text."
        on_progress(Note(words), None)


def _causal(
    folder: Path,
    tokenizer: Any,
    data: DataSpec,
    device: torch.device,
    protocol: PerplexityProtocol,
    on_progress: Progress,
    seen: frozenset[str],
) -> dict[str, Any]:
    """Chunks of joined text without special tokens but the end of text between documents."""
    from kdnas.data.causal_text import end_of_text, read_documents
    from kdnas.data.chunks import Frame, cut
    from kdnas.data.tokens import tokenise

    on_progress("reading the text", 0.0)
    source = data.model_copy(update={"length": protocol.length})
    documents = read_documents(source)
    frame = Frame(None, end_of_text(tokenizer), None)
    text = cut(tokenise(documents, tokenizer), documents, source, 1.0, frame, seen)
    _tell(text.unscored, on_progress)
    model = opening.open_causal(folder, str(folder), opening.open_config(folder, str(folder))).to(device)
    held_out = torch.from_numpy(text.held_out[: protocol.chunks])
    loss, count = 0.0, 0
    with torch.inference_mode():
        for rows in held_out.split(max(1, protocol.batch_size // 4)):
            ids = rows.to(device)
            given = model(input_ids=ids, use_cache=False).logits[:, :-1].float()
            loss += float(nn.functional.cross_entropy(given.flatten(0, 1), ids[:, 1:].flatten(), reduction="sum"))
            count += ids[:, 1:].numel()
            on_progress("scoring", count / held_out[:, 1:].numel())
    mean = loss / count
    return {
        "perplexity": math.exp(min(mean, 700.0)),
        "loss": mean,
        "tokens": count,
        "own_head": True,
        "causal": True,
        "left_out": text.unscored,
    }


def _masked(
    rows: np.ndarray, special: torch.Tensor, mask_id: int, rng: np.random.Generator, protocol: PerplexityProtocol
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Ids with masks, which places are masked [batch, length], and the ids that stood there."""
    ids = torch.from_numpy(np.array(rows, dtype=np.int64))
    hidden = torch.from_numpy(rng.random(ids.shape) < protocol.masked) & ~torch.isin(ids, special)
    return ids.masked_fill(hidden, mask_id), hidden, ids[hidden]


def _trained_head(
    body: Any,
    train: np.ndarray,
    special: torch.Tensor,
    mask_id: int,
    device: torch.device,
    protocol: PerplexityProtocol,
    on_progress: Progress,
) -> TiedHead:
    body.requires_grad_(False)
    rng = seeds.split(seeds.Split.HEAD)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seeds.fixed_number(seeds.Fixed.TOKEN_HEAD))
        head = TiedHead(int(body.config.hidden_size), body.get_input_embeddings().weight.detach()).to(device)
    # The unigram frequencies are where any head would go first.
    counts = np.bincount(np.asarray(train[:2000]).ravel(), minlength=len(head.bias))[: len(head.bias)] + 0.5
    with torch.no_grad():
        head.bias.copy_(torch.from_numpy(np.log(counts / counts.sum())).float())
    optimiser = torch.optim.AdamW(head.parameters(), lr=protocol.learning_rate, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, protocol.learning_rate, total_steps=protocol.steps)
    for step in range(protocol.steps):
        rows = train[np.sort(rng.integers(len(train), size=min(protocol.batch_size, len(train))))]
        ids, hidden, wanted = _masked(rows, special, mask_id, rng, protocol)
        if len(wanted):
            with torch.no_grad():
                states = body(input_ids=ids.to(device)).last_hidden_state[hidden.to(device)]
            loss = nn.functional.cross_entropy(head(states).float(), wanted.to(device))
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        schedule.step()
        on_progress("training the head", 0.9 * (step + 1) / protocol.steps)
    return head.eval()
