"""The protocol: an interval that is one, a drift that cancels, a shared core that is told, a shape measured once."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pytest
import torch

from kdnas.measuring import devices, latency
from kdnas.measuring.clocks import Pass, by_own_threads, clock_of
from kdnas.measuring.device_lock import Turn, device_lock
from kdnas.measuring.latency import _looks, _Round, _round, interval, measure
from kdnas.scores import model_latency
from kdnas.students.distil import LATER, Job
from kdnas.study.spec import StudySpec
from kdnas.study.spec_latency import LatencySpec
from kdnas.system.errors import UsageError
from kdnas.system.fingerprint import run_key
from tests.encoders import tiny_encoder

CPU = torch.device("cpu")
QUICK = LatencySpec(max_seconds=0.8, precision=0.3)  # type: ignore[call-arg]


def work(size: int) -> Any:
    a = torch.randn(size, size)

    def once() -> None:
        torch.mm(a, a)

    return once


def test_the_interval_covers_the_median_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(2000):
        low, high = interval(rng.exponential(size=25).tolist())
        covered += low <= np.log(2) <= high
    assert 0.93 <= covered / 2000 <= 0.985


def test_what_rounds_of_one_moment_share_widens_the_interval() -> None:
    rng = np.random.default_rng(0)
    covered = {"rounds": 0, "looks": 0}
    for _ in range(300):
        ratios = [0.25]
        for step in rng.normal(size=399) * 0.001:  # wanders, and is drawn back within some seven rounds
            ratios.append(0.25 + 0.85 * (ratios[-1] - 0.25) + step)
        rounds = [_Round(ratio, 1.0, 1.0, at=0.05 * k) for k, ratio in enumerate(ratios)]
        for name, values in (("rounds", ratios), ("looks", _looks(rounds, 1.0))):
            low, high = interval(values)
            covered[name] += low <= 0.25 <= high
    assert covered["looks"] > 0.85 * 300 > 0.6 * 300 > covered["rounds"]


@pytest.mark.parametrize("count", [1, 2, 3, 9, 10, 11, 20])
def test_the_interval_holds_the_median(count: int) -> None:
    values = np.random.default_rng(count).exponential(size=count).tolist()
    low, high = interval(values)
    assert low <= np.median(values) <= high


def test_a_look_is_the_median_of_its_rounds_and_a_long_round_is_one() -> None:
    rounds = [_Round(value, 2.0, 1.0, at) for value, at in ((2, 0.1), (6, 0.5), (4, 0.9), (8, 1.0), (10, 7.5))]
    assert _looks(rounds, 1.0) == [2.0, 4.0, 5.0]


def test_the_interval_is_the_middle_ranks_of_the_values() -> None:
    # Ranks n/2 ± 0.98·√n, from 0: of 25 values 7 and 17, of 100 values 40 and 59, of 10 values 1 and 8.
    assert interval(list(range(25))) == (7, 17)
    assert interval(list(range(100, 0, -1))) == (41, 60)
    assert interval(list(range(10))) == (1, 8)
    assert interval([3.0]) == (3.0, 3.0)


def test_the_rule_needs_enough_looks_and_half_the_interval_within_the_precision() -> None:
    steady = [1.0] * latency.FEWEST
    assert latency.narrow(steady, 0.01) and not latency.narrow(steady[1:], 0.01)
    looks = [0.9, *[1.0] * 8, 1.1]  # the interval of ten is the second to the ninth
    assert latency.narrow(looks, 0.001)
    wide = [0.98, 0.98, *[1.0] * 6, 1.02, 1.02]
    assert latency.narrow(wide, 0.0201) and not latency.narrow(wide, 0.0199)


class Script:
    """A clock that advances by script: passes of given lengths, and a record of whose pass followed whose."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, seconds: dict[str, Any]) -> None:
        self.seconds, self.now, self.passes = seconds, 0.0, [""]
        self.rule: list[int] = []  # number of passes at each evaluation of the rule
        monkeypatch.setattr(latency.time, "perf_counter", lambda: self.now)
        monkeypatch.setattr(latency, "clock_of", lambda device: self.clock)
        narrow = latency.narrow

        def watched(looks: Any, precision: float) -> bool:
            self.rule.append(len(self.passes))
            return narrow(looks, precision)

        monkeypatch.setattr(latency, "narrow", watched)

    def clock(self, once: Any) -> Pass:
        name = once()
        given = self.seconds[name]
        wall, share = given() if callable(given) else (given, 1.0)
        self.now += wall
        self.passes.append(name)
        return Pass(wall * 1000, wall * 1000 * share)

    def run(self, **changes: Any) -> latency.Measured:
        settings = LatencySpec(max_seconds=20.0, precision=0.01).model_copy(update=changes)  # type: ignore[call-arg]
        return latency._timed(lambda: "student", lambda: "teacher", settings, CPU)


def test_the_rule_is_evaluated_once_a_look_and_between_no_passes_that_count(monkeypatch: pytest.MonkeyPatch) -> None:
    script = Script(monkeypatch, {"student": 0.002, "teacher": 0.008})
    made = script.run()
    assert made.ratio == 0.25 and made.flag is None
    assert len(script.rule) == latency.FEWEST  # ten looks of a second, though they hold a thousand rounds
    assert made.count == pytest.approx(1000, abs=30)
    for at in script.rule[:-1]:  # the teacher's pass was the last before it; then one of each that does not count
        assert script.passes[at - 1 : at + 4] == ["teacher", "student", "teacher", "student", "teacher"]


def test_a_pass_that_follows_the_rule_counts_for_neither_model(monkeypatch: pytest.MonkeyPatch) -> None:
    script = Script(monkeypatch, {})

    def slow_after_the_rule(usual: float) -> Any:
        return lambda: (usual * (3 if script.rule and script.rule[-1] == len(script.passes) else 1), 1.0)

    script.seconds |= {"student": slow_after_the_rule(0.1), "teacher": slow_after_the_rule(0.1)}  # five rounds a look
    made = script.run()
    assert made.p50 == pytest.approx(100) == made.p90 and made.spread == pytest.approx(0)


def test_the_figure_is_the_median_over_looks_and_not_over_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    script = Script(monkeypatch, {})
    # Every third second the machine is quick and makes ten times as many rounds, in which the ratio is 1/2, else 1/4.
    quick = lambda: int(script.now) % 3 == 0  # noqa: E731
    script.seconds["teacher"] = lambda: (0.008 if quick() else 0.08, 1.0)
    script.seconds["student"] = lambda: (0.004 if quick() else 0.02, 1.0)
    made = script.run(precision=0.001)
    assert made.ratio == pytest.approx(0.25, rel=0.02)


@pytest.mark.parametrize(("unfair", "flagged"), [(8, False), (16, True)])
def test_rounds_without_their_core_are_left_out_and_more_than_a_tenth_of_them_are_told(
    monkeypatch: pytest.MonkeyPatch, unfair: int, flagged: bool
) -> None:
    script = Script(monkeypatch, {})
    count = iter(range(10**6))

    def student() -> tuple[float, float]:
        mine = next(count) % 100 < unfair
        return (0.02, 0.3) if mine else (0.002, 0.95)

    script.seconds |= {"teacher": 0.008, "student": student}
    made = script.run()
    assert made.ratio == pytest.approx(0.25) and made.p90 == pytest.approx(2.0)
    assert made.contended == pytest.approx(unfair / 100, abs=0.02)
    assert (made.flag is not None and made.flag.startswith("contended")) == flagged


def test_a_share_of_a_core_is_the_least_of_the_three_passes() -> None:
    assert _round(Pass(2, 2), Pass(10, 5), Pass(10, 10)).share == 0.5
    assert _round(Pass(2, 1.8), Pass(10, 10), Pass(10, 9.5)).share == pytest.approx(0.9)


def test_an_interval_that_stays_wide_is_flagged_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    script = Script(monkeypatch, {"teacher": 0.008})
    script.seconds["student"] = lambda: (0.002 if int(script.now) % 2 else 0.004, 1.0)
    made = script.run()
    assert made.flag is not None and made.flag.startswith("±") and made.flag.endswith("after 20 s")
    assert 20 <= made.seconds < 21 and made.low <= made.p50 < made.high


def test_a_machine_that_slows_down_in_between_does_not_change_the_ratio() -> None:
    for slow in (1.0, 3.0):  # the whole round at another speed
        made = _round(Pass(2 * slow, 2 * slow), Pass(10 * slow, 10 * slow), Pass(10 * slow, 10 * slow))
        assert made.student / made.teacher == pytest.approx(0.2)
    drifting = _round(Pass(3.0, 3.0), Pass(10.0, 10.0), Pass(20.0, 20.0))  # and within it
    assert drifting.student / drifting.teacher == pytest.approx(3 / 15)


def test_figures_hang_together() -> None:
    small, large = work(64), work(256)
    made = measure(small, large, QUICK, CPU)
    assert 0 < made.low <= made.p50 <= made.high and made.p50 <= made.p90
    assert made.ratio < 1 and made.teacher_p50 > made.p50 and made.count >= latency.FEWEST
    scaled = made.scaled(2 * made.teacher_p50)
    assert scaled.ratio == pytest.approx(made.ratio) and scaled.p90 == pytest.approx(2 * made.p90)


BURN = """
import os, sys
os.sched_setaffinity(0, {int(sys.argv[1])})
print("started", flush=True)
while os.getppid() == int(sys.argv[2]):
    sum(range(10_000))
"""


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="needs to pin processes to a core")
def test_a_process_that_burns_the_same_core_is_flagged() -> None:
    allowed = os.sched_getaffinity(0)
    core = min(allowed)
    command = [sys.executable, "-c", BURN, str(core), str(os.getpid())]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as burner:
        try:
            os.sched_setaffinity(0, {core})
            assert burner.stdout is not None and burner.stdout.readline()
            made = measure(work(400), work(600), QUICK, CPU)
            assert made.flag is not None and made.flag.startswith("contended") and made.contended > 0.1
        finally:
            os.sched_setaffinity(0, allowed)
            burner.kill()


class Shapes:
    def __init__(self) -> None:
        self.rows: dict[tuple[str, str, str], Mapping[str, Any]] = {}

    def lookup(self, *key: str) -> Mapping[str, Any] | None:
        return self.rows.get(key)  # type: ignore[arg-type]

    def remember(self, device: str, protocol: str, shape: str, measured: Mapping[str, Any]) -> None:
        self.rows[device, protocol, shape] = measured


def fixed(flag: str | None) -> Any:
    def stand_in(*_: Any) -> latency.Measured:
        return latency.Measured(2.0, 2.2, 1.9, 2.1, 0.05, 20, flag, 10.0, 1.0, 0.0, 0.1)

    return stand_in


def test_a_shape_is_measured_once_and_a_doubtful_figure_again(monkeypatch: pytest.MonkeyPatch) -> None:
    shapes = Shapes()
    keep = {"shape": "s", "lookup": shapes.lookup, "remember": shapes.remember}
    monkeypatch.setattr(latency, "_measure", fixed("±9 % after 10 s"))
    assert measure(work(8), work(8), QUICK, CPU, **keep).flag is not None and not shapes.rows
    monkeypatch.setattr(latency, "_measure", fixed(None))
    first = measure(work(8), work(8), QUICK, CPU, **keep)
    monkeypatch.setattr(latency, "_measure", None)  # would fail if it were called
    assert measure(work(8), work(8), QUICK, CPU, **keep) == first
    ((device, protocol, shape),) = shapes.rows
    assert len(device) <= 120 and len(protocol) <= 64 and len(shape) <= 64
    assert latency.protocol_key(QUICK) == protocol != latency.protocol_key(LatencySpec())  # type: ignore[call-arg]


def test_trials_of_one_study_stand_beside_one_reading_of_the_teacher(monkeypatch: pytest.MonkeyPatch) -> None:
    shapes = Shapes()
    keep = {"teacher_shape": "t", "lookup": shapes.lookup, "remember": shapes.remember}
    monkeypatch.setattr(latency, "_measure", fixed(None))
    assert measure(work(8), work(8), QUICK, CPU, shape="a", **keep).teacher_p50 == 10.0

    def slower(*_: Any) -> latency.Measured:
        return fixed(None)().scaled(15.0)

    monkeypatch.setattr(latency, "_measure", slower)
    later = measure(work(8), work(8), QUICK, CPU, shape="b", **keep)
    assert (later.teacher_p50, later.p50) == (10.0, pytest.approx(2.0))


def test_the_threads_of_the_process_are_given_back() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    seen = []
    try:
        measure(lambda: seen.append(torch.get_num_threads()), None, QUICK, CPU)
        assert set(seen) == {1} and torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_who_measures_waits_for_a_training_step_and_keeps_the_next_one_waiting() -> None:
    order: list[str] = []
    inside, may_leave, asked = threading.Event(), threading.Event(), threading.Event()

    def measuring() -> None:
        asked.set()
        with device_lock(CPU):
            order.append("measured")
            inside.set()
            assert may_leave.wait(60)
            order.append("left")

    thread = threading.Thread(target=measuring)
    with Turn(CPU) as turn:
        thread.start()
        assert asked.wait(60) and not inside.wait(0.2)
        order.append("first step")
        threading.Timer(0.2, may_leave.set).start()
        while not inside.is_set():  # the next step that gives way lets it in
            turn.step()
        order.append("second step")
    thread.join()
    assert order == ["first step", "measured", "left", "second step"]


def test_a_worker_that_dies_while_measuring_leaves_no_lock() -> None:
    lock = device_lock(CPU)
    with pytest.raises(RuntimeError), lock:
        raise RuntimeError
    with device_lock(CPU):
        pass


def test_a_remembered_figure_with_parts_that_are_no_more_is_read() -> None:
    shapes = Shapes()
    keep = {"shape": "s", "lookup": shapes.lookup, "remember": shapes.remember}
    old = {**vars(fixed(None)()), "graph_p50": None, "teacher_graph_p50": None}
    for name in ("way", "eager_p50", "teacher_eager_p50"):
        del old[name]
    shapes.remember(devices.device_name(CPU), latency.protocol_key(QUICK), latency._key("s"), old)
    assert measure(work(8), work(8), QUICK, CPU, **keep) == fixed(None)()


def test_the_key_of_the_protocol_is_that_of_before_on_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "__version__", "2.13.0")
    known = "ef71420846ef50fbd03b930bd5e04dc4c8493460a38a7e883cfbcf6121b380f5"
    assert latency.protocol_key(LatencySpec(), CPU) == known  # type: ignore[call-arg]


def test_a_folder_finished_before_there_was_a_choice_is_still_the_same_run() -> None:
    spec = StudySpec()  # type: ignore[call-arg]
    values = spec.model_dump(mode="json")
    for part, later in LATER.items():
        for field in later:
            del values[part][field]
    del values["latency"]["when"]  # which no run depends on
    parts = {name: values[name] for name in ("seed", "teacher", "data", "recipe", "training", "full", "latency")}
    facts = {**parts, "proxy_fraction": spec.budget.proxy_fraction, "candidate": {"a": 1}}
    assert Job(spec, {"a": 1}).key() == run_key(facts)


def test_any_model_folder_can_be_measured(tmp_path: Path) -> None:
    settings = LatencySpec(length=16, max_seconds=0.4, precision=0.3)  # type: ignore[call-arg]
    folder = str(tiny_encoder(tmp_path / "m", "distilbert"))
    made, parameters = model_latency.measure_model(folder, settings, CPU)
    assert made.p50 > 0 and made.teacher_p50 == 1.0 and parameters > 1000
    beside, _ = model_latency.measure_model(folder, settings, CPU, against=folder)
    assert beside.ratio > 0 and beside.teacher_p50 > 0
    with pytest.raises(UsageError, match="takes at most 40 tokens"):
        model_latency.measure_model(folder, LatencySpec(), CPU)  # type: ignore[call-arg]


def test_work_of_other_threads_is_no_contention_by_the_clock_of_all_threads() -> None:
    with ThreadPoolExecutor(1) as pool:

        def once() -> None:
            pool.submit(lambda: sum(range(200_000))).result()

        shares = [
            median(r.cpu / r.wall for r in [clock(once) for _ in range(9)])
            for clock in (clock_of(CPU), by_own_threads(1))
        ]
    assert shares[1] > 3 * shares[0]
    asleep = by_own_threads(1)(lambda: time.sleep(0.02))
    assert asleep.cpu < 0.5 * asleep.wall
