"""Classifiers: taught once, best weights kept, scored on what decided nothing, classes in the data's order."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from kdnas.cli import COMMANDS
from kdnas.cli.frame import Lazy, run
from kdnas.data import labelled
from kdnas.data.labelled import LabelledText
from kdnas.models import class_order
from kdnas.study.spec import from_values
from kdnas.system.errors import UsageError
from kdnas.teachers import classifier as classifiers
from kdnas.training import finetune
from kdnas.training.finetune import Settings, Told
from tests.recipes import tiny_labelled
from tests.tiny import tiny_folder

QUIET = Told(lambda *_: None)
CPU = torch.device("cpu")
SETTINGS: dict[str, Any] = {"learning_rate": 3e-3, "head_rate": 3e-3, "batch_size": 16}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("classification")
    tiny_folder(place / "body")
    tiny_labelled.examples(place / "data.jsonl")
    return place


@pytest.fixture(autouse=True)
def own_folders(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KDNAS_CACHE", str(place / "cache"))
    monkeypatch.setenv("KDNAS_STATE", str(place / "state"))


def opened(place: Path, **teacher: Any) -> tuple[classifiers.Source, LabelledText]:
    spec = tiny_labelled.rnn_spec(place / "body", place / "data.jsonl", teacher=teacher)
    where = classifiers.source(spec.teacher)
    return where, labelled.read(spec.data, 1.0, where.tokenizer)


def test_only_the_fresh_head_takes_the_heads_rate(place: Path) -> None:
    where, text = opened(place)
    task = classifiers.task(where, text, CPU, 0)
    assert task.head() >= {"classifier.weight", "classifier.bias"}
    assert all(name.startswith("classifier.") or "pooler" in name for name in task.head())
    named = dict(task.model.named_parameters())
    groups = finetune._groups(named, task.head(), Settings(learning_rate=1e-5, head_rate=1e-2))
    peaks = {id(p): group.peak for group in groups for p in group.parameters}
    assert {peaks[id(p)] for n, p in named.items() if n in task.head()} == {1e-2}
    assert {peaks[id(p)] for n, p in named.items() if n not in task.head()} == {1e-5}


def test_a_teacher_is_taught_once_and_its_test_part_decides_nothing(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    where, text = opened(place)
    folder = classifiers.taught(where, text, Settings(epochs=4, **SETTINGS), CPU, lambda *_: None)
    facts = classifiers.taught_facts(folder)
    assert facts["scores"]["accuracy"] > 0.8 and facts["test"]["accuracy"] > 0.7
    losses = [epoch["scores"]["loss"] for epoch in facts["history"]]
    assert facts["best_epoch"] == int(np.argmin(losses)) + 1
    monkeypatch.setattr(finetune, "run", lambda *_: pytest.fail("taught twice"))
    assert classifiers.taught(where, text, Settings(epochs=4, **SETTINGS), CPU, lambda *_: None) == folder
    found = classifiers.open_classifier(where, folder, text.names, CPU)
    logits = found.logits(text.test, text.pad_id, lambda *_: None, "the test part")
    assert classifiers.figures(logits, text.test.labels) == pytest.approx(facts["test"])
    monkeypatch.setattr(classifiers, "logits_of", lambda *_: pytest.fail("asked twice"))
    assert torch.equal(found.logits(text.test, text.pad_id, lambda *_: None, "the test part"), logits)


def test_it_stops_early_and_restores_the_best(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    where, text = opened(place)
    task = classifiers.task(where, text, CPU, 0)
    scores, states = iter([3.0, 1.0, 2.0, 2.5]), []

    def score() -> dict[str, float]:
        states.append({n: p.detach().clone() for n, p in task.model.named_parameters()})
        return {"loss": next(scores)}

    monkeypatch.setattr(task, "score", score)
    history = finetune.fit(task, Settings(epochs=6, patience=2, **SETTINGS), tmp_path, QUIET)
    assert [epoch.epoch for epoch in history] == [1, 2, 3, 4]
    assert all(torch.equal(p, states[1][n]) for n, p in task.model.named_parameters())


def test_a_heads_own_order_of_classes_becomes_the_datas(place: Path, tmp_path: Path) -> None:
    where, text = opened(place)
    model, _ = classifiers.load(where.base, ("fine", "dull"), "tiny")
    model.save_pretrained(tmp_path / "turned")  # type: ignore[operator]
    AutoTokenizer.from_pretrained(where.base).save_pretrained(tmp_path / "turned")
    turned, text = opened(place, checkpoint=str(tmp_path / "turned"))
    assert text.names == ("dull", "fine") and classifiers.has_head(turned, text.names)
    found = classifiers.open_classifier(turned, tmp_path / "turned", text.names, CPU)
    own = classifiers.logits_of(model, text.held_out, text.pad_id)
    assert torch.equal(found.logits(text.held_out, text.pad_id, lambda *_: None, "it"), own[:, [1, 0]])


def test_heads_of_other_classes_are_refused_as_teachers_and_replaced_when_taught(place: Path, tmp_path: Path) -> None:
    tiny_folder(tmp_path / "three", labels=3)
    where, text = opened(place, model=str(tmp_path / "three"))
    with pytest.raises(UsageError, match="tells 3 classes apart; the data has 2: dull, fine"):
        classifiers.has_head(where, text.names)
    task = classifiers.task(where, text, CPU, 0)
    assert task.head() == {"classifier.weight", "classifier.bias"}
    assert task.model.config.id2label == {0: "dull", 1: "fine"}
    with pytest.raises(UsageError, match="The teacher's classes are"):
        class_order.order_of(task.model.config, ("good", "bad"))


def test_an_adapter_is_a_checkpoint(place: Path, tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    where, text = opened(place)

    def adapt(model: torch.nn.Module) -> tuple[torch.nn.Module, set[str]]:
        wanted = peft.LoraConfig(task_type="SEQ_CLS", r=2, target_modules=["query"], modules_to_save=["classifier"])
        made = peft.get_peft_model(model, wanted)
        return made, {n for n, p in made.named_parameters() if p.requires_grad}

    folder = classifiers.taught(where, text, Settings(epochs=1, **SETTINGS), CPU, lambda *_: None, adapt, {"rank": 2})
    assert (folder / "adapter_config.json").is_file() and not (folder / "model.safetensors").exists()
    again, _ = opened(place, checkpoint=str(folder))
    assert classifiers.has_head(again, text.names)
    found = classifiers.open_classifier(again, folder, text.names, CPU)
    logits = classifiers.logits_of(found.model, text.test, text.pad_id)
    assert classifiers.figures(logits, text.test.labels) == pytest.approx(
        classifiers.taught_facts(folder)["test"], abs=1e-5
    )


def command(*words: str) -> int:
    return run(Lazy("kdnas", COMMANDS), list(words))


def asked(place: Path, output: Path, *more: str) -> list[str]:
    ask = ["finetune", str(place / "body"), "--task", "classification", "--data", str(place / "data.jsonl")]
    ask += ["--output", str(output), "--label-column", "label", "--group-column", "film", "--held-out", "0.25"]
    ask += ["--max-held-out", "40", "--length", "16", "--learning-rate", "3e-3", "--device", "cpu", *more]
    return ask


def test_the_command_writes_a_classifier(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command(*asked(place, tmp_path / "out", "--epochs", "4", "--head-rate", "3e-3", "--json")) == 0
    facts = json.loads(capsys.readouterr().out)
    assert set(facts["scores"]) == {"loss", "accuracy", "macro_f1"} and facts["test"]["accuracy"] > 0.5
    assert facts["task"]["test_examples"] == 20
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "out")
    assert model.config.id2label == {0: "dull", 1: "fine"}


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--label-column", "lable"], "has no column 'lable'. There are: text, label, film."),
        (["--summary-column", "label"], "--summary-column is not for --task classification"),
        (["--length", "100"], "more than the teacher's 64 positions"),
        (["--head-rate", "0"], "head_rate = 0.0 is out of range"),
        (["--held-out", "2"], "data.held_out"),
    ],
)
def test_bad_input_is_one_line(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], flags: list[str], words: str
) -> None:
    assert command(*asked(place, tmp_path / "out", *flags)) == 2
    assert words in capsys.readouterr().err.strip().splitlines()[-1] and not (tmp_path / "out").exists()


def test_what_cannot_classify_is_refused(place: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="There is no checkpoint"):
        classifiers.source(from_values({"teacher": {"model": str(place / "body"), "checkpoint": "x"}}).teacher)
    odd = tmp_path / "vision"
    odd.mkdir()
    (odd / "config.json").write_text('{"model_type": "vit"}')
    with pytest.raises(UsageError, match="no classification head for the model"):
        classifiers.source(from_values({"teacher": {"model": str(odd)}}).teacher)
