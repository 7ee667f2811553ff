"""A model is timed in the dtype that was asked for, or not at all: its copy computes in it, and it stays as it was."""

from __future__ import annotations

import gc
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from kdnas.measuring import devices, latency, passes
from kdnas.measuring.passes import DtypeError, one_pass, served
from kdnas.models import compression
from kdnas.models.recurrent import RecurrentConfig, RecurrentForSequenceClassification
from kdnas.study.spec import StudySpec, from_values
from kdnas.study.spec_latency import LatencySpec
from kdnas.study.timed_words import in_words
from kdnas.system.errors import BadOptionError

CPU, GPU = torch.device("cpu"), torch.device("cuda")
DTYPES = ("auto", "float32", "bfloat16", "float16")


class Pooled(torch.nn.Module):
    """Tied weights, a buffer of floats and one of whole numbers, and what is no tensor at all."""

    scale: Tensor
    order: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = torch.nn.Linear(8, 8), torch.nn.Linear(8, 8)
        self.second.weight = self.first.weight
        self.register_buffer("scale", torch.full((8,), 0.5))
        self.register_buffer("order", torch.arange(8))
        self.drop = torch.nn.Dropout()
        self.seen: list[torch.dtype] = []

    def forward(self, given: Tensor) -> Tensor:
        self.seen += [given.dtype, self.scale.dtype, self.order.dtype]
        return self.drop(self.second(self.first(given) * self.scale)[:, self.order])


class Copied(TorchDispatchMode):
    """Which dtypes new tensors of floats have."""

    def __init__(self) -> None:
        super().__init__()
        self.made: set[torch.dtype] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        if not func.is_view and isinstance(found, Tensor) and found.is_floating_point() and found.numel():
            self.made.add(found.dtype)
        return found


def test_a_copy_in_the_dtype_computes_and_the_model_stays() -> None:
    model = Pooled().train()
    inside: list[torch.dtype] = []
    model.first.register_forward_pre_hook(lambda part, given: inside.append(given[0].dtype))
    made = served(model, "bfloat16")
    assert made is not model and not made.training and made.second.weight is made.first.weight
    assert {p.dtype for p in made.parameters()} == {torch.bfloat16} and not made.first.weight.requires_grad
    assert {p.dtype for p in model.parameters()} == {torch.float32} and model.first.weight.requires_grad
    once = one_pass(model, CPU, "bfloat16", given=torch.ones(2, 8))
    inside.clear()
    once()
    assert inside == [torch.bfloat16] and not model.seen
    one_pass(model, CPU, given=torch.ones(2, 8))()
    assert model.seen == [torch.float32, torch.float32, torch.int64] and inside[-1] is torch.float32


def test_it_is_copied_without_a_second_one_in_float32() -> None:
    model = Pooled()
    with Copied() as copied:
        served(model, "bfloat16")
    assert copied.made == {torch.bfloat16}


def test_a_frozen_models_copy_is_made_once_for_each_dtype_and_goes_with_it() -> None:
    gc.collect()
    model, before = Pooled(), passes.kept_mib()
    made = served(model, "bfloat16", frozen=True)
    assert served(model, "bfloat16", frozen=True) is made is not served(model, "bfloat16")
    assert served(model, "float32", frozen=True) is model is served(model, frozen=True)
    assert passes.kept_mib() - before == pytest.approx((64 + 8 + 8) * 2 / 2**20)
    del model, made
    gc.collect()
    assert passes.kept_mib() == before


# ---------------------------------------------------------------- refused


def test_what_a_device_does_not_have_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "autocasts", lambda device: False)  # a GPU of before bf16
    with pytest.raises(DtypeError, match="A CPU serves no float16"):
        served(Pooled(), "float16")
    with pytest.raises(DtypeError, match="cuda has no bfloat16"):
        passes.dtype_on(GPU, "bfloat16")
    assert [passes.dtype_name(GPU, dtype) for dtype in ("auto", "float32", "float16")] == [
        "float16",
        "float32",
        "float16",
    ]
    monkeypatch.setattr(devices, "autocasts", lambda device: True)
    assert passes.dtype_name(GPU) == passes.dtype_name(GPU, "bfloat16") == "bfloat16"
    assert passes.dtype_name(CPU) == "float32"


def test_an_operation_that_is_not_made_for_it_is_named_in_one_line() -> None:
    class Inverse(torch.nn.Linear):
        def forward(self, given: Tensor) -> Tensor:
            return torch.linalg.inv(self.weight)

    model = Inverse(4, 4)
    one_pass(model, CPU, "float32", given=torch.ones(1))()
    with pytest.raises(DtypeError) as caught:
        one_pass(model, CPU, "bfloat16", given=torch.ones(1))
    said = str(caught.value)
    assert said.startswith("Inverse cannot be timed in bfloat16 on cpu: ") and "\n" not in said
    assert "BFloat16" in said and said.endswith("Take another latency.dtype, or auto.")


def test_memory_that_runs_out_is_no_fault_of_the_dtype() -> None:
    class Large(torch.nn.Linear):
        def forward(self, given: Tensor) -> Tensor:
            raise RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 9 bytes")

    with pytest.raises(RuntimeError, match="not enough memory"):
        one_pass(Large(2, 2), CPU, "bfloat16", given=torch.ones(1))


@pytest.mark.parametrize("cell", ["lstm", "convolution"])
def test_weights_in_int8_are_timed_as_they_are_or_not_at_all(cell: str) -> None:
    config = RecurrentConfig(cell=cell, vocab_size=20, rows=20, embedding_size=8, hidden_size=32, num_labels=2)
    model = compression.int8(RecurrentForSequenceClassification(config))
    assert served(model) is model is served(model, "float32")
    with pytest.raises(DtypeError, match="int8 weights go with float32 and not with bfloat16"):
        served(model, "bfloat16")


@pytest.mark.parametrize("where", [{"device": "cpu"}, {"teacher": {"device": "cpu"}, "device": "cuda"}])
def test_half_of_a_cpu_is_refused_with_the_spec(where: dict[str, Any]) -> None:
    with pytest.raises(BadOptionError, match=r"latency\.dtype is float16, which is for GPUs"):
        from_values({**where, "latency": {"dtype": "float16"}})
    assert from_values({**where, "latency": {"dtype": "bfloat16"}}).latency.dtype == "bfloat16"
    with pytest.raises(BadOptionError, match=r"latency\.dtype"):
        from_values({"latency": {"dtype": "int8"}})


# ---------------------------------------------------------------- keys and words


def test_each_dtype_has_figures_of_its_own() -> None:
    settings = {dtype: LatencySpec.model_validate({"dtype": dtype}) for dtype in DTYPES}
    for device in (None, CPU, GPU):
        assert len({latency.protocol_key(one, device) for one in settings.values()}) == len(DTYPES)
    assert latency.protocol_key(settings["auto"], CPU) == latency.protocol_key(StudySpec().latency, CPU)  # type: ignore[call-arg]


def test_words_say_the_dtype_that_was_asked_for() -> None:
    given = {"batch_size": 1, "length": 128}
    assert in_words(given) == in_words({**given, "dtype": "auto"})
    assert in_words({**given, "dtype": "bfloat16"}).endswith("128 tokens, in bfloat16")
    assert in_words({**given, "dtype": "\x1b[31m"}).isprintable()  # as a damaged store may have it
    assert in_words({**given, "what": "token", "dtype": "float32"}).endswith("after 128 tokens, in float32")
