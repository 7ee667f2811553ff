"""A frozen encoder as a teacher: its body and tokenizer opened, checked and fingerprinted; its whole classifier.

Caches nothing. Knows no student and no loss.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import PretrainedConfig

from kdnas.measuring.device_lock import Turn
from kdnas.models import classifier_head, lora_adapters
from kdnas.models import open as opening
from kdnas.models.encoders import Family, family_of, takes_pooler
from kdnas.models.open import locate, open_config
from kdnas.study.spec import TeacherSpec
from kdnas.system.errors import UsageError
from kdnas.system.progress import Progress


@dataclass(frozen=True)
class Teacher:
    """A frozen encoder body with its tokenizer."""

    name: str
    folder: Path
    family: Family
    config: PretrainedConfig
    body: torch.nn.Module
    pooler: Mapping[str, torch.Tensor]  # weights of the pooler that the checkpoint may hold, left out of the body
    tokenizer: Any
    fingerprint: str  # of weights, configuration and tokenizer

    @property
    def hidden(self) -> int:
        return self.family.sizes(self.config).width

    @property
    def device(self) -> torch.device:
        return next(self.body.parameters()).device


def read_config(spec: TeacherSpec, on_progress: Progress | None = None) -> tuple[PretrainedConfig, Family]:
    """The teacher's configuration and family, without its weights. Raises UsageError for what cannot be a teacher."""
    folder = Path(spec.checkpoint).expanduser() if spec.checkpoint else locate(spec, on_progress, config_only=True)
    if lora_adapters.is_adapter(folder):
        folder = lora_adapters.base_of(folder, locate(spec, on_progress, config_only=True))
    config = open_config(folder, spec.model)
    return config, family_of(config, spec.model)


def load(spec: TeacherSpec, device: torch.device, on_progress: Progress | None = None) -> Teacher:
    """Load and freeze a teacher: fp32, eval, no pooler, an adapter merged into its base.

    Raises UsageError for a model that cannot be one.
    """
    base = locate(spec, on_progress)
    folder, adapter = base, None
    if spec.checkpoint:
        folder = Path(spec.checkpoint).expanduser()
        if not folder.is_dir():
            raise UsageError(
                f"There is no checkpoint at {spec.checkpoint!r}.",
                "Give the folder of a fine-tuned model or of a PEFT adapter.",
            )
        if lora_adapters.is_adapter(folder):
            adapter, folder = folder, lora_adapters.base_of(folder, base)
    config = open_config(folder, spec.model)
    family = family_of(config, spec.model)
    if on_progress is not None:
        on_progress(f"loading {spec.model}", None)
    # Loaded with the pooler, if the checkpoint has one: saved students carry its slice.
    opened = opening.open_body(folder, spec.model, config, pooler=True)
    model, pooled = opened.model, takes_pooler(config)
    if adapter is not None:
        model = lora_adapters.into_body(model, adapter, folder)
    pooler: dict[str, torch.Tensor] = {}
    if pooled and not any("pooler" in name for name in opened.fresh):
        pooler = {n: t.detach() for n, t in model.state_dict().items() if n.startswith("pooler.")}
    if pooled:
        model.pooler = None
        if family.model_type == "albert":
            model.pooler_activation = None
    model.requires_grad_(False)
    model.eval()
    own = next((f for f in (adapter, folder) if f is not None and (f / "tokenizer_config.json").is_file()), base)
    tokenizer = opening.open_tokenizer(own, spec.model)
    opening.require_vocabulary(tokenizer, config, spec.model)
    mark = opening.model_fingerprint(model, config, tokenizer)
    return Teacher(spec.model, adapter or folder, family, config, model.to(device), pooler, tokenizer, mark)


def require_finite(teacher: Teacher, ids: torch.Tensor) -> None:
    """Raise UsageError where the teacher's states on real text, `ids` [chunks, length], are not finite numbers."""
    with Turn(teacher.device), torch.inference_mode():
        states = teacher.body(input_ids=ids.to(teacher.device), output_hidden_states=True).hidden_states
    odd = next((layer for layer, state in enumerate(states) if not bool(state.isfinite().all())), None)
    if odd is not None:
        raise UsageError(
            f"The teacher {teacher.name!r} gives values that are not finite numbers on the text, from layer {odd} on.",
            "Check its weights; a checkpoint that overflowed in fp16 cannot teach.",
        )


def classifier_of(teacher: Teacher, base: Path) -> Any | None:
    """The whole classifier whose body the teacher is, frozen, on the same device; None for a teacher that is none.

    One that chooses one of several labels: other heads are left to who fine-tunes the student. `base` is the model
    under the teacher's adapter, where it has one.
    """
    body: Any = teacher.body
    if lora_adapters.is_adapter(teacher.folder):
        if not lora_adapters.classifies(teacher.folder, body.base_model_prefix):
            return None
        whole = lora_adapters.merged(teacher.folder, body.device, base)
    elif any(name.endswith("ForSequenceClassification") for name in teacher.config.architectures or ()):
        whole = classifier_head.opened(teacher.folder, body.device)
    else:
        return None
    other = whole.config.num_labels < 2 or whole.config.problem_type in ("regression", "multi_label_classification")
    return None if other else whole
