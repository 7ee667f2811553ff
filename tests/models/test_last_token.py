"""Classifiers that read the last token of a text: in a batch they say what transformers says of each text alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    GPT2Config,
    GPT2ForSequenceClassification,
    PreTrainedTokenizerFast,
)

from kdnas.data.labelled import Examples
from kdnas.models.tokenizer import ends_no_text
from kdnas.scores.finetuning import _pad_alike
from kdnas.students import predict
from kdnas.teachers import classifier as classifiers

CPU = torch.device("cpu")
END, TEXTS = "<end>", ["good film", "bad", "a good film and a bad film"]


def classifier(folder: Path, *, ends: bool, pad: str | None, saved: int | None) -> Path:
    words = {word: place for place, word in enumerate([END, "<unk>", "a", "good", "bad", "film", "and"])}
    made = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    if ends:
        made.post_processor = processors.TemplateProcessing(single=f"$A {END}", special_tokens=[(END, 0)])
    named = {} if pad is None else {"pad_token": pad}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=made, eos_token=END, unk_token="<unk>", **named)
    tokenizer.save_pretrained(folder)
    sizes = {"n_positions": 32, "n_embd": 16, "n_layer": 2, "n_head": 2, "vocab_size": 9, "eos_token_id": 0}
    torch.manual_seed(0)
    model = GPT2ForSequenceClassification(GPT2Config(**sizes, bos_token_id=0, pad_token_id=saved, num_labels=2))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 2:
                parameter.normal_(0, 0.4)
    model.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("saved", [None, 0, 1, 8, -1])
@pytest.mark.parametrize(("ends", "pad"), [(True, None), (True, END), (True, "<unk>"), (False, None), (False, "<unk>")])
def test_a_text_in_a_batch_is_read_as_transformers_reads_it_alone(
    tmp_path: Path, ends: bool, pad: str | None, saved: int | None
) -> None:
    folder = classifier(tmp_path / "m", ends=ends, pad=pad, saved=saved)
    theirs = AutoModelForSequenceClassification.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    ids = [tokenizer(text)["input_ids"] for text in TEXTS]
    with torch.no_grad():
        alone = torch.cat([theirs(input_ids=torch.tensor([row])).logits for row in ids])
    model, ours = predict.open_model(folder, CPU)
    shares = predict.probabilities(model, ours, TEXTS, 3, lambda *_: None)
    assert torch.allclose(shares, alone.softmax(-1), atol=1e-5)
    examples = Examples(tuple(np.array(row) for row in ids), np.zeros(len(ids), dtype=np.int64))
    assert torch.allclose(classifiers.logits_of(model, examples, 0), alone, atol=1e-5)
    _pad_alike(theirs, tokenizer)
    batch: Any = tokenizer(TEXTS, padding=True, return_tensors="pt")
    with torch.no_grad():
        assert torch.allclose(theirs(**batch).logits, alone, atol=1e-5)


def test_padding_is_no_token_that_ends_every_text(tmp_path: Path) -> None:
    ending = AutoTokenizer.from_pretrained(classifier(tmp_path / "a", ends=True, pad=None, saved=None))
    assert ending("good")["input_ids"][-1] == 0 != ends_no_text(ending)
    plain = AutoTokenizer.from_pretrained(classifier(tmp_path / "b", ends=False, pad=None, saved=None))
    assert ends_no_text(plain) == plain.eos_token_id == 0
