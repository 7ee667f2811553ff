"""Losses of classifiers by hand: each of the three, and each weight at its own loss."""

from __future__ import annotations

from math import exp, log

import pytest
import torch
from torch import Tensor

from kdnas.training.losses.soft_labels import hard, hybrid, sequence, soft

STUDENT = torch.tensor([[2.0, 0.0, -1.0], [0.5, 1.5, 0.0]])
TEACHER = torch.tensor([[1.0, 3.0, 0.0], [0.0, 1.0, 4.0]])
LABELS = torch.tensor([0, 1])


def softened(row: Tensor, temperature: float) -> list[float]:
    weights = [exp(value / temperature) for value in row.tolist()]
    return [weight / sum(weights) for weight in weights]


@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_soft_is_the_divergence_of_both_softened_distributions_times_the_squared_temperature(
    temperature: float,
) -> None:
    wanted = []
    for ours, theirs in zip(STUDENT, TEACHER, strict=True):
        p, q = softened(theirs, temperature), softened(ours, temperature)
        wanted.append(temperature**2 * sum(a * log(a / b) for a, b in zip(p, q, strict=True)))
    assert soft(STUDENT, TEACHER, temperature).tolist() == pytest.approx(wanted, rel=1e-5)


def test_hard_is_of_the_labels_and_sequence_of_the_teachers_first_choice_one_value_an_example() -> None:
    def surprise(classes: list[int]) -> list[float]:
        return [-log(softened(row, 1.0)[chosen]) for row, chosen in zip(STUDENT, classes, strict=True)]

    assert hard(STUDENT, LABELS).tolist() == pytest.approx(surprise([0, 1]), rel=1e-5)
    assert sequence(STUDENT, TEACHER).tolist() == pytest.approx(surprise([1, 2]), rel=1e-5)


def test_logits_of_half_precision_are_scored_in_full() -> None:
    rough = STUDENT.to(torch.bfloat16)
    for found in (hard(rough, LABELS), sequence(rough, TEACHER), soft(rough, TEACHER, 2.0)):
        assert found.dtype == torch.float32
    assert hard(rough, LABELS).tolist() == hard(rough.float(), LABELS).tolist()


@pytest.mark.parametrize(
    "weights", [(0.5, 0.3, 0.2), (2.0, 0.0, 0.0), (0.0, 0.0, 3.0), (0.0, 2.0, 1.0), (1.0, 1.0, 0.0)]
)
def test_each_weight_is_that_of_its_own_loss(weights: tuple[float, float, float]) -> None:
    found = hybrid(STUDENT, LABELS, TEACHER, weights=weights, temperature=2.0)
    parts = (soft(STUDENT, TEACHER, 2.0), hard(STUDENT, LABELS), sequence(STUDENT, TEACHER))
    wanted = sum(weight * part for weight, part in zip(weights, parts, strict=True))
    assert isinstance(wanted, Tensor)
    torch.testing.assert_close(found, wanted)


def test_labels_alone_need_no_teacher_and_a_teachers_weight_needs_one() -> None:
    found = hybrid(STUDENT, LABELS, None, weights=(0.0, 2.0, 0.0), temperature=2.0)
    torch.testing.assert_close(found, 2 * hard(STUDENT, LABELS))
    for weights in ((1.0, 0.0, 0.0), (0.0, 0.0, 1.0)):
        with pytest.raises(AssertionError):
            hybrid(STUDENT, LABELS, None, weights=weights, temperature=2.0)
