"""How well a classifier's folder labels texts, beside its teacher: on the test part of its study, or on other rows.

Nothing is fine-tuned: both are asked as they are. Other rows must have labels of the classes that both know.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from kdnas.data import labelled
from kdnas.data.labelled import Examples, LabelledText
from kdnas.models import class_order
from kdnas.recipes import recipe
from kdnas.recipes.classifiers import ClassifierBench
from kdnas.scores.training_texts import seen_by
from kdnas.students import predict
from kdnas.study.spec import DataSpec, from_values
from kdnas.study.spec_recipes import ClassifierRecipe
from kdnas.system.errors import UsageError
from kdnas.system.progress import Progress
from kdnas.teachers import classifier as classifiers


def label_scores(
    model: Path,
    facts: Mapping[str, Any] | None,
    source: DataSpec | None,
    device: torch.device,
    on_progress: Progress,
    *,
    beside: bool = True,
) -> dict[str, Any]:
    """Accuracy, macro F1, cross-entropy and confusion table of the student and, `beside` it, of its study's teacher.

    `facts` are the folder's `kdnas.json`; without them, `source` says which rows and the model alone is scored. Raises
    UsageError for a folder that is no classifier, and for labels that it does not know.
    """
    spec = None if facts is None else from_values(facts["spec"])
    if spec is not None and not isinstance(spec.recipe, ClassifierRecipe):
        raise UsageError(f"{model} is no classifier (its recipe is {spec.recipe.name}).", "Leave out the task labels.")
    if spec is None and source is None:
        raise UsageError(f"{model} says nothing of the data it is for.", "Give --text FILE and --label-column COLUMN.")
    on_progress(f"opening {model.name}", None)
    student, tokenizer = predict.open_model(model, device)
    bench = None
    if spec is not None and beside:
        made = recipe(spec.recipe.name).prepare(spec, device, on_progress)
        assert isinstance(made, ClassifierBench)
        bench = made
    pad = int(tokenizer.pad_token_id or 0)
    left_out = 0
    if source is not None:
        names = bench.text.names if bench is not None else class_order.shown_names(student.config)
        seen = seen_by([model], on_progress).trained
        rows = labelled.whole(source, tokenizer, names, on_progress, seen)
        part, examples, left_out = "all rows", rows.examples, rows.seen
        taught = None if bench is None else labelled.whole(source, bench.teacher.tokenizer, names, None, seen).examples
    else:
        assert spec is not None and facts is not None
        text = labelled.read(spec.data, spec.budget.proxy_fraction, tokenizer, on_progress)
        _require_same(text, facts, spec.data.source)
        part, names = ("test" if len(text.test) else "held_out"), text.names
        examples = getattr(text, part)
        taught = None if bench is None else getattr(bench.text, part)
    order = class_order.order_of(student.config, names) or tuple(range(len(names)))
    on_progress(f"asking {model.name} for {len(examples):,} labels", None)
    logits = classifiers.logits_of(student, examples, pad)[:, list(order)]
    found: dict[str, Any] = {
        "part": part,
        "examples": len(examples),
        "left_out": left_out,  # rows whose text was trained on
        "classes": list(names),
        "student": classifiers.report(logits, examples.labels),
    }
    if bench is not None:
        assert isinstance(taught, Examples)
        given = bench.teacher_logits(taught, "these rows")
        found["teacher"] = classifiers.report(given, taught.labels)
        found["kept"] = 100 * found["student"]["accuracy"] / max(found["teacher"]["accuracy"], 1e-9)
        bench.close()
    return found


def _require_same(text: LabelledText, facts: Mapping[str, Any], source: str) -> None:
    """Raise UsageError where the data is no longer what the study split: its test part would be another."""
    before = (facts.get("provenance") or {}).get("source_fingerprint")
    if before not in (None, text.record["source_fingerprint"]):
        raise UsageError(
            f"The data {source!r} is not the one that the study was made with; its test part may have been learned.",
            "Bring the data back, or give other rows with --text FILE.",
        )
