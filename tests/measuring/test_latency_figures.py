"""What rounds say, by hand: ranks, medians, shares and flags, without a clock."""

from __future__ import annotations

import statistics
from dataclasses import fields, replace
from math import ceil, floor, sqrt
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdnas.measuring import latency
from kdnas.measuring.clocks import Pass
from kdnas.measuring.latency import FAIR, FEWEST, Measured, _figures, _looks, _Round, _round, interval, narrow
from kdnas.study.spec_latency import LatencySpec

SETTINGS = LatencySpec(max_seconds=20.0, precision=0.01)  # type: ignore[call-arg]  # a look is a second


def rounds(ratios: list[float], teacher: float = 8.0, share: float = 1.0, every: float = 0.25) -> list[_Round]:
    """A round every quarter of a second; four are a look."""
    return [_Round(ratio * teacher, teacher, share, at=k * every) for k, ratio in enumerate(ratios)]


@given(st.lists(st.floats(0.1, 10.0), min_size=1, max_size=60))
def test_the_interval_is_of_two_of_the_values_as_many_ranks_from_either_end(values: list[float]) -> None:
    low, high = interval(values)
    ordered, n = sorted(values), len(values)
    below = max(0, floor(n / 2 - 0.98 * sqrt(n)))
    above = min(n - 1, ceil(n / 2 + 0.98 * sqrt(n)) - 1)
    assert (low, high) == (ordered[below], ordered[above])
    assert below == n - 1 - above  # else it would lean to one side
    assert interval(values[::-1]) == (low, high)


def test_a_few_values_are_all_within_the_interval() -> None:
    assert interval([2.0, 1.0]) == (1.0, 2.0)
    assert interval([3.0, 1.0, 2.0]) == (1.0, 3.0)
    assert interval([4.0, 3.0, 1.0, 2.0]) == (1.0, 4.0)
    assert interval([5.0, 4.0, 3.0, 1.0, 2.0]) == (1.0, 5.0)
    assert interval([float(n) for n in range(6)]) == (0.0, 5.0)
    assert interval([float(n) for n in range(7)]) == (0.0, 6.0)


def test_exactly_the_asked_precision_is_narrow_enough_and_a_look_too_few_is_not() -> None:
    looks = [0.75, 0.75, *[1.0] * 6, 1.25, 1.25]
    assert len(looks) == FEWEST and interval(looks) == (0.75, 1.25)
    assert narrow(looks, 0.25) and not narrow(looks, 0.249)
    assert narrow([2 * look for look in looks], 0.25)  # a share of the median, not milliseconds
    assert not narrow([2 * look for look in looks], 0.249)
    assert not narrow([1.0] * (FEWEST - 1), 1.0)


def test_a_look_is_a_stretch_of_the_given_length_wherever_its_rounds_lie() -> None:
    made = [_Round(value, 4.0, 1.0, at) for value, at in ((4, 0.0), (8, 0.49), (2, 0.5), (6, 1.2), (6, 1.4), (12, 9.0))]
    assert _looks(made, 0.5) == [1.5, 0.5, 1.5, 3.0]
    assert _looks(made, 10.0) == [1.5]


def test_a_round_stands_beside_the_mean_of_the_teachers_passes_and_alone_beside_a_millisecond() -> None:
    made = _round(Pass(3.0, 2.4), Pass(10.0, 9.0), Pass(20.0, 10.0), 7.0)
    assert made == _Round(student=3.0, teacher=15.0, share=0.5, at=7.0)
    assert _round(Pass(3.0, 1.5), Pass(10.0, 9.0), Pass(20.0, 20.0)) == _Round(3.0, 15.0, 0.5, 0.0)
    assert _round(Pass(3.0, 2.4), None, None, 7.0) == _Round(3.0, 1.0, pytest.approx(0.8), 7.0)
    assert _round(Pass(3.0, 3.0), None, Pass(20.0, 5.0)) == _Round(3.0, 20.0, 0.25, 0.0)


def test_steady_rounds_say_their_ratio_times_the_teacher_and_nothing_is_doubtful() -> None:
    made = _figures(rounds([0.25] * 48), SETTINGS, None)
    assert made == Measured(
        p50=2.0, p90=2.0, low=2.0, high=2.0, spread=0.0, count=48, flag=None, teacher_p50=8.0, share=1.0,
        contended=0.0, seconds=11.75,
    )  # fmt: skip
    assert (made.way, made.eager_p50, made.teacher_eager_p50) == ("eager", None, None)
    assert (made.ratio, made.precision) == (0.25, 0.0)


def test_figures_are_of_looks_and_p90_and_spread_of_rounds() -> None:
    ratios = [0.20, 0.24, 0.26, 0.30] * 12  # each look's median is 0.25
    made = _figures(rounds(ratios), SETTINGS, None)
    assert (made.p50, made.low, made.high) == (2.0, 2.0, 2.0)
    ordered = sorted(ratios)
    assert made.p90 == ordered[ceil(0.9 * 48) - 1] * 8.0 == pytest.approx(0.30 * 8)
    quarters = statistics.quantiles(ratios, n=4)
    assert made.spread == pytest.approx((quarters[2] - quarters[0]) / 0.25)


def test_p90_is_the_smallest_that_nine_tenths_of_the_rounds_do_not_exceed() -> None:
    for count in (10, 11, 19, 20, 21):
        values = [1.0 + n / 100 for n in range(count)]
        made = _figures(rounds(values[::-1], teacher=1.0), SETTINGS, None)
        assert sum(value <= made.p90 for value in values) >= 0.9 * count
        assert sum(value < made.p90 for value in values) < 0.9 * count


def test_the_interval_is_that_of_the_looks_in_milliseconds() -> None:
    looks = [0.25 + 0.01 * n for n in (3, 0, 4, 1, 5, 9, 2, 6, 8, 7, 11, 10)]
    made = _figures(rounds([look for look in looks for _ in range(4)]), SETTINGS, None)
    low, high = interval(looks)
    assert (made.low, made.high) == (low * 8.0, high * 8.0) and made.p50 == statistics.median(looks) * 8.0
    assert made.precision == pytest.approx((high - low) / 2 / statistics.median(looks))
    half = (high - low) / 2 / statistics.median(looks)
    assert made.flag == f"±{half:.1%} after 20 s"
    for precision, flagged in ((half * 0.999, True), (half * 1.001, False)):
        again = _figures(rounds([look for look in looks for _ in range(4)]), with_(precision=precision), None)
        assert (again.flag is not None) is flagged


def test_two_rounds_have_a_spread_and_exactly_the_asked_precision_is_not_doubtful() -> None:
    assert _figures(rounds([0.25, 0.5]), SETTINGS, None).spread == pytest.approx(0.375 / 0.375)
    looks = [0.75, 0.75, *[1.0] * 6, 1.25, 1.25]
    made = [one for look in looks for one in [look] * 4]
    assert _figures(rounds(made), with_(precision=0.25), None).flag is None
    assert _figures(rounds(made), with_(precision=0.249), None).flag == "±25.0% after 20 s"


def with_(**changes: Any) -> LatencySpec:
    return SETTINGS.model_copy(update=changes)


def test_the_length_of_a_look_is_a_twentieth_of_the_longest_time() -> None:
    ratios = [0.2, 0.2, 0.4, 0.4] * 12
    assert _figures(rounds(ratios), SETTINGS, None).low == pytest.approx(0.3 * 8)
    assert _figures(rounds(ratios), with_(max_seconds=10.0), None).low == pytest.approx(0.2 * 8)


def test_the_teacher_stands_at_the_median_of_the_rounds_that_counted() -> None:
    made = [_Round(2.0, 8.0 if k < 30 else 16.0, 1.0, k * 0.25) for k in range(40)]
    found = _figures(made, with_(precision=0.9), None)
    assert found.teacher_p50 == 8.0
    slow = [replace(one, share=0.5, teacher=800.0) for one in made[:3]]
    assert _figures([*slow, *made], with_(precision=0.9), None).teacher_p50 == 8.0


def test_rounds_below_the_fair_share_are_left_out_and_more_than_a_tenth_is_told() -> None:
    for unfair, flag in ((4, None), (5, "contended: 12% of the passes shared their core")):
        made = rounds([0.25] * 40)
        for k in range(unfair):
            made[8 * k] = replace(made[8 * k], share=FAIR - 0.01, student=100.0)
        found = _figures(made, SETTINGS, None)
        assert found.flag == flag and found.contended == pytest.approx(unfair / 40)
        assert (found.count, found.p50, found.p90, found.share) == (40 - unfair, 2.0, 2.0, 1.0)
    exactly = [replace(one, share=FAIR) for one in rounds([0.25] * 40)]
    assert _figures(exactly, SETTINGS, None).contended == 0 and _figures(exactly, SETTINGS, None).share == FAIR


def test_where_too_few_rounds_are_fair_the_fairest_ten_count() -> None:
    made = [_Round(2.0 + k, 8.0, 0.10 + 0.02 * k, 0.25 * k) for k in range(20)]
    found = _figures(made, SETTINGS, None)
    assert found.count == FEWEST and found.contended == 1.0 and found.share == pytest.approx(0.29)
    assert found.flag == "contended: 100% of the passes shared their core"
    assert found.low == pytest.approx(_figures([replace(one, share=1.0) for one in made[10:]], SETTINGS, None).low)
    enough = [replace(one, share=1.0) if k < FEWEST else one for k, one in enumerate(made)]
    assert _figures(enough, SETTINGS, None).p90 == pytest.approx(2.0 + 8)  # the ten fair ones, the slow ones not


def test_a_gpu_that_works_for_others_is_told_unless_the_core_was_shared_too() -> None:
    for others, flag in (
        (0.0, None),
        (0.1, None),
        (0.34, "contended: the GPU worked for other processes 34% of the time"),
    ):
        found = _figures(rounds([0.25] * 40), SETTINGS, others)
        assert found.flag == flag and found.contended == others
    shared = [replace(one, share=0.5) if k % 2 else one for k, one in enumerate(rounds([0.25] * 40))]
    found = _figures(shared, SETTINGS, 0.34)
    assert found.flag == "contended: 50% of the passes shared their core" and found.contended == 0.5


def test_one_round_alone_is_its_own_quarter_and_has_no_spread() -> None:
    found = _figures(rounds([0.25]), SETTINGS, None)
    assert (found.p50, found.p90, found.low, found.high, found.spread, found.count) == (2.0, 2.0, 2.0, 2.0, 0.0, 1)


def test_beside_another_reading_of_the_teacher_the_ratios_stay_and_nothing_else_changes() -> None:
    made = Measured(2.0, 3.0, 1.5, 2.5, 0.05, 20, "doubtful", 8.0, 0.99, 0.02, 4.5, "graph", 5.0, 11.0)
    found = made.scaled(16.0)
    assert found == replace(made, p50=4.0, p90=6.0, low=3.0, high=5.0, teacher_p50=16.0)
    assert {part.name for part in fields(found)} == {part.name for part in fields(made)}
    assert found.ratio == made.ratio and found.precision == made.precision == 0.25
    assert made.scaled(8.0) == made


def test_what_is_remembered_is_read_back_and_parts_of_before_are_passed_over() -> None:
    made = Measured(2.0, 3.0, 1.5, 2.5, 0.05, 20, None, 8.0, 0.99, 0.02, 4.5)
    assert latency._read(vars(made)) == made
    assert latency._read({**vars(made), "graph_p50": 3.0}) == made


def test_the_key_of_the_protocol_tells_what_is_measured_from_where_it_does_not_matter() -> None:
    import torch

    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    keys = {latency.protocol_key(with_(**{name: value})) for name, value in (("precision", 0.02), ("length", 64))}
    assert len(keys | {latency.protocol_key(SETTINGS)}) == 3
    eager, graph = with_(gpu="eager"), with_(gpu="graph")
    assert latency.protocol_key(eager, cpu) == latency.protocol_key(graph, cpu) == latency.protocol_key(graph)
    assert len({latency.protocol_key(one, gpu) for one in (eager, graph)} | {latency.protocol_key(eager, cpu)}) == 3


def test_keys_are_those_of_before_so_that_what_was_measured_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(torch, "__version__", "2.13.0")
    wanted = "03fefa29a34506169d7201780b3f3f92b63447a5a6e73a2f740fdf453b036bd7"
    assert latency.protocol_key(LatencySpec(), torch.device("cuda")) == wanted  # type: ignore[call-arg]
    assert latency._key("s") == "043a718774c572bd8a25adbeb1bfcd5c0256ae11cecf9f9c3f925d0e52beaf89"
