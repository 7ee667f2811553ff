"""Students whose layers differ: their space, their fit beside that of uniform ones, and their folder."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoConfig

from kdnas.models import encoders
from kdnas.models import onnx as exporting
from kdnas.models.encoders import LayerSizes, Sizes
from kdnas.recipes import recipe
from kdnas.recipes.hidden_state import HiddenStateBench
from kdnas.recipes.spaces import encoder, encoder_layers
from kdnas.recipes.spaces.encoder import sizes_of
from kdnas.recipes.spaces.encoder_students import parameters_of
from kdnas.students.open_student import open_student
from kdnas.study.space import Candidate, SearchSpace
from kdnas.study.spec import SpaceSpec, from_values
from kdnas.study.spec_latency import LatencySpec
from kdnas.system.errors import BadOptionError, UsageError
from tests.encoders import FAMILIES, text_folder, tiny_encoder, tiny_spec
from tests.outside import Outside

CPU = torch.device("cpu")
OPEN = [name for name, family in encoders.FAMILIES.items() if not family.shared_layers]
OWN = Sizes(4, 32, 4, 64, "gelu")
UNIFORM: Candidate = {
    "num_hidden_layers": 3,
    "hidden_size": 24,
    "head_size": 8,
    "intermediate_size": 24,
    "hidden_act": "gelu",
}


def layered(*each: tuple[int, int], width: int = 24) -> Candidate:
    """A candidate of layers (heads, neurons) from below; those that it lacks stand at what they are folded to."""
    found: Candidate = {"num_hidden_layers": len(each), "hidden_size": width, "head_size": 8, "hidden_act": "gelu"}
    for layer, (heads, inner) in enumerate([*each, *[(2, 8)] * (4 - len(each))], start=1):
        found |= {f"num_attention_heads_{layer}": heads, f"intermediate_size_{layer}": inner}
    return found


ALIKE = layered((3, 24), (3, 24), (3, 24))
DIFFER = layered((4, 24), (3, 64), (1, 16))


def space(**choices: Any) -> SearchSpace:
    return encoder_layers.space_of(SpaceSpec(per_layer=True, choices=choices), OWN)  # type: ignore[call-arg]


# ------------------------------------------------------------------------------------------------- the space


def test_layers_that_a_student_lacks_count_for_nothing_and_no_student_has_two_names() -> None:
    found = space(num_hidden_layers=[1, 3], hidden_act=["gelu"], intermediate_size=[16, 64])
    assert [d.name for d in found.dimensions][-2:] == ["num_attention_heads_3", "intermediate_size_3"]
    students = [sizes_of(candidate) for candidate in found.candidates()]
    assert len(set(students)) == len(students) == found.size == 2 * (4 + 4**3)
    assert found.product_size == 2 * 2 * 4**3
    rng = np.random.default_rng(0)
    for candidate in (found.sample(rng) for _ in range(20)):
        assert found.from_ordinal(found.ordinal(candidate)) == candidate
    alone = layered((4, 64), width=16) | {"num_attention_heads_2": 4}
    assert found.canonical(alone)["num_attention_heads_2"] == 2


def test_every_uniform_student_of_the_same_choices_is_in_it() -> None:
    narrow = {"head_size": [8], "hidden_act": ["gelu"], "num_hidden_layers": [1, 2]}
    plain = encoder.space_of(SpaceSpec(choices=narrow), OWN)  # type: ignore[call-arg]
    mine = {sizes_of(candidate) for candidate in space(**narrow).candidates()}
    uniform = {sizes_of(candidate) for candidate in plain.candidates()}
    assert uniform < mine and {sizes.head_size for sizes in mine} == {8}


def test_one_layer_can_be_narrowed_alone() -> None:
    found = space(num_hidden_layers=[2], num_attention_heads=[1, 3], intermediate_size_2=[40], head_size=[8])
    choices = {d.name: d.choices for d in found.dimensions}
    assert (choices["num_attention_heads_1"], choices["num_attention_heads_2"]) == ((1, 3), (1, 3))
    assert choices["intermediate_size_2"] == (40,) and len(choices["intermediate_size_1"]) == 8


@pytest.mark.parametrize(
    ("choices", "field", "said"),
    [
        ({"num_attention_heads": [5]}, "space.choices.num_attention_heads", "whole numbers from 1 to 4"),
        ({"num_attention_heads_2": [9]}, "space.choices.num_attention_heads_2", "as many of size 8"),
        ({"head_size": [16], "num_attention_heads": [4]}, "space.choices.num_attention_heads", "from 1 to 2"),
        ({"intermediate_size_1": [65]}, "space.choices.intermediate_size_1", "the teacher's own size"),
        ({"num_hidden_layers": [2], "intermediate_size_3": [8]}, "space.choices.intermediate_size_3", "2 layers"),
        ({"intermediate_size_5": [8]}, "space.choices", "no dimension 'intermediate_size_5'"),
    ],
)
def test_sizes_that_no_student_can_have_are_refused(choices: dict[str, Any], field: str, said: str) -> None:
    with pytest.raises(BadOptionError, match=said) as caught:
        space(**choices)
    assert caught.value.field == field


def test_a_space_that_cannot_be_numbered_is_refused_and_one_of_a_large_teacher_is_not() -> None:
    large = Sizes(24, 1024, 16, 4096, "gelu")
    with pytest.raises(BadOptionError, match="more than can be numbered"):
        encoder_layers.space_of(SpaceSpec(per_layer=True), large)  # type: ignore[call-arg]
    base = encoder_layers.space_of(SpaceSpec(per_layer=True), Sizes(12, 768, 12, 3072, "gelu"))  # type: ignore[call-arg]
    assert 10**20 < base.size < 10**38 and base.size < base.product_size


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"recipe": {"name": "lora"}}, "only students of the recipe hidden-state"),
        ({"recipe": {"name": "rnn-hybrid"}}, "only students of the recipe hidden-state"),
        ({"recipe": {"name": "causal-divergence"}}, "only students of the recipe hidden-state"),
        ({"space": {"per_layer": True, "variants": {"a": {}}}}, "outside a comparison of variants"),
    ],
)
def test_what_has_no_layers_of_its_own_is_refused_by_name(values: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=f"space.per_layer.*{said}|{said}.*space.per_layer"):
        from_values({"space": {"per_layer": True}, **values})


@pytest.mark.parametrize("name", OPEN)
def test_parameters_are_counted_as_the_models_have_them(name: str) -> None:
    config, family = AutoConfig.for_model(name, **FAMILIES[name]), encoders.FAMILIES[name]
    found = encoder_layers.space_of(SpaceSpec(per_layer=True), family.sizes(config))  # type: ignore[call-arg]
    counted = parameters_of(found, family, config)
    rng = np.random.default_rng(1)
    for candidate in (found.sample(rng) for _ in range(3)):
        body = encoders.build_body(encoders.configure(encoders.config_values(family, config, sizes_of(candidate))))
        assert counted(candidate) == sum(p.numel() for p in body.parameters()), candidate


# ------------------------------------------------------------------------------------------------- students


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("layers")
    text_folder(folder / "text")
    for family in (*OPEN, "albert"):
        tiny_encoder(folder / family, family)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KDNAS_CACHE", str(folder / "cache"))
        patch.setenv("HF_HUB_OFFLINE", "1")
        yield folder


@pytest.fixture(scope="module")
def make(places: Path) -> Iterator[Any]:
    opened: dict[tuple[Any, ...], HiddenStateBench] = {}

    def prepare(family: str = "bert", per_layer: bool = True, init: str = "fitted") -> HiddenStateBench:
        key = family, per_layer, init
        if key not in opened:
            parts: Any = {"space": {"per_layer": per_layer}, "recipe": {"name": "hidden-state", "init": init}}
            spec = tiny_spec(places / family, places / "text", budget={"epochs": 0 if init == "fitted" else 2}, **parts)
            bench = recipe("hidden-state").prepare(spec, CPU, lambda what, share: None)
            assert isinstance(bench, HiddenStateBench)
            opened[key] = bench
        return opened[key]

    yield prepare
    for bench in opened.values():
        bench.close()


@pytest.mark.parametrize("family", OPEN)
def test_a_fit_of_equal_layers_is_that_of_the_uniform_student_to_the_last_bit(make: Any, family: str) -> None:
    bench, plain = make(family), make(family, per_layer=False)
    act = {"hidden_act": bench.own.act}
    own, uniform = bench.build({**ALIKE, **act}, 0), plain.build({**UNIFORM, **act}, 0)
    assert type(own.body) is type(uniform.body)
    weights = uniform.body.state_dict()
    assert all(torch.equal(tensor, weights[name]) for name, tensor in own.body.state_dict().items())
    assert bench.score(own).loss == plain.score(uniform).loss
    assert bench.shape_key({**ALIKE, **act}) == plain.shape_key({**UNIFORM, **act})
    assert bench.config({**ALIKE, **act}) == plain.config({**UNIFORM, **act})


@pytest.mark.parametrize("family", OPEN)
def test_layers_that_differ_are_fitted_scored_and_saved(make: Any, family: str, tmp_path: Path) -> None:
    bench = make(family)
    candidate = {**DIFFER, "hidden_act": bench.own.act}
    student = bench.build(candidate, 0)
    assert student.size == bench.parameters(candidate)
    score = bench.training(student, epochs=0, seed=0).begin().score
    inherited = make(family, init="inherit")
    cut = inherited.training(inherited.build(candidate, 0), epochs=2, seed=0).begin().score
    assert score.loss < cut.loss < 1.2  # the fit is worth something in layers that differ, too
    assert [str(block) for block in bench.blocks(candidate)] == [
        f"width 24, {heads} heads of 8, {inner} neurons, {bench.own.act}"
        for heads, inner in ((4, 24), (3, 64), (1, 16))
    ]
    bench.save(student, tmp_path / "student")
    model, _ = open_student(tmp_path / "student", CPU)
    ids = bench._held_ids[:2]
    with torch.inference_mode():
        assert torch.equal(model(input_ids=ids).last_hidden_state, student.body.eval()(input_ids=ids).last_hidden_state)
    assert (tmp_path / "student" / encoders.PER_LAYER_FILE).is_file()


def test_equal_layers_are_an_ordinary_folder(make: Any, tmp_path: Path) -> None:
    bench = make()
    bench.save(bench.build(ALIKE, 0), tmp_path / "student")
    config = json.loads((tmp_path / "student" / "config.json").read_text())
    assert config["model_type"] == "bert" and "auto_map" not in config and "layer_heads" not in config
    assert not (tmp_path / "student" / encoders.PER_LAYER_FILE).exists()


def test_a_step_trains_every_layer_and_random_students_begin_small(make: Any) -> None:
    bench = make(init="random")
    student = bench.build(DIFFER, 0)
    again = bench.build(DIFFER, 0)
    weights = again.body.state_dict()
    assert all(torch.equal(tensor, weights[name]) for name, tensor in student.body.state_dict().items())
    before = {name: tensor.clone() for name, tensor in weights.items()}
    assert before["encoder.layer.1.intermediate.dense.weight"].std() < 0.03
    training = bench.training(student, epochs=1, seed=0)
    assert training.run_epoch().score.loss < 1.5
    moved = {name for name, tensor in student.body.state_dict().items() if not torch.equal(tensor, before[name])}
    assert {f"encoder.layer.{i}.attention.self.query.weight" for i in range(3)} <= moved


def test_other_programs_open_the_folder_with_one_flag_and_onnx_needs_none(
    make: Any, tmp_path: Path, outside: Outside
) -> None:
    bench = make()
    student = bench.build(DIFFER, 0)
    bench.save(student, tmp_path / "student")
    ids = bench._held_ids[:2]
    with torch.inference_mode():
        wanted = student.body.eval()(input_ids=ids).last_hidden_state
    (tmp_path / "asked.json").write_text(json.dumps({"ids": ids.tolist(), "wanted": wanted.tolist()}))
    code = (
        "import json, sys, torch\n"
        "from transformers import AutoModel, AutoTokenizer\n"
        "asked = json.load(open('asked.json'))\n"
        "try:\n"
        "    AutoModel.from_pretrained('student', trust_remote_code=False)\n"
        "except ValueError as error:\n"
        "    print('refused', 'kdnas-per-layer-bert' in str(error) or 'trust_remote_code' in str(error))\n"
        "AutoTokenizer.from_pretrained('student', trust_remote_code=True)\n"
        "model = AutoModel.from_pretrained('student', trust_remote_code=True).eval()\n"
        "found = model(input_ids=torch.tensor(asked['ids'])).last_hidden_state\n"
        "print(float((found - torch.tensor(asked['wanted'])).abs().max()) < 1e-6, 'kdnas' in sys.modules)\n"
    )
    done = outside.run(code, tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split("\n")[:2] == ["refused True", "True False"]


def test_onnx_of_layers_that_differ_gives_the_same_outputs(make: Any, tmp_path: Path) -> None:
    for name in ("onnx", "onnxruntime", "onnxscript"):
        pytest.importorskip(name, reason="the extra onnx is not installed")
    bench = make()
    bench.save(bench.build(DIFFER, 0), tmp_path / "student")
    exported = exporting.export(tmp_path / "student", LatencySpec(length=16))  # type: ignore[call-arg]
    assert exported.difference <= exporting.TOLERANCE and (tmp_path / "student" / "model.onnx").is_file()


def test_a_teacher_of_shared_layers_is_refused(places: Path) -> None:
    spec = tiny_spec(places / "albert", places / "text", space={"per_layer": True})
    with pytest.raises(BadOptionError, match="share their weights") as caught:
        recipe("hidden-state").describe(spec)
    assert caught.value.field == "space.per_layer"


def test_repeated_layers_are_one_candidate_a_kind(make: Any) -> None:
    bench = make()
    candidate = layered((3, 24), (1, 16), (3, 24))
    found = bench.repeated(candidate, 4)
    each = [sizes_of(probe) for probe in found]
    assert [sizes.layers for sizes in each] == [4, 4]
    assert [sizes.layer(3) for sizes in each] == [LayerSizes(1, 16), LayerSizes(3, 24)]
    assert [len(set(bench.blocks(probe))) for probe in found] == [1, 1]
    assert set(bench.blocks(candidate)) == {bench.blocks(probe)[0] for probe in found}
