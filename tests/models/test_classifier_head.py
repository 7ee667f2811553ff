"""A student of a classifier classifies: the teacher's head, its last layer solved for the student's states."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModel, AutoModelForSequenceClassification

from kdnas.models.classifier_head import regression
from kdnas.recipes import recipe
from kdnas.students import model_folder as folders
from kdnas.students import predict
from kdnas.students.distil import Telling, distil
from kdnas.students.from_config import given
from kdnas.study.spec import StudySpec
from tests.encoders import FAMILIES, text_folder, texts, tiny_encoder, tiny_spec

CPU = torch.device("cpu")
NAMES = {0: "calm", 1: "angry", 2: "sad"}


def tiny_classifier(place: Path, family: str, seed: int = 1) -> Path:
    """A tiny encoder under a head of three labels whose logits differ from text to text."""
    base = tiny_encoder(place / "base", family)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model: Any = AutoModelForSequenceClassification.from_pretrained(
            base, id2label=NAMES, label2id={name: place for place, name in NAMES.items()}, dtype=torch.float32
        )
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if "classifier" in name or "pooler" in name:
                    parameter.normal_(0, 0.5)
    model.save_pretrained(base)
    return base


def study(place: Path, family: str, **parts: Any) -> StudySpec:
    return tiny_spec(tiny_classifier(place, family), text_folder(place / "text", documents=40), **parts)


def sizes(layers: int, width: int) -> dict[str, Any]:
    return {
        "num_hidden_layers": layers,
        "hidden_size": width,
        "num_attention_heads": width // 8,
        "intermediate_size": 64,
        "hidden_act": "gelu",
    }


@pytest.mark.parametrize("family", FAMILIES)
def test_a_student_that_is_its_teacher_says_what_its_teacher_says(family: str, tmp_path: Path) -> None:
    spec = study(tmp_path, family, recipe={"name": "hidden-state", "init": "inherit"})  # it is saved untrained
    job = given(spec, sizes(4, 32))
    bench = recipe("hidden-state").prepare(job.spec, CPU, lambda *_: None)
    try:
        bench.save(bench.build(job.candidate, 0), tmp_path / "student")
    finally:
        bench.close()
    own, report = AutoModelForSequenceClassification.from_pretrained(tmp_path / "student", output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"] and not report["mismatched_keys"]
    assert dict(own.config.id2label) == NAMES
    theirs = AutoModelForSequenceClassification.from_pretrained(spec.teacher.model)
    ids = torch.randint(5, 60, (64, 16), generator=torch.Generator().manual_seed(3))
    ids[:, 0], ids[:, -1] = 2, 3
    with torch.inference_mode():
        said, wanted = own.eval()(input_ids=ids).logits, theirs.eval()(input_ids=ids).logits
    assert wanted.std(0).min() > 0.05  # else any constant would do
    assert (said - wanted).square().mean() < 0.02 * wanted.var(0).mean()


def test_the_finished_folder_predicts_and_says_how_well(tmp_path: Path) -> None:
    spec = study(tmp_path, "bert", recipe={"name": "hidden-state", "init": "fitted"}, full={"epochs": 4})
    job = given(spec, sizes(3, 24))
    facts = distil(job, tmp_path / "student", Telling(lambda *_: None), device="cpu")
    assert facts["opens_with"] == "AutoModelForSequenceClassification"
    assert facts["head"]["labels"] == list(NAMES.values()) and 0.4 < facts["head"]["agreement"] <= 1
    model, tokenizer = predict.open_model(tmp_path / "student", CPU)
    found = predict.predict(model, tokenizer, texts(2, 10), lambda *_: None)
    assert {one.label for one in found} <= set(NAMES.values())
    words = (tmp_path / "student" / folders.CARD).read_text()
    assert "calm, angry, sad" in words and f"{facts['head']['agreement']:.1%}" in words
    body = AutoModel.from_pretrained(tmp_path / "student")  # and it is still a body for whoever wants one
    for name, tensor in body.state_dict().items():
        torch.testing.assert_close(tensor, model.base_model.state_dict()[name])


def test_a_head_of_another_kind_is_left_to_who_fine_tunes(tmp_path: Path) -> None:
    spec = study(tmp_path, "bert", full={"epochs": 1})
    config = AutoConfig.from_pretrained(spec.teacher.model)
    config.problem_type = "multi_label_classification"
    config.save_pretrained(spec.teacher.model)
    facts = distil(given(spec, sizes(2, 16)), tmp_path / "student", Telling(lambda *_: None), device="cpu")
    assert "head" not in facts and facts["opens_with"] == "AutoModel"


def test_the_regression_finds_a_line_and_bears_inputs_that_never_vary() -> None:
    x = torch.randn(200, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x[:, 4] = 7.0
    weight = torch.tensor([[1.0, -2.0, 0.0, 3.0, 0.0]], dtype=torch.float64)
    found, bias = regression(x, x @ weight.t() + 0.5)
    torch.testing.assert_close(found, weight, atol=0.02, rtol=0.02)
    torch.testing.assert_close(bias, torch.tensor([0.5], dtype=torch.float64), atol=0.02, rtol=0.02)
