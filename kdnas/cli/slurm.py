"""The command that writes a file for Slurm: slurm. It submits nothing."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

import click

from kdnas.cli import frame
from kdnas.search import slurm_script
from kdnas.system.errors import UsageError
from kdnas.system.files import write_atomically


@click.command()
@frame.study
@click.option(
    "--gpus", type=click.IntRange(1, slurm_script.MOST), required=True, help="Jobs in the array, one GPU each."
)
@click.option("--time", required=True, metavar="TIME", help="How long each may run: minutes, HH:MM:SS or D-HH.")
@click.option("--partition", metavar="NAME", help="Where the jobs run.  [default: the site's]")
@click.option("--account", metavar="NAME", help="Whom the jobs are charged to.  [default: yours]")
@click.option("--cpus", type=click.IntRange(1, 1024), default=4, help="Cores for each job.  [default: 4]")
@click.option("--output", type=click.Path(path_type=Path), metavar="FILE", help="[default: STUDY.sbatch]")
@click.option("--force", is_flag=True, help="Write over FILE where it is there already.")
@frame.storage
def slurm(
    study: str,
    gpus: int,
    time: str,
    partition: str | None,
    account: str | None,
    cpus: int,
    output: Path | None,
    force: bool,
    storage: str | None,
) -> None:
    """Write a file for sbatch: an array of jobs that each join STUDY with one worker on one GPU. Submits nothing."""
    from kdnas.store import addresses, queries
    from kdnas.store.database import open_reader

    where = frame.place(storage)
    url = addresses.store_url(where)
    ask = slurm_script.Ask(time, partition, account, cpus)
    ask.require()
    if url.get_backend_name() == "sqlite":
        raise UsageError(
            f"The store {url.database} is a file, which jobs on other machines cannot share.",
            "Keep the study in PostgreSQL: --storage postgresql://USER@HOST/DATABASE",
        )
    if addresses.secrets(url):
        raise UsageError(
            f"The address {addresses.shown(url)} has a password, which does not belong into a file.",
            "Put it into ~/.pgpass, and leave it off the address.",
        )
    with open_reader(where) as store:
        row = queries.study_row(store, study)
    if row.spec["device"] in ("cpu", "mps"):
        raise UsageError(f"{study} was begun for {row.spec['device']}: a GPU would have nothing to do.")
    path = output or Path(f"{study}.sbatch")
    if path.exists() and not force:
        raise UsageError(f"{path} is there already.", "Give --force to write over it, or another --output.")
    program = [sys.executable, "-m", "kdnas"]
    write_atomically(path, slurm_script.text(study, addresses.shown(url), gpus, ask, program))
    frame.say(f"Wrote {path}: {gpus} job(s) with a GPU each. Submit them with: {shlex.join(['sbatch', str(path)])}")
