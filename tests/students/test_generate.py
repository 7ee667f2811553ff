"""Generation: batches and padding change nothing, one record per example, ROUGE by the kept library."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from kdnas.cli import COMMANDS
from kdnas.cli.frame import Lazy, run
from kdnas.scores.perplexity import PerplexityProtocol, perplexity
from kdnas.students import generate
from kdnas.students.generate import Prompt, Record, Settings
from kdnas.study.spec import from_values
from kdnas.system.errors import UsageError
from tests.recipes import tiny_causal
from tests.tiny import tiny_folder


@pytest.fixture(scope="module", params=["llama", "gpt2"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_causal.folder(tmp_path_factory.mktemp("model") / "model", request.param)


def quiet(*_: object) -> None:
    return None


PROMPTS = [Prompt(text) for text in ("the senate", "we shall keep peace and law", "war", "our great nation must make")]


def written(folder: Path, **settings: Any) -> list[str]:
    model, tokenizer = generate.open_model(folder, torch.device("cpu"))
    chosen = Settings(**{"max_new_tokens": 7, **settings})
    return [record.prediction for record in generate.generate(model, tokenizer, PROMPTS, chosen, quiet)]


def test_a_batch_says_what_each_prompt_alone_says(folder: Path) -> None:
    assert written(folder, batch_size=4) == written(folder, batch_size=1)
    assert written(folder, batch_size=3, beams=3) == written(folder, batch_size=1, beams=3)


def test_greedy_is_what_the_model_thinks_likeliest(folder: Path) -> None:
    model, tokenizer = generate.open_model(folder, torch.device("cpu"))
    ids = tokenizer(PROMPTS[1].text, return_tensors="pt")["input_ids"]
    start = ids.shape[1]
    with torch.no_grad():
        for _ in range(7):  # no cache
            ids = torch.cat([ids, model(input_ids=ids, use_cache=False).logits[:, -1:].argmax(-1)], 1)
    assert written(folder)[1] == tokenizer.decode(ids[0, start:], skip_special_tokens=True).strip()


def test_sampling_depends_on_its_seed_alone(folder: Path) -> None:
    assert written(folder, sample=True, seed=1) == written(folder, sample=True, seed=1)
    assert written(folder, sample=True, seed=1) != written(folder, sample=True, seed=2)


def test_a_long_prompt_loses_its_end_and_not_the_separator(folder: Path) -> None:
    model, tokenizer = generate.open_model(folder, torch.device("cpu"))
    given: list[torch.Tensor] = []
    inner = model.generate

    def seen(**arguments: Any) -> torch.Tensor:
        given.append(arguments["input_ids"])
        made: torch.Tensor = inner(**arguments)
        return made

    model.generate = seen
    settings = Settings(max_new_tokens=10, separator=" peace law")
    generate.generate(model, tokenizer, [Prompt("the senate " + "war " * 100)], settings, quiet)
    words = tokenizer.decode(given[0][0]).split()
    assert len(words) == 54 and words[:3] == ["the", "senate", "war"] and words[-3:] == ["war", "peace", "law"]


def test_no_room_for_new_tokens_is_one_line(folder: Path) -> None:
    with pytest.raises(UsageError, match="64 positions, too few for 64 new tokens"):
        written(folder, max_new_tokens=64)


def test_rouge_on_a_worked_example() -> None:
    """Reference of 6 words, prediction of 4, all in order: P 1, R 4/6, F 0.8; bigrams 2 of 3 and of 5: F 0.5."""
    record = Record("", "the cat sat on the mat", "the cat on mat")
    other = Record("", None, "not scored")
    assert generate.rouge([other]) == {}
    scores = generate.rouge([record, other])
    assert scores["rouge1"] == scores["rougeL"] == pytest.approx(0.8)
    assert scores["rouge2"] == pytest.approx(2 * (1 / 3) * (1 / 5) / (1 / 3 + 1 / 5))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"beams": 0}, "beams = 0"),
        ({"temperature": 0.5}, "no effect without sampling"),
        ({"sample": True, "top_p": 0.0}, "top_p = 0.0"),
        ({"max_new_tokens": -1}, "max_new_tokens = -1"),
    ],
)
def test_settings_out_of_range_are_one_line(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        Settings(**settings)


def command(*words: str) -> int:
    return run(Lazy("kdnas", COMMANDS), list(words))


def test_the_command_writes_one_record_per_example(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, output = tmp_path / "pairs.csv", tmp_path / "predictions.json"
    source.write_text("article,highlights\nthe senate shall,keep peace\nwar and law,see the people\n", encoding="utf-8")
    ask = ["generate", str(folder), "--data", str(source), "--output", str(output), "--prompt-column", "article"]
    ask += ["--device", "cpu", "--max-new-tokens", "5"]
    assert command(*ask, "--reference-column", "highlights", "--json") == 0
    scores = json.loads(capsys.readouterr().out)
    assert scores["examples"] == 2 and 0 <= scores["rougeL"] <= 1
    records = json.loads(output.read_text(encoding="utf-8"))
    assert [r["prompt"] for r in records] == ["the senate shall", "war and law"]
    assert [r["reference"] for r in records] == ["keep peace", "see the people"]
    assert all(isinstance(r["prediction"], str) for r in records)
    assert command(*ask) == 0
    assert json.loads(output.read_text(encoding="utf-8"))[0]["reference"] is None


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("text,other\n,a\n,b\n", "holds no text"),
        ("article,other\nx,a\n", "has no column 'text'. There are: article, other."),
        ("", "is empty"),
    ],
)
def test_bad_files_are_one_line(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, words: str
) -> None:
    (tmp_path / "bad.csv").write_text(text, encoding="utf-8")
    output = tmp_path / "out.json"
    assert command("generate", str(folder), "--data", str(tmp_path / "bad.csv"), "--output", str(output)) == 2
    said = capsys.readouterr().err.strip().splitlines()
    assert words in said[-1] and not output.exists()


def test_an_encoder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no causal model but BertModel"):
        generate.open_model(tiny_folder(tmp_path / "bert"), torch.device("cpu"))


def test_perplexity_of_a_causal_model(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KDNAS_CACHE", str(tmp_path / "cache"))
    source = from_values({"data": {"source": str(tiny_causal.text_file(tmp_path / "text.txt"))}}).data
    protocol = PerplexityProtocol(length=16, chunks=4)
    found = perplexity(folder, None, source, torch.device("cpu"), quiet, protocol)
    assert found["student"]["tokens"] == 4 * 15 and found["student"]["causal"]
    assert 1 < found["student"]["perplexity"] < 28  # better than even odds over its 28 words
    assert found["how"].startswith("Every next token of 4 held-out chunks of 16 tokens")
