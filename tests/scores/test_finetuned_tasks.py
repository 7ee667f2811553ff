"""Task scores: metrics against known implementations, labels checked, results kept, side by side with the teacher."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn import metrics as reference
from transformers import AutoModelForSequenceClassification

from kdnas.data.glue import GLUE, TASKS, chosen, load
from kdnas.measuring.metrics import METRICS, pearson, spearman
from kdnas.scores import finetuned_tasks as scores
from kdnas.scores import finetuning, results
from kdnas.scores.finetuning import FineTuning
from kdnas.scores.perplexity import PerplexityProtocol, perplexity
from kdnas.study.spec import DataSpec
from kdnas.system.errors import UsageError
from tests.tiny import WORDS, tiny_folder

CPU = torch.device("cpu")


def quiet(words: str, share: float | None) -> None:
    return None


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_folder(tmp_path_factory.mktemp("models") / "student", layers=1)


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_folder(tmp_path_factory.mktemp("models") / "teacher", layers=2, seed=1)


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KDNAS_CACHE", str(tmp_path / "cache"))


def write_task(folder: Path, name: str, count: int = 24, suffix: str = ".jsonl", **changes: Any) -> Path:
    """A task whose label is told by one word, in GLUE's own columns."""
    task = TASKS[name]
    place = folder / name
    place.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    for split in ("train", *task.splits):
        rows = []
        for number in range(count):
            label = number % max(2, len(task.labels))
            words = (" good" if label else " bad") * 4 + " " + " ".join(rng.choice(WORDS[6:], 6))
            row = dict.fromkeys(task.columns, words) | {"label": float(label) if task.regression else label}
            rows.append(row | {"idx": number} | changes)
        if suffix == ".jsonl":
            text = "".join(json.dumps(row) + "\n" for row in rows)
        else:
            mark = "\t" if suffix == ".tsv" else ","
            text = mark.join(rows[0]) + "\n" + "".join(mark.join(map(str, row.values())) + "\n" for row in rows)
        (place / (split + suffix)).write_text(text, encoding="utf-8")
    return folder


# ------------------------------------------------------------------------------------------------------ metrics


@pytest.mark.parametrize("seed", range(5))
def test_metrics_agree_with_scikit_learn_and_scipy(seed: int) -> None:
    from scipy import stats

    rng = np.random.default_rng(seed)
    labels, predicted = rng.integers(0, 2 + seed % 2, 60), rng.integers(0, 2 + seed % 2, 60)
    assert METRICS["accuracy"](predicted, labels) == pytest.approx(reference.accuracy_score(labels, predicted))
    assert METRICS["matthews"](predicted, labels) == pytest.approx(reference.matthews_corrcoef(labels, predicted))
    macro = reference.f1_score(labels, predicted, average="macro")
    assert METRICS["macro_f1"](predicted, labels) == pytest.approx(macro)
    if seed % 2 == 0:
        assert METRICS["f1"](predicted, labels) == pytest.approx(reference.f1_score(labels, predicted))
    values = rng.normal(size=60).round(1)  # rounded, so that there are ties
    target = (values + rng.normal(size=60)).round(0)
    assert pearson(values, target) == pytest.approx(stats.pearsonr(values, target)[0])
    assert spearman(values, target) == pytest.approx(stats.spearmanr(values, target)[0])


def test_a_constant_prediction_gives_zero_and_no_warning(recwarn: pytest.WarningsRecorder) -> None:
    labels, same = np.array([0, 1, 1, 0]), np.zeros(4, dtype=np.int64)
    assert METRICS["f1"](same, labels) == 0.0
    assert METRICS["matthews"](same, labels) == 0.0
    assert pearson(same.astype(float), labels.astype(float)) == 0.0
    assert not recwarn.list


# -------------------------------------------------------------------------------------------------------- tasks


def test_glue_is_its_nine_tasks() -> None:
    assert set(GLUE) == {"cola", "sst2", "mrpc", "stsb", "qqp", "mnli", "qnli", "rte", "wnli"}
    assert [task.name for task in chosen(["glue", "sst2"])] == list(GLUE)


def test_an_unknown_task_names_the_nearest() -> None:
    with pytest.raises(UsageError, match=r"no task 'sst-2'\. Did you mean 'sst2'"):
        chosen(["sst-2"])


@pytest.mark.parametrize("name", GLUE)
@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".tsv"])
def test_every_task_reads_local_files_in_its_own_columns(name: str, suffix: str, tmp_path: Path) -> None:
    splits = load(TASKS[name], write_task(tmp_path, name, suffix=suffix))
    assert set(splits) == {"train", *TASKS[name].splits}
    assert all(len(split) == 24 and len(split.texts) == len(TASKS[name].columns) for split in splits.values())
    assert splits["train"].labels.dtype == (np.float64 if TASKS[name].regression else np.int64)


def test_labels_may_be_given_by_name(tmp_path: Path) -> None:
    assert set(load(TASKS["rte"], write_task(tmp_path, "rte", label="not_entailment"))["train"].labels) == {1}


@pytest.mark.parametrize(
    ("label", "said"),
    [
        (-1, r"has the label -1 in row 1 .*\. sst2 needs 0 to 1, or negative, positive"),
        (2, "has the label 2"),
        (0.5, "has the label 0.5"),
        ("great", "has the label 'great'"),
        (None, "has no label in row 1"),
        ("", "has no label in row 1"),
        (True, None),
    ],
)
def test_labels_missing_or_out_of_range_are_named(label: Any, said: str | None, tmp_path: Path) -> None:
    folder = write_task(tmp_path, "sst2", label=label)
    if said is None:
        assert load(TASKS["sst2"], folder)["train"].labels.tolist() == [1] * 24
        return
    with pytest.raises(UsageError, match=said):
        load(TASKS["sst2"], folder)


@pytest.mark.parametrize("label", [-1.0, 5.5, float("nan"), "high"])
def test_a_similarity_out_of_range_is_named(label: Any, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="stsb needs 0 to 5"):
        load(TASKS["stsb"], write_task(tmp_path, "stsb", label=label))


def test_missing_files_columns_and_broken_ones_say_the_hint(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no folder .*sst2\. Put train.jsonl"):
        load(TASKS["sst2"], tmp_path)
    folder = write_task(tmp_path, "sst2")
    (folder / "sst2" / "validation.jsonl").unlink()
    with pytest.raises(UsageError, match="holds no validation split"):
        load(TASKS["sst2"], folder)
    write_task(tmp_path, "qnli", suffix=".csv")
    (folder / "qnli" / "train.csv").write_text("question,text,label\na,b,0\n")
    with pytest.raises(UsageError, match=r"no column 'sentence'.*qnli needs question, sentence, label"):
        load(TASKS["qnli"], folder)
    (folder / "qnli" / "train.csv").write_bytes("question,sentence,label\ncaf\xe9,b,0\n".encode("latin-1"))
    with pytest.raises(UsageError, match="not UTF-8"):
        load(TASKS["qnli"], folder)
    (folder / "qnli" / "train.csv").write_text("")
    with pytest.raises(UsageError, match="is empty"):
        load(TASKS["qnli"], folder)
    (folder / "qnli" / "train.csv").unlink()
    (folder / "qnli" / "train.jsonl").write_text("{not json\n")
    with pytest.raises(UsageError, match="is no JSON"):
        load(TASKS["qnli"], folder)


def test_dev_is_taken_for_validation(tmp_path: Path) -> None:
    folder = write_task(tmp_path, "sst2")
    (folder / "sst2" / "validation.jsonl").rename(folder / "sst2" / "dev.jsonl")
    assert len(load(TASKS["sst2"], folder)["validation"]) == 24


# ------------------------------------------------------------------------------------------------------- scores


FAST = FineTuning(learning_rate=2e-2, batch_size=8, seeds=(0, 1, 2))


def test_teacher_and_student_stand_side_by_side_with_the_share_kept(
    student: Path, teacher: Path, tmp_path: Path
) -> None:
    data = write_task(write_task(tmp_path / "data", "sst2"), "stsb")
    told: list[tuple[str, float | None]] = []
    found = scores.evaluate(
        student,
        teacher,
        chosen(["sst2", "stsb"]),
        FAST,
        CPU,
        lambda *said: told.append(said),
        tmp_path / "data",
    )
    assert data.is_dir()
    for entry in found["tasks"].values():
        assert len(entry["student"]["seeds"]) == len(entry["teacher"]["seeds"]) == 3
        assert entry["student"]["score"] == sorted(run["score"] for run in entry["student"]["seeds"])[1]
    assert found["tasks"]["sst2"]["student"]["metrics"].keys() == {"accuracy"}
    assert found["tasks"]["stsb"]["teacher"]["metrics"].keys() == {"pearson", "spearman"}
    shares = [share for _, share in told if share is not None]
    assert shares == sorted(shares) and shares[-1] == 1.0

    path = tmp_path / "results.json"
    whole = results.merged(found, path)
    results.write(whole, path)
    assert json.loads(path.read_text())["average"]["kept"] == whole["average"]["kept"]
    table = path.with_suffix(".md").read_text()
    assert "| sst2 | accuracy |" in table and "| **average** |" in table and "median of 3 seed(s)" in table


def test_fine_tuning_learns_what_can_be_learnt(student: Path, tmp_path: Path) -> None:
    write_task(tmp_path / "data", "sst2", count=256)
    gentle = replace(FAST, learning_rate=5e-3, seeds=(0,))
    found = scores.evaluate(student, None, chosen(["sst2"]), gentle, CPU, quiet, tmp_path / "data")
    assert found["tasks"]["sst2"]["student"]["score"] > 0.9
    assert found["tasks"]["sst2"]["kept"] is None and found["teacher"] is None


def test_an_evaluation_cut_off_goes_on_where_it_was(
    student: Path, teacher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_task(tmp_path / "data", "sst2")
    run, two = scores.score_once, replace(FAST, seeds=(0, 1))
    ran: list[tuple[Path, int]] = []

    def counted(folder: Path, task: Any, splits: Any, seed: int, *rest: Any) -> dict[str, float]:
        if len(ran) == 3:
            raise KeyboardInterrupt
        ran.append((folder, seed))
        return run(folder, task, splits, seed, *rest)

    monkeypatch.setattr(scores, "score_once", counted)
    with pytest.raises(KeyboardInterrupt):
        scores.evaluate(student, teacher, chosen(["sst2"]), two, CPU, quiet, tmp_path / "data")
    monkeypatch.setattr(scores, "score_once", lambda *given: (ran.append((given[0], given[3])), run(*given))[1])
    found = scores.evaluate(student, teacher, chosen(["sst2"]), two, CPU, quiet, tmp_path / "data")
    assert sorted(ran) == sorted((folder, seed) for folder in (student, teacher) for seed in two.seeds)

    monkeypatch.setenv("KDNAS_CACHE", str(tmp_path / "another"))
    monkeypatch.setattr(scores, "score_once", run)
    again = scores.evaluate(student, teacher, chosen(["sst2"]), two, CPU, quiet, tmp_path / "data")
    drop = ("seconds",)
    for who in ("student", "teacher"):
        first, second = (
            [{k: v for k, v in r.items() if k not in drop} for r in each["tasks"]["sst2"][who]["seeds"]]
            for each in (found, again)
        )
        assert first == second


def test_without_finetuning_the_models_own_head_is_scored_by_its_label_names(tmp_path: Path) -> None:
    write_task(tmp_path / "data", "sst2")
    model = tiny_folder(tmp_path / "headed", labels=2)
    plain = FineTuning(finetune=False)
    first = scores.evaluate(model, None, chosen(["sst2"]), plain, CPU, quiet, tmp_path / "data")
    config = json.loads((model / "config.json").read_text())
    swapped = config | {"id2label": {"0": "positive", "1": "negative"}, "label2id": {"positive": 0, "negative": 1}}
    (model / "config.json").write_text(json.dumps(swapped))
    second = scores.evaluate(model, None, chosen(["sst2"]), plain, CPU, quiet, tmp_path / "data")
    own, other = (found["tasks"]["sst2"]["student"]["score"] for found in (first, second))
    assert own == pytest.approx(1 - other)


def test_a_head_that_names_the_labels_in_another_order_begins_in_the_tasks(tmp_path: Path) -> None:
    model = tiny_folder(tmp_path / "headed", labels=2)
    own = AutoModelForSequenceClassification.from_pretrained(model).state_dict()
    config = json.loads((model / "config.json").read_text())
    for names, order in ((("negative", "positive"), [0, 1]), (("positive", "negative"), [1, 0]), (("a", "b"), [0, 1])):
        labels = {"id2label": dict(enumerate(names)), "label2id": {name: i for i, name in enumerate(names)}}
        (model / "config.json").write_text(json.dumps(config | labels))
        made = finetuning._classifier(model, TASKS["sst2"], FineTuning())
        assert torch.equal(made.classifier.weight, own["classifier.weight"][order])
        assert torch.equal(made.classifier.bias, own["classifier.bias"][order])


def test_without_finetuning_a_body_or_another_head_is_refused(student: Path, tmp_path: Path) -> None:
    write_task(tmp_path / "data", "sst2")
    plain = FineTuning(finetune=False)
    with pytest.raises(UsageError, match=r"no classification head.*Leave out --no-finetune"):
        scores.evaluate(student, None, chosen(["sst2"]), plain, CPU, quiet, tmp_path / "data")
    three = tiny_folder(tmp_path / "three", labels=3)
    with pytest.raises(UsageError, match="tells 3 labels apart; sst2 has 2"):
        scores.evaluate(three, None, chosen(["sst2"]), plain, CPU, quiet, tmp_path / "data")


def test_a_folder_that_is_no_model_is_refused_before_anything_runs(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for folder, said in (
        (tmp_path / "nowhere", "There is no folder"),
        (tmp_path / "empty", "no config.json"),
    ):
        with pytest.raises(UsageError, match=said):
            scores.evaluate(folder, None, chosen(["sst2"]), FAST, CPU, quiet, tmp_path)
    (tmp_path / "empty" / "config.json").write_text("{}")
    with pytest.raises(UsageError, match="it has no weights"):
        scores.evaluate(tmp_path / "empty", None, chosen(["sst2"]), FAST, CPU, quiet, tmp_path)


def test_results_of_the_same_models_are_merged_and_others_replaced(tmp_path: Path) -> None:
    def result(task: str, model: str) -> dict[str, Any]:
        return {
            "format": results.FORMAT,
            "model": {"fingerprint": model},
            "teacher": None,
            "protocol": FAST.values(),
            "tasks": {task: {"student": {"score": 0.5, "metrics": {"accuracy": 0.5}}, "kept": None}},
        }

    path = tmp_path / "results.json"
    results.write(results.merged(result("sst2", "a"), path), path)
    both = results.merged(result("rte", "a"), path)
    assert list(both["tasks"]) == ["sst2", "rte"] and both["average"]["student"]["score"] == 0.5
    assert list(results.merged(result("rte", "b"), path)["tasks"]) == ["rte"]


# --------------------------------------------------------------------------------------------------- perplexity


def text_file(folder: Path) -> DataSpec:
    rng = np.random.default_rng(0)
    lines = [" ".join(rng.choice(WORDS, 40, p=np.arange(1, len(WORDS) + 1) / 120)) for _ in range(120)]
    (folder / "text.txt").write_text("\n\n".join(lines))
    return DataSpec(source=str(folder / "text.txt"), held_out=0.2)


SHORT = PerplexityProtocol(length=32, batch_size=8, steps=40)


def test_a_bare_body_gets_a_head_and_beats_a_uniform_guess(student: Path, teacher: Path, tmp_path: Path) -> None:
    found = perplexity(student, teacher, text_file(tmp_path), CPU, quiet, SHORT)
    for who in ("student", "teacher"):
        assert 1.0 < found[who]["perplexity"] < len(WORDS)
        assert found[who]["own_head"] is False
    assert found["student"]["tokens"] == found["teacher"]["tokens"]
    assert "the body frozen" in found["how"]
    again = perplexity(student, None, text_file(tmp_path), CPU, quiet, SHORT)
    assert again["student"]["loss"] == found["student"]["loss"]


def test_a_model_with_a_masked_language_head_is_scored_as_it_is(tmp_path: Path) -> None:
    from transformers import AutoConfig, AutoModelForMaskedLM

    folder = tiny_folder(tmp_path / "mlm")
    torch.manual_seed(0)
    AutoModelForMaskedLM.from_config(AutoConfig.from_pretrained(folder)).save_pretrained(folder)
    found = perplexity(folder, None, text_file(tmp_path), CPU, quiet, SHORT)
    assert found["student"]["own_head"] is True and "head tied" not in found["how"]
