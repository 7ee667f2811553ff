"""Workers of one machine that would stall each other: two on a GPU, or two on a core."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from kdnas.search import placing
from kdnas.search.launch import start_workers
from kdnas.search.placing import CORES, THREADS, Machine, Seat, seats
from kdnas.system.errors import UsageError

EIGHT = tuple(range(8))


def test_a_gpu_gets_two_workers_and_another_none() -> None:
    found = seats(Machine(EIGHT, gpus=4), "gpus")
    assert [seat.device for seat in found] == ["cuda:0", "cuda:1", "cuda:2", "cuda:3"]
    assert [seat.cores for seat in found] == [(0, 1), (2, 3), (4, 5), (6, 7)]
    found = seats(Machine(EIGHT, gpus=2), "gpus", per_gpu=2, device="cuda")
    assert [seat.device for seat in found] == ["cuda:0", "cuda:0", "cuda:1", "cuda:1"]


@pytest.mark.parametrize("workers", range(1, 9))
@pytest.mark.parametrize("cores", [EIGHT, (0, 2, 4, 6, 8, 10, 12, 14), (3, 5, 9, 10, 11, 20, 21)])
def test_two_workers_share_a_core_or_compute_with_unequal_threads(workers: int, cores: tuple[int, ...]) -> None:
    found = seats(Machine(cores), workers, device="cpu")
    assert {seat.device for seat in found} == {"cpu"} and len({seat.threads for seat in found}) == 1
    taken = [core for seat in found for core in seat.cores]
    if workers == 1:
        assert found == (Seat("cpu", len(cores)),)  # alone it keeps to none
    elif workers <= len(cores):
        assert len(taken) == len(set(taken)) == workers * found[0].threads and set(taken) <= set(cores)
    else:
        assert set(taken) == set(cores) and found[0].threads == 1


def test_more_workers_than_cores_crowd_on_one_of_them() -> None:
    found = seats(Machine((4, 5)), 6)
    assert [seat.cores for seat in found] == [(4,)] * 3 + [(5,)] * 3
    assert {seat.threads for seat in found} == {1}


def test_a_worker_has_fewer_cores_than_threads_that_it_is_timed_with() -> None:
    found = seats(Machine(EIGHT), 4, least=4)
    assert [seat.cores for seat in found] == [(0, 1, 2, 3), (2, 3, 4, 5), (4, 5, 6, 7), (6, 7, 0, 1)]
    assert seats(Machine((0, 1)), 2, least=16)[0].cores == (0, 1)


def test_workers_are_placed_where_they_cannot_be() -> None:
    with pytest.raises(UsageError, match="torch finds none"):
        seats(Machine(EIGHT), "gpus")
    for device in ("cpu", "cuda:1", "mps"):
        with pytest.raises(UsageError, match=f"the device {device}, were both asked for"):
            seats(Machine(EIGHT, gpus=2), "gpus", device=device)
    with pytest.raises(UsageError, match="Give 1 to 256"):
        seats(Machine(EIGHT, gpus=20), "gpus", per_gpu=16)


def test_a_seat_overrides_what_the_user_has_set_or_leaves_another_ones_cores() -> None:
    environment = {THREADS: "3", CORES: "7"}
    Seat(None, 2).into(environment)
    assert environment == {THREADS: "3"}
    environment = {}
    Seat(None, 2, (4, 5)).into(environment)
    assert environment == {THREADS: "2", CORES: "4,5"}


def test_threads_that_the_user_wants_get_no_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(placing, "this_machine", lambda **_: Machine(EIGHT))
    monkeypatch.setenv(THREADS, "4")
    assert [len(seat.cores) for seat in placing.here(4)] == [4] * 4
    monkeypatch.setenv(THREADS, "many")
    assert [len(seat.cores) for seat in placing.here(4)] == [2] * 4


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system keeps no process to a core")
def test_started_workers_keep_to_their_cores_and_those_that_are_gone_end_nobody(tmp_path: Path) -> None:
    told = (
        "import os, sys; sys.path[:0] = sys.argv[1].split(':'); from kdnas.search import placing;"
        "placing.keep_to_own_cores(); print(*sorted(os.sched_getaffinity(0)), *sys.argv[3:])"
    )
    paths = ":".join(path for path in sys.path if path)
    core = placing.this_machine().cores[-1]
    where = [Seat("cpu", 1, (core,)), Seat(None, 1, (100_000,))]
    script = [sys.executable, "-S", "-c", told, paths]
    started = start_workers(tmp_path / "kdnas.db", "fake", command=script, seats=where)
    assert [one.process.wait() for one in started] == [0, 0]
    said = [one.log.read_text().split() for one in started]
    assert said == [[str(core), "--device", "cpu"], [str(one) for one in placing.this_machine().cores]]
