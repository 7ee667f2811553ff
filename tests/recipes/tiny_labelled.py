"""A tiny labelled data set over the words of a tiny BERT: which of two kinds of words a text has."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from kdnas.study.spec import StudySpec, from_values
from tests.tiny import WORDS

GOOD, BAD = ("good", "fine"), ("bad", "dull")


def examples(path: Path, count: int = 240, seed: int = 0) -> Path:
    """JSONL of texts of 3 to 11 words with two of one kind, which the label names, and one film in twelve each."""
    rng = np.random.default_rng(seed)
    plain = [word for word in WORDS if word not in (*GOOD, *BAD)]
    rows = []
    for place in range(count):
        label = ("dull", "fine")[place % 2]
        words = [*rng.choice(plain, rng.integers(1, 10)), *rng.choice((BAD, GOOD)[place % 2], 2)]
        rows.append({"text": " ".join(rng.permutation(words)), "label": label, "film": f"f{place % 12}"})
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return path


def rnn_spec(model: Path, source: Path, **parts: Any) -> StudySpec:
    """A study of recurrent students that takes seconds."""
    values: dict[str, Any] = {
        "seed": 3,
        "device": "cpu",
        "teacher": {"model": str(model)},
        "data": {
            "source": str(source),
            "label_column": "label",
            "length": 16,
            "batch_size": 16,
            "held_out": 0.25,
            "max_held_out": 40,
        },
        "recipe": {"name": "rnn-hybrid", "teacher_rate": 3e-3, "teacher_head_rate": 3e-3, "teacher_epochs": 4},
        "space": {
            "choices": {
                "cell": ["lstm", "convolution"],
                "num_hidden_layers": [1, 2],
                "hidden_size": [16],
                "embedding_size": [8],
                "dropout": [0.1],
                "pruned": [0.0, 0.5],
            }
        },
        "budget": {"trials": 2, "epochs": 2, "proxy_fraction": 0.5},
        "training": {"learning_rate": 1e-2},
        "latency": {"length": 16, "precision": 0.5, "max_seconds": 0.02},
        "full": {"epochs": 3, "patience": 2},
    }
    for part, given in parts.items():
        values[part] = {**values[part], **given} if isinstance(given, dict) else given
    return from_values(values)
