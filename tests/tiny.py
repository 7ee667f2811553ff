"""A tiny random BERT with its tokenizer, as a folder: real enough for everything that opens models."""

from __future__ import annotations

from pathlib import Path

import torch
from tokenizers import BertWordPieceTokenizer
from transformers import AutoModel, AutoModelForSequenceClassification, BertConfig, BertTokenizerFast, logging

logging.disable_progress_bar()

WORDS = ["a", "the", "good", "bad", "fine", "dull", "film", "plot", "scene", "was", "is", "and", "not", "very", "it"]
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


def tiny_folder(folder: Path, *, layers: int = 2, width: int = 16, labels: int | None = None, seed: int = 0) -> Path:
    """A BERT of a few thousand parameters; with `labels`, one with a classification head."""
    folder.mkdir(parents=True, exist_ok=True)
    vocabulary = {word: place for place, word in enumerate([*SPECIAL, *WORDS, *"abcdefghijklmnopqrstuvwxyz."])}
    tokenizer = BertTokenizerFast(tokenizer_object=BertWordPieceTokenizer(vocabulary)._tokenizer)
    tokenizer.save_pretrained(folder)
    config = BertConfig(
        vocab_size=1 + max(vocabulary.values()),
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=2,
        intermediate_size=2 * width,
        max_position_embeddings=64,
        **({} if labels is None else {"num_labels": labels}),
    )
    torch.manual_seed(seed)
    opener = AutoModel if labels is None else AutoModelForSequenceClassification
    opener.from_config(config, dtype=torch.float32).save_pretrained(folder)
    return folder
