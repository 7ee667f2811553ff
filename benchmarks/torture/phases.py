"""Deaths in the phases of real work on a tiny model: cache build, fitting, training, a controller's episode, and the
full distillation, in the middle of an epoch too. What is taken up ends as if nobody had been killed."""

from __future__ import annotations

import os
import signal
import threading
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.torture.faults import Fault, Ground, Lost
from benchmarks.torture.searches import file_store, said_last, spec_of, told, undisturbed, whole, working
from kdnas.recipes import hidden_state
from kdnas.search import episodes
from kdnas.search.begin import begin
from kdnas.search.heartbeat import Steering
from kdnas.search.worker import run_worker
from kdnas.store import queries
from kdnas.store.database import open_reader
from kdnas.students import model_folder
from kdnas.students.distil import Job
from kdnas.study.space import Candidate
from kdnas.study.spec import StudySpec
from kdnas.system.errors import KdnasError
from kdnas.system.folders import partial_of
from tests import kills
from tests.encoders import tiny_spec
from tests.kills import child, result

assert hidden_state  # imported here so that the children need not
PHASES = {"cache build": "caching", "fitting": "building", "training": "training"}  # what a worker says it is at


def real_spec(ground: Ground) -> StudySpec:
    budget = {"trials": 3, "epochs": 2, "attempts": 99}
    spec = tiny_spec(ground.kit.teacher, ground.kit.text, budget=budget, strategy={"name": "random"})
    return spec.model_copy(update={"name": "tiny", "seed": ground.seed % 2, "device": "cpu"})


def kill_in(phase: str, after_s: float) -> None:
    """In a worker: it dies so long after it has said for the first time that it is in the phase."""
    armed: list[threading.Timer] = []

    def doing(steering: Steering, words: str | None) -> None:
        steering.__dict__["doing"] = words
        if words is not None and phase in words and not armed:
            armed.append(threading.Timer(after_s, os.kill, (os.getpid(), signal.SIGKILL)))
            armed[0].daemon = True
            armed[0].start()

    Steering.doing = property(lambda steering: steering.__dict__.get("doing"), doing)  # type: ignore[assignment]


def search(place: str, phase: str | None, after_s: float) -> int:
    if phase is not None:
        kill_in(phase, after_s)
    try:
        return run_worker(place, "tiny")
    except KdnasError as error:
        print(f"kdnas: {error}")
        return error.exit_code


def real_told(place: str) -> list[tuple[Any, ...]]:
    """What does not depend on how long anything took."""
    with open_reader(place) as store:
        rows = queries.trial_rows(store, queries.study_row(store, "tiny").study_id)
    return sorted((r.slot, str(r.candidate), r.state, r.loss, r.raw_loss, r.epoch) for r in rows if r.state == "done")


def in_phase(ground: Ground, phase: str) -> int:
    spec = real_spec(ground)
    key = ("real", spec.seed)
    os.environ["KDNAS_CACHE"] = str(ground.folder / "cache")
    if key not in ground.kit.kept:
        place = file_store(ground, "whole.db")
        begin(spec, place)
        if ground.ended(ground.fork(lambda: search(place, None, 0.0))) != 0:
            raise Lost(f"a real search that nobody disturbed failed: {said_last(ground)}")
        ground.kit.kept[key] = real_told(place)
        os.environ["KDNAS_CACHE"] = str(ground.folder / "another")  # to be built anew
    place = file_store(ground)
    begin(spec, place)
    deaths = 0
    for _ in range(3):
        before = real_told(place)
        code = ground.ended(ground.fork(lambda: search(place, PHASES[phase], float(ground.rng.uniform(0.0, 0.15)))))
        if code not in (0, -signal.SIGKILL):
            raise Lost(f"a worker ended with {code}: {said_last(ground)}")
        deaths += code != 0
        if real_told(place)[: len(before)] != before:
            raise Lost("lost a finished trial")
        if code == 0:
            break
    if ground.ended(ground.fork(lambda: search(place, None, 0.0))) != 0:
        raise Lost(f"it cannot be taken up: {said_last(ground)}")
    if real_told(place) != ground.kit.kept[key]:
        raise Lost("it went on otherwise than without deaths")
    return deaths


def in_episode(ground: Ground) -> int:
    """Killed while the controller plans an episode: in its training, and between its rows."""
    spec = spec_of("lstm", ground.seed)
    expected = undisturbed(ground, spec)
    place = file_store(ground)
    begin(spec, place)
    deaths = 0

    def dies() -> int:
        real, after_s = episodes.plan_next, float(ground.rng.uniform(0.0, 0.5))

        def plan(*given: Any) -> Any:
            timer = threading.Timer(after_s, os.kill, (os.getpid(), signal.SIGKILL))
            timer.daemon = True
            timer.start()
            try:
                return real(*given)
            finally:
                timer.cancel()

        episodes.plan_next = plan  # type: ignore[assignment]
        return working(place)()

    for _ in range(3):
        code = ground.ended(ground.fork(dies))
        ground.rng.random()  # the child has drawn from a copy
        if code not in (0, -signal.SIGKILL):
            raise Lost(f"a worker ended with {code}: {said_last(ground)}")
        deaths += code != 0
    if ground.ended(ground.fork(working(place))) != 0:
        raise Lost(f"it cannot be taken up: {said_last(ground)}")
    whole(place)
    if told(place) != expected:
        raise Lost("it went on otherwise than without deaths")
    return deaths


CONFIG: Candidate = {
    "num_hidden_layers": 2,
    "hidden_size": 16,
    "head_size": 8,
    "intermediate_size": 24,
    "hidden_act": "relu",
}


def in_finalize(ground: Ground) -> int:
    """The full distillation killed anywhere, checkpoints being written every few steps: the same weights in the end."""
    os.environ["KDNAS_CACHE"] = str(ground.kit.folder / "finalize-cache")
    spec = real_spec(ground).model_copy(update={"seed": 0})
    job = Job(spec.model_copy(update={"full": spec.full.model_copy(update={"epochs": 3})}), CONFIG)
    progress = ground.folder / "progress.txt"
    if "finalize" not in ground.kit.kept:
        if kills.ended(child(job, ground.folder / "whole", progress)) != 0:
            raise Lost("a distillation that nobody disturbed failed")
        ground.kit.kept["finalize"] = result(ground.folder / "whole")
    output = ground.folder / "student"
    deaths = 0
    for _ in range(4):
        process = child(job, output, progress)
        ground.moment(1.5)
        os.kill(process, signal.SIGKILL)
        code = kills.ended(process)
        if code == 0:
            break
        if code != -signal.SIGKILL:
            raise Lost(f"a resumed distillation ended with {code}")
        deaths += 1
        if output.exists() and not model_folder.finished(output):
            raise Lost("half a model stands under its name")
    if (not model_folder.finished(output) or partial_of(output).exists()) and kills.ended(
        child(job, output, progress)
    ) != 0:
        raise Lost("it cannot be taken up")
    if result(output) != ground.kit.kept["finalize"]:
        raise Lost("its weights are otherwise than without deaths")
    return deaths


def in_export(ground: Ground) -> int:
    """Commands that write a file, killed: the old file, the new one, or none; never half."""
    place = file_store(ground)
    begin(spec_of("random", ground.seed), place)
    if ground.ended(ground.fork(working(place))) != 0:
        raise Lost("a worker failed")
    folder = ground.folder / "out"
    folder.mkdir()
    wanted: dict[str, bytes] = {}
    deaths = 0
    for kind in ("json", "csv", "markdown"):
        path = folder / f"file.{kind}"
        words = ("export", "fake", "--format", kind, "-o", path)
        ground.ran(*words, KDNAS_STORAGE=place)
        wanted[kind] = comparable(path)
        for _ in range(3):
            path.write_bytes(b"old")
            command = ground.kdnas(*words, KDNAS_STORAGE=place)
            ground.moment(0.35)
            command.kill()
            deaths += ground.ended(command) == -signal.SIGKILL
            if path.read_bytes() != b"old" and comparable(path) != wanted[kind]:
                raise Lost(f"half a file of {kind} stands under its name")
    return deaths


def comparable(path: Path) -> bytes:
    """Without the moment at which it was written."""
    return b"\n".join(
        line for line in path.read_bytes().splitlines() if b"written" not in line and b"xported" not in line
    )


FAULTS = [
    *(Fault("phases", phase, partial(in_phase, phase=phase), 3.0, quick=phase == "fitting") for phase in PHASES),
    Fault("phases", "a controller's episode", in_episode, 2.0),
    Fault("phases", "finalize, in the middle of epochs", in_finalize, 3.0),
    Fault("phases", "export", in_export, 1.0, quick=True),
]
