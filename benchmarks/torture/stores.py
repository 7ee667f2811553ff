"""The store truncated, overwritten, replaced, deleted, of another version, locked, read by many, begun many times."""

from __future__ import annotations

import gzip
import signal
import sqlite3
import time
from collections import Counter
from functools import partial
from pathlib import Path

from benchmarks.torture.faults import Fault, Ground, Lost, last_line
from benchmarks.torture.searches import (
    file_store,
    finish,
    keeps,
    kill,
    said_last,
    spec_of,
    told,
    undisturbed,
    whole,
    working,
)
from kdnas.search import joining
from kdnas.search.begin import begin
from kdnas.store import queries
from kdnas.store.database import open_reader, open_store

EARLIER = Path(__file__).parents[2] / "tests" / "search" / "earlier" / "half-finished-lstm.db.gz"
LOOKS: tuple[tuple[str, ...], ...] = (("studies",), ("show", "fake"), ("logs", "fake"), ("doctor", "--store"))


def looked_at(ground: Ground, path: str, *more: tuple[str, ...]) -> None:
    """Every look at the store, and `more`, ends well or in one line."""
    for words in (*LOOKS, *more):
        ground.ran(*words, codes=(0, 1, 2), KDNAS_STORAGE=path)


def damaged(ground: Ground, how: str) -> int:
    """A finished store whose file is cut or overwritten; each command says so in a line, and none makes it worse."""
    path = Path(file_store(ground))
    begin(spec_of("random", ground.seed), path)
    finish(ground, str(path))
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()
    content = bytearray(path.read_bytes())
    size = len(content)
    if how == "truncated":
        content = content[: int(ground.rng.integers(0, size))]
    elif how == "overwritten":
        at = int(ground.rng.integers(0, size - 8192))
        content[at : at + 8192] = ground.rng.bytes(8192)
    else:
        for _ in range(40):
            content[int(ground.rng.integers(100, size))] ^= 1 << int(ground.rng.integers(8))
    path.write_bytes(content)
    looked_at(ground, str(path))
    process = ground.fork(working(str(path)))
    code = ground.ended(process)
    if code not in (0, 1, 2):
        raise Lost(f"a worker ended with {code}: {said_last(ground)}")
    return 1


def away(ground: Ground, how: str) -> int:
    """The file goes while its worker runs: the worker ends with a line, and says nothing of a full disk."""
    path = Path(file_store(ground))
    begin(spec_of("random", ground.seed, budget={"trials": 400}), path)
    process = ground.fork(working(str(path)))
    until(ground, lambda: len(told(str(path))) > 1)
    if how == "deleted":
        for each in path.parent.glob("kdnas.db*"):
            each.unlink()
    elif how == "replaced":
        other = file_store(ground, "other.db")
        Path(other).replace(path)
    else:
        for each in path.parent.glob("kdnas.db*"):
            each.unlink()
        ground.moment(0.3)
        process.kill()
        ground.ended(process)
        begin(spec_of("random", ground.seed), path)
        finish(ground, str(path))
        whole(str(path))
        return 1
    code = ground.ended(process)
    said = said_last(ground)
    if code != 2 or "deleted or replaced" not in said:
        raise Lost(f"a worker whose store was {how} ended with {code}: {said}")
    return 1


def locked(ground: Ground, seconds: float = 3.0) -> int:
    """Another program holds the file for longer than a writer waits; the worker does, in memory, and goes on."""
    path = file_store(ground)
    spec = spec_of("tpe", ground.seed)
    expected = undisturbed(ground, spec)
    begin(spec, path)

    def impatient() -> int:
        from kdnas.store import sqlite_file

        sqlite_file.BUSY_S = 0.2  # a writer's wait, so that each of several ends in vain
        return working(path)()

    process = ground.fork(impatient)
    until(ground, lambda: len(told(path)) > 0)  # a worker that only starts waits for as long as any other writer
    ground.moment(0.3)
    other = sqlite3.connect(path, isolation_level=None, timeout=60)
    other.execute("BEGIN IMMEDIATE")
    time.sleep(seconds)  # the outage itself
    other.execute("ROLLBACK")
    other.close()
    if ground.ended(process) != 0:
        raise Lost(f"a worker did not outlast a lock: {said_last(ground)}")
    whole(path)
    if told(path) != expected:
        raise Lost("it went on otherwise than without the lock")
    return 1


def many_readers(ground: Ground) -> int:
    """Ten who look all the time take nothing from a worker, and see only what is consistent."""
    path = file_store(ground)
    spec = spec_of("tpe", ground.seed)
    expected = undisturbed(ground, spec)
    begin(spec, path)

    def reads() -> int:
        seen = 0
        with open_reader(path) as store:
            while seen < spec.budget.trials:
                row = queries.study_row(store, "fake")
                rows = [r for r in queries.trial_rows(store, row.study_id) if r.state in ("done", "pruned")]
                if len(rows) < seen:
                    return 3
                if any(r.loss is None or r.latency_ms is None for r in rows):
                    return 4
                seen = max(seen, row.done)
        return 0

    readers = [ground.fork(reads) for _ in range(10)]
    finish(ground, path)
    codes = [ground.ended(reader, "a reader") for reader in readers]
    if any(codes):
        raise Lost(f"readers ended with {codes}")
    if told(path) != expected:
        raise Lost("it went on otherwise than without readers")
    return len(readers)


def begun_at_once(ground: Ground, where: str) -> int:
    """Twenty processes begin the same study in a store that is not there yet: one study, and nobody fails."""
    if where == "SQLite":
        place = str(ground.folder / "new.db")
    else:
        server = ground.kit.server("deaths")
        server.sql(f"CREATE DATABASE begun{ground.seed}")
        place = server.url(f"begun{ground.seed}")

    def begins() -> int:
        begin(spec_of("random", ground.seed), place)
        return 0

    codes = Counter(ground.ended(process) for process in [ground.fork(begins) for _ in range(20)])
    if codes != {0: 20}:
        raise Lost(f"of twenty that began it ended {dict(codes)}: {said_last(ground)}")
    with open_reader(place) as store:
        names = [row.name for row in queries.study_rows(store)]
    if names != ["fake"]:
        raise Lost(f"there are {len(names)} studies")
    finish(ground, place)
    whole(place)
    return 20


def version(ground: Ground, which: str) -> int:
    """A store of an earlier kdnas goes on; one of a newer kdnas or Optuna is refused in a line and left alone."""
    path = ground.folder / "kdnas.db"
    if which == "older":
        path.write_bytes(gzip.decompress(EARLIER.read_bytes()))
        with open_store(path) as store:
            (row,) = queries.study_rows(store)
            joining.allow_unlike(store, row.study_id, "mix")  # it began on another machine
        before = told(str(path), row.name)
        if kill(ground, begun := ground.fork(working(str(path), row.name))) and begun.returncode != -9:
            raise Lost("it did not begin")
        finish(ground, str(path), row.name)
        keeps(before, str(path), row.name)
        looked_at(ground, str(path))
        return 1
    path = Path(file_store(ground))
    begin(spec_of("random", ground.seed), path)
    connection = sqlite3.connect(path)
    if which == "newer":
        connection.execute("UPDATE kdnas_meta SET value = ? WHERE key = 'schema_version'", (str(10**6 + ground.seed),))
    else:
        connection.execute("UPDATE alembic_version SET version_num = ?", (f"v{90 + ground.seed}.0.0",))
    connection.commit()
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()
    content = path.read_bytes()
    looked_at(ground, str(path))
    code = ground.ended(ground.fork(working(str(path))))
    if code != 2:
        raise Lost(f"a worker ended with {code}: {said_last(ground)}")
    if which == "newer" and path.read_bytes() != content:
        raise Lost("the store of a newer kdnas was changed")
    return 1


def changed_many_tables(ground: Ground, what: str) -> int:
    """Beginning, deleting, copying and bringing back a study, killed at any moment: all of it or nothing."""
    path = file_store(ground)
    spec = spec_of("lstm", ground.seed, budget={"trials": 400})
    begin(spec_of("random", ground.seed, name="kept"), path)
    finish(ground, path, "kept")
    kept = told(path, "kept")
    copied = ground.folder / "copy.db"
    if what != "creation":
        begin(spec, path)
    if what == "restoring":
        ground.ran("backup", "fake", copied, KDNAS_STORAGE=path)
        ground.ran("delete", "fake", "--yes", KDNAS_STORAGE=path)

    def acts() -> int:
        if what == "creation":
            begin(spec, path)
            return 0
        from kdnas.cli import COMMANDS
        from kdnas.cli.frame import Lazy, run

        words = {
            "deletion": ["delete", "fake", "--yes"],
            "copying": ["backup", "fake", str(copied)],
            "restoring": ["restore", str(copied)],
        }[what]
        return run(Lazy("kdnas", COMMANDS), [*words, "--storage", path])

    deaths = 0
    for _ in range(6):
        process = ground.fork(acts)
        ground.moment(0.6)
        process.kill()
        code = ground.ended(process)
        if code not in (0, -signal.SIGKILL):
            raise Lost(f"{what} ended with {code}: {said_last(ground)}")
        deaths += code == -signal.SIGKILL
        with open_reader(path) as store:
            names = {row.name: row for row in queries.study_rows(store)}
        if "fake" in names and names["fake"].trials != 400:
            raise Lost("half a study is listed")
        looked_at(ground, path)
        if what == "copying" and copied.exists():
            with open_reader(copied) as store:
                if [row.trials for row in queries.study_rows(store)] != [400]:
                    raise Lost("half a copy stands under its name")
            copied.unlink()
        if what == "creation" and "fake" in names:
            ground.ran("delete", "fake", "--yes", KDNAS_STORAGE=path)
        elif what == "deletion" and "fake" not in names:
            begin(spec, path)
        elif what == "restoring" and "fake" in names:
            ground.ran("delete", "fake", "--yes", KDNAS_STORAGE=path)
    if told(path, "kept") != kept:
        raise Lost("another study of the store is otherwise")
    whole(path, "kept")
    return deaths


def until(ground: Ground, condition: object) -> None:
    """Return when it holds. Raises Lost where it never does, or where the processes have ended before."""
    end = time.monotonic() + 120
    while not condition():  # type: ignore[operator]
        if time.monotonic() > end:
            raise Lost("it never came to it")
        if all(process.poll() is not None for process in ground.processes):
            raise Lost(f"it ended too early: {said_last(ground)}")
        time.sleep(0.02)


def deleted_study(ground: Ground) -> int:
    """To delete a study that runs is refused; where SQL has done it, its worker ends in a line."""
    path = file_store(ground)
    begin(spec_of("random", ground.seed, budget={"trials": 400}), path)
    process = ground.fork(working(path))
    until(ground, lambda: len(told(path)) > 1)
    ground.ran("delete", "fake", "--yes", codes=(2,), KDNAS_STORAGE=path)
    with open_store(path) as store, store.begin() as connection:
        connection.exec_driver_sql("DELETE FROM kdnas_study")
    code = ground.ended(process)
    if code not in (0, 1, 2):
        raise Lost(f"its worker ended with {code}: {last_line(said_last(ground))}")
    return 1


FAULTS = [
    *(Fault("store", how, partial(damaged, how=how), quick=how == "truncated") for how in
      ("truncated", "overwritten", "bits turned over")),
    *(Fault("store", f"{how} under its worker", partial(away, how=how), quick=how == "deleted") for how in
      ("deleted", "replaced", "deleted, and the worker killed in it")),
    Fault("store", "locked by another program", locked),
    Fault("store", "ten readers", many_readers),
    *(Fault("store", f"begun twenty times at once, {where}", partial(begun_at_once, where=where), quick=where[0] == "S")
      for where in ("SQLite", "PostgreSQL")),
    *(Fault("store", f"of {which}", partial(version, which=which)) for which in ("older", "newer", "newer Optuna")),
    Fault("store", "its study deleted by force under its worker", deleted_study),
    *(Fault("phases", f"{what} of a study", partial(changed_many_tables, what=what), 2.0, quick=what == "deletion")
      for what in ("creation", "deletion", "copying", "restoring")),
]  # fmt: skip
