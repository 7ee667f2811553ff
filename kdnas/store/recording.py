"""One study as two small text files, and back: to ship a study that people can look round in, or to send one along.

`study.toml` is the spec; `measurements.jsonl` holds the rows of our tables, one a line, after a line that says where
they come from. Optuna's tables are left out: a recording is looked at, not resumed. Imports no Optuna.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from kdnas import __version__
from kdnas.store import queries
from kdnas.store import tables as t
from kdnas.store.database import Store, open_store
from kdnas.study.spec import from_store
from kdnas.study.spec_toml import read_toml, to_toml
from kdnas.study.states import WorkerState
from kdnas.system.errors import UsageError
from kdnas.system.paths import PACKAGE

FORMAT = "kdnas-recording"
VERSION = 1  # of the tables below as they are recorded; campaigns, which came later, are in none of them
SPEC, ROWS = "study.toml", "measurements.jsonl"
# What a screen shows; the controller's weights and locks of processes long gone stay behind.
TABLES = (t.study, t.slot, t.trial, t.curve, t.repeat, t.remark, t.worker, t.episode, t.event, t.log, t.run)
LEFT_OUT = {"kdnas_study.spec", "kdnas_episode.state", "kdnas_worker.lock", "kdnas_worker.host", "kdnas_worker.pid"}


def write(store: Store, name: str, folder: Path) -> None:
    """Record a study into a folder, which is made where there is none."""
    study = queries.study_row(store, name)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / SPEC).write_text(to_toml(from_store(study.spec)), encoding="utf-8")
    lines = [json.dumps({"format": FORMAT, "version": VERSION, "kdnas": __version__, "study": name})]
    with store.connect() as connection:
        for table in TABLES:
            kept = [c for c in table.columns if f"{table.name}.{c.name}" not in LEFT_OUT]
            query = sa.select(*kept).where(table.c.study_id == study.study_id)
            for row in connection.execute(query.order_by(*table.primary_key.columns)).mappings():
                values = {key: value for key, value in row.items() if value is not None and key != "study_id"}
                lines.append(json.dumps([table.name.removeprefix("kdnas_"), values], ensure_ascii=False))
    (folder / ROWS).write_text("\n".join(lines) + "\n", encoding="utf-8")


def read(folder: Path, store: Store) -> str:
    """Put a recording into a store, as a study that has ended; gives its name. Raises UsageError for other files."""
    spec = read_toml(folder / SPEC)
    by_name = {table.name.removeprefix("kdnas_"): table for table in TABLES}
    try:
        first, *rest = (folder / ROWS).read_text(encoding="utf-8").splitlines()
        head = json.loads(first)
        rows = [json.loads(line) for line in rest]
        sound = head["format"] == FORMAT and all(len(row) == 2 and row[0] in by_name for row in rows)
    except (OSError, ValueError, KeyError, TypeError):
        sound = False
        head, rows = {}, []
    if not sound:
        raise UsageError(f"{folder} holds no recording of a study.", "Give the folder that a recording was written to.")
    if head["version"] != VERSION:
        raise UsageError(
            f"The recording in {folder} has version {head['version']}, this kdnas reads {VERSION}.",
            "Use the kdnas that wrote it, or record the study again.",
        )
    with store.begin() as connection:
        highest = connection.execute(sa.select(sa.func.max(t.study.c.study_id))).scalar_one()
        study_id = (highest or 0) + 1
        for name, table in by_name.items():
            of_table = [_row(table, values, study_id, spec.model_dump_json()) for of, values in rows if of == name]
            if of_table:
                connection.execute(table.insert(), of_table)
    return spec.name


def _row(table: sa.Table, values: dict[str, Any], study_id: int, spec: str) -> dict[str, Any]:
    row: dict[str, Any] = {**{c.name: None for c in table.columns}, **values, "study_id": study_id}
    if table is t.study:
        row["spec"] = spec
    if table is t.worker:
        # Whatever its last word was, the process is over.
        row |= {
            "host": "recorded",
            "pid": 0,
            "state": WorkerState.FAILED if row["state"] == WorkerState.FAILED else WorkerState.ENDED,
        }
        row["ended"] = row["ended"] or row["heartbeat"]
    for column in table.primary_key.columns:
        if column.name in ("worker_id", "event_id", "log_id", "run_id"):
            row.pop(column.name)  # numbers of the whole store, given anew
    return row


@contextmanager
def opened(folder: Path) -> Iterator[tuple[str, str]]:
    """A recording in a temporary store that nobody can write to: (its URL, the study's name)."""
    with tempfile.TemporaryDirectory(prefix="kdnas-demo-") as place:
        path = Path(place) / "demo.db"
        with open_store(path, create=True) as store:
            name = read(folder, store)
        path.chmod(0o400)
        yield f"sqlite:///{path}", name


def shipped() -> Path:
    """The folder of the recorded study that ships."""
    for place in (PACKAGE / "presets", PACKAGE.parent / "studies"):
        if (place / "demo" / ROWS).is_file():
            return place / "demo"
    raise UsageError("No recorded study ships with this kdnas.", "Begin one: `kdnas-tui --preset quickstart`.")
