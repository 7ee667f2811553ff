"""Processes of kdnas that are forked from the tests' own: real ones, which need not load torch and transformers first.

Each has a number, an environment, a folder, files and a session of its own, and can be killed like any. What a process
does from nothing (its imports, its settings) only those show that a test starts with `subprocess`.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import os
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from tqdm import tqdm

from kdnas.store.database import Store
from kdnas.system.liveness import Hold


class Forked:
    """A process that runs `work`, as `subprocess.Popen` would tell of it; its code is what `work` returns."""

    def __init__(self, work: Callable[[], int]) -> None:
        self.returncode: int | None = None
        sys.stdout.flush()
        sys.stderr.flush()
        stores, holds = _inherited()
        self.pid = os.fork()
        if self.pid == 0:
            code = 70
            try:
                for store in stores:
                    store.close()
                for hold in holds:
                    os.close(hold._file)
                code = work()
            except SystemExit as ended:
                if isinstance(ended.code, str):
                    print(ended.code, file=sys.stderr)
                code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
            except BaseException:
                traceback.print_exc()
            finally:
                with contextlib.suppress(OSError, ValueError):
                    sys.stdout.flush()
                    sys.stderr.flush()
                os._exit(code)

    def poll(self) -> int | None:
        return self.returncode if self.returncode is not None else self._wait(os.WNOHANG)

    def wait(self, timeout: float | None = None) -> int | None:
        if timeout is not None:
            end = time.monotonic() + timeout
            while self.poll() is None:
                if time.monotonic() > end:
                    raise subprocess.TimeoutExpired(str(self.pid), timeout)
                time.sleep(min(timeout, 0.02))
        return self.returncode if self.returncode is not None else self._wait(0)

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def _wait(self, options: int) -> int | None:
        pid, status = os.waitpid(self.pid, options)
        self.returncode = os.waitstatus_to_exitcode(status) if pid else None
        return self.returncode


def _inherited() -> tuple[list[Store], list[Hold]]:
    """Closes what this process has open of stores and does not use now; what a child must close: the rest of them, and
    locks that would be held for as long as it lives.

    SQLite counts a file's connections within a process, and its locks are the process's: a child that inherits an open
    connection believes that it holds locks which only its parent has. Once the parent is dead, the next process to
    close the file takes itself for the last one and removes the log that the child still writes to. For the same reason
    a thread that is in the middle of a transaction, as a heartbeat may be, gets a second to end it.
    """
    objects = gc.get_objects()
    stores = [found for found in objects if type(found) is Store]
    end = time.monotonic() + 1
    while any(store.engine.pool.checkedout() for store in stores) and time.monotonic() < end:  # type: ignore[attr-defined]
        time.sleep(0.001)
    for store in stores:
        store.engine.dispose()
    holds = [found for found in objects if type(found) is Hold and _is_open(found)]
    return [store for store in stores if store._watch is not None], holds


def _is_open(hold: Hold) -> bool:
    with contextlib.suppress(OSError):
        return os.fstat(hold._file).st_ino == hold.path.stat().st_ino
    return False


class Command(Forked):
    """`python -m MODULE ARGUMENTS`, what it writes in files."""

    def __init__(self, words: Sequence[str], folder: Path, environment: Mapping[str, str], files: Path) -> None:
        files.mkdir(exist_ok=True)
        number = len(list(files.iterdir()))
        self.out, self.err = files / f"{number}.out", files / f"{number}.err"
        with self.out.open("wb") as out, self.err.open("wb") as err:
            super().__init__(lambda: run(words, folder, environment, out.fileno(), err.fileno()))

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """Waits for the end, however long it takes."""
        self.wait()
        return self.out.read_text(), self.err.read_text()


def run(words: Sequence[str], folder: Path | None, environment: Mapping[str, str], out: int, err: int) -> int:
    """In the child: what the interpreter does with `-m MODULE ARGUMENTS`."""
    module, *arguments = words
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(out, 1)
    os.dup2(err, 2)
    sys.stdin, sys.stdout, sys.stderr = os.fdopen(0), os.fdopen(1, "w"), os.fdopen(2, "w")
    own = dict(environment)  # it may be this one itself
    os.environ.clear()
    os.environ.update(own)
    if folder is not None:
        os.chdir(folder)
    # The tests' heap is large, and to go through it takes the collector long; what the tests hang on to the collector
    # (Hypothesis does) would run inside.
    gc.callbacks.clear()
    gc.freeze()
    launch: Any = importlib.import_module("kdnas.search.launch")
    launch.subprocess = Processes
    launch._children.clear()  # they are the tests', not this process's
    # The tests' own lock of progress bars is shared with all forked processes: one that is killed would keep it.
    tqdm.set_lock(threading.RLock())
    return int(importlib.import_module(module).main(arguments) or 0)


class Processes:
    """In place of `subprocess` in a module that starts workers or scripts in Python: they are forked."""

    DEVNULL, STDOUT = subprocess.DEVNULL, subprocess.STDOUT

    @staticmethod
    def Popen(  # noqa: N802
        words: Sequence[str],
        env: Mapping[str, str] | None = None,
        stdout: IO[bytes] | None = None,
        start_new_session: bool = False,
        **_: Any,  # pipes come along by themselves
    ) -> Forked:
        assert words[0] == sys.executable and words[1] in ("-m", "-c"), words
        out, err = (1, 2) if stdout is None else (stdout.fileno(),) * 2
        environment = dict(os.environ) if env is None else env

        def work() -> int:
            if start_new_session:
                os.setsid()
            if words[1] == "-m":
                return run(words[2:], None, environment, out, err)
            sys.argv = ["-c", *words[3:]]
            exec(compile(words[2], "<script>", "exec"), {"__name__": "__main__"})
            return 0

        return Forked(work)
