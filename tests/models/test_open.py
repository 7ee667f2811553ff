"""Model folders: what is opened is what the folder claims, and everything else is one line with a hint."""

from __future__ import annotations

import ast
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModel, AutoModelForSequenceClassification, BertConfig, BertForMaskedLM, LlamaConfig
from transformers import LlamaForCausalLM as Llama

import kdnas
from kdnas.models import open as opening
from kdnas.students import generate, predict
from kdnas.study.spec import TeacherSpec
from kdnas.system.errors import UsageError
from kdnas.teachers import causal, encoder
from kdnas.teachers import classifier as classifiers
from tests.encoders import FAMILIES, tiny_encoder
from tests.recipes import tiny_causal
from tests.tiny import tiny_folder

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _no_hub(own_cache: None) -> None:
    return None


def change(folder: Path, **values: Any) -> Path:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))
    return folder


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def write(folder: Path, tensors: dict[str, torch.Tensor]) -> Path:
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def refusal(folder: Path) -> str:
    """What an encoder's folder is refused with."""
    with pytest.raises(UsageError) as caught:
        encoder.load(TeacherSpec(model=str(folder)), CPU)
    assert caught.value.hint and "\n" not in str(caught.value)
    return str(caught.value)


def test_every_call_that_opens_a_model_forbids_its_code_and_asks_nothing() -> None:
    """`from_pretrained` stands in the modules that open, always with trust_remote_code=False where it knows that."""
    found: dict[str, list[ast.Call]] = {}
    for path in Path(kdnas.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            called = node.func if isinstance(node, ast.Call) else None
            if isinstance(called, ast.Attribute) and called.attr == "from_pretrained":
                assert isinstance(node, ast.Call)
                found.setdefault(path.name, []).append(node)
    assert set(found) == {"open.py", "tokenizer.py", "gguf.py", "lora_adapters.py"}
    for name, calls in found.items():
        for call in calls:
            of = ast.unparse(call.func).removesuffix(".from_pretrained")
            if of in ("PeftModel", "PreTrainedTokenizerFast"):  # these never run code of a folder
                continue
            values = {word.arg: ast.unparse(word.value) for word in call.keywords}
            assert values.get("trust_remote_code") == "False", (name, ast.unparse(call))
            assert of in ("AutoConfig", "AutoTokenizer") or values.get("dtype") == "torch.float32", (name, of)


@pytest.mark.parametrize("kind", ["own_bert", "bert", "qwen2"])
def test_code_of_a_folder_never_runs_and_nobody_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    folder = change(
        tiny_folder(tmp_path / "own"),
        model_type=kind,
        auto_map={"AutoConfig": "own.OwnConfig", "AutoModel": "own.OwnModel", "AutoModelForCausalLM": "own.OwnModel"},
    )
    (folder / "own.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("asked on the terminal"))
    for ask in (
        lambda: encoder.read_config(TeacherSpec(model=str(folder))),
        lambda: encoder.load(TeacherSpec(model=str(folder)), CPU),
        lambda: classifiers.source(TeacherSpec(model=str(folder))),
        lambda: causal.load(TeacherSpec(model=str(folder)), CPU),
        lambda: predict.open_model(folder, CPU),
        lambda: generate.open_model(folder, CPU),
    ):
        with pytest.raises(UsageError, match="needs code of its own"):
            ask()
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("method", ["bitsandbytes", "gptq", "awq", "compressed-tensors"])
def test_quantised_models_are_refused_by_name_before_their_weights_are_read(tmp_path: Path, method: str) -> None:
    folder = change(tiny_folder(tmp_path / "q"), quantization_config={"quant_method": method, "bits": 4})
    (folder / "model.safetensors").unlink()
    assert f"is quantised ({method})" in refusal(folder) and "unquantised" in refusal(folder)
    change(folder, model_type="llama")
    with pytest.raises(UsageError, match="is quantised"):
        causal.load(TeacherSpec(model=str(folder)), CPU)


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json"])
def test_a_git_lfs_pointer_is_named(tmp_path: Path, name: str) -> None:
    folder = tiny_encoder(tmp_path / "m")
    (folder / name).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1234\n")
    assert f"{name} of the model" in refusal(folder) and "git lfs pull" in refusal(folder)


def test_an_adapter_as_teacher_says_how_it_is_given(tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    body = AutoModel.from_pretrained(tiny_encoder(tmp_path / "base"))
    peft.get_peft_model(body, peft.LoraConfig(r=2, target_modules=["query"])).save_pretrained(tmp_path / "adapter")
    assert "--teacher-checkpoint" in refusal(tmp_path / "adapter")
    tiny_encoder(tmp_path / "adapter", seed=1)  # a whole model beside it: which of the two is meant is not guessed
    assert "holds a PEFT adapter" in refusal(tmp_path / "adapter")
    spec = TeacherSpec(model=str(tmp_path / "base"), checkpoint=str(tmp_path / "adapter"))
    assert encoder.load(spec, CPU).hidden == 32


def test_old_layouts_open_and_damaged_pickles_are_one_line(tmp_path: Path) -> None:
    folder = tiny_encoder(tmp_path / "m")
    wanted = encoder.load(TeacherSpec(model=str(folder)), CPU).fingerprint
    torch.save(weights(folder), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    assert encoder.load(TeacherSpec(model=str(folder)), CPU).fingerprint == wanted
    for content in (b"", b"no pickle at all", (folder / "pytorch_model.bin").read_bytes()[:900]):
        (folder / "pytorch_model.bin").write_bytes(content)
        assert "cannot be loaded" in refusal(folder)
    (folder / "pytorch_model.bin").unlink()
    assert "it has no weights" in refusal(folder)


@pytest.mark.parametrize(
    "content", ["[]", "{", "[" * 20000, '{"model_type": 3}', '{"model_type": "bert", "hidden_size": "x"}']
)
def test_a_broken_configuration_is_one_line(tmp_path: Path, content: str) -> None:
    folder = tiny_encoder(tmp_path / "m")
    (folder / "config.json").write_text(content)
    assert "config" in refusal(folder)


@pytest.mark.parametrize("family", FAMILIES)
def test_weights_that_are_left_over_are_no_longer_dropped_unsaid(tmp_path: Path, family: str) -> None:
    folder = tiny_encoder(tmp_path / "m", family)
    tensors = weights(folder)
    name = next(n for n in tensors if n.endswith(".bias") and ("layer" in n) and "attention" in n)
    extra = name.replace(".bias", ".distance_embedding.weight")
    write(folder, {**tensors, extra: torch.zeros(7, 8)})
    assert f"leaves out 1 of them, {extra}" in refusal(folder)
    write(folder, {n: t for n, t in tensors.items() if n != name})
    assert "do not fit its configuration; missing" in refusal(folder)


def test_a_layer_more_than_the_configuration_says_is_refused(tmp_path: Path) -> None:
    assert "leaves out" in refusal(change(tiny_encoder(tmp_path / "m"), num_hidden_layers=3))


def test_relative_positions_are_refused_before_weights_are_read(tmp_path: Path) -> None:
    folder = change(tiny_encoder(tmp_path / "m"), position_embedding_type="relative_key")
    (folder / "model.safetensors").unlink()
    assert "positions of the type 'relative_key'" in refusal(folder)


def test_heads_and_poolers_that_a_body_has_no_use_for_are_fine(tmp_path: Path) -> None:
    folder = tiny_folder(tmp_path / "mlm")
    config = BertConfig.from_pretrained(folder)
    BertForMaskedLM(config).save_pretrained(folder)
    assert encoder.load(TeacherSpec(model=str(folder)), CPU).pooler == {}
    tensors = weights(folder)
    tensors["bert.embeddings.position_ids"] = torch.arange(64)[None]  # as checkpoints of transformers 4 hold them
    tensors["cls.seq_relationship.weight"] = torch.zeros(2, 16)
    assert encoder.load(TeacherSpec(model=str(write(folder, tensors))), CPU).hidden == 16


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_are_refused(tmp_path: Path, value: float) -> None:
    folder = tiny_encoder(tmp_path / "m")
    tensors = weights(folder)
    tensors["encoder.layer.2.output.dense.weight"][3, 4] = value
    assert "not finite numbers, in encoder.layer.2.output.dense.weight" in refusal(write(folder, tensors))


def test_values_that_overflow_on_the_text_are_refused(tmp_path: Path) -> None:
    folder = tiny_encoder(tmp_path / "m")
    tensors = weights(folder)
    tensors["encoder.layer.2.output.dense.weight"] *= 1e38
    teacher = encoder.load(TeacherSpec(model=str(write(folder, tensors))), CPU)
    with pytest.raises(UsageError, match="not finite numbers on the text, from layer 3 on"):
        encoder.require_finite(teacher, torch.full((2, 8), 9))


def test_a_tokenizer_with_more_words_than_the_model_is_refused_everywhere(tmp_path: Path) -> None:
    folder = tiny_folder(tmp_path / "m", labels=2)
    tokenizer = opening.open_tokenizer(folder, "m")
    tokenizer.add_tokens(["[URL]", "[TAG]"])
    tokenizer.save_pretrained(folder)
    for ask in (
        lambda: encoder.load(TeacherSpec(model=str(folder)), CPU),
        lambda: classifiers.source(TeacherSpec(model=str(folder))),
        lambda: predict.open_model(folder, CPU),
    ):
        with pytest.raises(UsageError, match=r"has 4[89] words, its model only 47"):
            ask()
    words = tiny_causal.folder(tmp_path / "lm", "gpt2", steps=0)
    tokenizer = opening.open_tokenizer(words, "lm")
    tokenizer.add_tokens(["[URL]", "[TAG]"])
    tokenizer.save_pretrained(words)
    for ask in (lambda: causal.load(TeacherSpec(model=str(words)), CPU), lambda: generate.open_model(words, CPU)):
        with pytest.raises(UsageError, match="words, its model only"):
            ask()


def test_a_vocabulary_padded_beyond_the_tokenizer_is_fine(tmp_path: Path) -> None:
    folder = tiny_causal.folder(tmp_path / "m", steps=0)
    config = LlamaConfig.from_pretrained(folder, vocab_size=64)
    Llama(config).to(torch.bfloat16).save_pretrained(folder)
    found = causal.load(TeacherSpec(model=str(folder)), CPU)
    assert found.config.vocab_size == 64 and next(found.model.parameters()).dtype == torch.float32


@pytest.mark.parametrize("pad", [1, 3])
def test_positions_that_begin_after_the_padding_are_counted(tmp_path: Path, pad: int) -> None:
    folder = tiny_encoder(tmp_path / "m", "roberta", pad_token_id=pad)
    config = opening.open_config(folder, "m")
    most = opening.longest(config, 512)
    assert most == 40 - pad - 1 == encoder.family_of(config, "m").length_limit(config)
    body = opening.open_body(folder, "m", config).model
    with torch.no_grad():
        body(input_ids=torch.full((1, most), 9))
        with pytest.raises((IndexError, RuntimeError)):
            body(input_ids=torch.full((1, most + 1), 9))


def test_labels_named_in_one_table_alone_are_named_in_both(tmp_path: Path) -> None:
    folder = tiny_folder(tmp_path / "m", labels=2)
    values = json.loads((folder / "config.json").read_text())
    for tables in ({"id2label": {"0": "pos", "1": "neg"}}, {"label2id": {"pos": 0, "neg": 1}}):
        kept = {name: value for name, value in values.items() if name not in ("id2label", "label2id")}
        (folder / "config.json").write_text(json.dumps({**kept, **tables}))
        config = opening.open_config(folder, "m")
        assert config.id2label == {0: "pos", 1: "neg"} and config.label2id == {"pos": 0, "neg": 1}
    three = {"label2id": {"a": 2, "b": 0, "c": 1}}
    (folder / "config.json").write_text(json.dumps({**kept, **three}))
    assert opening.open_config(folder, "m").num_labels == 3


def test_families_that_no_recipe_takes_are_named_with_those_that_it_does(tmp_path: Path) -> None:
    for kind in ("deberta-v2", "modernbert", "mpnet", "t5", "opt", "gpt_neox", "qwen3_moe"):
        (tmp_path / kind).mkdir()
        (tmp_path / kind / "config.json").write_text(json.dumps({"model_type": kind}))
        with pytest.raises(UsageError, match=f"'{kind}'.*electra"):
            encoder.read_config(TeacherSpec(model=str(tmp_path / kind)))
        with pytest.raises(UsageError, match=f"'{kind}'.*qwen2"):
            causal.read_config(tmp_path / kind, kind)


def test_a_classifier_whose_head_lacks_weights_does_not_predict(tmp_path: Path) -> None:
    folder = tiny_folder(tmp_path / "m", labels=2)
    write(folder, {n: t for n, t in weights(folder).items() if not n.startswith("classifier")})
    with pytest.raises(UsageError, match=r"head in .* has no weights"):
        predict.open_model(folder, CPU)
    assert AutoModelForSequenceClassification.from_pretrained(folder).num_labels == 2  # as transformers alone would


@pytest.mark.parametrize(("field", "value"), [("vocab_size", 20), ("max_position_embeddings", 8)])
def test_weights_of_another_size_are_said_with_both(tmp_path: Path, field: str, value: int) -> None:
    said = refusal(change(tiny_encoder(tmp_path / "m"), **{field: value}))
    assert "has another size (" in said and f"and {value} × 32)" in said


@pytest.mark.parametrize("name", ["tf_model.h5", "flax_model.msgpack", "model.onnx", "model.ckpt.index"])
def test_weights_of_another_framework_are_named(tmp_path: Path, name: str) -> None:
    folder = tiny_folder(tmp_path / "m", labels=2)
    (folder / "model.safetensors").rename(folder / name)
    assert f"of another framework: {name}" in refusal(folder)
    with pytest.raises(UsageError, match=f"of another framework: {name}"):
        predict.open_model(folder, CPU)


def test_a_model_one_level_below_is_pointed_at(tmp_path: Path) -> None:
    tiny_folder(tmp_path / "m" / "0_Transformer", labels=2)
    assert "0_Transformer, where a model lies" in refusal(tmp_path / "m")
    with pytest.raises(UsageError, match="0_Transformer, where a model lies"):
        predict.open_model(tmp_path / "m", CPU)
    tiny_folder(tmp_path / "m" / "checkpoint-2", labels=2)
    assert "models below it: 0_Transformer, checkpoint-2" in refusal(tmp_path / "m")


def test_nobody_is_told_how_to_run_what_a_pickle_holds(tmp_path: Path) -> None:
    import pickle

    folder = tiny_folder(tmp_path / "m", labels=2)
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps({"weight": Path("x")}, protocol=2))
    said = refusal(folder)
    assert "holds more than tensors" in said and "weights_only" not in said
