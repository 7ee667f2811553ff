"""One causal student learned in each way on the same tokens: perplexity, ROUGE-L, and what a step costs.

    python -m benchmarks.causal [--quick] [--init fitted|inherit|random] [--rate R] [--chunks N] [--json FILE]

The ways: cross-entropy alone, divergences, on the student's own text or the teacher's, policy gradient without and
with penalties. With `--epochs 0` the student is only scored as it begins, which is the same for all ways. Searches
nothing.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import os
import statistics
import time
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch

from benchmarks.report import Result, Table, run, say
from kdnas.recipes import recipe
from kdnas.recipes.causal import CausalBench
from kdnas.students.generate import Prompt, Settings, generate, rouge
from kdnas.study.space import Candidate
from kdnas.study.spec import StudySpec, from_values
from kdnas.study.spec_toml import read_values
from kdnas.system.paths import presets
from kdnas.system.seeds import Purpose, number
from kdnas.training.contract import Student

POLICY: dict[str, Any] = {"name": "causal-policy-gradient", "prompt_tokens": 32, "new_tokens": 16, "reuse": 6}
WAYS: dict[str, dict[str, Any]] = {
    "cross-entropy": {"name": "causal-divergence", "weight": 0.0},
    "forward": {"name": "causal-divergence", "divergence": "forward"},
    "reverse": {"name": "causal-divergence", "divergence": "reverse"},
    "js": {"name": "causal-divergence", "divergence": "js"},
    "skew-forward": {"name": "causal-divergence", "divergence": "skew-forward"},
    "skew-reverse": {"name": "causal-divergence", "divergence": "skew-reverse"},
    "adaptive": {"name": "causal-divergence", "divergence": "adaptive"},
    "on-policy": {"name": "causal-divergence", "divergence": "js", "on_policy": 0.5, "reuse": 6},
    "teacher-text": {"name": "causal-divergence", "weight": 0.0, "text": "teacher"},
    "policy": POLICY,
    "policy-penalties": {**POLICY, "frequency_penalty": 0.5, "diversity_penalty": 0.5, "entropy_penalty": 0.1},
}
STUDENT: Candidate = {
    "num_hidden_layers": 4,
    "num_attention_heads": 6,
    "head_size": 64,
    "intermediate_size": 768,
    "hidden_act": "silu",
}
TIMED_STEPS = 5
CHUNKS, EPOCHS = 512, 2  # 32 of the chunks score; the preset has eight times as many, and reads them once


@dataclass(frozen=True)
class Found:
    """What one way came to. CPU seconds are of the whole process."""

    perplexity: float
    loss: float
    rouge_l: float
    step_cpu_s: float
    cpu_s: float
    tokens: int


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--ways", default=",".join(WAYS), help="which of them, separated by commas")
    parser.add_argument("--init", choices=("fitted", "inherit", "random"), help="how students begin")
    parser.add_argument("--rate", type=float, help="training.learning_rate")
    parser.add_argument("--epochs", type=int, help="epochs on the whole training part  [default: 2]")
    parser.add_argument("--chunks", type=int, default=CHUNKS, help="chunks of text, some of them held out")
    parser.add_argument("--seeds", type=int, default=1, help="how many seeds; the median is shown")


def spec_of(
    way: str, quick: bool, init: str | None = None, rate: float | None = None, chunks: int = CHUNKS
) -> StudySpec:
    values = read_values(presets()["causal"])
    values["data"] = {**values["data"], "limit": chunks}
    values["budget"] = {**values["budget"], "proxy_fraction": 0.5}
    values["recipe"] = {**WAYS[way], **({} if init is None else {"init": init})}
    if rate is not None:
        values["training"] = {**values["training"], "learning_rate": rate}
    if quick:
        values["data"] = {**values["data"], "limit": 40, "max_held_out": 8, "batch_size": 4}
        values["budget"] = {**values["budget"], "proxy_fraction": 1.0}  # else too little to fit students on
        values["recipe"] |= {"new_tokens": 8} if way.startswith("policy") else {"top_k": 32}
    return from_values(values)


def measure(chosen: argparse.Namespace) -> Result:
    names = chosen.ways.split(",")
    unknown = [name for name in names if name not in WAYS]
    if unknown:
        raise SystemExit(f"There is no way {unknown[0]!r}; known: {', '.join(WAYS)}.")
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS") or len(os.sched_getaffinity(0))))
    seeds = 1 if chosen.quick else chosen.seeds
    found: dict[str, Found] = {}
    floor = 0.0
    facts: dict[str, Any] = {}
    for name in names:
        spec = spec_of(name, chosen.quick, chosen.init, chosen.rate, chosen.chunks)
        epochs = (1 if chosen.quick else EPOCHS) if chosen.epochs is None else chosen.epochs
        bench = recipe(spec.recipe.name).prepare(spec, torch.device("cpu"), lambda words, share: None)
        assert isinstance(bench, CausalBench)
        if not facts:
            begin = time.process_time()
            built = bench.build_in_full(STUDENT, 0)
            facts = {
                "student": STUDENT,
                "parameters": built.size,
                "build_cpu_s": time.process_time() - begin,
                "teacher_perplexity": float(np.exp(bench.yardsticks.teacher)),
                "unigram_perplexity": float(np.exp(bench.yardsticks.unigram)),
                "start_perplexity": float(np.exp(bench.score(built).raw_loss)),
                "epochs": epochs,
                "chunks": len(bench.chunks.train),
                "fitted_tokens": bench.fitted_tokens,
                "length": spec.data.length,
                "threads": torch.get_num_threads(),
                "spec": spec.model_dump(mode="json"),
            }
            del built
            if not epochs:
                bench.close()
                break
            floor = floor_seconds(bench)
        runs = [one(bench, spec, epochs, seed) for seed in range(seeds)]
        facts.setdefault("runs", {})[name] = [vars(r) for r in runs]
        found[name] = sorted(runs, key=lambda r: r.perplexity)[len(runs) // 2]
        facts.setdefault("cache", {})[name] = bench.provenance().get("cache")
        say(f"{name}: perplexity {found[name].perplexity:.1f}, ROUGE-L {found[name].rouge_l:.4f}")
        bench.close()
        del bench
        gc.collect()
    return _result(found, floor, facts, seeds)


def one(bench: CausalBench, spec: StudySpec, epochs: int, seed: int) -> Found:
    student = bench.build_in_full(STUDENT, number(seed, Purpose.STUDENT, 0))
    training = bench.training(student, epochs=epochs, seed=number(seed, Purpose.STUDENT, 0), full=True)
    prepared = time.process_time()
    steps: list[float] = []
    begin = [time.process_time()]

    def on_step(done: int, of: int) -> None:
        now = time.process_time()
        steps.append(now - begin[0])
        begin[0] = now

    epoch = None
    for _ in range(epochs):
        begin[0] = time.process_time()
        epoch = training.run_epoch(on_step)
        say(f"  {spec.recipe.name} epoch {epoch.epoch} of {epochs}: perplexity {epoch.score.extra['perplexity']:.1f}")
    assert epoch is not None
    spent = time.process_time() - prepared
    score = continuation_rouge(bench, student)
    extra = epoch.score.extra
    # The mean: where text that was generated serves several steps, only some of them generate.
    return Found(extra["perplexity"], epoch.score.loss, score, statistics.fmean(steps[1:]), spent, epoch.tokens)


def continuation_rouge(bench: CausalBench, student: Student) -> float:
    """ROUGE-L of greedy continuations: of each held-out chunk the first half is given, the second the reference."""
    words = bench.teacher.tokenizer
    half = bench.held_ids.shape[1] // 2
    texts = [(words.decode(row[:half]), words.decode(row[half:])) for row in bench.held_ids.tolist()]
    settings = Settings(max_new_tokens=half, batch_size=16)
    body = cast(Any, student.body)
    body.eval()
    records = generate(body, words, [Prompt(*pair) for pair in texts], settings, lambda *_: None)
    return rouge(records)["rougeL"]


def floor_seconds(bench: CausalBench) -> float:
    """Median CPU seconds of one of the floor's steps."""
    floor = _Floor(bench)
    return statistics.median([floor.step() for _ in range(TIMED_STEPS + 1)][1:])


def costs(quick: bool) -> Result:
    """What a step of each way costs beside its student's own forward, backward and step on the same tokens; CPU time.

    Figures `causal_step_over_floor.<way>`. Steps of ours and of the floor are taken in turn.
    """
    rows: list[tuple[object, ...]] = []
    figures: dict[str, float] = {}
    for name in WAYS:
        spec = spec_of(name, quick)
        bench = recipe(spec.recipe.name).prepare(spec, torch.device("cpu"), lambda words, share: None)
        assert isinstance(bench, CausalBench)
        say(f"timing steps by {name}")
        ours, floor = _steps_beside_floor(bench, 4 if quick else 12)
        figures[f"causal_step_over_floor.{name}"] = ours / floor
        rows.append((name, ours * 1000, floor * 1000, ours / floor))
        bench.close()
        del bench
        gc.collect()
    notes = [
        "floor: the student's own forward with its vocabulary head, backward and fused AdamW step on the same tokens.",
        "policy: writes its tokens first, one by one with the cache, by teacher and student in turn.",
    ]
    return Result([Table("A step of a causal student, CPU ms", ["way", "step", "floor", "step/floor"], rows, notes)],
                  figures, {"causal_student": STUDENT})  # fmt: skip


class _Enough(Exception):  # noqa: N818 - no error: the steps asked for are done
    pass


def _steps_beside_floor(bench: CausalBench, count: int) -> tuple[float, float]:
    """Mean of `count` steps of a training, in which each generation that serves several has its share, and median of
    the floor's, in CPU seconds."""
    training = bench.training(bench.build(STUDENT, 0), epochs=1, seed=0)
    floor = _Floor(bench)
    ours: list[float] = []
    floors: list[float] = []
    last = time.process_time()

    def on_step(done: int, of: int) -> None:
        nonlocal last
        ours.append(time.process_time() - last)
        floors.append(floor.step())
        if done > count:
            raise _Enough
        last = time.process_time()

    with contextlib.suppress(_Enough):
        training.run_epoch(on_step)
    return statistics.fmean(ours[1 : 1 + count]), statistics.median(floors[1:])


class _Floor:
    """A student trained by its model's own loss and nothing else."""

    def __init__(self, bench: CausalBench) -> None:
        self.model = cast(Any, bench.build(STUDENT, 0).body)
        self.model.train()
        self.optimiser = torch.optim.AdamW(self.model.parameters(), lr=1e-9, fused=True)
        self.rows = bench.proxy_ids[: bench.spec.data.batch_size]

    def step(self) -> float:
        """CPU seconds of one."""
        begin = time.process_time()
        self.model(input_ids=self.rows, labels=self.rows, use_cache=False).loss.backward()
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)
        return time.process_time() - begin


def _result(found: dict[str, Found], floor: float, facts: dict[str, Any], seeds: int) -> Result:
    rows = [
        [name, one.perplexity, one.loss, one.rouge_l, one.step_cpu_s * 1000, one.step_cpu_s / floor, one.cpu_s]
        for name, one in found.items()
    ]
    table = Table(
        f"A student of {facts['parameters'] / 1e6:.1f} M parameters, {facts['epochs']} epochs of {facts['chunks']} "
        f"chunks of {facts['length']} tokens",
        ["way", "perplexity", "loss", "ROUGE-L", "CPU ms a step", "over the floor", "CPU s"],
        rows,
        [
            f"Held-out perplexity: teacher {facts['teacher_perplexity']:.1f}, word counts "
            f"{facts['unigram_perplexity']:.0f}, the student before training {facts['start_perplexity']:.0f}.",
            f"Floor: the student's own forward, backward and step on the same tokens, {floor * 1000:.0f} CPU ms."
            if found
            else "No step was made, and no floor timed.",
            f"Median of {seeds} seed(s) by perplexity; {facts['threads']} threads.",
        ],
    )
    figures = {"start_perplexity": facts["start_perplexity"], **({"floor_ms": floor * 1000} if found else {})}
    for name, one in found.items():
        figures[f"perplexity.{name}"] = one.perplexity
        figures[f"rouge_l.{name}"] = one.rouge_l
        figures[f"step_over_floor.{name}"] = one.step_cpu_s / floor
    return Result([table], figures, facts)


if __name__ == "__main__":
    run("One causal student learned in each way on the same tokens.", measure, options)
