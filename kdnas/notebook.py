"""kdnas from Python, for notebooks: open a study as a table, begin and run one, load a student.

Thin over what the command line calls, and no second way to do anything: a study begun here is resumed by
`kdnas search`, watched by `kdnas-tui`, and the other way round. Importing this loads no torch.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdnas.search.begin import begin
from kdnas.search.launch import Started, start_workers
from kdnas.store import queries
from kdnas.store.database import open_reader
from kdnas.study.filter import keys_of, parse
from kdnas.study.ranked_rows import passing, rank_of
from kdnas.study.ranking import Scored
from kdnas.study.rows import Status, StudyRow
from kdnas.study.spec import StudySpec, from_values
from kdnas.study.spec_flags import ENDS, overlay
from kdnas.study.spec_toml import read_values
from kdnas.system import paths
from kdnas.system.errors import KdnasError, UsageError
from kdnas.system.progress import Progress

if TYPE_CHECKING:
    import pandas

__all__ = ["Study", "begin_study", "campaign_table", "load_student", "open_study"]

LOOK_S = 0.5  # between two looks at the store
PATIENCE_S = 30.0  # for workers to end properly after an interrupt

STANDING = ("trial", "state", "rank", "reward", "tie", "pareto", "feasible")
MEASURED = ("loss", "raw_loss", "latency_ms", "latency_low_ms", "latency_high_ms", "latency_flag")


@dataclass(frozen=True)
class Study:
    """A study of a store. It holds no connection: every call reads what the store says at that moment."""

    name: str
    storage: str

    def row(self) -> StudyRow:
        """Status, budget, best reward, spec and more, as `kdnas show --json` has them under `study`."""
        with open_reader(self.storage) as store:
            return queries.study_row(store, self.name)

    def trials(
        self, filter: str | None = None, *, alpha: float | None = None, beta: float | None = None
    ) -> list[dict[str, Any]]:
        """One flat dict for each trial, the best first, ranked by the study's α and β or by the ones given.

        What was measured comes first, then the candidate under the names of its dimensions. `filter` is that of
        `kdnas show`, as in "latency<8 layers>=4".
        """
        with open_reader(self.storage) as store:
            study = queries.study_row(store, self.name)
            rows = queries.trial_rows(store, study.study_id)
        scored = rank_of(study, rows, alpha, beta)
        if filter is not None:
            scored = passing(parse(filter, keys_of([one.row for one in scored])), scored)
        return [_flat(one) for one in scored]

    def table(
        self, filter: str | None = None, *, alpha: float | None = None, beta: float | None = None
    ) -> pandas.DataFrame:
        """The same as a pandas DataFrame, indexed by the trial's number."""
        import pandas

        rows = self.trials(filter, alpha=alpha, beta=beta)
        return pandas.DataFrame(rows, columns=None if rows else [*STANDING, *MEASURED]).set_index("trial")

    def run(self, workers: int = 1, *, on_progress: Progress | None = None) -> StudyRow:
        """Start worker processes and wait until the budget is spent; the study's last row.

        Interrupting the cell ends the workers; what is finished is kept, and `run` goes on from there. Raises
        KdnasError where the workers end before the budget is spent for any other reason than a pause or a stop.
        """
        if self.row().status == Status.FINISHED:
            return self.row()
        started = start_workers(self.storage, self.name, workers)
        try:
            while any(one.process.poll() is None for one in started):
                if on_progress is not None:
                    row = self.row()
                    on_progress(f"{row.name}: {row.counted_words}", row.share)
                time.sleep(LOOK_S)
        except KeyboardInterrupt:
            _end(started)
            raise
        row = self.row()
        if any(one.process.returncode for one in started):
            log = next(one.log for one in started if one.process.returncode)
            raise KdnasError(f"A worker of {self.name} failed: {row.ending or 'it was ended.'}", f"Its log is {log}.")
        return row


def open_study(name: str, storage: str | Path | None = None) -> Study:
    """A study that exists, from the default storage or the one given. Raises UsageError where there is none."""
    study = Study(name, _place(storage))
    study.row()
    return study


def begin_study(
    spec: str | Path | Mapping[str, Any] | StudySpec, storage: str | Path | None = None, **fields: Any
) -> Study:
    """Create a study, or take up the one of that name; `run` runs it.

    `spec` is the name of a preset, a TOML file, or the values of one. `fields` change single fields of it, dots
    written as two underscores: budget__trials=4. Raises UsageError for a value that is wrong.
    """
    if isinstance(spec, StudySpec):
        values: dict[str, Any] = spec.model_dump(mode="json")
    elif isinstance(spec, Mapping):
        values = dict(spec)
    else:
        file = Path(spec) if str(spec).endswith(".toml") else paths.preset(str(spec))
        values = {"name": file.stem, **read_values(file)}
    changed = [(name.replace("__", "."), value) for name, value in fields.items()]
    whole = from_values(overlay(values, changed))
    place = _place(storage)
    begin(whole, place, anew=any(name in ENDS for name, _ in changed))
    return Study(whole.name, place)


def load_student(folder: str | Path, device: str = "auto") -> tuple[Any, Any]:
    """Model and tokenizer of a folder that `kdnas finalize` or `distill` wrote, in evaluation mode and float32.

    A classifier opens with its head (adapters merged into their base), a causal model with its own, and an encoder as
    its body. Nothing of the folder is executed. Raises UsageError for a folder that holds no model.
    """
    from kdnas.measuring.devices import resolve_device
    from kdnas.students.open_student import open_student

    return open_student(Path(folder), resolve_device(device))


def _flat(scored: Scored) -> dict[str, Any]:
    row = scored.told
    feasible = None if scored.miss is None else not scored.infeasible
    standing = (row.number, str(row.state), scored.rank, scored.reward, scored.tie, scored.front, feasible)
    return {
        **dict(zip(STANDING, standing, strict=True)),
        **{name: getattr(row, name) for name in MEASURED},
        "speedup": row.speedup,
        "parameters": row.parameters,
        **row.candidate,
        **row.extra,
        "error": row.error,
    }


def _place(storage: str | Path | None) -> str:
    return paths.default_storage() if storage is None else str(storage)


def _end(started: list[Started]) -> None:
    """SIGTERM to the workers, which free their trials; after PATIENCE_S they are killed."""
    for one in started:
        one.process.terminate()
    deadline = time.monotonic() + PATIENCE_S
    while any(one.process.poll() is None for one in started) and time.monotonic() < deadline:
        time.sleep(0.05)
    for one in started:
        if one.process.poll() is None:
            one.process.kill()


def campaign_table(name: str, storage: str | None = None) -> pandas.DataFrame:
    """The final table of a campaign as a pandas DataFrame, as `kdnas campaign NAME --json` has it under `result`.

    Raises UsageError for a campaign that there is not, or that has not ended.
    """
    import pandas

    from kdnas.store import campaigns

    with open_reader(storage or paths.default_storage()) as store:
        row = campaigns.campaign_row(store, name)
    if not row.result:
        raise UsageError(f"The campaign {name} has no table yet.", f"Let it end: kdnas campaign {name}")
    return pandas.DataFrame(row.result["rows"])
