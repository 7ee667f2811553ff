"""Devices with little memory, and without float64: all that precedes the first trial goes on with fewer rows, and
computes in float64 on the CPU alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.overrides import TorchFunctionMode

from kdnas.data.labelled import Examples
from kdnas.measuring import device_lock
from kdnas.models import classifier_head, decoders, encoder_cut, encoders, least_squares_init
from kdnas.recipes import recipe
from kdnas.recipes.hidden_state import HiddenStateBench
from kdnas.study.space import Candidate
from kdnas.study.spec import TeacherSpec
from kdnas.system.errors import KdnasError
from kdnas.teachers import causal, classifier, encoder, full_cut, moments_cache
from tests.encoders import VOCABULARY, text_folder, tiny_encoder, tiny_spec
from tests.recipes import tiny_causal
from tests.tiny import tiny_folder

CPU = torch.device("cpu")
SMALL: Candidate = {
    "num_hidden_layers": 2,
    "hidden_size": 16,
    "head_size": 8,
    "intermediate_size": 24,
    "hidden_act": "gelu",
}


@pytest.fixture(autouse=True)
def own(own_cache: None) -> None:
    return None


class Room:
    """A device that holds so many rows at a time: a pass of a model over more runs out of memory. `tried` has the rows
    of every pass."""

    def __init__(self, rows: int) -> None:
        self.rows, self.tried = rows, list[int]()

    def of(self, model: Any) -> None:
        model.register_forward_pre_hook(self._enter, with_kwargs=True)

    def _enter(self, _model: Any, _given: Any, named: dict[str, Any]) -> None:
        self.tried.append(len(named["input_ids"]))
        if self.tried[-1] > self.rows:
            raise torch.OutOfMemoryError("CUDA out of memory.")


def ids(chunks: int = 20, length: int = 16) -> torch.Tensor:
    return torch.randint(5, len(VOCABULARY), (chunks, length), generator=torch.Generator().manual_seed(0))


def close(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    for name, tensor in one.items():
        torch.testing.assert_close(other[name], tensor, rtol=1e-4, atol=1e-5, msg=name)


# ---------------------------------------------------------------- memory


def test_moments_are_measured_on_as_many_chunks_as_fit(tmp_path: Path) -> None:
    teacher = encoder.load(TeacherSpec(model=str(tiny_encoder(tmp_path / "m"))), CPU)  # type: ignore[call-arg]
    plain = least_squares_init.moments(teacher.body, teacher.family, ids(70)).tensors()
    room = Room(5)
    room.of(teacher.body)
    close(plain, moments_cache.moments_of(teacher, ids(70)).tensors())
    assert room.tried[:4] == [32, 16, 8, 4] and sum(room.tried[3:]) == 70 and not device_lock._places()
    room.rows = 0
    with pytest.raises(KdnasError, match="The memory of cpu ran out"):
        moments_cache.moments_of(teacher, ids(8))


def test_a_fitted_student_is_built_on_as_many_chunks_as_fit_and_from_its_beginning(tmp_path: Path) -> None:
    spec = tiny_spec(
        tiny_encoder(tmp_path / "m"), text_folder(tmp_path / "text"), recipe={"name": "hidden-state", "init": "fitted"}
    )
    bench = recipe("hidden-state").prepare(spec, CPU, lambda words, share: None)
    assert isinstance(bench, HiddenStateBench)
    plain = bench.build(SMALL, 0).body.state_dict()
    bodies: list[Any] = []
    inherit, room = encoders.inherit, Room(7)

    def watched(*given: Any) -> Any:
        body = inherit(*given)
        room.of(body)  # the student, whose first blocks are solved by the time that its memory runs out
        bodies.append(body)
        return body

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(encoders, "inherit", watched)
        close(plain, bench.build(SMALL, 0).body.state_dict())
    assert room.tried[:5] == [64, 32, 16, 8, 4] and len(bodies) == 5
    bench.close()


def test_a_classifier_is_asked_about_as_many_texts_as_fit_and_not_more_again(tmp_path: Path) -> None:
    folder = tiny_folder(tmp_path / "m", labels=3)
    model = classifier_head.opened(folder, CPU)
    texts = [row.numpy() for row in ids(150, 12) % 20]
    examples = Examples([row[: 3 + n % 9] for n, row in enumerate(texts)], torch.zeros(150, dtype=torch.int64).numpy())
    plain = classifier.logits_of(model, examples, 0)
    room = Room(20)
    room.of(model)
    torch.testing.assert_close(classifier.logits_of(model, examples, 0), plain, rtol=1e-4, atol=1e-5)
    assert room.tried == [64, 32, 16, 16, 16, 16, *[16] * 4, 16, 6]
    room.rows = 0
    with pytest.raises(KdnasError, match="The memory of cpu ran out"):
        classifier.logits_of(model, examples, 0)


def test_a_students_head_is_solved_on_as_many_chunks_as_fit(tmp_path: Path) -> None:
    model = classifier_head.opened(tiny_folder(tmp_path / "m", labels=3), CPU)
    plain = classifier_head.agreement(model, model, ids(70) % 20)
    room = Room(9)
    room.of(model)
    from kdnas.measuring import memory

    assert plain == memory.whole(
        classifier_head.BATCH, CPU, lambda rows: classifier_head.agreement(model, model, ids(70) % 20, rows)
    )
    assert max(room.tried[3:]) == 8


def test_a_decoder_is_weighed_and_scored_on_as_many_chunks_as_fit(tmp_path: Path) -> None:
    teacher = tiny_causal.folder(tmp_path / "m")
    spec = tiny_spec(
        teacher,
        tiny_causal.text_file(tmp_path / "text.txt"),
        recipe={"name": "causal-divergence", "top_k": 4},
    )
    plain = recipe("causal-divergence").prepare(spec, CPU, lambda words, share: None)
    model = plain.teacher.model  # type: ignore[attr-defined]
    weighed = decoders.importance(model, plain.proxy_ids[:16]).tensors()  # type: ignore[attr-defined]
    loss = causal.cross_entropy(model, ids(50) % 20)
    plain._importance = None  # type: ignore[attr-defined]
    for file in (tmp_path / "cache").rglob("importance/*"):
        file.unlink()
    body, _ = decoders.body_and_head(model)
    room = Room(3)
    room.of(body)
    close(weighed, plain.importance().tensors())  # type: ignore[attr-defined]
    assert room.tried[:2] == [8, 4]
    assert causal.cross_entropy(model, ids(50) % 20) == pytest.approx(loss, rel=1e-5)
    plain.close()


# ---------------------------------------------------------------- float64


class NoFloat64(TorchFunctionMode):
    """As an accelerator without float64: only what was first brought to the CPU becomes that."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(function, "__name__", "")
        given = [*args[1:], *(kwargs or {}).values()]
        if name == "double" or (name == "to" and torch.float64 in given):
            there = "cpu" in map(str, given) or getattr(args[0], "_brought", False) or args[0].dtype == torch.float64
            if not there:
                raise TypeError("Cannot convert a tensor on this device to float64.")
        made = function(*args, **(kwargs or {}))
        if name == "cpu" or (name == "to" and "cpu" in map(str, given)):
            made._brought = True
        return made


@pytest.mark.parametrize("family", ["bert", "albert"])
def test_encoders_are_weighed_without_float64_on_the_device(tmp_path: Path, family: str) -> None:
    teacher = encoder.load(TeacherSpec(model=str(tiny_encoder(tmp_path / "m", family))), CPU)  # type: ignore[call-arg]
    plain = encoder_cut.importance(teacher.body, teacher.family, ids())
    with NoFloat64():
        weighed = encoder_cut.importance(teacher.body, teacher.family, ids())
        least_squares_init.moments(teacher.body, teacher.family, ids())
    close(plain.tensors(), weighed.tensors())


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_decoders_are_weighed_without_float64_on_the_device(tmp_path: Path, family: str) -> None:
    model = causal.load(TeacherSpec(model=str(tiny_causal.folder(tmp_path / "m", family, steps=1))), CPU).model  # type: ignore[call-arg]
    with NoFloat64():
        decoders.importance(model, ids() % 20)


def test_a_cut_is_compared_without_float64_on_the_device() -> None:
    states = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0))
    with NoFloat64():
        full_cut.require_repeated("m", "fingerprint", CPU, lambda: (states, states + 0))
        with pytest.raises(TypeError):
            states.double()
