"""Ordinary training: accumulation is a big batch, death changes nothing, only summaries are learned."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from kdnas.cli import COMMANDS
from kdnas.cli.frame import Lazy, run
from kdnas.data import causal_text
from kdnas.study.spec import DataSpec, from_values
from kdnas.system.errors import UsageError
from kdnas.teachers import causal, finetune_text
from kdnas.teachers.finetune_text import Language
from kdnas.training import finetune
from kdnas.training.finetune import Settings, Told
from kdnas.training.losses.divergences import IGNORED
from tests.recipes import tiny_causal

QUIET = Told(lambda *_: None)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("finetune")
    for family in ("llama", "gpt2"):
        tiny_causal.folder(place / family, family, steps=5)
    tiny_causal.text_file(place / "text.txt", count=12)
    rows = [{"article": text, "highlights": "peace and law"} for text in tiny_causal.documents(20, words=12)]
    (place / "pairs.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return place


@pytest.fixture(autouse=True)
def own_folders(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KDNAS_CACHE", str(place / "cache"))
    monkeypatch.setenv("KDNAS_STATE", str(place / "state"))


def data_of(place: Path, pairs: bool = False, **changes: Any) -> DataSpec:
    values: dict[str, Any] = {"source": str(place / "text.txt"), "length": 16, "held_out": 0.1, **changes}
    if pairs:
        values |= {"source": str(place / "pairs.jsonl"), "text_column": "article", "label_column": "highlights"}
    return from_values({"data": values}).data


def task(place: Path, family: str = "llama", pairs: bool = False, **changes: Any) -> Language:
    spec = from_values({"teacher": {"model": str(place / family)}})
    model = causal.load(spec.teacher, torch.device("cpu"))
    for module in model.model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    return finetune_text.language(model, data_of(place, pairs, **changes), lambda *_: None)


def weights(learned: Language) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in learned.model.named_parameters()}


SETTINGS: dict[str, Any] = {"epochs": 2, "learning_rate": 3e-3}


def test_accumulated_gradients_are_those_of_one_big_batch(place: Path) -> None:
    """Also where the batches hold different numbers of tokens, as pairs do."""
    learned = task(place, pairs=True)
    learned._given = [given - place % 3 for place, given in enumerate(learned._given)]
    rows = np.arange(8)
    (learned.loss(rows) / learned.units(rows)).backward()
    whole = {n: p.grad.clone() for n, p in learned.model.named_parameters() if p.grad is not None}
    learned.model.zero_grad()
    for part in (rows[:1], rows[1:5], rows[5:]):
        (learned.loss(part) / learned.units(rows)).backward()
    for name, parameter in learned.model.named_parameters():
        assert parameter.grad is not None
        torch.testing.assert_close(parameter.grad, whole[name], atol=1e-6, rtol=1e-4)


def _new(tmp_path: Path, number: int) -> Path:
    place = tmp_path / str(number)
    place.mkdir()
    return place


def test_an_epoch_of_one_step_does_not_depend_on_its_batches(place: Path, tmp_path: Path) -> None:
    found = []
    for number, (size, accumulate) in enumerate([(100, 1), (3, 100)]):
        learned = task(place, pairs=True)
        finetune.fit(
            learned, Settings(batch_size=size, accumulate=accumulate, **SETTINGS), _new(tmp_path, number), QUIET
        )
        found.append(weights(learned))
    for name in found[0]:
        torch.testing.assert_close(found[0][name], found[1][name], atol=2e-5, rtol=1e-3)


@pytest.mark.parametrize("family", ["llama", "gpt2"])
@pytest.mark.parametrize("pairs", [False, True])
def test_it_learns(place: Path, tmp_path: Path, family: str, pairs: bool) -> None:
    learned = task(place, family, pairs)
    before = learned.score()["loss"]
    history = finetune.fit(learned, Settings(epochs=3, learning_rate=3e-3), tmp_path, QUIET)
    assert history[-1].scores["loss"] < 0.8 * before
    assert learned.score() == history[finetune._best(history) - 1].scores


def test_a_death_after_any_epoch_changes_nothing(place: Path, tmp_path: Path) -> None:
    class Death(BaseException):
        pass

    settings = Settings(epochs=3, learning_rate=3e-3, batch_size=4)
    straight = task(place)
    whole = finetune.fit(straight, settings, _new(tmp_path, 0), QUIET)
    resumed = _new(tmp_path, 1)
    for _ in range(3):
        learned = task(place)
        seen: list[int] = []

        def die(words: str, share: float | None, seen: list[int] = seen) -> None:
            seen.append(1)
            if len(seen) > 40:  # in the second epoch of this life
                raise Death

        try:
            history = finetune.fit(learned, settings, resumed, Told(die))
        except Death:
            continue
    assert [e.scores for e in history] == [e.scores for e in whole]
    ours, theirs = weights(straight), weights(learned)
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_it_stops_early_and_restores_the_best(place: Path, tmp_path: Path) -> None:
    learned = task(place)
    scores = iter([3.0, 1.0, 2.0, 2.5, 2.0, 2.0])
    states = []

    def score() -> dict[str, float]:
        states.append(weights(learned))
        return {"loss": next(scores)}

    learned.score = score  # type: ignore[method-assign]
    history = finetune.fit(learned, Settings(epochs=6, patience=2, learning_rate=3e-3), tmp_path, QUIET)
    assert [e.epoch for e in history] == [1, 2, 3, 4]
    restored = weights(learned)
    assert all(torch.equal(restored[name], states[1][name]) for name in restored)


def test_only_the_summary_is_learned(place: Path) -> None:
    learned = task(place, pairs=True, length=32)
    _, mask, labels = learned._batch(np.arange(4))
    law = learned.causal.tokenizer("peace and law")["input_ids"]
    for row in range(4):
        assert labels[row][labels[row] != IGNORED].tolist() == [*law, 0]
        assert learned._units(row) == 4
    assert mask.sum(1).tolist() == [len(learned._ids[row]) for row in range(4)]


def test_paddings_content_changes_nothing(place: Path) -> None:
    learned = task(place, pairs=True)
    rows = np.arange(4)
    before = learned.loss(rows).item()
    learned._pad = 9
    assert learned.loss(rows).item() == pytest.approx(before, rel=1e-6)


def test_a_long_text_loses_its_end_and_keeps_the_summary(place: Path) -> None:
    learned = task(place, pairs=True, length=10)
    separator = learned.causal.tokenizer(causal_text.SEPARATOR, add_special_tokens=False)["input_ids"]
    law = learned.causal.tokenizer("peace and law")["input_ids"]
    for ids in learned._ids:
        assert len(ids) <= 10
        assert ids.tolist()[-4 - len(separator) :] == [*separator, *law, 0]


def command(*words: str) -> int:
    return run(Lazy("kdnas", COMMANDS), list(words))


def test_the_command_writes_a_folder_once(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "out"
    ask = ["finetune", str(place / "gpt2"), "--data", str(place / "text.txt"), "--output", str(output)]
    ask += ["--length", "16", "--epochs", "2", "--accumulate", "2", "--learning-rate", "3e-3"]
    ask += ["--device", "cpu", "--json"]
    assert command(*ask) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["history"][-1]["scores"]["perplexity"] < facts["history"][0]["scores"]["perplexity"] * 1.01
    opened = causal.load(from_values({"teacher": {"model": str(output)}}).teacher, torch.device("cpu"))
    assert opened.config.model_type == "gpt2"
    assert not (tmp_path / "out.partial").exists()
    written = (output / "model.safetensors").stat().st_mtime_ns
    assert command(*ask) == 0
    assert (output / "model.safetensors").stat().st_mtime_ns == written
    capsys.readouterr()
    assert command(*ask, "--seed", "1") == 2
    assert "already holds another model" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--epochs", "0"], "epochs = 0 is out of range"),
        (["--learning-rate", "-1"], "learning_rate = -1.0 is out of range"),
        (["--length", "100"], "more than the model's 64 positions"),
        (["--text-column", "body"], "has no column 'body'. There are: article, highlights."),
        (["--summary-column", "brief"], "has no column 'brief'"),
        (["--held-out", "2"], "data.held_out"),
    ],
)
def test_bad_input_is_one_line(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], flags: list[str], words: str
) -> None:
    ask = ["finetune", str(place / "llama"), "--data", str(place / "pairs.jsonl"), "--output", str(tmp_path / "out")]
    assert command(*ask, "--text-column", "article", "--length", "16", "--device", "cpu", *flags) == 2
    said = capsys.readouterr().err.strip().splitlines()
    assert words in said[-1] and not (tmp_path / "out").exists()


def test_settings_name_the_field() -> None:
    with pytest.raises(UsageError, match="accumulate = 0"):
        Settings(accumulate=0)
