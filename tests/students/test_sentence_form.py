"""A sentence encoder's student: a folder of sentence-transformers whose vectors lie in the teacher's space."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModel, AutoTokenizer

from kdnas.models import sentence_layout
from kdnas.models.sentence_encoder import open_encoder
from kdnas.students.distil import Job, Telling, distil
from kdnas.students.extras import Extras
from kdnas.students.from_config import given
from kdnas.study.spec import StudySpec
from kdnas.system.errors import UsageError
from tests.encoders import WORDS, text_folder, texts, tiny_encoder, tiny_spec
from tests.outside import Outside
from tests.sentence_folders import laid_out, module

QUIET = Telling(lambda words, share: None)
CPU = torch.device("cpu")
HALF = {"num_hidden_layers": 2, "hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 32}


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A tiny sentence encoder (mean and first token, normalised, with a prompt), a plain one, and text."""
    place = tmp_path_factory.mktemp("sentences")
    teacher = laid_out(tiny_encoder(place / "teacher"), {"pooling_mode": ["mean", "cls"]})
    module(teacher, "2_Normalize", "Normalize")
    (teacher / sentence_layout.SETTINGS).write_text(json.dumps({"prompts": {"query": f"{WORDS[1]} "}}))
    (teacher / sentence_layout.LENGTH).write_text(json.dumps({"max_seq_length": 30}))
    tiny_encoder(place / "plain")
    text_folder(place / "text", documents=40)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KDNAS_CACHE", str(place / "cache"))
        patch.setenv("KDNAS_STATE", str(place / "state"))
        yield place


def job_of(shelf: Path, teacher: str = "teacher", **parts: Any) -> Job:
    spec: StudySpec = tiny_spec(shelf / teacher, shelf / "text", full={"epochs": 1}, **parts)
    return given(spec, {**HALF, "hidden_act": "gelu"})


@pytest.fixture(scope="module")
def made(shelf: Path) -> tuple[Path, dict[str, Any]]:
    output = shelf / "student"
    return output, distil(job_of(shelf), output, QUIET, device="cpu")


def test_the_folder_is_laid_out_as_the_teachers_with_one_linear_layer(made: tuple[Path, dict[str, Any]]) -> None:
    output, facts = made
    kinds = [m["type"].rpartition(".")[2] for m in json.loads((output / "modules.json").read_text())]
    assert kinds == ["Transformer", "Pooling", "Dense", "Normalize"]
    dense = json.loads((output / "2_Dense" / "config.json").read_text())
    assert dense["activation_function"].endswith(".Identity") and dense["bias"] is True
    assert (dense["in_features"], dense["out_features"]) == (32, 64)
    assert json.loads((output / sentence_layout.LENGTH).read_text())["max_seq_length"] == 30
    assert json.loads((output / sentence_layout.SETTINGS).read_text())["prompts"] == {"query": f"{WORDS[1]} "}
    assert facts["embedding"]["pooling"] == ["mean", "cls"] and facts["embedding"]["width"] == 64
    card = (output / "README.md").read_text()
    assert "SentenceTransformer(folder)" in card and "library_name: sentence-transformers" in card


def test_the_linear_layer_brings_the_vectors_into_the_teachers_space(
    made: tuple[Path, dict[str, Any]], shelf: Path
) -> None:
    output, facts = made
    told = texts(30, 14, seed=5)
    student, teacher = open_encoder(output, "student", CPU), open_encoder(shelf / "teacher", "teacher", CPU)
    ours, theirs = student.encode(told), teacher.encode(told)
    ours, theirs = ours - ours.mean(0), theirs - theirs.mean(0)  # random encoders give all texts much the same vector
    near = float(torch.cosine_similarity(ours, theirs).mean())
    assert near > float(torch.cosine_similarity(ours, theirs.roll(1, 0)).mean()) + 0.15
    assert 0.3 < facts["embedding"]["cosine"] <= 1


def test_the_vectors_are_those_that_the_files_mean(made: tuple[Path, dict[str, Any]]) -> None:
    output, _ = made
    tokenizer, body = AutoTokenizer.from_pretrained(output), AutoModel.from_pretrained(output).eval()
    layer = load_file(output / "2_Dense" / "model.safetensors")
    told = [" ".join(WORDS[:9]), WORDS[4]]
    for text, vector in zip(told, open_encoder(output, "student", CPU).encode(told), strict=True):
        with torch.no_grad():
            states = body(**tokenizer(text, return_tensors="pt")).last_hidden_state[0]
        wanted = layer["linear.weight"] @ torch.cat([states.mean(0), states[0]]) + layer["linear.bias"]
        assert torch.allclose(vector, wanted / wanted.norm(), atol=1e-5)


def test_the_same_student_twice_has_the_same_layer(made: tuple[Path, dict[str, Any]], shelf: Path) -> None:
    distil(job_of(shelf), shelf / "again", QUIET, device="cpu")
    one, other = (load_file(at / "2_Dense" / "model.safetensors") for at in (made[0], shelf / "again"))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_the_encoder_alone_opens_without_kdnas(
    made: tuple[Path, dict[str, Any]], tmp_path: Path, outside: Outside
) -> None:
    code = f"""
import sys
sys.modules["kdnas"] = None
from transformers import AutoModel
model, report = AutoModel.from_pretrained({str(made[0])!r}, output_loading_info=True)
assert not report["missing_keys"] and not report["unexpected_keys"], report
print(model.config.hidden_size)
"""
    done = outside.run(code, tmp_path)
    assert done.returncode == 0 and done.stdout.strip() == "16", done.stderr


def test_a_plain_folder_is_made_where_that_is_asked_for_or_the_teacher_is_none(shelf: Path) -> None:
    facts = distil(job_of(shelf), shelf / "bare", QUIET, device="cpu", extras=Extras(library="transformers"))
    assert not (shelf / "bare" / "modules.json").exists() and "embedding" not in facts
    distil(job_of(shelf, "plain"), shelf / "of-plain", QUIET, device="cpu")
    assert not (shelf / "of-plain" / "modules.json").exists()


def test_a_finished_folder_is_not_laid_out_otherwise(made: tuple[Path, dict[str, Any]], shelf: Path) -> None:
    with pytest.raises(UsageError, match="finished already, for sentence-transformers"):
        distil(job_of(shelf), made[0], QUIET, device="cpu", extras=Extras(library="transformers"))


def test_what_cannot_be_is_refused_before_anything_is_trained(shelf: Path) -> None:
    told: list[Any] = []
    telling = Telling(QUIET.on_progress, told.append)
    with pytest.raises(UsageError, match="no sentence encoder"):
        distil(
            job_of(shelf, "plain"), shelf / "x", telling, device="cpu", extras=Extras(library="sentence-transformers")
        )
    odd = laid_out(tiny_encoder(shelf / "odd"), {"pooling_mode_mean_tokens": True})
    module(odd, "2_CNN", "CNN")
    with pytest.raises(UsageError, match=r"'CNN', which kdnas does not know.*--for transformers"):
        distil(job_of(shelf, "odd"), shelf / "x", telling, device="cpu")
    assert not told and not (shelf / "x").exists()
