"""Whether causal students rank as fitted, and after a mini budget, as they do after five times that budget.

    python -m benchmarks.causal_fidelity [--quick] [--candidates 12] [--fresh] [--json FILE]

Candidates of the preset `causal`, spread over its space, are scored as they are fitted, after one epoch of the proxy
set, and after five times as many tokens of the training part, by the preset's divergence. Every finished candidate is
written down at once, so that an interrupted run goes on; `--fresh` forgets what is there.
"""

from __future__ import annotations

import argparse
from typing import Any

import torch

from benchmarks.kendall import kendall
from benchmarks.kept_rows import kept, spread_over
from benchmarks.report import Result, Table, run
from kdnas.recipes import recipe
from kdnas.recipes.causal import CausalBench
from kdnas.study.space import Candidate
from kdnas.study.spec import StudySpec, from_values
from kdnas.study.spec_toml import read_values
from kdnas.system import paths

CPU = torch.device("cpu")
LONGER = 5
CHUNKS = 512
PROXY = 0.4  # of the training part, so that two epochs of all of it are LONGER times one of the proxy set
SCORES = ("fitted", "mini budget", f"{LONGER} times the mini budget")


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--candidates", type=int, default=12, metavar="N", help="how many candidates (default 12)")
    parser.add_argument("--fresh", action="store_true", help="forget candidates evaluated by an earlier run")


def spec_of(quick: bool) -> StudySpec:
    values = read_values(paths.presets()["causal"])
    values["data"] = {**values["data"], "limit": CHUNKS}
    values["budget"] = {**values["budget"], "epochs": 1, "proxy_fraction": PROXY, "short_text": "train"}
    if quick:
        values["data"] = {**values["data"], "limit": 80, "max_held_out": 8}
    return from_values(values)


def measure(chosen: argparse.Namespace) -> Result:
    torch.set_num_threads(1)
    spec = spec_of(chosen.quick)
    bench = recipe(spec.recipe.name).prepare(spec, CPU, lambda what, share: None)
    assert isinstance(bench, CausalBench)
    rows = kept(
        "causal-",
        [spec.model_dump(mode="json"), bench.provenance()["teacher_fingerprint"], LONGER],
        bench.space,
        spread_over(bench.space, 3 if chosen.quick else chosen.candidates, spec.seed),
        lambda candidate: evaluate(bench, spec.seed, candidate),
        chosen.fresh,
    )
    return _result(bench, spec, rows)


def evaluate(bench: CausalBench, seed: int, candidate: Candidate) -> dict[str, Any]:
    """Losses as fitted, after the mini budget and after LONGER times it, and the number of parameters."""
    student = bench.build(candidate, seed)
    fitted = bench.score(student).loss
    short = bench.training(student, epochs=1, seed=seed).run_epoch().score.loss
    epochs = max(1, round(LONGER * len(bench.proxy_ids) / len(bench.chunks.train)))
    again = bench.build(candidate, seed)
    long = bench.training(again, epochs=epochs, seed=seed + 1, full=True)
    for _ in range(epochs):
        last = long.run_epoch().score.loss
    return {"candidate": candidate, "losses": [fitted, short, last], "parameters": again.size}


def _result(bench: CausalBench, spec: StudySpec, rows: list[dict[str, Any]]) -> Result:
    fitted, short, long = ([row["losses"][place] for row in rows] for place in range(len(SCORES)))
    figures = {
        "tau_fitted_mini": kendall(fitted, short),
        "tau_fitted_long": kendall(fitted, long),
        "tau_mini_long": kendall(short, long),
        "tau_parameters": kendall([-row["parameters"] for row in rows], long),
        "worst_fitted_loss": max(fitted),
        "worst_mini_loss": max(short),
    }
    depths = [row["candidate"]["num_hidden_layers"] for row in rows]
    figures["tau_fitted_long_within_depth"] = kendall(fitted, long, depths)
    taus = Table(
        f"Kendall's τ of {len(rows)} causal candidates",
        ["", *SCORES[1:]],
        [
            (SCORES[0], figures["tau_fitted_mini"], figures["tau_fitted_long"]),
            (SCORES[1], None, figures["tau_mini_long"]),
            ("parameters", None, figures["tau_parameters"]),
        ],
        [
            f"The mini budget: {bench.proxy_ids.numel():,} tokens, fitted on as many of them as a search fits on.",
            f"Within a depth, as fitted: {figures['tau_fitted_long_within_depth']:.3g}. The unigram predictor has 1.",
        ],
    )
    each = Table(
        "The candidates",
        ["layers", "heads", "units", *SCORES, "parameters"],
        [
            (*(row["candidate"][name] for name in _SHOWN), *row["losses"], row["parameters"])
            for row in sorted(rows, key=lambda row: row["losses"][-1])
        ],
    )
    return Result([taus, each], figures, {"spec": spec.model_dump(mode="json"), "bench": bench.provenance()})


_SHOWN = ("num_hidden_layers", "num_attention_heads", "intermediate_size")


if __name__ == "__main__":
    run("Whether causal students rank as fitted as they do after training.", measure, options)
