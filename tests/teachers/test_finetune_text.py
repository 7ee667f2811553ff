"""A fine-tuning on pairs holds out the texts that a study of the same pairs holds out."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from kdnas.data import causal_text, splits
from kdnas.data import tokens as tokenising
from kdnas.study.spec import DataSpec, TeacherSpec
from kdnas.teachers import causal
from kdnas.teachers.finetune_text import language
from tests.recipes import tiny_causal


def test_what_a_study_of_the_pairs_would_train_on_is_not_held_out(own_cache: None, tmp_path: Path) -> None:
    texts = tiny_causal.documents(60, words=8)
    rows = [{"text": text, "summary": " ".join(text.split()[:3])} for text in texts]
    (tmp_path / "pairs.jsonl").write_text("\n".join(map(json.dumps, rows)))
    given = {"source": str(tmp_path / "pairs.jsonl"), "label_column": "summary", "length": 32, "held_out": 0.3}
    data = DataSpec(**given)  # type: ignore[arg-type]
    folder = tiny_causal.folder(tmp_path / "m", extra=("TL;DR:",), steps=0)
    model = causal.load(TeacherSpec(model=str(folder)), torch.device("cpu"))  # type: ignore[call-arg]
    task = language(model, data, lambda words, share: None)

    documents = causal_text.read_documents(data)
    held, train = splits.by_tokens(tokenising.tokenise(documents, model.tokenizer).lengths, documents, 0.3)

    def begun(places: list[int]) -> set[str]:
        return {model.tokenizer.decode(task._ids[place][:8]) for place in places}

    assert begun(task._held.tolist()) == {texts[row] for row in held}
    assert begun(task._train.tolist()) == {texts[row] for row in train}
