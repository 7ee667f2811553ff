"""Opens any folder that kdnas writes, by what its configuration says that it is. Trains and scores nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from kdnas.data import hub
from kdnas.models import lora_adapters
from kdnas.models.open import open_body, open_config
from kdnas.models.tokenizer import open_tokenizer
from kdnas.students import generate, predict
from kdnas.students.model_folder import require_model


def open_student(folder: Path, device: torch.device) -> tuple[Any, Any]:
    """Model (float32, in evaluation mode) and tokenizer: a classifier, a causal model, or else the body.

    Raises UsageError for a folder that holds no model.
    """
    if lora_adapters.is_adapter(folder):
        return predict.open_model(folder, device)
    require_model(folder)
    hub.quiet()
    import kdnas.models.recurrent  # noqa: F401, registers its classes

    config = open_config(folder, str(folder))
    declared = " ".join(config.architectures or ())
    if "SequenceClassification" in declared:
        return predict.open_model(folder, device)
    if "CausalLM" in declared or "LMHead" in declared:
        return generate.open_model(folder, device)
    body = open_body(folder, str(folder), config, pooler=True).model
    return body.to(device).eval(), open_tokenizer(folder, str(folder))
