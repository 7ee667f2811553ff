"""Fitted decoders: exact where nothing is cut, least where something is, refused where nothing can be solved."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from kdnas.models import decoders, fitted_decoders
from kdnas.models.decoder_blocks import Blocks
from kdnas.models.decoder_fit import WRITE_HOLD
from kdnas.models.decoder_measures import Measured, kept_blocks, measured, unit_order, untold
from kdnas.models.stream_directions import directions_of
from kdnas.models.tied_head import tied_map, tied_norm
from kdnas.models.weighted_equations import WeightedEquations
from kdnas.system.errors import KdnasError
from kdnas.teachers.causal import cross_entropy

LLAMA: dict[str, Any] = {
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "hidden_size": 32,
    "head_dim": 8,
    "intermediate_size": 48,
    "vocab_size": 61,
    "tie_word_embeddings": True,
    "max_position_embeddings": 64,
}
FAMILIES: dict[str, dict[str, Any]] = {
    "gpt2": {"n_layer": 4, "n_head": 4, "n_embd": 32, "n_inner": 48, "vocab_size": 61, "n_positions": 32},
    "llama": LLAMA,
    "mistral": {**LLAMA, "sliding_window": 5},
    "qwen2": {
        **LLAMA,
        "tie_word_embeddings": False,
        "layer_types": ["full_attention", "sliding_attention"] * 2,
        "use_sliding_window": True,
        "sliding_window": 5,
    },
    "qwen3": {**LLAMA, "hidden_size": 24},
}
IDS = torch.randint(61, (40, 12), generator=torch.Generator().manual_seed(0))


def teacher(family: str, **changes: Any) -> PreTrainedModel:
    torch.manual_seed(0)
    config = AutoConfig.for_model(family, **(FAMILIES[family] | changes))
    model: PreTrainedModel = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    for parameter in model.parameters():  # norms and biases start as ones and zeros, which any cut would hit
        parameter.data.add_(torch.randn_like(parameter) * 0.1)
    return model


class Fitting:
    """A teacher with all that fitting a student of it asks for."""

    def __init__(self, model: PreTrainedModel) -> None:
        self.model, self.blocks = model, Blocks(model, IDS[:1])
        self._states: list[Tensor] = []
        modules = [*self.blocks.layers, self.blocks.body.get_submodule(self.blocks.layout.last)]
        hooks = [m.register_forward_pre_hook(lambda _m, given: self._states.append(given[0])) for m in modules]
        with torch.no_grad():
            self.blocks.body(input_ids=IDS, use_cache=False)
        for hook in hooks:
            hook.remove()
        self.importance = decoders.importance(model, IDS)
        self.measured: Measured = measured(self.blocks, IDS, self._states.__getitem__, 16)

    def student(self, sources: list[int], **sizes: Any) -> PreTrainedModel:
        candidate = {**decoders.candidate_of(self.model.config), "num_hidden_layers": len(sources), **sizes}
        config = decoders.student_config(self.model.config, candidate, sources)
        orders = {s: unit_order(self.blocks, s, self._states[s], 16) for s in sources}
        return fitted_decoders.fitted(
            self.blocks, config, sources, self.importance, IDS, self._states.__getitem__, orders, self.measured
        )


@pytest.fixture(scope="module", params=list(FAMILIES))
def fitting(request: pytest.FixtureRequest) -> Fitting:
    return Fitting(teacher(request.param))


def logits(model: PreTrainedModel) -> Tensor:
    with torch.no_grad():
        found: Tensor = model(input_ids=IDS, use_cache=False).logits
    return found


def test_the_student_of_full_size_repeats_the_teachers_logits(fitting: Fitting) -> None:
    student = fitting.student([0, 1, 2, 3])
    assert float((logits(student) - logits(fitting.model)).abs().max()) < 1e-4


def test_a_smaller_student_is_nearer_to_the_teacher_than_a_sliced_one(fitting: Fitting) -> None:
    sources = kept_blocks(fitting.measured.costs, 2)
    student = fitting.student(sources, num_attention_heads=2, intermediate_size=24)
    sliced = decoders.inherited(fitting.model, student.config, fitting.importance)

    def far(model: PreTrainedModel) -> float:
        own, theirs = (logits(m).log_softmax(-1) for m in (model, fitting.model))
        return float((theirs.exp() * (theirs - own)).sum(-1).mean())

    assert far(student) < 0.7 * far(sliced)
    assert sources[0] == 0 and len(set(sources)) == 2


def test_a_written_student_opens_without_us_and_says_the_same(fitting: Fitting, tmp_path: Any) -> None:
    student = fitting.student([0, 2], intermediate_size=24)
    student.save_pretrained(tmp_path)
    opened = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    torch.testing.assert_close(logits(opened), logits(student), atol=1e-5, rtol=1e-5)
    tied = fitting.model.config.tie_word_embeddings
    assert (opened.get_output_embeddings().weight is opened.get_input_embeddings().weight) == tied
    if "layer_types" in FAMILIES[fitting.model.config.model_type]:
        assert opened.config.layer_types == ["full_attention", "full_attention"]  # blocks 0 and 2 of the teacher's


def test_every_way_of_cutting_is_finite(fitting: Fitting) -> None:
    for sizes in ({"num_attention_heads": 2}, {"head_size": 4}, {"hidden_act": "relu"}, {"intermediate_size": 8}):
        assert np.isfinite(cross_entropy(fitting.student([0, 3], **sizes), IDS))


def test_what_writes_into_the_stream_is_least_on_the_students_own_states(fitting: Fitting) -> None:
    """The last down projection against numpy's least squares of the stacked, weighted system in float64; and no small
    change of it lowers the error."""
    candidate = {**decoders.candidate_of(fitting.model.config), "num_hidden_layers": 2, "intermediate_size": 24}
    config = decoders.student_config(fitting.model.config, candidate, [0, 2])
    cut = decoders.cut_of(fitting.model.config, config, fitting.importance, [0, 2])
    with torch.no_grad():
        fit = fitted_decoders._Fit(
            fitting.blocks, config, cut, IDS, fitting._states.__getitem__, fitting.measured, at_once=16
        )
        fit.solve_block(0)
        seen: dict[str, Any] = {}
        before = fit._write

        def heard(index: int, part: str, inputs: list[Tensor], stream: list[Tensor], wanted: list[Tensor]) -> None:
            seen.update(part=part, x=inputs, y=[w - s for w, s in zip(wanted, stream, strict=True)], w=wanted)
            before(index, part, inputs, stream, wanted)

        fit._write = heard  # type: ignore[method-assign]
        fit.solve_block(1)
    assert seen["part"] == fit.layout.down
    x, y, w = (torch.cat(seen[name]).flatten(0, 1).double().numpy() for name in ("x", "y", "w"))
    scale = 1 / np.sqrt((w**2).mean(1, keepdims=True))
    module = fit.module(1, fit.layout.down)
    solved = module.weight.detach().double().numpy()
    solved = solved if fit.layout.block == "h.{}" else solved.T
    wide, _ = fit.wide_of(1, fit.layout.down)
    prior = (fit.directions.into.double().T @ wide).numpy().T
    mass = float((scale**2).sum())
    if module.bias is not None:
        mean = (x * scale**2).sum(0) / mass
        goal = (y * scale**2).sum(0) / mass
        np.testing.assert_allclose(module.bias.detach().numpy(), goal - mean @ solved, atol=1e-4)
        x, y = x - mean, y - goal
    strength = WRITE_HOLD * float(((x * scale) ** 2).sum(0).mean()) / mass
    root = np.sqrt(strength * mass)
    stacked = np.concatenate([x * scale, root * np.eye(x.shape[1])])
    goals = np.concatenate([y * scale, root * prior])
    least = np.linalg.lstsq(stacked, goals, rcond=None)[0]
    np.testing.assert_allclose(solved, least, rtol=1e-3, atol=1e-4)

    def error(weight: np.ndarray) -> float:
        return float(((stacked @ weight - goals) ** 2).sum())

    rng = np.random.default_rng(0)
    for _ in range(5):
        assert error(least + 1e-3 * rng.normal(size=least.shape)) > error(solved)


# ---------------------------------------------------------------------------- the equations alone


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("offset", [True, False])
@pytest.mark.parametrize(
    "change",
    [
        lambda x: x,
        lambda x: x.index_fill(1, torch.tensor([3]), 0.0),  # dead
        lambda x: x.index_fill(1, torch.tensor([3]), 7.0),  # constant
        lambda x: torch.cat([x[:, :10], x[:, :10]], 1),  # each twice: a singular matrix
        lambda x: x[:12],  # fewer rows than inputs
    ],
    ids=["any", "dead", "constant", "twice", "few"],
)
def test_the_equations_are_least_squares_whatever_the_inputs_are(change: Any, offset: bool) -> None:
    x = change(drawn(200, 20) + 0.3)
    y, w, prior = drawn(len(x), 4, seed=1), drawn(len(x), 1, seed=2).abs() + 0.1, drawn(4, 20, seed=3)
    sums = WeightedEquations(0.1, offset=offset)
    for part in (slice(0, 7), slice(7, None)):
        sums.add(x[part], y[part], w[part])
    weight, shift = sums.solved(prior)
    mass = float(w.square().sum())
    mean = (x * w**2).sum(0) / mass if offset else torch.zeros(20).double()
    goal = (y * w**2).sum(0) / mass if offset else torch.zeros(4).double()
    root = (0.1 * float((((x - mean) * w) ** 2).sum(0).mean())) ** 0.5
    stacked = torch.cat([(x - mean) * w, root * torch.eye(20, dtype=x.dtype)]).numpy()
    wanted = np.linalg.lstsq(stacked, torch.cat([(y - goal) * w, root * prior.T]).numpy(), rcond=None)[0].T
    np.testing.assert_allclose(weight.numpy(), wanted, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(shift.numpy(), goal - torch.from_numpy(wanted) @ mean, atol=1e-4)


@pytest.mark.parametrize("offset", [True, False])
def test_one_factorisation_tells_what_any_number_of_inputs_leaves(offset: bool) -> None:
    """Against least squares of the stacked system of each number of inputs alone; more inputs never leave more."""
    x, prior = drawn(200, 20) + 0.3, 0.3 * drawn(4, 20, seed=3)
    w = drawn(200, 1, seed=2).abs() + 0.1
    y = x @ drawn(20, 4, seed=1) + drawn(200, 4, seed=4) + 2
    sums = WeightedEquations(0.1, offset=offset)
    for part in (slice(0, 7), slice(7, None)):
        sums.add(x[part], y[part], w[part])
    mass = float(w.square().sum())
    mean = (x * w**2).sum(0) / mass if offset else torch.zeros(20).double()
    goal = (y * w**2).sum(0) / mass if offset else torch.zeros(4).double()
    x, y = (x - mean) * w, (y - goal) * w
    root = (0.1 * float(x.square().sum(0).mean())) ** 0.5
    least = []
    for count in range(1, 21):
        stacked = torch.cat([x[:, :count], root * torch.eye(count, dtype=x.dtype)]).numpy()
        wanted = torch.cat([y, root * prior.T[:count]]).numpy()
        found = np.linalg.lstsq(stacked, wanted, rcond=None)[0]
        least.append(float(((stacked @ found - wanted) ** 2).sum()) / mass)
    expected = np.minimum.accumulate(least)
    np.testing.assert_allclose(sums.left(prior, range(1, 21)).numpy(), expected, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(sums.left(prior, [20, 3]).numpy(), expected[[19, 2]], rtol=1e-4, atol=1e-6)


def test_what_the_weights_give_already_leaves_nothing() -> None:
    sums, x, prior = WeightedEquations(0.1, offset=True), drawn(60, 5), drawn(3, 5, seed=1)
    sums.add(x, x @ prior.T + 1)
    assert float(sums.left(prior, [5])) < 1e-5 < float(sums.left(prior, [4]))


def test_inputs_that_are_all_nothing_leave_the_weights() -> None:
    sums = WeightedEquations(0.1, offset=True)
    sums.add(torch.zeros(9, 3), drawn(9, 2))
    weight, shift = sums.solved(drawn(2, 3, seed=1))
    torch.testing.assert_close(weight, drawn(2, 3, seed=1))
    torch.testing.assert_close(shift, drawn(9, 2).mean(0), rtol=1e-5, atol=1e-6)
    spread = drawn(9, 2).var(0, correction=0).sum()
    torch.testing.assert_close(sums.left(drawn(2, 3, seed=1), [1, 3]), spread.expand(2), rtol=1e-5, atol=1e-6)


def test_what_is_no_number_is_refused() -> None:
    sums = WeightedEquations(0.1, offset=False)
    sums.add(drawn(9, 3).index_fill(0, torch.tensor([4]), float("nan")), drawn(9, 2))
    with pytest.raises(KdnasError, match="cannot be fitted: what its layers give is not finite"):
        sums.solved(drawn(2, 3))


# ---------------------------------------------------------------------------- tied heads, directions, blocks


def test_the_map_before_a_tied_head_is_the_symmetric_one_of_least_error() -> None:
    x, y, own, theirs = drawn(80, 5), drawn(80, 7, seed=1), drawn(30, 5, seed=2), drawn(30, 7, seed=3)
    likely = drawn(30, seed=4).softmax(0)
    found = tied_map([(x[:30], y[:30]), (x[30:], y[30:])], theirs, own, likely)
    centred, goal = own - likely @ own, y @ (theirs - likely @ theirs).T

    def error(c: Tensor) -> float:
        return float(((x @ c @ centred.T - goal).square() * likely).sum())

    assert torch.equal(found, found.T)
    for seed in range(6):
        change = drawn(5, 5, seed=10 + seed)
        assert error(found + 0.02 * (change + change.T)) > error(found)


def test_the_norm_before_a_tied_head_is_the_one_of_least_error() -> None:
    x, y, own, theirs = drawn(80, 5) + 0.5, drawn(80, 7, seed=1), drawn(30, 5, seed=2), drawn(30, 7, seed=3)
    likely = drawn(30, seed=4).softmax(0)
    weight, bias = tied_norm([(x[:30], y[:30]), (x[30:], y[30:])], theirs, own, likely)
    centred, goal = own - likely @ own, y @ (theirs - likely @ theirs).T

    def error(w: Tensor, b: Tensor) -> float:
        return float((((x * w + b) @ centred.T - goal).square() * likely).sum())

    for seed in range(6):
        assert error(weight + 0.02 * drawn(5, seed=20 + seed), bias) > error(weight, bias)
        assert error(weight, bias + 0.02 * drawn(5, seed=30 + seed)) > error(weight, bias)


def test_a_dimension_that_stands_alone_is_kept_as_it_is() -> None:
    states = drawn(500, 40)
    states[:, 7] *= 30
    moments = (states.T @ states / 500)[None].float()
    found = directions_of(moments, torch.ones(40), 16)
    assert found.into[7].nonzero().flatten().tolist() == [0] and found.into[7, 0] == 1
    torch.testing.assert_close(found.back.T @ found.into, torch.eye(16), atol=1e-5, rtol=0)


def test_the_whole_width_is_every_dimension() -> None:
    assert torch.equal(directions_of(torch.eye(6)[None], drawn(6).float(), 6).into, torch.eye(6))


def test_the_kept_blocks_are_those_of_least_squared_cost() -> None:
    from itertools import combinations

    costs = drawn(8, 8).abs()
    for count in (1, 2, 4, 7):
        best = min(
            ([0, *rest] for rest in combinations(range(1, 7), count - 1)),
            key=lambda kept: sum(float(costs[a, b]) ** 2 for a, b in zip(kept, [*kept[1:], 7], strict=True)),
        )
        assert kept_blocks(costs, count) == best


def test_what_a_state_does_not_tell_of_a_later_one_is_a_share_of_its_variance() -> None:
    first = drawn(400, 6)
    costs = untold([first, first @ drawn(6, 6, seed=1) + 3, drawn(400, 6, seed=2)], ridge=1e-6)
    assert costs[0, 1] < 1e-6 and 0.9 < costs[0, 2] <= 1 and costs[2, 0] == 0
