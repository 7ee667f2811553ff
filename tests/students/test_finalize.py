"""Full distillation: what the folder holds, how it survives death, and what it says to a wrong request."""

from __future__ import annotations

import json
import os
import resource
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from kdnas.cli.finalize import _of_gguf
from kdnas.models import least_squares_init
from kdnas.models.onnx import Exported
from kdnas.recipes.hidden_state import HiddenStateBench
from kdnas.students import best_epoch, extras, finalize, unfinished
from kdnas.students import distil as distillation
from kdnas.students import model_folder as folders
from kdnas.students.distil import Job, Telling, distil, weights_digest
from kdnas.students.extras import Extras
from kdnas.students.from_config import given, read_config
from kdnas.study.spec import StudySpec, from_values
from kdnas.system.errors import KdnasError, UsageError
from kdnas.system.folders import partial_of
from kdnas.training import checkpoints
from kdnas.training.contract import Epoch, OnStep, Score, Student, Training
from tests import fakes
from tests.forks import Command
from tests.outside import Outside
from tests.tiny import WORDS, tiny_folder

ROOT = Path(__file__).resolve().parents[2]
QUIET = Telling(lambda words, share: None)
CONFIG = {
    "num_hidden_layers": 1,
    "hidden_size": 16,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "hidden_act": "relu",
}


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A tiny teacher and a little text, with a cache that the tests of this file share."""
    place = tmp_path_factory.mktemp("finalize")
    tiny_folder(place / "teacher")
    rng = np.random.default_rng(0)
    (place / "text.txt").write_text("\n\n".join(" ".join(rng.choice(WORDS, 12)) for _ in range(300)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KDNAS_CACHE", str(place / "cache"))
        patch.setenv("KDNAS_STATE", str(place / "state"))
        patch.setattr(least_squares_init, "TOKENS", 296)  # so that what is fitted in full has something left to learn
        yield place


def spec_of(shelf: Path, **parts: Any) -> StudySpec:
    values: dict[str, Any] = {
        "seed": 3,
        "device": "cpu",
        "teacher": {"model": str(shelf / "teacher")},
        "data": {"source": str(shelf / "text.txt"), "length": 32, "batch_size": 8, "max_held_out": 8},
        "latency": {"length": 32, "precision": 0.5, "max_seconds": 0.02},
        "full": {"epochs": 3},
    }
    return from_values({**values, **parts})


def job_of(shelf: Path, **parts: Any) -> Job:
    return given(spec_of(shelf, **parts), CONFIG)


@pytest.fixture(scope="module")
def made(shelf: Path) -> tuple[Path, dict[str, Any], list[Epoch]]:
    """One finished folder, what `distil` said of it, and the epochs it told."""
    told: list[Epoch] = []
    output = shelf / "student"
    facts = distil(job_of(shelf), output, Telling(QUIET.on_progress, told.append), device="cpu")
    return output, facts, told


# ------------------------------------------------------------------------------------------------- the folder


def test_the_folder_opens_offline_where_there_is_no_kdnas(
    made: tuple[Path, Any, Any], tmp_path: Path, outside: Outside
) -> None:
    code = f"""
import sys
sys.modules["kdnas"] = None
from transformers import AutoModel, AutoTokenizer
tokenizer = AutoTokenizer.from_pretrained({str(made[0])!r})
model, report = AutoModel.from_pretrained({str(made[0])!r}, output_loading_info=True)
assert not report["missing_keys"] and not report["unexpected_keys"], report
out = model(**tokenizer(["the good film", "a dull plot was not it"], padding=True, return_tensors="pt"))
print(tuple(out.last_hidden_state.shape), model.dtype, model.config.num_hidden_layers)
"""
    done = outside.run(code, tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "(2, 8, 16) torch.float32 1"


def test_nothing_that_only_training_needed_is_in_the_folder(made: tuple[Path, Any, Any]) -> None:
    output, facts, _ = made
    names = load_file(output / "model.safetensors")
    assert not [name for name in names if "aid" in name or "projection" in name]
    assert {str(tensor.dtype) for tensor in names.values()} == {f"torch.{facts['dtype']}"}
    assert json.loads((output / "config.json").read_text())["dtype"] == facts["dtype"] == "float32"
    assert not partial_of(output).exists()
    modes = {path.name: oct(path.stat().st_mode & 0o777) for path in output.iterdir()}
    assert len(set(modes.values())) == 1, modes


def test_kdnas_json_says_where_the_model_comes_from(made: tuple[Path, Any, Any], shelf: Path) -> None:
    output, facts, told = made
    kept = folders.read_facts(output)
    assert kept == json.loads(json.dumps(facts))
    assert from_values(kept["spec"]) == job_of(shelf).spec
    assert kept["candidate"] == CONFIG
    assert kept["config"]["model_type"] == "bert"
    assert len(kept["teacher"]["fingerprint"]) > 20 and len(kept["data"]["fingerprint"]) > 20
    assert torch.__version__.startswith(kept["versions"]["torch"].split("+")[0])
    assert [epoch.epoch for epoch in told] == [0, 1, 2, 3] == [point["epoch"] for point in kept["metrics"]["history"]]
    assert kept["metrics"]["loss"] == min(point["loss"] for point in kept["metrics"]["history"])
    assert kept["latency"]["speedup"] > 0 and kept["latency"]["device"].startswith("cpu")
    words = (output / "README.md").read_text()
    assert str(shelf) not in words
    for part in (
        "distilled from `teacher` on `text.txt`",
        "## Use",
        "AutoModel",
        kept["teacher"]["fingerprint"],
        "seed",
    ):
        assert part in words


def test_the_same_command_again_finds_it_finished(made: tuple[Path, Any, Any], shelf: Path) -> None:
    said: list[str] = []
    again = distil(job_of(shelf), made[0], Telling(lambda words, _: said.append(words)), device="cpu")
    assert again == json.loads(json.dumps(made[1]))
    assert any("finished already" in words for words in said)


def test_the_folder_goes_on_to_a_classifier(made: tuple[Path, Any, Any], tmp_path: Path) -> None:
    # What Hugging Face's run_glue.py does first and last.
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    model = AutoModelForSequenceClassification.from_pretrained(made[0], num_labels=3)
    tokenizer = AutoTokenizer.from_pretrained(made[0], use_fast=True)
    batch = tokenizer(["the film"], ["was good"], padding="max_length", max_length=16, return_tensors="pt")
    assert model(**batch, labels=torch.tensor([2])).loss.requires_grad
    model.save_pretrained(tmp_path / "classifier")


# ------------------------------------------------------------------------------------------ death and resumption


def run_kills(shelf: Path, place: Path, kills: int, seed: int) -> dict[str, Any]:
    from kdnas.study.spec_toml import to_toml

    (place / "spec.toml").write_text(to_toml(spec_of(shelf, full={"epochs": 6, "patience": 6})))
    (place / "config.json").write_text(json.dumps(CONFIG))
    arguments = [place / "spec.toml", place / "config.json", place, kills, seed]
    process = Command(["tests.kills", *map(str, arguments)], ROOT, os.environ, place / "said")
    out, err = process.communicate()
    assert process.returncode == 0, err[-3000:]
    found: dict[str, Any] = json.loads(out.splitlines()[-1])
    return found


def check_kills(found: dict[str, Any], kills: int) -> None:
    assert len(found["at"]) == kills
    whole, *killed = found["results"]
    assert killed
    for one in killed:
        assert one == whole, found["at"]


def test_it_goes_on_within_an_epoch_and_says_what_is_kept(
    made: tuple[Path, dict[str, Any], Any], shelf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(distillation, "KEPT_S", 0.0)
    output, seen = tmp_path / "out", []

    def leave(words: str, share: float | None) -> None:
        seen.append(words)
        if words.startswith("epoch 2 of 3, step 4"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        distil(job_of(shelf), output, Telling(leave), device="cpu")
    kept = unfinished.read(output)
    assert kept is not None and (kept.epochs, kept.patience, kept.done, kept.step, kept.trial) == (3, 3, 1, 3, None)
    assert kept.words() == "1 of 3 epochs and 3 steps of the next"
    seen.clear()
    shares: list[float] = []
    told: list[Epoch] = []

    def hear(words: str, share: float | None) -> None:
        seen.append(words)
        shares.append(-1.0 if share is None else share)

    facts = distil(job_of(shelf), output, Telling(hear, told.append), device="cpu")
    assert "going on after epoch 1 and 3 steps" in seen
    assert next(words for words in seen if words.startswith("epoch")).startswith("epoch 2 of 3, step 4 of")
    assert [epoch.epoch for epoch in told] == [0, 1, 2, 3]
    assert shares == sorted(shares) and shares[-1] == 1.0  # the bar never falls back
    assert weights_digest(output) == weights_digest(made[0])
    history = [{k: v for k, v in point.items() if k != "seconds"} for point in facts["metrics"]["history"]]
    assert history == [{k: v for k, v in p.items() if k != "seconds"} for p in made[1]["metrics"]["history"]]
    assert unfinished.read(output) is None


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"epochs": "3"}', "[" * 9999, '{"epochs": true, "patience": 2}'])
def test_a_broken_word_of_what_is_kept_is_none(text: str, tmp_path: Path) -> None:
    partial_of(tmp_path / "out").mkdir()
    (partial_of(tmp_path / "out") / unfinished.FILE).write_text(text)
    assert unfinished.read(tmp_path / "out") is None


def test_an_interrupt_names_what_is_kept_where_and_the_command_that_goes_on(
    shelf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from kdnas.cli import COMMANDS
    from kdnas.cli.frame import Lazy, run
    from kdnas.study.spec_toml import to_toml

    (tmp_path / "spec.toml").write_text(to_toml(spec_of(shelf, full={"epochs": 2})))
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    monkeypatch.chdir(tmp_path)
    asked = ["distill", "--spec", "spec.toml", "--config", "config.json", "--output", "out"]
    real = checkpoints.write

    def interrupted(*given: Any, **named: Any) -> None:
        real(*given, **named)
        if given[1]:  # after an epoch, not as it begins
            os.kill(os.getpid(), signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(checkpoints, "write", interrupted)
        assert run(Lazy("kdnas", COMMANDS), asked) == 130
    said = capsys.readouterr().err
    last = next(line for line in said.splitlines() if line.startswith("kdnas: "))
    assert f"kept in {tmp_path / 'out.partial'}. Go on with: kdnas {' '.join(asked)}" in last
    assert run(Lazy("kdnas", COMMANDS), asked) == 0
    assert "going on after epoch 1" in capsys.readouterr().err


@pytest.mark.heavy
def test_a_killed_distillation_goes_on_to_the_same_result(shelf: Path, tmp_path: Path) -> None:
    check_kills(run_kills(shelf, tmp_path, kills=3, seed=1), 3)


@pytest.mark.long
def test_kill_9_at_twenty_random_moments_changes_nothing(shelf: Path, tmp_path: Path) -> None:
    check_kills(run_kills(shelf, tmp_path, kills=20, seed=2), 20)


class ScriptedTraining(Training):
    """Each epoch's loss is given, that before any step is 0.9; the student's weight is the epoch's number."""

    def __init__(self, student: Student, losses: list[float]) -> None:
        self.student, self.losses = student, losses
        self.epochs, self.done = len(losses), 0

    def begin(self) -> Epoch:
        with torch.no_grad():
            next(self.student.body.parameters()).fill_(0)
        return Epoch(0, self.epochs, Score(0.9, 0.9), 0.9, 0.0, 0)

    def run_epoch(self, on_step: OnStep | None = None) -> Epoch:
        if on_step is not None:
            on_step(1, 1)
        self.done += 1
        with torch.no_grad():
            next(self.student.body.parameters()).fill_(self.done)
        loss = self.losses[self.done - 1]
        return Epoch(self.done, self.epochs, Score(loss, loss), loss, float(self.done), 10 * self.done)

    def state(self) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        return dict(self.student.body.state_dict()), {"done": self.done}

    def restore(self, tensors: Any, facts: Any) -> None:
        self.student.body.load_state_dict(dict(tensors))
        self.done = facts["done"]


class ScriptedBench(fakes.FakeBench):
    def __init__(self, spec: StudySpec, losses: list[float]) -> None:
        super().__init__(spec)
        self.losses = losses
        self.fingerprint = "none"

    def training(self, student: Student, *, epochs: int, seed: int, full: bool = False) -> Training:
        assert full
        return ScriptedTraining(student, self.losses[:epochs])

    def save(self, student: Student, place: Path) -> None:
        from safetensors.torch import save_file

        save_file(student.body.state_dict(), place / "model.safetensors")

    def provenance(self) -> dict[str, Any]:
        return {"teacher_fingerprint": self.fingerprint, "data_fingerprint": "some"}


CANDIDATE = {"num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 128, "hidden_act": "gelu"}


def scripted(losses: list[float], output: Path, patience: int = 2, **changes: Any) -> dict[str, Any]:
    job = Job(fakes.spec(full={"epochs": len(losses), "patience": patience}), CANDIDATE)

    def prepare(spec: StudySpec, device: torch.device, on_progress: Any) -> ScriptedBench:
        bench = ScriptedBench(spec, losses)
        for name, value in changes.items():
            setattr(bench, name, value)
        return bench

    return distil(job, output, QUIET, device="cpu", prepare=prepare, measure=fakes.measure)


@pytest.mark.parametrize(
    ("losses", "best", "epochs"),
    [
        ([0.5, 0.4, 0.3], 3, 3),
        ([0.5, 0.3, 0.4, 0.35, 0.1], 2, 4),
        ([0.2, 0.2, 0.2, 0.1], 1, 3),
        ([0.5], 1, 1),
        ([0.95, 0.9, 0.8], 0, 2),
        ([], 0, 0),
    ],
)
def test_it_stops_early_and_keeps_the_best_weights(losses: list[float], best: int, epochs: int, tmp_path: Path) -> None:
    metrics = scripted(losses, tmp_path / "out")["metrics"]
    assert (metrics["best_epoch"], metrics["epochs"]) == (best, epochs)
    assert metrics["stopped_early"] == (epochs < len(losses))
    assert load_file(tmp_path / "out" / "model.safetensors")["weight"].unique().tolist() == [best]


def test_a_loss_that_is_no_number_ends_it_and_leaves_no_folder(tmp_path: Path) -> None:
    with pytest.raises(KdnasError, match=r"loss is nan after epoch 2.*learning_rate") as caught:
        scripted([0.5, float("nan")], tmp_path / "out")
    assert caught.value.exit_code == 1
    assert not (tmp_path / "out").exists()


def test_checkpoints_hold_two_files_and_refuse_another_ground(tmp_path: Path) -> None:
    losses = [0.5, 0.4, 0.45, float("nan")]
    with pytest.raises(KdnasError):
        scripted(losses, tmp_path / "out", patience=9)
    partial = partial_of(tmp_path / "out")
    assert sorted(path.name for path in partial.iterdir()) == [
        "best-00002.safetensors",
        "lock",
        "run.json",
        "state-00003.safetensors",
    ]
    with pytest.raises(UsageError, match="The teacher is not the one that the checkpoints"):
        scripted(losses, tmp_path / "out", patience=9, fingerprint="another")
    facts = scripted([0.5, 0.4, 0.45, 0.3], tmp_path / "out", patience=9)
    assert [point["loss"] for point in facts["metrics"]["history"]] == [0.9, 0.5, 0.4, 0.45, 0.3]
    assert not partial.exists()


# ------------------------------------------------------------------------------------------------- wrong requests


def test_what_stands_under_the_name_is_never_touched(tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "letters.txt").write_text("mine")
    (tmp_path / "file").write_text("mine")
    scripted([0.5], tmp_path / "model")
    for name, said in (
        ("full", "is not empty"),
        ("file", "is a file"),
        ("model", "already holds another model"),
        ("nowhere/model", "does not exist"),
    ):
        before = sorted(str(path) for path in tmp_path.rglob("*"))
        with pytest.raises(UsageError, match=said):
            scripted([0.5, 0.4], tmp_path / name)
        assert sorted(str(path) for path in tmp_path.rglob("*")) == before


def test_checkpoints_of_another_run_are_not_taken_up(tmp_path: Path) -> None:
    with pytest.raises(KdnasError):
        scripted([0.5, float("nan")], tmp_path / "out")
    with pytest.raises(UsageError, match="checkpoints of another run"):
        scripted([0.5, 0.4, 0.3], tmp_path / "out")


def test_two_processes_do_not_write_one_folder(tmp_path: Path) -> None:
    with (
        checkpoints.alone(partial_of(tmp_path / "out"), "out"),
        pytest.raises(UsageError, match="Another process"),
    ):
        scripted([0.5], tmp_path / "out")


@pytest.mark.parametrize("when", ["checkpoint", "folder"])
def test_a_full_disk_leaves_nothing_under_the_final_name(
    when: str, shelf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # The system's own limit on a file's size gives the same kind of error as a full disk, without filling one.
    from kdnas.cli import COMMANDS
    from kdnas.cli.frame import Lazy, run
    from kdnas.recipes.hidden_state import HiddenStateBench
    from kdnas.study.spec_toml import to_toml

    (tmp_path / "spec.toml").write_text(to_toml(spec_of(shelf, full={"epochs": 1})))
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    owner: Any = checkpoints if when == "checkpoint" else HiddenStateBench  # with the second, the checkpoints fit
    name = "write" if when == "checkpoint" else "save"
    real, before = getattr(owner, name), resource.getrlimit(resource.RLIMIT_FSIZE)

    def limited(*given: Any) -> Any:
        resource.setrlimit(resource.RLIMIT_FSIZE, (2000, before[1]))
        return real(*given)

    monkeypatch.setattr(owner, name, limited)
    files = {"spec": "spec.toml", "config": "config.json", "output": "out"}
    asked = [word for flag, file in files.items() for word in (f"--{flag}", str(tmp_path / file))]
    try:
        code = run(Lazy("kdnas", COMMANDS), ["distill", *asked])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    said = capsys.readouterr().err
    assert code == 2, said
    lines = [line for line in said.splitlines() if line.startswith("kdnas: ")]
    assert len(lines) == 1 and "the disk is full. Make room there" in lines[0], said
    assert "Traceback" not in said
    assert not (tmp_path / "out").exists()
    assert not list(tmp_path.rglob("*.part")) and not list(tmp_path.rglob("folder"))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"num_hidden_layers": None}, "gives no num_hidden_layers"),
        ({"num_hidden_layers": 7}, "num_hidden_layers = 7 is out of range"),
        ({"hidden_size": 17}, "17"),
        ({"num_attention_heads": 3}, "divi"),
        ({"hidden_act": "tan"}, "no activation"),
        ({"model_type": "gpt2"}, "makes no 'gpt2' models"),
    ],
)
def test_a_configuration_that_cannot_be_is_one_line(changes: dict[str, Any], said: str, shelf: Path) -> None:
    config = {key: value for key, value in {**CONFIG, **changes}.items() if value is not None}
    with pytest.raises(UsageError, match=said):
        given(spec_of(shelf), config)


def test_a_configuration_in_another_familys_words_is_the_same(shelf: Path) -> None:
    words = {"n_layers": 1, "dim": 16, "n_heads": 2, "hidden_dim": 16, "activation": "relu"}
    assert given(spec_of(shelf), words).candidate == given(spec_of(shelf), CONFIG).candidate


def test_a_causal_student_by_hand_becomes_a_folder_that_generates(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from tests.recipes import tiny_causal

    teacher = tiny_causal.folder(tmp_path / "teacher", "gpt2")
    text = tiny_causal.text_file(tmp_path / "text.txt")
    spec = from_values(
        {
            "device": "cpu",
            "recipe": {"name": "causal-divergence"},
            "teacher": {"model": str(teacher)},
            "data": {"source": str(text), "length": 16, "batch_size": 4, "max_held_out": 4},
            "latency": {"length": 16, "precision": 0.5, "max_seconds": 0.02},
            "full": {"epochs": 2},
        }
    )
    own = json.loads((teacher / "config.json").read_text())
    job = given(spec, {**own, "n_layer": 1})
    facts = distil(job, tmp_path / "out", QUIET, device="cpu")
    assert facts["opens_with"] == "AutoModelForCausalLM" and facts["candidate"]["num_hidden_layers"] == 1
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert model.generate(**tokenizer("the senate", return_tensors="pt"), max_new_tokens=3).shape[1] > 3


def test_configurations_are_read_from_json_toml_and_a_models_own_file(shelf: Path, tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text("".join(f"{key} = {json.dumps(value)}\n" for key, value in CONFIG.items()))
    assert read_config(tmp_path / "a.toml") == CONFIG
    own = given(spec_of(shelf), read_config(shelf / "teacher" / "config.json"))
    assert own.candidate["num_hidden_layers"] == 2
    (tmp_path / "b.json").write_text("[1, 2]")
    with pytest.raises(UsageError, match="holds no configuration"):
        read_config(tmp_path / "b.json")
    (tmp_path / "b.json").write_text("{nope")
    with pytest.raises(UsageError, match="is not JSON"):
        read_config(tmp_path / "b.json")
    with pytest.raises(UsageError, match="cannot be read"):
        read_config(tmp_path / "c.json")


def test_an_upload_that_cannot_succeed_is_told_before_anything_is_trained(
    shelf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    for name, said in (("nobody", "no name of"), ("a/b/c", "no name of"), ("me/mine", "cannot be reached")):
        with pytest.raises(UsageError, match=said):
            distil(job_of(shelf), tmp_path / "out", QUIET, device="cpu", extras=Extras(push=name))
    monkeypatch.setattr("kdnas.data.hub.reachable", lambda: True)
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    with pytest.raises(UsageError, match="there is no login"):
        distil(job_of(shelf), tmp_path / "out", QUIET, device="cpu", extras=Extras(push="me/mine"))
    assert not any(tmp_path.iterdir())


# ----------------------------------------------------------------------------------------------------------- ONNX


def test_onnx_gives_the_same_outputs_and_a_latency(shelf: Path, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime", reason="the extra onnx is not installed")
    pytest.importorskip("onnxscript", reason="the extra onnx is not installed")
    import onnxruntime
    from transformers import AutoModel, AutoTokenizer

    output = tmp_path / "student"
    job = job_of(shelf, full={"epochs": 1})
    assert "onnx" not in distil(job, output, QUIET, device="cpu")
    weights = weights_digest(output)
    facts = distil(job, output, QUIET, device="cpu", extras=Extras(onnx=True))  # of the finished folder
    assert weights_digest(output) == weights and folders.read_facts(output) == json.loads(json.dumps(facts))
    assert not list(output.glob("*.part"))
    assert facts["onnx"]["difference"] <= 1e-4 and facts["onnx"]["latency_ms"] > 0
    assert "model.onnx" in (output / "README.md").read_text()
    tokenizer, model = AutoTokenizer.from_pretrained(output), AutoModel.from_pretrained(output)
    batch = tokenizer(["the good film", "it was a very dull plot and not fine"], padding=True, return_tensors="pt")
    session = onnxruntime.InferenceSession(str(output / "model.onnx"), providers=["CPUExecutionProvider"])
    given_names = {i.name for i in session.get_inputs()}
    found = session.run(None, {k: v.numpy() for k, v in batch.items() if k in given_names})[0]
    with torch.inference_mode():
        wanted = model(**batch).last_hidden_state
    real = batch["attention_mask"].bool()
    assert torch.allclose(torch.from_numpy(found)[real], wanted[real], atol=1e-4)


WHY = "not timed: the file is in float32, and the study times in bfloat16"


def test_onnx_of_fp32_weights_is_not_timed_for_a_study_of_another_dtype(shelf: Path) -> None:
    passed: list[int] = []
    exported = Exported("model.onnx", 1e-6, 18, "last_hidden_state", lambda: passed.append(1))
    found = extras._onnx_facts(exported, spec_of(shelf, latency={"dtype": "bfloat16"}).latency)
    assert (found["latency_ms"], found["count"], found["flag"]) == (None, 0, WHY) and not passed
    quickly = {"dtype": "float32", "precision": 0.5, "max_seconds": 0.02}
    assert extras._onnx_facts(exported, spec_of(shelf, latency=quickly).latency)["latency_ms"] > 0 and passed


def test_gguf_of_fp32_weights_is_not_timed_for_a_study_of_another_dtype(shelf: Path, tmp_path: Path) -> None:
    pytest.importorskip("xllamacpp", reason="the extra llama-cpp is not installed")
    half = spec_of(shelf, latency={"dtype": "bfloat16"}).latency
    there = extras._in_llama_cpp(tmp_path / "model.gguf", half)  # which nobody opens
    assert there["first_ms"] is there["token_ms"] is None and there["flag"] == WHY
    assert _of_gguf({"file": "model.gguf", "mib": 1.0, "same": 9, "llama_cpp": there}).endswith(f"PyTorch; {WHY}.")


def test_missing_onnx_packages_are_named_before_the_training(
    shelf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"pip install 'kdnas\[onnx\]'"):
        distil(job_of(shelf), tmp_path / "out", QUIET, device="cpu", extras=Extras(onnx=True))


def test_the_best_epoch_is_the_first_of_the_least() -> None:
    losses = (0.3, 0.2, 0.2)
    assert best_epoch.best([{"epoch": epoch, "loss": loss} for epoch, loss in enumerate(losses)]) == 1
    assert best_epoch.best([{"epoch": epoch, "loss": loss} for epoch, loss in enumerate(losses, 1)]) == 2
    assert best_epoch.best([{"epoch": 0, "loss": 0.1}, {"epoch": 1, "loss": 0.2}]) == 0


def test_what_no_epoch_makes_better_is_kept_as_it_was_built(
    shelf: Path, made: tuple[Path, Any, list[Epoch]], tmp_path: Path
) -> None:
    untrained = distil(job_of(shelf, full={"epochs": 0}), tmp_path / "untrained", QUIET, device="cpu")
    assert untrained["metrics"]["history"] == [{**untrained["metrics"]["history"][0], "epoch": 0, "tokens": 0}]
    spoilt = distil(
        job_of(shelf, training={"learning_rate": 0.9, "warmup": 0}, full={"epochs": 3, "patience": 2}),
        tmp_path / "spoilt",
        QUIET,
        device="cpu",
    )
    metrics = spoilt["metrics"]
    assert [point["epoch"] for point in metrics["history"]] == [0, 1, 2]  # then its patience was over
    assert (
        metrics["best_epoch"] == 0 and metrics["loss"] == metrics["history"][0]["loss"] == untrained["metrics"]["loss"]
    )
    assert min(point["loss"] for point in metrics["history"][1:]) > metrics["loss"]
    assert weights_digest(tmp_path / "spoilt") == weights_digest(tmp_path / "untrained") != weights_digest(made[0])
    assert "the student kept as built, since no epoch of 2 made it less" in (tmp_path / "spoilt/README.md").read_text()


def test_a_student_says_that_it_was_fitted_on_more_than_an_earlier_version_did(
    shelf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Left(Exception):  # noqa: N818 - it is no error
        pass

    told: list[Epoch] = []

    def leave(epoch: Epoch) -> None:
        told.append(epoch)
        raise Left

    def forgetful(
        folder: Any, epoch: int, tensors: Any, facts: Any, kept: Any, best: Any = None, step: int = 0
    ) -> None:
        known = {name: value for name, value in kept.items() if name != "fitted_tokens"}
        write(folder, epoch, tensors, facts, known, best, step)

    write = checkpoints.write
    job, telling = job_of(shelf, full={"epochs": 0}), Telling(QUIET.on_progress, leave)
    with monkeypatch.context() as earlier:
        earlier.setattr(HiddenStateBench, "build_in_full", HiddenStateBench.build)
        earlier.setattr(checkpoints, "write", forgetful)
        with pytest.raises(Left):
            distil(job, tmp_path / "earlier", telling, device="cpu")
    with pytest.raises(Left):
        distil(job, tmp_path / "now", telling, device="cpu")
    assert told[1].score.loss < told[0].score.loss
    earlier_one, now = (distil(job, tmp_path / name, QUIET, device="cpu")["metrics"] for name in ("earlier", "now"))
    assert (earlier_one["loss"], now["loss"]) == (told[0].score.loss, told[1].score.loss)
    assert "fitted_tokens" not in earlier_one and best_epoch.words(earlier_one) == "as built, without a step"
    assert now["fitted_tokens"] == 4 * 296
    assert best_epoch.words(now) == "as built on 1,184 tokens, without a step"


def test_without_a_step_nothing_can_come_of_fresh_weights(shelf: Path) -> None:
    with pytest.raises(UsageError, match=r"full\.epochs is 0"):
        spec_of(shelf, full={"epochs": 0}, recipe={"name": "hidden-state", "init": "random"})


# ------------------------------------------------------------------------------------------------- which candidate


def test_the_candidate_is_chosen_by_rank_trial_and_filter(tmp_path: Path) -> None:
    from kdnas.store.database import open_store
    from tests.tui import filled

    with open_store(tmp_path / "kdnas.db", create=True) as store:
        filled.study(store, "minilm", rows=30)
        filled.study(store, "young", rows=0)
        first, second = (finalize.choose(store, "minilm", rank_wanted=rank) for rank in (1, 2))
        assert first.trial != second.trial and first.study == "minilm"
        assert finalize.choose(store, "minilm", trial=second.trial).candidate == second.candidate
        fast = finalize.choose(store, "minilm", only="latency<2")
        assert fast.found is not None and fast.found["latency_ms"] < 2 and fast.trial != first.trial
        for wrong, said in (
            ({"rank_wanted": 99}, r"ranked trials, not 99.*--rank 1 to \d+"),
            ({"trial": 99}, "no trial 99"),
            ({"only": "latency<0.001"}, r"passes .latency<0.001.\. Loosen"),
        ):
            with pytest.raises(UsageError, match=said):
                finalize.choose(store, "minilm", **wrong)  # type: ignore[arg-type]
        with pytest.raises(UsageError, match="no finished trial yet"):
            finalize.choose(store, "young")
