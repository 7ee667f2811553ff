"""Draws docs/screen.svg from the running app: `python -m docs.picture [--storage URL STUDY]`.

Without a study it takes the recorded table of benchmarks/tables: 360 students that were distilled and timed one after
the other, in the random order of `benchmarks.record_table`. That is what the strategy `random` does, and the app shows
them as a finished search of it, at 120×36. Figures and order are those of the recording; the hours of the day are not.
"""

from __future__ import annotations

import argparse
import asyncio
import csv
import gzip
import json
import re
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.record_table import REPEATED, order
from kdnas.store import recording, tables
from kdnas.study.reward import reward
from kdnas.study.space import Candidate, Dimension, SearchSpace
from kdnas.study.spec import from_values
from kdnas.study.spec_toml import to_toml
from kdnas_tui.app import KdnasApp

TABLE = Path(__file__).resolve().parents[1] / "benchmarks" / "tables" / "minilm-sotu.csv.gz"
BEGAN = 1_795_270_403.0
PICTURE = Path(__file__).resolve().parent / "screen.svg"
REMOTE_FONTS = re.compile(r"@font-face \{.*?\}\s*", re.DOTALL)  # a picture fetches nothing


def recorded(folder: Path) -> None:
    """The table as a recording that `kdnas.store.recording` reads; one trial for each candidate, of seed 0."""
    facts = json.loads(TABLE.with_name("minilm-sotu.json").read_text(encoding="utf-8"))
    with gzip.open(TABLE, "rt", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["seed"] == "0"]
    parts = ("name", "teacher", "data", "latency", "training")
    values: dict[str, Any] = {part: facts["spec"][part] for part in parts if part in facts["spec"]}
    spec = from_values({**values, "strategy": {"name": "random"}, "budget": {"trials": len(rows), "epochs": 1}})
    dimensions = [Dimension(d["name"], tuple(d["choices"]), d["ordered"]) for d in facts["space"]]
    space = SearchSpace(tuple(dimensions))
    plan = order(space, REPEATED[TABLE.name.removesuffix(".csv.gz")])
    place = {space.key(candidate): place for place, (candidate, seed) in enumerate(plan) if seed == 0}
    rows.sort(key=lambda row: place[space.key(_candidate(row, dimensions))])
    moment, trials = BEGAN, []
    for number, row in enumerate(rows):
        candidate = _candidate(row, dimensions)
        loss, ms, teacher_ms = float(row["loss"]), float(row["latency_ms"]), float(row["teacher_latency_ms"])
        half = ms * float(row["latency_spread"]) / 2
        begun, moment = moment, moment + float(row["seconds"]) + 5
        one = {"slot": number, "worker_id": 1, "state": "done", "candidate": json.dumps(candidate)}
        one |= {"candidate_key": space.key(candidate)}
        trials.append(["slot", {**one, "trial": number, "attempts": 1, "origin": "strategy"}])
        measured = {"loss": loss, "raw_loss": float(row["raw_loss"]), "latency_ms": ms, "latency_p90_ms": ms + half}
        measured |= {"latency_low_ms": ms - half, "latency_high_ms": ms + half, "parameters": int(row["parameters"])}
        measured |= {"latency_count": int(row["latency_rounds"]), "teacher_latency_ms": teacher_ms}
        value = reward(loss, ms, teacher_ms, spec.reward.alpha, spec.reward.beta)
        done = {"number": number, "config": json.dumps(candidate), "seed": 0, "reward": value, "epoch": 1, "epochs": 1}
        done |= {"alpha": spec.reward.alpha, "beta": spec.reward.beta, "progress": 1.0, "extra": "{}"}
        trials.append(["trial", {**one, **done, **measured, "started": begun, "ended": moment, "revision": number}])
    study = {"name": spec.name, "space": json.dumps(facts["space"]), "trials": len(rows), "alpha": spec.reward.alpha}
    study |= {"beta": spec.reward.beta, "wanted": "run", "finished": moment, "ending": "The budget is spent."}
    study |= {"teacher_latency_ms": float(rows[-1]["teacher_latency_ms"]), "provenance": "{}", "revision": len(rows)}
    worker = {"worker_id": 1, "device": "cpu", "state": "ended", "task": "search", "started": BEGAN}
    head = {"format": recording.FORMAT, "version": tables.SCHEMA_VERSION, "study": spec.name}
    lines: list[Any] = [head, ["study", {**study, "created": BEGAN, "updated": moment}]]
    lines += [["worker", {**worker, "heartbeat": moment, "ended": moment}], *trials]
    (folder / recording.SPEC).write_text(to_toml(spec), encoding="utf-8")
    (folder / recording.ROWS).write_text("\n".join(map(json.dumps, lines)) + "\n", encoding="utf-8")


def _candidate(row: dict[str, str], dimensions: list[Dimension]) -> Candidate:
    return {d.name: type(d.choices[0])(row[d.name]) for d in dimensions}


async def draw(storage: str, study: str) -> str:
    """The study's screen as SVG, once its table has its trials."""
    from kdnas_tui.widgets.trials_table import TrialsTable

    app = KdnasApp(storage, study=study)
    async with app.run_test(size=(120, 36)) as pilot:
        for _ in range(200):
            await pilot.pause(0.05)
            tables = app.screen.query(TrialsTable)
            if tables and tables.first().virtual_size.height > 1:
                break
        await pilot.pause(2.0)  # plots are drawn at most once a second
        return REMOTE_FONTS.sub("", app.export_screenshot(title=f"kdnas-tui {study}"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("study", nargs="?")
    parser.add_argument("--storage")
    chosen = parser.parse_args()
    if chosen.study and chosen.storage:
        svg = asyncio.run(draw(chosen.storage, chosen.study))
    else:
        with tempfile.TemporaryDirectory() as place:
            recorded(Path(place))
            with recording.opened(Path(place)) as (url, study):
                svg = asyncio.run(draw(url, study))
    PICTURE.write_text(svg, encoding="utf-8")
    print(PICTURE)


if __name__ == "__main__":
    main()
