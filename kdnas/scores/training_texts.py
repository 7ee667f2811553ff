"""Which texts a model folder was trained on, from what it says of itself, so that no score is of them.

`kdnas.json` names the study's data and `finetune.json` the data of a fine-tuning; both are read again and split by
the studies' own rule. Trains and scores nothing.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from kdnas.data import causal_text, labelled
from kdnas.data import documents as reading
from kdnas.data import tokens as tokenising
from kdnas.data.documents import Documents
from kdnas.data.glue import OWN, Seen
from kdnas.data.splits import by_label, by_tokens
from kdnas.models import lora_adapters
from kdnas.models.open import open_tokenizer
from kdnas.students import model_folder
from kdnas.study.spec import DataSpec, from_values
from kdnas.study.spec_recipes import CausalRecipe, ClassifierRecipe
from kdnas.system.errors import KdnasError
from kdnas.system.progress import Note, Progress
from kdnas.training import finetune

DEEPEST = 8  # models that were each trained from the next


@dataclass(frozen=True)
class Ground:
    """Data that a folder says it was trained on. `fingerprint` is of the source as it was then, None where unsaid."""

    folder: Path
    data: DataSpec
    classes: bool
    pairs: bool
    fingerprint: str | None


def tokenizer_of(folder: Path) -> Any:
    """Of a whole model or an adapter, which may have its base's. Raises UsageError."""
    own = (folder / "tokenizer_config.json").is_file() or not lora_adapters.is_adapter(folder)
    return open_tokenizer(folder if own else lora_adapters.base_of(folder), str(folder))


def grounds(folder: Path) -> list[Ground]:
    """All data that a folder, and the models that it was trained from, name. Nothing where they name none."""
    return list(_grounds(folder, DEEPEST))


def _grounds(folder: Path, deepest: int) -> Iterator[Ground]:
    if deepest == 0:
        return
    if (folder / model_folder.FACTS).is_file():
        facts = model_folder.read_facts(folder)
        spec = from_values(facts["spec"])
        classes = isinstance(spec.recipe, ClassifierRecipe)
        pairs = isinstance(spec.recipe, CausalRecipe) and spec.data.label_column is not None
        record = facts.get("provenance") or {}
        yield Ground(folder, spec.data, classes, pairs, record.get("source_fingerprint"))
        if spec.teacher.checkpoint is not None:
            yield from _grounds(Path(spec.teacher.checkpoint).expanduser(), deepest - 1)
    said = _finetuned(folder)
    if isinstance(said.get("data"), Mapping):
        data = from_values({"data": dict(said["data"])}).data
        classes = said.get("task", {}).get("kind") == "classification"
        yield Ground(folder, data, classes, not classes and data.label_column is not None, None)
    origin = said.get("model")
    if isinstance(origin, str) and Path(origin).expanduser().is_dir():
        yield from _grounds(Path(origin).expanduser(), deepest - 1)


def _finetuned(folder: Path) -> dict[str, Any]:
    try:
        said = json.loads((folder / finetune.FACTS).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return said if isinstance(said, dict) else {}


# ---------------------------------------------------------------- their texts


def seen_by(folders: Sequence[Path], on_progress: Progress) -> Seen:
    """The texts that any of the folders was trained on, and the film sentences that the first of them held out.

    `on_progress` hears of data that cannot be read any more, or that is no longer what a folder was trained on.
    """
    trained: set[str] = set()
    films: frozenset[str] | None = None
    told: set[str] = set()
    for folder in folders:
        for ground in grounds(folder):
            try:
                documents, train, held = _split(ground, on_progress)
            except KdnasError as error:
                _tell(told, on_progress, _unread(ground, error))
                continue
            if ground.fingerprint not in (None, documents.fingerprint):
                _tell(told, on_progress, _changed(ground))
            keys = documents.keys
            trained.update(keys[int(row)] for row in train)
            if ground.data.source == OWN and films is None:
                films = frozenset(keys[int(row)] for row in held)
    return Seen(frozenset(trained), films)


def _tell(told: set[str], on_progress: Progress, words: str) -> None:
    if words not in told:
        told.add(words)
        on_progress(Note(words), None)


def _unread(ground: Ground, error: KdnasError) -> str:
    return (
        f"What {ground.folder} was trained on cannot be read, so that texts it has seen may be scored: {error.problem}"
    )


def _changed(ground: Ground) -> str:
    return (
        f"{ground.data.source} has changed since {ground.folder} was trained on it; what is scored is compared with "
        "what it holds now."
    )


def _split(ground: Ground, on_progress: Progress) -> tuple[Documents, np.ndarray, np.ndarray]:
    """The documents, the rows that were trained on, and those that were held out (and are scored or tested)."""
    if ground.classes:
        documents = reading.read(ground.data, labelled=True)
        _, labels = labelled.classes(documents)
        held, _ = by_label(documents, labels, ground.data.held_out)
        _, train = labelled.sides(documents, labels, ground.data)
        return documents, train, held
    documents = causal_text.read_documents(ground.data) if ground.pairs else reading.read(ground.data)
    lengths = tokenising.tokenise(documents, tokenizer_of(ground.folder), on_progress).lengths
    held, train = by_tokens(lengths, documents, ground.data.held_out)
    return documents, train, held
