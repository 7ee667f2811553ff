"""The store of an evening's work, for tests of the screens: real configurations, losses and latencies, at a real size.

It holds the recorded study that ships; a search of 471 trials that runs, one that was stopped, and one whose worker
failed. Losses, latencies and parameters are those of the recorded table; sizes between two of its own lie between
theirs. The order of the trials is drawn from a seed, and gets better as that of a search does.
"""

from __future__ import annotations

import csv
import gzip
import json
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import sqlalchemy as sa

from kdnas.store import recording
from kdnas.store import tables as t
from kdnas.store.database import open_store
from kdnas.study.reward import reward
from kdnas.study.rows import TrialRow
from kdnas.study.space import Dimension, SearchSpace
from tests.rows import made_row
from tests.tui.filled import NOW, finished, study, url_of

TABLE = Path(__file__).parents[2] / "benchmarks" / "tables" / "minilm-sotu.csv.gz"
LAYERS, WIDTHS, HEADS = (2, 3, 4, 5, 6), (96, 128, 160, 192, 256), (16, 32)
INNER, ACTS = (192, 384, 576, 1152), ("gelu", "relu", "silu")
NAMES = ("num_hidden_layers", "hidden_size", "head_size", "intermediate_size", "hidden_act")
SPACE = SearchSpace(
    tuple(
        Dimension(name, choices, ordered=name != "hidden_act")
        for name, choices in zip(NAMES, (LAYERS, WIDTHS, HEADS, INNER, ACTS), strict=True)
    )
)
BETWEEN = {5: (4, 6), 384: (192, 576)}  # a size that was not measured → its neighbours
TRIALS, BUDGET = 471, 600
EVERY_S, TAKES_S = 22.95, 22.0  # a trial, so that the last has just begun
Point = tuple[Any, ...]


def measured() -> dict[Point, np.ndarray]:
    """Every candidate of the space: loss, raw loss, parameters, latency and the teacher's beside it, in ms."""
    with gzip.open(TABLE, "rt", newline="") as file:
        known = {
            (*(int(row[name]) for name in NAMES[:4]), row["hidden_act"]): np.array(
                [float(row[name]) for name in ("loss", "raw_loss", "parameters", "latency_ms", "teacher_latency_ms")]
            )
            for row in csv.DictReader(file)
            if row["seed"] == "0"
        }

    def figures(point: Point) -> np.ndarray:
        for place, size in enumerate(point):
            if size in BETWEEN and place in (0, 3):
                return np.mean([figures((*point[:place], near, *point[place + 1 :])) for near in BETWEEN[size]], axis=0)
        return known[point]

    return {point: figures(point) for point in product(LAYERS, WIDTHS, HEADS, INNER, ACTS)}


def config_of(point: Point, real: dict[str, Any]) -> dict[str, Any]:
    """A real student's whole configuration in these sizes."""
    layers, width, head, inner, act = point
    return {
        **real, "num_hidden_layers": layers, "hidden_size": width, "num_attention_heads": width // head,
        "intermediate_size": inner, "hidden_act": act,
    }  # fmt: skip


def real_config() -> dict[str, Any]:
    """The configuration that a real student of the recorded study had."""
    lines = (recording.shipped() / recording.ROWS).read_text(encoding="utf-8").splitlines()[1:]
    first = next(values for table, values in map(json.loads, lines) if table == "trial")
    found: dict[str, Any] = json.loads(first["config"])
    return found


def searched(count: int = TRIALS, seed: int = 10) -> list[TrialRow]:
    """So many trials: each takes the best of a few candidates drawn, of more the later it is."""
    rng = np.random.default_rng(seed)
    figures, real = measured(), real_config()
    left = list(figures)
    rows: list[TrialRow] = []
    for number in range(count):
        drawn = rng.choice(len(left), size=min(len(left), 1 + number // 120), replace=False)
        worth = [reward(*figures[left[i]][[0, 3, 4]].tolist(), -0.06, 0.6) for i in drawn]
        point = left.pop(int(drawn[int(np.argmax(worth))]))
        rows.append(_row(number, point, figures[point], config_of(point, real), rng))
    return rows


def _row(number: int, point: Point, figures: np.ndarray, config: dict[str, Any], rng: np.random.Generator) -> TrialRow:
    loss, raw, parameters, latency, teacher = figures.tolist()
    luck, spread = float(rng.random()), float(rng.uniform(0.003, 0.009))
    pruned, failed, doubtful = luck < 0.25 and loss > 0.42, 0.5 < luck < 0.512, luck > 0.96
    spread *= 5 if doubtful else 1
    noise = float(rng.normal(0, 0.004))
    row = made_row(
        number,
        candidate=dict(zip(NAMES, point, strict=True)),
        config=config,
        state="failed" if failed else "pruned" if pruned else "done",
        loss=None if failed else round(loss + noise, 6),
        raw_loss=None if failed else round(raw * (1 + noise / loss), 7),
        parameters=int(parameters),
        latency_ms=round(latency, 4),
        latency_p90_ms=round(latency * (1 + 3 * spread), 4),
        latency_low_ms=round(latency * (1 - spread), 4),
        latency_high_ms=round(latency * (1 + spread), 4),
        latency_flag=f"±{spread:.1%} after 20 s" if doubtful else None,
        teacher_latency_ms=round(teacher, 4),
        memory_mib=880.0,
        extra={"mapped_loss": round(loss * 0.38, 6)},
        error="The loss became nan at step 14." if failed else None,
    )
    return replace(row, epoch=2, progress=0.5) if pruned else replace(row, epoch=0) if failed else row


def running(row: TrialRow, epoch: int) -> TrialRow:
    """The trial while it learns: its latency is known, its loss is not."""
    return replace(
        row, state="running", ended=None, epoch=epoch, progress=epoch / 4, phase="training", loss=None, raw_loss=None,
        error=None,
    )  # fmt: skip


def line_of(row: TrialRow) -> str:
    """What a worker writes of a trial, as those of the recorded study did."""
    if row.state == "failed":
        return f"trial {row.number} failed: {row.error}"
    if row.state == "pruned":
        return f"trial {row.number}: pruned after epoch {row.epoch}, loss {row.loss:.4f}"
    told = finished(row).reward
    faster = f"{row.latency_ms:.2f} ms ({row.speedup:.1f} × the teacher)"
    return f"trial {row.number}: reward {told:.4f}, loss {row.loss:.4f}, {faster}"


def evening(folder: Path) -> Path:
    """Write the store into the folder; gives its file. Copy it before it is written to."""
    rows = searched()
    live = [*rows[:-1], running(rows[-1], 1)]
    remarked = {101: {"note": "the smallest that still knows its dates"}, 240: {"tags": ("export", "phone")}}
    live = [replace(row, **remarked.get(row.number, {})) for row in live]
    stopped = [row for row in searched(180, seed=1) if row.number < 180]
    values = {"teacher": {"model": "all-minilm-l6-v2"}, "data": {"source": "sotu"}}
    common: dict[str, Any] = {"space": SPACE, "values": values, "every": EVERY_S, "takes": TAKES_S}
    log = [
        "worker 1 on cpu, process 4711", "loading all-minilm-l6-v2", "tokenising",
        "caching the teacher on the proxy set of sotu", "caching the teacher on the held-out part of sotu",
    ]  # fmt: skip
    with open_store(url_of(folder), create=True) as store:
        study(
            store, "minilm-sotu", trials=BUDGET, rows=live, worker="running",
            log=log + [line_of(row) for row in live[-60:-1]], **common,
        )  # fmt: skip
        study(
            store, "minilm-sotu-latency-first-alpha-0.3", trials=250, rows=stopped, worker="ended", wanted="stop",
            log=log, **common,
        )  # fmt: skip
        study(store, "roberta-rotten-tomatoes-rnn-hybrid", trials=100, rows=[], worker="failed", log=[], **common)
        recording.read(recording.shipped(), store)
        with store.begin() as connection:  # as if it had ended two days before
            here = t.study.c.name == "quickstart"
            connection.execute(
                sa.update(t.study).where(here).values(updated=NOW - 48 * 3600, created=NOW - 48.1 * 3600)
            )
    return folder / "kdnas.db"
