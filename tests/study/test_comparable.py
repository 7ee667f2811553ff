"""What may stand in one ranking and what may not: the reason is said, and names what differs."""

from __future__ import annotations

from typing import Any

import pytest

from kdnas.study.comparable import Side, verdict
from kdnas.study.spec import from_values
from tests.study.test_export import study

FOUND: dict[str, Any] = {
    "device": "cpu: AMD EPYC",
    "teacher_fingerprint": "t",
    "data_fingerprint": "d",
    "source_fingerprint": "s",
    "tokenizer_fingerprint": "k",
    "latency_protocol": 4,
    "versions": {"kdnas": "0.1.0", "torch": "2.13.0"},
}


def side(name: str, spec: dict[str, Any] | None = None, **found: Any) -> Side:
    values = from_values({"name": name, **(spec or {})}).model_dump(mode="json")
    provenance = {key: value for key, value in {**FOUND, **found}.items() if value is not None}
    return Side(study(name=name, spec=values), provenance)


ALIKE: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({}, {}),
    ({"strategy": {"name": "random"}, "budget": {"epochs": 1}, "seed": 4, "reward": {"alpha": -0.4}}, {}),
    ({"recipe": {"name": "hidden-state", "init": "fitted"}}, {}),
    ({"latency": {"precision": 0.1, "max_seconds": 2}}, {}),
    ({"teacher": {"model": "/a/folder/of/the/same"}}, {}),  # by its fingerprint
]


@pytest.mark.parametrize(("spec", "found"), ALIKE, ids=str)
def test_what_does_not_change_the_measure_does_not_matter(spec: dict[str, Any], found: dict[str, Any]) -> None:
    said = verdict([side("a"), side("b", spec, **found)])
    assert (said.loss, said.latency, said.reward) == ("", "", "")


def test_recipes_of_one_measure_go_together() -> None:
    one, two = ({"recipe": {"name": name}} for name in ("causal-divergence", "causal-policy-gradient"))
    assert verdict([side("a", one), side("b", two)]).loss == ""


LOSSES: list[tuple[dict[str, Any], dict[str, Any], str]] = [
    ({"recipe": {"name": "causal-divergence"}}, {}, "measure different losses: hidden-state, causal-divergence."),
    ({"reward": {"loss": "raw"}}, {}, "rewarded for different losses: normalised, raw."),
    (
        {"teacher": {"model": "roberta-base"}},
        {"teacher_fingerprint": "u"},
        "have different teachers: all-minilm-l6-v2, roberta-base, and a loss is a distance to its own teacher.",
    ),
    ({}, {"teacher_fingerprint": "u"}, "different versions of the teacher all-minilm-l6-v2"),
    ({"data": {"limit": 10}}, {"data_fingerprint": "e"}, "different parts of "),
    ({"data": {"source": "x.csv"}}, {"data_fingerprint": "e"}, "x.csv, and a loss is a mean over its own data."),
    ({"data": {"source": "x.csv"}}, {"data_fingerprint": None}, "different data"),  # as the specs say
    ({"teacher": {"model": "roberta-base"}}, {"teacher_fingerprint": None}, "different teachers"),
    ({}, {"tokenizer_fingerprint": "l"}, "different tokenizers"),
]


@pytest.mark.parametrize(("spec", "found", "why"), LOSSES, ids=str)
def test_other_losses_are_never_ranked_together(spec: dict[str, Any], found: dict[str, Any], why: str) -> None:
    said = verdict([side("a"), side("b"), side("c", spec, **found)])
    assert said.loss.startswith("a and c ")
    assert why in said.loss
    assert said.latency == ""
    assert said.reward == said.loss


LATENCIES: list[tuple[dict[str, Any], dict[str, Any], str]] = [
    ({}, {"device": "cuda: NVIDIA H100"}, "different devices: cpu: AMD EPYC, cuda: NVIDIA H100."),
    ({}, {"device": None}, "It is not recorded on which device b was timed."),
    ({"latency": {"batch_size": 8}}, {}, "different batch size: 1, 8."),
    ({"latency": {"length": 64}}, {}, "different length: 128, 64."),
    ({"latency": {"threads": 2}}, {}, "different threads: 1, 2."),
    ({}, {"latency_protocol": 5}, "different versions of the protocol: 4, 5."),
    ({}, {"latency_protocol": None}, "different versions of the protocol: 4, kdnas 0.1.0."),
    ({}, {"versions": {"kdnas": "0.1.0", "torch": "2.14.0"}}, "different versions of torch: 2.13.0, 2.14.0."),
]


@pytest.mark.parametrize(("spec", "found", "why"), LATENCIES, ids=str)
def test_other_latencies_are_not_compared(spec: dict[str, Any], found: dict[str, Any], why: str) -> None:
    said = verdict([side("a"), side("b", spec, **found)])
    assert why in said.latency
    assert said.loss == ""
    assert said.reward == said.latency


def test_a_first_token_and_a_later_one_are_different_figures() -> None:
    causal = {"recipe": {"name": "causal-divergence"}}
    one, other = side("a", causal), side("b", {**causal, "latency": {"what": "token"}})
    assert verdict([one, other]).latency == "a and b were timed with different figures: first, token."
    del one.row.spec["latency"]["what"]  # as an earlier version wrote it
    assert verdict([one, side("b", causal)]).latency == ""


@pytest.mark.parametrize("device", ["cpu: AMD EPYC", "mps: arm GPU", "cuda: NVIDIA H100"])
def test_times_of_two_dtypes_are_not_compared(device: str) -> None:
    bf16, fp32 = ({"latency": {"dtype": dtype}} for dtype in ("bfloat16", "float32"))
    sides = [side(name, spec, device=device) for name, spec in (("a", {}), ("b", bf16), ("c", fp32))]
    usual = "auto" if device.startswith("cuda") else "float32"
    assert verdict(sides[:2]).latency == f"a and b were timed with different dtypes: {usual}, bfloat16."
    assert verdict(sides[1:]).latency == "b and c were timed with different dtypes: bfloat16, float32."
    assert verdict([sides[0], sides[2]]).latency == (
        "a and c were timed with different dtypes: auto, float32." if usual == "auto" else ""
    )
    del sides[0].row.spec["latency"]["dtype"]  # as an earlier version wrote it
    assert verdict([sides[0], side("d", device=device)]).latency == ""


def test_a_teacher_on_a_gpu_of_its_own_is_not_in_float32_unasked() -> None:
    causal = {"recipe": {"name": "causal-divergence"}, "device": "cpu", "teacher": {"device": "cuda"}}
    one, other = side("a", causal), side("b", {**causal, "latency": {"dtype": "float32"}})
    assert verdict([one, other]).latency == "a and b were timed with different dtypes: auto, float32."


def test_how_a_gpu_passes_matters_on_a_gpu_only() -> None:
    eager = {"latency": {"gpu": "eager"}}
    assert verdict([side("a"), side("b", eager)]).latency == ""
    gpu = "cuda: NVIDIA H100"
    assert "kinds of pass: graph, eager" in verdict([side("a", device=gpu), side("b", eager, device=gpu)]).latency
