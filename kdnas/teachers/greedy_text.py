"""What a causal teacher writes where texts are left off: greedy continuations, generated once and kept on the disk.

The text of sequence-level distillation (Kim and Rush, 2016, "Sequence-Level Knowledge Distillation"), with the greedy
continuation for the mode of the teacher's distribution. Knows no student.
"""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import StaticCache

from kdnas.data.causal_text import ids_fingerprint
from kdnas.measuring import devices, memory
from kdnas.measuring.device_lock import Turn
from kdnas.measuring.devices import autocast
from kdnas.models.decoders import body_and_head
from kdnas.system import paths
from kdnas.system.fingerprint import digest
from kdnas.system.progress import Progress
from kdnas.system.tensor_files import computed_once
from kdnas.teachers.causal import CausalModel

ROWS = 32  # chunks that are continued at a time, as long as they fit


def continued(teacher: CausalModel, ids: Tensor, prompt: int, what: str, on_progress: Progress) -> Tensor:
    """Chunks [chunks, length] that begin as the given ones, with `prompt` of their tokens, and go on as the teacher
    does; end-of-text tokens that it writes stand within, as they do in the data. Raises UsageError where they cannot
    be kept."""
    said = digest("greedy", teacher.fingerprint, devices.numerics(teacher.device), prompt)
    path = paths.cache_folder() / "causal" / f"{said}-{ids_fingerprint(ids)}.safetensors"

    def write() -> dict[str, Tensor]:
        parts: list[Tensor] = []
        with Turn(teacher.device) as turn:
            for _, made in memory.halving(ids, ROWS, teacher.device, lambda rows: greedy(teacher, rows, prompt)):
                parts.append(made)
                turn.step()
                on_progress(f"the teacher is continuing {what}", sum(map(len, parts)) / len(ids))
        return {"ids": torch.cat(parts)}

    return computed_once(path, write)["ids"]


@torch.inference_mode()
def greedy(teacher: CausalModel, ids: Tensor, prompt: int) -> Tensor:
    """The likeliest token after each prefix, one by one: [rows, length] → the same, new after `prompt` tokens."""
    body, _ = body_and_head(teacher.model)
    past = StaticCache(config=teacher.config, max_cache_len=ids.shape[1])
    given = ids[:, :prompt].to(teacher.device)
    written = [given]
    for _ in range(ids.shape[1] - prompt):
        with autocast(teacher.device):
            state = body(input_ids=given, past_key_values=past, use_cache=True).last_hidden_state[:, -1]
        given = teacher.logits(state).argmax(-1, keepdim=True)
        written.append(given)
    return torch.cat(written, 1).cpu()
