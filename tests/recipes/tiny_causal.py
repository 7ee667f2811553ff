"""A tiny random causal model with a tokenizer of its own, as a folder, and a text: real enough for every recipe."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast, logging

logging.disable_progress_bar()

WORDS = ["the", "senate", "house", "people", "nation", "peace", "war", "law", "of", "and", "to", "we", "shall", "must",
         "keep", "make", "see", "great", "good", "year", "in", "our", "a", "with", "union", "treaty"]  # fmt: skip
SIZES: dict[str, dict[str, Any]] = {
    "gpt2": {"n_layer": 3, "n_head": 2, "n_embd": 32, "n_inner": 64, "n_positions": 64},
    "llama": {
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "hidden_size": 32,
        "head_dim": 8,
        "intermediate_size": 64,
        "tie_word_embeddings": True,
        "max_position_embeddings": 64,
    },
}
SMALL_LLAMA = {  # a candidate
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "hidden_act": "silu",
    "head_size": 8,
}
SIZES["mistral"] = {**SIZES["llama"], "sliding_window": 8}
SIZES["qwen2"] = SIZES["qwen3"] = SIZES["llama"]


def tokenizer(extra: tuple[str, ...] = ()) -> PreTrainedTokenizerFast:
    """Whole words, one token each, and `<|endoftext|>`."""
    words = ["<|endoftext|>", "<unk>", *WORDS, *extra]
    inner = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    inner.decoder = decoders.WordPiece(prefix="##")
    return PreTrainedTokenizerFast(
        tokenizer_object=inner, unk_token="<unk>", eos_token="<|endoftext|>", bos_token="<|endoftext|>"
    )


def byte_pairs(split: Any = None) -> PreTrainedTokenizerFast:
    """Byte-level byte pairs as GPT-2 has them, or with another pre-tokenizer before them."""
    inner = Tokenizer(models.BPE())
    whole = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=split is None)
    inner.pre_tokenizer = whole if split is None else pre_tokenizers.Sequence([split, whole])
    inner.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    inner.train_from_iterator(documents(4), trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=inner, eos_token="<|endoftext|>", bos_token="<|endoftext|>", unk_token="<|endoftext|>"
    )


def sentence_pieces(mark: str = "\u2581") -> PreTrainedTokenizerFast:
    """Byte pairs with bytes to fall back on, as SentencePiece makes them for Llama 2 and Mistral."""
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.Metaspace()
    trained.train_from_iterator(documents(4), trainers.BpeTrainer(vocab_size=60, show_progress=False))
    names = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    names += sorted(trained.get_vocab(), key=trained.get_vocab().__getitem__)
    vocabulary = {name: place for place, name in enumerate(names)}
    merges = [
        (name[:cut], name[cut:])
        for name in names[259:]
        for cut in range(1, len(name))
        if name[:cut] in vocabulary and name[cut:] in vocabulary
    ]
    inner = Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    inner.normalizer = normalizers.Sequence([normalizers.Prepend(mark), normalizers.Replace(" ", mark)])
    inner.decoder = decoders.Sequence(
        [decoders.Replace(mark, " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    inner.post_processor = processors.TemplateProcessing("<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="<unk>", bos_token="<s>", eos_token="</s>")


def folder(
    place: Path,
    family: str = "llama",
    seed: int = 0,
    extra: tuple[str, ...] = (),
    steps: int = 60,
    words: PreTrainedTokenizerFast | None = None,
    **sizes: Any,
) -> Path:
    """A model that was taught the text's word order a little, so that it predicts better than word counts."""
    words = tokenizer(extra) if words is None else words
    values = {"vocab_size": len(words), "bos_token_id": 0, "eos_token_id": 0, **SIZES[family], **sizes}
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **values), dtype=torch.float32)
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-2)
    ids = torch.tensor(words(" ".join(documents(8)))["input_ids"])[: 16 * 60].view(60, 16)
    for _ in range(steps):
        batch = ids[torch.randint(60, (16,))]
        model(input_ids=batch, labels=batch).loss.backward()
        optimiser.step()
        optimiser.zero_grad()
    model.eval().save_pretrained(place)
    words.save_pretrained(place)
    return place


def documents(count: int = 24, words: int = 150, seed: int = 0) -> list[str]:
    """Sentences in which each word is followed by one of three."""
    rng = np.random.default_rng(seed)
    follow = np.random.default_rng(7).integers(len(WORDS), size=(len(WORDS), 3))
    made = []
    for _ in range(count):
        word, text = int(rng.integers(len(WORDS))), []
        for _ in range(words):
            text.append(WORDS[word])
            word = int(follow[word, rng.choice(3, p=(0.7, 0.2, 0.1))])
        made.append(" ".join(text))
    return made


def text_file(place: Path, count: int = 24) -> Path:
    place.write_text("\n\n".join(documents(count)), encoding="utf-8")
    return place
