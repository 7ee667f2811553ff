"""What a score without training costs: one part of benchmarks.evaluator."""

from __future__ import annotations

import statistics
import time
from math import ceil
from typing import Any

import torch

from benchmarks.kept_rows import spread_over
from benchmarks.plain_kd import PlainKD, batches
from benchmarks.report import Result, Table, say
from kdnas.recipes import recipe
from kdnas.recipes.hidden_state import HiddenStateBench
from kdnas.study.space import Candidate
from kdnas.study.spec_toml import read_toml
from kdnas.system import paths

CANDIDATES = 16  # each choice of each dimension as often as can be: what is median of them is so of the space
PLAIN_EPOCHS = 4  # of the plain method, as in `search`
PLAIN_STEPS = 3  # of which the median is taken for all of them


def fitted(quick: bool) -> Result:
    """`fitted_score_s`: CPU seconds of a quickstart candidate fitted and scored without training, the median over the
    space, without its latency and after what a process builds once; `plain_over_fitted`: the plain method's four epochs
    of the same candidates on joined text, over that, the median of the ratios."""
    torch.set_num_threads(1)
    spec = read_toml(paths.presets()["quickstart"])
    bench = recipe("hidden-state").prepare(spec, torch.device("cpu"), lambda what, share: None)
    assert isinstance(bench, HiddenStateBench)
    rows: list[tuple[Any, ...]] = []
    for candidate in spread_over(bench.space, 4 if quick else CANDIDATES, spec.seed):
        say(f"fitting {candidate}")
        seconds, loss = _scored(bench, candidate)
        plain = _plain_seconds(bench, candidate, 1 if quick else PLAIN_STEPS)
        rows.append(("/".join(map(str, candidate.values())), seconds, plain, plain / seconds, loss))
    tokens = 0 if bench.fitted is None else bench.fitted.ids.numel()
    table = Table(
        "A quickstart candidate scored as fitted, CPU seconds of one thread",
        ["candidate", "fitted", "plain", "plain/fitted", "loss"],
        rows,
        [f"fitted on {tokens:,} tokens; plain: its steps of {PLAIN_EPOCHS} epochs of the proxy set, joined."],
    )
    figures = {
        "fitted_score_s": statistics.median(row[1] for row in rows),
        "plain_over_fitted": statistics.median(row[3] for row in rows),
    }
    bench.close()
    return Result([table], figures, {"fitted": bench.provenance()})


def _scored(bench: HiddenStateBench, candidate: Candidate) -> tuple[float, float]:
    """CPU seconds of this process, and the held-out loss."""
    begin = time.process_time()
    found = bench.training(bench.build(candidate, 0), epochs=0, seed=0).begin()
    return time.process_time() - begin, found.score.loss


def _plain_seconds(bench: HiddenStateBench, candidate: Candidate, timed: int) -> float:
    """Of the plain method's training, reckoned from a few of its steps."""
    ids = torch.from_numpy(bench.chunks.proxy)
    rows = min(bench.spec.data.batch_size, len(ids))
    plain = PlainKD(str(bench.teacher.folder), bench.config(candidate))
    feed = batches(ids, torch.ones_like(ids), rows, 0)
    plain.step(*next(feed))
    spent = []
    for _ in range(timed):
        batch, begin = next(feed), time.process_time()
        plain.step(*batch)
        spent.append(time.process_time() - begin)
    return PLAIN_EPOCHS * ceil(len(ids) / rows) * statistics.median(spent)
