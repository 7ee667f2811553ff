"""The flags that say how many workers start, and where: shared by search, resume and worker."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from kdnas.search.placing import GPUS, MOST
from kdnas.study.rows import StudyRow
from kdnas.system.errors import UsageError

if TYPE_CHECKING:
    from kdnas.search.placing import Count, Seat

F = TypeVar("F", bound=Callable[..., Any])


class Workers(click.ParamType):
    """A number of workers, or `gpus`."""

    name = "workers"

    def get_metavar(self, param: click.Parameter, ctx: click.Context) -> str:
        return f"N|{GPUS}"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        text = str(value)
        if text == GPUS:
            return GPUS
        if text.isascii() and text.isdigit() and 1 <= int(text) <= MOST:
            return int(text)
        self.fail(f"{text!r} workers cannot be started: give 1 to {MOST}, or {GPUS} for one on each GPU.", param, ctx)


def placed(command: F) -> F:
    """`--workers` and `--workers-per-gpu`."""
    number = click.option(
        "--workers", type=Workers(), default=1, help="Processes that evaluate; gpus: one on each GPU.  [default: 1]"
    )
    each = click.option(
        "--workers-per-gpu", type=click.IntRange(1, 16), help="With --workers gpus: how many on each.  [default: 1]"
    )
    return number(each(command))


unlike = click.option(
    "--unlike",
    type=click.Choice(["leave", "mix"]),
    help="Let machines of another device or version join, from now on; latency: leave it to workers of the study's "
    "device, or mix both.",
)


def require_plain(workers: Count, per_gpu: int | None) -> None:
    """Raises UsageError for a number on each GPU where workers are not placed by GPUs."""
    if per_gpu is not None and workers != GPUS:
        raise UsageError(f"--workers-per-gpu {per_gpu} goes with --workers gpus.", "Give both, or --workers N alone.")


def require_latency_worker(row: StudyRow, workers: Count, until_done: bool) -> None:
    """Raises UsageError where a worker that only times has nothing to do, or is asked to be several."""
    if row.spec.get("latency", {}).get("when") != "after":
        raise UsageError(
            f"{row.name} has each latency measured by the worker that trains, so that none waits for a latency worker.",
            "Begin a study with --set latency.when=after.",
        )
    if workers != 1 or until_done:
        raise UsageError("A latency worker is one process.", "Give --latency without --workers and --until-done.")


def seats_of(row: StudyRow, workers: Count, per_gpu: int | None, device: str | None) -> tuple[Seat, ...]:
    """Where the study's new workers run. `device` is used instead of its own. Raises UsageError."""
    from kdnas.search import placing
    from kdnas.study.spec import from_store

    spec = from_store(row.spec)
    if workers == GPUS:
        device = device or spec.device
    return placing.here(workers, per_gpu=per_gpu or 1, device=device, least=spec.latency.threads)


def allow_unlike(where: str, name: str, latency: str) -> None:
    """Writes into the history of a study that unlike machines may join it."""
    from kdnas.search import joining
    from kdnas.store import queries
    from kdnas.store.database import open_store

    with open_store(where) as store:
        joining.allow_unlike(store, queries.study_row(store, name).study_id, latency)
