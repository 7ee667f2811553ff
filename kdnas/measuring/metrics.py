"""Metrics of classification and regression, over whole arrays in float64; checked against scikit-learn and SciPy.

Nothing here is averaged over batches, which F1 and correlations would not survive.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np


def accuracy(predicted: np.ndarray, labels: np.ndarray) -> float:
    """Share of equal entries; both [examples]."""
    return float(np.mean(predicted == labels))


def f1(predicted: np.ndarray, labels: np.ndarray) -> float:
    """F1 of class 1; 0 where neither the labels nor the predictions have it."""
    hits = float(np.sum((predicted == 1) & (labels == 1)))
    either = float(np.sum(predicted == 1) + np.sum(labels == 1))
    return 2.0 * hits / either if either else 0.0


def macro_f1(predicted: np.ndarray, labels: np.ndarray) -> float:
    """Mean F1 over the classes that occur among labels or predictions."""
    classes = np.union1d(predicted, labels)
    return float(np.mean([f1(predicted == c, labels == c) for c in classes]))


def confusion(predicted: np.ndarray, labels: np.ndarray, classes: int) -> np.ndarray:
    """How often class i was taken for class j: int64 [classes, classes], rows the labels, columns the predictions."""
    return np.bincount(labels * classes + predicted, minlength=classes * classes).reshape(classes, classes)


def matthews(predicted: np.ndarray, labels: np.ndarray) -> float:
    """Matthews' correlation of any number of classes (Gorodkin, 2004); 0 where one side is constant."""
    classes = np.union1d(predicted, labels)
    p = (predicted[:, None] == classes).astype(np.float64)
    t = (labels[:, None] == classes).astype(np.float64)
    p -= p.mean(axis=0)
    t -= t.mean(axis=0)
    scale = float(np.sum(p * p) * np.sum(t * t))
    return float(np.sum(p * t)) / scale**0.5 if scale > 0 else 0.0


def pearson(predicted: np.ndarray, labels: np.ndarray) -> float:
    """Linear correlation; 0 where one side is constant."""
    p = np.asarray(predicted, np.float64) - np.mean(predicted, dtype=np.float64)
    t = np.asarray(labels, np.float64) - np.mean(labels, dtype=np.float64)
    scale = float(np.sum(p * p) * np.sum(t * t))
    return float(np.sum(p * t)) / scale**0.5 if scale > 0 else 0.0


def spearman(predicted: np.ndarray, labels: np.ndarray) -> float:
    """Correlation of the ranks, ties given their mean rank."""
    return pearson(_ranks(predicted), _ranks(labels))


def _ranks(values: np.ndarray) -> np.ndarray:
    _, place, count = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(count).astype(np.float64)
    return (last - (count - 1) / 2.0)[place]


METRICS: dict[str, Callable[[np.ndarray, np.ndarray], float]] = {
    "accuracy": accuracy,
    "f1": f1,
    "macro_f1": macro_f1,
    "matthews": matthews,
    "pearson": pearson,
    "spearman": spearman,
}
