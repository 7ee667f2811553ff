"""Tokenizers: the one that the folder's tokenizer.json describes is the one that reads."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import transformers
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoConfig, AutoTokenizer

from kdnas.models.tokenizer import PROBES, open_tokenizer, opener, pad_id
from kdnas.system.errors import UsageError
from tests.encoders import tiny_encoder

TEXT = "in 1987 there were 250 films, 640 in 2001"


def numbers_in_threes(folder: Path, model_type: str, kind: str) -> Tokenizer:
    """Byte-level pairs over text whose numbers are cut into pieces of up to three digits, under any class's name."""
    folder.mkdir()
    made = Tokenizer(models.BPE())
    digits = pre_tokenizers.Split(Regex(r"\p{N}{1,3}"), "isolated")
    made.pre_tokenizer = pre_tokenizers.Sequence([digits, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    made.train_from_iterator([TEXT] * 3 + [str(n) for n in range(100, 1000)] * 2, trainer)
    made.save(str(folder / "tokenizer.json"))
    values = {"tokenizer_class": kind, "eos_token": "<|endoftext|>", "bos_token": "<|endoftext|>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(values))
    AutoConfig.for_model(model_type).save_pretrained(folder)
    return made


@pytest.mark.parametrize("kind", ["PreTrainedTokenizerFast", "Qwen2Tokenizer", "LlamaTokenizerFast", "GPT2Tokenizer"])
@pytest.mark.parametrize("model_type", ["qwen2", "llama", "gpt2"])
def test_the_ids_are_those_of_the_folders_own_file(tmp_path: Path, model_type: str, kind: str) -> None:
    described = numbers_in_threes(tmp_path / "m", model_type, kind)
    found = open_tokenizer(tmp_path / "m", "m")
    for text in (TEXT, *PROBES):
        assert found(text, add_special_tokens=False)["input_ids"] == described.encode(text).ids
    assert pad_id(found) == found.eos_token_id == described.token_to_id("<|endoftext|>")


def test_transformers_alone_would_read_other_tokens(tmp_path: Path) -> None:
    described = numbers_in_threes(tmp_path / "m", "qwen2", "PreTrainedTokenizerFast")
    theirs = AutoTokenizer.from_pretrained(tmp_path / "m")
    assert theirs(TEXT, add_special_tokens=False)["input_ids"] != described.encode(TEXT).ids  # else drop our own way


def test_a_saved_tokenizer_is_opened_by_the_class_that_reads_it_right(tmp_path: Path) -> None:
    """What a student's card names: saving keeps tokenizer.json, but transformers rebuilds that of some families."""
    for model_type, expected in (("qwen2", "PreTrainedTokenizerFast"), ("bert", "AutoTokenizer")):
        described = numbers_in_threes(tmp_path / model_type, model_type, "PreTrainedTokenizerFast")
        place = tmp_path / f"student-{model_type}"
        open_tokenizer(tmp_path / model_type, "m").save_pretrained(place)
        AutoConfig.for_model(model_type).save_pretrained(place)
        assert opener(place) == expected
        read = getattr(transformers, expected).from_pretrained(place)
        assert read(TEXT, add_special_tokens=False)["input_ids"] == described.encode(TEXT).ids


def test_what_stands_above_tokenizer_json_stays_above_it(tmp_path: Path) -> None:
    folder = tiny_encoder(tmp_path / "m")
    assert open_tokenizer(folder, "m").tokenize("WAA waa") == ["waa", "waa"]
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "do_lower_case": False}))
    assert open_tokenizer(folder, "m").tokenize("WAA waa") == ["[UNK]", "waa"]


def test_a_damaged_file_is_one_line(tmp_path: Path) -> None:
    folder = tiny_encoder(tmp_path / "m")
    for content in ("", "{", "[]", '{"model": 3}'):
        (folder / "tokenizer.json").write_text(content)
        with pytest.raises(UsageError, match="tokenizer of 'm'") as caught:
            open_tokenizer(folder, "m")
        assert "\n" not in str(caught.value)
