"""A campaign whose members are formulas: fake candidates, and a task score that says how good a member is.

`python -m tests.campaigns.formulas NAME FOLDER` is a real coordinator on the store in KDNAS_STORAGE; its workers are
forked and real, too. It leaves a line in FOLDER's `scored` for every score.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from kdnas.campaigns.contract import Beat, Hands
from kdnas.campaigns.coordinator import best_feasible, run
from kdnas.search.worker import run_worker
from kdnas.store import queries
from kdnas.store.database import open_store
from kdnas.study.campaign_rows import CampaignRow, MemberRow
from kdnas.study.campaign_spec import CampaignSpec, campaign_from
from kdnas.study.campaign_table import ranked, verdict, with_front
from kdnas.study.constraints import limits_of
from kdnas.study.ranking import Scored
from kdnas.study.spec import StudySpec
from tests import fakes
from tests.forks import Forked

_EMPTY: dict[str, Any] = dict.fromkeys(
    ("trial", "score", "macro_f1", "own_head", "finetuned", "latency_ms", "speedup", "flag", "parameters", "size_mib",
     "folder")
) | {"state": "searched", "reason": ""}  # fmt: skip
TEACHER_ROW: dict[str, Any] = {
    "name": "teacher", "kind": "teacher", "score": 0.97, "latency_ms": 10.0, "speedup": 1.0, "parameters": 20_000_000,
    "size_mib": 76.3,
}  # fmt: skip
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
    """A worker in this process, at its end when it has begun: of formulas, or another one that is to `run`."""

    def __init__(self, storage: str, study: str, run: Callable[[str, str], int] | None = None) -> None:
        self.code = _by_formulas(storage, study) if run is None else run(storage, study)

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
                best = next(iter(best_feasible(store, member.study, 1)), None)
                rows.append(_table_row(campaign, member, best))
        rows.append({**_EMPTY, **TEACHER_ROW, "member": campaign.members[0].name})
        limits = limits_of(campaign_from(campaign.spec).constraints_of(), TEACHER_ROW["latency_ms"])
        table = ranked(with_front(rows), limits)
        order = [row["member"] for row in table if row["rank"] is not None]
        return {
            "rows": table,
            "reference": TEACHER_ROW["name"],
            "reference_ms": TEACHER_ROW["latency_ms"],
            "task": {"source": "rows.csv", "train": 800, "held_out": 100, "test": 100, "classes": ["a", "b"]},
            "winner": next(iter(order), None),
            "runner_up": next(iter(order[1:]), None),
            "verdict": verdict(table, limits, 100),
            "constraints": str(limits),
            "device": "cpu: a formula",
        }

    return Hands(member_spec, lambda study: [start(storage, study)], score, finish)


def told(storage: str, row: CampaignRow) -> list[Any]:
    """All that a campaign decided, and its table, without times, and by slots: a trial that died keeps its number, and
    the one in its place has the next."""
    slots: dict[tuple[str, int], int | None] = {}
    with open_store(storage) as store:
        for member in row.members:
            study = queries.study_row(store, member.study)
            slots |= {(member.name, trial.number): trial.slot for trial in queries.trial_rows(store, study.study_id)}

    def by_slot(value: Any) -> Any:
        if isinstance(value, Mapping):
            plain = {key: by_slot(part) for key, part in value.items()}
            return plain if value.get("trial") is None else {**plain, "trial": slots[value["member"], value["trial"]]}
        if isinstance(value, list):
            return [by_slot(part) for part in value]
        return value

    parts = ("scores", "going", "out", "best", "global_best", "previous_best", "spent")
    scores = [[score.stage, score.member, slots[score.member, score.trial], score.score] for score in row.scores]
    decided = [{part: by_slot(decision.facts[part]) for part in parts} for decision in row.decisions]
    return [*scores, *decided, by_slot(row.result)]


def _table_row(campaign: CampaignRow, member: MemberRow, best: Scored | None) -> dict[str, Any]:
    row = {**_EMPTY, "name": member.name, "kind": "student", "member": member.name, "state": str(member.state)}
    if best is None:
        return {**row, "reason": member.reason or "no student keeps its constraints"}
    ms = float(best.row.latency_ms or 0.0)
    return {
        **row,
        "trial": best.number,
        "score": task_score(member.name, best.row.candidate),
        "latency_ms": ms,
        "speedup": TEACHER_ROW["latency_ms"] / ms,
        "parameters": 5_000_000,
        "size_mib": 19.1,
    }


def forked(storage: str, study: str) -> Forked:
    return Forked(lambda: _by_formulas(storage, study))


def _by_formulas(storage: str, study: str) -> int:
    return run_worker(storage, study, prepare=fakes.prepare, measure=fakes.measure)


def main(arguments: Sequence[str]) -> int:
    name, folder = arguments
    storage = os.environ["KDNAS_STORAGE"]
    run(storage, name, hands(storage, forked, Path(folder) / "scored"), lambda line: None)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
