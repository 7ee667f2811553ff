"""The latency of any model folder by the studies' protocol."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from kdnas.data import hub
from kdnas.measuring.devices import as_studies
from kdnas.measuring.latency import Measured, measure
from kdnas.measuring.passes import Once, one_pass
from kdnas.study.spec_latency import LatencySpec
from kdnas.system import seeds
from kdnas.system.errors import UsageError
from kdnas.system.progress import Progress


@as_studies()
def measure_model(
    model: str, settings: LatencySpec, device: torch.device, against: str | None = None
) -> tuple[Measured, int]:
    """A Hugging Face model's body (folder, shipped name or hub id) by the same protocol, with its parameters.

    `against` names a model to interleave with, as the teacher of a study would be. Both are of the settings' dtype.
    Raises UsageError.
    """
    once, parameters = _model_pass(model, settings, device)
    other = _model_pass(against, settings, device)[0] if against is not None else None
    return measure(once, other, settings, device), parameters


@as_studies()
def measure_beside(
    models: Sequence[str], reference: str, settings: LatencySpec, device: torch.device, on_progress: Progress
) -> list[tuple[Measured, int]]:
    """Several models by one protocol in one process, each interleaved with the same reference, with its parameters. All
    are told for the first reading of the reference, so that they compare. Raises UsageError."""
    beside = _model_pass(reference, settings, device)[0]
    found: list[tuple[Measured, int]] = []
    for nth, model in enumerate(models):
        on_progress(f"timing {Path(model).name}", nth / len(models))
        once, parameters = _model_pass(model, settings, device)
        measured = measure(once, beside, settings, device)
        found.append((measured.scaled(found[0][0].teacher_p50) if found else measured, parameters))
    return found


def _model_pass(model: str, settings: LatencySpec, device: torch.device) -> tuple[Once, int]:
    hub.quiet()
    import kdnas.models.recurrent  # noqa: F401, registers its classes
    from kdnas.models import open as opening
    from kdnas.study.spec import TeacherSpec

    folder = opening.locate(TeacherSpec(model=model))  # type: ignore[call-arg]
    config = opening.open_config(folder, model)
    body = opening.open_body(folder, model, config).model
    limit = opening.longest(config, settings.length)
    if settings.length > limit:
        raise UsageError(f"{model!r} takes at most {limit} tokens, not {settings.length}.", "Lower the length.")
    body.to(device)
    generator = torch.Generator().manual_seed(seeds.fixed_number(seeds.Fixed.FOLDER_TOKENS))
    shape = (settings.batch_size, settings.length)
    low = min(1000, int(config.vocab_size) // 2)
    ids = torch.randint(low, int(config.vocab_size), shape, generator=generator)
    return one_pass(body, device, settings.dtype, input_ids=ids), sum(p.numel() for p in body.parameters())
