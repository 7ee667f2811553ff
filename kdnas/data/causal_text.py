"""Text for causal models: documents joined by the end-of-text token, or texts with their summaries.

Knows no model, only its tokenizer.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kdnas.data import chunks as chunking
from kdnas.data import documents as reading
from kdnas.data import tokens as tokenising
from kdnas.data.chunks import Chunks, Frame
from kdnas.study.spec import DataSpec, StudySpec
from kdnas.system.progress import Progress

SEPARATOR = "\n\nTL;DR: "  # between a text and its summary, as GPT-2's authors prompted for one


def chunks(spec: StudySpec, tokenizer: Any, vocabulary: int, on_progress: Progress) -> tuple[Chunks, Tensor]:
    """Fixed chunks of the joined text, the end-of-text token between documents; where `data.label_column` is given, a
    document is the text, `SEPARATOR` and the label (a summary). With them how often each token stands in the training
    text before `data.limit` shortens it, int64 [vocabulary]. Raises UsageError for too little text."""
    documents = read_documents(spec.data, on_progress)
    reading.tell_repeats(documents, on_progress)
    tokens = tokenising.tokenise(documents, tokenizer, on_progress)
    frame = Frame(None, end_of_text(tokenizer), None)
    whole = chunking.cut(tokens, documents, spec.data.model_copy(update={"limit": None}), 1.0, frame)
    counts = torch.from_numpy(np.bincount(whole.train.ravel(), minlength=vocabulary))
    return chunking.cut(tokens, documents, spec.data, spec.budget.proxy_fraction, frame), counts


def read_documents(source: DataSpec, on_progress: Progress | None = None) -> reading.Documents:
    """Texts, with their summaries after SEPARATOR where `label_column` is given. Raises UsageError."""
    documents = reading.read(source, summaries=source.label_column is not None, on_progress=on_progress)
    return documents if documents.labels is None else paired(documents)


def paired(documents: reading.Documents) -> reading.Documents:
    """Documents with their summaries after SEPARATOR."""
    assert documents.labels is not None
    texts = [f"{text}{SEPARATOR}{label}" for text, label in zip(documents.texts, documents.labels, strict=True)]
    # Equal texts stay on one side whatever their summaries are.
    return replace(
        documents,
        texts=texts,
        fingerprint=f"{documents.fingerprint}-pairs",
        labels=None,
        classes=None,
        compared=documents.texts,
    )


def end_of_text(tokenizer: Any) -> int:
    """The token between documents: `<|endoftext|>` where there is one, else the tokenizer's end of sequence."""
    found = tokenizer.convert_tokens_to_ids("<|endoftext|>")
    if isinstance(found, int) and found not in (None, tokenizer.unk_token_id):
        return found
    if tokenizer.eos_token_id is not None:
        return int(tokenizer.eos_token_id)
    return 0 if found is None else int(found)


def ids_fingerprint(ids: Tensor) -> str:
    digest = hashlib.sha256(json.dumps(list(ids.shape)).encode())
    digest.update(ids.contiguous().numpy().data)
    return digest.hexdigest()[:32]
