"""Static students with one step more from row to row: from Model2Vec's recipe, written from its description, to a table
that is solved. Scores nothing.
"""

from __future__ import annotations

import torch
from torch import Tensor

from benchmarks.report import say
from kdnas.data.tokens import special_tokens
from kdnas.models import static_encoder
from kdnas.models.static_encoder import TokenMeans
from kdnas.recipes.sentence_embedding import SentenceEmbeddingBench
from kdnas.recipes.static_students import lesson
from kdnas.recipes.teacher_space import parted, whole_pooled

PRINCIPAL, ZIPF = 256, 1e-4  # Model2Vec's defaults


def quiet(words: str, share: float | None) -> None:
    return None


def tables(bench: SentenceEmbeddingBench, quick: bool) -> dict[str, Tensor]:
    """Tables [vocabulary, width] of one step more each: of tokens alone or of means over text, cut by PCA, weighted,
    mapped, and with each token's own correction."""
    vocabulary = bench.teacher.config.vocab_size
    means = TokenMeans(vocabulary, bench.own.width)
    parts = parted(bench.proxy.ids, bench.chunks.beginnings)
    most, rest = (lesson(bench.teacher, bench.layout, part, means, quiet, 0.0) for part in parts)
    whole = most.and_(rest)
    plain = means.vectors(bench.teacher.body.get_input_embeddings().weight.detach())  # type: ignore[operator]
    made, chosen = static_encoder.solved(plain, means.weights, most, rest)
    weighted = plain * means.weights(chosen["sif"])[:, None]
    say(f"chosen on a fifth of the texts: {chosen}")

    def mapped(table: Tensor) -> Tensor:
        return static_encoder.mapped(table, whole.texts, whole.wanted, chosen["map"])

    found: dict[str, Tensor] = {}
    if not quick:
        alone = _alone(bench)
        short = _principal(alone, PRINCIPAL)
        found = {
            "tokens alone": alone,
            f"tokens alone, PCA {PRINCIPAL}": short,
            f"tokens alone, PCA {PRINCIPAL}, Zipf": short * _zipf(vocabulary),
            "tokens alone, Zipf, map": mapped(alone * _zipf(vocabulary)),
        }
    return {f"static: {name}": table for name, table in found.items()} | {
        "static: means": plain,
        f"static: means, PCA {PRINCIPAL}": _principal(plain, PRINCIPAL),
        "static: means, Zipf": plain * _zipf(vocabulary),
        "static: means, SIF": weighted,
        "static: means, SIF, map": mapped(weighted),
        "static: means, SIF, map, corrections": made,
    }


@torch.inference_mode()
def _alone(bench: SentenceEmbeddingBench) -> Tensor:
    """The teacher's pooled states of each token between the special ones."""
    first, last = special_tokens(bench.teacher.tokenizer)
    parts = []
    for tokens in torch.arange(int(bench.teacher.config.vocab_size)).split(512):
        rows = torch.stack([torch.full_like(tokens, first), tokens, torch.full_like(tokens, last)], 1)
        parts.append(whole_pooled(bench.teacher.body(input_ids=rows).last_hidden_state, bench.layout))
    return torch.cat(parts)


def _principal(table: Tensor, width: int) -> Tensor:
    """The rows' first principal components."""
    middle = (table - table.mean(0)).double()
    return (middle @ torch.linalg.eigh(middle.t() @ middle).eigenvectors[:, -width:]).float()


def _zipf(vocabulary: int) -> Tensor:
    """Model2Vec's weights [vocabulary, 1]: SIF of the shares that Zipf's law gives to places in the vocabulary."""
    share = 1 / torch.arange(2.0, vocabulary + 2)
    return (ZIPF / (ZIPF + share / share.sum()))[:, None]
