"""Scoring beside others: the Trainer gives way between steps and stays on its device; latencies are the studies'."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from transformers import TrainingArguments

from kdnas.cli.environment import latency
from kdnas.data.glue import TASKS, Split
from kdnas.measuring import device_lock, devices
from kdnas.scores import finetuning, model_latency
from tests.encoders import texts, tiny_encoder
from tests.measuring.fake_cuda import FakeCuda, cuda

__all__ = ["cuda"]
CPU = torch.device("cpu")


def test_a_fine_tuning_gives_way_between_its_steps_to_who_measures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[bool] = []
    monkeypatch.setattr(device_lock._Place, "step", lambda self: steps.append(torch.is_grad_enabled()))
    half = Split((texts(16, 4),), np.arange(16) % 2, "texts")
    task = TASKS["sst2"]
    protocol = finetuning.FineTuning(batch_size=8)
    splits = dict.fromkeys(("train", *task.splits), half)
    folder = tiny_encoder(tmp_path / "m", num_hidden_layers=1)
    finetuning.score_once(folder, task, splits, 0, protocol, CPU, lambda share: None)
    assert len(steps) == 2 * task.epochs + 1  # steps of the training, and one batch of the prediction
    assert not device_lock._places()


def test_the_trainer_stays_on_the_gpu_that_was_asked_for(tmp_path: Path, cuda: FakeCuda) -> None:
    arguments = TrainingArguments(output_dir=str(tmp_path), use_cpu=True)
    finetuning._keep_on(arguments, torch.device("cuda", 1))
    assert arguments.device == torch.device("cuda", 1) and arguments.n_gpu == 1
    assert ("set_device", 1) in cuda.calls


def test_the_latency_of_a_folder_is_measured_with_the_studies_torch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Any] = []

    def measured(*given: Any) -> Any:
        seen.append((torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()))
        raise KeyboardInterrupt  # how torch is set up is all that this asks

    threads, mode = torch.get_num_threads(), torch.get_deterministic_debug_mode()
    torch.set_deterministic_debug_mode("default")
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    monkeypatch.setattr(model_latency, "measure", measured)
    try:
        CliRunner().invoke(latency, [str(tiny_encoder(tmp_path / "m")), "--length", "16", "--device", "cpu"])
        devices.set_up_torch()
        assert seen == [(torch.get_num_threads(), torch.are_deterministic_algorithms_enabled())] == [(3, True)]
    finally:
        torch.set_num_threads(threads)
        torch.set_deterministic_debug_mode(mode)
