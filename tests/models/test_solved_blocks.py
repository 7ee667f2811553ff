"""A student's blocks solved on the way through it: what is least, and what text, neurons and teachers may be."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from kdnas.models import solved_blocks
from kdnas.models.encoders import Family
from kdnas.models.kept_results import KeptResults
from kdnas.models.least_squares_init import RIDGE, moments, predicted, taken_over
from kdnas.models.solved_blocks import HOLD, STEP, Carried, Gram, _Equations, ends_of, solve_blocks
from kdnas.system.errors import KdnasError
from kdnas.training.losses.hidden_states import RIDGE as PROJECTION_RIDGE
from kdnas.training.losses.hidden_states import Projections, ProjectionSums
from tests.models.test_least_squares_init import CUT, IDS, LAYERED, built, cut_of, inputs, opened, solve, unsolved


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def equations(neurons: Tensor, targets: Tensor, weight: Tensor, rows: int = 64) -> tuple[Tensor, Tensor]:
    """Weight and bias as they are solved from float32 rows, the bias for the neurons as they were."""
    sums = _Equations(None)
    for x, y in zip(neurons.float().split(rows), targets.float().split(rows), strict=True):
        sums.add(x.clone(), y)
    solved, bias = sums.solved(weight)
    return solved, bias - solved @ sums.gram().shift.double()


def least(x: Tensor, y: Tensor, before: Tensor) -> tuple[Tensor, Tensor]:
    """The same in float64, from the stacked system rather than from moments."""
    strength = HOLD * float(x.var(0, correction=0).mean())
    stacked = torch.cat([x - x.mean(0), (len(x) * strength) ** 0.5 * torch.eye(x.shape[1], dtype=x.dtype)])
    wanted = torch.cat([y - y.mean(0), (len(x) * strength) ** 0.5 * before.T])
    weight = torch.linalg.lstsq(stacked, wanted, driver="gelsd").solution.T
    return weight, y.mean(0) - weight @ x.mean(0)


NEURONS, HELD = drawn(512, 200) + 0.3, 0.1 * drawn(5, 200, seed=1)  # more of them than one part of a Gram matrix


@pytest.mark.parametrize(
    "change",
    [
        lambda x: x,
        lambda x: x.index_fill(1, torch.tensor([3, 150]), 0.0),  # dead
        lambda x: x.index_fill(1, torch.tensor([3]), 2000.0),  # constant, and far from nothing
        lambda x: torch.cat([x[:, :100], x[:, :100]], 1),  # each twice: a singular matrix
        lambda x: x[:40],  # fewer tokens than neurons
    ],
    ids=["any", "dead", "constant", "twice", "few"],
)
def test_the_solution_is_that_of_float64_whatever_the_neurons_are(change: Any) -> None:
    x = change(NEURONS)
    y = x @ drawn(200, 5, seed=2) * 0.2 + drawn(len(x), 5, seed=3)
    weight, bias = equations(x, y, HELD)
    wanted, shift = least(x, y, HELD)
    # Targets of up to 400, in float32: the last digits of the weights differ from one processor to another.
    torch.testing.assert_close(weight, wanted, rtol=1e-3, atol=4e-4)
    torch.testing.assert_close(x @ weight.T + bias, x @ wanted.T + shift, rtol=1e-3, atol=1e-3)


def test_neurons_that_never_change_leave_the_weights_and_give_the_targets_mean() -> None:
    x, y = torch.full((64, 200), 0.5, dtype=torch.float64), drawn(64, 5)
    weight, bias = equations(x, y, HELD)
    torch.testing.assert_close(weight, HELD)
    torch.testing.assert_close((x @ weight.T + bias)[0], y.mean(0), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("place", ["neurons", "targets"])
def test_what_is_no_number_is_refused(place: str) -> None:
    x, y = NEURONS.clone(), drawn(512, 5)
    (x if place == "neurons" else y)[100, 2] = float("nan")
    with pytest.raises(KdnasError, match="cannot be fitted: what its layers give is not finite"):
        equations(x, y, HELD)


@pytest.mark.parametrize("family", LAYERED)
def test_no_block_of_a_student_can_be_solved_better(family: str, tmp_path: Path) -> None:
    body, cut, student = unsolved(tmp_path, family)
    held = copy.deepcopy(student)
    solve(student, body, cut)
    for layer, end in enumerate(ends_of(cut)):
        prefix = cut.family.layer_prefix(layer)
        down = prefix + cut.family.down
        before, solved = (m.get_submodule(down).weight.detach().double() for m in (held, student))
        neurons, entering = inputs(student, down, prefix + cut.family.norm)
        wanted = inputs(body, cut.family.layer_prefix(end) + cut.family.norm)[0][:, cut.width]
        strength = HOLD * float(neurons.var(0, correction=0).mean())

        left, gap, x = entering - wanted, solved - before, neurons - neurons.mean(0)
        nothing = error_of(left, x, strength, gap, torch.zeros_like(gap))
        for seed in range(10):
            change = 1e-2 * drawn(*before.shape, seed=seed)
            assert min(error_of(left, x, strength, gap, sign * change) for sign in (-1, 1)) > nothing
        for share in (-0.1, 0.1):
            assert error_of(left, x, strength, gap, share * gap) > nothing


def error_of(left: Tensor, x: Tensor, strength: float, gap: Tensor, change: Tensor) -> float:
    """What a block is solved for, after a change of its weights: the squared error that is left, and how far the
    weights went from those that were held."""
    return float((left + x @ change.T).square().sum(1).mean() + strength * (gap + change).square().sum())


def test_no_prediction_of_what_was_cut_is_better() -> None:
    x = NEURONS[:, :12] @ drawn(12, 12, seed=4)
    kept = torch.tensor([0, 2, 3, 7, 9])
    given, _ = predicted(x.T.cov(correction=0), x.mean(0), kept)
    centred = x - x.mean(0)
    strength = RIDGE * float(centred[:, kept].var(0, correction=0).mean())
    cut = [place for place in range(12) if place not in kept.tolist()]

    def error(weight: Tensor) -> float:
        left = centred[:, cut] - centred[:, kept] @ weight.T
        return float(left.square().sum(1).mean() + strength * weight.square().sum())

    for seed in range(20):
        change = 1e-3 * drawn(len(cut), 5, seed=seed)
        assert min(error(given[cut] + change), error(given[cut] - change)) > error(given[cut])


def test_no_projection_is_better() -> None:
    states, one, two = drawn(40, 8, 6), drawn(40, 8, 4, seed=1), drawn(40, 8, 4, seed=2)
    one = one + states[..., :4]
    aids = Projections(1, 6, 8)
    sums = ProjectionSums(aids)
    for rows in torch.arange(40).split(7):
        sums.add(0, states[rows].float(), one[rows].float(), two[rows].float())
    sums.solve()
    x, y = states.flatten(0, 1), torch.cat([one, two], -1).flatten(0, 1)
    weight, bias = aids.weight[0].detach().double(), aids.bias[0].detach().double()
    strength = float(x.square().sum(0).mean()) * PROJECTION_RIDGE * 7 / len(x)

    def error(w: Tensor, b: Tensor) -> float:
        return float((x @ w + b - y).square().sum() + strength * w.square().sum())

    for seed in range(20):
        change, shift = 1e-2 * drawn(6, 8, seed=seed), 1e-2 * drawn(8, seed=seed)
        for sign in (-1, 1):
            assert error(weight + sign * change, bias) > error(weight, bias) < error(weight, bias + sign * shift)


@pytest.mark.parametrize("family", LAYERED)
def test_a_student_is_heard_as_it_then_runs(family: str, tmp_path: Path) -> None:
    body, cut, student = unsolved(tmp_path, family)
    heard: dict[int, list[Tensor]] = {}
    solve(student, body, cut, lambda layer, rows, states: heard.setdefault(layer, []).append(states))
    with torch.no_grad():
        states = student(input_ids=IDS, output_hidden_states=True).hidden_states[1:]
    assert len(states) == len(heard) == CUT.layers
    for layer, state in enumerate(states):
        torch.testing.assert_close(torch.cat(heard[layer]), state, rtol=1e-4, atol=1e-5)


def test_memory_that_is_short_changes_a_bit_of_a_solved_student(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    body, cut, student = unsolved(tmp_path, "bert")
    short = copy.deepcopy(student)
    solve(student, body, cut)
    made: list[int] = []
    to_neurons = solved_blocks.to_neurons

    def counted(student: torch.nn.Module, family: Family, index: int, given: Carried) -> tuple[Tensor, Tensor]:
        made.append(index)
        return to_neurons(student, family, index, given)

    monkeypatch.setattr(solved_blocks, "to_neurons", counted)
    monkeypatch.setattr(solved_blocks, "HELD_BYTES", 0)
    solve(short, body, cut)
    assert made == [layer for layer in range(CUT.layers) for _ in range(2)]  # to be solved, and to go on
    for name, tensor in student.state_dict().items():
        assert torch.equal(tensor, short.state_dict()[name]), name


def test_gram_matrices_that_are_kept_change_no_bit_of_what_follows(tmp_path: Path) -> None:
    body, own = opened(tmp_path, "bert")
    found = moments(body, own, IDS)
    kept: KeptResults[Gram] = KeptResults(2**20)
    many = IDS.repeat(2 * STEP // IDS.numel() + 1, 1)  # several parts

    def student(layers: int, kept: KeptResults[Gram] | None) -> dict[str, Tensor]:
        sizes = copy.copy(CUT)
        object.__setattr__(sizes, "layers", layers)
        cut = cut_of(body, own, sizes)
        wanted = {}
        for end in ends_of(cut):
            hook: list[Tensor] = []
            handle = body.get_submodule(own.layer_prefix(end) + own.norm).register_forward_pre_hook(
                lambda _module, given, hook=hook: hook.append(given[0].detach())
            )
            with torch.no_grad():
                body(input_ids=many)
            handle.remove()
            (wanted[end],) = hook
        made = built(body, cut, taken_over(body.state_dict(), cut, found))
        solve_blocks(made, cut, body.state_dict(), many, wanted, kept=kept)
        state: dict[str, Tensor] = made.state_dict()
        return state

    student(2, kept)
    assert kept.bytes > 0
    for layers in (2, 3):  # the same again, and another that shares its first layer
        alone, after = student(layers, None), student(layers, kept)
        assert all(torch.equal(tensor, alone[name]) for name, tensor in after.items())


def test_kept_results_stay_below_their_limit_and_the_oldest_goes_first() -> None:
    kept: KeptResults[str] = KeptResults(10)
    kept.put("a", "A", 4)
    kept.put("b", "B", 4)
    assert kept.get("a") == "A"
    kept.put("c", "C", 4)  # b was asked for longest ago
    assert (kept.get("a"), kept.get("b"), kept.get("c"), kept.bytes) == ("A", None, "C", 8)
    kept.put("c", "D", 6)
    assert (kept.get("c"), kept.bytes) == ("D", 10)
    kept.put("large", "L", 11)
    assert kept.get("large") is None and kept.bytes == 10


def test_a_block_stands_for_the_layers_up_to_the_next_kept_one() -> None:
    """And the last one for all that are left."""

    class Cut:
        class own:  # noqa: N801 - the teacher's sizes
            layers = 6

        def __init__(self, *sources: int) -> None:
            self.sources = sources

    assert ends_of(Cut(0, 2, 5)) == [1, 4, 5]  # type: ignore[arg-type]
    assert ends_of(Cut(0)) == [5] and ends_of(Cut(0, 1, 2, 3, 4, 5)) == [0, 1, 2, 3, 4, 5]  # type: ignore[arg-type]
