"""Filling a table of blocks on a real bench: which models are measured, each once, and what trials say of the sums."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from kdnas.measuring import latency
from kdnas.measuring.block_table import NoiseError, check
from kdnas.recipes import recipe
from kdnas.recipes.contract import Workbench
from kdnas.search.block_latency import ByBlocks, probes, readings_of, table_of, timed_reading
from kdnas.search.candidate import Measure
from kdnas.search.timing import latency_protocol
from kdnas.store.database import open_store
from kdnas.study.space import Candidate
from kdnas.system.errors import UsageError
from kdnas.training.contract import Student
from tests import fakes
from tests.encoders import text_folder, tiny_encoder, tiny_spec
from tests.rows import made_row

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("blocks")
    spec = tiny_spec(tiny_encoder(folder / "model"), text_folder(folder / "text"), latency={"max_seconds": 0.1})
    made = recipe("hidden-state").prepare(spec, CPU, lambda words, share: None)
    yield made
    made.close()


def candidate(layers: int, width: int = 16, inner: int = 16) -> Candidate:
    return {
        "num_hidden_layers": layers,
        "hidden_size": width,
        "head_size": 8,
        "intermediate_size": inner,
        "hidden_act": "gelu",
    }


def ms(found: Candidate) -> float:
    width, inner = int(found["hidden_size"]), int(found["intermediate_size"])
    return 0.01 * width + int(found["num_hidden_layers"]) * width * (width + inner) / 1000


class Formula:
    """A measurement that is a formula, and notes what it was asked for."""

    def __init__(self) -> None:
        self.seen: list[tuple[int, Candidate]] = []

    def __call__(self, bench: Workbench, student: Student, chosen: Candidate) -> fakes.FakeTimed:
        layers = bench.family.sizes(student.body.config).layers  # type: ignore[attr-defined]
        self.seen.append((layers, chosen))
        return fakes.FakeTimed(ms(chosen), ms(chosen), ms(chosen) * 0.99, ms(chosen) * 1.01)


def test_each_block_is_measured_in_two_depths_and_every_depth_is_told(bench: Any) -> None:
    asked = [candidate(n, inner=inner) for n in (2, 3) for inner in (16, 48)]
    formula = Formula()
    before = torch.random.get_rng_state()
    table = table_of(bench, formula, asked)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert [(layers, c["num_hidden_layers"], c["intermediate_size"]) for layers, c in formula.seen] == [
        (1, 1, 16),
        (4, 4, 16),
        (1, 1, 48),
        (4, 4, 48),
    ]
    for chosen in [*asked, candidate(4)]:
        assert table.predict(bench.blocks(chosen)).ms == pytest.approx(ms(chosen))
    with pytest.raises(UsageError):
        table.predict(bench.blocks(candidate(2, width=32)))


class Noisy(Formula):
    """Its first figures of shallow models are far too high, as beside another program, and say so or not."""

    def __init__(self, flag: str | None, times: int) -> None:
        super().__init__()
        self._flag, self._times = flag, times

    def __call__(self, bench: Workbench, student: Student, chosen: Candidate) -> fakes.FakeTimed:
        exact = super().__call__(bench, student, chosen)
        layers, _ = self.seen[-1]
        if layers > 1 or [n for n, _ in self.seen].count(1) > self._times:
            return exact
        return replace(exact, p50=exact.p50 * 100, flag=self._flag)


def by_table(bench: Any, measure: Measure, asked: Candidate) -> float:
    return table_of(bench, measure, [asked]).predict(bench.blocks(asked)).ms


def by_blocks(bench: Any, measure: Measure, asked: Candidate) -> float:
    return ByBlocks(measure).predicted(bench, asked).p50


@pytest.mark.parametrize("ask", [by_table, by_blocks])
def test_doubtful_models_are_measured_again_where_a_part_comes_out_below_zero(bench: Any, ask: Any) -> None:
    asked = candidate(3)
    for times in (1, 2):
        noisy = Noisy("contended", times)
        assert ask(bench, noisy, asked) == pytest.approx(ms(asked))
        assert [layers for layers, _ in noisy.seen] == [1, 4] + [1] * times
    for noisy, seen in ((Noisy("contended", 9), [1, 4, 1, 1]), (Noisy(None, 9), [1, 4])):
        with pytest.raises(NoiseError, match="which is noise"):
            ask(bench, noisy, asked)
        assert [layers for layers, _ in noisy.seen] == seen


def test_trials_measured_whole_check_the_sums(bench: Any) -> None:
    asked = candidate(2)
    table = table_of(bench, Formula(), [asked])
    slower = {**candidate(3)}
    rows = [
        made_row(0, candidate=asked, latency_ms=ms(asked)),
        made_row(1, candidate=slower, latency_ms=ms(slower) * 1.1),
        made_row(2, candidate=candidate(4), latency_ms=1.0, latency_flag="contended"),
        made_row(3, candidate=candidate(2, inner=48), latency_ms=1.0),
        made_row(4, candidate=asked, latency_ms=None),
    ]
    told = readings_of(bench, rows, table.blocks)
    assert [len(reading.blocks) for reading in told] == [2, 3]
    assert check(table, told).errors == pytest.approx((0.0, 1 / 1.1 - 1))


def test_by_the_protocol_a_block_is_measured_once_for_all_studies(
    bench: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    passes: list[Any] = []
    real = latency._measure

    def counted(student: Any, teacher: Any, settings: Any, device: Any) -> latency.Measured:
        passes.append(student)
        return replace(real(student, teacher, settings, device), flag=None)  # this machine may be busy

    monkeypatch.setattr(latency, "_measure", counted)
    with open_store(tmp_path / "a.db", create=True) as store:
        measure = latency_protocol(store)
        first = [timed_reading(bench, measure, probe)[0] for probe in probes(bench, [candidate(2)])]
        assert len(passes) == 2 and all(reading.ms > 0 for reading in first)
        again = [timed_reading(bench, measure, probe)[0] for probe in probes(bench, [candidate(3)])]
        assert len(passes) == 2 and again == first


def test_a_recipe_without_blocks_says_so() -> None:
    with pytest.raises(UsageError) as caught:
        table_of(fakes.FakeBench(fakes.spec()), fakes.measure, [dict(fakes.SPACE.from_ordinal(0))])
    assert "no blocks to add up" in str(caught.value)
