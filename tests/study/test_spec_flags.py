"""A spec written as a command line is the same spec when that line is read."""

from __future__ import annotations

import shlex
from typing import Any

import pytest

from kdnas.cli.control import rescore
from kdnas.cli.search import search
from kdnas.cli.spec_options import base_values, given_fields, spec_from
from kdnas.study.spec import StudySpec, from_values
from kdnas.study.spec_flags import assigned, command, overlay
from kdnas.system.errors import UsageError

SPECS: list[dict[str, Any]] = [
    {},
    {"name": "a.b-c", "seed": 7, "device": "cuda:1", "reward": {"alpha": -0.3, "beta": 0.25, "loss": "raw"}},
    {"teacher": {"model": "a folder/with 'quotes'", "revision": "main"}},
    {"data": {"source": "x.csv", "text_column": "true"}},
    {"space": {"preset": "kd-nas", "choices": {"num_hidden_layers": [3, 4], "hidden_act": ["gelu"]}}},
    {"strategy": {"name": "lstm", "episodes": 4, "samples": 6}},
    {"strategy": {"name": "lstm", "episodes": 4}, "budget": {"trials": 100}},
    {"strategy": {"name": "lstm", "controller": "paper"}},
    {"strategy": {"name": "lstm", "controller": "paper", "pool": 50}, "budget": {"trials": 9}},
    {"strategy": {"name": "nsga2", "population": 5}, "budget": {"epochs": 1, "proxy_fraction": 0.123}},
    {"strategy": {"name": "tpe", "two_objectives": True}, "latency": {"threads": 2, "max_seconds": 1e-3}},
    {"recipe": {"name": "causal-divergence", "divergence": "js"}, "data": {"label_column": "3", "config": "1e3"}},
]


def read_back(line: str) -> StudySpec:
    words = shlex.split(line)
    assert words[:2] == ["kdnas", "search"]
    context = search.make_context("search", words[2:])
    given = dict(context.params)
    base = base_values(given.pop("study"), given.pop("spec_file"), given.pop("preset"))
    return spec_from(base, given_fields(given))


@pytest.mark.parametrize("values", SPECS, ids=lambda v: str(v)[:60])
def test_the_command_line_of_a_spec_reads_back_as_the_spec(values: dict[str, Any]) -> None:
    spec = from_values(values)
    assert read_back(command(spec)) == spec


def test_only_what_differs_from_the_defaults_is_written() -> None:
    assert command(StudySpec(name="plain")) == "kdnas search plain"
    assert command(from_values({"name": "x", "budget": {"trials": 12}})) == "kdnas search x --trials 12"


def test_another_strategy_starts_from_its_own_defaults() -> None:
    base = {"strategy": {"name": "tpe", "startup": 3}}
    assert overlay(base, [("strategy.samples", 3), ("strategy.name", "lstm")])["strategy"] == {
        "name": "lstm",
        "samples": 3,
    }
    assert overlay(base, [("strategy.startup", 5)])["strategy"] == {"name": "tpe", "startup": 5}
    assert base == {"strategy": {"name": "tpe", "startup": 3}}


def test_values_are_read_as_toml_and_else_as_text() -> None:
    assert assigned("a.b=3") == ("a.b", 3)
    assert assigned("a=[1, 2]") == ("a", [1, 2])
    assert assigned("a=gelu") == ("a", "gelu")
    assert assigned("a=x=y") == ("a", "x=y")
    assert assigned("a=") == ("a", None)
    assert assigned('a=""') == ("a", "")
    assert assigned("a=1\nb = 2") == ("a", "1\nb = 2")
    with pytest.raises(UsageError, match="field=value"):
        assigned("nothing")


@pytest.mark.parametrize(("typed", "read"), [("−0.06", -0.06), ("-0.06", -0.06), ("−2", -2), ("−.5", "-.5")])
def test_a_real_minus_sign_is_one(typed: str, read: object) -> None:
    assert assigned(f"reward.alpha={typed}") == ("reward.alpha", read)
    assert from_values(overlay({}, [assigned(f"reward.alpha={typed}")])).reward.alpha == float(read)  # type: ignore[arg-type]
    assert assigned("study.note=a − b")[1] == "a − b"
    context = search.make_context("search", ["tiny", "--alpha", typed])
    assert float(given_fields(dict(context.params))["reward.alpha"]) == float(read)  # type: ignore[arg-type]
    assert rescore.make_context("rescore", ["tiny", "--alpha", typed]).params["alpha"] == float(read)  # type: ignore[arg-type]
