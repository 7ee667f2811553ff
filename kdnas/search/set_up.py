"""What a process that evaluates candidates needs first: torch and its device, and the recipe's bench."""

from __future__ import annotations

import os
from collections.abc import Callable

import optuna
import torch

from kdnas.measuring.devices import resolve_device, set_up_torch
from kdnas.recipes.contract import Workbench
from kdnas.search import placing
from kdnas.search.heartbeat import Steering
from kdnas.study.spec import StudySpec
from kdnas.system.progress import Progress

Prepare = Callable[[StudySpec, torch.device, Progress], Workbench]


def place(steering: Steering, name: str) -> torch.device:
    """Sets torch and Optuna up in this process and finds the device that a spec names; others see which. Of several
    GPUs a worker takes the least used one. Raises UsageError for a device that is not there."""
    placing.keep_to_own_cores()
    set_up_torch()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    device = resolve_device(name)
    steering.device = f"{device} {torch.cuda.get_device_name(device)}"[:80] if device.type == "cuda" else str(device)
    steering.log("info", f"worker {steering.worker_id} on {steering.device}, process {os.getpid()}")
    return device


def recipe_of(spec: StudySpec) -> Prepare:
    """What loads the bench of the spec's recipe."""
    from kdnas import recipes

    return recipes.recipe_of(spec).prepare
