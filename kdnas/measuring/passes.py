"""What the latency protocol calls: a model as it is served, one forward pass of it.

A model is served in the dtype that is asked for. Where none is, that is fp32 on a CPU, and on a GPU bf16 (fp16 where it
has no bf16). What is served is a copy where the dtype is not the model's own; the model stays as it is. On a GPU a pass
is replayed from a CUDA graph where it can be captured. Knows no protocol.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from kdnas.measuring import devices, memory
from kdnas.measuring.device_lock import Turn
from kdnas.study.timed_words import AUTO
from kdnas.system.errors import UsageError, first_line

Once = Callable[[], object]
Model = TypeVar("Model", bound=torch.nn.Module)

CAPTURE_WARM_UP = 3  # passes before a capture, as torch asks
QUANTISED = "torch.ao.nn.quantized"  # where torch's layers of int8 weights are defined

_frozen: WeakKeyDictionary[torch.nn.Module, dict[torch.dtype, torch.nn.Module]] = WeakKeyDictionary()  # kept copies


class DtypeError(UsageError):
    """A model cannot be served in the dtype that was asked for."""


def device_of(model: torch.nn.Module) -> torch.device:
    """Where a model's parameters lie; quantised models have none, and lie on the CPU."""
    return next((parameter.device for parameter in model.parameters()), torch.device("cpu"))


def dtype_on(device: torch.device, dtype: str = AUTO) -> torch.dtype:
    """What a model is served in on a device. Raises DtypeError for what the device does not have."""
    if dtype == AUTO:
        if device.type != "cuda":
            return torch.float32
        return torch.bfloat16 if devices.autocasts(device) else torch.float16
    if dtype == "float16" and device.type == "cpu":
        raise DtypeError("A CPU serves no float16: it is for GPUs.", "Take bfloat16, float32 or a GPU.")
    if dtype == "bfloat16" and device.type == "cuda" and not devices.autocasts(device):
        raise DtypeError(f"{device} has no bfloat16.", "Take float16 or float32.")
    return {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}[dtype]


def dtype_name(device: torch.device, dtype: str = AUTO) -> str:
    """The same in a word: `bfloat16`."""
    return str(dtype_on(device, dtype)).removeprefix("torch.")


def served(model: Model, dtype: str = AUTO, *, frozen: bool = False) -> Model:
    """The model in eval mode as it would be deployed on its device: itself where that is in fp32, else a copy.

    The copy of a `frozen` model is made once, and lives as long as the model; a student's is made anew, since its
    weights change. Raises DtypeError.
    """
    model.eval()
    wanted = dtype_on(device_of(model), dtype)
    if wanted == torch.float32:
        return model
    if frozen and wanted in _frozen.get(model, {}):
        return _frozen[model][wanted]  # type: ignore[return-value]
    made = _copied(model, wanted)
    if frozen:
        _frozen.setdefault(model, {})[wanted] = made
    return made


def _copied(model: Model, dtype: torch.dtype) -> Model:
    """A frozen copy in another dtype, made tensor by tensor: a whole second one in fp32 is at no time in memory."""
    if any(type(part).__module__.startswith(QUANTISED) for part in model.modules()):
        name = str(dtype).removeprefix("torch.")
        raise DtypeError(f"int8 weights go with float32 and not with {name}.", "Take float32.")
    cast: dict[int, Any] = {}
    for parameter in model.parameters():
        if parameter.is_floating_point():
            cast[id(parameter)] = torch.nn.Parameter(parameter.detach().to(dtype), requires_grad=False)
    for buffer in model.buffers():
        if buffer.is_floating_point():
            cast[id(buffer)] = buffer.detach().to(dtype)
    # `to` has nothing left to cast: recurrent layers lay their weights out anew in it.
    return copy.deepcopy(model, cast).to(dtype).eval().requires_grad_(False)


def kept_mib() -> float:
    """What the copies of frozen models that are kept take, in MiB."""
    copies = [one for kept in _frozen.values() for one in kept.values()]
    return sum(p.numel() * p.element_size() for one in copies for p in one.parameters()) / 2**20


def one_pass(
    model: torch.nn.Module, home: torch.device, dtype: str = AUTO, *, frozen: bool = False, **inputs: Any
) -> Once:
    """One forward pass of the model as it is served. `home` is the device that the protocol times on: a model that
    lies elsewhere gets its inputs there, and is waited for. Where a dtype is asked for, a pass is tried at once: raises
    DtypeError where one of its operations is not made for that."""
    body = served(model, dtype, frozen=frozen)
    where = device_of(model)
    floats = None if body is model else dtype_on(where, dtype)
    given = {name: _given(value, where, floats) for name, value in inputs.items()}

    def once() -> None:
        with torch.inference_mode():
            body(**given)

    if dtype != AUTO:
        with trying(model, dtype):
            once()
    return once if where == home else waiting(once, where)


def _given(value: Any, where: torch.device, floats: torch.dtype | None) -> Any:
    """An input where the model lies; one of floats in the dtype of a copy, unless that is None."""
    if not isinstance(value, Tensor):
        return value
    return value.to(where, floats) if value.is_floating_point() and floats is not None else value.to(where)


@contextlib.contextmanager
def trying(model: torch.nn.Module, dtype: str) -> Iterator[None]:
    """Inside, a model computes in a dtype for the first time. Raises DtypeError, in one line, where it cannot."""
    where = device_of(model)
    try:
        with Turn(where):  # which waits for the device
            yield
        return
    except (RuntimeError, TypeError) as error:  # as torch says it of an operation, or of a conversion
        if dtype == AUTO or memory.ran_out(error):
            raise
        why = first_line(error)
    raise DtypeError(
        f"{type(model).__name__} cannot be timed in {dtype} on {where}: {why}.", "Take another latency.dtype, or auto."
    )


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
