"""What the latency protocol calls: a model as it is served, one forward pass of it.

On a CPU a model is served as it is, in fp32. On a GPU it is served in bf16 (in fp16 where the GPU has no bf16), from a
CUDA graph where its pass can be captured. Knows no protocol.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from kdnas.measuring import devices

Once = Callable[[], object]
Model = TypeVar("Model", bound=torch.nn.Module)

CAPTURE_WARM_UP = 3  # passes before a capture, as torch asks

_frozen: WeakKeyDictionary[torch.nn.Module, torch.nn.Module] = WeakKeyDictionary()  # copies that are served


def device_of(model: torch.nn.Module) -> torch.device:
    """Where a model's parameters lie; quantised models have none, and lie on the CPU."""
    return next((parameter.device for parameter in model.parameters()), torch.device("cpu"))


def served(model: Model, *, frozen: bool = False) -> Model:
    """The model in eval mode as it would be deployed on its device: itself, or on a GPU a copy in half precision.

    The copy of a `frozen` model is made once; a student's is made anew, since its weights change.
    """
    model.eval()
    device = device_of(model)
    if device.type != "cuda":
        return model
    if frozen and model in _frozen:
        return _frozen[model]  # type: ignore[return-value]
    half = torch.bfloat16 if devices.autocasts(device) else torch.float16
    made = copy.deepcopy(model).to(half).eval().requires_grad_(False)
    if frozen:
        _frozen[model] = made
    return made


def one_pass(model: torch.nn.Module, home: torch.device, *, frozen: bool = False, **inputs: Any) -> Once:
    """One forward pass of the model as it is served. `home` is the device that the protocol times on: a model that
    lies elsewhere gets its inputs there, and is waited for."""
    body = served(model, frozen=frozen)
    where = device_of(model)
    given = {name: value.to(where) if isinstance(value, Tensor) else value for name, value in inputs.items()}

    def once() -> None:
        with torch.inference_mode():
            body(**given)

    return once if where == home else waiting(once, where)


def waiting(once: Once, where: torch.device) -> Once:
    """The pass, and the wait for the device that it runs on."""

    def whole() -> None:
        once()
        devices.synchronise(where)

    return whole


def captured(once: Once, device: torch.device) -> Once | None:
    """The replay of a CUDA graph of the pass; None where it cannot be captured, because it waits for the GPU in its
    middle, say. The stream is afterwards what it was before, whatever happened."""
    before = torch.cuda.current_stream(device)
    graph = torch.cuda.CUDAGraph()
    try:
        side = torch.cuda.Stream(device)
        side.wait_stream(before)
        with torch.cuda.stream(side):
            for _ in range(CAPTURE_WARM_UP):
                once()
        before.wait_stream(side)
        with torch.cuda.graph(graph):
            once()
    except RuntimeError:
        return None
    finally:
        # torch leaves its side stream current where the end of a capture raises.
        torch.cuda.set_stream(before)
    return graph.replay
