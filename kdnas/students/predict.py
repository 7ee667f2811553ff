"""What a classifier says of texts: a label and the probability of each, from any folder that classifies.

Opens whole models, PEFT adapters and the recurrent students of kdnas. Trains and scores nothing.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kdnas.data import hub
from kdnas.models import lora_adapters
from kdnas.models.open import loading
from kdnas.students.model_folder import require_model
from kdnas.system.errors import UsageError
from kdnas.system.progress import Progress


@dataclass(frozen=True)
class Prediction:
    """One text's outcome. `probabilities` of all labels add up to 1, `label` is the likeliest."""

    text: str
    label: str
    probability: float
    probabilities: dict[str, float]


def open_model(folder: Path, device: torch.device) -> tuple[Any, Any]:
    """A classifier in fp32, adapters merged into it, and its tokenizer. Raises UsageError for a folder without one."""
    hub.quiet()
    from transformers import AutoConfig, AutoModelForSequenceClassification

    import kdnas.models.recurrent  # noqa: F401, registers its classes
    from kdnas.models.open import open_tokenizer

    if lora_adapters.is_adapter(folder):
        own = (folder / "tokenizer_config.json").is_file()
        tokenizer = open_tokenizer(folder if own else lora_adapters.base_of(folder), str(folder))
        return lora_adapters.merged(folder, device), tokenizer
    require_model(folder)
    with loading(f"The model in {folder}", "Give a sound model folder."):
        config = AutoConfig.from_pretrained(folder)
        declared = config.architectures or ("a bare model",)
        if not any("SequenceClassification" in name for name in declared):
            raise UsageError(
                f"{folder} holds no classifier but {', '.join(declared)}.",
                "Give one with a classification head; kdnas finetune --task classification makes one.",
            )
        model: Any = AutoModelForSequenceClassification.from_pretrained(folder, config=config, dtype=torch.float32)
    if config.num_labels < 2 or config.problem_type in ("regression", "multi_label_classification"):
        raise UsageError(f"The head in {folder} does not choose one of several labels.", "Give a classifier.")
    return model.to(device).eval(), open_tokenizer(folder, str(folder))


@torch.inference_mode()
def probabilities(model: Any, tokenizer: Any, texts: Sequence[str], batch_size: int, on_progress: Progress) -> Tensor:
    """float32 [texts, labels] on the CPU; texts are cut at the model's positions. In batches of like length."""
    from kdnas.models.open import longest

    most = longest(model.config, 512)
    ids = tokenizer(list(texts), truncation=True, max_length=most, padding=False)["input_ids"]
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id or 0
    order = np.argsort([len(row) for row in ids], kind="stable")
    found = torch.empty(len(ids), model.config.num_labels)
    for start in range(0, len(order), batch_size):
        rows = order[start : start + batch_size]
        width = max(len(ids[row]) for row in rows)
        table = torch.full((len(rows), width), pad)
        mask = torch.zeros(len(rows), width, dtype=torch.long)
        for place, row in enumerate(rows):
            table[place, : len(ids[row])] = torch.tensor(ids[row])
            mask[place, : len(ids[row])] = 1
        logits = model(input_ids=table.to(model.device), attention_mask=mask.to(model.device)).logits
        found[torch.from_numpy(rows)] = torch.softmax(logits.float(), -1).cpu()
        on_progress("predicting", min(1.0, (start + batch_size) / len(order)))
    return found


def predict(
    model: Any, tokenizer: Any, texts: Sequence[str], on_progress: Progress, *, batch_size: int = 32
) -> list[Prediction]:
    """One prediction for each text, in their order. Raises UsageError for a text without anything in it."""
    empty = next((row for row, text in enumerate(texts, 1) if not text.strip()), None)
    if empty is not None:
        raise UsageError(f"Text {empty} is empty.", "Give at least a word.")
    shares = probabilities(model, tokenizer, texts, batch_size, on_progress)
    names = [str(model.config.id2label[place]) for place in range(shares.shape[1])]
    made = []
    for text, row in zip(texts, shares.tolist(), strict=True):
        best = max(range(len(row)), key=row.__getitem__)
        made.append(Prediction(text, names[best], row[best], dict(zip(names, row, strict=True))))
    return made


def lines(predictions: Sequence[Prediction]) -> str:
    """One JSON object a line."""
    return "".join(json.dumps(asdict(one), ensure_ascii=False) + "\n" for one in predictions)


def document(predictions: Sequence[Prediction]) -> list[dict[str, Any]]:
    """The same as one list."""
    return [asdict(one) for one in predictions]
