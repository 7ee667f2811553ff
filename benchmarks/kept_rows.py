"""Candidates spread over a space, each evaluated once: every finished one is written down, so that a run that was
interrupted goes on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.report import say
from kdnas.study.space import Candidate, SearchSpace
from kdnas.system import paths, seeds

Row = dict[str, Any]


def kept(
    prefix: str,
    stands_on: list[Any],
    space: SearchSpace,
    candidates: list[Candidate],
    evaluate: Callable[[Candidate], Row],
    fresh: bool,
) -> list[Row]:
    """The rows of the candidates, in their order: those that an earlier run wrote on the same ground (`stands_on`, JSON
    values), unless `fresh`, and what `evaluate` finds of the others."""
    folder = paths.state_folder() / "fidelity"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{prefix}{hashlib.sha256(json.dumps(stands_on).encode()).hexdigest()[:16]}.jsonl"
    if fresh:
        path.unlink(missing_ok=True)
    known = {row["key"]: row for row in map(json.loads, path.read_text().splitlines())} if path.exists() else {}
    for place, candidate in enumerate(candidates):
        key = space.key(candidate)
        if key not in known:
            say(f"candidate {place + 1} of {len(candidates)}: {candidate}")
            known[key] = {"key": key, **evaluate(candidate)}
            with path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(known[key]) + "\n")
    return [known[space.key(candidate)] for candidate in candidates]


def spread_over(space: SearchSpace, count: int, seed: int) -> list[Candidate]:
    """Different candidates that use each choice of each dimension as evenly as can be."""
    rng = seeds.generator(seed, seeds.Benchmark.SPREAD)
    chosen: dict[str, Candidate] = {}
    while len(chosen) < min(count, space.size):
        columns = [rng.permutation(np.arange(count) * n // count) for n in space.shape]
        for indices in zip(*columns, strict=True):
            candidate = space.canonical(space.at(tuple(int(i) for i in indices)))
            if len(chosen) < count:
                chosen.setdefault(space.key(candidate), candidate)
    return list(chosen.values())
