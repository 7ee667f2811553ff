"""The algebra by which what was kept of a teacher takes over what was cut."""

from __future__ import annotations

import torch

from kdnas.models.least_squares_init import explaining, predicted


def rows(count: int = 4000, seed: int = 0) -> torch.Tensor:
    """Three loud inputs, the second nearly the first's double, and one that is their sum."""
    drawn = torch.randn(count, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    one, noise, three = drawn.unbind(1)
    two = 2 * one + 0.01 * noise
    return torch.stack([one, two, three, one + three], dim=1) + 0.5


def test_what_was_cut_is_predicted_from_what_was_kept() -> None:
    x = rows()
    kept = torch.tensor([1, 2])
    given, offset = predicted(x.T.cov(), x.mean(0), kept)
    guess = x[:, kept] @ given.T + offset
    torch.testing.assert_close(guess[:, kept], x[:, kept])  # itself, to the last digit that matters
    assert (guess - x).square().mean(0).max() < 1e-2 * x.var(0).min()


def test_an_input_that_says_nothing_new_comes_last_however_loud() -> None:
    x = rows()
    outgoing = torch.tensor([[1.0, 1.0, 1.0, 0.0]], dtype=torch.float64)
    order = explaining(x.T.cov(), outgoing)
    assert sorted(order.tolist()) == [0, 1, 2, 3]
    # Of input 1 and 0 one is enough, and 3 is a mixture: what remains after the first is the third's.
    assert order[0] in (1, 3)
    first_two = order[:2]
    given, offset = predicted(x.T.cov(), x.mean(0), first_two)
    guess = (x[:, first_two] @ given.T + offset) @ outgoing.T
    told = x @ outgoing.T
    assert (guess - told).square().mean() < 1e-2 * told.var()


def test_the_order_is_the_loudest_first_where_nothing_varies_together() -> None:
    covariance = torch.diag(torch.tensor([1.0, 9.0, 4.0, 0.0]))
    assert explaining(covariance, torch.ones(1, 4)).tolist() == [1, 2, 0, 3]
    assert explaining(covariance, torch.tensor([[5.0, 1.0, 1.0, 1.0]])).tolist()[0] == 0  # by what it is worth
