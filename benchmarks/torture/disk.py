"""A disk that is full, a folder that may not be written, rights taken away, a log that cannot be had: a line, and
whatever was finished stays; with room or rights again, the study goes on."""

from __future__ import annotations

import contextlib
import resource
import shutil
import signal
import sqlite3
import subprocess
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from benchmarks.torture.faults import Fault, Ground, Lost, NotHere
from benchmarks.torture.searches import (
    file_store,
    finish,
    keeps,
    said_last,
    spec_of,
    told,
    undisturbed,
    whole,
    working,
)
from kdnas.search.begin import begin
from tests import rights
from tests.forks import Forked


@contextlib.contextmanager
def small_disk(ground: Ground, kib: int) -> Iterator[Path]:
    """A folder on a disk of its own of that size. Raises NotHere where none may be mounted."""
    folder = ground.folder / "disk"
    folder.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={kib}k", "tmpfs", folder], capture_output=True)
    if done.returncode:
        raise NotHere("no disk may be mounted here")
    try:
        yield folder
    finally:
        ground.clear()
        subprocess.run(["umount", "-l", folder], check=True, capture_output=True)


def grown(folder: Path) -> None:
    subprocess.run(["mount", "-o", "remount,size=64m", folder], check=True, capture_output=True)


def filled(ground: Ground) -> int:
    """The store's disk fills up at a random write; with room again the study ends as if it never had."""
    spec = spec_of("tpe", ground.seed, budget={"trials": 24})
    expected = undisturbed(ground, spec)
    size = ground.kit.empty.stat().st_size // 1024
    with small_disk(ground, size + 64 + int(ground.rng.integers(0, 500))) as folder:
        place = str(folder / "kdnas.db")
        shutil.copy(ground.kit.empty, place)
        code = ground.ended(ground.fork(begins(spec, place)))
        full = code != 0
        if code == 2:
            grown(folder)
            begin(spec, place)
        elif code == 0:
            code = ground.ended(ground.fork(working(place)))
            full = code != 0
            if code not in (0, 2):
                raise Lost(f"a worker ended with {code}: {said_last(ground)}")
            before = told(place)
            grown(folder)
            keeps(before, place)
        else:
            raise Lost(f"beginning a study ended with {code}: {said_last(ground)}")
        if full and "full or failing" not in said_last(ground):
            raise Lost(f"it was not said that the disk is full: {said_last(ground)}")
        finish(ground, place)
        whole(place)
        if told(place) != expected:
            raise Lost("it went on otherwise than on a large disk")
    return 1


def begins(spec: object, place: str) -> Callable[[], int]:
    def work() -> int:
        from kdnas.system.errors import KdnasError

        try:
            begin(spec, place)  # type: ignore[arg-type]
        except KdnasError as error:
            print(f"kdnas: {error}")
            return error.exit_code
        return 0

    return work


def limited(ground: Ground) -> int:
    """No file may grow above a size: what a quota does."""
    spec = spec_of("random", ground.seed, budget={"trials": 40})
    place = file_store(ground)
    begin(spec, place)
    with sqlite3.connect(place) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()
    limit = Path(place).stat().st_size + int(ground.rng.integers(10_000, 500_000))

    def work() -> int:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        return working(place)()

    code = ground.ended(ground.fork(work))
    if code not in (0, 2):
        raise Lost(f"a worker ended with {code}: {said_last(ground)}")
    before = told(place)
    finish(ground, place)
    keeps(before, place)
    whole(place)
    return 1


def no_room_to_write(ground: Ground) -> int:
    """Files that commands write, onto a full disk: the old file stays, nothing half, one line."""
    place = file_store(ground)
    begin(spec_of("random", ground.seed), place)
    finish(ground, place)
    tried = 0
    with small_disk(ground, 64) as folder:
        old = folder / "old"
        old.write_text("old")
        with contextlib.suppress(OSError), (folder / "filler").open("wb", buffering=0) as filler:
            while True:
                filler.write(bytes(1024))
        for words in (
            ("export", "fake", "-o", old),
            ("export", "fake", "--format", "csv", "-o", old),
            ("report", "fake", "-o", folder / "report.html"),
            ("backup", "fake", folder / "copy.db"),
            ("studies", "--storage", folder / "new.db"),
        ):
            ground.ran(*words, codes=(2,), KDNAS_STORAGE=place)
            tried += 1
        if old.read_text() != "old":
            raise Lost("a file that could not be written anew is otherwise")
        left = sorted(path.name for path in folder.iterdir() if path.name not in ("old", "filler"))
        if left:
            raise Lost(f"left behind: {left}")
    return tried


def bound(ground: Ground, work: Callable[[], int]) -> Forked:
    """The same by a user whom the modes of files bind; root gives up what else it may."""

    def without_rights() -> int:
        rights.give_up()
        return work()

    return ground.fork(without_rights)


def command(words: list[str]) -> Callable[[], int]:
    def work() -> int:
        from kdnas.cli import COMMANDS
        from kdnas.cli.frame import Lazy, run

        return run(Lazy("kdnas", COMMANDS), words)

    return work


def read_only(ground: Ground, what: str) -> int:
    """Who may only read may look, and is told in a line that no more is allowed; who may not even that, too."""
    inside = ground.folder / "theirs"
    inside.mkdir(mode=0o755)
    place = inside / "kdnas.db"
    shutil.copy(ground.kit.empty, place)
    begin(spec_of("random", ground.seed), place)
    finish(ground, str(place))
    expected = told(str(place))
    ground.ran("backup", "fake", copied := ground.folder / "copy.db", KDNAS_STORAGE=str(place))
    for path in inside.iterdir():
        path.chmod(0o444 if what == "folder" else 0o000)
    inside.chmod(0o555)
    tried = 0
    looks, wants = (
        [["studies"], ["show", "fake"]],
        [["rescore", "fake", "--alpha", "-0.1", "--use"], ["worker", "fake"]],
    )
    for words in (*looks, *wants):
        code = ground.ended(bound(ground, command([*words, "--storage", str(place)])))
        good = (0,) if words in looks and what == "folder" else (2,)
        if code not in good:
            raise Lost(f"`kdnas {words[0]}` ended with {code}: {said_last(ground)}")
        tried += 1
    for words in (
        ["restore", str(copied), "--storage", str(inside / "new.db")],
        ["backup", "fake", str(inside / "b.db"), "--storage", str(copied)],
    ):
        code = ground.ended(bound(ground, command(words)))
        if code != 2:
            raise Lost(f"`kdnas {words[0]}` ended with {code}: {said_last(ground)}")
        tried += 1
    inside.chmod(0o755)
    for path in inside.iterdir():
        path.chmod(0o644)
    if told(str(place)) != expected:
        raise Lost("what was there is otherwise")
    return tried


def taken_away(ground: Ground) -> int:
    """The right to write goes while a worker runs: it ends in a line; given back, the study goes on as ever."""
    spec = spec_of("tpe", ground.seed, budget={"trials": 24})
    expected = undisturbed(ground, spec)
    inside = ground.folder / "ours"
    inside.mkdir()
    place = inside / "kdnas.db"
    shutil.copy(ground.kit.empty, place)
    begin(spec, place)
    process = bound(ground, working(str(place)))
    ground.moment(2.0)
    for path in (*inside.iterdir(), inside):
        path.chmod(0o500 if path.is_dir() else 0o400)
    code = ground.ended(process)  # what is open may still be written
    if code not in (0, 2):
        raise Lost(f"a worker ended with {code}: {said_last(ground)}")
    inside.chmod(0o700)
    for path in inside.iterdir():
        path.chmod(0o600)
    code = ground.ended(bound(ground, working(str(place))))
    if code != 0:
        raise Lost(f"it does not go on: {said_last(ground)}")
    whole(str(place))
    if told(str(place)) != expected:
        raise Lost("it went on otherwise")
    return 1


def without_log(ground: Ground) -> int:
    """Another program has put the file into SQLite's old journal, and keeps it open, so that no log can be had."""
    place = file_store(ground)
    spec = spec_of("tpe", ground.seed)
    expected = undisturbed(ground, spec)
    begin(spec, place)
    other = sqlite3.connect(place, isolation_level=None)
    other.execute("PRAGMA journal_mode=DELETE")
    other.execute("SELECT count(*) FROM kdnas_study").fetchall()
    other.execute("BEGIN")
    other.execute("SELECT count(*) FROM kdnas_study").fetchall()
    process = ground.fork(working(place))
    ground.moment(1.0)
    other.execute("COMMIT")
    other.close()
    code = ground.ended(process)
    if code not in (0, 2):
        raise Lost(f"a worker ended with {code}: {said_last(ground)}")
    finish(ground, place)
    whole(place)
    if told(place) != expected:
        raise Lost("it went on otherwise")
    return 1


FAULTS = [
    Fault("disk", "full under the store", filled, 1.5, quick=True),
    Fault("disk", "a file-size limit", limited),
    Fault("disk", "full where a file is to be written", no_room_to_write, quick=True),
    *(Fault("disk", f"a {what} that may not be written", partial(read_only, what=what)) for what in ("folder", "file")),
    Fault("disk", "rights taken away from a worker", taken_away),
    Fault("disk", "no log of SQLite's", without_log),
]
