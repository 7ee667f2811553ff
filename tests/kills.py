"""Kills a real full distillation with SIGKILL at random moments until it is done, again and again.

`python -m tests.kills SPEC CONFIG FOLDER KILLS SEED` prints JSON: a fingerprint of every result, the uninterrupted one
first, and how far each killed process had come. One process imports everything and forks the ones that are killed, so
that a kill costs its run and not the imports; it computes nothing itself.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from kdnas.recipes import hidden_state
from kdnas.students import distil as distillation
from kdnas.students import model_folder as folders
from kdnas.students.distil import Job, Telling, distil, weights_digest
from kdnas.students.from_config import given, read_config
from kdnas.study.spec_toml import read_toml
from kdnas.system.folders import partial_of

assert hidden_state  # imported here so that the children need not


def child(job: Job, output: Path, progress: Path) -> int:
    """A process that distils `job`, and writes down what it is at."""
    process = os.fork()
    if process:
        return process
    try:
        distillation.KEPT_S = 0.05  # checkpoints within the epochs, too
        with progress.open("w", buffering=1) as told:
            distil(job, output, Telling(lambda words, share: told.write(f"{words}\n") and None), device="cpu")
        os._exit(0)
    except BaseException as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
        os._exit(1)


def ended(process: int) -> int:
    _, status = os.waitpid(process, 0)
    return os.waitstatus_to_exitcode(status)


def result(output: Path) -> dict[str, Any]:
    facts = folders.read_facts(output)
    history = [{k: v for k, v in point.items() if k != "seconds"} for point in facts["metrics"]["history"]]
    left = [path.name for path in output.parent.glob(f"{output.name}.partial")]
    return {
        "weights": weights_digest(output),
        "history": history,
        "loss": facts["metrics"]["loss"],
        "best": facts["metrics"]["best_epoch"],
        "left": left,
    }


def main(arguments: Sequence[str]) -> None:
    spec, config, where, kills, seed = arguments
    root = Path(where)
    job = given(read_toml(Path(spec)), read_config(Path(config)))
    progress = root / "progress.txt"
    assert ended(child(job, root / "first", progress)) == 0  # fills the teacher's cache
    began = time.monotonic()
    assert ended(child(job, root / "whole", progress)) == 0
    usual = time.monotonic() - began
    rng = np.random.default_rng(int(seed))
    results, at = [result(root / "whole")], []
    number = 0
    while len(at) < int(kills):
        output = root / f"killed-{number}"
        process = child(job, output, progress)
        time.sleep(float(rng.uniform(0.0, usual)))  # a moment, not a wait for anything
        os.kill(process, signal.SIGKILL)
        code = ended(process)
        if code == -signal.SIGKILL:
            said = progress.read_text().splitlines() or ["starting"]
            at.append(said[-1])
            assert not output.exists() or folders.finished(output)
        elif code != 0:
            raise SystemExit(f"a resumed run failed with {code}")
        if folders.finished(output):
            number += 1
    for n in range(number + 1):
        output = root / f"killed-{n}"
        if not folders.finished(output) or partial_of(output).exists():
            assert ended(child(job, output, progress)) == 0
        results.append(result(output))
    print(json.dumps({"results": results, "at": at, "seconds": usual}))


if __name__ == "__main__":
    main(sys.argv[1:])
