"""Tiny random encoders of every family, with a tokenizer and text over its words: made from configurations alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import BertWordPieceTokenizer
from transformers import AutoConfig, AutoModel, BertTokenizerFast

from kdnas.study.spec import StudySpec, from_values

WORDS = [f"w{a}{b}" for a in "abcdefgh" for b in "abcdefgh"]
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
VOCABULARY = {word: place for place, word in enumerate([*SPECIAL, *WORDS])}
USUAL = {
    "hidden_size": 32,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "max_position_embeddings": 40,
    "vocab_size": len(VOCABULARY),
}
FAMILIES: dict[str, dict[str, Any]] = {
    "bert": USUAL,
    "roberta": {**USUAL, "pad_token_id": 0},
    "xlm-roberta": {**USUAL, "pad_token_id": 0},
    "albert": {**USUAL, "embedding_size": 16},
    "distilbert": {
        "dim": 32,
        "n_layers": 4,
        "n_heads": 4,
        "hidden_dim": 64,
        "max_position_embeddings": 40,
        "vocab_size": len(VOCABULARY),
    },
    "electra": {**USUAL, "embedding_size": 16},
}


def tiny_encoder(folder: Path, family: str = "bert", seed: int = 0, **changes: Any) -> Path:
    """A random model of the family with weights large enough for its layers to do something."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = BertTokenizerFast(tokenizer_object=BertWordPieceTokenizer(VOCABULARY, lowercase=True)._tokenizer)
    tokenizer.save_pretrained(folder)
    config = AutoConfig.for_model(family, **{**FAMILIES[family], **changes})
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = AutoModel.from_config(config, dtype=torch.float32)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if parameter.dim() == 2:
                    parameter.normal_(0, 0.2)
                elif not name.endswith("LayerNorm.weight") and "norm" not in name.lower():
                    parameter.normal_(0, 0.1)
    model.save_pretrained(folder)
    return folder


def texts(documents: int = 24, words: int = 120, seed: int = 0) -> list[str]:
    rng = np.random.default_rng(seed)
    return [" ".join(rng.choice(WORDS, size=words)) for _ in range(documents)]


def text_folder(folder: Path, documents: int = 24, words: int = 120) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for i, text in enumerate(texts(documents, words)):
        (folder / f"{i:03d}.txt").write_text(text, encoding="utf-8")
    return folder


def tiny_spec(model: Path, source: Path, **parts: dict[str, Any]) -> StudySpec:
    """A study of a tiny teacher that runs in a moment."""
    values: dict[str, Any] = {
        "teacher": {"model": str(model)},
        "data": {"source": str(source), "length": 16, "batch_size": 8, "held_out": 0.1},
        "budget": {"epochs": 2, "proxy_fraction": 0.5, "trials": 4, "short_text": "train"},
        "latency": {"length": 16, "precision": 0.5, "max_seconds": 0.02},
    }
    for part, given in parts.items():
        values[part] = {**values.get(part, {}), **given}
    return from_values(values)
