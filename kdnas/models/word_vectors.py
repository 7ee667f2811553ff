"""Word vectors for small students: Word2Vec on the training text in the teacher's own tokens, or the teacher's own.

What the training text never has shares one row. Knows no student.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from kdnas.data.labelled import Examples
from kdnas.system import paths, seeds
from kdnas.system.errors import UsageError
from kdnas.system.fingerprint import run_key
from kdnas.system.progress import Progress
from kdnas.system.tensor_files import computed_once

WINDOW, PASSES, NEGATIVE = 5, 10, 5
SIZE = 0.5  # root mean square of a component, whatever the vectors came from


@dataclass(frozen=True)
class Rows:
    """The embedding rows of a text: `used[i]` is the token id of row i; one more row stands for all other ids."""

    used: np.ndarray  # int64 [rows − 1], ascending
    row_of: Tensor  # int32 [vocabulary]

    @property
    def count(self) -> int:
        return len(self.used) + 1


def rows_of(examples: Examples, vocabulary: int) -> Rows:
    """A row for every token id of the examples."""
    used = np.unique(np.concatenate(examples.ids))
    row_of = np.full(vocabulary, len(used), dtype=np.int32)
    row_of[used] = np.arange(len(used), dtype=np.int32)
    return Rows(used, torch.from_numpy(row_of))


@dataclass(frozen=True)
class Vectors:
    """float32 [rows, size] in the order of `Rows`, and the share of the used rows that vectors were found for."""

    table: Tensor
    found: float


def word2vec(examples: Examples, rows: Rows, size: int, on_progress: Progress) -> Vectors:
    """Skip-gram with negative sampling (Mikolov et al., 2013) on the examples' own token ids, special tokens included.

    One thread and a fixed seed; kept on the disk, so that every worker begins from the same vectors. Raises
    UsageError where gensim is missing.
    """
    facts = {"word2vec": 1, "examples": examples.fingerprint(), "size": size, "window": WINDOW, "passes": PASSES}
    path = paths.cache_folder() / "classifiers" / "word2vec" / f"{run_key(facts)}.safetensors"

    def train() -> dict[str, Tensor]:
        on_progress(f"training word vectors of {size}", None)
        return _trained(examples, rows, size)

    found = computed_once(path, train)
    return Vectors(_table(found["vectors"], found["there"]), float(found["there"].float().mean()))


def _trained(examples: Examples, rows: Rows, size: int) -> dict[str, Tensor]:
    try:
        from gensim.models import Word2Vec
    except ImportError:
        raise UsageError(
            "Word vectors need the package gensim.",
            "Install it: pip install 'kdnas[classify]'; or set recipe.embeddings to teacher or random.",
        ) from None
    sentences = [[str(token) for token in ids.tolist()] for ids in examples.ids]
    model = Word2Vec(
        sentences,
        vector_size=size,
        window=WINDOW,
        min_count=1,
        sg=1,
        negative=NEGATIVE,
        epochs=PASSES,
        seed=seeds.fixed_number(seeds.Fixed.WORD_VECTORS),
        workers=1,
    )
    table, there = torch.zeros(len(rows.used), size), torch.zeros(len(rows.used), dtype=torch.bool)
    for place, token in enumerate(rows.used.tolist()):
        if str(token) in model.wv:
            table[place] = torch.from_numpy(np.array(model.wv[str(token)], dtype=np.float32))
            there[place] = True
    return {"vectors": table, "there": there}


def inherited(table: Tensor, rows: Rows, size: int) -> Vectors:
    """The teacher's input embeddings [vocabulary, width] of the used rows, on their `size` main axes."""
    own = table[torch.from_numpy(rows.used)].double()
    own = own - own.mean(0)
    values, axes = torch.linalg.eigh(own.T @ own)
    main = axes[:, values.argsort(descending=True)[:size]]
    # An axis has no sign of its own: its largest component is made positive.
    main = main * main.gather(0, main.abs().argmax(0, keepdim=True)).sign()
    found = torch.zeros(len(own), size)
    found[:, : main.shape[1]] = (own @ main).float()
    return Vectors(_table(found, torch.ones(len(own), dtype=torch.bool)), 1.0)


def _table(vectors: Tensor, there: Tensor) -> Tensor:
    """All rows at one size, with the mean of those that are there for the ones that are not, and for the last one."""
    mean = vectors[there].mean(0)
    whole = torch.where(there.unsqueeze(1), vectors, mean)
    whole = torch.cat([whole, mean.unsqueeze(0)])
    return (whole * (SIZE / whole.square().mean().sqrt())).contiguous()
