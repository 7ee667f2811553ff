"""Layers' sizes solved for loss and latency at once: nothing better is left out, and a search begins with them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from kdnas.models.encoder_sizes import LayerSizes, Sizes
from kdnas.recipes import layer_solver, recipe
from kdnas.recipes.hidden_state import HiddenStateBench
from kdnas.recipes.spaces.encoder import sizes_of
from kdnas.search import forecasts
from kdnas.search.begin import begin
from kdnas.search.layer_latency import layer_times
from kdnas.search.worker import run_worker
from kdnas.store import queries
from kdnas.store.database import open_store
from kdnas.study.space import Candidate
from kdnas.study.spec import StudySpec
from tests import fakes
from tests.encoders import text_folder, tiny_encoder, tiny_spec

CHOICES = {"num_hidden_layers": [1, 2, 3], "hidden_size": [16, 24], "head_size": [8], "hidden_act": ["gelu", "relu"]}
SIZES = {"num_attention_heads": [1, 3], "intermediate_size": [8, 24, 64]}


def quiet(words: str, share: float | None) -> None:
    return None


def test_every_student_is_on_the_front_or_no_better_than_one_that_is() -> None:
    rng = np.random.default_rng(0)
    costs, times = [rng.random(5) for _ in range(4)], [rng.random(5) for _ in range(4)]
    found = layer_solver.front(costs, times)
    grid = np.stack(np.meshgrid(*[np.arange(5)] * 4, indexing="ij"), -1).reshape(-1, 4)
    whole_cost = sum(costs[layer][grid[:, layer]] for layer in range(4))
    whole_time = sum(times[layer][grid[:, layer]] for layer in range(4))
    for cost, time in zip(whole_cost, whole_time, strict=True):
        assert ((found.cost <= cost + 1e-12) & (found.time <= time + 1e-12)).any()
    assert (np.diff(found.time) > 0).all() and (np.diff(found.cost) < 0).all()
    for cost, time, chosen in zip(found.cost, found.time, found.chosen, strict=True):
        assert cost == pytest.approx(sum(costs[layer][option] for layer, option in enumerate(chosen)))
        assert time == pytest.approx(sum(times[layer][option] for layer, option in enumerate(chosen)))


def test_a_thinned_front_keeps_its_ends_and_so_many() -> None:
    time = np.linspace(1, 2, 5000)
    places = layer_solver.thinned(-time, time, 100)
    assert len(places) in (100, 101) and places[0] == 0 and places[-1] == 4999
    assert layer_solver.thinned(np.array([2.0, 1.0, 1.0]), np.array([1.0, 2.0, 2.0]), 10).tolist() == [0, 1]


# ------------------------------------------------------------------------------------------------- on a bench


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("proposals")
    tiny_encoder(folder / "model")
    text_folder(folder / "text")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KDNAS_CACHE", str(folder / "cache"))
        patch.setenv("KDNAS_STATE", str(folder / "state"))
        yield folder


def spec_of(places: Path, per_layer: bool = True, **parts: Any) -> StudySpec:
    choices = CHOICES | (SIZES if per_layer else {"intermediate_size": [8, 24, 64]})
    space = {"per_layer": per_layer, "choices": choices}
    budget = {"epochs": 0, "trials": 8}
    return tiny_spec(places / "model", places / "text", **{"space": space, "budget": budget, **parts})


@pytest.fixture(scope="module")
def benches(places: Path) -> Iterator[tuple[HiddenStateBench, HiddenStateBench]]:
    made = []
    for per_layer in (True, False):
        bench = recipe("hidden-state").prepare(spec_of(places, per_layer), torch.device("cpu"), quiet)
        assert isinstance(bench, HiddenStateBench)
        made.append(bench)
    yield made[0], made[1]
    for bench in made:
        bench.close()


def ms(sizes: Sizes) -> float:
    """A made-up pass whose parts add up: heads and neurons by lines, relu a little more, in each layer and neuron."""
    layers = [sizes.layer(i) for i in range(sizes.layers)]
    fixed, each = (0.02, 0.001) if sizes.act == "relu" else (0.0, 0.0)
    return 0.5 + sizes.width / 100 + sum(0.1 + fixed + 0.05 * one.heads + (0.01 + each) * one.inner for one in layers)


def timed(bench: Any, student: Any, candidate: Candidate) -> fakes.FakeTimed:
    time = ms(sizes_of(candidate))
    return fakes.FakeTimed(time, time, time, time)


def test_layers_that_were_not_measured_lie_between_those_that_were(benches: Any) -> None:
    asked = []

    def counted(bench: Any, student: Any, candidate: Candidate) -> fakes.FakeTimed:
        asked.append(candidate)
        return timed(bench, student, candidate)

    times = layer_times(benches[0], counted, quiet)
    assert len(asked) < 20
    for each in ([(1, 8)], [(3, 64), (1, 24), (2, 40)], [(3, 24), (3, 24)]):
        for act in ("gelu", "relu"):
            sizes = Sizes.of_layers(24, 8, act, [LayerSizes(*one) for one in each])
            assert times.whole(sizes) == pytest.approx(ms(sizes) / 10.0, rel=1e-6)


def test_the_forecast_holds_the_best_of_each_depth_and_agrees_with_that_of_equal_layers(benches: Any) -> None:
    bench, plain = benches
    forecast = forecasts.of_bench(bench, timed, quiet)
    told = {key: (loss, ratio) for key, loss, ratio in zip(forecast.keys, forecast.loss, forecast.ratio, strict=True)}
    assert set(forecast.groups) == {"1 layers", "2 layers", "3 layers"} and len(told) == len(forecast.keys)
    equal = list(plain.space.candidates())
    losses = plain.predicted(quiet)
    same = 0
    for candidate, loss in zip(equal, losses, strict=True):
        sizes = sizes_of(candidate)
        if sizes.heads not in (1, 3):
            continue
        group = f"{sizes.layers} layers"
        own = [told[key] for key, name in zip(forecast.keys, forecast.groups, strict=True) if name == group]
        # None of equal layers is better than the front of those that may differ.
        assert any(one <= loss + 1e-9 and ratio <= ms(sizes) / 10 + 1e-9 for one, ratio in own)
        for key in forecast.keys:
            if sizes_of(bench.space.from_ordinal(int(key))) == sizes:
                assert told[key][0] == pytest.approx(loss) and told[key][1] == pytest.approx(ms(sizes) / 10)
                same += 1
    assert same > 0


def test_a_search_proposes_from_the_forecast_and_goes_on_without_it(places: Path, tmp_path: Path) -> None:
    few = {**CHOICES, **SIZES, "hidden_size": [16], "hidden_act": ["gelu"], "intermediate_size": [8, 64]}
    space = {"per_layer": True, "choices": {**few, "num_hidden_layers": [1, 2]}}
    budget = {"epochs": 0, "trials": 20}
    spec = spec_of(places, strategy={"name": "blocks"}, space=space, budget=budget)
    path = tmp_path / "kdnas.db"
    begin(spec, path)
    assert run_worker(str(path), spec.name, measure=timed) == 0
    with open_store(path) as store:
        rows = sorted(queries.trial_rows(store, 1), key=lambda row: row.number)
    assert [row.state for row in rows] == ["done"] * 20 and len({str(row.candidate) for row in rows}) == 20
    assert {row.candidate["num_hidden_layers"] for row in rows[:2]} == {1, 2}
