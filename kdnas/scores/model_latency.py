"""The latency of any model folder by the studies' protocol."""

from __future__ import annotations

import torch

from kdnas.data import hub
from kdnas.measuring.devices import as_studies
from kdnas.measuring.latency import Measured, measure
from kdnas.measuring.passes import Once, one_pass
from kdnas.study.spec import LatencySpec
from kdnas.system import seeds
from kdnas.system.errors import UsageError


@as_studies()
def measure_model(
    model: str, settings: LatencySpec, device: torch.device, against: str | None = None
) -> tuple[Measured, int]:
    """A Hugging Face model's body (folder, shipped name or hub id) by the same protocol, with its parameters.

    `against` names a model to interleave with, as the teacher of a study would be. Raises UsageError.
    """
    once, parameters = _model_pass(model, settings, device)
    other = _model_pass(against, settings, device)[0] if against is not None else None
    return measure(once, other, settings, device), parameters


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
    return one_pass(body, device, input_ids=ids), sum(p.numel() for p in body.parameters())
