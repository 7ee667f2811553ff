"""Workers on two hosts, killed at random moments: a trial is lost, a candidate is evaluated twice, the budget exceeded.

`python -m benchmarks.torture --only "two hosts" --times N` tries it N times with sixteen deaths each.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest

from benchmarks.torture.deaths import killed
from benchmarks.torture.faults import Ground, Kit
from tests.postgres import BINARIES


@pytest.mark.skipif(not BINARIES, reason="no PostgreSQL on this machine")
def test_workers_of_two_hosts_die_and_something_is_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KDNAS_FAKE", "")  # the attempt sets it
    with tempfile.TemporaryDirectory() as name:  # which the server's account may enter
        kit, deaths = Kit(Path(name)), 0
        try:
            for seed in range(1, 9):  # a study may end before anybody dies
                (tmp_path / str(seed)).mkdir()
                ground = Ground(seed, tmp_path / str(seed), kit)
                try:
                    deaths += killed(ground, "tpe", "PostgreSQL", 4, hosts=2, most=2)
                    ground.complaints()
                finally:
                    ground.clear()
                if deaths:
                    break
        finally:
            kit.close()
    assert deaths
