"""Trials made up for tests of what reads rows: rankings, filters, tables, plots."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from kdnas.study.rows import TrialRow

ACTIVATIONS = ("gelu", "relu", "silu")


def made_row(number: int = 0, **changes: Any) -> TrialRow:
    """A done trial of a small BERT; keywords replace fields."""
    layers = changes.pop("layers", 4)
    width = changes.pop("width", 312)
    act = changes.pop("act", "gelu")
    row = TrialRow(
        number=number,
        slot=number,
        state="done",
        candidate={"num_hidden_layers": layers, "head_size": 26, "num_attention_heads": 12, "hidden_act": act},
        config={"model_type": "bert", "num_hidden_layers": layers, "hidden_size": width, "hidden_act": act},
        origin="strategy",
        predicted=None,
        seed=number + 1,
        reward=None,
        alpha=-0.06,
        beta=0.6,
        loss=0.2,
        raw_loss=0.05,
        latency_ms=5.0,
        latency_p90_ms=5.5,
        latency_low_ms=4.95,
        latency_high_ms=5.05,
        latency_count=30,
        latency_flag=None,
        teacher_latency_ms=30.0,
        parameters=14_200_000,
        memory_mib=900.0,
        extra={},
        epoch=4,
        epochs=4,
        progress=1.0,
        phase=None,
        error=None,
        reused_from=None,
        started=1000.0 + number,
        ended=1060.0 + number,
        revision=number,
    )
    return replace(row, **changes)


def made_rows(count: int, seed: int = 0) -> list[TrialRow]:
    """`count` trials of a search that gets better, some of them pruned, failed and running."""
    rng = np.random.default_rng(seed)
    rows = []
    layers = rng.integers(2, 7, count).tolist()
    widths = (rng.integers(6, 33, count) * 12).tolist()
    acts = rng.integers(0, 3, count).tolist()
    noise = rng.normal(0, 0.02, count).tolist()
    luck = rng.random(count).tolist()
    for number in range(count):
        work = layers[number] * (widths[number] / 384) ** 1.3
        latency = round(0.6 + 1.1 * work, 4)
        loss = round(min(0.97, max(0.05, 0.62 / (1 + work) + 0.06 + noise[number] + 0.1 / (1 + number / 50))), 5)
        draw = luck[number]
        state = "pruned" if draw < 0.12 else "failed" if draw < 0.13 else "done"
        if number >= count - 2 and count > 8:
            state = "running"
        row = made_row(
            number,
            layers=layers[number],
            width=widths[number],
            act=ACTIVATIONS[acts[number]],
            state=state,
            loss=None if state == "failed" else loss,
            raw_loss=None if state == "failed" else loss / 4,
            latency_ms=latency,
            latency_p90_ms=latency * 1.08,
            latency_low_ms=latency * 0.99,
            latency_high_ms=latency * 1.012,
            parameters=int(3e6 + 1.7e6 * work),
            error="The loss is not a number." if state == "failed" else None,
        )
        if state == "running":
            row = replace(row, ended=None, epoch=2, progress=0.5, phase="training", loss=None, raw_loss=None)
        rows.append(row)
    return rows
