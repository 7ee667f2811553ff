"""A campaign whose members are formulas: fake candidates, and a task score that says how good a member is.

`python -m tests.campaigns.formulas NAME FOLDER` is a real coordinator on the store in KDNAS_STORAGE; its workers are
forked and real, too. It leaves a line in FOLDER's `scored` for every score.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from kdnas.campaigns.contract import Beat, Hands
from kdnas.campaigns.coordinator import best_feasible, run
from kdnas.search.worker import run_worker
from kdnas.store import queries
from kdnas.store.database import open_store
from kdnas.study.campaign_rows import CampaignRow
from kdnas.study.campaign_spec import CampaignSpec, campaign_from
from kdnas.study.spec import StudySpec
from tests import fakes
from tests.forks import Forked

QUALITY = {"good": 0.0, "fair": 0.1, "poor": 0.3, "worst": 0.5}  # what a member's best student lacks on the task


def spec(trials: int = 10, members: Sequence[str] = ("poor", "good"), seed: int = 0, **more: Any) -> CampaignSpec:
    own = {name: {"teacher": {"model": name}} for name in members}
    values = {"name": "c", "seed": seed, "task": {"source": "rows.csv"}, "budget": {"trials": trials}, "members": own}
    return campaign_from({**values, **more})


def member_spec(campaign: CampaignRow, name: str) -> StudySpec:
    asked = campaign_from(campaign.spec).member(name)
    return fakes.spec(asked.name, seed=asked.seed, constraints=asked.constraints.model_dump(), like="none")


def task_score(name: str, candidate: Mapping[str, Any]) -> float:
    """On the task: the member's own lack, and what the student loses."""
    return 1 - QUALITY[name] - 0.2 * fakes.loss(candidate)


class Here:
    """A worker in this process, at its end when it has begun."""

    def __init__(self, storage: str, study: str) -> None:
        self.code = run_worker(storage, study, prepare=fakes.prepare, measure=fakes.measure)

    def poll(self) -> int | None:
        return self.code

    def wait(self, timeout: float | None = None) -> int | None:
        return self.code

    def terminate(self) -> None: ...

    def kill(self) -> None: ...


def hands(storage: str, start: Any = Here, note: Path | None = None) -> Hands:
    def trial(campaign: CampaignRow, name: str, number: int) -> Mapping[str, Any]:
        with open_store(storage) as store:
            found = best_feasible(store, campaign.member(name).study, 1000)
            return next(one.row.candidate for one in found if one.number == number)

    def score(campaign: CampaignRow, name: str, number: int, beat: Beat) -> tuple[float, Mapping[str, Any]]:
        beat("scoring")
        if note is not None:
            with note.open("a") as file:
                file.write(f"{name} {number}\n")
        return task_score(name, trial(campaign, name, number)), {"examples": 100}

    def finish(campaign: CampaignRow, beat: Beat) -> Mapping[str, Any]:
        rows = []
        with open_store(storage) as store:
            for member in campaign.members:
                for best in best_feasible(store, member.study, 1):
                    rows.append({"member": member.name, "score": task_score(member.name, best.row.candidate)})
        rows.sort(key=lambda row: -float(str(row["score"])))
        winner = rows[0]["member"] if rows else None
        return {"rows": rows, "winner": winner, "verdict": f"{winner} wins."}

    return Hands(member_spec, lambda study: [start(storage, study)], score, finish)


def told(storage: str, row: CampaignRow) -> list[Any]:
    """All that a campaign decided, without its times, and by slots: a trial that died keeps its number, and the one in
    its place has the next."""
    slots: dict[tuple[str, int], int | None] = {}
    with open_store(storage) as store:
        for member in row.members:
            study = queries.study_row(store, member.study)
            slots |= {(member.name, trial.number): trial.slot for trial in queries.trial_rows(store, study.study_id)}

    def by_slot(value: Any) -> Any:
        if isinstance(value, Mapping):
            plain = {key: by_slot(part) for key, part in value.items()}
            return {**plain, "trial": slots[value["member"], value["trial"]]} if "trial" in value else plain
        return value

    parts = ("scores", "going", "out", "best", "global_best", "previous_best", "spent")
    scores = [[score.stage, score.member, slots[score.member, score.trial], score.score] for score in row.scores]
    return [*scores, *({part: by_slot(decision.facts[part]) for part in parts} for decision in row.decisions)]


def forked(storage: str, study: str) -> Forked:
    return Forked(lambda: run_worker(storage, study, prepare=fakes.prepare, measure=fakes.measure))


def main(arguments: Sequence[str]) -> int:
    name, folder = arguments
    storage = os.environ["KDNAS_STORAGE"]
    run(storage, name, hands(storage, forked, Path(folder) / "scored"), lambda line: None)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
