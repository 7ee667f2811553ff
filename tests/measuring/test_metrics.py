"""Metrics by hand, and 0 without a warning where one is undefined."""

from __future__ import annotations

import numpy as np
import pytest

from kdnas.measuring.metrics import METRICS

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
