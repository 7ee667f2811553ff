"""How well the classes of a task are told from what a model's body gives: a head is solved, and nothing else changes.

One rule for every family: of an encoder the mean of its last states over the real tokens, of a recurrent student what
its attention sums up, of a sentence encoder its embedding. Each feature is standardised by the training rows.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kdnas.data import hub
from kdnas.data.task_rows import Part
from kdnas.measuring.device_lock import Turn
from kdnas.measuring.devices import as_studies
from kdnas.models import open as opening
from kdnas.models import sentence_encoder
from kdnas.models.tokenizer import open_tokenizer
from kdnas.scores.kept_scores import kept
from kdnas.scores.linear_probe import probed
from kdnas.system.errors import UsageError
from kdnas.system.folders import MODEL_FACTS
from kdnas.system.progress import Progress
from kdnas.system.versions import versions

BATCH = 64
TOLD = (MODEL_FACTS, "README.md", "results.json")  # which change while the model stays


@dataclass(frozen=True)
class Scored:
    """Of one model on some rows."""

    accuracy: float
    macro_f1: float
    examples: int

    def values(self) -> dict[str, Any]:
        """As plain values for JSON."""
        return dict(vars(self))


@as_studies()
def solved_scores(
    folder: Path, train: Part, parts: Sequence[Part], length: int, device: torch.device, on_progress: Progress
) -> list[Scored]:
    """Scores on each of `parts` with a head that was solved on `train`: logistic regression, scikit-learn's L2 penalty
    (C = 1). Texts are cut at `length` tokens, or where the model's own limit is lower. Kept on the disk: the same model
    reads the same rows once. Raises UsageError for folders that cannot be opened, and for values that are not finite.
    """
    identity = {
        "solved_head": 1,
        "model": _fingerprint(folder),
        "rows": [_rows(part) for part in (train, *parts)],
        "length": length,
        "device": device.type,
        **{name: versions().get(name) for name in ("torch", "transformers")},
    }

    def solved() -> dict[str, Any]:
        on_progress(f"{folder.name} reads {len(train) + sum(map(len, parts)):,} texts of the task", None)
        features = _Features(folder, length, device)
        fitted = features.of(train.texts)
        mean, spread = fitted.mean(0), fitted.std(0).clamp_min(1e-6)
        scores = []
        for part in parts:
            given = (features.of(part.texts) - mean) / spread
            found = probed((fitted - mean) / spread, train.labels, given, part.labels)
            scores.append(Scored(found["probe_accuracy"], found["probe_macro_f1"], len(part)).values())
        return {"scores": scores}

    return [Scored(**one) for one in kept(identity, solved)["scores"]]


def _fingerprint(folder: Path) -> str:
    """Of all files of a model folder and of those below it, without what is only told of the model."""
    digest = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file() and path.name not in TOLD):
        digest.update(str(path.relative_to(folder)).encode())
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def _rows(part: Part) -> str:
    return hashlib.sha256(json.dumps([part.texts, part.labels]).encode()).hexdigest()


class _Features:
    """What a model folder gives for texts, a row each."""

    def __init__(self, folder: Path, length: int, device: torch.device) -> None:
        import kdnas.models.recurrent  # noqa: F401, registers its classes

        hub.quiet()
        self._device, self._folder = device, folder
        self._sentences = None
        if (folder / "modules.json").is_file():
            self._sentences = sentence_encoder.open_encoder(folder, str(folder), device).shortened(length)
            return
        config = opening.open_config(folder, str(folder))
        self._tokenizer = open_tokenizer(folder, str(folder))
        opening.require_vocabulary(self._tokenizer, config, str(folder))
        self._model = opening.open_body(folder, str(folder), config).model.to(device)
        self._recurrent = config.model_type == opening.RECURRENT
        self._length = opening.longest(config, length)
        self._pad = int(opening.pad_id(self._tokenizer) or 0)

    def of(self, texts: Sequence[str]) -> Tensor:
        """[texts, width], fp32 on the CPU."""
        found = self._sentences.encode(texts) if self._sentences is not None else self._read(texts)
        if not bool(found.isfinite().all()):
            raise UsageError(f"The model in {self._folder} gives values that are not finite.", "Check its weights.")
        return found.float().cpu()

    def _read(self, texts: Sequence[str]) -> Tensor:
        ids = self._tokenizer(list(texts), truncation=True, max_length=self._length)["input_ids"]
        order = sorted(range(len(ids)), key=lambda row: len(ids[row]))
        rows: list[Tensor] = [torch.empty(0)] * len(ids)
        with torch.inference_mode():
            for start in range(0, len(order), BATCH):
                chosen = order[start : start + BATCH]
                longest = max(1, max(len(ids[row]) for row in chosen))
                batch = torch.full((len(chosen), longest), self._pad)
                mask = torch.zeros((len(chosen), longest), dtype=torch.bool)
                for place, row in enumerate(chosen):
                    batch[place, : len(ids[row])] = torch.tensor(ids[row], dtype=torch.long)
                    mask[place, : max(1, len(ids[row]))] = True
                with Turn(self._device):
                    for row, vector in zip(chosen, self._pooled(batch, mask).cpu(), strict=True):
                        rows[row] = vector
        return torch.stack(rows)

    def _pooled(self, batch: Tensor, mask: Tensor) -> Tensor:
        batch, mask = batch.to(self._device), mask.to(self._device)
        if self._recurrent:
            summary: Tensor = self._model.attention(self._model.states(batch, mask), mask)[0]
            return summary
        states = self._model(input_ids=batch, attention_mask=mask.long()).last_hidden_state
        weights = mask.unsqueeze(-1).to(states.dtype)
        return (states * weights).sum(1) / weights.sum(1)
