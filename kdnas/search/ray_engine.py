"""Workers that Ray places: an actor for each, which starts the worker's process on its node and waits for its end.

Without an address, a Ray of this command's own runs here, on loopback, and ends with it. Ray restarts an actor that
dies, and an actor replaces a worker that is killed. Needs the extra `ray`; nothing else of kdnas imports it.
"""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdnas.search import placing, replacing
from kdnas.search.placing import GPUS, Count, Seat
from kdnas.store import addresses
from kdnas.study.rows import StudyRow
from kdnas.study.spec import from_store
from kdnas.system import paths
from kdnas.system.errors import UsageError, first_line

if TYPE_CHECKING:
    from kdnas.search.launch import Process

TAIL = 20  # lines of a worker's log that come back from its node
# Ray then takes loopback for this machine's address, as it does where it supports no clusters.
_LOOPBACK = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
_QUIET = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "token"}
_ATTEMPTS = "RAY_NUM_REDIS_GET_RETRIES", "3"  # to reach a Ray that runs: by itself it tries twenty times
_REFUSED = "InvalidAuthToken"  # what a Ray says to a token that is not its own
OBJECTS_BYTES = 80 * 2**20  # Ray's smallest store of objects: workers exchange none


@dataclass(frozen=True)
class Share:
    """What each actor asks Ray for."""

    actors: int
    cpus: int
    gpus: float
    device: str | None


def share_of(
    row: StudyRow, workers: Count, per_gpu: int, device: str | None, *, cpus: float, gpus: int, own: bool
) -> Share:
    """How workers divide what Ray has: `cpus` and `gpus` of all its nodes. On a Ray of one's own they share all cores.

    Raises UsageError for what Ray has too little of, since actors would wait for it without end.
    """
    spec = from_store(row.spec)
    wanted = device or spec.device
    if wanted.startswith("cuda:"):
        raise UsageError(f"Ray chooses the GPU of each worker, and {wanted} was asked for.", "Give --device cuda.")
    if workers == GPUS:
        count = len(placing.seats(placing.Machine((0,), gpus), GPUS, per_gpu=per_gpu, device=wanted))
        each = 1 / per_gpu
    else:
        count = int(workers)
        each = 1.0 if wanted == "cuda" or (wanted == "auto" and gpus) else 0.0
        if count * each > gpus:
            raise UsageError(f"Ray has {gpus} GPU(s) for {count} workers.", "Give --workers gpus, or fewer workers.")
    cores = max(1, int(cpus) // count) if own else max(1, spec.latency.threads)
    if count * cores > cpus:
        raise UsageError(f"Ray has {cpus:g} cores for {count} workers of {cores}.", "Give fewer --workers.")
    return Share(count, cores, each, device)


class Place:
    """The actor: one worker's place on a node of Ray. Its process is replaced where it is killed."""

    def __init__(self) -> None:
        self._process: Process | None = None
        self._ending = False

    def run(self, storage: str | None, study: str, device: str | None) -> tuple[int, str]:
        """Runs a worker to its end; its exit code, and the last that it said. Without `storage`, that of the node's
        environment."""
        from kdnas.search import joining
        from kdnas.search.launch import Started, start_workers
        from kdnas.store.database import open_reader

        where = storage or paths.default_storage()
        threads = int(os.environ.get(placing.THREADS, "1"))
        command = [sys.executable, "-m", "kdnas.search.tied_worker"]

        def start() -> Started:
            [started] = start_workers(where, study, seats=[Seat(device, threads)], command=command)
            self._process = started.process
            return started

        with open_reader(where) as store:
            kept = replacing.Kept(
                start(), start, lambda: not self._ending and joining.goes_on(store, study), lambda _: None
            )
            while (code := kept.poll()) is None:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    kept.wait(1.0)
        lines = kept.started.log.read_text(encoding="utf-8", errors="replace").splitlines()
        return code, "\n".join(lines[-TAIL:])

    def end(self) -> None:
        """Asks the worker to end in order."""
        self._ending = True
        if self._process is not None:
            self._process.terminate()


class Actor:
    """A worker on Ray, as whoever watches a study sees a process."""

    def __init__(self, ray: Any, actor: Any, run: Any, log: Path) -> None:
        self._ray, self._actor, self._run, self._log = ray, actor, run, log
        self.returncode: int | None = None

    def poll(self) -> int | None:
        """Its exit code; None while it works."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.wait(0)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Its end. Raises subprocess.TimeoutExpired."""
        if self.returncode is None:
            ended, _ = self._ray.wait([self._run], timeout=timeout)
            if not ended:
                raise subprocess.TimeoutExpired("a worker on Ray", timeout or 0.0)
            try:
                self.returncode, said = self._ray.get(self._run)
            except self._ray.exceptions.RayError as error:
                self.returncode, said = 1, f"kdnas: Ray has lost a worker: {first_line(error)}."
            self._log.write_text(said + "\n", encoding="utf-8")
        assert self.returncode is not None
        return self.returncode

    def terminate(self) -> None:
        self._actor.end.remote()

    def kill(self) -> None:
        self._ray.kill(self._actor)


@dataclass(frozen=True)
class Placed:
    """As `kdnas.search.launch.Started`: a worker on Ray, and the file that gets the last that it said."""

    process: Actor
    log: Path


@contextlib.contextmanager
def placed(
    where: str,
    row: StudyRow,
    workers: Count,
    per_gpu: int,
    device: str | None,
    address: str | None,
    tell: Callable[[str], None] = lambda _: None,
) -> Iterator[list[Placed]]:
    """Inside, workers are on Ray; afterwards none is left, nor a Ray of one's own. `tell` hears lines for people.
    Raises UsageError where Ray cannot be had, or has too little."""
    url = addresses.store_url(where)
    if address is not None and url.get_backend_name() == "sqlite":
        raise UsageError(
            f"The store {url.database} is a file, which other machines cannot share.",
            "Keep the study in PostgreSQL, or leave --address off.",
        )
    if address is not None and addresses.secrets(url):
        raise UsageError(
            f"The address {addresses.shown(url)} has a password, which would go through Ray.",
            "Put it into ~/.pgpass of each node, and leave it off the address.",
        )
    folder = paths.private_folder(paths.state_folder() / "logs")
    cores = max(len(placing.this_machine().cores), workers if isinstance(workers, int) else 1)
    with _ray(where, address, cores, tell) as ray:
        has = ray.cluster_resources()
        share = share_of(
            row,
            workers,
            per_gpu,
            device,
            cpus=has.get("CPU", 0),
            gpus=int(has.get("GPU", 0)),
            own=address is None,
        )
        remote = ray.remote(Place).options(
            num_cpus=share.cpus,
            num_gpus=share.gpus,
            max_concurrency=2,  # to be asked to end while it runs
            max_restarts=replacing.MOST,
            max_task_retries=-1,
        )
        started = []
        for nth in range(share.actors):
            actor = remote.remote()
            run = actor.run.remote(None if address is None else addresses.shown(url), row.name, share.device)
            log = folder / f"{row.name}.{time.time_ns() // 1_000_000}.ray-{nth}.log"
            started.append(Placed(Actor(ray, actor, run, log), log))
        yield started


@contextlib.contextmanager
def _ray(where: str, address: str | None, cores: int, tell: Callable[[str], None]) -> Iterator[Any]:
    """Ray, joined at an address, or begun here with so many `cores`."""
    own = address is None
    settings = {**_QUIET, **(_LOOPBACK if own else {})}
    if own:  # what its processes inherit
        settings |= {"RAY_AUTH_TOKEN": secrets.token_hex(32), "KDNAS_STORAGE": where}
    else:
        tell(f"Joining Ray at {address}; where nothing answers, that is said within some two minutes.")
        os.environ.setdefault(*_ATTEMPTS)
    os.environ.update(settings)
    try:
        import ray
    except ImportError:
        raise UsageError("--engine ray needs Ray, which is not installed.", "Run `pip install 'kdnas[ray]'`.") from None
    folder = tempfile.mkdtemp(prefix="kdnas-ray-") if own else None
    more: dict[str, Any] = {"num_cpus": cores, "include_dashboard": False, "object_store_memory": OBJECTS_BYTES}
    more = {**more, "_temp_dir": folder} if own else {}
    said: list[str] = []
    try:
        try:
            with contextlib.nullcontext() if own else _heard(said):
                ray.init(address=address or "local", log_to_driver=False, logging_level=logging.WARNING, **more)
        except (ConnectionError, RuntimeError, ValueError, OSError, ray.exceptions.RayError) as error:
            if any(_REFUSED in line for line in said):
                raise UsageError(
                    f"Ray at {address} does not take this token.", "Give its own in RAY_AUTH_TOKEN."
                ) from None
            raise UsageError(
                f"Ray cannot be used at {address or 'this machine'}: {first_line(error)}.",
                "See that it runs there, and that RAY_AUTH_TOKEN is its token.",
            ) from None
        try:
            for line in said:  # by which it could be joined all the same
                tell(line)
            yield ray
        finally:
            ray.shutdown()
    finally:
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def _heard(lines: list[str]) -> Iterator[None]:
    """What comes to standard error inside is in `lines` afterwards, and nowhere else: Ray's libraries in C++ write the
    same at each attempt, whatever the level of their log."""
    sys.stderr.flush()
    kept = os.dup(2)
    try:
        with tempfile.TemporaryFile() as file:
            os.dup2(file.fileno(), 2)
            try:
                yield
            finally:
                sys.stderr.flush()
                os.dup2(kept, 2)
                file.seek(0)
                lines += file.read().decode(errors="replace").splitlines()
    finally:
        os.close(kept)
