"""Metrics of classification and regression over whole arrays, as scikit-learn and SciPy compute them.

Says what each is where it is undefined: 0, without a warning. Nothing here is averaged over batches, which F1 and
correlations would not survive.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable

import numpy as np


def accuracy(predicted: np.ndarray, labels: np.ndarray) -> float:
    """Share of equal entries; both [examples]."""
    return float(np.mean(predicted == labels))


def f1(predicted: np.ndarray, labels: np.ndarray) -> float:
    """F1 of class 1; 0 where neither the labels nor the predictions have it."""
    from sklearn.metrics import f1_score

    return float(f1_score(labels == 1, predicted == 1, zero_division=0.0))


def macro_f1(predicted: np.ndarray, labels: np.ndarray) -> float:
    """Mean F1 over the classes that occur among labels or predictions."""
    from sklearn.metrics import f1_score

    return float(f1_score(labels, predicted, average="macro", zero_division=0.0))


def confusion(predicted: np.ndarray, labels: np.ndarray, classes: int) -> np.ndarray:
    """How often class i was taken for class j: int64 [classes, classes], rows the labels, columns the predictions."""
    return np.bincount(labels * classes + predicted, minlength=classes * classes).reshape(classes, classes)


def matthews(predicted: np.ndarray, labels: np.ndarray) -> float:
    """Matthews' correlation of any number of classes (Gorodkin, 2004); 0 where one side is constant."""
    from sklearn.metrics import matthews_corrcoef

    if _constant(predicted) or _constant(labels):
        return 0.0
    return float(matthews_corrcoef(labels, predicted))


def pearson(predicted: np.ndarray, labels: np.ndarray) -> float:
    """Linear correlation; 0 where one side is constant."""
    from scipy.stats import pearsonr

    if _constant(predicted) or _constant(labels):
        return 0.0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of values that are nearly constant
        return _number(pearsonr(np.asarray(predicted, np.float64), np.asarray(labels, np.float64)).statistic)


def spearman(predicted: np.ndarray, labels: np.ndarray) -> float:
    """Correlation of the ranks, ties given their mean rank; 0 where one side is constant."""
    from scipy.stats import spearmanr

    if _constant(predicted) or _constant(labels):
        return 0.0
    return _number(spearmanr(predicted, labels).statistic)


def _constant(values: np.ndarray) -> bool:
    return len(values) < 2 or bool(np.all(values == values[0]))


def _number(value: float) -> float:
    return float(value) if np.isfinite(value) else 0.0


METRICS: dict[str, Callable[[np.ndarray, np.ndarray], float]] = {
    "accuracy": accuracy,
    "f1": f1,
    "macro_f1": macro_f1,
    "matthews": matthews,
    "pearson": pearson,
    "spearman": spearman,
}
