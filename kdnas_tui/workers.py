"""Starts what the screens need done elsewhere: searches, workers, and short questions to `kdnas`.

Everything heavy is a process of its own session with no standard input and its output in a file, so that closing
the terminal takes nothing with it. Loads no model and waits for nothing on the event loop.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from kdnas.system.errors import KdnasError, UsageError
from kdnas.system.paths import private_folder, state_folder

if TYPE_CHECKING:
    from kdnas.study.campaign_rows import CampaignRow

KDNAS = (sys.executable, "-m", "kdnas")
IMPORTANCE = (sys.executable, "-m", "kdnas.reports.parameter_importance")


def logs_folder() -> Path:
    return state_folder() / "logs"


def _folder(path: Path) -> Path:
    try:
        private_folder(path)
    except OSError as error:
        raise UsageError(
            f"The folder {path} cannot be made: {error.strerror}.", "Set KDNAS_STATE to one that can be written."
        ) from None
    return path


def _process(
    program: Sequence[str], arguments: Sequence[str], output: IO[bytes] | None = None
) -> subprocess.Popen[bytes]:
    """A process of its own session, its output in `output`, or to be read where there is none. An address with a
    password goes through the environment: everybody on the machine sees a command line."""
    words, environment = list(arguments), dict(os.environ)
    if "--storage" in words and _secret(words[(at := words.index("--storage")) + 1]):
        environment["KDNAS_STORAGE"] = words[at + 1]
        del words[at : at + 2]
    return subprocess.Popen(
        [*program, *words],
        stdin=subprocess.DEVNULL,
        stdout=output or subprocess.PIPE,
        stderr=subprocess.STDOUT if output else subprocess.PIPE,
        start_new_session=True,
        env=environment,
    )


def _secret(storage: str) -> bool:
    from kdnas.store import addresses

    try:
        return bool(addresses.secrets(addresses.store_url(storage)))
    except UsageError:  # mistyped: nobody knows what is in it
        return True


GPUS = "gpus"  # instead of a number of workers: one on each GPU


def begin(spec_toml: str, name: str, storage: str, workers: int | str = 1) -> None:
    """Begin a study (or go on with it) with detached workers: so many, or `gpus`. Waits for `kdnas search --detach` to
    return.

    Raises UsageError or KdnasError with what the command said.
    """
    folder = _folder(state_folder() / "specs")
    spec = folder / f"{name}.toml"
    spec.write_text(spec_toml, encoding="utf-8")
    asked = ["search", name, "--spec", str(spec), "--storage", storage, "--detach"]
    if str(workers) != "1":
        asked += ["--workers", str(workers)]
    run(asked, name)


def resume(name: str, storage: str) -> None:
    """Let a study go on, starting a worker where none lives."""
    run(["resume", name, "--storage", storage], name)


def go_on(campaign: str, storage: str) -> None:
    """A campaign's coordinator, in a process of its own. Raises what it said where it ended at once."""
    launch(["campaign", campaign, "--storage", storage], campaign)


def begin_campaign(file: str, name: str, storage: str) -> None:
    """A campaign of a file, its coordinator in a process of its own. Raises what it said where it ended at once."""
    launch(["campaign", file, "--storage", storage], name)


def campaign_plan(file: str, storage: str) -> list[str]:
    """The lines in which `kdnas campaign --plan` says what a campaign needs. Raises KdnasError with what is wrong."""
    process = _process(KDNAS, ["campaign", file, "--plan", "--storage", storage])
    out, said = (part.decode("utf-8", "replace") for part in process.communicate())
    if process.returncode != 0:
        raise _said(said, process.returncode, "campaign")
    return [line for line in f"{out}\n{said}".splitlines() if line.strip()]


def stop_campaign(campaign: CampaignRow) -> None:
    """Ask a campaign's coordinator to end; its workers end their trial in order first. Raises UsageError where it runs
    on another machine, or no longer."""
    from kdnas.system.liveness import this_host

    if campaign.pid is None or campaign.host != this_host():
        raise UsageError(
            f"The campaign {campaign.name} runs on {campaign.host or 'no machine'}, and this is {this_host()}.",
            "Press Ctrl-C there, where it was begun.",
        )
    try:
        os.kill(campaign.pid, signal.SIGINT)
    except (ProcessLookupError, PermissionError) as error:
        raise UsageError(
            f"Process {campaign.pid} of the campaign {campaign.name} cannot be told: {error.strerror}."
        ) from None


def report(campaign: str, page: Path, storage: str) -> None:
    """Write a campaign's page."""
    run(["report", campaign, "--output", str(page), "--storage", storage], campaign)


def delete(name: str, storage: str) -> None:
    run(["delete", name, "--storage", storage, "--yes"], name)


def add_worker(name: str, storage: str) -> None:
    """One more worker of a study, left to itself."""
    log = _folder(logs_folder()) / f"{name}.{int(time.time())}.log"
    with log.open("ab") as output:
        _process(KDNAS, ["worker", name, "--storage", storage], output)


def run(arguments: Sequence[str], name: str) -> None:
    """A `kdnas` command that ends soon, in its own session; what it starts outlives it and us."""
    log = _folder(logs_folder()) / f"{name}.{arguments[0]}.log"
    with log.open("wb") as output:
        code = _process(KDNAS, arguments, output).wait()
    if code != 0:
        raise _said(log.read_text(encoding="utf-8", errors="replace"), code, arguments[0])


EARLY_S = 20.0  # a command that cannot work says so within its first seconds


def launch(arguments: Sequence[str], name: str) -> None:
    """A long `kdnas` command left to itself. Waits a little: raises what it said where it failed at once."""
    log = _folder(logs_folder()) / f"{name}.{arguments[0]}.{time.time_ns() // 1_000_000}.log"
    with log.open("ab") as output:
        process = _process(KDNAS, arguments, output)
    try:
        code = process.wait(EARLY_S)
    except subprocess.TimeoutExpired:
        return
    if code != 0:
        raise _said(log.read_text(encoding="utf-8", errors="replace"), code, arguments[0])


class Question:
    """A short-lived `kdnas … --json` whose answer a screen waits for in a thread, and may give up."""

    def __init__(self, arguments: Sequence[str], program: Sequence[str] | None = None) -> None:
        """`program` stands before the arguments, `kdnas` by default."""
        self._process = _process(program or KDNAS, arguments)
        self._command = arguments[0] if program is None else program[-1]

    def answer(self) -> Any:
        """The data. Raises KdnasError with the line that the command gave."""
        out, said = self._process.communicate()
        if self._process.returncode != 0:
            raise _said(said.decode("utf-8", "replace"), self._process.returncode, self._command)
        return json.loads(out)

    def give_up(self) -> None:
        self._process.kill()


def _said(output: str, code: int, command: str) -> KdnasError:
    lines = [line for line in output.splitlines() if line.strip()]
    faults = [line for line in lines if line.startswith("kdnas: ")]
    line = (faults or lines or [f"`kdnas {command}` ended with code {code} and said nothing."])[-1]
    kind = UsageError if code == 2 else KdnasError
    return kind(line.removeprefix("kdnas: "))


def importance(study: str, storage: str) -> Question:
    """Ask which dimensions the reward depends on."""
    return Question([study, "--storage", storage, "--json"], IMPORTANCE)


def plan(spec_toml: str, storage: str) -> Question:
    """Ask what a spec would do. The spec goes through a file of its own, named by its contents."""
    folder = _folder(state_folder() / "specs")
    name = f"plan-{hashlib.sha256(spec_toml.encode()).hexdigest()[:16]}.toml"
    (folder / name).write_text(spec_toml, encoding="utf-8")
    return Question(["plan", "--spec", str(folder / name), "--storage", storage, "--json"])
