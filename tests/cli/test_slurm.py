"""`kdnas slurm`: a file that Slurm or the shell reads otherwise than it was meant, or that nobody can run."""

from __future__ import annotations

import re
import shutil
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

from kdnas.cli import COMMANDS
from kdnas.cli.frame import Lazy
from kdnas.cli.spec_options import base_values, spec_from
from kdnas.search import slurm_script
from kdnas.search.begin import begin
from kdnas.search.slurm_script import Ask
from kdnas.store import addresses, queries
from kdnas.store.database import open_reader, open_store
from kdnas.study.rows import Status
from kdnas.system.errors import UsageError
from tests import fakes
from tests.cli.conftest import Place, Quick
from tests.postgres import BINARIES, Server

ROOT = Path(__file__).parents[2]
STORE = "postgresql+psycopg://me@h/d"
BASH = shutil.which("bash")

# What Slurm does with an array, on this machine: its variables, and the jobs one after the other.
SBATCH = """#!/bin/bash
set -euo pipefail
array=$(sed -n 's/^#SBATCH --array=//p' "$1")
for index in $(seq "${array%-*}" "${array#*-}"); do
    SLURM_JOB_ID=7 SLURM_ARRAY_JOB_ID=7 SLURM_ARRAY_TASK_ID=$index SLURMD_NODENAME=node$index \\
    SLURM_CPUS_PER_TASK=$(sed -n 's/^#SBATCH --cpus-per-task=//p' "$1") /bin/bash "$1"
done
"""


# ---------------------------------------------------------------------------- what is written


@pytest.mark.parametrize("time", ["90", "90:30", "08:00:00", "2-00", "1-12:30", "1-12:30:59"])
def test_a_time_that_slurm_knows_is_refused(time: str) -> None:
    Ask(time).require()


@pytest.mark.parametrize(
    "time", ["", "0", "00:00:00", "8h", "1:2:3:4", "12:60", "-1", "1\n#SBATCH --wrap=x", "९०", "1 2"]
)
def test_a_time_that_slurm_does_not_know_is_written(time: str) -> None:
    with pytest.raises(UsageError, match="Slurm has no time"):
        Ask(time).require()


@pytest.mark.parametrize("name", ["", "a b", "gpu;id", "$(id)", "gpu\n#SBATCH --uid=0", "-x", "a,,b", "ä", "a" * 65])
@pytest.mark.parametrize("what", ["partition", "account"])
def test_a_name_adds_a_line_for_slurm(what: str, name: str) -> None:
    with pytest.raises(UsageError, match=f"Slurm has no {what}"):
        slurm_script.text("imdb", STORE, 2, Ask("90", **{what: name}), ["kdnas"])


@pytest.mark.skipif(BASH is None, reason="no bash here")
@pytest.mark.parametrize(
    "hostile", ["$(touch harm)", "`touch harm`", "'; touch harm; '", '"; touch harm; "', "\n touch harm\n"]
)
def test_the_shell_does_what_an_address_or_a_folder_says(hostile: str, tmp_path: Path) -> None:
    told = "import os, sys; print(repr((sys.argv[1:], os.environ['KDNAS_STORAGE'])))"
    program = [sys.executable, "-S", "-c", told, hostile]
    file = tmp_path / "x.sbatch"
    file.write_text(slurm_script.text("imdb", f"postgresql://h/{hostile}", 2, Ask("90", "gpu,big"), program))
    assert subprocess.run([str(BASH), "-n", file], capture_output=True, check=True).stderr == b""
    ran = subprocess.run([str(BASH), file], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert ran.stdout == repr(([hostile, "worker", "imdb", "--until-done"], f"postgresql://h/{hostile}")) + "\n"
    assert not (tmp_path / "harm").exists() and not ran.stderr


def test_slurm_is_asked_for_something_else() -> None:
    written = slurm_script.text("imdb", STORE, 8, Ask("08:00:00", "gpu", "lab", 6), ["kdnas"])
    asked = dict(re.findall(r"^#SBATCH --([a-z-]+)=(.*)$", written, re.MULTILINE))
    assert asked == {
        "job-name": "kdnas-imdb", "array": "0-7", "ntasks": "1", "cpus-per-task": "6", "gres": "gpu:1",
        "time": "08:00:00", "partition": "gpu", "account": "lab", "signal": "B:TERM@120",
        "output": "kdnas-imdb.%A_%a.log",
    }  # fmt: skip
    plain = slurm_script.text("imdb", STORE, 1, Ask("90"), ["kdnas"])
    assert "partition" not in plain and "account" not in plain and "--array=0-0\n" in plain
    # Slurm reads its lines only above the first command.
    assert written.index("set -euo") > written.rindex("#SBATCH")


# ---------------------------------------------------------------------------- the command


def test_a_file_is_written_for_a_study_that_jobs_cannot_work_on(place: Place, quick: Quick) -> None:
    begin(fakes.spec("other"), place.store)
    asked = ("--gpus", "2", "--time", "90")
    assert "is a file, which jobs on other machines cannot share" in quick("slurm", "other", *asked).line
    said = quick("slurm", "other", *asked, "--storage", "postgresql://me:SECRET@127.0.0.1:1/d")
    assert "has a password" in said.line and "SECRET" not in said.line
    assert "Slurm has no time '8h'" in quick("slurm", "other", "--gpus", "2", "--time", "8h").line
    assert quick("slurm", "other", "--gpus", "0", "--time", "90").code == 2
    assert not list(place.folder.glob("*.sbatch"))


needs_both = pytest.mark.skipif(not BINARIES or BASH is None, reason="no PostgreSQL or no bash on this machine")


def submitted(place: Place, file: Path) -> subprocess.CompletedProcess[str]:
    """The file, given to what stands in for sbatch, in an environment that says nothing of the store."""
    sbatch = place.folder / "sbatch"
    sbatch.write_text(SBATCH)
    environment = {**place.environment, "PYTHONPATH": str(ROOT)}
    del environment["KDNAS_STORAGE"], environment["OMP_NUM_THREADS"]
    return subprocess.run([str(BASH), sbatch, file], cwd=place.folder, env=environment, capture_output=True, text=True)


@needs_both
def test_jobs_that_come_too_late_fail_or_a_file_is_written_over(
    server: Server, place: Place, quick: Quick, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.sql("CREATE DATABASE late")
    url = server.url("late")
    monkeypatch.setenv("KDNAS_STORAGE", url)
    begin(fakes.spec("plain"), url)
    asked = ("--gpus", "1", "--time", "90", "--cpus", "1")
    assert "was begun for cpu" in quick("slurm", "plain", *asked).line
    assert "There is no study 'nobody'" in quick("slurm", "nobody", *asked).line
    begin(fakes.spec("ended", device="auto"), url)
    file = place.folder / "ended.sbatch"
    said = quick("slurm", "ended", *asked)
    assert said.code == 0
    assert said.err == "Wrote ended.sbatch: 1 job(s) with a GPU each. Submit them with: sbatch ended.sbatch\n"
    written = file.read_text()
    assert not stat.S_IMODE(file.stat().st_mode) & 0o022
    assert "is there already" in quick("slurm", "ended", *asked, "--partition", "gpu").line
    assert file.read_text() == written
    assert quick("slurm", "ended", *asked, "--partition", "gpu", "--force").code == 0
    assert "#SBATCH --partition=gpu\n" in file.read_text()
    with open_store(url) as store, store.begin() as connection:
        connection.exec_driver_sql("UPDATE kdnas_study SET finished = 1.0, ending = 'The budget is spent.'")
    ran = submitted(place, file)
    assert (ran.returncode, ran.stderr) == (0, "ended has ended: The budget is spent.\n")


@pytest.mark.long
@needs_both
def test_the_file_is_run_and_no_worker_works(
    server: Server, place: Place, quick: Quick, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.sql("CREATE DATABASE studies")
    url = server.url("studies")
    monkeypatch.setenv("KDNAS_STORAGE", url)
    begin(spec_from(base_values("tiny", place.spec, None), {"device": "auto", "budget.trials": 2}), url)
    assert quick("slurm", "tiny", "--gpus", "2", "--time", "90", "--cpus", "1").code == 0
    ran = submitted(place, place.folder / "tiny.sbatch")
    assert ran.returncode == 0, ran.stderr
    assert "tiny has ended: The budget of 2 trials is spent." in ran.stderr  # the second job came too late
    with open_reader(url) as store:
        row = queries.study_row(store, "tiny")
        assert (row.status, row.done, row.failed) == (Status.FINISHED, 2, 0)
    assert (Path(place.environment["KDNAS_STATE"]) / "node0" / "logs").is_dir()


# ---------------------------------------------------------------------------- Kubernetes


def test_the_manifest_of_the_page_is_no_job() -> None:
    [text] = re.findall(r"^```yaml\n(.*?)^```", (ROOT / "docs" / "scale.md").read_text(), re.DOTALL | re.MULTILINE)
    secret, job = (part for part in yaml.safe_load_all(text) if part)
    assert (secret["kind"], job["kind"], job["apiVersion"]) == ("Secret", "Job", "batch/v1")
    spec: dict[str, Any] = job["spec"]
    assert spec["parallelism"] == spec["completions"]
    pod = spec["template"]["spec"]
    assert pod["restartPolicy"] == "OnFailure"  # of a Job, Kubernetes takes this or Never
    [container] = pod["containers"]
    command, name, *arguments = container["command"]
    assert command == "kdnas"
    found = Lazy("kdnas", COMMANDS).get_command(click.Context(Lazy("kdnas", COMMANDS)), name)
    assert found is not None
    context = found.make_context(name, arguments)
    assert (context.params["study"], context.params["until_done"]) == ("imdb", True)
    assert container["resources"]["limits"]["nvidia.com/gpu"] == 1
    known = {one["name"]: one for one in container["env"]}
    url = addresses.store_url(known["KDNAS_STORAGE"]["value"])
    assert url.get_backend_name() == "postgresql" and not addresses.secrets(url)
    wanted = known["PGPASSWORD"]["valueFrom"]["secretKeyRef"]
    assert wanted["name"] == secret["metadata"]["name"] and wanted["key"] in secret["stringData"]
    mounts = {one["name"]: one["mountPath"] for one in container["volumeMounts"]}
    assert {volume["name"] for volume in pod["volumes"]} == set(mounts)
    assert set(mounts.values()) == {known[name]["value"] for name in ("KDNAS_STATE", "KDNAS_CACHE")}
