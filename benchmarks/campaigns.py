"""Whether a campaign's winner is as good as the best of its members' studies, each searched alone with an equal share.

Three members, tiny encoders of three families with random weights, on a task whose labels the words only hint at.
Everything is real: workers, distillations, solved heads on the test part.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from benchmarks import report
from benchmarks.report import Result, Table, say
from kdnas.campaigns.contract import Process
from kdnas.campaigns.coordinator import best_feasible, run
from kdnas.campaigns.hands import here
from kdnas.campaigns.scoring import member_spec, rows_of
from kdnas.scores.solved_head import solved_scores
from kdnas.search.begin import begin
from kdnas.search.worker import run_worker
from kdnas.store import campaigns
from kdnas.store.database import open_store
from kdnas.students.distil import Telling
from kdnas.students.finalize import finalize
from kdnas.study.campaign_rows import CampaignRow
from kdnas.study.campaign_spec import CampaignSpec, campaign_from
from kdnas.study.spec import from_values
from tests.campaigns import formulas, two_classes
from tests.encoders import tiny_encoder

TRIALS = 30
SEEDS = 3
ROWS = 2000  # a fifth is held out: half of that decides, half is reported
FAMILIES = ("bert", "roberta", "albert")


def spec_of(folder: Path, seed: int, trials: int) -> CampaignSpec:
    return campaign_from(
        {
            "name": "shares",
            "seed": seed,
            "device": "cpu",
            "task": {"source": str(folder / "rows.csv"), "label_column": "label", "length": 16, "max_held_out": 200},
            "budget": {"trials": trials},
            "scoring": {"epochs": 1},
            "latency": {"length": 16, "precision": 0.5, "max_seconds": 0.05},
            "study": {"budget": {"epochs": 1}, "data": {"batch_size": 16}, "full": {"epochs": 2}},
            "members": {family: {"teacher": {"model": str(folder / family)}} for family in FAMILIES},
        }
    )


def campaign(folder: Path, seed: int, trials: int) -> CampaignRow:
    """A whole campaign, ended."""
    storage = str(folder / "campaign.db")
    with open_store(storage, create=True) as store:
        campaigns.begin_campaign(store, spec_of(folder, seed, trials), str(folder / "models"))

    def start(study: str) -> Sequence[Process]:
        return [formulas.Here(storage, study, run_worker)]

    return run(storage, "shares", replace(here(storage), start=start), say)


def alone(folder: Path, row: CampaignRow, trials: int) -> dict[str, float]:
    """The test score of each member's best student after a study of so many trials of its own."""
    storage, task = str(folder / "alone.db"), rows_of(spec_of(folder, 0, TRIALS).task)
    found = {}
    for member in row.members:
        values: dict[str, Any] = member_spec(row, member.name).model_dump(mode="json")
        begun = begin(from_values({**values, "budget": {**values["budget"], "trials": trials}}), storage)
        formulas.Here(storage, begun.name, run_worker)
        with open_store(storage) as store:
            best = best_feasible(store, begun.name, 1)[0]
        output = folder / "alone" / member.name
        output.parent.mkdir(exist_ok=True)
        finalize(storage, begun.name, output, Telling(lambda *_: None), trial=best.number)
        device = torch.device("cpu")
        found[member.name] = solved_scores(output, task.train, [task.test], 16, device, lambda *_: None)[0].accuracy
        say(f"{member.name} alone: {found[member.name]:.4f}")
    return found


def measure(chosen: argparse.Namespace) -> Result:
    rows: list[tuple[object, ...]] = []
    figures: dict[str, float] = {}
    trials = 15 if chosen.quick else TRIALS
    for seed in range(1 if chosen.quick else SEEDS):
        with tempfile.TemporaryDirectory() as aside:
            folder = Path(aside)
            two_classes.write(folder / "rows.csv", ROWS, 0.6, seed)
            for family in FAMILIES:
                tiny_encoder(folder / family, family, seed)
            row = campaign(folder, seed, trials)
            singles = alone(folder, row, trials // 3)
        first = row.result["rows"][0]
        say(f"seed {seed}: the campaign's winner {first['member']} has {first['score']:.4f}")
        best = max(singles, key=lambda name: singles[name])
        figures |= {f"campaign_{seed}": first["score"], f"best_alone_{seed}": singles[best]}
        rows.append((seed, first["member"], 100 * first["score"], best, 100 * singles[best]))
    lost = sum(figures[f"campaign_{row[0]}"] < figures[f"best_alone_{row[0]}"] for row in rows)
    table = Table(
        f"{trials} trials together, or {trials // 3} for each of three members alone; accuracy on 200 test rows",
        ("seed", "winner", "its score %", "best alone", "its score %"),
        rows,
        (f"The campaign's winner was worse {lost} of {len(rows)} times.",),
    )
    return Result((table,), figures)


if __name__ == "__main__":
    report.run("A campaign's winner beside its members searched alone.", measure)
