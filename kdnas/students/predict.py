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
from kdnas.data.cells import without_halves
from kdnas.data.documents import Documents
from kdnas.measuring.devices import as_studies
from kdnas.models import class_order, lora_adapters
from kdnas.students.model_folder import require_model
from kdnas.system.errors import UsageError
from kdnas.system.progress import Note, Progress


@dataclass(frozen=True)
class Prediction:
    """One text's outcome. `probabilities` of all labels add up to 1, `label` is the likeliest.

    All three are None for a row without text.
    """

    text: str
    label: str | None
    probability: float | None
    probabilities: dict[str, float] | None


def open_model(folder: Path, device: torch.device) -> tuple[Any, Any]:
    """A classifier in fp32, adapters merged into it, and its tokenizer. Raises UsageError for a folder without one."""
    hub.quiet()
    from transformers import AutoModelForSequenceClassification

    import kdnas.models.recurrent  # noqa: F401, registers its classes
    from kdnas.models import open as opening

    if lora_adapters.is_adapter(folder):
        own = (folder / "tokenizer_config.json").is_file()
        tokenizer = opening.open_tokenizer(folder if own else lora_adapters.base_of(folder), str(folder))
        model = lora_adapters.merged(folder, device)
        class_order.require_one_of_several(model.config, str(folder))
        opening.require_vocabulary(tokenizer, model.config, str(folder))
        return model, tokenizer
    require_model(folder)
    config = opening.open_config(folder, str(folder))
    declared = config.architectures or ("a bare model",)
    if not any("SequenceClassification" in name for name in declared):
        raise UsageError(
            f"{folder} holds no classifier but {', '.join(declared)}.",
            "Give one with a classification head; kdnas finetune --task classification makes one.",
        )
    class_order.require_one_of_several(config, str(folder))
    opened = opening.open_weights(AutoModelForSequenceClassification, folder, str(folder), config)
    if opened.fresh:
        raise UsageError(f"The classification head in {folder} has no weights.", "Give a complete checkpoint.")
    tokenizer = opening.open_tokenizer(folder, str(folder))
    opening.require_vocabulary(tokenizer, config, str(folder))
    return opening.padded(opened.model, tokenizer).to(device), tokenizer


@as_studies()
@torch.inference_mode()
def probabilities(model: Any, tokenizer: Any, texts: Sequence[str], batch_size: int, on_progress: Progress) -> Tensor:
    """float32 [texts, labels] on the CPU, in batches of like length. Texts are cut at the model's positions, and
    `on_progress` hears how many."""
    from kdnas.models.open import longest, pad_id, padding

    most = longest(model.config, 512)
    coded = tokenizer(list(texts), truncation=True, max_length=most, padding=False, return_overflowing_tokens=True)
    # A text that is cut gives further pieces; only its first one is asked about.
    first = {text: piece for piece, text in reversed(list(enumerate(coded["overflow_to_sample_mapping"])))}
    ids = [coded["input_ids"][first[text]] for text in range(len(texts))]
    cut = len({text for piece, text in enumerate(coded["overflow_to_sample_mapping"]) if piece != first[text]})
    if cut:
        on_progress(Note(f"{cut:,} text(s) are cut at {most} tokens."), None)
    pad = padding(model, pad_id(tokenizer))
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
    """One prediction for each text, in their order; an empty one for a text without anything in it."""
    texts = [without_halves(text) for text in texts]  # what a terminal hands over may hold halves of characters
    there = [place for place, text in enumerate(texts) if text.strip()]
    made = [Prediction(text, None, None, None) for text in texts]
    if not there:
        return made
    shares = probabilities(model, tokenizer, [texts[place] for place in there], batch_size, on_progress)
    names = class_order.shown_names(model.config)
    for place, row in zip(there, shares.tolist(), strict=True):
        best = max(range(len(row)), key=row.__getitem__)
        made[place] = Prediction(texts[place], names[best], row[best], dict(zip(names, row, strict=True)))
    return made


def every_row(documents: Documents) -> list[str]:
    """The text of every row of a source, "" for those that have none."""
    texts = [""] * (len(documents.texts) + documents.empty)
    for place, text in enumerate(documents.texts):
        texts[documents.row(place) - 1] = text
    return texts


def lines(predictions: Sequence[Prediction]) -> str:
    """One JSON object a line."""
    return "".join(json.dumps(asdict(one), ensure_ascii=False) + "\n" for one in predictions)


def document(predictions: Sequence[Prediction]) -> list[dict[str, Any]]:
    """The same as one list."""
    return [asdict(one) for one in predictions]
