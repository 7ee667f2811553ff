"""Classifiers: taught once, best weights kept, scored on what decided nothing, classes in the data's order."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    GPT2Config,
    GPT2ForSequenceClassification,
    PreTrainedTokenizerFast,
)

from kdnas.cli import COMMANDS
from kdnas.cli.frame import Lazy, run
from kdnas.data import labelled
from kdnas.data.labelled import LabelledText
from kdnas.models import class_order
from kdnas.recipes import recipe
from kdnas.students import predict
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


# ---------------------------------------------------------------------------- heads by meaning


def bench_of(place: Path, model: Path, said: list[str] | None = None, **parts: Any) -> Any:
    spec = tiny_labelled.rnn_spec(
        model, place / "data.jsonl", recipe={"name": "rnn-hybrid", "embeddings": "random"}, **parts
    )
    words: list[str] = [] if said is None else said
    return recipe("rnn-hybrid").prepare(spec, CPU, lambda line, _share: words.append(line))


@pytest.fixture(scope="module")
def taught_folder(place: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A head of (dull, fine) that is right of nearly all examples."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KDNAS_CACHE", str(place / "cache"))
        where, text = opened(place)
        folder = classifiers.taught(where, text, Settings(epochs=4, **SETTINGS), CPU, lambda *_: None)
    return Path(shutil.copytree(folder, tmp_path_factory.mktemp("taught") / "m"))


def turned(folder: Path, to: Path, **tables: Any) -> Path:
    """The same classifier with its two rows the other way round, and its labels as given."""
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    with torch.no_grad():
        for parameter in model.classifier.parameters():
            parameter.copy_(parameter.flip(0))
    shutil.copytree(folder, to)
    model.save_pretrained(to)
    values = json.loads((to / "config.json").read_text())
    values = {n: v for n, v in values.items() if n not in ("id2label", "label2id")} | tables
    (to / "config.json").write_text(json.dumps(values))
    return to


@pytest.mark.parametrize(
    "tables",
    [
        {"id2label": {"0": "fine", "1": "dull"}},
        {"label2id": {"fine": 0, "dull": 1}},
        {"id2label": {"0": "fine", "1": "dull"}, "label2id": {"fine": 1, "dull": 0}},  # stale
    ],
)
def test_the_order_comes_from_id2label_else_label2id(
    place: Path, taught_folder: Path, tmp_path: Path, tables: dict[str, Any]
) -> None:
    bench = bench_of(place, turned(taught_folder, tmp_path / "m", **tables))
    assert bench.provenance()["teacher_accuracy"] > 0.8 and not bench.warnings


def test_a_head_without_names_is_checked_by_the_held_out_part(place: Path, taught_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"LABEL_1 is 'dull'.*id2label"):
        bench_of(place, turned(taught_folder, tmp_path / "turned"))
    straight = turned(turned(taught_folder, tmp_path / "once"), tmp_path / "twice")
    assert bench_of(place, straight).provenance()["teacher_accuracy"] > 0.8


def test_a_teacher_below_the_commonest_class_is_warned_of(place: Path, taught_folder: Path, tmp_path: Path) -> None:
    said: list[str] = []
    wrong = turned(taught_folder, tmp_path / "m", id2label={"0": "dull", "1": "fine"})
    bench = bench_of(place, wrong, said)
    assert any("worse than always saying the commonest class" in line for line in said)
    assert bench.provenance()["warnings"] == list(bench.warnings) != []


def test_a_head_of_several_labels_at_once_is_no_teacher(place: Path, taught_folder: Path, tmp_path: Path) -> None:
    tables = {"id2label": {"0": "fine", "1": "dull"}, "problem_type": "multi_label_classification"}
    with pytest.raises(UsageError, match="does not choose one of several labels"):
        bench_of(place, turned(taught_folder, tmp_path / "m", **tables))


def test_a_head_that_is_taught_on_begins_with_its_rows_in_the_datas_order(
    place: Path, taught_folder: Path, tmp_path: Path
) -> None:
    folder = turned(taught_folder, tmp_path / "m", id2label={"0": "fine", "1": "dull"})
    where, text = opened(place, model=str(folder))
    task = classifiers.task(where, text, CPU, 0)
    assert task.head() == set() and task.score()["accuracy"] > 0.8


# ---------------------------------------------------------------------------- decoders that classify


def decoder(folder: Path, examples: list[tuple[str, str]]) -> Path:
    """A GPT-2 that was taught, one text at a time, which word a text ends with; without a pad token anywhere."""
    words = ["so", "it", "was", "good", "bad", *(f"film{place}" for place in range(160))]
    inner = Tokenizer(models.WordLevel({w: i for i, w in enumerate([*words, "<unk>", "<end>"])}, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="<unk>", eos_token="<end>", bos_token="<end>")
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    sizes = {"vocab_size": len(words) + 2, "n_positions": 32, "n_embd": 16, "n_layer": 1, "n_head": 2}
    config = GPT2Config(
        **sizes, bos_token_id=len(words) + 1, eos_token_id=len(words) + 1, id2label={0: "neg", 1: "pos"}
    )
    model = GPT2ForSequenceClassification(config)
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(4):
        for text, label in examples[:80]:
            ids = torch.tensor([tokenizer(text)["input_ids"]])
            model(input_ids=ids, labels=torch.tensor([("neg", "pos").index(label)])).loss.backward()
            optimiser.step()
            optimiser.zero_grad()
    model.config.problem_type = None
    model.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("longest", [12, 0])
def test_a_decoder_reads_the_last_word_of_short_texts_and_not_their_padding(
    place: Path, tmp_path: Path, longest: int
) -> None:
    """With `longest` 0 all texts are two words: nothing stands between their first and last tokens."""
    rng = np.random.default_rng(0)
    ends = [("bad", "neg"), ("good", "pos")]
    rows = [
        (
            " ".join([f"film{i}", *rng.choice(["so", "it", "was"], rng.integers(0, longest + 1)), ends[i % 2][0]]),
            ends[i % 2][1],
        )
        for i in range(160)
    ]
    folder = decoder(tmp_path / "m", rows)
    lines = [json.dumps({"text": text, "label": label}) for text, label in rows]
    (tmp_path / "data.jsonl").write_text("\n".join(lines))
    bench = bench_of(tmp_path, folder)
    assert bench.provenance()["teacher_accuracy"] > 0.9
    assert bench._timed["input_ids"].shape == (1, 16)
    model, tokenizer = predict.open_model(folder, CPU)
    found = predict.predict(model, tokenizer, [text for text, _ in rows[:20]], lambda *_: None)
    alone = GPT2ForSequenceClassification.from_pretrained(folder).eval()
    for one in found:
        with torch.no_grad():
            logits = alone(input_ids=torch.tensor([tokenizer(one.text)["input_ids"]])).logits
        assert one.label == ("neg", "pos")[int(logits.argmax())]
        assert one.probability == pytest.approx(float(logits.softmax(-1).max()), abs=1e-5)
