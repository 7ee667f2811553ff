"""How well classes are told from embeddings by a linear classifier: logistic regression on frozen vectors.

Trains the probe and nothing else.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np
from torch import Tensor

from kdnas.measuring import metrics

STEPS = 1000  # at most


def probed(train: Tensor, train_labels: Sequence[str], test: Tensor, labels: Sequence[str]) -> dict[str, float]:
    """Accuracy and macro F1 on the test vectors [texts, width] of a logistic regression on the training vectors, with
    scikit-learn's L2 penalty (C = 1)."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        probe = LogisticRegression(max_iter=STEPS).fit(train.double().numpy(), list(train_labels))
    names = [str(name) for name in probe.classes_]
    places = {name: place for place, name in enumerate(names)}
    wanted = np.array([places[label] for label in labels])
    found = np.array([places[str(name)] for name in probe.predict(test.double().numpy())])
    return {
        "probe_accuracy": float(metrics.accuracy(found, wanted)),
        "probe_macro_f1": float(metrics.macro_f1(found, wanted)),
    }
