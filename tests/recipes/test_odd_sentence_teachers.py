"""Teachers of embeddings that nothing can be learned from, or that no student can follow, are refused in words."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from kdnas.models import sentence_layout
from kdnas.models.sentence_encoder import open_encoder
from kdnas.recipes import recipe
from kdnas.recipes.sentence_embedding import SentenceEmbeddingBench
from kdnas.study.spec import StudySpec
from kdnas.system.errors import UsageError
from tests.encoders import text_folder, texts, tiny_encoder, tiny_spec
from tests.sentence_folders import laid_out, module

CPU = torch.device("cpu")


@pytest.fixture
def shelf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    text_folder(tmp_path / "text", documents=12)
    monkeypatch.setenv("KDNAS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("KDNAS_STATE", str(tmp_path / "state"))
    yield tmp_path


def spec_of(shelf: Path, change: Callable[[Path], None]) -> StudySpec:
    teacher = laid_out(tiny_encoder(shelf / "teacher"), {"pooling_mode_mean_tokens": True})
    change(teacher)
    own = {"name": "sentence-embedding", "init": "inherit"}
    return tiny_spec(teacher, shelf / "text", recipe=own, budget={"epochs": 0})


def dense(teacher: Path, weight: torch.Tensor, bias: torch.Tensor, activation: str = "Identity") -> None:
    module(teacher, "2_Dense", "Dense", activation_function=f"torch.nn.modules.{activation}")
    save_file({"linear.weight": weight, "linear.bias": bias}, teacher / "2_Dense" / "model.safetensors")


def routed(teacher: Path) -> None:
    """Queries and documents by networks of their own."""
    (teacher / sentence_layout.MODULES).unlink()
    module(teacher, "", "Router")
    module(teacher, "1_Pooling", "Pooling", pooling_mode_mean_tokens=True)


def length_of(teacher: Path) -> None:
    (teacher / sentence_layout.LENGTH).write_text(json.dumps({"max_seq_length": 12}))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            lambda t: module(t, "2_CNN", "CNN"),
            r"a module 'CNN', which kdnas does not know. Take the recipe hidden-state",
        ),
        (lambda t: module(t, "2_Own", "mine.Own"), r"of its own code \('mine.Own'\), which kdnas never runs"),
        (routed, r"begins with the modules Router, Pooling; kdnas takes a Transformer .* Take the recipe hidden-state"),
        (length_of, r"data.length = 16 is more than the 12 tokens that .* takes of a text. Give at most 12"),
    ],
)
def test_what_the_files_say_is_refused_before_anything_runs(shelf: Path, change: Any, said: str) -> None:
    spec = spec_of(shelf, change)
    for ask in (recipe("sentence-embedding").describe, lambda s: recipe("sentence-embedding").prepare(s, CPU, print)):
        with pytest.raises(UsageError, match=said) as refused:
            ask(spec)
        assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("weight", "bias", "said"),
    [
        (0.0, 0.0, "gives all held-out texts the same embedding"),
        (0.0, 1.0, "gives all held-out texts the same embedding"),
        (float("nan"), 0.0, "gives embeddings that are not finite numbers"),
    ],
)
def test_embeddings_of_nothing_and_of_no_numbers_are_refused(
    shelf: Path, weight: float, bias: float, said: str
) -> None:
    spec = spec_of(shelf, lambda t: dense(t, torch.full((8, 32), weight), torch.full((8,), bias)))
    with pytest.raises(UsageError, match=said):
        recipe("sentence-embedding").prepare(spec, CPU, lambda words, share: None)


def test_a_teacher_that_gives_some_texts_nothing_but_zeros_is_followed_without_a_figure_that_is_none(
    shelf: Path,
) -> None:
    plain = laid_out(tiny_encoder(shelf / "plain"), {"pooling_mode_mean_tokens": True})
    seen = open_encoder(plain, "plain", CPU).encode([" ".join(text.split()[:14]) for text in texts(12)])
    middle = seen[:, 0].median()

    def half_of_them(teacher: Path) -> None:
        weight = torch.zeros(8, 32)
        weight[:, 0] = torch.linspace(1, 2, 8)
        dense(teacher, weight, -middle * weight[:, 0], "ReLU")
        module(teacher, "3_Normalize", "Normalize")

    bench = recipe("sentence-embedding").prepare(spec_of(shelf, half_of_them), CPU, lambda words, share: None)
    assert isinstance(bench, SentenceEmbeddingBench)
    nothing = bench._held.wanted.norm(dim=1) == 0
    assert 0 < int(nothing.sum()) < len(nothing)
    student = bench.build(next(bench.space.candidates()), 0)
    score = bench.training(student, epochs=1, seed=0).begin().score
    assert 0 < score.loss < 1 and all(math.isfinite(value) for value in score.extra.values())
    bench.close()
