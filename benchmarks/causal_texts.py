"""What a distilled causal student writes beside its teacher: ten held-out beginnings, each continued greedily by both.

`python -m benchmarks.causal_texts --folder DIR [--json FILE]`, of a folder that kdnas finalize or distill wrote. Trains
nothing; the times of a token are those that were measured when the folder was written.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch

from benchmarks.report import Result, Table, run
from kdnas.recipes import recipe
from kdnas.recipes.causal import CausalBench
from kdnas.students import model_folder
from kdnas.students.generate import Prompt, Settings, generate, open_model
from kdnas.study.spec import from_values

TEXTS = 10
GIVEN, WRITTEN = 20, 20  # tokens


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--folder", type=Path, required=True, help="the student's folder")


def measure(chosen: argparse.Namespace) -> Result:
    facts = model_folder.read_facts(chosen.folder)
    torch.set_num_threads(1)
    spec = from_values(facts["spec"])
    bench = recipe(spec.recipe.name).prepare(spec, torch.device("cpu"), lambda words, share: None)
    assert isinstance(bench, CausalBench)
    words = bench.teacher.tokenizer
    given = [Prompt(words.decode(row[:GIVEN])) for row in bench.held_ids[:: max(1, len(bench.held_ids) // TEXTS)]]
    student, own = open_model(chosen.folder, torch.device("cpu"))
    rows = list(zip(given, _texts(student, own, given), _texts(bench.teacher.model, words, given), strict=True))[:TEXTS]
    bench.close()
    latency = facts["latency"]
    figures = {name: float(latency[name]) for name in ("token_ms", "teacher_token_ms")}
    notes = [f"Milliseconds a token: {figures['token_ms']:.3g}, the teacher {figures['teacher_token_ms']:.3g}."]
    columns = ["given", "the student goes on", "the teacher goes on"]
    cells = [[_line(p.text), _line(mine), _line(theirs)] for p, mine, theirs in rows]
    return Result([Table("Greedy continuations", columns, cells, notes)], figures, {"texts": cells})


def _texts(model: Any, tokenizer: Any, given: list[Prompt]) -> list[str]:
    records = generate(model, tokenizer, given, Settings(max_new_tokens=WRITTEN, batch_size=4), lambda *_: None)
    return [record.prediction for record in records]


def _line(text: str) -> str:
    return " ".join(text.split())


if __name__ == "__main__":
    run("What a causal student writes beside its teacher.", measure, options)
