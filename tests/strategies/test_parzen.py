"""TPE by tables proposes what Optuna's own sampler proposes, and draws again without building anything anew."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.samplers import TPESampler
from optuna.trial import FrozenTrial, TrialState, create_trial

from kdnas.strategies import distributions, parameters
from kdnas.strategies.parzen import FiniteTPESampler
from kdnas.system.seeds import Purpose, generator
from tests.strategies.loop import CONDITIONAL, SPACE

ASKED = {name: one for name, one in sorted(distributions(SPACE).items()) if not one.single()}


def a_trial(rng: np.random.Generator, two: bool, constrained: bool) -> FrozenTrial:
    """Complete, pruned or running, of a candidate drawn at random."""
    candidate = SPACE.from_ordinal(int(rng.integers(SPACE.size)))
    given: dict[str, Any] = {"params": parameters(SPACE, candidate), "distributions": distributions(SPACE)}
    value, kind = round(float(rng.random()), 1), float(rng.random())  # values that are equal, too
    if kind < 0.2 and not two:
        return create_trial(state=TrialState.PRUNED, intermediate_values={int(kind * 20): value}, **given)
    if kind < 0.3:
        return create_trial(state=TrialState.RUNNING, **given)
    missed = {"constraints:size": float(rng.random() - 0.6)} if constrained else {}
    return create_trial(values=[value, float(rng.random())] if two else [value], system_attrs=missed, **given)


def proposals(sampler: TPESampler, study: optuna.Study, trial: FrozenTrial) -> list[list[tuple[str, Any]]]:
    return [list(sampler.sample_relative(study, trial, dict(ASKED)).items()) for _ in range(5)]


@pytest.mark.parametrize(
    "directions", [["maximize"], ["minimize"], ["minimize", "minimize"]], ids=["up", "down", "two"]
)
@pytest.mark.parametrize("constrained", [False, True], ids=["free", "constrained"])
def test_it_proposes_otherwise_than_optuna(directions: list[Any], constrained: bool) -> None:
    rng = generator(3, Purpose.PROPOSAL, len(directions))
    study = optuna.create_study(directions=directions)
    kept: dict[int, Any] = {}
    options = {"n_startup_trials": 4, "n_ei_candidates": 12, "multivariate": True, "constant_liar": True}
    for seed in range(24):
        for _ in range(1 + seed // 3):  # the history grows, and is known from the slots before
            study.add_trial(a_trial(rng, len(directions) > 1, constrained))
        running = study.ask()._cached_frozen_trial
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            theirs = proposals(TPESampler(seed=seed, **options), study, running)  # type: ignore[arg-type]
            ours = proposals(FiniteTPESampler(kept, seed=seed, **options), study, running)
        assert ours == theirs
        study.tell(running.number, state=TrialState.FAIL)
    assert len(kept) > 40  # and running trials are not among them
    assert not {t.number for t in study.get_trials(states=(TrialState.RUNNING,))} & kept.keys()


def test_a_trial_of_another_reward_is_known_by_its_old_one() -> None:
    study = optuna.create_study(direction="maximize")
    rng = generator(3, Purpose.PROPOSAL)
    kept: dict[int, Any] = {}
    trials = [create_trial(value=float(n), **_parts(rng)) for n in range(30)]
    for sign in (1.0, -1.0):
        study = optuna.create_study(direction="maximize")
        for trial in trials:
            study.add_trial(create_trial(value=sign * trial.values[0], params=trial.params, **_only(trial)))
        running = study.ask()._cached_frozen_trial
        ours = proposals(FiniteTPESampler(kept, seed=1, multivariate=True), study, running)
        assert ours == proposals(FiniteTPESampler({}, seed=1, multivariate=True), study, running)


def _parts(rng: np.random.Generator) -> dict[str, Any]:
    candidate = SPACE.from_ordinal(int(rng.integers(SPACE.size)))
    return {"params": parameters(SPACE, candidate), "distributions": distributions(SPACE)}


def _only(trial: FrozenTrial) -> dict[str, Any]:
    return {"distributions": trial.distributions}


def test_estimators_are_built_once_for_a_trial(monkeypatch: pytest.MonkeyPatch) -> None:
    from kdnas.strategies import parzen

    built: list[int] = []

    class Counted(parzen._ParzenEstimator):
        def __init__(self, *given: Any) -> None:
            built.append(1)
            super().__init__(*given)

    monkeypatch.setattr(parzen, "_ParzenEstimator", Counted)
    rng = generator(3, Purpose.PROPOSAL)
    study = optuna.create_study(direction="maximize")
    for n in range(12):
        study.add_trial(create_trial(value=float(n), **_parts(rng)))
    sampler = FiniteTPESampler({}, seed=1, multivariate=True)
    for expected in (2, 4):
        proposals(sampler, study, study.ask()._cached_frozen_trial)
        assert len(built) == expected


def test_a_space_with_dimensions_that_are_folded() -> None:
    """Categories, conditions and dimensions of one choice."""
    asked = {name: one for name, one in sorted(distributions(CONDITIONAL).items()) if not one.single()}
    rng = generator(3, Purpose.PROPOSAL)
    study = optuna.create_study(direction="maximize")
    for n in range(20):
        candidate = CONDITIONAL.from_ordinal(int(rng.integers(CONDITIONAL.size)))
        given = {"params": parameters(CONDITIONAL, candidate), "distributions": distributions(CONDITIONAL)}
        study.add_trial(create_trial(value=float(n % 7), **given))  # type: ignore[arg-type]
    running = study.ask()._cached_frozen_trial
    for seed in range(5):
        theirs = TPESampler(seed=seed, multivariate=True).sample_relative(study, running, dict(asked))
        ours = FiniteTPESampler({}, seed=seed, multivariate=True).sample_relative(study, running, dict(asked))
        assert ours == theirs
