"""`latency.by = "blocks"`: a search predicts latencies from its blocks, and says so wherever it shows one."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest
import torch

from kdnas.cli.tables import figures
from kdnas.measuring.block_table import Block
from kdnas.measuring.latency import protocol_key
from kdnas.recipes.contract import Workbench
from kdnas.search.begin import begin
from kdnas.search.block_latency import ByBlocks
from kdnas.search.recheck import recheck
from kdnas.search.worker import run_worker
from kdnas.store import queries
from kdnas.store.database import open_store
from kdnas.students.finalize import choose
from kdnas.study import export
from kdnas.study.ranked_rows import rank
from kdnas.study.rows import TrialRow
from kdnas.study.space import Candidate
from kdnas.study.spec import StudySpec
from kdnas.study.spec_latency import LatencySpec
from kdnas.study.trial_columns import Board
from kdnas.system.errors import BadOptionError
from kdnas.system.progress import Progress
from kdnas.training.contract import Student
from kdnas_tui.screens.candidate import facts
from kdnas_tui.screens.finalize import in_words
from kdnas_tui.widgets.study_head import legend
from kdnas_tui.widgets.trial_cells import columns_of
from tests import fakes
from tests.rows import made_row

FLAG = "predicted by the table of blocks"
BENT = 1.02  # a model of few layers takes so much longer than its blocks tell


def whole(candidate: Candidate) -> float:
    """Milliseconds of a model measured whole: not quite a sum of its blocks."""
    layers = int(candidate["num_hidden_layers"])
    return (0.4 + fakes.latency_ms(candidate)) * (1.0 if layers in (1, 8) else BENT)


class Blocks(fakes.FakeBench):
    def blocks(self, candidate: Candidate) -> tuple[Block, ...]:
        own = f"{candidate['num_attention_heads']} heads, {candidate['intermediate_size']}, {candidate['hidden_act']}"
        return (Block(64, own),) * int(candidate["num_hidden_layers"])


def prepare(wanted: StudySpec, device: torch.device, on_progress: Progress) -> Workbench:
    return Blocks(wanted)


class Protocol:
    def __init__(self) -> None:
        self.asked: list[Candidate] = []

    def __call__(self, bench: Workbench, student: Student, chosen: Candidate) -> fakes.FakeTimed:
        self.asked.append(dict(chosen))
        ms = whole(chosen)
        return fakes.FakeTimed(ms, ms * 1.1, ms * 0.99, ms * 1.01)


def predicted(candidate: Candidate) -> float:
    return 0.4 + fakes.latency_ms(candidate)


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[TrialRow], Protocol]:
    path = tmp_path_factory.mktemp("predicted") / "kdnas.db"
    spec = fakes.spec(latency={"by": "blocks"}, space={"choices": {"hidden_act": ["gelu"]}})
    begin(spec, path)
    protocol = Protocol()
    assert run_worker(str(path), spec.name, prepare=prepare, measure=protocol) == 0
    with open_store(path) as store:
        return path, queries.trial_rows(store, 1), protocol


def test_every_trial_is_predicted_from_two_models_of_its_block(searched: Any) -> None:
    _, rows, protocol = searched
    assert len(rows) == 8 and {row.state for row in rows} == {"done"}
    for row in rows:
        assert row.latency_ms == pytest.approx(predicted(row.candidate)) and row.latency_flag == FLAG
        assert row.latency_p90_ms is None and row.latency_count == 0 and row.teacher_latency_ms == 10.0
        assert row.latency_low_ms < row.latency_ms < row.latency_high_ms and row.latency_predicted
    assert {candidate["num_hidden_layers"] for candidate in protocol.asked} == {1, 8}
    assert len(protocol.asked) == len({tuple(candidate.items()) for candidate in protocol.asked})


def test_a_prediction_does_not_depend_on_what_was_measured_before(searched: Any) -> None:
    _, rows, _ = searched
    bench = Blocks(fakes.spec())
    for row in rows[-2:]:
        alone = ByBlocks(Protocol())(bench, bench.build(row.candidate, 0), row.candidate)
        assert (alone.p50, alone.low, alone.high) == (row.latency_ms, row.latency_low_ms, row.latency_high_ms)


def test_lists_files_and_screens_mark_it(searched: Any) -> None:
    path, rows, _ = searched
    scored = rank(rows, -0.06, 0.6)
    assert "ms predicted" in figures(rows[0], None)
    with open_store(path) as store:
        study, provenance = queries.study_row(store, "fake"), queries.provenance(store, 1)
        assert any("ms predicted (" in line.line for line in queries.logs(store, 1))
        assert choose(store, "fake").found["latency_flag"] == FLAG
    body = export.document(study, scored[:3], alpha=-0.06, beta=0.6, provenance=provenance)
    assert [entry["latency_ms"]["flag"] for entry in body["candidates"]] == [FLAG] * 3
    assert [line["latency_flag"] for line in csv.DictReader(export.render(body, "csv").splitlines())] == [FLAG] * 3
    assert "predicted by a table of blocks, not measured" in export.render(body, "markdown")
    board = Board(-0.06, 0.6)
    board.update(rows)
    assert "≈ predicted latency" in legend(board, 0, 100, {}).plain and "!" not in legend(board, 0, 100, {}).plain
    assert {c.key: c for c in columns_of(board)}["half"].text(scored[0]) == "≈"
    assert dict(dict(facts(scored[0], [], 0.0))["latency"])["not measured"] == FLAG
    assert "ms predicted" in in_words(scored[0])


def test_what_was_measured_is_not_marked() -> None:
    row = made_row(0, latency_flag="contended: 30 % of the passes shared their core")
    scored = rank([row, made_row(1)], -0.06, 0.6)
    board = Board(-0.06, 0.6)
    board.update([s.row for s in scored])
    said = legend(board, 0, 100, {}).plain
    assert "! doubtful latency" in said and "≈" not in said and "predicted" not in figures(row, None)
    assert not row.latency_predicted


def test_a_report_says_how_latencies_came_about(searched: Any) -> None:
    pytest.importorskip("matplotlib", reason="the extra report is not installed")
    from kdnas.reports.report import as_markdown, gather

    with open_store(searched[0]) as store:
        text = as_markdown(gather(store, "fake"), "pictures")
    assert "of candidates predicted, as the sum of blocks measured in models of two depths" in text
    assert "| predicted ms |" in text and "its latency predicted by a table of blocks" in text


def test_a_leader_evaluated_again_is_measured_and_the_error_told(searched: Any, tmp_path: Path) -> None:
    said: list[str] = []
    scored = recheck(str(searched[0]), "fake", top=8, seeds=1, device=None, say=said.append,
                     prepare=prepare, measure=Protocol())  # fmt: skip
    bent = next(s.number for s in scored if s.row.candidate["num_hidden_layers"] not in (1, 8))
    (line,) = [line for line in said if f"#{bent}:" in line]
    assert "ms measured" in line and "predicted, -2.0%)" in line


@pytest.mark.parametrize(
    "parts",
    [{"recipe": {"name": "lora"}}, {"space": {"variants": {"a": {}, "b": {}}}}],
    ids=["another recipe", "runs to compare"],
)
def test_what_does_not_add_up_is_refused(parts: dict[str, Any]) -> None:
    with pytest.raises(BadOptionError) as caught:
        fakes.spec(latency={"by": "blocks"}, **parts)
    assert "latency.by is blocks" in str(caught.value) and "take model" in str(caught.value)


def test_a_figure_measured_for_either_is_the_same_figure() -> None:
    whole, sums = (LatencySpec.model_validate({"by": by}) for by in ("model", "blocks"))
    assert protocol_key(whole) == protocol_key(sums)
