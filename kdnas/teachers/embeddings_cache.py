"""A teacher's embeddings of fixed texts, computed once and kept on the disk. Knows no student and no pooling."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence

from torch import Tensor

from kdnas.models.sentence_layout import Dense, Layout
from kdnas.system.tensor_files import computed_once
from kdnas.teachers import cache_folder, hidden_state_cache
from kdnas.teachers.encoder import Teacher

VERSION = 1  # of which texts are made of chunks


def embeddings_of(
    teacher: Teacher, layout: Layout, ids: Tensor, what: str, make: Callable[[], Sequence[Tensor]]
) -> list[Tensor]:
    """What `make` gives of the chunks `ids` [chunks, length]: embeddings [texts, width], a tensor for each lesson.

    `what` names which texts these are. Equal teachers, layouts, chunks and names have equal embeddings.
    """
    key = hashlib.sha256(hidden_state_cache.entry_key(teacher, ids, [-1]).encode())
    key.update(json.dumps([VERSION, what, layout.pooling, [type(step).__name__ for step in layout.steps]]).encode())
    for step in layout.steps:
        if isinstance(step, Dense):  # the fingerprint is of the encoder alone
            key.update(step.activation.encode())
            for tensor in (step.weight, step.bias):
                key.update(b"-" if tensor is None else tensor.detach().cpu().contiguous().numpy().data)
    path = cache_folder.root() / "embeddings" / f"{key.hexdigest()[:32]}.safetensors"
    found = computed_once(path, lambda: {str(at): made.contiguous() for at, made in enumerate(make())})
    return [found[str(at)] for at in range(len(found))]
