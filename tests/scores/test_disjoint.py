"""No score is of a text that was trained on, and the teacher beside a student is the one that taught it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForSequenceClassification

from kdnas.data import labelled
from kdnas.data.documents import same_text
from kdnas.data.glue import OWN, TASKS, load
from kdnas.recipes import rnn_hybrid
from kdnas.scores import finetuned_tasks, score_folder
from kdnas.scores.finetuning import FineTuning
from kdnas.scores.labels import label_scores
from kdnas.scores.perplexity import PerplexityProtocol, perplexity
from kdnas.scores.score_folder import Wanted
from kdnas.scores.training_texts import seen_by
from kdnas.students.finalize import Telling, distil
from kdnas.students.from_config import given
from kdnas.students.model_folder import read_facts
from kdnas.study.spec import DataSpec, StudySpec, from_values
from kdnas.system.errors import UsageError
from kdnas.system.progress import Note
from tests.recipes.tiny_labelled import examples, rnn_spec
from tests.scores.films import put_films
from tests.scores.test_finetuned_tasks import write_task
from tests.tiny import WORDS, tiny_folder

CPU = torch.device("cpu")
QUICK = FineTuning(batch_size=8, learning_rate=1e-3, seeds=(0,))
RNN = {"cell": "lstm", "num_hidden_layers": 1, "hidden_size": 16, "embedding_size": 8, "dropout": 0.1, "pruned": 0.0}
BERT = {
    "num_hidden_layers": 1,
    "hidden_size": 16,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "hidden_act": "relu",
}


def quiet(words: str, share: float | None) -> None:
    return None


@pytest.fixture(autouse=True)
def _short_profile(monkeypatch: pytest.MonkeyPatch) -> None:
    """A third of what a student takes here is torch's profiler, which reads every operation of each pass."""
    monkeypatch.setattr(rnn_hybrid, "PROFILED", 2)


def student_of(spec: StudySpec, config: dict[str, Any], folder: Path) -> Path:
    distil(given(spec, config), folder, Telling(quiet), device="cpu")
    return folder


def labelled_student(folder: Path, source: str, **data: Any) -> tuple[Path, set[str]]:
    """A recurrent student of a labelled source, and the keys of the texts that its study trained on."""
    teacher = tiny_folder(folder / "teacher")
    spec = rnn_spec(
        teacher,
        Path(source),
        data={"source": source, **data},
        recipe={"teacher_rate": 1e-2, "teacher_head_rate": 5e-2, "teacher_epochs": 5},
        full={"epochs": 1, "patience": 1},
    )
    student = student_of(spec, RNN, folder / "student")
    from kdnas.data import documents

    rows = documents.read(spec.data, labelled=True)
    _, labels = labelled.classes(rows)
    _, train = labelled.sides(rows, labels, spec.data)
    return student, {same_text(rows.texts[row]) for row in train}


class Recorded:
    """What every fine-tuning of an evaluation was given, beside the real thing."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.scored: set[str] = set()
        self.trained: set[str] = set()
        self.folders: set[Path] = set()
        run = finetuned_tasks.score_once

        def recorded(folder: Path, task: Any, splits: Any, *rest: Any) -> dict[str, float]:
            self.folders.add(folder)
            for name, split in splits.items():
                (self.trained if name == "train" else self.scored).update(key[0] for key in split.keys)
            return run(folder, task, splits, *rest)

        monkeypatch.setattr(finetuned_tasks, "score_once", recorded)


# ---------------------------------------------------------------- evaluate


def test_a_film_students_default_score_is_of_films_that_its_study_held_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = put_films(tmp_path / "cache", monkeypatch)
    student, trained = labelled_student(tmp_path, OWN, label_column="category", held_out=0.3, max_held_out=8)
    seen = Recorded(monkeypatch)
    result = score_folder.score(student, Wanted(protocol=QUICK, device="cpu"), quiet)
    assert seen.scored and not seen.scored & trained and not seen.scored & seen.trained
    assert seen.scored | trained == {same_text(words) for _, _, words in rows}
    films = {same_text(words): film for _, film, words in rows if words.islower()}
    assert not {films[key] for key in seen.scored} & {films[key] for key in trained}
    assert len(seen.folders) == 2 and result["tasks"][OWN]["examples"]["validation"] == len(seen.scored)


def test_the_teacher_beside_a_taught_student_is_the_taught_teacher(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_films(tmp_path / "cache", monkeypatch)
    student, _ = labelled_student(tmp_path, OWN, label_column="category")
    seen = Recorded(monkeypatch)
    score_folder.score(student, Wanted(protocol=QUICK, device="cpu"), quiet)
    (beside,) = seen.folders - {student}
    assert beside != tmp_path / "teacher"
    assert AutoModelForSequenceClassification.from_pretrained(beside).config.id2label == {0: "fresh", 1: "rotten"}


def test_the_teacher_beside_a_student_of_a_checkpoint_is_that_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KDNAS_CACHE", str(tmp_path / "cache"))
    headed = tiny_folder(tmp_path / "headed", labels=2, seed=5)
    config = json.loads((headed / "config.json").read_text())
    names = {"id2label": {"0": "dull", "1": "fine"}, "label2id": {"dull": 0, "fine": 1}}
    (headed / "config.json").write_text(json.dumps(config | names))
    model: Any = AutoModelForSequenceClassification.from_pretrained(headed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 2:
                parameter.normal_(0, 0.5, generator=torch.Generator().manual_seed(parameter.numel()))
    model.save_pretrained(headed)
    teacher = tiny_folder(tmp_path / "teacher")
    data = examples(tmp_path / "rows.jsonl", 120)
    part = {"model": str(teacher), "checkpoint": str(headed)}
    student = student_of(
        rnn_spec(teacher, data, teacher=part, full={"epochs": 1, "patience": 1}), RNN, tmp_path / "student"
    )
    write_task(tmp_path / "data", "sst2")
    seen = Recorded(monkeypatch)
    wanted = Wanted(tasks=("sst2",), protocol=QUICK, device="cpu", data_dir=tmp_path / "data")
    score_folder.score(student, wanted, quiet)
    assert seen.folders == {student, headed}


def test_the_teacher_beside_a_student_of_hidden_states_is_the_studys_checkpoint_too(tmp_path: Path) -> None:
    spec = from_values({"teacher": {"model": str(tmp_path / "base"), "checkpoint": str(tmp_path / "taught")}})
    tiny_folder(tmp_path / "base")
    tiny_folder(tmp_path / "taught", seed=5)
    facts = {"spec": spec.model_dump(mode="json")}
    assert score_folder.teacher_of(None, facts, CPU, quiet) == tmp_path / "taught"
    assert score_folder.teacher_of(str(tmp_path / "base"), facts, CPU, quiet) == tmp_path / "base"


def test_rows_of_a_csv_that_a_student_was_trained_on_are_not_scored_and_are_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = put_films(tmp_path / "cache", monkeypatch)
    source = tmp_path / "mine.csv"
    lines = [f"  {words.upper()},{label}" for label, _, words in rows[: len(rows) // 2]]
    source.write_text("text,label\n" + "\n".join(lines) + "\n")
    student, trained = labelled_student(tmp_path, str(source))
    seen = Recorded(monkeypatch)
    said: list[str] = []
    wanted = Wanted(protocol=QUICK, device="cpu", teacher="")
    result = score_folder.score(student, wanted, lambda words, _: said.append(words))
    assert seen.scored and not seen.scored & trained and not seen.scored & seen.trained
    plain = load(TASKS[OWN])["validation"]
    left = sum(key[0] in trained for key in plain.keys)
    assert left and result["tasks"][OWN]["left_out"]["validation"] == left
    assert any(isinstance(words, Note) and f"{left:,} example(s) of validation" in words for words in said)
    assert f"{left:,} of {OWN}" in result["markdown"]


def test_a_task_whose_every_example_was_trained_on_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KDNAS_CACHE", str(tmp_path / "cache"))
    student, trained = labelled_student(tmp_path, str(examples(tmp_path / "rows.jsonl", 120)))
    place = tmp_path / "data" / "sst2"
    place.mkdir(parents=True)
    some = sorted(trained)[:10]
    for name, texts in (("validation", some), ("train", ["another good film"])):
        rows = [{"sentence": text, "label": n % 2} for n, text in enumerate(texts)]
        (place / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(UsageError, match="trained on all 10 examples of sst2's validation split"):
        finetuned_tasks.evaluate(student, None, [TASKS["sst2"]], QUICK, CPU, quiet, tmp_path / "data")


def test_what_is_scored_is_not_trained_on_within_a_task_either(tmp_path: Path) -> None:
    folder = write_task(tmp_path, "sst2")
    again = (folder / "sst2" / "validation.jsonl").read_text().splitlines()[:5]
    with (folder / "sst2" / "train.jsonl").open("a") as file:
        file.write("\n".join(again) + "\n")
    splits = load(TASKS["sst2"], folder)
    assert len(splits["validation"]) == 24 and splits["train"].left_out == 5
    assert not set(splits["train"].keys) & set(splits["validation"].keys)


def test_data_that_cannot_be_read_any_more_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KDNAS_CACHE", str(tmp_path / "cache"))
    data = examples(tmp_path / "rows.jsonl", 120)
    student, trained = labelled_student(tmp_path, str(data))
    said: list[str] = []
    assert seen_by([student], lambda words, _: said.append(words)).trained == trained and not said
    data.write_text(data.read_text() + '{"text": "one more", "label": "fine"}\n')
    seen_by([student], lambda words, _: said.append(words))
    assert "has changed since" in said.pop()
    data.unlink()
    assert not seen_by([student], lambda words, _: said.append(words)).trained
    assert "cannot be read" in said.pop()


# ---------------------------------------------------------------- labels and perplexity


def test_labels_of_a_changed_source_are_refused_and_other_rows_leave_out_what_was_learned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KDNAS_CACHE", str(tmp_path / "cache"))
    data = examples(tmp_path / "rows.jsonl", 160)
    student, trained = labelled_student(tmp_path, str(data))
    facts = read_facts(student)
    spec = from_values(facts["spec"])
    found = label_scores(student, facts, spec.data, CPU, quiet)
    rows = [json.loads(line) for line in data.read_text().splitlines()]
    unseen = [row for row in rows if same_text(row["text"]) not in trained]
    assert found["examples"] == len(unseen) and found["left_out"] == len(rows) - len(unseen)
    assert label_scores(student, facts, None, CPU, quiet)["left_out"] == 0
    data.write_text("\n".join(map(json.dumps, reversed(rows))))
    with pytest.raises(UsageError, match="is not the one that the study was made with"):
        label_scores(student, facts, None, CPU, quiet, beside=False)


def test_perplexity_is_of_documents_that_the_study_held_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KDNAS_CACHE", str(tmp_path / "cache"))
    teacher = tiny_folder(tmp_path / "teacher")
    rng = np.random.default_rng(0)
    texts = [" ".join(rng.choice(WORDS, 40)) for _ in range(60)]
    (tmp_path / "text.txt").write_text("\n\n".join(texts))
    data = {"source": str(tmp_path / "text.txt"), "length": 16, "batch_size": 8, "held_out": 0.1, "max_held_out": 8}
    spec = from_values(
        {
            "device": "cpu",
            "teacher": {"model": str(teacher)},
            "data": data,
            "latency": {"length": 16, "precision": 0.5, "max_seconds": 0.02},
            "full": {"epochs": 1},
        }
    )
    student = student_of(spec, BERT, tmp_path / "student")
    short = PerplexityProtocol(length=16, batch_size=8, steps=2)
    assert perplexity(student, None, spec.data, CPU, quiet, short)["student"]["left_out"] == 0
    # The same texts in another file, of which another share is held out.
    (tmp_path / "again.txt").write_text("\n\n".join(text.upper() for text in texts))
    other = DataSpec(source=str(tmp_path / "again.txt"), held_out=0.5)
    found = perplexity(student, None, other, CPU, quiet, short)["student"]
    assert found["left_out"] >= 20 and found["tokens"] > 0
    seen = seen_by([student], quiet).trained
    (tmp_path / "seen.txt").write_text("\n\n".join(text for text in texts if same_text(text) in seen))
    with pytest.raises(UsageError, match="trained on all"):
        perplexity(student, None, DataSpec(source=str(tmp_path / "seen.txt"), held_out=0.5), CPU, quiet, short)
