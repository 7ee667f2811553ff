"""Batches whose gradients make one step are one big batch, and blocks computed again give the same gradients."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from kdnas.models.recurrent import RecurrentConfig, RecurrentForSequenceClassification
from kdnas.recipes import recipe
from kdnas.recipes.contract import Workbench
from kdnas.recipes.hidden_state_training import Ready
from kdnas.study.space import Candidate
from kdnas.study.spec import from_values
from kdnas.study.spec_differences import differences
from kdnas.system.errors import BadOptionError
from kdnas.training import activations
from kdnas.training.contract import Student, Training
from kdnas.training.loop import Step, Stepwise
from tests.encoders import text_folder, tiny_encoder, tiny_spec
from tests.recipes import tiny_causal
from tests.recipes.taken_up import Left, assert_same_within_an_epoch
from tests.recipes.tiny_labelled import examples, rnn_spec
from tests.tiny import tiny_folder

STEPS = 2
SMALL: Candidate = {
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "head_size": 8,
    "intermediate_size": 32,
    "hidden_act": "silu",
}
CANDIDATES: dict[str, Candidate] = {
    "hidden-state": {
        "num_hidden_layers": 2,
        "hidden_size": 16,
        "head_size": 8,
        "intermediate_size": 24,
        "hidden_act": "gelu",
    },
    "causal-divergence": SMALL,
    "own-text": SMALL,
    "rnn-hybrid": {
        "cell": "gru",
        "num_hidden_layers": 1,
        "hidden_size": 16,
        "embedding_size": 8,
        "bidirectional": False,
        "dropout": 0.0,
        "pruned": 0.5,
    },
    "lora": {
        "r": 4,
        "lora_alpha": 16.0,
        "adapted_layers": 2,
        "placement": "spread",
        "target_modules": "query-value",
        "lora_dropout": 0.0,
    },
}


class Place:
    """Models and texts, and a bench for each recipe, made when it is first asked for."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._made: dict[str, Workbench] = {}

    def bench(self, name: str) -> Workbench:
        if name not in self._made:
            values = self._values(name)
            values["training"] = {"accumulate": 3, "clip": 1e9, "learning_rate": 0.01}
            spec = from_values(values)
            self._made[name] = recipe(spec.recipe.name).prepare(spec, torch.device("cpu"), lambda *_: None)
        return self._made[name]

    def _values(self, name: str) -> dict[str, Any]:
        place = self._folder
        if name == "own-text":
            own = {"name": "causal-divergence", "on_policy": 1.0, "prompt_tokens": 6, "reuse": 2, "top_k": 0}
            return {**self._values("causal-divergence"), "recipe": own}
        if name.startswith("causal"):
            if not (place / "llama").is_dir():
                tiny_causal.folder(place / "llama", "llama")
                tiny_causal.text_file(place / "text.txt", 12)
            more = {"top_k": 6} if name == "causal-divergence" else {"prompt_tokens": 6, "new_tokens": 8, "reuse": 2}
            return {
                "teacher": {"model": str(place / "llama")},
                "data": {"source": str(place / "text.txt"), "length": 16, "batch_size": 4, "held_out": 0.1},
                "latency": {"length": 16},
                "recipe": {"name": name, **more},
            }
        if name == "hidden-state":
            still = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
            tiny_encoder(place / "bert", "bert", **still)
            text_folder(place / "text")
            spec = tiny_spec(place / "bert", place / "text", data={"batch_size": 4, "length": 15})
            return spec.model_dump(mode="json")
        if not (place / "rows.jsonl").is_file():
            tiny_folder(place / "classifier")
            examples(place / "rows.jsonl")
        spec = rnn_spec(place / "classifier", place / "rows.jsonl", data={"batch_size": 4})
        values = spec.model_dump(mode="json")
        taught = {"name": name, "teacher_epochs": 6, "teacher_rate": 1e-2, "teacher_head_rate": 1e-2}
        return {**values, "recipe": taught, **({"space": {}} if name == "lora" else {})}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    folder = tmp_path_factory.mktemp("accumulate")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KDNAS_CACHE", str(folder / "cache"))
        yield Place(folder)


def begun(bench: Workbench, name: str, **training: Any) -> Stepwise[Any]:
    """A training in float64 without dropout, its epoch prepared, on the bench under other settings of `training`."""
    plain = bench.spec
    bench.spec = plain.model_copy(update={"training": plain.training.model_copy(update=training)})
    student = bench.build(CANDIDATES.get(name, SMALL), 1)
    found = bench.training(student, epochs=1, seed=1)
    bench.spec = plain
    assert isinstance(found, Stepwise)
    found.before_epoch()  # in float32, as the solver has it
    found.before_epoch = lambda: None  # type: ignore[method-assign]
    for module in student.body.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    for part in (student.body, student.aids):
        if part is not None:
            part.double()
    for parameter in found.optimiser.named.values():
        parameter.data = parameter.data.double()
    return found


def joined(batches: Sequence[Any]) -> Any:
    """Several batches of a recipe as one."""
    if isinstance(batches[0], Tensor):
        return torch.cat(list(batches))
    assert isinstance(batches[0], Ready)
    assert len({str(batch.positions) for batch in batches}) == 1
    states = {layer: torch.cat([b.states[layer] for b in batches]) for layer in batches[0].states}
    return Ready(torch.cat([b.ids for b in batches]), states, batches[0].positions)


def after_some_steps(training: Stepwise[Any]) -> tuple[Mapping[str, Tensor], Tensor]:
    """The weights after some steps, and the sum of the losses until there."""

    def leave(step: int, count: int) -> None:
        if step == STEPS:
            raise Left

    with contextlib.suppress(Left):
        training.run_epoch(leave)
    assert training.step == STEPS
    return training.optimiser.named, training._losses


@pytest.mark.parametrize("name", [*CANDIDATES, "causal-policy-gradient"])
def test_a_step_of_several_batches_is_that_of_one_big_one(place: Place, name: str) -> None:
    bench = place.bench(name)
    ours, whole = begun(bench, name), begun(bench, name)
    feed, seen = whole.feed, []

    def of_one_batch(generator: Any, first: int = 0) -> tuple[Any, int]:
        steps, count = feed(generator, first)
        lists = ([list(step.batches), step.rows] for step in steps)
        return (Step(seen.append(len(batches)) or [joined(batches)], rows) for batches, rows in lists), count  # type: ignore[func-returns-value]

    whole.feed = of_one_batch  # type: ignore[method-assign]
    before = {n: p.detach().clone() for n, p in ours.optimiser.named.items()}
    (one, lost), (other, lost_whole) = after_some_steps(ours), after_some_steps(whole)
    assert seen == [3] * STEPS
    for parameter, tensor in one.items():
        assert tensor.dtype == torch.float64
        torch.testing.assert_close(tensor, other[parameter], rtol=1e-9, atol=1e-11, msg=parameter)
    assert any(not torch.allclose(before[n], p, atol=1e-3) for n, p in one.items())
    torch.testing.assert_close(lost, lost_whole, rtol=1e-6, atol=0)


@pytest.mark.parametrize("name", ["hidden-state", "causal-divergence"])
def test_its_rows_are_those_of_the_big_batch_and_steps_are_counted_once(place: Place, name: str) -> None:
    bench = place.bench(name)
    assert bench.spec.training.accumulate == 3
    ours = begun(bench, name)
    steps, count = ours.feed(_generator(), 0)
    rows = ours.count
    assert [step.rows for step in _used(steps)] == [12] * (rows // 12) + ([rows % 12] if rows % 12 else [])
    assert count == -(-rows // 12)
    later, again = ours.feed(_generator(), 1)
    assert again == count and len(_used(later)) == count - 1
    rates = []
    inner = ours.optimiser.schedule
    ours.optimiser.schedule = lambda step, of: (rates.append((step, of)), inner(step, of))[1]  # type: ignore[func-returns-value,method-assign]
    after_some_steps(ours)
    assert rates == [(step, count) for step in range(STEPS)]


def _generator() -> Any:
    import numpy as np

    return np.random.default_rng(0)


def _used(steps: Any) -> list[Step[Any]]:
    """The steps, their batches taken in turn, as a training takes them."""
    found = []
    for step in steps:
        batches = list(step.batches)
        assert 1 <= len(batches) <= 3
        found.append(step)
    return found


@pytest.mark.parametrize("name", ["hidden-state", "own-text"])
def test_a_training_left_between_such_steps_is_the_uninterrupted_one(place: Place, name: str, tmp_path: Path) -> None:
    bench = place.bench(name)

    def begin() -> tuple[Student, Training]:
        student = bench.build(CANDIDATES[name], seed=3)
        return student, bench.training(student, epochs=2, seed=3)

    assert_same_within_an_epoch(begin, tmp_path / "kept")


# ---------------------------------------------------------------------------- activation checkpointing


@pytest.mark.parametrize("name", ["hidden-state", "causal-divergence", "causal-policy-gradient", "lora"])
def test_blocks_computed_again_give_the_same_weights_and_keep_less(place: Place, name: str) -> None:
    bench = place.bench(name)
    found = []
    for checkpointing in (False, True):
        training = begun(bench, name, checkpointing=checkpointing)
        kept = _kept(training, checkpointing)
        named, losses = after_some_steps(training)
        found.append((kept, named, losses))
    (kept, plain, losses), (less, again, same) = found
    assert less < 0.7 * kept
    assert torch.equal(losses, same)
    for parameter, tensor in plain.items():
        torch.testing.assert_close(tensor, again[parameter], rtol=1e-12, atol=1e-14, msg=parameter)


def _kept(training: Stepwise[Any], checkpointing: bool) -> int:
    """Bytes that a step's forward pass keeps for its backward pass, each storage once, parameters left out."""
    seen: dict[int, int] = {}
    own = {p.untyped_storage().data_ptr() for p in training.student.modules().parameters()}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            seen[storage.data_ptr()] = storage.nbytes()
        return tensor

    steps, _ = training.feed(_generator(), 0)
    given = next(iter(steps))
    batch = next(iter(given.batches))
    training.before_step(given, 0)
    training.student.body.train()
    with (
        torch.random.fork_rng(),
        activations.recomputed(training.student.body, checkpointing),
        torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor),
    ):
        loss = training.step_loss(batch, 0)
    assert loss.requires_grad
    return sum(seen.values())


def test_dropout_is_drawn_again_as_it_was(place: Place) -> None:
    bench = place.bench("hidden-state")
    found = []
    for checkpointing in (False, True):
        training = begun(bench, "hidden-state", checkpointing=checkpointing)
        for module in training.student.body.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.3
        found.append(after_some_steps(training))
    assert torch.equal(found[0][1], found[1][1])
    for parameter, tensor in found[0][0].items():
        torch.testing.assert_close(tensor, found[1][0][parameter], rtol=1e-12, atol=1e-14, msg=parameter)


def test_after_an_epoch_the_student_is_as_any_other(place: Place) -> None:
    training = begun(place.bench("causal-divergence"), "causal-divergence", checkpointing=True)
    after_some_steps(training)
    for part in training.student.body.modules():
        assert not getattr(part, "gradient_checkpointing", False) and not part._forward_hooks


def test_recurrent_students_refuse_it_in_words(place: Place) -> None:
    values = place._values("rnn-hybrid")
    with pytest.raises(BadOptionError, match="recurrent students have no blocks to compute again"):
        from_values({**values, "training": {"checkpointing": True}})
    config = RecurrentConfig(vocab_size=9, hidden_size=4, embedding_size=4, num_labels=2)
    with pytest.raises(BadOptionError, match="RecurrentForSequenceClassification has no blocks"):
        activations.require(Student(RecurrentForSequenceClassification(config)).body)


def test_a_spec_tells_them_apart() -> None:
    one = from_values({})
    for field, value in {"accumulate": 4, "checkpointing": True}.items():
        other = from_values({"training": {field: value}})
        assert list(differences(one, other)) == [f"training.{field}"]
    with pytest.raises(BadOptionError, match=r"training.accumulate = 0 is out of range. Give a whole number from 1 to"):
        from_values({"training": {"accumulate": 0}})
