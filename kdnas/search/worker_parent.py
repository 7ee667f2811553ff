"""The process that imports torch and transformers once and forks the workers of one machine that start together.

Each worker has its own session, log, cores and environment, and goes on if this process dies. This process opens a
store only to read the recipe and closes it before it forks, and initialises no GPU. It ends with its last worker.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import sys
import threading
import traceback
from collections.abc import Mapping, Sequence
from typing import Any

from kdnas.search.placing import Seat
from kdnas.system import process
from kdnas.system.errors import KdnasError


def import_for(study: str) -> None:
    """Imports what the study's workers will. What is wrong with it they will say themselves."""
    from kdnas import recipes
    from kdnas.store import queries
    from kdnas.store.database import open_reader
    from kdnas.study.spec import from_store
    from kdnas.system.paths import default_storage

    with contextlib.suppress(KdnasError, ImportError):
        with open_reader(default_storage()) as store:
            spec = from_store(queries.study_row(store, study).spec)
        recipes.recipe_of(spec)
        importlib.import_module("transformers.modeling_utils")


def fork_safe() -> bool:
    """Whether a fork of this process has all that it needs: no thread is lost, and no GPU known that it cannot use."""
    torch = sys.modules.get("torch")
    return threading.active_count() == 1 and not (torch is not None and torch.cuda.is_initialized())


def fork(module: str, study: str, seats: Sequence[Mapping[str, Any]]) -> dict[int, int]:
    """A worker on each seat; the pipe of each, by its process's number."""
    pipes = {}
    safe = fork_safe()
    gc.collect()
    gc.freeze()  # the memory of what was imported stays shared
    sys.stdout.flush()
    sys.stderr.flush()
    for seat in seats:
        pid = os.fork()
        if pid == 0:
            for other in seats:
                if other is not seat:
                    os.close(other["pipe"])
            _be(module, study, seat, safe)
        pipes[pid] = seat["pipe"]
        _say(seat["pipe"], "pid", pid)
    return pipes


def _be(module: str, study: str, seat: Mapping[str, Any], safe: bool) -> None:
    """In the child: the worker, to its end."""
    code = 1
    try:
        os.setsid()
        output = os.open(seat["log"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        os.dup2(output, 1)
        os.dup2(output, 2)
        os.close(output)
        Seat(seat["device"], seat["threads"], tuple(seat["cores"])).into(os.environ)
        words = [study, *(["--device", seat["device"]] if seat["device"] is not None else [])]
        torch = sys.modules.get("torch")
        if not safe or (torch is not None and torch.cuda._is_in_bad_fork()):
            os.execv(sys.executable, [sys.executable, "-m", module, *words])  # it imports for itself
        if "tqdm" in sys.modules:
            # Its own lock is shared by all that were forked: one that is killed would keep it.
            sys.modules["tqdm"].tqdm.set_lock(threading.RLock())
        sys.argv = [module, *words]
        code = int(importlib.import_module(module).main(words) or 0)
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    except KeyboardInterrupt:
        code = 130
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(OSError, ValueError):
            sys.stdout.flush()
            sys.stderr.flush()
        _say(seat["pipe"], "code", code)
        os._exit(code)


def _say(pipe: int, what: str, value: int) -> None:
    with contextlib.suppress(OSError):  # nobody may be left to hear it
        os.write(pipe, f"{what} {value}\n".encode())


def see_to_their_ends(pipes: dict[int, int]) -> None:
    """Tells how each has ended, until all have."""
    while pipes:
        ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOWAIT)
        assert ended is not None
        pipe = pipes.pop(ended.si_pid, None)
        if pipe is not None:
            # Told before its number is free for another process.
            _say(pipe, "code", ended.si_status if ended.si_code == os.CLD_EXITED else -ended.si_status)
            os.close(pipe)
        os.waitpid(ended.si_pid, 0)


def main(arguments: list[str] | None = None) -> int:
    """`MODULE STUDY SEATS`: the workers' module, and as JSON their devices, threads, cores, logs and pipes."""
    module, study, seats = sys.argv[1:] if arguments is None else arguments
    process.set_up()
    importlib.import_module(module)
    import_for(study)
    see_to_their_ends(fork(module, study, json.loads(seats)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
