"""The right to write goes while a store is open, or was never there: one line, by whatever road the write came."""

from __future__ import annotations

import os
import shutil
import traceback
from collections.abc import Callable
from pathlib import Path

from kdnas.search.begin import begin
from kdnas.store import changes
from kdnas.store.database import open_store
from kdnas.system import liveness
from kdnas.system.errors import UsageError
from tests import fakes, rights
from tests.search.deaths import forked


def without_rights(work: Callable[[], None]) -> None:
    def bound() -> int:
        rights.give_up()
        try:
            work()
        except BaseException:
            traceback.print_exc()
            return 1
        return 0

    assert forked(bound) == 0, "see what it said above"


def test_a_store_that_may_no_longer_be_written_ends_in_a_traceback(path: Path, empty: Path) -> None:
    shutil.copy(empty, path)
    begin(fakes.spec(), path)

    def work() -> None:
        with open_store(path) as store:
            path.chmod(0o400)
            store.engine.dispose()  # what is open may still be written
            try:
                changes.add_log(store, 1, "info", "x")
            except UsageError as error:
                assert "may only be read" in str(error), error
            else:
                raise AssertionError("it was written")
            store.settle()

    # Another process has it open too, so that there is a log, with something in it.
    ready, go = os.pipe(), os.pipe()
    another = os.fork()
    if another == 0:
        with open_store(path) as store:
            changes.add_log(store, 1, "info", "y")
            os.write(ready[1], b"x")
            os.close(go[1])
            os.read(go[0], 1)
        os._exit(0)
    os.read(ready[0], 1)
    try:
        without_rights(work)
    finally:
        os.close(go[1])
        os.waitpid(another, 0)


def test_a_state_folder_that_may_not_be_written_ends_in_a_traceback(tmp_path: Path) -> None:
    folder = tmp_path / "state"

    def work() -> None:
        os.environ["KDNAS_STATE"] = str(folder)
        (folder / "workers").mkdir(parents=True)
        (folder / "workers").chmod(0o500)
        try:
            liveness.Hold()
        except UsageError as error:
            assert "KDNAS_STATE" in error.hint
        else:
            raise AssertionError("it was written")

    without_rights(work)
    (folder / "workers").chmod(0o700)
