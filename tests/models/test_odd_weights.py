"""Weights and adapters that are something else than their configuration says: refused by name, or read as they are."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification, GPT2Config

from kdnas.models import gguf, lora_adapters
from kdnas.models import open as opening
from kdnas.students import predict
from kdnas.study.spec import TeacherSpec
from kdnas.system.errors import UsageError
from kdnas.teachers import encoder
from tests.tiny import tiny_folder

CPU = torch.device("cpu")
pytestmark = pytest.mark.usefixtures("own_cache")


def rewritten(folder: Path, change: Any) -> Path:
    path = next(p for p in (folder / "adapter_model.safetensors", folder / "model.safetensors") if p.is_file())
    save_file({name: change(name, tensor) for name, tensor in load_file(path).items()}, path, metadata={"format": "pt"})
    return folder


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.float8_e4m3fn, torch.int32])
def test_quantised_weights_are_refused_though_the_configuration_is_silent(tmp_path: Path, dtype: torch.dtype) -> None:
    def change(name: str, tensor: torch.Tensor) -> torch.Tensor:
        return tensor.to(dtype) if "query.weight" in name else tensor

    folder = rewritten(tiny_folder(tmp_path / "m", labels=2), change)
    with pytest.raises(UsageError, match=r"are quantised: bert\.encoder\.layer\.0\.attention\.self\.query\.weight"):
        predict.open_model(folder, CPU)


def test_tables_of_whole_numbers_that_old_checkpoints_hold_are_no_weights(tmp_path: Path) -> None:
    folder = tiny_folder(tmp_path / "m", labels=2)
    tensors = load_file(folder / "model.safetensors") | {"bert.embeddings.position_ids": torch.arange(64)[None]}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    assert predict.open_model(folder, CPU)[0].config.num_labels == 2


def test_a_head_of_its_own_under_a_configuration_that_ties_it_stays_its_own(tmp_path: Path) -> None:
    sizes = {"vocab_size": 20, "n_positions": 16, "n_embd": 8, "n_layer": 1, "n_head": 2}
    made = AutoModelForCausalLM.from_config(GPT2Config(**sizes, tie_word_embeddings=False))
    made.save_pretrained(tmp_path / "m")
    path = tmp_path / "m" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "tie_word_embeddings": True}))
    found = opening.open_causal(tmp_path / "m", "m", AutoConfig.from_pretrained(tmp_path / "m"))
    assert torch.equal(found.lm_head.weight, made.lm_head.weight) and found.config.tie_word_embeddings is False


# ---------------------------------------------------------------- adapters


def adapter(base: Path, folder: Path) -> Path:
    model = AutoModelForSequenceClassification.from_pretrained(base)
    made = get_peft_model(model, LoraConfig(r=2, target_modules=["query"], task_type="SEQ_CLS"))
    made.peft_config["default"].base_model_name_or_path = str(base)
    made.save_pretrained(folder)
    return folder


def test_an_adapter_of_no_numbers_is_refused(tmp_path: Path) -> None:
    folder = adapter(tiny_folder(tmp_path / "base", labels=2), tmp_path / "adapter")
    assert predict.open_model(folder, CPU)[0].config.num_labels == 2
    rewritten(folder, lambda name, tensor: tensor + torch.nan if "lora_B" in name else tensor)
    with pytest.raises(UsageError, match="holds values that are not finite numbers"):
        predict.open_model(folder, CPU)
    with pytest.raises(UsageError, match="holds values that are not finite numbers"):
        encoder.load(TeacherSpec(model=str(tmp_path / "base"), checkpoint=str(folder)), CPU)


def test_an_adapter_whose_base_has_another_vocabulary_than_the_given_one_is_refused(tmp_path: Path) -> None:
    folder = adapter(tiny_folder(tmp_path / "base", labels=2), tmp_path / "adapter")
    other = tiny_folder(tmp_path / "other", labels=2)
    assert lora_adapters.base_of(folder, other) == other
    path = other / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "vocab_size": 90}))
    with pytest.raises(UsageError, match=r"whose vocab_size is 47; that of .*other is 90"):
        lora_adapters.base_of(folder, other)


@pytest.mark.parametrize(
    ("changes", "said"),
    [({"peft_type": "PREFIX_TUNING"}, "kind PREFIX_TUNING, which cannot be merged"), ({"r": 3}, "size mismatch for")],
)
def test_an_adapter_that_cannot_be_merged_says_why(tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    folder = adapter(tiny_folder(tmp_path / "base", labels=2), tmp_path / "adapter")
    path = folder / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    with pytest.raises(UsageError, match=said):
        predict.open_model(folder, CPU)


# ---------------------------------------------------------------- GGUF, and texts of a terminal


def test_a_gguf_file_is_named_as_what_it_is(tmp_path: Path) -> None:
    file = tmp_path / "m.gguf"
    file.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 4\n")
    with pytest.raises(UsageError, match="git-lfs pointer"):
        gguf.rebuilt(file)
    for given in (file, tmp_path):
        with pytest.raises(UsageError, match="a causal model in a GGUF file, which this recipe does not take"):
            encoder.load(TeacherSpec(model=str(given)), CPU)


def test_half_a_character_of_a_terminal_is_predicted_on_with_a_mark_for_it(tmp_path: Path) -> None:
    model, tokenizer = predict.open_model(tiny_folder(tmp_path / "m", labels=2), CPU)
    found = predict.predict(model, tokenizer, ["good \ud83d", "", "fine \udcff film"], lambda *_: None)
    assert [one.text for one in found] == ["good \ufffd", "", "fine \ufffd film"]
    assert [one.label is None for one in found] == [False, True, False]


def test_a_folder_that_may_not_be_looked_at_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Root may look everywhere, so that the refusal of the system is played."""
    folder = tiny_folder(tmp_path / "m", labels=2)
    whole = Path.stat

    def stat(self: Path, **arguments: Any) -> Any:
        if folder in self.parents:
            raise PermissionError(13, "Permission denied", str(self))
        return whole(self, **arguments)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "stat", stat)
        for opened in (lambda: predict.open_model(folder, CPU), lambda: opening.locate(TeacherSpec(model=str(folder)))):
            with pytest.raises(UsageError, match="cannot be looked up: Permission denied"):
                opened()
