"""Sentence encoders without a network: a vector for each token, whose mean over a text is the text's.

The vectors come from a teacher: means of its contextual vectors over text (Model2Vec takes those of tokens
alone), weighted down where a token is frequent (SIF: Arora, Liang and Ma, 2017), then solved for the mean to be the
teacher's own sentence vector. Folders are those of sentence-transformers' StaticEmbedding. Runs no teacher itself.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from torch import Tensor
from torch.nn import functional

from kdnas.models import sentence_layout
from kdnas.models.classifier_head import regression
from kdnas.models.sentence_layout import Layout
from kdnas.system.errors import UsageError, first_line

STATIC, WEIGHT = "StaticEmbedding", "embedding.weight"
SIFS = (3e-4, 1e-3, 3e-3, 1e-2)  # a token of this share of the text has half the weight of a rare one
MIDDLE = 1e-1  # ridge of the map by which a weighting is chosen
MAP_RIDGES = (1e-3, 1e-2, 1e-1, 1.0, 10.0)  # of the map, which all tokens share
RIDGES = (0.3, 1.0, 3.0, 10.0, 30.0, 100.0)  # of the tokens' own corrections, towards none
FEW = 4  # occurrences below which a token's mean is not used to learn what tokens that never occurred are like


class TokenMeans:
    """Means of a teacher's contextual vectors by token, summed up batch by batch."""

    def __init__(self, vocabulary: int, width: int) -> None:
        self.sums = torch.zeros(vocabulary, width, dtype=torch.float64)
        self.counts = torch.zeros(vocabulary, dtype=torch.float64)

    def add(self, ids: Tensor, states: Tensor) -> None:
        """Token ids [rows, length] and the last states [rows, length, width] at them."""
        flat = ids.flatten()
        self.sums.index_add_(0, flat, states.flatten(0, 1).double())
        self.counts.index_add_(0, flat, torch.ones(len(flat), dtype=torch.float64))

    def vectors(self, embeddings: Tensor) -> Tensor:
        """float32 [vocabulary, width]. Tokens that did not occur have what the affine map gives that fits the others'
        means best from the teacher's input embeddings [vocabulary, any]."""
        means = self.sums / self.counts.clamp_min(1)[:, None]
        often = self.counts >= FEW if int((self.counts >= FEW).sum()) > embeddings.shape[1] else self.counts > 0
        weight, bias = regression(embeddings[often].double(), means[often])
        guessed = embeddings.double() @ weight.t() + bias
        return torch.where((self.counts > 0)[:, None], means, guessed).float()

    def weights(self, sif: float) -> Tensor:
        """float32 [vocabulary]: sif / (sif + share of the text)."""
        share = self.counts / self.counts.sum().clamp_min(1)
        return (sif / (sif + share)).float()


def bags(rows: Sequence[Sequence[int]], vocabulary: int) -> Tensor:
    """Sparse float32 [texts, vocabulary]: each text's tokens, every one by its share of the text."""
    places = [[text, token] for text, row in enumerate(rows) for token in row]
    shares = [1.0 / len(row) for row in rows for _ in row]
    index = torch.tensor(places, dtype=torch.long).reshape(-1, 2).t()
    size = (len(rows), vocabulary)
    return torch.sparse_coo_tensor(index, torch.tensor(shares), size, check_invariants=False).coalesce()


def mapped(table: Tensor, texts: Tensor, wanted: Tensor, ridge: float) -> Tensor:
    """The table [vocabulary, width] through one affine map, for the mean over `texts` (bags [texts, vocabulary]) to be
    `wanted` [texts, out]. The map of a mean is the mean of the maps: [vocabulary, out].

    By ridge regression: towards the table itself, made as large as it should be, where it has that width already, since
    a teacher's states lie in the teacher's space; else towards nothing.
    """
    own = (texts @ table).double()
    begun = torch.zeros_like(table.double())
    if table.shape[1] == wanted.shape[1]:
        begun = table.double() * ((own * wanted).sum() / own.square().sum())
    weight, bias = regression(own, wanted.double() - texts.double() @ begun, ridge)
    return (begun + table.double() @ weight.t() + bias).float()


def corrected(table: Tensor, texts: Tensor, wanted: Tensor, ridge: float) -> Tensor:
    """The table with each token's own correction: ridge regression of what is left of `wanted` on the bags. They have
    many more columns than rows, so that it is solved by the Gram matrix of the texts; `ridge` is a share of its mean
    diagonal."""
    left = (wanted - texts @ table).double()
    rows, columns = texts.indices()
    tokens, places = torch.unique(columns, return_inverse=True)
    dense = torch.zeros(len(wanted), len(tokens))
    dense[rows, places] = texts.values()
    gram = (dense @ dense.t()).double()
    gram.diagonal().add_(ridge * gram.diagonal().mean())
    made = table.clone()
    made[tokens] += dense.t() @ torch.linalg.solve(gram, left).float()
    return made


@dataclass(frozen=True)
class Lesson:
    """What a table is solved from: bags of texts [texts, vocabulary], the teacher's vectors of them [texts, out]."""

    texts: Tensor
    wanted: Tensor

    def cosine(self, table: Tensor) -> float:
        """The mean cosine between the table's vectors and the wanted ones."""
        return float(torch.cosine_similarity(self.texts @ table, self.wanted).double().mean())

    def and_(self, other: Lesson) -> Lesson:
        return Lesson(torch.cat([self.texts, other.texts]).coalesce(), torch.cat([self.wanted, other.wanted]))


def solved(
    vectors: Tensor, weights: Callable[[float], Tensor], most: Lesson, rest: Lesson
) -> tuple[Tensor, dict[str, float]]:
    """The tokens' `vectors` [vocabulary, width] weighted, mapped and corrected for both lessons, and what was chosen:
    `sif`, for which `weights` gives [vocabulary], and the ridges `map` and `tokens`. Each is the one that is best for
    the `rest` when the table is solved for `most` alone."""

    def best(values: Sequence[float], make: Callable[[float], Tensor]) -> float:
        return max(values, key=lambda value: rest.cosine(make(value)))

    def weighted(sif: float) -> Tensor:
        return vectors * weights(sif)[:, None]

    whole = most.and_(rest)
    sif = best(SIFS, lambda value: mapped(weighted(value), most.texts, most.wanted, MIDDLE))
    table = weighted(sif)
    of_map = best(MAP_RIDGES, lambda ridge: mapped(table, most.texts, most.wanted, ridge))
    begun = mapped(table, most.texts, most.wanted, of_map)
    of_tokens = best(RIDGES, lambda ridge: corrected(begun, most.texts, most.wanted, ridge))
    made = mapped(table, whole.texts, whole.wanted, of_map)
    chosen = {"sif": sif, "map": of_map, "tokens": of_tokens}
    return corrected(made, whole.texts, whole.wanted, of_tokens), chosen


@dataclass(frozen=True)
class StaticEncoder:
    """A table [vocabulary, width] and its tokenizer, of the library tokenizers; no special tokens are added. `longest`
    is the most tokens of a text that count, None all."""

    table: Tensor
    tokenizer: Any
    layout: Layout
    longest: int | None = None

    def shortened(self, length: int) -> StaticEncoder:
        return replace(self, longest=min(length, self.longest or length))

    def encode(self, texts: Sequence[str], prompt: str = "") -> Tensor:
        """float32 [texts, width], normalised where the layout says so; of a text without tokens nothing but zeros."""
        found = self.tokenizer.encode_batch_fast([prompt + text for text in texts], add_special_tokens=False)
        ids = [one.ids[: self.longest] for one in found]
        flat = torch.tensor([token for row in ids for token in row], dtype=torch.long)
        starts = torch.tensor([0, *(len(row) for row in ids[:-1])]).cumsum(0)
        return self.layout.finished(functional.embedding_bag(flat, self.table, starts, mode="mean"))

    def write(self, folder: Path) -> None:
        """The weights and the list of modules of a folder that sentence-transformers opens; the tokenizer's files are
        written by whoever has it."""
        modules = [("", STATIC)]
        save_file({WEIGHT: self.table.contiguous()}, folder / "model.safetensors")
        if self.layout.normalised:
            (folder / "1_Normalize").mkdir()
            modules.append(("1_Normalize", "Normalize"))
        sentence_layout.write_modules(folder, modules)
        sentence_layout.write_settings(folder, self.layout)


def is_static(folder: Path) -> bool:
    return sentence_layout.begins_with(folder, STATIC)


def opened(folder: Path, name: str) -> StaticEncoder:
    """The static encoder in a folder. Raises UsageError."""
    layout = sentence_layout.read_static(folder, name)
    try:
        table = load_file(folder / "model.safetensors")[WEIGHT].float()
        tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    except Exception as error:  # safetensors and tokenizers raise types of their own
        raise UsageError(
            f"The static encoder {name!r} cannot be loaded: {first_line(error)}.", "Write the folder again."
        ) from None
    tokenizer.no_padding()
    return StaticEncoder(table, tokenizer, layout)
