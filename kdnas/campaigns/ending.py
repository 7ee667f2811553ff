"""The ending of a campaign: every member's best student in full, scored on the test part, timed side by side.

Students and teachers are timed by one protocol on one reference in one process. What cannot be had of a member stands
in its row as a reason, and stops no other.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from kdnas.campaigns.contract import Beat
from kdnas.campaigns.coordinator import best_feasible
from kdnas.campaigns.scoring import ROUNDS, require_unseen, rows_of, spec_of, telling
from kdnas.data.glue import Split, Task
from kdnas.data.task_rows import Part, TaskRows
from kdnas.measuring.devices import device_name, resolve_device
from kdnas.scores.finetuned_tasks import score_on
from kdnas.scores.finetuning import FineTuning
from kdnas.scores.model_latency import measure_beside
from kdnas.scores.score_folder import teacher_of
from kdnas.scores.solved_head import solved_scores
from kdnas.store import queries
from kdnas.store.database import Store, open_store
from kdnas.students import model_folder
from kdnas.students.distil import Telling
from kdnas.students.finalize import finalize
from kdnas.study.campaign_rows import CampaignRow, MemberRow, MemberState
from kdnas.study.campaign_spec import CampaignSpec
from kdnas.study.campaign_table import STUDENT, TEACHER, of_last_stage, ranked, verdict, with_front
from kdnas.study.constraints import limits_of, of_study, size_mib
from kdnas.study.ranked_rows import missed, rank_of
from kdnas.system.errors import KdnasError, UsageError

TIMING = "timing"  # in the folder of the rounds' students: that the models have begun to be timed


@dataclass(frozen=True)
class Model:
    """One row to be: a folder, whose it is, and why it has no figures: a reason, or the constraints that it misses."""

    name: str
    kind: str
    member: MemberRow
    trial: int | None = None
    folder: Path | None = None
    parameters: int | None = None
    reason: str = ""
    misses: str = ""


def finish(storage: str, campaign: CampaignRow, beat: Beat) -> dict[str, Any]:
    """The final table, as `CampaignRow.result` has it; model folders lie in the campaign's folder afterwards, and their
    cards know their rank."""
    spec = spec_of(campaign)
    device = resolve_device(spec.device)
    rows = rows_of(spec.task)
    students = [_finalized(storage, campaign, member, rows, beat) for member in campaign.members]
    teachers = _teachers(students, device, beat)
    scored = [_scored(model, spec, rows, device, beat) for model in (*students, *teachers)]
    there = [model for model, row in zip((*students, *teachers), scored, strict=True) if row["score"] is not None]
    timed = _told_of_timing(campaign, len(there))
    reference = next((m for m in there if m.kind == TEACHER), next(iter(there), None))
    table = _timed(scored, there, reference, spec, device, beat)
    reference_ms = next((row["latency_ms"] for row in table if reference and row["name"] == reference.name), None)
    limits = limits_of(spec.constraints_of(), reference_ms)
    table = ranked(with_front(table), limits)
    order = [row["member"] for row in table if row["rank"] is not None]
    result = {
        "rows": table,
        "reference": None if reference is None else reference.name,
        "reference_ms": reference_ms,
        "task": {
            "source": spec.task.source,
            "train": len(rows.train),
            "held_out": len(rows.held_out),
            "test": len(rows.test),
            "classes": list(rows.classes),
            "fingerprint": rows.fingerprint,
        },
        "winner": next(iter(order), None),
        "runner_up": next(iter(order[1:]), None),
        "verdict": " ".join(filter(None, (verdict(table, limits, len(rows.test)), of_last_stage(campaign)))),
        "timed": timed,
        "constraints": str(limits),
        "device": device_name(device),
    }
    _write_cards(campaign, table)
    shutil.rmtree(Path(campaign.folder) / ROUNDS, ignore_errors=True)
    return result


def _finalized(storage: str, campaign: CampaignRow, member: MemberRow, rows: TaskRows, beat: Beat) -> Model:
    """A member's best feasible student, distilled in full."""
    row = Model(member.name, STUDENT, member)
    with open_store(storage) as store:
        best = best_feasible(store, member.study, 1)
        if not best:
            return _without_student(store, row)
    row = replace(row, trial=best[0].number)
    folder = Path(campaign.folder) / member.name
    progress = telling(beat, member.name)
    try:
        facts = finalize(storage, member.study, folder, Telling(progress), trial=row.trial)
        require_unseen(rows, folder, progress)
    except KdnasError as error:
        return replace(row, reason=str(error))
    return replace(row, folder=folder, parameters=int(facts["parameters"]))


def _without_student(store: Store, row: Model) -> Model:
    """The row of a member none of whose students keeps its constraints: its best one, and what that misses."""
    study = queries.find_study(store, row.member.study)
    found = [] if study is None else rank_of(study, queries.trial_rows(store, study.study_id))
    first = next((one for one in found if one.rank is not None), None)
    if study is None or first is None:
        return replace(row, reason=row.member.reason or "it has no finished trial")
    return replace(row, trial=first.number, misses=missed(first, of_study(study)))


def _told_of_timing(campaign: CampaignRow, models: int) -> str:
    """That all models are timed in one go, and whether an earlier go was cut off, of which nothing is kept."""
    mark = Path(campaign.folder) / ROUNDS / TIMING
    again = mark.exists()
    mark.parent.mkdir(parents=True, exist_ok=True)
    mark.touch()
    said = f"All {models} models were timed{' again' if again else ''} in one go."
    return f"{said} An earlier one was cut off, and nothing of it is kept." if again else said


def _teachers(students: list[Model], device: torch.device, beat: Beat) -> list[Model]:
    """The teachers of what was finalized, each folder once."""
    found: dict[Path, Model] = {}
    for student in students:
        if student.folder is None:
            continue
        facts = model_folder.read_facts(student.folder)
        taught = " (taught)" if facts["spec"]["recipe"]["name"] == "rnn-hybrid" else ""
        name = f"{Path(facts['spec']['teacher']['model']).name}{taught}"
        if any(other.name == name for other in found.values()):
            name = f"{name} of {student.name}"
        try:
            folder = teacher_of(None, facts, device, telling(beat, f"the teacher of {student.name}"))
        except KdnasError as error:
            found[Path(name)] = Model(name, TEACHER, student.member, reason=str(error))
            continue
        if folder is not None and folder not in found:
            found[folder] = Model(name, TEACHER, student.member, folder=folder)
    return list(found.values())


def _scored(model: Model, spec: CampaignSpec, rows: TaskRows, device: torch.device, beat: Beat) -> dict[str, Any]:
    """Its row without figures of time: the accuracy on the test part with a solved head, by its own head where it has
    one of the task's classes, and after fine-tuning where that is asked for."""
    row: dict[str, Any] = {
        "name": model.name,
        "kind": model.kind,
        "member": model.member.name,
        "trial": model.trial,
        "score": None,
        "macro_f1": None,
        "own_head": None,
        "finetuned": None,
        "latency_ms": None,
        "speedup": None,
        "flag": None,
        "parameters": model.parameters,
        "size_mib": None,
        "folder": None if model.folder is None else str(model.folder),
        "state": str(model.member.state),
        "reason": model.reason or (model.member.reason if model.member.state is MemberState.FAILED else ""),
        "misses": model.misses,
    }
    if model.folder is None:
        return row
    progress = telling(beat, model.name)
    try:
        found = solved_scores(model.folder, rows.train, [rows.test], spec.task.length, device, progress)[0]
        row |= {"score": found.accuracy, "macro_f1": found.macro_f1}
        row["own_head"] = _by_own_head(model.folder, spec, rows, device, beat)
        if spec.scoring.finetune:
            seeds = tuple(range(spec.scoring.seeds))
            asked = FineTuning(length=spec.task.length, seeds=seeds)
            row["finetuned"] = score_on(model.folder, *_task(rows), asked, device, progress)["score"]
    except KdnasError as error:
        row["reason"] = str(error)
    return row


def _by_own_head(folder: Path, spec: CampaignSpec, rows: TaskRows, device: torch.device, beat: Beat) -> float | None:
    asked = FineTuning(length=spec.task.length, finetune=False)
    try:
        return float(score_on(folder, *_task(rows), asked, device, telling(beat, folder.name))["score"])
    except UsageError:  # it has no head, or one of other classes
        return None


def _task(rows: TaskRows) -> tuple[Task, dict[str, Split]]:
    """The rows as fine-tunings take them."""

    def split(name: str, part: Part) -> Split:
        labels = np.array([rows.classes.index(label) for label in part.labels], dtype=np.int64)
        return Split((list(part.texts),), labels, f"{rows.fingerprint}-{name}-{len(part)}")

    task = Task("campaign", ("text",), rows.classes, ("accuracy",), epochs=2)
    return task, {"train": split("train", rows.train), "validation": split("test", rows.test)}


def _timed(
    scored: list[dict[str, Any]],
    there: list[Model],
    reference: Model | None,
    spec: CampaignSpec,
    device: torch.device,
    beat: Beat,
) -> list[dict[str, Any]]:
    """The rows with latencies: the reference's own pass is timed beside itself, as every other one's."""
    if reference is None:
        return scored
    folders = [str(model.folder) for model in there]
    measured = measure_beside(folders, str(reference.folder), spec.latency, device, telling(beat, "side by side"))
    times = dict(zip(((model.kind, model.name) for model in there), measured, strict=True))
    reference_ms = measured[0][0].teacher_p50
    found = []
    for row in scored:
        figures, parameters = times.get((row["kind"], row["name"]), (None, 0))
        if figures is None:
            found.append(row)
            continue
        mine = reference_ms if row["name"] == reference.name and row["kind"] == reference.kind else figures.p50
        count = parameters if row["parameters"] is None else row["parameters"]
        found.append(
            {
                **row,
                "latency_ms": mine,
                "speedup": reference_ms / mine,
                "flag": figures.flag,
                "parameters": count,
                "size_mib": size_mib(count),
            }
        )
    return found


def _write_cards(campaign: CampaignRow, table: list[dict[str, Any]]) -> None:
    students = sum(row["kind"] == STUDENT for row in table)
    for row in table:
        if row["kind"] != STUDENT or row["folder"] is None:
            continue
        folder = Path(row["folder"])
        told: Mapping[str, Any] = {
            "name": campaign.name,
            "member": row["member"],
            "rank": row["rank"],
            "students": students,
            "score": row["score"],
            "task": spec_of(campaign).task.source,
        }
        model_folder.write_facts(folder, {**model_folder.read_facts(folder), "campaign": told})
