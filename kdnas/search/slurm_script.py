"""The file that Slurm's `sbatch` takes: an array of jobs, each one worker of a study on one GPU.

Text only. What Slurm reads itself (`#SBATCH` lines) must match a pattern, and what the shell reads is quoted.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass

from kdnas.system.errors import UsageError

MOST = 1000  # jobs in an array, where a site has not changed Slurm's own limit
WARNING_S = 120  # before its time is over a worker is told to end, and gives its candidate back
_TIME = re.compile(r"\d{1,5}(:[0-5]\d){0,2}|\d{1,3}-\d{1,2}(:[0-5]\d){0,2}", re.ASCII)
_NAMES = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}(,[A-Za-z0-9][A-Za-z0-9_.-]{0,63}){0,15}", re.ASCII)


@dataclass(frozen=True)
class Ask:
    """What is asked of Slurm for each worker."""

    time: str
    partition: str | None = None
    account: str | None = None
    cpus: int = 4

    def require(self) -> None:
        """Raises UsageError for what Slurm would not understand, or read as something else."""
        if not _TIME.fullmatch(self.time) or not re.search("[1-9]", self.time):
            raise UsageError(
                f"Slurm has no time {self.time!r}.", "Give minutes, HH:MM:SS or D-HH, such as 90, 08:00:00 or 2-00."
            )
        for what, given in (("partition", self.partition), ("account", self.account)):
            if given is not None and not _NAMES.fullmatch(given):
                raise UsageError(f"Slurm has no {what} {given!r}.", "Give its name: letters, digits, _, . and -.")


def text(study: str, storage: str, jobs: int, ask: Ask, program: Sequence[str]) -> str:
    """The file. `storage` is the store's address without a password, `program` what runs as `kdnas`."""
    ask.require()
    options = {
        "job-name": f"kdnas-{study}",
        "array": f"0-{jobs - 1}",
        "ntasks": 1,
        "cpus-per-task": ask.cpus,
        "gres": "gpu:1",
        "time": ask.time,
        "partition": ask.partition,
        "account": ask.account,
        "signal": f"B:TERM@{WARNING_S}",
        "output": f"kdnas-{study}.%A_%a.log",
    }
    asked = "\n".join(f"#SBATCH --{name}={value}" for name, value in options.items() if value is not None)
    worker = shlex.join([*program, "worker", study, "--until-done"])
    return f"""#!/bin/bash
{asked}

# Each job of the array is one worker of the study, and ends with it. Submit more of them at any time.
# The password of the store is read from ~/.pgpass, or from PGPASSWORD.
set -euo pipefail
export KDNAS_STORAGE={shlex.quote(storage)}
# Home folders are often shared between nodes; locks and logs belong to one of them.
node=${{SLURMD_NODENAME:-$(uname -n)}}
export KDNAS_STATE="${{KDNAS_STATE:-${{XDG_STATE_HOME:-$HOME/.local/state}}/kdnas}}/$node"
export OMP_NUM_THREADS="${{SLURM_CPUS_PER_TASK:-{ask.cpus}}}"
exec {worker}
"""
