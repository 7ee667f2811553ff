"""Who calls kdnas from a program of their own finds torch, the libraries and all random numbers as they left them;
inside, evaluate, predict, generate and latency compute as studies do."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from random import getstate
from typing import Any

import numpy as np
import optuna
import pytest
import torch
from transformers.utils import logging

from kdnas.data.glue import TASKS, Split
from kdnas.measuring import devices
from kdnas.models.quiet_transformers import hushed
from kdnas.reports import parameter_importance
from kdnas.scores import finetuning, model_latency, score_folder
from kdnas.scores.perplexity import PerplexityProtocol, perplexity
from kdnas.search.begin import begin
from kdnas.store import optuna_storage
from kdnas.students import generate, predict
from kdnas.study.spec import DataSpec
from kdnas.study.spec_latency import LatencySpec
from tests import fakes
from tests.encoders import text_folder, texts, tiny_encoder
from tests.recipes import tiny_causal
from tests.tiny import tiny_folder

CPU = torch.device("cpu")


def of_torch() -> tuple[Any, ...]:
    filled = torch.utils.deterministic.fill_uninitialized_memory  # type: ignore[attr-defined]
    return torch.get_num_threads(), torch.get_deterministic_debug_mode(), filled


@pytest.fixture(autouse=True)
def own(own_cache: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A program that wants two threads, no determinism, and to hear what libraries say."""
    before, verbosity = of_torch(), logging.get_verbosity()
    bars, optunas = logging.is_progress_bar_enabled(), optuna.logging.get_verbosity()
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    torch.set_num_threads(2)
    torch.set_deterministic_debug_mode("default")
    logging.set_verbosity_info()
    optuna.logging.set_verbosity(optuna.logging.DEBUG)
    yield
    torch.set_num_threads(before[0])
    torch.set_deterministic_debug_mode(before[1])
    torch.utils.deterministic.fill_uninitialized_memory = before[2]  # type: ignore[attr-defined]
    logging.set_verbosity(verbosity)
    if bars != logging.is_progress_bar_enabled():
        (logging.enable_progress_bar if bars else logging.disable_progress_bar)()
    optuna.logging.set_verbosity(optunas)


def everything() -> list[Any]:
    drawn = [repr(getstate()), repr(np.random.get_state()), torch.get_rng_state().tolist()]
    said = [logging.get_verbosity(), logging.is_progress_bar_enabled(), optuna.logging.get_verbosity()]
    return [of_torch(), *said, os.environ.get("CUBLAS_WORKSPACE_CONFIG"), *drawn]


def quiet(words: str, share: float | None) -> None:
    return None


def predicting(folder: Path, look: Callable[..., None], patch: pytest.MonkeyPatch) -> None:
    model, tokenizer = predict.open_model(tiny_folder(folder, labels=2), CPU)
    model.register_forward_pre_hook(look)
    predict.predict(model, tokenizer, ["a good film"], quiet)


def generating(folder: Path, look: Callable[..., None], patch: pytest.MonkeyPatch) -> None:
    model, tokenizer = generate.open_model(tiny_causal.folder(folder, steps=0), CPU)
    model.register_forward_pre_hook(look)
    settings = generate.Settings(max_new_tokens=2, sample=True)
    generate.generate(model, tokenizer, [generate.Prompt("the senate")], settings, quiet)


def measuring(folder: Path, look: Callable[..., None], patch: pytest.MonkeyPatch) -> None:
    patch.setattr(model_latency, "measure", look)
    model_latency.measure_model(str(tiny_encoder(folder)), LatencySpec(length=16), CPU)  # type: ignore[call-arg]


def scoring(folder: Path, look: Callable[..., None], patch: pytest.MonkeyPatch) -> None:
    def stop(*given: Any) -> None:
        look()
        raise ZeroDivisionError

    patch.setattr(score_folder.finetuned_tasks, "evaluate", stop)
    with pytest.raises(ZeroDivisionError):
        score_folder.score(tiny_encoder(folder), score_folder.Wanted(device="cpu"), quiet)


@pytest.mark.parametrize("call", [predicting, generating, measuring, scoring], ids=lambda call: call.__name__)
def test_inside_torch_is_the_studies_and_afterwards_the_callers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: Any
) -> None:
    seen: list[Any] = []

    def look(*given: Any, **named: Any) -> None:
        seen.append(of_torch())

    devices.resolve_device("cpu")
    before: list[Any] = []
    real = devices.set_up_torch

    def set_up() -> None:
        if not before:
            before.append(everything())  # the models are made by now, which draws
        real()

    monkeypatch.setattr(devices, "set_up_torch", set_up)
    call(tmp_path / "m", look, monkeypatch)
    assert before == [everything()]
    with devices.as_studies():
        assert seen and set(seen) == {of_torch()} and seen[0][:2] == (3, 1)


def test_a_fine_tuning_leaves_verbosity_and_random_numbers_alone(tmp_path: Path) -> None:
    half = Split((texts(8, 4),), np.arange(8) % 2, "texts")
    folder = tiny_encoder(tmp_path / "m", num_hidden_layers=1)
    task = TASKS["sst2"]
    before = everything()
    finetuning.score_once(
        folder,
        task,
        dict.fromkeys(("train", *task.splits), half),
        0,
        finetuning.FineTuning(batch_size=8, finetune=True),
        CPU,
        lambda share: None,
    )
    assert everything() == before


def test_a_perplexity_leaves_verbosity_and_random_numbers_alone(tmp_path: Path) -> None:
    folder = tiny_encoder(tmp_path / "m", num_hidden_layers=1)
    data = DataSpec(source=str(text_folder(tmp_path / "text", 8)))  # type: ignore[call-arg]
    before = everything()
    perplexity(folder, None, data, CPU, quiet, PerplexityProtocol(length=16, batch_size=4, steps=1, chunks=4))
    assert everything() == before


def test_beginning_a_study_and_weighing_its_dimensions_leaves_optunas_verbosity_alone(tmp_path: Path) -> None:
    begin(fakes.spec(), tmp_path / "kdnas.db")
    assert optuna.logging.get_verbosity() == optuna.logging.DEBUG
    with optuna_storage.hushed(optuna.logging.ERROR):
        assert optuna.logging.get_verbosity() == optuna.logging.ERROR
    assert optuna.logging.get_verbosity() == optuna.logging.DEBUG
    assert "set_verbosity" not in Path(parameter_importance.__file__).read_text()


def test_hushed_libraries_speak_again_after_a_failure() -> None:
    with pytest.raises(ZeroDivisionError), hushed():
        assert logging.get_verbosity() == logging.ERROR and not logging.is_progress_bar_enabled()
        raise ZeroDivisionError
    assert logging.get_verbosity() == logging.INFO
