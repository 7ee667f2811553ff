"""A study of the strategy blocks on a causal teacher: real scores, made-up times; it goes on as if never stopped."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kdnas.models.decoders import Sizes, sizes
from kdnas.recipes.contract import Workbench
from kdnas.search.begin import begin
from kdnas.search.worker import run_worker
from kdnas.store import changes, queries
from kdnas.store.database import open_store
from kdnas.study.rows import TrialRow
from kdnas.study.space import Candidate
from kdnas.study.spec import StudySpec
from kdnas.training.contract import Student
from tests import fakes
from tests.recipes import tiny_causal
from tests.recipes.test_fitted_decoder_students import spec as causal_spec

CHOICES = {
    "num_hidden_layers": [1, 2, 3],
    "num_attention_heads": [2, 4],
    "head_size": [8],
    "intermediate_size": [8, 24, 64],
    "hidden_act": ["silu"],
}
LATENCY = {"length": 16, "precision": 0.5, "max_seconds": 0.02}  # of the further passes, which are real


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("decoder-blocks")
    tiny_causal.folder(folder / "llama", "llama")
    tiny_causal.text_file(folder / "text.txt", 12)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KDNAS_CACHE", str(folder / "cache"))
        patch.setenv("KDNAS_STATE", str(folder / "state"))
        yield folder


def spec_of(shelf: Path, trials: int = 6, **parts: Any) -> StudySpec:
    given: dict[str, Any] = {
        "name": "decoder-blocks",
        "space": {"choices": CHOICES},
        "strategy": {"name": "blocks"},
        "budget": {"proxy_fraction": 1.0, "epochs": 0, "trials": trials},
        "latency": LATENCY,
        **parts,
    }
    return causal_spec(shelf / "llama", shelf / "text.txt", **given)


class Protocol:
    """Times that are no sum of blocks, so that a measured one is told from a predicted one."""

    def __init__(self) -> None:
        self.asked: list[Candidate] = []

    def __call__(self, bench: Workbench, student: Student, chosen: Candidate) -> fakes.FakeTimed:
        self.asked.append(dict(chosen))
        own = sizes(student.body.config)  # type: ignore[arg-type]
        ms = milliseconds(own) * (1 if own.layers in (1, 3) else 1.1)
        return fakes.FakeTimed(ms, ms * 1.1, ms * 0.99, ms * 1.01)


def milliseconds(own: Sizes) -> float:
    return 0.5 + own.layers * (0.2 + own.heads * 0.1 + own.inner * 0.01)


def searched(path: Path, spec: StudySpec, protocol: Protocol | None = None) -> list[TrialRow]:
    begin(spec, path)
    assert run_worker(str(path), spec.name, measure=protocol or Protocol()) == 0
    return rows_of(path)


def rows_of(path: Path) -> list[TrialRow]:
    with open_store(path) as store:
        return sorted(queries.trial_rows(store, 1), key=lambda row: row.number)


@pytest.mark.parametrize("what", ["first", "token"])
def test_each_depth_comes_first_and_what_is_proposed_is_measured(shelf: Path, tmp_path: Path, what: str) -> None:
    spec = spec_of(shelf, latency={**LATENCY, "what": what})
    rows = searched(tmp_path / "kdnas.db", spec)
    assert [row.state for row in rows] == ["done"] * 6 and len({str(row.candidate) for row in rows}) == 6
    assert {row.candidate["num_hidden_layers"] for row in rows[:3]} == {1, 2, 3}
    assert not any(row.latency_predicted for row in rows)
    aside = {"first": "token_ms", "token": "first_ms"}[what]
    assert all(row.extra[aside] > 0 for row in rows)


@pytest.mark.parametrize("two", [False, True], ids=["reward", "front"])
def test_a_study_stopped_after_every_trial_proposes_what_the_whole_one_does(
    shelf: Path, tmp_path: Path, two: bool
) -> None:
    strategy = {"name": "blocks", "two_objectives": two}
    whole = searched(tmp_path / "whole.db", spec_of(shelf, strategy=strategy))
    path, spec = tmp_path / "parts.db", spec_of(shelf, 1, strategy=strategy)
    begin(spec, path)
    for trials in range(1, 7):
        with open_store(path) as store:
            changes.set_trials(store, 1, trials)
        assert run_worker(str(path), spec.name, measure=Protocol()) == 0
    parts = rows_of(path)
    assert [row.candidate for row in parts] == [row.candidate for row in whole]
    assert [row.loss for row in parts] == [row.loss for row in whole]


def test_latencies_by_blocks_are_sums_and_no_candidate_is_timed(shelf: Path, tmp_path: Path) -> None:
    protocol = Protocol()
    rows = searched(tmp_path / "kdnas.db", spec_of(shelf, latency={**LATENCY, "by": "blocks"}), protocol)
    assert all(row.latency_predicted and row.latency_ms > 0 for row in rows)
    for row in rows:
        own = Sizes(
            layers=int(row.candidate["num_hidden_layers"]),
            heads=int(row.candidate["num_attention_heads"]),
            key_value_heads=1,
            head_size=8,
            width=1,
            inner=int(row.candidate["intermediate_size"]),
            activation="silu",
            vocabulary=1,
            positions=1,
        )
        assert row.latency_ms == pytest.approx(milliseconds(own))
        assert "token_ms" not in row.extra  # a figure of a pass that nobody made
    assert {candidate["num_hidden_layers"] for candidate in protocol.asked} == {1, 3}


def test_a_constraint_on_sizes_holds(shelf: Path, tmp_path: Path) -> None:
    spec = spec_of(shelf, constraints={"max_parameters": 9000})
    rows = searched(tmp_path / "kdnas.db", spec)
    assert rows and all(row.parameters <= 9000 for row in rows)
