"""Candidates that a forecast puts first: one of each depth, then the best as results correct it."""

from __future__ import annotations

import numpy as np
import pytest

from kdnas.strategies.blocks import front_worth, rewards
from kdnas.study.hypervolume import hypervolume
from kdnas.study.spec import from_values
from kdnas.system.errors import BadOptionError
from tests.strategies.loop import SPACE, Search, measured, predicted, spec

DEPTHS = 6


def test_first_the_best_predicted_of_each_depth() -> None:
    done = Search(spec("blocks")).run(range(DEPTHS))
    assert {c["num_hidden_layers"] for c in done} == set(range(1, DEPTHS + 1))
    worth = rewards(predicted(SPACE).corrected({}, -0.1, 1.0))
    candidates = list(SPACE.candidates())
    best = candidates[int(np.argmax(worth))]
    assert done[0] == best


def test_then_the_best_of_all_as_results_have_corrected_the_forecast() -> None:
    search = Search(spec("blocks"))
    search.run(range(30))
    forecast = search.forecast()
    assert forecast is not None and int(forecast.known.sum()) == 30
    free = ~np.isin(forecast.keys, [SPACE.key(c) for c in search.done])
    wanted = int(np.argmax(np.where(free, rewards(forecast), -np.inf)))
    search.run([30])
    assert SPACE.key(search.done[-1]) == forecast.keys[wanted]
    truth = [(1 - loss) * (ms / 12) ** -0.1 for loss, ms in (measured(SPACE, c) for c in SPACE.candidates())]
    found = max((1 - loss) * (ms / 12) ** -0.1 for loss, ms in (measured(SPACE, c) for c in search.done))
    assert found >= np.sort(truth)[-3]


def test_for_the_front_each_adds_the_most_area_and_the_front_is_better_than_chance() -> None:
    forecast = predicted(SPACE).corrected({}, 0.0, 1.0)
    taken = np.zeros(len(forecast.keys), dtype=bool)
    taken[::37] = True
    worth = front_worth(forecast, taken)
    area = hypervolume(forecast.loss[taken], forecast.ratio[taken])
    for place in range(0, len(taken), 29):
        added = hypervolume(np.append(forecast.loss[taken], forecast.loss[place]),
                            np.append(forecast.ratio[taken], forecast.ratio[place])) - area  # fmt: skip
        assert worth[place] == pytest.approx(added, abs=1e-12) if added > 1e-9 else worth[place] <= 0

    def covered(strategy: str) -> float:
        found = np.array([measured(SPACE, c) for c in Search(spec(strategy)).run(range(24))])
        return hypervolume(found[:, 0], found[:, 1] / 20)

    assert covered("blocks-two") > covered("random")


# ---------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    "parts",
    [
        {"recipe": {"name": "hidden-state", "init": "inherit"}},
        {"recipe": {"name": "causal-divergence", "init": "inherit"}, "budget": {"epochs": 1}},
        {"recipe": {"name": "sentence-embedding"}},
        {"recipe": {"name": "lora"}},
        {"space": {"variants": {"a": {"recipe": {"cut": "every-kth"}}}}},
    ],
    ids=["sliced", "sliced decoders", "sentence encoders", "lora", "variants"],
)
def test_students_without_a_library_are_refused_with_what_to_do(parts: dict[str, object]) -> None:
    with pytest.raises(BadOptionError, match=r"blocks predicts students of the recipe hidden-state or of causal"):
        from_values({"strategy": {"name": "blocks"}, **parts})


@pytest.mark.parametrize("recipe", ["hidden-state", "causal-divergence", "causal-policy-gradient"])
def test_a_loss_that_is_not_predicted_is_refused(recipe: str) -> None:
    assert from_values({"strategy": {"name": "blocks"}, "recipe": {"name": recipe}}).strategy.predicts()
    with pytest.raises(BadOptionError, match=r"predicts the normalised loss, and reward\.loss is raw"):
        from_values({"strategy": {"name": "blocks"}, "recipe": {"name": recipe}, "reward": {"loss": "raw"}})
