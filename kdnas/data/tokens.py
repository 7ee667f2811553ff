"""Documents as token ids, kept on disk under a fingerprint of text and tokenizer. Knows no model."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from kdnas.data.documents import Documents
from kdnas.system import disk_cache, paths
from kdnas.system.errors import UsageError
from kdnas.system.fingerprint import digest
from kdnas.system.progress import Note, Progress

UNKNOWN = 0.1  # share of unknown tokens from which on people hear of it


@dataclass(frozen=True)
class Tokens:
    """Documents as one run of token ids; document i is `ids[ends[i - 1] : ends[i]]`."""

    ids: np.ndarray  # int32 [tokens]
    ends: np.ndarray  # int64 [documents]
    fingerprint: str

    def document(self, index: int) -> np.ndarray:
        return self.ids[(self.ends[index - 1] if index else 0) : self.ends[index]]

    @property
    def lengths(self) -> np.ndarray:
        return np.diff(self.ends, prepend=0)


def tokenizer_fingerprint(tokenizer: Any) -> str:
    """Of what decides the ids: vocabulary, model, normaliser, special tokens; not of truncation or padding."""
    facts = json.loads(tokenizer.backend_tokenizer.to_str())
    facts.pop("truncation", None)
    facts.pop("padding", None)
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def tokenise(documents: Documents, tokenizer: Any, on_progress: Progress | None = None) -> Tokens:
    """All documents as token ids without special tokens, from the disk where they were tokenised before."""
    key = digest("tokens", 1, documents.fingerprint, tokenizer_fingerprint(tokenizer), len(documents.texts))
    folder = paths.cache_folder() / "tokens" / key
    disk_cache.kept_while_used(folder, lambda: _tokenise_into(folder, documents.texts, tokenizer, on_progress))
    ids = np.load(folder / "ids.npy", mmap_mode="r", allow_pickle=False)
    ends = np.load(folder / "ends.npy", allow_pickle=False)
    unknown = 0 if tokenizer.unk_token_id is None else int(np.count_nonzero(ids == tokenizer.unk_token_id))
    if on_progress is not None and unknown > UNKNOWN * len(ids):
        share = f"{unknown / len(ids):.0%} of the tokens"
        on_progress(Note(f"{share} are unknown to the tokenizer; check its language and its case."), None)
    return Tokens(ids, ends, key)


def _tokenise_into(folder: Path, texts: Sequence[str], tokenizer: Any, on_progress: Progress | None) -> None:
    pieces: list[np.ndarray] = []
    start, total = 0, len(texts)
    while start < total:
        stop, characters = start, 0
        while stop < total and (characters < 500_000 or stop == start):
            characters += len(texts[stop])
            stop += 1
        coded = tokenizer(
            list(texts[start:stop]),
            add_special_tokens=False,
            truncation=False,
            padding=False,
            return_attention_mask=False,
            return_token_type_ids=False,
            verbose=False,
        )["input_ids"]
        pieces.extend(np.asarray(ids, dtype=np.int32) for ids in coded)
        start = stop
        if on_progress is not None:
            on_progress("tokenising", start / total)
    with disk_cache.filled(folder) as made:
        np.save(made / "ids.npy", np.concatenate(pieces) if pieces else np.zeros(0, np.int32))
        np.save(made / "ends.npy", np.cumsum([len(p) for p in pieces], dtype=np.int64))


def special_tokens(tokenizer: Any) -> tuple[int, int]:
    begin, end = tokenizer.cls_token_id, tokenizer.sep_token_id
    if begin is None or end is None:
        raise UsageError("The teacher's tokenizer has no [CLS] and [SEP].", "Take an encoder of the BERT family.")
    return int(begin), int(end)
