"""Every family is timed in the dtype of its study, teacher and student alike, and learns in its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from torch import Tensor
from transformers import DynamicCache

from kdnas.measuring import passes
from kdnas.recipes import recipe
from kdnas.recipes.contract import Workbench
from kdnas.recipes.rnn_hybrid import RnnBench
from kdnas.search.timing import require_timed
from kdnas.students.model_card import _forms
from kdnas.study.space import Candidate
from kdnas.study.spec import StudySpec, from_values
from kdnas.system.errors import UsageError
from kdnas.training.contract import Student
from tests.encoders import text_folder, tiny_encoder, tiny_spec
from tests.recipes import tiny_causal
from tests.recipes.test_lora import spec_of as lora_spec
from tests.recipes.tiny_causal import SMALL_LLAMA
from tests.recipes.tiny_labelled import examples, rnn_spec
from tests.tiny import tiny_folder

BF16: dict[str, Any] = {"dtype": "bfloat16"}
FAMILIES = ("bert", "first", "token", "rnn-hybrid", "lora")


def causal_spec(place: Path, what: str, **latency: Any) -> StudySpec:
    return from_values(
        {
            "device": "cpu",
            "teacher": {"model": str(place / "llama")},
            "data": {"source": str(place / "text.txt"), "length": 16, "batch_size": 8, "held_out": 0.1},
            "recipe": {"name": "causal-divergence", "weight": 0.0},
            "latency": {"length": 16, "what": what, "max_seconds": 0.02, "precision": 0.5, **latency},
        }
    )


def spec_of(place: Path, family: str, **latency: Any) -> StudySpec:
    if family == "bert":
        return tiny_spec(place / "encoder", place / "texts", latency=latency)
    if family in ("first", "token"):
        return causal_spec(place, family, **latency)
    if family == "rnn-hybrid":
        return rnn_spec(place / "teacher", place / "data.jsonl", latency=latency)
    own = {"length": 16, "precision": 0.5, "max_seconds": 0.02, **latency}
    return lora_spec(place, {"truncate": True}, latency=own)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    place = tmp_path_factory.mktemp("dtypes")
    tiny_encoder(place / "encoder")
    text_folder(place / "texts")
    tiny_causal.folder(place / "llama", "llama", steps=30)
    tiny_causal.text_file(place / "text.txt", 12)
    tiny_folder(place / "teacher")
    examples(place / "data.jsonl")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KDNAS_CACHE", str(place / "cache"))
        patch.setenv("KDNAS_STATE", str(place / "state"))
        yield place


@pytest.fixture(scope="module")
def benches(place: Path) -> Iterator[Callable[[str], Workbench]]:
    """A bench of each family that times in bf16, made once."""
    made: dict[str, Workbench] = {}

    def bench(family: str) -> Workbench:
        if family not in made:
            spec = spec_of(place, family, **BF16)
            made[family] = recipe(spec.recipe.name).prepare(spec, torch.device("cpu"), lambda *_: None)
        return made[family]

    yield bench
    for one in made.values():
        one.close()


def candidate_of(bench: Workbench, family: str) -> Candidate:
    if family in ("first", "token"):
        return SMALL_LLAMA
    return bench.space.from_ordinal(0)


class Seen:
    """What enters linear layers while a pass runs, and the models that are called."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.dtypes: list[torch.dtype] = []
        linear = torch.nn.Linear.forward

        def forward(part: torch.nn.Linear, given: Tensor) -> Tensor:
            self.dtypes.append(given.dtype)
            return linear(part, given)

        monkeypatch.setattr(torch.nn.Linear, "forward", forward)

    def of(self, once: Any) -> set[torch.dtype]:
        self.dtypes.clear()
        once()
        return set(self.dtypes)


@pytest.mark.parametrize("family", FAMILIES)
def test_teacher_and_student_compute_in_it_and_learn_in_their_own(
    family: str, benches: Callable[[str], Workbench], monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = benches(family)
    candidate = candidate_of(bench, family)
    student = bench.build(candidate, 0)
    before = {name: tensor.dtype for name, tensor in student.body.state_dict().items()}
    seen = Seen(monkeypatch)
    for who in (student, None):
        for once in (bench.timed(who), *bench.asides(who).values()):
            assert seen.of(once) == {torch.bfloat16}
    assert {name: tensor.dtype for name, tensor in student.body.state_dict().items()} == before
    assert torch.float32 in before.values() and torch.bfloat16 not in before.values()
    training = bench.training(student, epochs=1, seed=0)
    assert seen.of(training.run_epoch) == {torch.float32} == seen.of(lambda: bench.score(student))


@pytest.mark.parametrize("family", ["bert", "token"])
def test_the_teachers_copy_is_made_once(
    family: str, benches: Callable[[str], Workbench], monkeypatch: pytest.MonkeyPatch
) -> None:
    bench, copied = benches(family), passes._copied
    bench.timed(None)
    made: list[torch.nn.Module] = []

    def counted(model: torch.nn.Module, dtype: torch.dtype) -> torch.nn.Module:
        made.append(model)
        return copied(model, dtype)

    monkeypatch.setattr(passes, "_copied", counted)
    student = bench.build(candidate_of(bench, family), 0)
    for _ in range(2):
        bench.timed(None)
        bench.timed(student)
    assert made == [student.body] * 2


def test_the_cache_of_a_generated_token_has_the_dtype(
    benches: Callable[[str], Workbench], monkeypatch: pytest.MonkeyPatch
) -> None:
    kept: list[DynamicCache] = []
    real = DynamicCache.__init__

    def init(cache: DynamicCache, *args: Any, **options: Any) -> None:
        real(cache, *args, **options)
        kept.append(cache)

    monkeypatch.setattr(DynamicCache, "__init__", init)
    bench = benches("token")
    once = bench.timed(None)
    once()
    assert {layer.keys.dtype for layer in kept[-1].layers} == {torch.bfloat16}  # type: ignore[union-attr]
    assert {layer.values.dtype for layer in kept[-1].layers} == {torch.bfloat16}  # type: ignore[union-attr]


@pytest.mark.parametrize("family", FAMILIES)
def test_without_one_the_models_themselves_are_timed(family: str, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = spec_of(place, family)
    bench = recipe(spec.recipe.name).prepare(spec, torch.device("cpu"), lambda *_: None)
    monkeypatch.setattr(passes, "_copied", None)  # would fail if it were called
    student, seen = bench.build(candidate_of(bench, family), 0), Seen(monkeypatch)
    for who in (student, None):
        assert seen.of(bench.timed(who)) == {torch.float32}
    told: list[str] = []
    require_timed(bench, lambda words, share: told.append(words))
    assert not told
    bench.close()


def test_what_is_known_of_the_teacher_is_said_and_refused_before_the_first_trial(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = spec_of(place, "bert", **BF16)
    bench = recipe(spec.recipe.name).prepare(spec, torch.device("cpu"), lambda *_: None)
    told: list[str] = []
    require_timed(bench, lambda words, share: told.append(words))
    assert told[0].startswith("teacher and students are timed in bfloat16; the teacher's copy takes ")

    def without(*_: Any, **__: Any) -> None:
        raise RuntimeError("\"some_cpu_kernel\" not implemented for 'BFloat16'\nException raised from …")

    monkeypatch.setattr(torch.nn.Linear, "forward", without)
    with pytest.raises(UsageError) as caught:
        require_timed(bench, lambda *_: None)
    said = str(caught.value)
    assert said.startswith("The teacher: BertModel cannot be timed in bfloat16 on cpu: ") and "\n" not in said
    assert "\"some_cpu_kernel\" not implemented for 'BFloat16'. Take another latency.dtype, or auto." in said
    bench.close()


def test_a_form_that_cannot_be_in_it_has_no_time_and_says_why(benches: Callable[[str], Workbench]) -> None:
    bench = cast(RnnBench, benches("rnn-hybrid"))
    student = bench.build(candidate_of(bench, "rnn-hybrid"), 0)
    body = cast(Any, student.body).eval()
    plain, small = bench._form("as trained", body), bench._form("int8", bench._int8(body), body)
    assert plain["latency_ms"] > 0 and plain["speedup"] > 0
    assert small["latency_ms"] is small["speedup"] is None and small["parameters"] == plain["parameters"]
    assert small["flag"] == "not timed: int8 weights go with float32 and not with bfloat16."
    table = _forms([plain, small])
    assert table is not None and table["rows"][1][4:6] == ("–", "–") and table["untimed"] == small["flag"]


def test_static_students_are_timed_in_it(place: Path) -> None:
    from kdnas.recipes.static_students import Table

    ids = torch.zeros(1, 4, dtype=torch.long)
    body = Student(Table(9, 8)).body
    passes.one_pass(body, torch.device("cpu"), "bfloat16", input_ids=ids)()
