"""The specs of a campaign's members, and the score of a shortly distilled student.

Decides nothing and writes no row of a campaign.
"""

from __future__ import annotations

import functools
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from kdnas.campaigns.contract import Beat
from kdnas.data import task_rows
from kdnas.data.task_rows import TaskRows
from kdnas.study.campaign_rows import CampaignRow
from kdnas.study.campaign_spec import CampaignSpec, TaskSpec, campaign_from
from kdnas.study.spec import StudySpec
from kdnas.study.spec_recipes import scored_as_built
from kdnas.system.errors import UsageError

TEXTS = "texts.jsonl"  # in a campaign's folder: the training part of its task, without labels
ROUNDS = "rounds"  # beside it: students of the rounds, which the ending removes


def spec_of(campaign: CampaignRow) -> CampaignSpec:
    return campaign_from(campaign.spec)


@functools.lru_cache(maxsize=2)
def rows_of(task: TaskSpec) -> TaskRows:
    """The task's rows, read once in a process. Raises UsageError."""
    return task_rows.read(task.data())


def member_spec(campaign: CampaignRow, name: str) -> StudySpec:
    """The spec of a member's study. The text of those that need no labels lies in the campaign's folder afterwards."""
    spec = spec_of(campaign)
    path = Path(campaign.folder) / TEXTS
    if not path.is_file():
        task_rows.write_texts(rows_of(spec.task).train, path)
    own = spec.member(name, path)
    return own.model_copy(update={"name": campaign.member(name).study})  # which may have been renamed


def round_score(
    storage: str, campaign: CampaignRow, member: str, trial: int, beat: Beat
) -> tuple[float, Mapping[str, Any]]:
    """The accuracy on the held-out part of the task, with a solved head, of a trial's student after the short
    distillation. Raises KdnasError where it cannot be distilled, and where it has seen rows that it is scored on."""
    from kdnas.measuring.devices import resolve_device
    from kdnas.scores.solved_head import solved_scores
    from kdnas.students.distil import Telling
    from kdnas.students.extras import Extras
    from kdnas.students.finalize import finalize

    spec = spec_of(campaign)
    own = member_spec(campaign, member)
    epochs = spec.scoring.epochs if scored_as_built(own.recipe) else max(1, spec.scoring.epochs)
    folder = Path(campaign.folder) / ROUNDS / f"{member}-{trial}"
    folder.parent.mkdir(parents=True, exist_ok=True)
    progress = telling(beat, f"{member}: trial {trial}")
    brief = Extras(figures=False)
    finalize(storage, own.name, folder, Telling(progress), trial=trial, full={"epochs": epochs}, extras=brief)
    rows = rows_of(spec.task)
    require_unseen(rows, folder, progress)
    device = resolve_device(spec.device)
    scored = solved_scores(folder, rows.train, [rows.held_out], spec.task.length, device, progress)[0]
    shutil.rmtree(folder, ignore_errors=True)  # the score stays, and the disk is needed
    return scored.accuracy, {**scored.values(), "epochs": epochs, "part": "held-out", "task": rows.fingerprint}


def require_unseen(rows: TaskRows, folder: Path, on_progress: Callable[[str, float | None], None]) -> None:
    """Raises UsageError where a model, or its teacher by what its folder says, was trained on rows that are scored: its
    score would stand beside those of others on another ground."""
    from kdnas.scores.score_folder import taught_by
    from kdnas.scores.training_texts import seen_by

    trained = seen_by([folder, *taught_by(folder)], on_progress).trained
    for name, part in (("held-out", rows.held_out), ("test", rows.test)):
        seen = sum(key in trained for key in part.keys)
        if seen:
            raise UsageError(
                f"{seen:,} of the {len(part):,} rows of the task's {name} part are among the texts that it was trained "
                "on.",
                "Take text and teachers that leave these rows out, split by the task's held_out and group_column.",
            )


def telling(beat: Beat, what: str) -> Callable[[str, float | None], None]:
    """Progress as the coordinator hears it."""

    def on_progress(words: str, share: float | None) -> None:
        beat(f"{what}: {words}")

    return on_progress
