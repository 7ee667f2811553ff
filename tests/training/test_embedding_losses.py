"""Losses of embeddings: whether they are the shares that they say, by plain loops."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from kdnas.training.losses.embeddings import apart, best_constant, of_tokens, pairwise


def drawn(rows: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rows, 5, generator=generator, dtype=torch.float64) + 1


def unit(vectors: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.normalize(vectors, dim=1)


def test_the_distance_is_0_for_the_teacher_1_for_a_constant_and_of_cosines_where_vectors_are_unit() -> None:
    wanted = unit(drawn(9, 0))
    constant = best_constant(wanted, normalised=True)
    assert float(constant.norm()) == pytest.approx(1)
    assert float(apart(wanted, wanted, constant)) == 0
    assert float(apart(constant.expand(9, 5), wanted, constant)) == pytest.approx(1)
    own = unit(drawn(9, 1))
    cosines = [float(torch.dot(a, b)) for a, b in zip(own, wanted, strict=True)]
    without = [float(torch.dot(constant, b)) for b in wanted]
    assert float(apart(own, wanted, constant)) == pytest.approx(
        np.sum(1 - np.array(cosines)) / np.sum(1 - np.array(without))
    )


def test_no_other_constant_is_nearer() -> None:
    for normalised in (False, True):
        wanted = unit(drawn(9, 0)) if normalised else drawn(9, 0)
        best = best_constant(wanted, normalised)
        for seed in range(5):
            other = best + 0.1 * torch.randn(5, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
            other = other / other.norm() if normalised else other
            assert float(apart(other.expand(9, 5), wanted, best)) > 1


def test_pairs_are_all_pairs_once_and_whatever_turns_the_space_changes_none() -> None:
    own, wanted = drawn(7, 2), drawn(7, 3)
    ours, theirs = unit(own), unit(wanted)
    differences, values = [], []
    for i in range(7):
        for j in range(i + 1, 7):
            values.append(float(theirs[i] @ theirs[j]))
            differences.append((float(ours[i] @ ours[j]) - values[-1]) ** 2)
    assert float(pairwise(own, wanted)) == pytest.approx(np.sum(differences) / (np.var(values) * len(values)))
    turn = torch.linalg.qr(drawn(5, 4))[0]
    assert float(pairwise(3 * wanted @ turn, wanted)) == pytest.approx(0, abs=1e-12)
    assert float(pairwise(own[:1], wanted[:1])) == 0


def test_the_distance_of_tokens_is_0_for_the_teachers_and_1_for_their_mean() -> None:
    own, wanted = drawn(12, 5).view(3, 4, 5), drawn(12, 6).view(3, 4, 5)
    mean = wanted.flatten(0, 1).numpy().mean(0)
    left = sum(((own[i, j] - wanted[i, j]).numpy() ** 2).sum() for i in range(3) for j in range(4))
    whole = sum(((wanted[i, j].numpy() - mean) ** 2).sum() for i in range(3) for j in range(4))
    assert float(of_tokens(own, wanted)) == pytest.approx(left / whole)
    assert float(of_tokens(wanted, wanted)) == 0
    assert float(of_tokens(torch.from_numpy(mean).expand(3, 4, 5), wanted)) == pytest.approx(1)


def test_vectors_of_nothing_and_texts_that_are_all_alike_give_finite_losses_and_gradients() -> None:
    own = torch.zeros(4, 5, dtype=torch.float64, requires_grad=True)
    wanted = unit(drawn(1, 0)).expand(4, 5)
    loss = apart(own, wanted, best_constant(wanted, normalised=False)) * 0 + pairwise(own, wanted)
    loss.backward()
    assert bool(loss.isfinite()) and own.grad is not None and bool(own.grad.isfinite().all())
