"""What a teacher says in one precision is never taken for what it says in another, whatever it is asked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from kdnas.measuring import devices
from kdnas.recipes import recipe
from kdnas.study.spec import StudySpec, from_values
from kdnas.system import disk_cache
from tests.recipes import tiny_causal, tiny_labelled
from tests.tiny import tiny_folder

CPU = torch.device("cpu")


def causal(folder: Path) -> StudySpec:
    return from_values(
        {
            "teacher": {"model": str(tiny_causal.folder(folder / "causal"))},
            "data": {"source": str(tiny_causal.text_file(folder / "text.txt")), "length": 16, "held_out": 0.1},
            "recipe": {"name": "causal-divergence", "top_k": 4},
            "budget": {"proxy_fraction": 0.5},
            "latency": {"length": 16},
        }
    )


def classifier(folder: Path) -> StudySpec:
    return tiny_labelled.rnn_spec(tiny_folder(folder / "m"), tiny_labelled.examples(folder / "rows.jsonl"))


@pytest.mark.parametrize("study", [causal, classifier], ids=lambda study: study.__name__)
def test_what_is_cached_in_one_precision_serves_no_study_in_another(
    own_cache: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, study: Any
) -> None:
    spec = study(tmp_path)

    def prepared() -> dict[str, set[str]]:
        bench: Any = recipe(spec.recipe.name).prepare(spec, CPU, lambda words, share: None)
        if study is causal:
            bench.importance()
        bench.close()
        found: dict[str, set[str]] = {}
        for item in disk_cache.items():
            found.setdefault(item.kind, set()).add(item.path.name)
        return found

    plain = prepared()
    assert prepared() == plain
    monkeypatch.setattr(devices, "autocasts", lambda device: True)  # as on a GPU; the CPU can, too
    both = prepared()
    for kind in {"causal", "teacher", "teacher/importance", "classifiers/logits"} & plain.keys():
        assert len(both[kind]) == 2 * len(plain[kind]), kind
