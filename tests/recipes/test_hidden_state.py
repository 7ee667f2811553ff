"""Hidden-state distillation: the right targets and loss, students that are slices of their teacher, equal bits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModel, AutoTokenizer

from kdnas.models import encoder_cut, encoders, least_squares_init
from kdnas.models.encoders import Sizes
from kdnas.models.layer_choice import last, uniform
from kdnas.recipes import hidden_state, hidden_state_training, recipe
from kdnas.recipes.hidden_state import HiddenStateBench
from kdnas.recipes.hidden_state_training import forward
from kdnas.recipes.spaces.encoder import space_of
from kdnas.study.space import Candidate
from kdnas.study.spec import SpaceSpec
from kdnas.study.spec_recipes import recipe_names
from kdnas.system.errors import BadOptionError, UsageError
from kdnas.teachers import encoder, hidden_state_cache
from kdnas.training import optimiser
from kdnas.training.contract import Epoch, Student, Training
from kdnas.training.losses.hidden_states import Projections
from kdnas.training.optimiser import rate
from tests.encoders import FAMILIES, text_folder, tiny_encoder, tiny_spec
from tests.recipes.taken_up import assert_same_within_an_epoch

CPU = torch.device("cpu")
SMALL: Candidate = {
    "num_hidden_layers": 2,
    "hidden_size": 16,
    "head_size": 8,
    "intermediate_size": 24,
    "hidden_act": "gelu",
}
WHOLE: Candidate = {**SMALL, "num_hidden_layers": 4, "hidden_size": 32, "intermediate_size": 64}


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Any:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A text and a teacher of every family, and a cache, for all tests of this file."""
    folder = tmp_path_factory.mktemp("hidden-state")
    text_folder(folder / "text")
    for family in FAMILIES:
        tiny_encoder(folder / family, family)
    return folder


@pytest.fixture
def make(places: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A bench for a family, with changes to its spec."""
    monkeypatch.setenv("KDNAS_CACHE", str(places / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(hidden_state_cache, "_cold_read", lambda states: 0.0)
    open_benches: list[HiddenStateBench] = []

    def prepare(family: str = "bert", **parts: Any) -> HiddenStateBench:
        spec = tiny_spec(places / family, places / "text", **parts)
        bench = recipe("hidden-state").prepare(spec, CPU, lambda what, share: None)
        assert isinstance(bench, HiddenStateBench)
        open_benches.append(bench)
        return bench

    yield prepare
    for bench in open_benches:
        bench.close()


def run(
    bench: HiddenStateBench, candidate: Candidate, *, epochs: int = 2, seed: int = 0
) -> tuple[Student, list[Epoch]]:
    student = bench.build(candidate, seed)
    training = bench.training(student, epochs=epochs, seed=seed)
    return student, [training.run_epoch() for _ in range(epochs)]


# ---------------------------------------------------------------- the space

OWN = Sizes(6, 384, 12, 1536, "gelu")


def space(preset: str = "full", own: Sizes = OWN, **choices: Any) -> Any:
    return space_of(SpaceSpec.model_validate({"preset": preset, "choices": choices}), own)


def choices(made: Any) -> dict[str, tuple[Any, ...]]:
    return {d.name: d.choices for d in made.dimensions}


@pytest.mark.parametrize("own", [OWN, Sizes(12, 768, 12, 3072, "gelu"), Sizes(24, 1024, 16, 4096, "gelu"),
                                 Sizes(4, 312, 12, 1200, "gelu"), Sizes(2, 128, 2, 512, "gelu_new"),
                                 Sizes(12, 256, 4, 1024, "gelu"), Sizes(3, 30, 5, 50, "relu")])  # fmt: skip
def test_every_point_of_the_space_is_valid_and_none_larger_than_the_teacher(own: Sizes) -> None:
    made = space(own=own)
    found = choices(made)
    assert own.width in found["hidden_size"] and own.head_size in found["head_size"]
    assert own.layers in found["num_hidden_layers"] and own.inner in found["intermediate_size"]
    assert max(found["hidden_size"]) == own.width and max(found["intermediate_size"]) == own.inner
    assert all(width % size == 0 for width in found["hidden_size"] for size in found["head_size"])
    assert found["hidden_act"][0] == own.act


def test_the_kd_nas_preset_has_its_lists_and_nothing_larger_than_the_teacher() -> None:
    found = choices(space("kd-nas", own=Sizes(12, 768, 12, 3072, "gelu")))
    assert found == {
        "num_hidden_layers": (3, 4, 6, 10, 12),
        "hidden_size": (384, 768),
        "num_attention_heads": (2, 3, 4, 6, 12),
        "intermediate_size": (384, 768, 1152, 1536, 1920, 2304, 2688, 3072),
        "hidden_act": ("gelu", "relu", "silu"),
    }
    small = space("kd-nas")
    assert choices(small)["num_hidden_layers"] == (3, 4, 6) and choices(small)["hidden_size"] == (384,)
    assert small.size == 3 * 1 * 5 * 4 * 3
    with pytest.raises(UsageError, match="has no hidden_size as small as this teacher's 128"):
        space("kd-nas", own=Sizes(12, 128, 2, 512, "gelu"))


def test_a_width_that_is_not_listed_may_be_given_with_heads_that_divide_it() -> None:
    found = choices(space(hidden_size=[312], num_attention_heads=[12]))
    assert found["hidden_size"] == (312,) and found["num_attention_heads"] == (12,) and "head_size" not in found
    assert choices(space(hidden_size=[192, 384], head_size=[64]))["head_size"] == (64,)
    assert choices(space(num_attention_heads=[5]))["hidden_size"] == (320,)
    assert choices(space("kd-nas", hidden_size=[192, 384]))["num_attention_heads"] == (2, 3, 4, 6, 12)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"layers": [2]}, "no dimension 'layers'. Did you mean"),
        ({"num_hidden_layers": [7]}, "num_hidden_layers = 7 is out of range. Give whole numbers from 1 to 6"),
        ({"num_hidden_layers": [0]}, "out of range"),
        ({"num_hidden_layers": [2.5]}, "out of range"),
        ({"hidden_size": [768]}, "from 1 to 384"),
        ({"hidden_size": [100], "num_attention_heads": [12]}, "100 is not divisible by num_attention_heads = 12"),
        ({"hidden_size": [384], "head_size": [36]}, "hidden_size = 384 is not divisible by head_size = 36"),
        ({"hidden_size": [313]}, "divides hidden_size = 313. Give space.choices.num_attention_heads"),
        ({"head_size": [32], "num_attention_heads": [12]}, "Give one of the two"),
        ({"hidden_act": ["gelux"]}, "'gelux' is no activation"),
        ({"hidden_act": [1]}, "is no activation"),
    ],
)
def test_a_wrong_choice_is_one_line_with_the_hint(given: dict[str, Any], words: str) -> None:
    with pytest.raises(BadOptionError) as caught:
        space(**given)
    assert words in str(caught.value) and caught.value.field.startswith("space.choices")


@pytest.mark.parametrize("family", FAMILIES)
def test_each_configuration_builds_a_model_and_is_described_without_weights(
    make: Any, places: Path, family: str
) -> None:
    spec = tiny_spec(places / family, places / "text")
    described = recipe("hidden-state").describe(spec)
    assert described.teacher["width"] == 32 and described.teacher["layers"] == 4
    assert described.cache_bytes_per_token == 4 * 32 * 2
    bench = make(family)
    assert bench.space == described.space
    assert described.teacher["parameters"] == sum(p.numel() for p in bench.teacher.body.parameters())
    for ordinal in (0, described.space.product_size // 2, described.space.product_size - 1):
        values = bench.config(described.space.from_ordinal(ordinal))
        config = AutoConfig.for_model(**values)
        model = AutoModel.from_config(config)
        assert model.config.model_type == family
        sizes = encoders.FAMILIES[family].sizes(config)
        assert sizes.width % sizes.heads == 0


def test_too_long_chunks_are_refused_before_anything_runs(places: Path) -> None:
    for part, field in (({"data": {"length": 41}}, "data.length"), ({"latency": {"length": 41}}, "latency.length")):
        with pytest.raises(BadOptionError, match="more than the teacher's 40 positions") as caught:
            recipe("hidden-state").describe(tiny_spec(places / "bert", places / "text", **part))
        assert caught.value.field == field
    with pytest.raises(BadOptionError, match="39 positions"):  # RoBERTa counts from behind its padding id
        recipe("hidden-state").describe(tiny_spec(places / "roberta", places / "text", data={"length": 40}))


def test_an_unknown_recipe_names_the_nearest() -> None:
    assert all(recipe(name).name == name for name in recipe_names())
    with pytest.raises(UsageError, match="Did you mean 'hidden-state'"):
        recipe("hidden-states")


# ---------------------------------------------------------------- the mapping and the loss


def test_uniform_and_last_as_the_paper_counts_them() -> None:
    assert (uniform(4, 12), last(4, 12)) == ([0, 3, 6, 9], [8, 9, 10, 11])
    assert (uniform(4, 6), last(4, 6)) == ([0, 1, 3, 4], [2, 3, 4, 5])
    assert (uniform(1, 6), last(1, 6)) == ([0], [5])
    assert uniform(6, 6) == last(6, 6) == [0, 1, 2, 3, 4, 5]


def test_only_the_layers_that_the_space_needs_are_cached(make: Any) -> None:
    assert make(space={"choices": {"num_hidden_layers": [1]}}).layers == [0, 3]
    assert make(space={"choices": {"num_hidden_layers": [1, 2]}}).layers == [0, 2, 3]


def test_the_fused_loss_is_the_plain_one_in_value_and_gradient() -> None:
    generator = torch.Generator().manual_seed(0)
    draw = lambda *shape: torch.randn(*shape, generator=generator)  # noqa: E731
    ours = Projections(2, 6, 10)
    with torch.no_grad():
        ours.weight.copy_(draw(2, 6, 10))
        ours.bias.copy_(draw(2, 10))
    outputs = [draw(3, 4, 6).requires_grad_() for _ in range(2)]
    firsts, seconds = ([draw(3, 4, 5).to(torch.bfloat16) for _ in range(2)] for _ in range(2))
    loss = ours.loss(outputs, firsts, seconds)
    (loss * 3).backward()
    found = [outputs[0].grad, outputs[1].grad, ours.weight.grad, ours.bias.grad]
    weight, bias = (p.detach().double().requires_grad_() for p in (ours.weight, ours.bias))
    plain = [o.detach().double().requires_grad_() for o in outputs]
    targets = [torch.cat([firsts[i], seconds[i]], -1).double() for i in range(2)]
    made = [plain[i] @ weight[i] + bias[i] for i in range(2)]
    expected = torch.stack([torch.nn.functional.mse_loss(made[i], targets[i]) for i in range(2)]).mean()
    (expected * 3).backward()
    torch.testing.assert_close(loss.double(), expected, rtol=1e-5, atol=1e-6)
    for one, two in zip(found, [plain[0].grad, plain[1].grad, weight.grad, bias.grad], strict=True):
        assert one is not None and two is not None
        torch.testing.assert_close(one.double(), two, rtol=1e-4, atol=1e-6)


def test_a_constant_prediction_has_a_loss_of_one_and_the_teacher_itself_of_zero(make: Any) -> None:
    # Scored on the text that the variance was taken from, so that one is one.
    bench = make()
    bench.held_out, bench._held_ids = bench.proxy, bench._proxy_ids
    student = bench.build(SMALL, 0)
    first, second = bench.targets_of(student.body)
    mean = bench.proxy.statistics.mean
    with torch.no_grad():
        for i in range(2):
            student.aids.bias[i] = torch.cat([mean[first[i]], mean[second[i]]]).float()
    constant = bench.score(student)
    assert constant.loss == pytest.approx(1, abs=1e-4)
    assert constant.raw_loss == pytest.approx(bench.variance(student.body), rel=1e-4)
    itself = bench.build(WHOLE, 0)
    with torch.no_grad():
        for i in range(4):
            itself.aids.weight[i] = torch.cat([torch.eye(32), torch.eye(32)], 1)
    assert bench.score(itself).loss < 1e-4  # the rounding of bf16


def test_the_score_does_not_depend_on_how_the_held_out_part_is_cut(make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    bench = make()
    student, _ = run(bench, SMALL, epochs=1)
    whole = bench.score(student)
    monkeypatch.setitem(hidden_state.SCORE_TOKENS, "cpu", 3 * 16)
    assert bench.score(student).loss == pytest.approx(whole.loss, rel=1e-5)


def test_scoring_leaves_no_trace_in_the_student(make: Any) -> None:
    bench = make()
    student = bench.build(SMALL, 0)
    before = {n: t.clone() for n, t in student.modules().state_dict().items()}
    bench.score(student)
    assert all(torch.equal(t, before[n]) for n, t in student.modules().state_dict().items())


# ---------------------------------------------------------------- inheritance


@pytest.mark.parametrize("init", ["inherit", "fitted"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_student_of_the_teachers_own_size_is_the_teacher(make: Any, family: str, init: str) -> None:
    bench = make(family, recipe={"name": "hidden-state", "init": init})
    student = bench.build({**WHOLE, "hidden_act": bench.own.act}, 0)
    ids = bench._proxy_ids[:3]
    with torch.inference_mode():
        ours = forward(student.body.eval(), CPU, input_ids=ids)
        theirs = hidden_state_cache.run(bench.teacher, ids)
    for one, two in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-4)


FITTED = {"recipe": {"name": "hidden-state", "init": "fitted"}}
THIN: Candidate = {**WHOLE, "num_hidden_layers": 3, "hidden_size": 24, "intermediate_size": 24}


@pytest.mark.parametrize("family", FAMILIES)
def test_solved_blocks_give_more_of_the_teachers_last_state(make: Any, family: str) -> None:
    bench = make(family, **FITTED)
    sizes = Sizes(3, 24, 3, 24, bench.own.act)
    sources = hidden_state.CUTS["spread"](3, 4)
    cut = encoder_cut.EncoderCut(bench.family, bench.teacher.config, sizes, bench._importance, sources)
    values = bench.config({**THIN, "hidden_act": bench.own.act})
    weights = least_squares_init.taken_over(bench._weights, cut, bench.fitted.moments)
    unsolved = encoders.inherit(values, weights, bench._buffers)
    solved = bench.fitted.body(values, cut, bench._weights, bench._buffers)
    ids = least_squares_init.sample(bench._proxy_ids)

    def error(body: Any) -> float:
        with torch.inference_mode():
            ours = forward(body.eval(), CPU, input_ids=ids)[-1]
            theirs = hidden_state_cache.run(bench.teacher, ids)[-1][..., cut.width]
        return float((ours - theirs).square().mean() / theirs.var())

    if bench.family.shared_layers:
        assert all(torch.equal(t, unsolved.state_dict()[n]) for n, t in solved.state_dict().items())
    else:
        assert error(solved) < 0.9 * error(unsolved)


@pytest.mark.parametrize("family", [f for f, own in encoders.FAMILIES.items() if own.pooler is not None])
def test_a_fitted_students_pooler_reads_the_teachers_last_state(make: Any, family: str, tmp_path: Path) -> None:
    ids = make(family)._held_ids
    error: dict[str, float] = {}
    for init in ("inherit", "fitted"):
        bench = make(family, recipe={"name": "hidden-state", "init": init}, training={"learning_rate": 1e-6})
        student, _ = run(bench, THIN, epochs=1)
        bench.save(student, tmp_path / init)
        theirs = AutoModel.from_pretrained(bench.teacher.folder).eval()
        with torch.inference_mode():
            wanted = theirs(input_ids=ids).pooler_output[:, encoder_cut.best(bench._importance.width, 24)]
            ours = AutoModel.from_pretrained(tmp_path / init).eval()(input_ids=ids).pooler_output
        error[init] = float((ours - wanted).square().mean() / wanted.var(0).mean())
    assert error["fitted"] < 0.8 * error["inherit"], error


def test_fitting_draws_no_random_number_and_gives_the_same_bits_again(make: Any) -> None:
    before = torch.get_rng_state()
    one, two = (make(**FITTED).build(THIN, seed).body for seed in (0, 1))
    assert torch.equal(before, torch.get_rng_state())
    weights = two.state_dict()
    assert all(torch.equal(t, weights[n]) for n, t in one.state_dict().items())
    assert all(p.requires_grad and p.grad is None for p in one.parameters())


def test_importance_ranks_what_was_made_loud(make: Any, places: Path, tmp_path: Path) -> None:
    folder = tiny_encoder(tmp_path / "loud")
    model = AutoModel.from_pretrained(folder)
    with torch.no_grad():
        layer = model.encoder.layer[1]
        layer.output.LayerNorm.weight[[4, 9]] = 6.0  # hidden dimensions 4 and 9 of one layer
        layer.output.dense.weight[:, 7] *= 50  # neuron 7
        layer.attention.output.dense.weight[:, 16:24] *= 50  # head 2 of 4
    model.save_pretrained(folder)
    loaded = encoder.load(tiny_spec(folder, places / "text").teacher, CPU)
    found = encoder_cut.importance(
        loaded.body, loaded.family, torch.randint(5, 60, (8, 16), generator=torch.Generator().manual_seed(0))
    )
    assert {4, 9} <= set(encoder_cut.best(found.width, 8).tolist())
    assert 7 in encoder_cut.best(found.inner[1], 1)
    assert encoder_cut.best(found.value[1].norm(dim=1), 1).tolist() == [2]


def test_heads_are_taken_whole_narrowed_or_cut_anew() -> None:
    query = torch.tensor([[1.0, 2, 3, 4], [4, 3, 2, 1], [1, 1, 1, 1]])
    value = torch.tensor([[1.0, 1, 1, 1], [2, 2, 2, 2], [9, 1, 1, 8]])
    taken = encoder_cut.attention_rows(query, value, 2, 4)  # the two best heads, as they are
    assert [t.tolist() for t in taken] == [[4, 5, 6, 7, 8, 9, 10, 11]] * 2
    narrow = encoder_cut.attention_rows(query, value, 3, 2)  # each head's two best dimensions
    assert [t.tolist() for t in narrow] == [[2, 3, 4, 5, 8, 9], [0, 1, 4, 5, 8, 11]]
    for heads, size in ((1, 8), (6, 2), (2, 6)):  # wider or more heads than the teacher's
        rows, _ = encoder_cut.attention_rows(query, value, heads, size)
        assert len(rows) == heads * size == len(set(rows.tolist()))


@pytest.mark.parametrize("family", FAMILIES)
def test_an_inherited_student_knows_more_than_a_fresh_one_before_any_step(make: Any, family: str) -> None:
    losses = []
    for init in ("inherit", "random"):
        bench = make(family, recipe={"name": "hidden-state", "init": init}, training={"learning_rate": 1e-9})
        _, epochs = run(bench, {**WHOLE, "num_hidden_layers": 3, "intermediate_size": 48}, epochs=1)
        losses.append(epochs[-1].score.loss)
    assert losses[0] < losses[1]


def test_no_random_number_is_drawn_for_weights_that_are_inherited(make: Any) -> None:
    bench = make()
    before = torch.get_rng_state()
    bench.build(SMALL, 0)
    assert torch.equal(before, torch.get_rng_state())
    fresh = make(recipe={"name": "hidden-state", "init": "random"})
    one, two, other = (fresh.build(SMALL, seed).body.state_dict() for seed in (3, 3, 4))
    assert torch.equal(before, torch.get_rng_state())
    assert all(torch.equal(one[n], two[n]) for n in one) and not all(torch.equal(one[n], other[n]) for n in one)


# ---------------------------------------------------------------- training


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_learns_and_its_saved_student_opens_anywhere(make: Any, family: str, tmp_path: Path) -> None:
    bench = make(family, training={"learning_rate": 2e-3})
    student, epochs = run(bench, SMALL, epochs=3)
    assert epochs[-1].score.loss < epochs[0].score.loss < 1.5
    assert [e.epoch for e in epochs] == [1, 2, 3] and epochs[-1].tokens == 3 * bench.chunks.proxy.size
    bench.save(student, tmp_path / "student")
    opened = AutoModel.from_pretrained(tmp_path / "student", output_loading_info=True)
    model, report = opened
    assert not report["missing_keys"] and not report["unexpected_keys"]
    ids = bench._held_ids[:2]
    with torch.inference_mode():
        ours = forward(student.body.eval(), CPU, input_ids=ids)[-1]
        torch.testing.assert_close(model.eval()(input_ids=ids).last_hidden_state, ours)
    assert AutoTokenizer.from_pretrained(tmp_path / "student").get_vocab() == bench.teacher.tokenizer.get_vocab()
    assert student.size < sum(p.numel() for p in bench.teacher.body.parameters())


def test_two_evaluations_with_one_seed_agree_to_the_last_bit_and_another_seed_does_not(make: Any) -> None:
    bench = make(recipe={"name": "hidden-state", "init": "random"})
    one, two, other = (run(bench, SMALL, seed=seed)[1] for seed in (5, 5, 6))
    assert [e.score for e in one] == [e.score for e in two]
    assert [e.train_loss for e in one] == [e.train_loss for e in two]
    assert one[-1].score != other[-1].score


def test_an_earlier_candidate_leaves_no_trace_in_the_next(make: Any) -> None:
    bench = make()
    run(bench, WHOLE)
    after = run(bench, SMALL)[1][-1].score
    assert after == run(make(), SMALL)[1][-1].score


def test_a_training_taken_up_again_equals_the_uninterrupted_one(make: Any) -> None:
    bench = make()
    student, straight = run(bench, SMALL, epochs=3, seed=2)
    first = bench.build(SMALL, 2)
    training = bench.training(first, epochs=3, seed=2)
    training.run_epoch()
    tensors, facts = training.state()
    second = bench.build(SMALL, 99)
    resumed = bench.training(second, epochs=3, seed=2)
    resumed.restore({n: t.clone() for n, t in tensors.items()}, dict(facts))
    assert resumed.done == 1
    assert [resumed.run_epoch().score for _ in range(2)] == [e.score for e in straight[1:]]
    for name, tensor in second.modules().state_dict().items():
        assert torch.equal(tensor, student.modules().state_dict()[name]), name
    with pytest.raises(UsageError, match="over 3 epochs with seed 2"):
        bench.training(bench.build(SMALL, 0), epochs=4, seed=2).restore(tensors, facts)


def test_a_training_left_within_an_epoch_equals_the_uninterrupted_one(make: Any, tmp_path: Path) -> None:
    bench = make()

    def begin() -> tuple[Student, Training]:
        student = bench.build(SMALL, 2)
        return student, bench.training(student, epochs=3, seed=2)

    assert_same_within_an_epoch(begin, tmp_path / "kept")


def test_what_the_callback_raises_ends_the_training_there(make: Any) -> None:
    bench = make()
    seen = []

    def stop(done: int, steps: int) -> None:
        seen.append((done, steps))
        if done == 2:
            raise KeyboardInterrupt

    training = bench.training(bench.build(SMALL, 0), epochs=2, seed=0)
    with pytest.raises(KeyboardInterrupt):
        training.run_epoch(stop)
    assert [done for done, _ in seen] == [1, 2] and training.done == 0


def test_a_look_in_the_middle_of_an_epoch_changes_nothing(make: Any) -> None:
    bench = make()
    _, straight = run(bench, SMALL)
    training = bench.training(bench.build(SMALL, 0), epochs=2, seed=0)
    seen = []
    epochs = [training.run_epoch(lambda done, steps: seen.append(training.peek())) for _ in range(2)]
    assert [e.score for e in epochs] == [e.score for e in straight]
    assert seen[-1].loss == pytest.approx(epochs[-1].score.loss, rel=1e-5)


def test_training_only_the_rows_that_occur_equals_training_the_whole_table(
    make: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = make()
    compact, _ = run(bench, SMALL)
    monkeypatch.setattr(hidden_state_training, "_compact", lambda ids: (torch.arange(69), ids))
    whole, _ = run(bench, SMALL)
    for name, tensor in whole.body.state_dict().items():
        torch.testing.assert_close(tensor, compact.body.state_dict()[name], rtol=1e-5, atol=1e-7)
    table = compact.body.get_input_embeddings().weight
    fresh = bench.build(SMALL, 0).body.get_input_embeddings().weight
    unused = sorted(set(range(69)) - set(bench._proxy_ids.flatten().tolist()))
    assert unused and torch.equal(table[unused], fresh[unused])


def test_full_distillation_sees_the_whole_training_part(make: Any) -> None:
    bench = make()
    full = bench.training(bench.build(SMALL, 0), epochs=1, seed=0, full=True)
    assert full.run_epoch().tokens == bench.chunks.train.size > bench.chunks.proxy.size


def test_the_step_size_rises_and_falls_over_all_steps() -> None:
    shares = [rate(step, 10, 0.2) for step in range(10)]
    assert shares == pytest.approx([0.5, 1, 1, 7 / 8, 6 / 8, 5 / 8, 4 / 8, 3 / 8, 2 / 8, 1 / 8])
    assert rate(0, 10, 0.0) == 1.0 and rate(0, 1, 0.5) == 1.0


def test_large_gradients_are_clipped_and_small_ones_left_alone() -> None:
    parameter = torch.nn.Parameter(torch.zeros(4))
    parameter.grad = torch.tensor([3.0, 4.0, 0.0, 0.0])
    optimiser.clip([parameter], 1.0)
    torch.testing.assert_close(parameter.grad, torch.tensor([0.6, 0.8, 0.0, 0.0]), rtol=1e-4, atol=1e-5)
    optimiser.clip([parameter], 2.0)
    torch.testing.assert_close(parameter.grad, torch.tensor([0.6, 0.8, 0.0, 0.0]), rtol=1e-4, atol=1e-5)


def test_equal_shapes_have_equal_keys_and_others_not(make: Any) -> None:
    bench = make()
    changed = [{**SMALL, "hidden_act": "relu"}, {**SMALL, "head_size": 16}]
    keys = {bench.shape_key(c) for c in (SMALL, WHOLE, *changed, None)}
    assert len(keys) == 5 and bench.shape_key(dict(SMALL)) in keys
    bench.timed(None)()
    bench.timed(bench.build(SMALL, 0))()


def test_provenance_says_what_a_score_rests_on(make: Any) -> None:
    facts = make().provenance()
    assert len(facts["teacher_fingerprint"]) == 64 and len(facts["data_fingerprint"]) == 64
    assert facts["cache"]["proxy"]["place"] == "memory" and facts["proxy_tokens"] > 0
