"""Text that students write while they learn: drawn once for several steps, weighed right, taken up half-way."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from kdnas.recipes import causal_divergence, causal_policy_gradient, recipe
from kdnas.recipes.causal import CausalBench
from kdnas.recipes.causal_divergence import CausalDivergenceBench, DivergenceTraining
from kdnas.recipes.causal_policy_gradient import importance, long_term, policy_loss
from kdnas.recipes.own_text import Kept, Sample, sample
from kdnas.study.spec import TeacherSpec, from_values
from kdnas.system import paths, seeds
from kdnas.system.errors import BadOptionError
from kdnas.teachers import greedy_text
from kdnas.teachers.causal import load
from kdnas.training.contract import Student, Training
from tests.recipes import tiny_causal
from tests.recipes.taken_up import assert_same_within_an_epoch
from tests.recipes.tiny_causal import SMALL_LLAMA

POLICY = {"name": "causal-policy-gradient", "prompt_tokens": 6, "new_tokens": 5}


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
    training = made.training(made.build(SMALL_LLAMA, 1), epochs=2, seed=1)
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
        student = made.build(SMALL_LLAMA, seed=3)
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


# ---------------------------------------------------------------------------- the student's own text


OWN = {"name": "causal-divergence", "on_policy": 1.0, "prompt_tokens": 6, "divergence": "js", "temperature": 2.0}


def divergence_training(place: Path, how: dict[str, Any], epochs: int = 1, seed: int = 1) -> DivergenceTraining:
    made = bench(place, how)
    training = made.training(made.build(SMALL_LLAMA, 1), epochs=epochs, seed=seed)
    assert isinstance(training, DivergenceTraining)
    return training


def test_a_step_on_own_text_is_the_divergence_of_what_was_written(place: Path) -> None:
    training = divergence_training(place, {**OWN, "top_k": 0})
    steps, count = training.feed(seeds.generator(1, seeds.Student.BATCHES), 0)
    assert training._writes.tolist() == [True] * count
    training.before_step(steps[0], 0)
    own = training._own
    assert own is not None and own.ids.shape[0] == 8 and own.prompt == 6
    rows = steps[0].batches[0]  # type: ignore[index]
    assert torch.equal(own.ids[:, :6], training.ids[rows][:, :6])
    training.model.eval()
    loss = training.step_loss(rows, 0)
    teacher = training.bench.teacher.model  # type: ignore[attr-defined]
    with torch.no_grad():
        logits, theirs = (m(input_ids=own.ids).logits[:, 5:-1].double() / 2.0 for m in (training.model, teacher))
    p, q = theirs.softmax(-1), logits.softmax(-1)
    m = (p + q) / 2
    each = 0.5 * (p * (p / m).log() + q * (q / m).log()).sum(-1)
    wanted = 0.5 * 4 * (each * own.real).sum() / own.real.sum()  # weight · T² · mean of what was written
    assert loss.item() == pytest.approx(wanted.item(), rel=1e-4)
    assert training.tokens(rows) == int(own.real.sum())


def test_the_seed_says_which_steps_learn_on_own_text(place: Path) -> None:
    def writes(share: float, seed: int) -> list[bool]:
        training = divergence_training(place, {**OWN, "on_policy": share}, seed=seed)
        training.feed(seeds.generator(seed, seeds.Student.BATCHES), 0)
        return list(training._writes)

    half = [writes(0.5, seed) for seed in range(6)]
    assert writes(0.5, 0) == half[0] and any(other != half[0] for other in half[1:])
    share = sum(map(sum, half)) / sum(map(len, half))
    assert 0.25 < share < 0.75
    assert not any(writes(0.0, 0)) and all(writes(1.0, 0))


def test_without_a_share_nothing_is_written_and_nothing_changes(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(causal_divergence, "sample", None)
    plain = divergence_training(place, {"name": "causal-divergence"})
    plain.run_epoch()


def test_own_text_serves_several_steps_and_is_taken_up_again(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = bench(place, {**OWN, "on_policy": 0.7, "reuse": 40})
    drawn: list[int] = []
    inner = causal_divergence.sample

    def counted(*given: Any, **more: Any) -> Sample:
        drawn.append(len(given[2]))
        return inner(*given, **more)

    monkeypatch.setattr(causal_divergence, "sample", counted)

    def begin() -> tuple[Student, Training]:
        student = made.build(SMALL_LLAMA, seed=3)
        return student, made.training(student, epochs=2, seed=3)

    assert_same_within_an_epoch(begin, tmp_path / "kept")
    assert len(drawn) == 4  # two epochs straight, two up to the middle of the second, and none after it


def test_students_learn_from_their_own_text(place: Path) -> None:
    made = bench(place, {**OWN, "init": "random"})
    student = made.build(SMALL_LLAMA, 1)
    before = made.score(student).loss
    training = made.training(student, epochs=3, seed=1)
    assert [training.run_epoch().score.loss for _ in range(3)][-1] < before


# ---------------------------------------------------------------------------- the teacher's text


def test_the_teachers_text_is_its_greedy_continuation_kept_on_the_disk(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = bench(place, {"name": "causal-divergence", "text": "teacher", "prompt_tokens": 6})
    assert isinstance(made, CausalDivergenceBench)
    ids = made.read_ids()
    assert torch.equal(ids[:, :6], made.proxy_ids[:, :6]) and ids.shape == made.proxy_ids.shape
    model = made.teacher.model
    with torch.no_grad():  # without a cache, every prefix anew
        for end in range(6, 16):
            assert torch.equal(model(input_ids=ids[:5, :end]).logits[:, -1].argmax(-1), ids[:5, end])
    kept = list((paths.cache_folder() / "causal").glob("*.safetensors"))
    assert len(kept) == 1
    monkeypatch.setattr(greedy_text, "greedy", None)
    again = bench(place, {"name": "causal-divergence", "text": "teacher", "prompt_tokens": 6})
    assert torch.equal(again.read_ids(), ids)  # type: ignore[attr-defined]
    with pytest.raises(TypeError):  # other beginnings are another text
        bench(place, {"name": "causal-divergence", "text": "teacher", "prompt_tokens": 7})
    assert list((paths.cache_folder() / "causal").glob("*.safetensors")) == kept


@pytest.mark.parametrize("family", ["mistral", "gpt2"])
def test_text_is_written_right_beyond_a_sliding_window_too(tmp_path: Path, family: str) -> None:
    folder = tiny_causal.folder(tmp_path / family, family, steps=5)  # Mistral's window is of 8 tokens
    teacher = load(TeacherSpec(model=str(folder)), torch.device("cpu"))  # type: ignore[call-arg]
    ids = torch.randint(2, 28, (3, 20), generator=torch.Generator().manual_seed(0))
    written = greedy_text.greedy(teacher, ids, 4)
    drawn = sample(
        teacher.model,
        teacher,
        ids[:, :4],
        new_tokens=16,
        mix=0.3,
        temperature=1.0,
        end=-1,
        generator=torch.Generator().manual_seed(0),
    )
    with torch.no_grad():
        for end in range(4, 20):
            assert torch.equal(teacher.model(input_ids=written[:, :end]).logits[:, -1].argmax(-1), written[:, end])
        log_p = teacher.model(input_ids=drawn.ids).logits[:, 3:-1].log_softmax(-1)
    of_drawn = log_p.gather(-1, drawn.tokens[..., None]).squeeze(-1)
    assert drawn.teacher is not None
    for part in (drawn.teacher, drawn.student, drawn.drawn_from):  # one model on both sides
        torch.testing.assert_close(part, of_drawn, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("top_k", [0, 6])
def test_only_what_the_teacher_wrote_is_learned(place: Path, top_k: int) -> None:
    how = {"name": "causal-divergence", "text": "teacher", "prompt_tokens": 6, "top_k": top_k, "weight": 0.25}
    training = divergence_training(place, how)
    rows = torch.tensor([2, 0, 5])
    training.model.eval()
    loss = training.step_loss(rows, 0)
    ids = training.ids[rows]
    with torch.no_grad():
        teacher = training.bench.teacher.model  # type: ignore[attr-defined]
        log_q, log_p = (m(input_ids=ids).logits[:, 5:-1].double().log_softmax(-1) for m in (training.model, teacher))
    hard = -log_q.gather(-1, ids[:, 6:, None]).mean()
    if top_k:
        places = log_p.topk(6, -1).indices
        log_p, log_q = (
            torch.cat([x.gather(-1, places), (1 - x.exp().gather(-1, places).sum(-1, True)).log()], -1)
            for x in (log_p, log_q)
        )
    soft = (log_p.exp() * (log_p - log_q)).sum(-1).mean()
    assert loss.item() == pytest.approx((0.25 * soft + 0.75 * hard).item(), abs=5e-3 if top_k else 1e-5)  # 16 bits
    assert training.tokens(rows) == 3 * 10


def test_what_cannot_be_is_said_in_one_line(place: Path) -> None:
    with pytest.raises(BadOptionError, match="weight, the share of that view, is 0; raise weight"):
        from_values({"recipe": {"name": "causal-divergence", "on_policy": 0.5, "weight": 0}})
    for more in ({"on_policy": 0.5}, {"text": "teacher"}):
        with pytest.raises(BadOptionError, match=r"recipe.prompt_tokens = 16 leaves nothing of chunks of 16 tokens"):
            bench(place, {"name": "causal-divergence", "prompt_tokens": 16, **more})
    with pytest.raises(BadOptionError, match=r"recipe.on_policy = 1.5 is out of range. Give a number from 0 to 1"):
        from_values({"recipe": {"name": "causal-divergence", "on_policy": 1.5}})
    bench(place, {"name": "causal-divergence", "prompt_tokens": 16})  # which nobody uses
