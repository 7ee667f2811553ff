"""Projections of hidden states against the plain formulas, worked out here anew in float64."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from kdnas.training.losses.hidden_states import RIDGE, Projections

LAYERS, WIDTH, TEACHER = 2, 6, 5  # each projection gives two teacher layers of 5 beside each other


def drawn(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def made() -> Projections:
    ours = Projections(LAYERS, WIDTH, 2 * TEACHER)
    with torch.no_grad():
        ours.weight.copy_(drawn(1, LAYERS, WIDTH, 2 * TEACHER))
        ours.bias.copy_(drawn(2, LAYERS, 2 * TEACHER))
    return ours


def test_projections_begin_as_nothing_so_that_the_first_solution_is_not_held_to_chance() -> None:
    ours = Projections(LAYERS, WIDTH, 2 * TEACHER)
    assert {name: tuple(value.shape) for name, value in ours.named_parameters()} == {
        "weight": (LAYERS, WIDTH, 2 * TEACHER),
        "bias": (LAYERS, 2 * TEACHER),
    }
    assert all(bool((value == 0).all()) and value.requires_grad for value in ours.parameters())


@pytest.mark.parametrize("layer", range(LAYERS))
def test_errors_are_summed_for_each_target_and_of_the_asked_layer(layer: int) -> None:
    ours, output = made(), drawn(3, 3, 4, WIDTH)
    first, second = drawn(4, 3, 4, TEACHER), drawn(5, 3, 4, TEACHER)
    given = (first.clone(), second.clone(), output.clone())
    found = ours.squared_errors(layer, output, first, second)
    told = output.double() @ ours.weight[layer].double() + ours.bias[layer].double()
    wanted = [(told[..., :TEACHER] - first).square().sum(), (told[..., TEACHER:] - second).square().sum()]
    torch.testing.assert_close(found.double(), torch.stack(wanted), rtol=1e-5, atol=1e-5)
    assert all(torch.equal(a, b) for a, b in zip(given, (first, second, output), strict=True))  # nothing is overwritten


def test_states_kept_in_half_precision_are_compared_in_full() -> None:
    ours, output = made(), drawn(3, 3, 4, WIDTH)
    first, second = (drawn(seed, 3, 4, TEACHER).to(torch.bfloat16) for seed in (4, 5))
    found = ours.squared_errors(0, output.to(torch.bfloat16), first, second)
    assert found.dtype == torch.float32
    told = output.to(torch.bfloat16).double() @ ours.weight[0].double() + ours.bias[0].double()
    torch.testing.assert_close(found[0].double(), (told[..., :TEACHER] - first).square().sum(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("layers", [1, 2])
def test_the_loss_is_the_mean_over_layers_targets_and_tokens_in_value_and_gradient(layers: int) -> None:
    ours = made()
    outputs = [drawn(10 + i, 3, 4, WIDTH).requires_grad_() for i in range(layers)]
    firsts, seconds = ([drawn(base + i, 3, 4, TEACHER) for i in range(layers)] for base in (20, 30))
    if layers < LAYERS:
        ours = Projections(layers, WIDTH, 2 * TEACHER)
        with torch.no_grad():
            ours.weight.copy_(drawn(1, layers, WIDTH, 2 * TEACHER))
            ours.bias.copy_(drawn(2, layers, 2 * TEACHER))
    loss = ours.loss(outputs, firsts, seconds)
    (loss * 3).backward()
    weight, bias = (p.detach().double().requires_grad_() for p in (ours.weight, ours.bias))
    plain = [o.detach().double().requires_grad_() for o in outputs]
    squares = [
        (plain[i] @ weight[i] + bias[i] - torch.cat([firsts[i], seconds[i]], -1).double()).square().mean()
        for i in range(layers)
    ]
    wanted = torch.stack(squares).mean()
    (wanted * 3).backward()
    torch.testing.assert_close(loss.double(), wanted, rtol=1e-5, atol=1e-6)
    found = [*(o.grad for o in outputs), ours.weight.grad, ours.bias.grad]
    for one, two in zip(found, [*(o.grad for o in plain), weight.grad, bias.grad], strict=True):
        assert one is not None and two is not None
        torch.testing.assert_close(one.double(), two, rtol=1e-4, atol=1e-6)


def test_gradients_come_in_the_type_of_what_they_belong_to_and_none_reaches_the_targets() -> None:
    ours, output = made(), drawn(3, 3, 4, WIDTH).to(torch.bfloat16).requires_grad_()
    first, second = (drawn(seed, 3, 4, TEACHER).requires_grad_() for seed in (4, 5))
    with torch.autocast("cpu", torch.bfloat16):  # the loss is of full precision all the same
        loss = ours.loss([output, output], [first, first], [second, second])
    assert loss.dtype == torch.float32
    loss.backward()
    assert output.grad is not None and output.grad.dtype == torch.bfloat16
    assert ours.weight.grad is not None and ours.weight.grad.dtype == torch.float32
    assert first.grad is None and second.grad is None
    told = output.detach().double()[None] @ ours.weight.detach().double()[:, None] + ours.bias.detach()[:, None, None]
    wanted = (told - torch.cat([first, second], -1).double()).square().mean()
    torch.testing.assert_close(loss.detach().double(), wanted, rtol=1e-6, atol=1e-7)


def test_layers_without_their_targets_are_refused_rather_than_left_out() -> None:
    ours, output = made(), drawn(3, 3, 4, WIDTH)
    target = drawn(4, 3, 4, TEACHER)
    with pytest.raises(ValueError, match="zip"):
        ours.loss([output, output], [target], [target])
    with pytest.raises(ValueError, match="zip"):
        ours.loss([output], [target], [target])


@pytest.mark.parametrize("tokens", [40, 4000])
def test_a_solved_projection_is_that_of_ridge_regression_with_a_free_constant(tokens: int) -> None:
    x, y = drawn(6, tokens, WIDTH).double() + 0.5, drawn(7, tokens, 2 * TEACHER).double()
    y[:, :TEACHER] += x[:, :TEACHER] + 2
    states = torch.cat([x, torch.ones(tokens, 1, dtype=x.dtype)], 1)
    gram = states.T @ states
    ours = made()
    others = ours.weight[0].clone(), ours.bias[0].clone()
    ours.solve(1, gram.float(), (states.T @ y).float(), tokens)
    # The penalty is RIDGE · (states + 1) / tokens times the mean square sum of a state; the constant pays none.
    strength = RIDGE * (WIDTH + 1) / tokens * float(x.square().sum(0).mean())
    root = torch.zeros(WIDTH, WIDTH + 1, dtype=x.dtype)
    root[:, :WIDTH] = strength**0.5 * torch.eye(WIDTH, dtype=x.dtype)
    wanted = torch.linalg.lstsq(
        torch.cat([states, root]), torch.cat([y, torch.zeros(WIDTH, 2 * TEACHER, dtype=y.dtype)]), driver="gelsd"
    ).solution
    torch.testing.assert_close(ours.weight[1].detach().double(), wanted[:-1], rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(ours.bias[1].detach().double(), wanted[-1], rtol=1e-3, atol=1e-4)
    assert torch.equal(ours.weight[0], others[0]) and torch.equal(ours.bias[0], others[1])
    assert ours.weight.requires_grad and ours.weight.grad_fn is None  # training goes on from there


def test_solving_leaves_the_given_moments_alone() -> None:
    x = drawn(6, 50, WIDTH)
    states = torch.cat([x, torch.ones(50, 1)], 1)
    gram, cross = states.T @ states, states.T @ drawn(7, 50, 2 * TEACHER)
    given = gram.clone(), cross.clone()
    made().solve(0, gram, cross, 50)
    assert torch.equal(gram, given[0]) and torch.equal(cross, given[1])
