"""Text that students write while they learn: drawn once for several steps, weighed right, taken up half-way."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from kdnas.recipes import causal_policy_gradient, recipe
from kdnas.recipes.causal import CausalBench
from kdnas.recipes.causal_policy_gradient import importance, long_term, policy_loss
from kdnas.recipes.own_text import Kept, Sample
from kdnas.study.spec import from_values
from kdnas.training.contract import Student, Training
from tests.recipes import tiny_causal
from tests.recipes.taken_up import assert_same_within_an_epoch

POLICY = {"name": "causal-policy-gradient", "prompt_tokens": 6, "new_tokens": 5}
SMALL = {
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "hidden_act": "silu",
    "head_size": 8,
}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A teacher and a text, made once."""
    place = tmp_path_factory.mktemp("own-text")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KDNAS_CACHE", str(place / "cache"))
        tiny_causal.folder(place / "llama", "llama", steps=30)
        tiny_causal.text_file(place / "text.txt", 12)
        yield place


def bench(place: Path, how: dict[str, Any], **training: Any) -> CausalBench:
    spec = from_values(
        {
            "teacher": {"model": str(place / "llama")},
            "data": {"source": str(place / "text.txt"), "length": 16, "batch_size": 8, "held_out": 0.1},
            "latency": {"length": 16},
            "recipe": how,
            "budget": {"proxy_fraction": 0.5},
            "training": {"learning_rate": 0.003, **training},
        }
    )
    made = recipe(spec.recipe.name).prepare(spec, torch.device("cpu"), lambda *_: None)
    assert isinstance(made, CausalBench)
    return made


# ---------------------------------------------------------------------------- the estimator, by enumeration


def test_reused_samples_give_the_gradient_of_now_at_prefixes_and_returns_of_the_drawing() -> None:
    """Two tokens of a two-word vocabulary, drawn from a mixture of a teacher and an older student: the expected
    gradient over all continuations, by the definition of what reuse estimates."""
    torch.manual_seed(4)
    first = torch.randn(2, dtype=torch.float64, requires_grad=True)
    second = torch.randn(2, 2, dtype=torch.float64, requires_grad=True)  # by the first word
    p1 = torch.log_softmax(0.3 * torch.randn(2, dtype=torch.float64), -1)
    p2 = torch.log_softmax(0.3 * torch.randn(2, 2, dtype=torch.float64), -1)
    old1 = torch.log_softmax(first.detach() + 0.2 * torch.randn(2, dtype=torch.float64), -1)
    old2 = torch.log_softmax(second.detach() + 0.2 * torch.randn(2, 2, dtype=torch.float64), -1)
    m1, m2 = (0.8 * old1.exp() + 0.2 * p1.exp()).log(), (0.8 * old2.exp() + 0.2 * p2.exp()).log()

    q1, q2 = torch.log_softmax(first, -1), torch.log_softmax(second, -1)
    after = (m2.exp() * (p2 - old2)).sum(-1)  # of each first word: the expected reward of what followed it
    wanted = (q1.exp() * (q1 - p1)).sum() - (q1.exp() * after).sum()
    wanted = wanted + (m1.exp() * (q2.exp() * (q2 - p2)).sum(-1)).sum()
    exact = torch.autograd.grad(wanted, (first, second))

    total = [torch.zeros_like(first), torch.zeros_like(second)]
    for a in range(2):
        for b in range(2):
            share = (m1[a] + m2[a, b]).exp()
            tokens, logits = torch.tensor([a, b]), torch.stack([first, second[a]])
            rewards = torch.stack([p1[a] - old1[a], p2[a, b] - old2[a, b]])[None]
            weights = importance(logits, tokens, torch.stack([m1[a], m2[a, b]]))
            assert weights.max() < causal_policy_gradient.LARGEST_WEIGHT
            value = long_term(rewards, torch.ones(1, 2, dtype=torch.float64))[0]
            loss = policy_loss(logits, torch.stack([p1, p2[a]]), tokens, weights, value, 0.0).sum()
            for part, grad in zip(total, torch.autograd.grad(loss, (first, second)), strict=True):
                part += share * grad
    for ours, by_definition in zip(total, exact, strict=True):
        torch.testing.assert_close(ours, by_definition, atol=1e-12, rtol=1e-10)


def test_weights_are_of_the_student_of_now_and_cut() -> None:
    logits = torch.tensor([[0.0, 0.0], [5.0, 0.0]])
    found = importance(logits, torch.tensor([1, 0]), torch.tensor([0.8, 0.1]).log())
    torch.testing.assert_close(found, torch.tensor([0.5 / 0.8, 2.0]))


# ---------------------------------------------------------------------------- reuse


def test_one_generation_serves_as_many_steps_as_asked(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = bench(place, {**POLICY, "reuse": 3})
    drawn: list[int] = []
    inner = causal_policy_gradient.sample

    def counted(*given: Any, **more: Any) -> Sample:
        drawn.append(len(given[2]))
        return inner(*given, **more)

    monkeypatch.setattr(causal_policy_gradient, "sample", counted)
    training = made.training(made.build(SMALL, 1), epochs=2, seed=1)
    steps: list[int] = []
    for _ in range(2):
        training.run_epoch(lambda step, count: steps.append(count))
    each = steps[0]
    assert len(steps) == 2 * each and each > 3
    assert len(drawn) == 2 * -(-each // 3)  # an epoch begins with samples of its own
    assert drawn[0] == 8


def test_samples_that_are_reused_are_taken_up_again(place: Path, tmp_path: Path) -> None:
    made = bench(place, {**POLICY, "reuse": 50})  # left and taken up between two uses

    def begin() -> tuple[Student, Training]:
        student = made.build(SMALL, seed=3)
        return student, made.training(student, epochs=2, seed=3)

    assert_same_within_an_epoch(begin, tmp_path / "kept")


def test_a_sample_that_has_served_is_not_written_down() -> None:
    kept, tensor = Kept(2), torch.ones(1, 1)
    assert kept.due and kept.state() == {}
    kept.draw(Sample(tensor, tensor, tensor, tensor, tensor, tensor))
    kept.used = 1
    assert not kept.due and set(kept.state()) == {"used", *Sample.__dataclass_fields__}
    kept.used = 2
    assert kept.due and kept.state() == {}
