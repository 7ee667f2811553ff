"""Rungs: who goes on is one rule, and a search that has them gives each candidate what it earned."""

from __future__ import annotations

import sqlite3
from collections import Counter
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
import torch

from kdnas.cli.tables import trial_table
from kdnas.recipes.contract import Workbench
from kdnas.reports.report import as_markdown, gather
from kdnas.search.begin import begin
from kdnas.search.recheck import recheck
from kdnas.search.rungs import Reached, ends, expected_epochs, goes_on
from kdnas.search.worker import run_worker
from kdnas.store import queries
from kdnas.store.database import open_store
from kdnas.store.optuna_storage import optuna_storage
from kdnas.store.read_columns import read_board, sketch_board
from kdnas.students.finalize import choose
from kdnas.study.ranked_rows import rank
from kdnas.study.ranking import Scored
from kdnas.study.reward import reward
from kdnas.study.rows import TrialRow
from kdnas.study.spec import BudgetSpec, StudySpec
from kdnas.study.spec_flags import command
from kdnas.system.errors import BadOptionError, UsageError
from kdnas.system.progress import Progress
from tests import fakes

FITTED = {"name": "hidden-state", "init": "fitted"}
SHARES, TRIALS = (0.7, 0.4), 12


def budget(**given: Any) -> BudgetSpec:
    return BudgetSpec.model_validate(given)


def spec(**more: Any) -> StudySpec:
    parts: dict[str, Any] = {
        "recipe": FITTED,
        "space": {"choices": {"num_hidden_layers": [2, 4]}},
        "budget": {"trials": TRIALS, "epochs": 4, "rungs": list(SHARES)},
        **more,
    }
    return fakes.spec(**parts)


def searched(path: Path, wanted: StudySpec, prepare: Any = fakes.prepare) -> list[TrialRow]:
    begin(wanted, path)
    assert run_worker(str(path), wanted.name, prepare=prepare, measure=fakes.measure) == 0
    with open_store(path) as store:
        return queries.trial_rows(store, 1)


# ---------------------------------------------------------------- the rule


def test_rungs_divide_the_epochs_evenly_and_begin_before_the_first() -> None:
    assert ends(budget(epochs=4, rungs=[0.5, 0.5])) == (0, 2, 4)
    assert ends(budget(epochs=3, rungs=[0.5, 0.5])) == (0, 2, 3)
    assert ends(budget(epochs=5, rungs=[0.3])) == (0, 5)
    assert expected_epochs(budget(epochs=4, rungs=[0.5, 0.25])) == 0.5 * 2 + 0.5 * 0.25 * 2
    assert expected_epochs(budget(epochs=4)) == 4


@pytest.mark.parametrize("share", [0.1, 0.3, 0.5, 1.0])
def test_of_candidates_that_come_in_turn_the_best_share_so_far_goes_on(share: float) -> None:
    rewards = np.random.default_rng(0).permutation(30) / 30
    for count in range(30):
        own, before = float(rewards[count]), rewards[:count]
        place = int((before > own).sum())  # 0: the best
        allowed = -int(-round(share * (count + 1), 9) // 1)
        others = [Reached(float(r), 0.0, 0.0) for r in before]
        assert goes_on(Reached(own, 0.0, 0.0), others, share) == (place < allowed)


def test_the_first_goes_on_and_equal_ones_do_not_shut_each_other_out() -> None:
    one = Reached(0.5, 0.5, 1.0)
    assert goes_on(one, [], 0.01)
    assert goes_on(one, [one] * 9, 0.01)
    assert not goes_on(one, [Reached(0.6, 0.4, 1.0)], 0.5)


def test_without_a_reward_those_that_few_dominate_go_on() -> None:
    others = [Reached(None, 0.5, 2.0), Reached(None, 0.7, 1.0), Reached(None, 0.4, 4.0)]
    assert goes_on(Reached(None, 0.6, 1.5), others, 0.25)  # between two of them: on the front
    assert not goes_on(Reached(None, 0.8, 2.5), others, 0.25)
    assert not goes_on(Reached(None, 0.7, 1.5), others, 0.25)  # one is as good in loss, and faster


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"budget": {"epochs": 2, "rungs": [1.5]}}, "rungs are shares of more than 0 and at most 1"),
        ({"budget": {"epochs": 2, "rungs": [0.0]}}, "rungs are shares of more than 0 and at most 1"),
        ({"budget": {"epochs": 1, "rungs": [0.5, 0.5]}}, "2 rungs need as many epochs, and epochs is 1"),
        ({"budget": {"epochs": 4, "rungs": [0.5], "pruner": "asha"}}, "set pruner to none (it is asha)"),
        (
            {"recipe": {"name": "causal-divergence", "init": "inherit"}},
            "those of this recipe begin with nothing to score",
        ),
        ({"recipe": {"name": "hidden-state", "init": "random"}}, "init fitted or inherit"),
    ],
)
def test_rungs_that_cannot_be_are_refused(given: dict[str, Any], words: str) -> None:
    with pytest.raises(BadOptionError) as caught:
        spec(**given)
    assert words in str(caught.value)


def test_a_study_with_rungs_is_one_command() -> None:
    assert "'budget.rungs=[0.7, 0.4]'" in command(spec())
    assert "rungs" not in command(fakes.spec())


# ---------------------------------------------------------------- a search


@dataclass(frozen=True)
class Climbed:
    """A finished search, and the candidates whose trainings were begun."""

    path: Path
    rows: list[TrialRow]
    began: list[str]


@pytest.fixture(scope="module")
def climbed(tmp_path_factory: pytest.TempPathFactory) -> Climbed:
    began: list[str] = []

    class Counting(fakes.FakeBench):
        def training(self, student: Any, *, epochs: int, seed: int, full: bool = False) -> Any:
            began.append(self.space.key(self.candidate))
            return super().training(student, epochs=epochs, seed=seed, full=full)

    def prepare(wanted: StudySpec, device: torch.device, on_progress: Progress) -> Workbench:
        return Counting(wanted)

    path = tmp_path_factory.mktemp("rungs") / "kdnas.db"
    return Climbed(path, searched(path, spec(), prepare), began)


def test_each_candidate_stays_on_the_rung_that_it_earned_among_those_of_its_depth(climbed: Climbed) -> None:
    rows = climbed.rows
    assert len(rows) == TRIALS and {row.state for row in rows} == {"done"}
    before: dict[int, list[tuple[float, int]]] = {}
    for row in sorted(rows, key=lambda row: row.slot):
        rung = int(row.extra["rung"])
        assert (row.epoch, row.epochs) == ((0, 2, 4)[rung], 4)
        assert row.extra["loss_as_built"] == fakes.loss(row.candidate, 0)
        assert row.loss == fakes.loss(row.candidate, row.epoch)
        at = [reward(fakes.loss(row.candidate, e), fakes.latency_ms(row.candidate), 10.0, -0.06, 0.6) for e in (0, 2)]
        depth = row.candidate["num_hidden_layers"]
        reached = 0
        for place in (0, 1):
            others = [theirs[place] for theirs, their in before.get(depth, []) if their >= place]
            if sum(other > at[place] for other in others) >= ceil(SHARES[place] * (len(others) + 1) - 1e-9):
                break
            reached += 1
        assert rung == reached
        before.setdefault(depth, []).append((at, rung))  # type: ignore[arg-type]
    assert {int(row.extra["rung"]) for row in rows} == {0, 1, 2}


def test_what_optunas_tools_and_a_list_of_trials_show(climbed: Climbed, capsys: pytest.CaptureFixture[str]) -> None:
    with open_store(climbed.path) as store:
        study = optuna.load_study(study_name="fake", storage=optuna_storage(store))
        rungs = {trial.number: trial.user_attrs["rung"] for trial in study.trials}
    assert rungs == {row.number: int(row.extra["rung"]) for row in climbed.rows}
    trial_table(rank(climbed.rows, -0.06, 0.6, "normalised"))
    told = capsys.readouterr().out
    assert all(f"done, rung {rung}" in told for rung in (0, 1, 2))


def test_best_sketch_and_the_candidate_to_finalize_are_of_the_highest_rung(climbed: Climbed) -> None:
    scored = rank(climbed.rows, -0.06, 0.6, "normalised")
    highest = [row for row in climbed.rows if row.rung == 2]
    first = max(highest, key=lambda row: row.reward or 0)
    assert scored[0].number == first.number and sum(s.rank is not None for s in scored) == len(highest) < TRIALS
    with open_store(climbed.path) as store:
        found = queries.study_row(store, "fake")
        sketch, whole = (read(store, 1, -0.06, 0.6) for read in (sketch_board, read_board))
        assert choose(store, "fake").trial == first.number
        with pytest.raises(UsageError) as caught:
            choose(store, "fake", only="rung=0")
    assert (found.best_number, found.best_reward) == (first.number, first.reward)
    assert sketch.standing.rank.tolist() == whole.standing.rank.tolist() == [s.rank or 0 for s in by_number(scored)]
    assert "stayed on lower rungs" in str(caught.value) and "--trial" in str(caught.value)


def by_number(scored: list[Scored]) -> list[Scored]:
    return sorted(scored, key=lambda s: s.number)


def test_a_report_says_how_far_candidates_were_taken(climbed: Climbed, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="the extra report is not installed")
    searched(tmp_path / "built.db", spec(budget={"trials": 4, "epochs": 0}))
    told = []
    for path in (climbed.path, tmp_path / "built.db"):
        with open_store(path) as store:
            told.append(as_markdown(gather(store, "fake"), "pictures"))
    assert "as built, then up to 4 epochs on 30% of the training data in 2 part(s)" in told[0]
    counts = Counter(row.rung for row in climbed.rows)
    assert f"{counts[0]} on rung 0 (as built), {counts[1]} on rung 1 (after 2 epochs)" in told[0]
    assert "ranks, front and best are of rung 2 alone" in told[0]
    assert "no training: candidates as they are built" in told[1] and "0 epochs" not in told[1]


def test_a_training_is_one_and_never_begun_again(climbed: Climbed) -> None:
    assert len(climbed.began) == len(set(climbed.began)) == len(climbed.rows)


def test_stopped_between_rungs_and_taken_up_it_gives_the_same_rungs(tmp_path: Path) -> None:
    budget = {"trials": 7, "epochs": 2, "rungs": list(SHARES)}
    wanted = spec(strategy={"name": "tpe", "startup": 4}, budget=budget)
    whole = searched(tmp_path / "whole.db", wanted)
    steps = 0

    class Stopping(fakes.FakeBench):
        def wait(self) -> None:
            nonlocal steps
            steps += 1
            if steps in (4, 9, 17):  # the 4th: after a rung that ended with the 3rd
                raise KeyboardInterrupt

    def prepare(given: StudySpec, device: torch.device, on_progress: Progress) -> Workbench:
        return Stopping(given)

    path = tmp_path / "cut.db"
    begin(wanted, path)
    codes = []
    while not codes or codes[-1]:
        codes.append(run_worker(str(path), wanted.name, prepare=prepare, measure=fakes.measure))
    assert codes == [130, 130, 130, 0]
    with open_store(path) as store:
        rows = [row for row in queries.trial_rows(store, 1) if row.state == "done"]
    told = [[(r.slot, r.candidate, r.epoch, r.extra, r.loss, r.reward) for r in sorted(found, key=lambda r: r.slot)]
            for found in (whole, rows)]  # fmt: skip
    assert told[0] == told[1]


def test_a_leader_is_evaluated_again_for_as_long_as_it_was(climbed: Climbed, tmp_path: Path) -> None:
    half, whole = tmp_path / "half.db", tmp_path / "whole.db"
    for path in (half, whole):
        with sqlite3.connect(climbed.path) as theirs, sqlite3.connect(path) as ours:
            theirs.backup(ours)
    with sqlite3.connect(half) as store:  # as it was before any trial reached the last rung
        store.execute("DELETE FROM kdnas_trial WHERE epoch = 4")
    for path, epochs in ((half, 2), (whole, 4)):
        scored = recheck(str(path), "fake", top=TRIALS, seeds=1, device=None, say=lambda line: None,
                         prepare=fakes.prepare, measure=fakes.measure)  # fmt: skip
        assert {s.row.epoch for s in scored} == {epochs}
        assert all(s.row.repeats == 1 and s.row.mean_loss == s.row.loss for s in scored)


def test_a_search_without_epochs_scores_all_as_built(tmp_path: Path) -> None:
    rows = searched(tmp_path / "a.db", spec(budget={"trials": 4, "epochs": 0}))
    for row in rows:
        assert (row.state, row.epoch, row.epochs, row.loss) == ("done", 0, 0, fakes.loss(row.candidate, 0))
        assert "rung" not in row.extra
    with open_store(tmp_path / "a.db") as store:
        assert queries.curves(store, 1, [row.number for row in rows]) == {row.number: [] for row in rows}


def test_two_objectives_have_rungs_too(tmp_path: Path) -> None:
    nsga = {"name": "nsga2", "population": 4}
    rows = searched(tmp_path / "a.db", spec(strategy=nsga, budget={"trials": TRIALS, "epochs": 1, "rungs": [0.1]}))
    assert len(rows) == TRIALS and {int(row.extra["rung"]) for row in rows} == {0, 1}
