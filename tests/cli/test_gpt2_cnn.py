"""The preset gpt2-cnn by its own commands on local files of that shape: fine-tune, search, finalize, write, score."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from kdnas.cli.spec_options import base_values, spec_from
from kdnas.search.begin import begin
from tests.cli.conftest import Place, Quick
from tests.outside import Outside
from tests.recipes import tiny_causal

POSITIONS = 160  # room for 100 new tokens
SIZES = {"n_positions": POSITIONS, "n_layer": 2, "n_embd": 16, "n_inner": 32}


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two GPT-2 of one tokenizer, begun with random weights, and articles with their highlights in two files."""
    place = tmp_path_factory.mktemp("cnn")
    words = tiny_causal.byte_pairs()
    tiny_causal.folder(place / "medium", "gpt2", words=words, n_positions=POSITIONS)
    tiny_causal.folder(place / "small", "gpt2", words=words, steps=20, seed=1, **SIZES)
    for name, count, seed in (("train", 30, 0), ("validation", 3, 5)):
        rows = [{"id": i, "article": text, "highlights": " ".join(text.split()[:6])}
                for i, text in enumerate(tiny_causal.documents(count, seed=seed))]  # fmt: skip
        (place / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return place


@pytest.mark.heavy
def test_the_whole_road_from_two_gpt2_to_scored_summaries(
    shelf: Path, place: Place, quick: Quick, outside: Outside
) -> None:
    teach = ["--data", str(shelf / "train.jsonl"), "--text-column", "article", "--length", "96", "--device", "cpu"]
    to_news = ["--epochs", "3", "--learning-rate", "3e-3", "--output", "medium-news"]  # what a real one has read before
    read = quick("finetune", str(shelf / "medium"), *teach, *to_news)
    assert read.code == 0, read.err
    to_summaries = ["--summary-column", "highlights", "--epochs", "1", "--output", "medium-cnn"]
    taught = quick("finetune", "medium-news", *teach, *to_summaries)
    assert taught.code == 0, taught.err

    lists = {
        "num_hidden_layers": [1, 2],
        "num_attention_heads": [1, 2],
        "head_size": [8],
        "intermediate_size": [16, 32],
    }
    here = {"teacher.model": str(shelf / "medium"), "teacher.checkpoint": "medium-cnn", "device": "cpu",
            "data.source": str(shelf / "train.jsonl"), "data.config": None, "data.length": 48, "data.batch_size": 8,
            "data.held_out": 0.1, "data.max_held_out": 8, "recipe.student": str(shelf / "small"),
            "budget.trials": 2, "budget.proxy_fraction": 0.5, "training.learning_rate": 5e-3,
            "latency.length": 48, "latency.precision": 0.5, "latency.max_seconds": 0.02,
            **{f"space.choices.{name}": own for name, own in lists.items()}}  # fmt: skip
    begin(spec_from(base_values(None, None, "gpt2-cnn"), here), place.store)
    assert quick("worker", "gpt2-cnn").code == 0
    trials = quick("show", "gpt2-cnn", "--json").data["trials"]
    assert [trial["state"] for trial in trials] == ["done", "done"]
    assert all(trial["candidate"]["hidden_act"] == "gelu_new" for trial in trials)

    made = quick("finalize", "gpt2-cnn", "--epochs", "2", "--gguf", "--output", "student", "--json")
    assert made.code == 0, made.err
    losses = [point["loss"] for point in made.data["metrics"]["history"]]
    assert losses[1] < losses[0]
    assert made.data["spec"]["recipe"]["student"] == str(shelf / "small")

    wrote = quick("generate", "student", "--data", str(shelf / "validation.jsonl"), "--prompt-column", "article",
                  "--reference-column", "highlights", "-o", "validation.json", "--device", "cpu", "--json")  # fmt: skip
    assert wrote.code == 0, wrote.err
    assert wrote.data["examples"] == 3 and all(0 <= wrote.data[f"rouge{n}"] <= 1 for n in ("1", "2", "L"))
    records = json.loads(Path("validation.json").read_text(encoding="utf-8"))
    articles = [json.loads(line) for line in (shelf / "validation.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [r["prompt"] for r in records] == [a["article"] for a in articles]
    assert [r["reference"] for r in records] == [a["highlights"] for a in articles]
    assert any(len(r["prediction"].split()) > 5 for r in records)

    program = (
        "import json, sys, torch; from transformers import AutoModelForCausalLM, AutoTokenizer, pipeline\n"
        "m = AutoModelForCausalLM.from_pretrained('student'); t = AutoTokenizer.from_pretrained('student')\n"
        "r = json.load(open('validation.json'))[0]; after = t('\\n\\nTL;DR: ')['input_ids']\n"
        f"ids = t(r['prompt'])['input_ids'][: {POSITIONS} - 100 - len(after)] + after\n"
        "out = m.generate(torch.tensor([ids]), max_new_tokens=100, do_sample=False)[0, len(ids):]\n"
        "same = t.decode(out, skip_special_tokens=True).strip() == r['prediction']\n"
        "write = pipeline('text-generation', model='student', device='cpu')\n"
        "short = write('the senate shall', max_new_tokens=5, do_sample=False)[0]['generated_text']\n"
        "assert 'kdnas' not in sys.modules; print(same, short.startswith('the senate shall') and len(short) > 20)"
    )
    done = outside.run(program, Path.cwd())
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "True True"
