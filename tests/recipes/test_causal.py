"""Both causal recipes on tiny models: benches, trainings that resume, caches that agree with the live teacher."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from kdnas.measuring import devices, latency, passes
from kdnas.measuring.clocks import Pass
from kdnas.recipes import recipe
from kdnas.recipes.causal import CausalBench, CausalTraining
from kdnas.recipes.causal_divergence import Cached, CausalDivergenceBench, Live
from kdnas.recipes.causal_policy_gradient import advantages, frequency, long_term, policy_loss, sameness
from kdnas.recipes.own_text import sample
from kdnas.search.timing import latency_protocol
from kdnas.store.database import open_store
from kdnas.students.from_config import given, read_config
from kdnas.study.spec import StudySpec, from_values
from kdnas.system.errors import KdnasError, UsageError
from kdnas.teachers import cache_folder
from kdnas.teachers.causal import cross_entropy, unigram_loss
from kdnas.teachers.logit_cache import entry_key
from kdnas.training.contract import Student, Training
from kdnas.training.losses.divergences import divergence
from tests.outside import Outside
from tests.recipes import tiny_causal
from tests.recipes.taken_up import assert_same_within_an_epoch

FAMILIES = ("llama", "gpt2")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two teachers and a text, made once."""
    place = tmp_path_factory.mktemp("causal")
    for family in FAMILIES:
        tiny_causal.folder(place / family, family)
    tiny_causal.text_file(place / "text.txt", 16)
    return place


@pytest.fixture(autouse=True)
def own_cache(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KDNAS_CACHE", str(place / "cache"))


def spec(place: Path, family: str = "llama", **changes: Any) -> StudySpec:
    values: dict[str, Any] = {
        "teacher": {"model": str(place / family)},
        "data": {"source": str(place / "text.txt"), "length": 16, "batch_size": 8, "held_out": 0.1},
        "latency": {"length": 16},
        "recipe": {"name": "causal-divergence", "top_k": 6},
        "budget": {"proxy_fraction": 0.5},
        "training": {"learning_rate": 0.003},
    }
    for part, more in changes.items():
        values[part] = more if "name" in more else {**values.get(part, {}), **more}
    return from_values(values)


def bench(chosen: StudySpec) -> CausalBench:
    made = recipe(chosen.recipe.name).prepare(chosen, torch.device("cpu"), lambda *_: None)
    assert isinstance(made, CausalBench)
    return made


SMALL = {"num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32, "hidden_act": "silu"}
HEAD = {"llama": {"head_size": 8}, "gpt2": {"head_size": 16}}
POLICY = {"name": "causal-policy-gradient", "prompt_tokens": 6, "new_tokens": 8}
RECIPES: list[dict[str, Any]] = [
    {"divergence": "forward"},
    {"divergence": "reverse", "temperature": 2.0},
    {"divergence": "js", "js_beta": 0.3},
    {"divergence": "forward", "top_k": 0, "weight": 1.0},
    {"weight": 0.0},
    POLICY,
    {**POLICY, "frequency_penalty": 0.3, "diversity_penalty": 0.3, "entropy_penalty": 0.1},
]


def small(family: str) -> dict[str, Any]:
    return {**SMALL, **HEAD[family]}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("how", RECIPES, ids=lambda r: "-".join(str(v) for v in r.values()))
def test_a_student_learns_and_is_saved(place: Path, tmp_path: Path, family: str, how: dict[str, Any]) -> None:
    made = bench(spec(place, family, recipe={"name": "causal-divergence", "init": "random", **how}))
    student = made.build(small(family), seed=1)
    before = made.score(student)
    training = made.training(student, epochs=2, seed=1)
    first, last = training.run_epoch(), training.run_epoch()
    assert last.score.loss < first.score.loss < before.loss
    assert last.tokens == 2 * len(made.chunks.proxy) * 15
    made.save(student, tmp_path / "out")
    made.close()
    opened = _opened(tmp_path / "out")
    assert opened.num_parameters() == student.size
    assert cross_entropy(opened, made.held_ids) == pytest.approx(last.score.raw_loss, abs=1e-5)


def _opened(folder: Path) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)


def test_a_saved_student_generates_without_kdnas(place: Path, tmp_path: Path, outside: Outside) -> None:
    made = bench(spec(place))
    made.save(made.build(small("llama"), seed=1), tmp_path / "out")
    program = (
        "import sys; from transformers import AutoModelForCausalLM, AutoTokenizer\n"
        "m = AutoModelForCausalLM.from_pretrained('out'); t = AutoTokenizer.from_pretrained('out')\n"
        "x = t('the senate shall', return_tensors='pt')\n"
        "y = m.generate(**x, max_new_tokens=5, do_sample=False)\n"
        "assert 'kdnas' not in sys.modules; print(len(y[0]), t.decode(y[0]))"
    )
    done = outside.run(program, tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("8 the senate shall")


@pytest.mark.parametrize("how", [RECIPES[0], RECIPES[-1]], ids=["divergence", "policy"])
def test_resumed_training_is_the_uninterrupted_one(place: Path, how: dict[str, Any]) -> None:
    made = bench(spec(place, recipe={"name": "causal-divergence", **how}))

    def begin() -> tuple[Student, CausalTraining]:
        student = made.build(small("llama"), seed=3)
        training = made.training(student, epochs=3, seed=3)
        assert isinstance(training, CausalTraining)
        return student, training

    _, straight = begin()
    whole = [straight.run_epoch().score for _ in range(3)]
    _, first = begin()
    first.run_epoch()
    tensors, facts = first.state()
    facts = json.loads(json.dumps(facts))
    _, second = begin()
    second.restore(tensors, facts)
    assert [second.run_epoch().score for _ in range(2)] == whole[1:]
    for one, other in zip(straight.model.parameters(), second.model.parameters(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("how", [RECIPES[0], RECIPES[-1]], ids=["divergence", "policy"])
def test_a_training_left_within_an_epoch_is_the_uninterrupted_one(
    place: Path, how: dict[str, Any], tmp_path: Path
) -> None:
    made = bench(spec(place, "gpt2", recipe={"name": "causal-divergence", **how}))

    def begin() -> tuple[Student, Training]:
        student = made.build(small("gpt2"), seed=3)  # which has dropout
        return student, made.training(student, epochs=2, seed=3)

    assert_same_within_an_epoch(begin, tmp_path / "kept")


def test_a_checkpoint_of_another_training_is_refused(place: Path) -> None:
    made = bench(spec(place))
    student = made.build(small("llama"), seed=1)
    tensors, facts = made.training(student, epochs=3, seed=1).state()
    with pytest.raises(UsageError, match="over 3 epochs with seed 1"):
        made.training(student, epochs=3, seed=2).restore(tensors, facts)


def test_the_teacher_scores_0_and_word_counts_score_1(place: Path) -> None:
    made = bench(spec(place))
    assert made.score(Student(made.teacher.model)).loss == pytest.approx(0.0, abs=1e-9)
    counts = made._counts.numpy() + 1.0
    unigram = _Unigram(torch.from_numpy(np.log(counts / counts.sum())).float(), made.teacher.model.config)
    assert made.score(Student(unigram)).loss == pytest.approx(1.0, abs=1e-5)
    ids = torch.tensor([[0, 1, 1], [0, 1, 1]])
    assert unigram_loss(torch.tensor([3, 1]), ids) == pytest.approx(-np.log(2 / 6))


class _Unigram(torch.nn.Module):
    """Predicts the same distribution everywhere, in the shape of a Llama."""

    def __init__(self, log_probs: torch.Tensor, config: Any) -> None:
        super().__init__()
        self.config, self.device = config, torch.device("cpu")
        self.head = torch.nn.Linear(1, len(log_probs))
        self.head.weight.data.zero_()
        self.head.bias.data.copy_(log_probs)

    def get_decoder(self) -> torch.nn.Module:
        outer = self

        class Body(torch.nn.Module):
            def forward(self, input_ids: torch.Tensor, use_cache: bool) -> Any:
                return type("Out", (), {"last_hidden_state": torch.ones(*input_ids.shape, 1)})

        assert outer.config is not None
        return Body()

    def get_output_embeddings(self) -> torch.nn.Module:
        return self.head


def test_cached_and_live_teachers_agree(place: Path) -> None:
    made = bench(spec(place))
    assert isinstance(made, CausalDivergenceBench)
    source = made.source()
    assert isinstance(source, Cached)
    live = Live(made.teacher, made.proxy_ids, 1.0, 6, made.device)
    rows = torch.tensor([3, 0, 7])
    one, other = source(rows)(slice(None)), live(rows)(slice(None))
    assert one.indices is not None and other.indices is not None
    assert (one.indices == other.indices).float().mean() > 0.99
    torch.testing.assert_close(one.log_probs, other.log_probs, atol=5e-3, rtol=2e-3)


def test_the_stated_error_bounds_what_the_cache_cannot_see(place: Path) -> None:
    made = bench(spec(place))
    assert isinstance(made, CausalDivergenceBench)
    source = made.source()
    assert isinstance(source, Cached)
    lost = source.cache.lost
    assert 0 < lost["tail_mass"] < 1 and lost["rounding"] < 0.02
    ids = made.proxy_ids[:8]
    even = torch.zeros(8 * 15, made.vocabulary)
    whole = Live(made.teacher, ids, 1.0, 0, made.device)(torch.arange(8))(slice(None))
    part = source(torch.arange(8))(slice(None))
    gap = divergence(even, whole, "forward") - divergence(even, part, "forward")
    assert float(gap.mean()) == pytest.approx(lost["unseen_nats"], abs=5e-3)


def test_another_teacher_text_k_or_temperature_is_another_entry() -> None:
    ids = torch.arange(32).view(2, 16)
    entries = [("a", ids, 4, 1.0), ("b", ids, 4, 1.0), ("a", ids.flip(0), 4, 1.0), ("a", ids.view(4, 8), 4, 1.0),
               ("a", ids, 5, 1.0), ("a", ids, 4, 2.0)]  # fmt: skip
    keys = [entry_key(*entry, torch.device("cpu")) for entry in entries]
    assert len(set(keys)) == len(keys) and keys[0] == entry_key("a", ids.clone(), 4, 1.0, torch.device("cpu"))


def test_a_killed_build_leaves_nothing_that_looks_finished(place: Path) -> None:
    chosen = spec(place, recipe={"top_k": 3})

    def stop(words: str, share: float | None) -> None:
        if "predictions" in words:
            raise KeyboardInterrupt

    before = {entry.key for entry in cache_folder.entries()}
    with pytest.raises(KeyboardInterrupt):
        recipe(chosen.recipe.name).prepare(chosen, torch.device("cpu"), stop)
    assert {entry.key for entry in cache_folder.entries()} == before
    assert len(list(cache_folder.root().glob(".build-*"))) == 1  # whose rows are taken up
    recipe(chosen.recipe.name).prepare(chosen, torch.device("cpu"), lambda *_: None).close()
    assert len(cache_folder.entries()) == len(before) + 1 and not list(cache_folder.root().glob(".build-*"))


def test_a_cache_without_room_asks_the_teacher_live(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KDNAS_CACHE_GIB", "0")
    made = bench(spec(place, recipe={"name": "causal-divergence", "top_k": 4}))
    assert isinstance(made, CausalDivergenceBench)
    assert isinstance(made.source(), Live)
    student = made.build(small("llama"), seed=1)
    before = made.score(student).loss
    assert made.training(student, epochs=1, seed=1).run_epoch().score.loss < before
    assert made.provenance()["cache"] == {"proxy": {"place": "recompute"}}


def test_students_can_be_cut_from_another_model(place: Path, tmp_path: Path) -> None:
    other = tiny_causal.folder(tmp_path / "other", "gpt2", seed=5)
    made = bench(spec(place, recipe={"student": str(other)}))
    whole: dict[str, Any] = {"num_hidden_layers": 3, "intermediate_size": 64, "hidden_act": "gelu_new"}
    student = made.build({**small("gpt2"), **whole}, 1)
    assert student.body.config.model_type == "gpt2"  # type: ignore[union-attr]
    assert made.score(student).loss < 1
    assert made.provenance()["student"] == str(other)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_student_goes_on_from_the_weights_of_one_that_was_distilled(place: Path, tmp_path: Path, family: str) -> None:
    made = bench(spec(place, family))
    first = made.build(small(family), seed=1)
    reached = made.training(first, epochs=1, seed=1).run_epoch().score
    made.save(first, tmp_path / "first")
    made.close()
    own = read_config(tmp_path / "first" / "config.json")
    on = {"name": "causal-divergence", "top_k": 6, "student": str(tmp_path / "first"), "init": "fitted"}
    job = given(spec(place, family, recipe=on), own)
    again = bench(job.spec)
    second = again.build(job.candidate, seed=2)
    for name, weight in first.body.state_dict().items():
        assert torch.equal(second.body.state_dict()[name], weight), name
    training = again.training(second, epochs=2, seed=2)
    assert training.begin().score.raw_loss == pytest.approx(reached.raw_loss, abs=1e-6)
    assert training.run_epoch().score.loss < reached.loss


@pytest.mark.parametrize("step", ["describe", "prepare"])
def test_different_vocabularies_are_one_line(place: Path, tmp_path: Path, step: str) -> None:
    other = tiny_causal.folder(tmp_path / "other", "gpt2", extra=("congress",), steps=1)
    chosen = spec(place, recipe={"student": str(other)})
    words = r"has a vocabulary of 28 tokens, the student .* of 29.*same tokenizer"
    with pytest.raises(UsageError, match=words) as caught:
        made = recipe(chosen.recipe.name)
        made.describe(chosen) if step == "describe" else made.prepare(chosen, torch.device("cpu"), lambda *_: None)
    assert caught.value.exit_code == 2 and "\n" not in str(caught.value)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_configuration_given_by_hand_is_a_point_of_the_space(place: Path, family: str) -> None:
    chosen = spec(place, family)
    made = bench(chosen)
    candidate = {**made.space.from_ordinal(0), "num_hidden_layers": 2, "intermediate_size": 40}
    job = given(chosen, made.config(candidate))
    assert job.candidate == candidate
    assert given(chosen, candidate).candidate == candidate
    with pytest.raises(UsageError, match=r"The configuration has a vocabulary of 99 tokens, the teacher .* of 28"):
        given(chosen, {**made.config(candidate), "vocab_size": 99})


def _file(place: Path, text: str) -> str:
    place.write_text(text, encoding="utf-8")
    return str(place)


def test_bad_data_is_one_line(place: Path, tmp_path: Path) -> None:
    empty = _file(tmp_path / "empty.csv", "text,other\n,a\n,b\n")
    lacking = _file(tmp_path / "lacking.csv", "article,summary\na b,c\n")
    cases = {empty: "holds no text", lacking: r"has no column 'text'. There are: article, summary"}
    for source, words in cases.items():
        with pytest.raises(KdnasError, match=words) as caught:
            bench(spec(place, data={"source": source}))
        assert "\n" not in str(caught.value) and caught.value.exit_code == 2


def test_summaries_follow_their_text(place: Path, tmp_path: Path) -> None:
    rows = "".join(f'"{text}","the law"\n' for text in tiny_causal.documents(24))
    source = _file(tmp_path / "pairs.csv", "article,highlights\n" + rows)
    made = bench(spec(place, data={"source": source, "text_column": "article", "label_column": "highlights"}))
    assert made.chunks.documents == 24
    law = made.teacher.tokenizer.convert_tokens_to_ids("law")
    ends = [i for chunk in made.chunks.train for i in range(1, 16) if chunk[i] == 0 and chunk[i - 1] == law]
    assert len(ends) > 15  # the end of text stands after the summary


@pytest.mark.parametrize(
    ("choices", "words"),
    [
        ({"hidden_size": [32]}, "no dimension 'hidden_size'"),
        ({"num_attention_heads": [3]}, "Give multiples of 2"),
        ({"num_hidden_layers": [9]}, "from 1 to 3"),
        ({"head_size": [6]}, "divides the teacher's 8"),
        ({"hidden_act": ["swish-ish"]}, "no activation"),
    ],
)
def test_impossible_choices_are_one_line(place: Path, choices: dict[str, Any], words: str) -> None:
    chosen = spec(place, space={"choices": choices})
    with pytest.raises(UsageError, match=words):
        recipe(chosen.recipe.name).describe(chosen)


def test_too_many_tokens_for_the_teacher_are_one_line(place: Path) -> None:
    with pytest.raises(UsageError, match="more than the teacher's 64 positions"):
        bench(spec(place, data={"length": 65}))
    with pytest.raises(UsageError, match="more than the teacher's 64 positions"):
        bench(spec(place, recipe={**POLICY, "new_tokens": 60}))
    with pytest.raises(UsageError, match="leaves nothing of chunks of 16"):
        bench(spec(place, recipe={**POLICY, "prompt_tokens": 16}))


def test_the_token_after_the_timed_text_needs_a_position_too(place: Path) -> None:
    for family in FAMILIES:
        full = spec(place, family, latency={"length": 64})
        for step in (recipe(full.recipe.name).describe, bench):
            with pytest.raises(UsageError, match=r"latency.length = 64 and the token .* Give at most 63"):
                step(full)
        bench(spec(place, family, latency={"length": 63})).timed_token(None)()


def test_a_sliding_window_shorter_than_the_timed_text_is_timed_right(place: Path, tmp_path: Path) -> None:
    teacher = tiny_causal.folder(tmp_path / "mistral", "mistral")
    made = bench(spec(place, teacher={"model": str(teacher)}, latency={"length": 24}))
    assert made.teacher.config.sliding_window == 8
    for student in (None, made.build(small("llama"), seed=1)):
        made.timed(student)()
        once = made.timed_token(student)
        with FlopCounterMode(display=False) as first:
            once()
        with FlopCounterMode(display=False) as third:
            once(), once()
        assert third.get_total_flops() == 2 * first.get_total_flops() > 0


def test_every_timed_token_comes_after_the_same_text(place: Path) -> None:
    made = bench(spec(place))
    seen: list[torch.Tensor] = []
    hook = made.teacher.model.register_forward_hook(lambda _m, _i, out: seen.append(out.logits.clone()))
    once = made.timed_token(None)
    once(), once(), once()
    hook.remove()
    assert len(seen) == 4 and torch.equal(seen[1], seen[2]) and torch.equal(seen[2], seen[3])


def test_a_teacher_on_another_device_gets_its_ids_there_and_is_waited_for(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = bench(spec(place))
    elsewhere = torch.device("meta")  # the one other device that every machine has
    seen: list[Any] = []
    monkeypatch.setattr(passes, "device_of", lambda model: elsewhere)
    monkeypatch.setattr(devices, "synchronise", seen.append)
    monkeypatch.setattr(made.teacher.model, "forward", lambda input_ids, **_: seen.append(input_ids.device))
    made.timed(None)()
    once = made.timed_token(None)
    once()
    assert seen == [elsewhere] * 6  # a pass, the text and a pass, and a wait after each


# ---------------------------------------------------------------------------- latencies in one store


class Flops:
    """A clock that counts arithmetic instead of time: a million operations are a millisecond."""

    def __call__(self, once: Any) -> Pass:
        with FlopCounterMode(display=False) as counter:
            once()
        return Pass(counter.get_total_flops() / 1e6, counter.get_total_flops() / 1e6)


def test_two_teachers_in_one_store_give_their_own_speed_ups(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(latency, "clock_of", lambda device: Flops())
    short = {"length": 16, "max_seconds": 0.02, "precision": 0.5}
    same = str(place / "llama")
    tall = tiny_causal.folder(tmp_path / "tall", "llama", seed=3, steps=60, num_hidden_layers=6)
    candidate = small("llama")
    found = []
    with open_store(f"sqlite:///{tmp_path / 'one.db'}", create=True) as store:
        for teacher in (same, str(tall), same):
            made = bench(spec(place, teacher={"model": teacher}, recipe={"student": same}, latency=short))
            student = made.build(candidate, 0)
            timed = latency_protocol(store)(made, student, candidate)
            own = [Flops()(made.timed(who)).wall for who in (student, None)]
            assert timed.p50 / timed.teacher_p50 == pytest.approx(own[0] / own[1]), teacher
            found.append(timed.teacher_p50 / timed.p50)
    assert found[1] > 1.5 * found[0] and found[2] == found[0]


def test_students_of_other_head_sizes_have_keys_of_their_own(place: Path) -> None:
    made = bench(spec(place))
    one, two = ({**small("llama"), "head_size": size} for size in (4, 8))
    heads = {**small("llama"), "num_attention_heads": 4, "head_size": 4}  # the width of the second
    assert len({made.shape_key(c) for c in (one, two, heads, None)}) == 4


# ---------------------------------------------------------------------------- policy gradient, pure


def test_long_term_reward_is_the_mean_of_what_follows() -> None:
    rewards = torch.tensor([[9.0, 1.0, 2.0, 6.0], [9.0, 1.0, 2.0, 6.0]])
    real = torch.tensor([[1.0, 1, 1, 1], [1.0, 1, 1, 0]])
    expected = torch.tensor([[3.0, 4, 6, 0], [1.5, 2, 0, 0]])
    torch.testing.assert_close(long_term(rewards, real), expected)


def test_padding_after_the_end_changes_nothing() -> None:
    real = torch.tensor([[1.0, 1, 0, 0]])
    tokens = torch.tensor([[3, 3, 3, 3]])
    one, other = torch.tensor([[1.0, -2, 5, 7]]), torch.tensor([[1.0, -2, -9, 0]])
    torch.testing.assert_close(advantages(one, one * 0, real), advantages(other, other * 0, real))
    assert advantages(one, one * 0, real)[0, 2:].tolist() == [0, 0]
    torch.testing.assert_close(frequency(tokens, real)[0, :2], torch.tensor([0.0, 1.0]))


def test_penalties_on_a_worked_example() -> None:
    tokens, real = torch.tensor([[5, 6, 5, 5]]), torch.ones(1, 4)
    torch.testing.assert_close(frequency(tokens, real), torch.tensor([[0.0, 0.0, 1 / 2, 2 / 3]]))
    embeddings = torch.tensor([[[1.0, 0], [0, 2.0], [3.0, 0], [-1.0, 0]]])
    torch.testing.assert_close(sameness(embeddings, real), torch.tensor([[0.0, 0.0, 1 / 2, -2 / 3]]))


def test_advantages_carry_no_gradient_and_a_penalty_lowers_them() -> None:
    rewards = torch.randn(2, 5, requires_grad=True)
    real, penalty = torch.ones(2, 5), torch.zeros(2, 5)
    penalty[0, 3] = 1.0
    plain, less = advantages(rewards, penalty * 0, real), advantages(rewards, penalty, real)
    assert not less.requires_grad
    assert (less - plain)[0].argmin() == 3  # the token itself loses most, what led to it some
    assert (less - plain)[0, 0] < (less - plain)[1, 0]


def test_the_single_step_part_is_the_reverse_divergence() -> None:
    torch.manual_seed(0)
    logits = torch.randn(3, 7, dtype=torch.float64, requires_grad=True)
    log_p = torch.log_softmax(torch.randn(3, 7, dtype=torch.float64), -1)
    tokens, zero, one = torch.tensor([1, 2, 3]), torch.zeros(3), torch.ones(3)
    q = torch.softmax(logits, -1)
    single = policy_loss(logits, log_p, tokens, one, zero, 0.0).double()
    torch.testing.assert_close(single, (q * (q.log() - log_p)).sum(-1), atol=1e-6, rtol=1e-5)
    (slope,) = torch.autograd.grad(policy_loss(logits, log_p, tokens, zero, zero, 1.0).sum(), logits)
    entropy = -(q * q.log()).sum()
    (by_hand,) = torch.autograd.grad(-entropy / np.log(7), logits)
    torch.testing.assert_close(slope, by_hand, atol=1e-6, rtol=1e-4)


def test_the_whole_gradient_is_that_of_the_sequence_divergence() -> None:
    """Two tokens from a two-word vocabulary: the expected gradient over all continuations equals the derivative of
    KL(q(y1, y2) ‖ p(y1, y2)), computed by enumeration."""
    torch.manual_seed(1)
    first = torch.randn(2, dtype=torch.float64, requires_grad=True)
    second = torch.randn(2, 2, dtype=torch.float64, requires_grad=True)  # by the first word
    p1 = torch.log_softmax(torch.randn(2, dtype=torch.float64), -1)
    p2 = torch.log_softmax(torch.randn(2, 2, dtype=torch.float64), -1)

    def log_q() -> tuple[torch.Tensor, torch.Tensor]:
        return torch.log_softmax(first, -1), torch.log_softmax(second, -1)

    q1, q2 = log_q()
    joint_q, joint_p = q1[:, None] + q2, p1[:, None] + p2
    exact = torch.autograd.grad((joint_q.exp() * (joint_q - joint_p)).sum(), (first, second))
    total = [torch.zeros_like(first), torch.zeros_like(second)]
    for a in range(2):
        for b in range(2):
            q1, q2 = log_q()
            share = (q1[a] + q2[a, b]).exp().detach()
            tokens = torch.tensor([[a, b]])
            rewards = torch.stack([p1[a] - q1[a], p2[a, b] - q2[a, b]]).detach()[None]
            real = torch.ones(1, 2, dtype=torch.float64)
            value = long_term(rewards, real)[0]  # uncentred: one sequence, so that the baseline would not be constant
            loss = policy_loss(
                torch.stack([first, second[a]]), torch.stack([p1, p2[a]]), tokens[0], torch.ones(2), value, 0.0
            ).sum()
            for place, grad in enumerate(torch.autograd.grad(loss, (first, second), allow_unused=True)):
                if grad is not None:
                    total[place] += share * grad
    torch.testing.assert_close(total[0], exact[0], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(total[1], exact[1], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("mix", [0.0, 0.4])
@pytest.mark.parametrize("family", FAMILIES)
def test_sampling_with_the_cache_gives_the_uncached_log_probabilities(place: Path, family: str, mix: float) -> None:
    made = bench(spec(place, family, recipe=POLICY))
    student = made.build(small(family), seed=1)
    prompts = made.proxy_ids[:4, :6]
    drawn = sample(
        student.body,  # type: ignore[arg-type]
        made.teacher,
        prompts,
        new_tokens=8,
        mix=mix,
        temperature=1.3,
        end=-1,
        generator=torch.Generator().manual_seed(0),
    )
    assert drawn.ids.shape == (4, 14) and torch.equal(drawn.ids[:, :6], prompts)
    with torch.no_grad():
        logits = student.body(input_ids=drawn.ids).logits[:, 5:-1]
        teacher_logits = made.teacher.model(input_ids=drawn.ids).logits[:, 5:-1]
    own = torch.log_softmax(logits, -1).gather(-1, drawn.ids[:, 6:, None]).squeeze(-1)
    torch.testing.assert_close(drawn.student, own, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(made.teacher.logits(drawn.teacher_hidden), teacher_logits, atol=1e-4, rtol=1e-4)
    mixed = (1 - mix) * torch.softmax(logits / 1.3, -1) + mix * torch.softmax(teacher_logits / 1.3, -1)
    expected = mixed.log().gather(-1, drawn.ids[:, 6:, None]).squeeze(-1)
    torch.testing.assert_close(drawn.drawn_from, expected, atol=1e-4, rtol=1e-4)


def test_samples_end_with_the_text(place: Path) -> None:
    made = bench(spec(place, recipe=POLICY))
    student = made.build(small("llama"), seed=1)
    drawn = sample(
        student.body,  # type: ignore[arg-type]
        made.teacher,
        made.proxy_ids[:16, :6],
        new_tokens=20,
        mix=0.2,
        temperature=1.0,
        end=5,
        generator=torch.Generator().manual_seed(0),
    )
    for tokens, real in zip(drawn.ids[:, 6:].tolist(), drawn.real.tolist(), strict=True):
        until = tokens.index(5) + 1 if 5 in tokens else len(tokens)
        assert real == [1.0] * until + [0.0] * (len(tokens) - until)
