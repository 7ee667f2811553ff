"""Metrics by hand, and 0 without a warning where one is undefined."""

from __future__ import annotations

import numpy as np
import pytest

from kdnas.measuring.metrics import METRICS, confusion

LABELS = np.array([0, 0, 0, 1, 1, 2])
PREDICTED = np.array([0, 0, 1, 1, 2, 2])


def test_each_metric_is_what_a_person_computes() -> None:
    assert METRICS["accuracy"](PREDICTED, LABELS) == 4 / 6
    # Of class 1: one hit, two predicted, two there. Of class 0: two hits, two, three. Of class 2: one hit, two, one.
    assert METRICS["f1"](PREDICTED, LABELS) == pytest.approx(1 / 2)
    assert METRICS["macro_f1"](PREDICTED, LABELS) == pytest.approx((4 / 5 + 1 / 2 + 2 / 3) / 3)
    # Gorodkin's: (4·6 − (2·3 + 2·2 + 2·1)) / √((36 − 12)(36 − 14))
    assert METRICS["matthews"](PREDICTED, LABELS) == pytest.approx(12 / (24 * 22) ** 0.5)
    values, target = np.array([1.0, 2.0, 3.0, 4.0]), np.array([1.0, 3.0, 2.0, 10.0])
    # Deviations −1.5 −.5 .5 1.5 and −3 −1 −2 6: 13 / √(5 · 50)
    assert METRICS["pearson"](values, target) == pytest.approx(13 / 250**0.5)
    assert METRICS["spearman"](values, target) == pytest.approx(1 - 6 * 2 / (4 * 15))
    # Ties take their mean rank: 1 2.5 2.5 4 against 1 2 3 4
    assert METRICS["spearman"](np.array([0, 5, 5, 9]), np.arange(4)) == pytest.approx(4.5 / (4.5 * 5) ** 0.5)


def test_f1_of_two_classes_is_of_class_one_and_macro_takes_in_classes_that_are_only_predicted() -> None:
    assert METRICS["f1"](np.array([0, 0, 1]), np.array([0, 1, 1])) == pytest.approx(2 / 3)
    assert METRICS["macro_f1"](np.array([0, 3]), np.array([0, 0])) == pytest.approx((2 / 3) / 2)


@pytest.mark.parametrize("name", ["f1", "matthews", "pearson", "spearman"])
def test_a_constant_side_gives_zero_and_no_warning(name: str, recwarn: pytest.WarningsRecorder) -> None:
    labels, same = np.array([0, 1, 1, 0]), np.zeros(4, dtype=np.int64)
    metric = METRICS[name]
    assert metric(same, labels) == 0.0 and metric(labels, same) == 0.0 and metric(same, same) == 0.0
    if name in ("pearson", "spearman"):
        assert metric(np.full(4, 0.1), np.array([0.1, 0.4, 0.2, 0.3])) == 0.0
        assert metric(np.array([0.5]), np.array([0.5])) == 0.0
    assert not recwarn.list


def test_confusion_counts_labels_by_row_and_predictions_by_column_and_keeps_classes_that_never_occur() -> None:
    found = confusion(np.array([0, 0, 1, 1, 2, 2, 2]), np.array([0, 0, 0, 1, 1, 2, 2]), 4)
    assert found.tolist() == [[2, 1, 0, 0], [0, 1, 1, 0], [0, 0, 2, 0], [0, 0, 0, 0]]
    assert confusion(np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64), 2).tolist() == [[0, 0], [0, 0]]


def test_two_examples_are_enough_for_a_correlation() -> None:
    for name in ("pearson", "spearman"):
        assert METRICS[name](np.array([1.0, 2.0]), np.array([3.0, 5.0])) == pytest.approx(1)
        assert METRICS[name](np.array([1.0, 2.0]), np.array([5.0, 3.0])) == pytest.approx(-1)
    assert METRICS["matthews"](np.array([0, 1]), np.array([0, 1])) == 1


def test_a_student_that_answers_no_number_correlates_with_nothing() -> None:
    for name in ("pearson", "spearman"):
        assert METRICS[name](np.array([np.nan, 1.0, 2.0]), np.array([0.0, 1.0, 2.0])) == 0.0


def test_figures_of_half_the_digits_are_correlated_in_full_ones() -> None:
    rng = np.random.default_rng(0)
    one = rng.normal(0, 1, 500).astype(np.float32) + np.float32(1000)
    other = (one + rng.normal(0, 1, 500)).astype(np.float32)
    wanted = np.corrcoef(one.astype(np.float64), other.astype(np.float64))[0, 1]
    whole = np.round(other).astype(np.float64)
    for given in ((one, other), (one, other.astype(np.float64)), (one.astype(np.float64), other)):
        assert METRICS["pearson"](*given) == pytest.approx(wanted, rel=1e-12)
    assert METRICS["pearson"](whole.astype(np.int64), whole.astype(np.int64)[::-1]) == pytest.approx(
        np.corrcoef(whole, whole[::-1])[0, 1], rel=1e-12
    )
