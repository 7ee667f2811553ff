"""GGUF files: rebuilt as a folder that opens without them, once, and one line for what cannot be read."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from kdnas.models.gguf import gguf_file, rebuilt
from kdnas.study.spec import from_values
from kdnas.system.errors import UsageError
from kdnas.teachers import causal

WIDTH, HEADS, INNER, LAYERS = 32, 4, 32, 2
TOKENS = ["<|endoftext|>", *"abcdefgh", "ab", "cd"]


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written(tmp_path_factory.mktemp("gguf") / "tiny.gguf", lambda _: None)


def written(path: Path, more: Callable[[gguf.GGUFWriter], None]) -> Path:
    """A Llama of two layers with a byte-pair tokenizer, written as llama.cpp's converter would."""
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(64)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(INNER)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_rope_freq_base(10000.0)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(len(TOKENS))
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(TOKENS)
    writer.add_token_merges(["a b", "c d"])
    for add in (writer.add_bos_token_id, writer.add_eos_token_id, writer.add_unk_token_id, writer.add_pad_token_id):
        add(0)
    rng = np.random.default_rng(0)

    def tensor(name: str, *shape: int) -> None:
        writer.add_tensor(name, rng.normal(size=shape).astype(np.float32) * 0.1)

    tensor("token_embd.weight", len(TOKENS), WIDTH)
    tensor("output_norm.weight", WIDTH)
    for i in range(LAYERS):
        for name in ("attn_q", "attn_k", "attn_v", "attn_output"):
            tensor(f"blk.{i}.{name}.weight", WIDTH, WIDTH)
        for name in ("ffn_gate", "ffn_up"):
            tensor(f"blk.{i}.{name}.weight", INNER, WIDTH)
        tensor(f"blk.{i}.ffn_down.weight", WIDTH, INNER)
        tensor(f"blk.{i}.attn_norm.weight", WIDTH)
        tensor(f"blk.{i}.ffn_norm.weight", WIDTH)
    more(writer)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KDNAS_CACHE", str(tmp_path / "cache"))


def test_the_rebuilt_folder_is_the_same_model_and_not_quantised(file: Path, tmp_path: Path) -> None:
    folder = rebuilt(file)
    ours = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    theirs = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32)
    ids = torch.tensor([[1, 2, 3, 9]])
    with torch.no_grad():
        torch.testing.assert_close(ours(input_ids=ids).logits, theirs(input_ids=ids).logits)
    assert not hasattr(ours.config, "quantization_config")
    ours.save_pretrained(tmp_path / "again")  # a model read from GGUF refuses this
    assert AutoTokenizer.from_pretrained(folder)("abcd")["input_ids"] == [9, 10]


def test_it_is_read_once(file: Path) -> None:
    said: list[str] = []
    first = rebuilt(file, lambda words, _: said.append(words))
    assert rebuilt(file, lambda words, _: said.append(words)) == first
    assert said == ["unpacking tiny.gguf (once)"]


@pytest.mark.parametrize("given", ["file", "folder"])
def test_a_gguf_file_or_its_folder_is_a_teacher(file: Path, given: str) -> None:
    spec = from_values({"teacher": {"model": str(file if given == "file" else file.parent)}})
    loaded = causal.load(spec.teacher, torch.device("cpu"))
    assert loaded.config.model_type == "llama" and loaded.config.num_hidden_layers == LAYERS


@pytest.mark.parametrize(
    ("more", "how"),
    [
        (
            lambda w: w.add_tensor("rope_freqs.weight", np.full(WIDTH // HEADS // 2, 8.0, np.float32)),
            "rope_freqs.weight",
        ),
        (lambda w: w.add_rope_scaling_type(gguf.RopeScalingType.YARN), "yarn"),
    ],
)
def test_scaled_rotary_positions_are_refused_and_not_read_as_plain_ones(
    tmp_path: Path, more: Callable[[gguf.GGUFWriter], None], how: str
) -> None:
    scaled = written(tmp_path / "scaled.gguf", more)
    with pytest.raises(UsageError, match=rf"rotary positions of scaled.gguf are scaled \({how}\)") as caught:
        rebuilt(scaled)
    assert "\n" not in str(caught.value)


def test_rotary_positions_that_a_file_says_are_plain_are_read(tmp_path: Path) -> None:
    def plain(writer: gguf.GGUFWriter) -> None:
        writer.add_rope_scaling_type(gguf.RopeScalingType.NONE)
        writer.add_tensor("rope_freqs.weight", np.ones(WIDTH // HEADS // 2, np.float32))

    assert (rebuilt(written(tmp_path / "plain.gguf", plain)) / "config.json").is_file()


def test_a_broken_file_is_one_line_and_leaves_nothing(tmp_path: Path) -> None:
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(b"GGUF" + bytes(60))
    with pytest.raises(UsageError, match=r"broken.gguf cannot be read as GGUF") as caught:
        rebuilt(broken)
    assert "\n" not in str(caught.value)
    assert not list((tmp_path / "cache" / "gguf").iterdir())


def test_several_files_are_one_line(file: Path, tmp_path: Path) -> None:
    for name in ("a.gguf", "b.gguf"):
        (tmp_path / name).write_bytes(b"")
    with pytest.raises(UsageError, match=r"holds 2 GGUF files: a\.gguf, b\.gguf"):
        gguf_file(tmp_path)
