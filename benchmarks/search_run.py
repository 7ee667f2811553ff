"""How long the quickstart takes, from the command to the last trial, and how many candidates a worker does an hour.

    python -m benchmarks.search_run [--quick] [--json FILE]

Runs `kdnas search --preset quickstart` as a user would, on a store of its own; teacher and text are fetched first
where they are not there. The teacher's cache is built anew each time, as on a fresh machine. `--quick` runs three
trials and reckons the whole from them, which it says.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.report import Result, Table, run, say
from kdnas.data import shipped
from kdnas.store import queries
from kdnas.store.database import open_reader
from kdnas.study.rows import StudyRow, TrialRow
from kdnas.study.spec import StudySpec
from kdnas.study.spec_toml import read_toml
from kdnas.system import paths

QUICK_TRIALS = 3


def measure(options: argparse.Namespace) -> Result:
    spec = read_toml(paths.presets()["quickstart"])
    trials = QUICK_TRIALS if options.quick else spec.budget.trials
    for name in (spec.teacher.model, spec.data.source):
        shipped.fetch(name, lambda words, _: say(words))
    with tempfile.TemporaryDirectory() as scratch:
        seconds, study, rows, prepared = _search(Path(scratch), trials)
    done = sorted((row for row in rows if row.state == "done"), key=lambda row: -(row.reward or 0.0))
    each = [row.ended - row.started for row in done if row.ended is not None]
    mean = sum(each) / len(each)
    whole = seconds if trials == spec.budget.trials else seconds + (spec.budget.trials - trials) * mean
    best = done[0]
    notes = [_words(spec, study)]
    if options.quick:
        notes.append(f"quickstart_s is reckoned from {trials} trials: the rest at their mean of {mean:.1f} s.")
    flagged = sum(1 for row in done if row.latency_flag)
    if flagged:
        notes.append(f"{flagged} of {len(done)} latencies are flagged as doubtful: the machine was not quiet.")
    return Result(
        [
            Table(
                "The quickstart, headless",
                ["what", "figure"],
                [
                    ("trials run", len(done)),
                    ("whole command, s", seconds),
                    ("start and preparation, s", prepared),
                    ("one candidate, s, mean", mean),
                    ("candidates an hour, one worker", 3600 / mean),
                    ("whole quickstart, s", whole),
                    ("best: normalised loss", best.loss),
                    ("best: times the teacher's speed", best.speedup),
                ],
                notes,
            )
        ],
        {
            "quickstart_s": whole,
            "candidates_per_hour": 3600 / mean,
            "prepare_s": prepared,
            "best_loss": best.loss or 0.0,
            "best_speedup": best.speedup or 0.0,
        },
        {"trials": trials, "preset": "quickstart", "seed": spec.seed, "flagged_latencies": flagged},
    )


def _search(folder: Path, trials: int) -> tuple[float, StudyRow, list[TrialRow], float]:
    """Seconds of the whole command, the study, its trials, and seconds until the first trial began."""
    store = folder / "studies.db"
    cache = folder / "cache"
    cache.mkdir()
    # What was fetched stays in the user's cache; tokens and teacher outputs are this run's own.
    (cache / "assets").symlink_to(paths.cache_folder() / "assets")
    environment = {**os.environ, "KDNAS_CACHE": str(cache), "KDNAS_STATE": str(folder / "state")}
    command = [sys.executable, "-m", "kdnas", "search", "--preset", "quickstart", "--trials", str(trials)]
    began, wall = time.monotonic(), time.time()
    said = subprocess.run([*command, "--storage", str(store), "--json"], env=environment, stdout=subprocess.PIPE)
    seconds = time.monotonic() - began
    if said.returncode != 0:
        sys.exit(f"The search ended with code {said.returncode}.")
    json.loads(said.stdout)  # data alone on standard output
    with open_reader(store) as opened:
        study = queries.study_row(opened, "quickstart")
        rows = queries.trial_rows(opened, study.study_id)
    return seconds, study, rows, min(row.started for row in rows) - wall


def _words(spec: StudySpec, study: StudyRow) -> str:
    return (
        f"{spec.teacher.model} on {spec.data.source}, {spec.data.limit} chunks of {spec.data.length} tokens, "
        f"{spec.budget.epochs} epochs on {spec.budget.proxy_fraction:.0%} of them, one worker, "
        f"{study.space_size} candidates in the space."
    )


if __name__ == "__main__":
    run("How long the quickstart takes, and how many candidates an hour.", measure)
