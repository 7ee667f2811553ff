"""A study of causal students from its first slot to a folder that generates: only the recipe is new."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from kdnas.search.worker import run_worker
from kdnas.store import queries
from kdnas.store.database import open_reader, open_store
from kdnas.store.studies import create_study
from kdnas.students import model_folder as folders
from kdnas.students.distil import Telling
from kdnas.students.finalize import finalize
from kdnas.study import export
from kdnas.study.ranked_rows import rank
from kdnas.study.spec import from_values
from tests.recipes import tiny_causal

RECIPES: list[dict[str, Any]] = [
    {"name": "causal-divergence", "divergence": "js", "top_k": 8},
    {"name": "causal-policy-gradient", "prompt_tokens": 6, "new_tokens": 6},
]


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda r: r["name"])
def test_search_export_finalize_generate(
    recipe: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KDNAS_CACHE", str(tmp_path / "cache"))
    spec = from_values(
        {
            "name": "causal",
            "device": "cpu",
            "teacher": {"model": str(tiny_causal.folder(tmp_path / "teacher"))},
            "data": {
                "source": str(tiny_causal.text_file(tmp_path / "text.txt")),
                "length": 16,
                "batch_size": 8,
                "held_out": 0.1,
            },
            "recipe": recipe,
            "budget": {"trials": 2, "epochs": 1},
            "latency": {"length": 16, "precision": 0.5, "max_seconds": 0.02},
            "training": {"learning_rate": 3e-3},
            "full": {"epochs": 2},
        }
    )
    database = tmp_path / "kdnas.db"
    with open_store(database, create=True) as store:
        create_study(store, spec)
    assert run_worker(str(database), "causal") == 0
    with open_reader(database) as store:
        row = queries.study_row(store, "causal")
        trials = queries.trial_rows(store, row.study_id)
        scored = rank(trials, row.alpha, row.beta)
        body = export.document(
            row, scored, alpha=row.alpha, beta=row.beta, provenance=queries.provenance(store, row.study_id)
        )
    assert [trial.state for trial in trials] == ["done", "done"]
    for trial in trials:
        assert trial.extra["token_ms"] > 0 and trial.extra["teacher_token_ms"] > 0
        assert trial.extra["perplexity"] > 1
    for entry in body["candidates"]:
        config = dict(entry["config"])
        AutoModelForCausalLM.from_config(AutoConfig.for_model(config.pop("model_type"), **config), dtype=torch.float32)
    facts = finalize(str(database), "causal", tmp_path / "out", Telling(lambda words, share: None))
    assert facts["opens_with"] == "AutoModelForCausalLM" and facts["latency"]["token_ms"] > 0
    assert folders.finished(tmp_path / "out")
    model: Any = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    words = AutoTokenizer.from_pretrained(tmp_path / "out")
    written = model.generate(**words("the senate shall", return_tensors="pt"), max_new_tokens=4, do_sample=False)
    assert written.shape == (1, 7)
