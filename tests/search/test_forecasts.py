"""A study of the strategy blocks: its forecast is made once, corrected by finished trials, and survives every stop."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from kdnas.measuring.block_table import Block
from kdnas.recipes.contract import Workbench
from kdnas.search import forecasts
from kdnas.search.begin import begin
from kdnas.search.block_latency import predicted_ratios
from kdnas.search.worker import run_worker
from kdnas.store import changes, queries
from kdnas.store.database import open_store
from kdnas.study.space import Candidate, Dimension, SearchSpace
from kdnas.study.spec import StudySpec
from kdnas.system.progress import Progress
from kdnas.training.contract import Student
from tests import fakes

SPACE = SearchSpace(
    (
        Dimension("num_hidden_layers", (1, 2, 4)),
        Dimension("num_attention_heads", (1, 2)),
        Dimension("intermediate_size", (64, 128, 192, 256)),
        Dimension("hidden_act", ("gelu", "relu"), ordered=False),
    )
)


class Predicting(fakes.FakeBench):
    """Scores of its own, on another scale in each depth."""

    def __init__(self, spec: StudySpec) -> None:
        super().__init__(spec)
        self.space = SPACE

    def blocks(self, candidate: Candidate) -> tuple[Block, ...]:
        own = f"{candidate['num_attention_heads']} heads, {candidate['intermediate_size']}, {candidate['hidden_act']}"
        return (Block(64, own),) * int(candidate["num_hidden_layers"])

    def comparable(self, candidate: Candidate) -> str:
        return f"{candidate['num_hidden_layers']} layers"

    def predicted(self, on_progress: Progress) -> np.ndarray:
        return np.array(
            [0.8 / (1 + i % 16 + int(c["intermediate_size"]) / 64) for i, c in enumerate(SPACE.candidates())]
        )


def prepare(wanted: StudySpec, device: torch.device, on_progress: Progress) -> Workbench:
    return Predicting(wanted)


def milliseconds(c: Candidate) -> float:
    """A sum of blocks: what stands around them, and a line in the neurons for each number of heads and activation."""
    fixed, each = (0.2, 0.004) if c["hidden_act"] == "gelu" else (0.0, 0.003)
    one = 0.3 * int(c["num_attention_heads"]) + fixed + int(c["intermediate_size"]) * each
    return 0.5 + int(c["num_hidden_layers"]) * one


class Protocol:
    def __init__(self) -> None:
        self.asked: list[Candidate] = []

    def __call__(self, bench: Workbench, student: Student, chosen: Candidate) -> fakes.FakeTimed:
        self.asked.append(dict(chosen))
        ms = milliseconds(chosen)
        return fakes.FakeTimed(ms, ms * 1.1, ms * 0.99, ms * 1.01)


def spec(trials: int = 8, **more: Any) -> StudySpec:
    parts: dict[str, Any] = {
        "recipe": {"name": "hidden-state", "init": "fitted"},
        "strategy": {"name": "blocks"},
        "budget": {"trials": trials, "epochs": 1},
        **more,
    }
    return fakes.spec(**parts)


def candidates(path: Path) -> list[Candidate]:
    with open_store(path) as store:
        return [row.candidate for row in queries.trial_rows(store, 1)]


def run(path: Path, wanted: StudySpec) -> Protocol:
    protocol = Protocol()
    assert run_worker(str(path), wanted.name, prepare=prepare, measure=protocol) == 0
    return protocol


def test_latencies_of_the_whole_space_come_from_few_models() -> None:
    bench, protocol = Predicting(spec()), Protocol()
    found = predicted_ratios(bench, protocol, lambda what, share: None)
    wanted = [milliseconds(c) / 10.0 for c in SPACE.candidates()]  # of the fake teacher's 10 ms
    assert found == pytest.approx(wanted, rel=1e-9)
    assert len(protocol.asked) == 12 < SPACE.size  # of each number of heads five; two for the other activation


def test_a_study_that_is_stopped_after_every_trial_proposes_what_the_whole_one_does(tmp_path: Path) -> None:
    whole = spec(9)
    begin(whole, tmp_path / "whole.db")
    run(tmp_path / "whole.db", whole)
    expected = candidates(tmp_path / "whole.db")
    assert len({SPACE.key(c) for c in expected}) == 9
    assert {c["num_hidden_layers"] for c in expected[:3]} == {1, 2, 4}
    path = tmp_path / "parts.db"
    begin(spec(1), path)
    for trials in range(1, 10):
        with open_store(path) as store:
            changes.set_trials(store, 1, trials)
        run(path, spec(1))
    assert candidates(path) == expected


def test_finished_trials_correct_what_is_predicted_at_the_rate_of_now(tmp_path: Path) -> None:
    path, wanted = tmp_path / "kdnas.db", spec(6)
    begin(wanted, path)
    run(path, wanted)
    bench = Predicting(wanted)
    raw = forecasts.of_bench(bench, Protocol(), lambda what, share: None)
    with open_store(path) as store:
        rows = queries.trial_rows(store, 1)
        found = forecasts.by_now(raw, SPACE, store, 1)
        assert (found.alpha, found.beta) == (wanted.reward.alpha, wanted.reward.beta)
        assert int(found.known.sum()) == len(rows) == 6
        for row in rows:
            place = found.keys.index(SPACE.key(row.candidate))
            assert found.loss[place] == pytest.approx(row.loss)
            assert found.ratio[place] == pytest.approx(row.latency_ms / row.teacher_latency_ms)  # type: ignore[operator]
        assert not np.allclose(found.loss[~found.known], raw.loss[~found.known])
