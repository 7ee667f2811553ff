"""Predictions: the labels that the model gives, in the order of the texts, and one line for what cannot be."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from kdnas.cli.predict import predict as command
from kdnas.measuring import metrics
from kdnas.students import predict
from kdnas.system.errors import UsageError
from tests.tiny import tiny_folder

TEXTS = ["the good film", "a", "a bad dull plot was not it and the scene is very fine", "not good"]


def named(folder: Path) -> Path:
    """A classifier whose labels have names and whose head tells them apart."""
    tiny_folder(folder, labels=3)
    model: Any = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32)
    model.config.id2label = {0: "bad", 1: "good", 2: "odd"}
    model.config.label2id = {"bad": 0, "good": 1, "odd": 2}
    with torch.no_grad():
        model.classifier.weight.mul_(100)
    model.save_pretrained(folder)
    return folder


def run(*arguments: object) -> Any:
    return CliRunner().invoke(command, [str(a) for a in arguments], catch_exceptions=True)


def test_each_text_gets_its_own_label_and_probabilities_in_order(tmp_path: Path) -> None:
    folder = named(tmp_path / "m")
    model: Any = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32).eval()
    words = AutoTokenizer.from_pretrained(folder)
    with torch.inference_mode():
        alone = torch.cat([model(**words(text, return_tensors="pt")).logits for text in TEXTS]).softmax(-1)
    opened, tokenizer = predict.open_model(folder, torch.device("cpu"))
    found = predict.predict(opened, tokenizer, TEXTS, lambda words, share: None, batch_size=2)
    assert [one.text for one in found] == TEXTS
    assert [one.label for one in found] == [("bad", "good", "odd")[i] for i in alone.argmax(-1)]
    for one, row in zip(found, alone, strict=True):
        assert list(one.probabilities) == ["bad", "good", "odd"]
        assert list(one.probabilities.values()) == pytest.approx(row.tolist(), abs=1e-5)
        assert one.probability == max(one.probabilities.values())


def test_a_file_gives_a_record_for_every_row_also_for_one_without_text(tmp_path: Path) -> None:
    folder = named(tmp_path / "m")
    (tmp_path / "t.csv").write_text('review\nthe good film\n""\na bad plot\n')
    done = run(folder, "--data", tmp_path / "t.csv", "--text-column", "review")
    assert done.exit_code == 0 and "1 row(s) without text are left out." in done.stderr
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [row["text"] for row in rows] == ["the good film", "", "a bad plot"]
    assert rows[1] == {"text": "", "label": None, "probability": None, "probabilities": None}
    assert run(folder, "--text", "a film", "-o", tmp_path / "o.json").exit_code == 0
    assert json.loads((tmp_path / "o.json").read_text())[0]["text"] == "a film"


def test_bad_input_is_one_line_with_the_hint(tmp_path: Path) -> None:
    folder = named(tmp_path / "m")
    (tmp_path / "empty.csv").write_text("text,label\n")
    (tmp_path / "latin.csv").write_bytes("text\ncafé\n".encode("latin-1"))
    (tmp_path / "ok.csv").write_text("text\na\n")
    body = tiny_folder(tmp_path / "body")
    for arguments, words in (
        ((folder,), "no text to predict"),
        ((folder, "--text", "a", "--data", "b.csv"), "not both"),
        ((folder, "--text", " "), "Text 1 is empty"),
        ((folder, "--data", tmp_path / "empty.csv"), "is empty"),
        ((folder, "--data", tmp_path / "latin.csv"), "is not UTF-8"),
        ((folder, "--data", tmp_path / "ok.csv", "--text-column", "words"), "has no column 'words'"),
        ((body, "--text", "a"), "holds no classifier but BertModel"),
        ((tmp_path / "gone", "--text", "a"), "There is no folder"),
        ((folder, "--text", "a", "-o", tmp_path / "no" / "o.json"), "does not exist"),
    ):
        error = run(*arguments).exception
        assert isinstance(error, UsageError) and words in str(error) and error.hint, arguments


def test_the_confusion_table_and_its_scores_by_hand() -> None:
    labels = np.array([0, 0, 0, 1, 1, 2])
    predicted = np.array([0, 0, 1, 1, 2, 2])
    assert metrics.confusion(predicted, labels, 4).tolist() == [[2, 1, 0, 0], [0, 1, 1, 0], [0, 0, 1, 0], [0, 0, 0, 0]]
    assert metrics.accuracy(predicted, labels) == 4 / 6
    # F1 of class 0: 2·2/(2+3), of 1: 2·1/(2+2), of 2: 2·1/(2+1)
    assert metrics.macro_f1(predicted, labels) == pytest.approx((4 / 5 + 1 / 2 + 2 / 3) / 3)
