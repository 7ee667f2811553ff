"""A study that asks for it ends once nothing is left to gain; one that does not goes on, and is told so."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from kdnas.search.begin import begin
from kdnas.search.worker import run_worker
from kdnas.store import advising, queries
from kdnas.store.advising import MOST, Remarks, advised, remarks
from kdnas.store.database import open_reader
from kdnas.study.advice import Advice, advice
from kdnas.study.front_gains import front_gains
from kdnas.study.ranked_rows import rank, rank_of
from kdnas.study.rows import Status, StudyRow
from kdnas.study.spec import from_values
from kdnas.system.errors import UsageError
from tests import fakes


def ran(path: Path, trials: int, **budget: object) -> tuple[StudyRow, Advice | None, list[float]]:
    spec = fakes.spec(strategy={"name": "auto"}, budget={"trials": trials, "epochs": 0, **budget}, recipe=FITTED)
    begin(spec, path)
    assert run_worker(str(path), spec.name, prepare=fakes.prepare, measure=fakes.measure) == 0
    with open_reader(path) as store:
        row = queries.study_row(store, spec.name)
        rewards = [t.reward for t in queries.trial_rows(store, row.study_id) if t.reward is not None]
        return row, advised(store, row), rewards


FITTED = {"name": "hidden-state", "init": "fitted"}


def test_it_ends_early_only_where_that_was_asked_for(tmp_path: Path) -> None:
    row, told, rewards = ran(tmp_path / "asked.db", 120, stop_when_done=True)
    assert row.status is Status.FINISHED and 8 <= row.done < 60
    assert row.ending is not None and row.ending.endswith("Going on is hardly worth it.")
    going_on, after, more = ran(tmp_path / "not.db", row.done + 12)
    assert going_on.done == row.done + 12 and after is not None and after.done
    assert more[: row.done] == rewards and max(more) <= max(rewards) * 1.01
    assert told is not None and told.gain < 0.001 * told.best


def test_the_words_say_gain_and_number() -> None:
    assert str(Advice(0.0021, 20, 0.8)) == "The next 20 trials are expected to gain 0.002 (best 0.8000)."
    assert str(Advice(0.00001, 1, 0.8)) == (
        "The next trial is expected to gain less than 0.0001 (best 0.8000). Going on is hardly worth it."
    )
    assert str(Advice(0.0, 0, 0.8)) == "Every candidate of the space has been evaluated."


def test_nothing_is_said_of_a_few_trials_and_much_is_left_where_rewards_rise() -> None:
    every = list(fakes.SPACE.candidates())
    some = every[:60:4]
    rising = [(c, 0.1 * float(c["num_hidden_layers"]) + 1e-4 * float(c["intermediate_size"])) for c in some]  # type: ignore[arg-type]
    assert advice(fakes.SPACE, rising[:7], some[:7]) is None
    told = advice(fakes.SPACE, rising, some)
    assert told is not None and not told.done and told.trials == 20
    most = [(c, 1.0) for c in every]
    whole = advice(fakes.SPACE, most, every)
    assert whole is not None and whole.trials == 0


def test_the_front_names_the_points_that_are_new(tmp_path: Path) -> None:
    ran(tmp_path / "kdnas.db", 16)
    with open_reader(tmp_path / "kdnas.db") as store:
        row = queries.study_row(store, "fake")
        scored = rank(queries.trial_rows(store, row.study_id), row.alpha, row.beta)
    gained, whole = front_gains(scored, 11), {s.number for s in scored if s.front}
    assert gained is not None and set(gained.numbers) == {n for n in whole if n >= 5} and gained.now >= gained.before
    assert str(gained).startswith("The front has gained #")
    assert front_gains(scored, 16) is None


def test_a_search_for_the_front_has_no_reward_to_stop_by() -> None:
    with pytest.raises(UsageError, match="stop_when_done goes by the reward"):
        from_values({"strategy": {"name": "auto", "two_objectives": True}, "budget": {"stop_when_done": True}})


def test_under_constraints_the_advice_is_of_what_keeps_them(tmp_path: Path) -> None:
    spec = {"constraints": {"min_speedup": 3}, "budget": {"stop_when_done": True}}
    assert from_values(spec).budget.stop_when_done
    plain = ran(tmp_path / "plain.db", 30)[1]
    assert plain is not None
    with open_reader(tmp_path / "plain.db") as store:
        row = queries.study_row(store, "fake")
        trials = rank(queries.trial_rows(store, row.study_id), row.alpha, row.beta)
        fastest = max(s.speedup or 0.0 for s in trials)

        def told(least: float) -> Advice | None:
            return advised(store, replace(row, spec={**row.spec, "constraints": {"min_speedup": least}}))

        some, none = told(0.9 * fastest), told(1.1 * fastest)
        assert none is None  # no trial keeps it
        kept = [s.reward or 0.0 for s in trials if (s.speedup or 0.0) >= 0.9 * fastest]
        assert some is not None and some.best == max(kept) < plain.best
        everything = told(1e-3)
        assert everything is not None and everything.best == plain.best


def test_no_advice_of_a_front_or_of_a_trial_outside_the_space(tmp_path: Path) -> None:
    assert ran(tmp_path / "plain.db", 12)[1] is not None
    with open_reader(tmp_path / "plain.db") as store:
        row = queries.study_row(store, "fake")
        of_the_front = replace(row, spec={**row.spec, "strategy": {"name": "gp", "two_objectives": True}})
        assert advised(store, of_the_front) is None
        trials = rank(queries.trial_rows(store, row.study_id), row.alpha, row.beta)
        outside = replace(trials[0].row, candidate={**trials[0].row.candidate, "num_hidden_layers": 99})
        assert advised(store, row, trials) is not None
        assert advised(store, row, [*trials[1:], trials[0]._replace(row=outside)]) is None


def test_what_auto_takes_is_told_with_the_advice_and_of_no_other_strategy(tmp_path: Path) -> None:
    ran(tmp_path / "plain.db", 12)
    with open_reader(tmp_path / "plain.db") as store:
        row = queries.study_row(store, "fake")
        told = remarks(store, row)
        assert told.strategy is not None and told.strategy.startswith("Strategy auto takes surrogate: the reward is")
        assert told.advice == advised(store, row) is not None
        assert remarks(store, replace(row, done=MOST + 1)) == Remarks(told.strategy, None)
        tpe = {**row.spec, "strategy": {"name": "tpe"}}
        assert remarks(store, replace(row, spec=tpe)) == Remarks()
        ending = replace(row, spec={**tpe, "budget": {**row.spec["budget"], "stop_when_done": True}})
        assert remarks(store, ending) == Remarks(None, told.advice)


def test_a_search_ends_once_no_candidate_left_is_likely_to_keep_the_constraints(tmp_path: Path) -> None:
    """Three candidates of 360 keep both bounds, and the model knows well that no other one does."""
    spec = fakes.spec(
        strategy={"name": "auto"},
        budget={"trials": 120, "epochs": 0, "stop_when_done": True},
        recipe=FITTED,
        constraints={"min_speedup": 17.0, "max_loss": 0.715},
    )
    begin(spec, tmp_path / "kdnas.db")
    assert run_worker(str(tmp_path / "kdnas.db"), spec.name, prepare=fakes.prepare, measure=fakes.measure) == 0
    with open_reader(tmp_path / "kdnas.db") as store:
        row = queries.study_row(store, spec.name)
        kept = sum(s.miss == 0 for s in rank_of(row, queries.trial_rows(store, row.study_id)))
        told = str(remarks(store, row).advice)
    assert row.status is Status.FINISHED and 20 <= row.done < 60 and kept == 3
    assert row.ending is not None and row.ending == told
    assert row.ending.startswith("No candidate left is likely feasible (")
    assert row.ending.endswith("Going on is hardly worth it.")


def test_a_search_of_many_trials_asks_for_advice_that_takes_gigabytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(advising, "MOST", 19)  # the first advice is of twenty
    row, _, _ = ran(tmp_path / "kdnas.db", 60, stop_when_done=True)
    assert row.done == 60
