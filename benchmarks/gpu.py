"""Every branch that only a GPU takes, run on one GPU and compared with the CPU within stated bounds.

    python -m benchmarks.gpu [--dry-run] [--device cuda] [--only NAMES] [--json FILE]

At most eight minutes on one GPU. Each check stands alone: one that fails hides no other. Exit code 1 where one failed.
`--dry-run` walks the same plan on the CPU with tiny models, where GPU and CPU are the same and the bounds hold all the
more. All models are random ones of tests/: nothing is fetched. Figures and failures go to FILE as JSON.
One file, though a long one: it is the list of what is still to be seen on a real GPU.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from kdnas.measuring import device_lock, devices, gpus, latency, memory, passes
from kdnas.measuring.device_lock import Turn
from kdnas.recipes import recipe
from kdnas.recipes.contract import Workbench
from kdnas.study.spec import StudySpec, from_values
from kdnas.system import seeds
from kdnas.system.files import write_atomically
from kdnas.teachers import encoder, hidden_state_cache
from tests import encoders
from tests.recipes import tiny_causal, tiny_labelled

CPU = torch.device("cpu")
LIMIT_S = 480.0
TRIALS = 4  # of the two workers
WIDE: dict[str, Any] = {
    "hidden_size": 384,
    "num_attention_heads": 12,
    "intermediate_size": 1536,
    "num_hidden_layers": 6,
}
STATES_BOUND = 0.03  # relative distance of bf16 states from those in fp32
PARTS_BOUND = 0.05  # relative distance of importance, moments and fitted weights
AGAIN_BOUND = 1e-3  # distance of what the same GPU gives twice
REPLAY_BOUND = 1.1  # of an eager pass's time that a replay may take
LOSS_BOUND = 0.05  # distance of held-out losses, GPU from CPU, of 1 for no better than a constant prediction

Figures = Mapping[str, Any]


@dataclass(frozen=True)
class Outcome:
    """What one check found; `error` says why it failed."""

    name: str
    ok: bool
    seconds: float
    figures: Figures = field(default_factory=dict)
    error: str | None = None
    traceback: str | None = None


class Failed(Exception):  # noqa: N818 - what a check says of itself
    """A check's own reason."""


def require(right: bool, words: str) -> None:
    if not right:
        raise Failed(words)


class Ground:
    """What the checks share: a folder, the device, models and texts of the run's size."""

    def __init__(self, folder: Path, device: torch.device, dry: bool) -> None:
        self.folder, self.device, self.dry = folder, device, dry
        self.on_gpu = device.type == "cuda"
        self.seconds = 0.02 if dry else 2.0  # of one latency
        self.encoder = encoders.tiny_encoder(folder / "encoder", **({} if dry else WIDE))
        if not dry:
            _calm(self.encoder, encoders.USUAL["hidden_size"] / WIDE["hidden_size"])
        self.text = encoders.text_folder(folder / "text", 24 if dry else 200)
        self.plain = encoders.tiny_encoder(folder / "plain", num_hidden_layers=2)

    @cached_property
    def causal(self) -> Path:
        sizes: dict[str, Any] = {} if self.dry else {"hidden_size": 256, "num_hidden_layers": 6, "head_dim": 64}
        return tiny_causal.folder(self.folder / "causal", **sizes)

    @cached_property
    def words(self) -> Path:
        return tiny_causal.text_file(self.folder / "words.txt", 24 if self.dry else 200)

    @cached_property
    def labelled(self) -> Path:
        from tests.tiny import tiny_folder

        self.classifier = tiny_folder(self.folder / "classifier")
        return tiny_labelled.examples(self.folder / "rows.jsonl")

    def spec(self, name: str, **parts: Any) -> StudySpec:
        """A small study by the recipe `name`."""
        common: dict[str, Any] = {"latency": {"length": 16, "max_seconds": self.seconds / 2, "precision": 0.2}}
        if name == "hidden-state":
            given = {"recipe": {"name": name}, **common, **parts}
            return encoders.tiny_spec(self.encoder, self.text, **given)
        if name in ("rnn-hybrid", "lora"):
            rows = self.labelled
            values = tiny_labelled.rnn_spec(self.classifier, rows).model_dump(mode="json")
            rates = {"teacher_rate": 1e-2, "teacher_head_rate": 1e-2, "teacher_epochs": 4}
            kept = ("seed", "data", "teacher", "budget", "training", "full") + (("space",) * (name == "rnn-hybrid"))
            return from_values({**{k: values[k] for k in kept}, "recipe": {"name": name, **rates}, **common, **parts})
        own = {"prompt_tokens": 4, "new_tokens": 4} if name == "causal-policy-gradient" else {"top_k": 4}
        return from_values(
            {
                "teacher": {"model": str(self.causal)},
                "data": {"source": str(self.words), "length": 16, "batch_size": 8, "held_out": 0.1},
                "recipe": {"name": name, **own},
                "budget": {"epochs": 2, "proxy_fraction": 0.5},
                "training": {"learning_rate": 3e-3},
                **common,
                **parts,
            }
        )

    @contextlib.contextmanager
    def bench(self, spec: StudySpec, device: torch.device) -> Iterator[Workbench]:
        made = recipe(spec.recipe.name).prepare(spec, device, lambda *_: None)
        try:
            yield made
        finally:
            made.close()


def _calm(folder: Path, share: float) -> None:
    """Scale a tiny encoder's matrices for its width, else its attention is so sharp that any rounding turns it over."""
    from safetensors.torch import load_file, save_file

    weights = load_file(folder / "model.safetensors")
    scaled = {n: t * share**0.5 if t.dim() == 2 and "embeddings" not in n else t for n, t in weights.items()}
    save_file(scaled, folder / "model.safetensors", metadata={"format": "pt"})


def away(one: torch.Tensor, other: torch.Tensor) -> float:
    """Relative distance of two tensors in the Euclidean norm, on the CPU."""
    a, b = one.detach().cpu().double(), other.detach().cpu().double()
    return float((a - b).norm() / b.norm().clamp_min(1e-12))


# ---------------------------------------------------------------------------- the checks


def device(ground: Ground) -> Figures:
    """The resolved device is the current one, bears a lasting name and can be waited for."""
    devices.synchronise(ground.device)
    facts: dict[str, Any] = {"device": devices.device_name(ground.device), "numerics": devices.numerics(ground.device)}
    if ground.on_gpu:
        require(torch.cuda.current_device() == ground.device.index, "another device is current")
        there = gpus.survey()
        facts["gpus"] = [asdict(gpu) for gpu in there]
        require(all(gpu.name.startswith(("GPU-", "MIG-")) for gpu in there), "torch knows no UUID")
        require(devices.resolve_device("auto") == ground.device, "asked again, auto is another GPU")
    return facts


def caching(ground: Ground) -> Figures:
    """Hidden states cached on the device are the CPU's within bf16's precision, under keys of their own."""
    spec = ground.spec("hidden-state")
    reads, hidden_state_cache._cold_read = hidden_state_cache._cold_read, lambda states: 0.0
    try:
        ids = torch.from_numpy(seeds.generator(0, seeds.Benchmark.SAMPLE).integers(5, 60, (40, 16)))
        found = []
        for where in (CPU, ground.device):
            teacher = encoder.load(spec.teacher, where)
            states = hidden_state_cache.hidden_states(
                teacher, ids, [1, 3], passes=100, on_progress=lambda *_: None, what="a check"
            )
            key = hidden_state_cache.entry_key(teacher, ids, [1, 3])
            found.append((key, states.batch(torch.arange(40), [3])[0], states.decision.facts()))
            states.close()
    finally:
        hidden_state_cache._cold_read = reads
    (one, ours, _), (other, theirs, decision) = found
    distance = away(theirs, ours)
    require(distance <= STATES_BOUND, f"states differ by {distance:.3f}")
    require((one == other) == (not devices.autocasts(ground.device)), "the key ignores the precision")
    return {"distance": distance, "bound": STATES_BOUND, "decision": decision}


def fitted(ground: Ground) -> Figures:
    """Importance, moments and a fitted student's weights are the CPU's."""
    spec = ground.spec("hidden-state", recipe={"name": "hidden-state", "init": "fitted"})
    weights = []
    for where in (CPU, ground.device):
        with ground.bench(spec, where) as bench:
            candidate = bench.space.from_ordinal(bench.space.size // 2)
            weights.append(bench.build(candidate, 1).body.state_dict())
    distance = max(away(weights[1][n], t) for n, t in weights[0].items() if t.dim() == 2)
    require(distance <= PARTS_BOUND, f"weights differ by {distance:.3f}")
    return {"distance": distance, "bound": PARTS_BOUND}


def distillation(name: str) -> Callable[[Ground], Figures]:
    """A mini-KD of the recipe: its loss is the CPU's, and it goes on from its state as if never stopped."""

    def check(ground: Ground) -> Figures:
        spec, losses = ground.spec(name), []
        begin = time.perf_counter()
        for where in (CPU, ground.device):
            with ground.bench(spec, where) as bench:
                candidate = bench.space.from_ordinal(0)
                training = bench.training(bench.build(candidate, 1), epochs=2, seed=1)
                training.run_epoch()
                tensors, facts = training.state()
                whole = training.run_epoch().score.loss
                again = bench.training(bench.build(candidate, 1), epochs=2, seed=1)
                again.restore(tensors, facts)
                resumed = again.run_epoch().score.loss
                losses.append((whole, resumed))
        (ours, _), (theirs, resumed) = losses
        require(np.isfinite(theirs), f"the loss is {theirs}")
        require(abs(theirs - ours) <= LOSS_BOUND, f"the loss is {theirs:.3f}, on the CPU {ours:.3f}")
        require(abs(theirs - resumed) <= (1e-3 if ground.on_gpu else 0.0), f"taken up again the loss is {resumed:.4f}")
        return {"loss": theirs, "cpu_loss": ours, "bound": LOSS_BOUND, "seconds": time.perf_counter() - begin}

    check.__doc__ = distillation.__doc__
    return check


def timing(way: str) -> Callable[[Ground], Figures]:
    """Latencies of an encoder, a decoder with its token pass, and a recurrent network, by the way that is asked for."""

    def check(ground: Ground) -> Figures:
        found: dict[str, Any] = {}
        for name in ("hidden-state", "causal-divergence", "rnn-hybrid"):
            spec = ground.spec(
                name, latency={"length": 16, "max_seconds": ground.seconds, "precision": 0.1, "gpu": way}
            )
            with ground.bench(spec, ground.device) as bench:
                student = bench.build(bench.space.from_ordinal(0), 1)
                half = {p.dtype for p in passes.served(student.body).parameters()}
                wanted_dtype = torch.float32 if not ground.on_gpu else _half(ground.device)
                require(half == {wanted_dtype}, f"{name}: {half} are timed")
                pairs = {"pass": (bench.timed(student), bench.timed(None))}
                theirs = bench.asides(None)
                pairs |= {part: (once, theirs[part]) for part, once in bench.asides(student).items()}
                for part, (once, teacher) in pairs.items():
                    made = latency.measure(once, teacher, spec.latency, ground.device)
                    found[f"{name} {part}"] = asdict(made)
                    require(0 < made.low <= made.p50 <= made.high, f"{name}: {made}")
                    if made.way == "graph" and made.eager_p50 is not None:
                        require(made.p50 <= REPLAY_BOUND * made.eager_p50, f"{name} {part}: a replay is slower")
                    wanted = way if ground.on_gpu else "eager"
                    recurrent = name == "rnn-hybrid"  # cuDNN may refuse the capture: then eager, and flagged
                    require(made.way == wanted or (recurrent and made.flag is not None), f"{name} {part}: {made.way}")
        return found

    check.__doc__ = timing.__doc__
    return check


def _half(where: torch.device) -> torch.dtype:
    return torch.bfloat16 if devices.autocasts(where) else torch.float16


def broken_capture(ground: Ground) -> Figures:
    """A pass that waits for the GPU in its middle cannot be captured; afterwards stream, memory and gradients work."""
    if not ground.on_gpu:
        require(passes.served(torch.nn.Linear(2, 2)).weight.dtype == torch.float32, "the CPU serves no fp32")
        return {"captured": None}
    layer = torch.nn.Linear(64, 64, device=ground.device)
    ones = torch.ones(8, 64, device=ground.device)
    before = torch.cuda.current_stream(ground.device)
    require(passes.captured(lambda: float(layer(ones).sum()), ground.device) is None, "it was captured")
    require(torch.cuda.current_stream(ground.device) == before, "another stream is current")
    layer(ones).square().sum().backward()
    torch.cuda.synchronize(ground.device)
    with torch.inference_mode():
        require(passes.captured(lambda: layer(ones), ground.device) is not None, "nothing can be captured any more")
    require(bool(torch.isfinite(layer.weight.grad).all()), "gradients are wrong")  # type: ignore[arg-type]
    return {"captured": False}


CROWD = """
import sys, torch
from pathlib import Path
device = torch.device(sys.argv[1])
weight = torch.full((4096, 4096), 1e-3, device=device)
Path(sys.argv[2]).touch()
while not Path(sys.argv[3]).exists():
    for _ in range(20):
        weight = torch.nn.functional.normalize(weight @ weight)
    torch.cuda.synchronize(device)
"""


def contention(ground: Ground) -> Figures:
    """A latency that is measured while another process, which knows no lock, keeps the GPU busy is flagged."""
    once = passes.one_pass(torch.nn.Linear(512, 512, device=ground.device), ground.device, input=torch.ones(8, 512))
    settings = ground.spec("hidden-state").latency.model_copy(update={"max_seconds": ground.seconds})
    if not ground.on_gpu:
        return {"flag": latency.measure(once, once, settings, ground.device).flag}
    begun, stop = ground.folder / "crowd", ground.folder / "crowd-stop"
    other = subprocess.Popen([sys.executable, "-c", CROWD, str(ground.device), str(begun), str(stop)])
    try:
        _until(begun.exists, other)
        made = latency.measure(once, once, settings, ground.device)
    finally:
        stop.touch()
        other.wait(60)
    # In a container NVML may know this process by another number; then nobody can tell who the others are.
    seen = gpus.busy_with_others(ground.device.index or 0, 0)
    require(seen is None or "contended" in (made.flag or ""), f"not flagged: {made.flag}")
    return {"flag": made.flag, "contended": made.contended, "told_apart": seen is not None}


TRAINER = """
import sys, torch
from pathlib import Path
from kdnas.measuring import devices
from kdnas.measuring.device_lock import Turn
device = torch.device(sys.argv[1])
steps = Path(sys.argv[2])
weight = torch.randn(256, 256, device=device)
with Turn(device) as turn, steps.open("ab", buffering=0) as file:
    while not Path(sys.argv[3]).exists():
        for _ in range(5):
            weight = torch.nn.functional.normalize(weight @ weight)
        file.write(b".")
        turn.step()
"""


def lock(ground: Ground) -> Figures:
    """While a second process trains, measuring holds its steps back, and lets them go on afterwards."""
    steps, stop = ground.folder / "steps", ground.folder / "stop"
    other = subprocess.Popen([sys.executable, "-c", TRAINER, str(ground.device), str(steps), str(stop)])
    try:
        _until(lambda: steps.exists() and steps.stat().st_size > 3, other)
        during = []
        for _ in range(3):
            with device_lock.device_lock(ground.device):
                first = steps.stat().st_size
                time.sleep(0.3)
                during.append(steps.stat().st_size - first)
        require(during == [0, 0, 0], f"{during} steps were taken while this process measured")
        before = steps.stat().st_size
        _until(lambda: steps.stat().st_size > before + 3, other)
    finally:
        stop.touch()
        other.wait(60)
    require(other.returncode == 0, f"the other process ended with {other.returncode}")
    return {"steps": steps.stat().st_size}


def _until(true: Callable[[], bool], process: subprocess.Popen[bytes], seconds: float = 120.0) -> None:
    begin = time.monotonic()
    while not true():
        require(process.poll() is None, f"the other process ended with {process.poll()}")
        require(time.monotonic() - begin < seconds, f"nothing happened for {seconds:g} s")
        time.sleep(0.05)


PLACED = """
import os, sys
from pathlib import Path
from kdnas.measuring import devices
print(devices.resolve_device(sys.argv[1]), flush=True)
sys.stdin.read()
"""


def second_gpu(ground: Ground) -> Figures:
    """Of several GPUs a process takes the one that no other has, its events are timed there, and one whose process has
    died is taken again. One GPU shows nothing of this."""
    if not ground.on_gpu or torch.cuda.device_count() < 2:
        return {"gpus": torch.cuda.device_count() if ground.on_gpu else 0}
    others: list[subprocess.Popen[str]] = []

    def placed() -> str:
        """Where a further process finds itself with `auto`."""
        command = [sys.executable, "-c", PLACED, "auto"]
        others.append(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True))
        assert others[-1].stdout is not None
        return others[-1].stdout.readline().strip()

    try:
        taken = [placed() for _ in range(torch.cuda.device_count() - 1)]
        require(len({*taken, str(ground.device)}) == torch.cuda.device_count(), f"taken: {taken} and {ground.device}")
        others[0].communicate("")
        again = placed()
        require(again == taken[0], f"the successor is on {again}, its predecessor was on {taken[0]}")
    finally:
        for other in others:
            other.kill()
    elsewhere = torch.device(taken[0])
    with torch.cuda.device(elsewhere):
        once = passes.one_pass(torch.nn.Linear(64, 64, device=elsewhere), elsewhere, input=torch.ones(8, 64))
        made = latency.measure(once, once, ground.spec("hidden-state").latency, elsewhere)
    require(0 < made.p50 < 1e3, f"a pass there takes {made.p50} ms")
    return {"taken": taken, "again": again, "ms": made.p50}


def teacher_elsewhere(ground: Ground) -> Figures:
    """A causal teacher on a device of its own (the CPU) teaches and is timed beside students on another."""
    losses: list[float] = []
    for where in (None, "cpu"):
        spec = ground.spec("causal-divergence", teacher={"model": str(ground.causal), "device": where})
        with ground.bench(spec, ground.device) as bench:
            student = bench.build(bench.space.from_ordinal(0), 1)
            made = latency.measure(bench.timed(student), bench.timed(None), spec.latency, ground.device)
            require(made.p50 > 0 and made.teacher_p50 > 0, f"timed as {made}")
            bench.asides(None)["token_ms"]()
            losses.append(bench.training(student, epochs=1, seed=1).run_epoch().score.loss)
    require(abs(losses[0] - losses[1]) <= LOSS_BOUND, f"losses {losses}")
    return {"losses": losses, "bound": LOSS_BOUND}


def determinism(ground: Ground) -> Figures:
    """New tensors are not filled, and two trainings of one seed end at the same loss."""
    require(torch.are_deterministic_algorithms_enabled(), "torch is not deterministic")
    require(not torch.utils.deterministic.fill_uninitialized_memory, "new tensors are filled")  # type: ignore[attr-defined]
    losses = []
    with ground.bench(ground.spec("hidden-state"), ground.device) as bench:
        for _ in range(2):
            student = bench.build(bench.space.from_ordinal(0), 1)
            losses.append(bench.training(student, epochs=1, seed=1).run_epoch().score.loss)
    require(abs(losses[0] - losses[1]) <= (AGAIN_BOUND if ground.on_gpu else 0.0), f"losses {losses}")
    return {"losses": losses, "bound": AGAIN_BOUND}


def sliding_window(ground: Ground) -> Figures:
    """A text longer than the teacher's sliding window: every timed token comes after the same text."""
    teacher = tiny_causal.folder(ground.folder / "mistral", "mistral")
    spec = ground.spec(
        "causal-divergence",
        teacher={"model": str(teacher)},
        latency={"length": 24, "max_seconds": ground.seconds, "precision": 0.2},
    )
    seen: list[torch.Tensor] = []
    with ground.bench(spec, ground.device) as bench:
        token = bench.asides(None)["token_ms"]
        served = passes.served(bench.teacher.model, frozen=True)  # type: ignore[attr-defined]
        hook = served.register_forward_hook(lambda _module, _given, out: seen.append(out.logits.float().cpu()))
        for _ in range(3):
            token()
        hook.remove()
        made = latency.measure(token, token, spec.latency, ground.device)
    furthest = max(float((other - seen[0]).abs().max()) for other in seen)
    require(len(seen) == 3 and furthest <= (AGAIN_BOUND if ground.on_gpu else 0.0), f"logits differ by {furthest}")
    same = 0.5 < made.ratio < 2.0
    require(same or not ground.on_gpu, f"the same pass takes {made.ratio:.2f} times its own time")
    return {"furthest": furthest, "way": made.way, "ms": made.p50}


def workers(ground: Ground) -> Figures:
    """Two workers on one GPU evaluate a study together."""
    from kdnas.store import queries
    from kdnas.store.database import open_reader, open_store
    from kdnas.store.studies import create_study

    spec = ground.spec("hidden-state", budget={"trials": TRIALS, "epochs": 1, "proxy_fraction": 0.3})
    spec = spec.model_copy(update={"name": "pair", "device": str(ground.device)})
    with open_store(str(ground.folder / "pair.db"), create=True) as store:
        create_study(store, spec)
    environment = {**os.environ, "KDNAS_STORAGE": str(ground.folder / "pair.db")}
    command = [sys.executable, "-m", "kdnas.search.worker", "pair"]
    begin = time.perf_counter()
    both = [subprocess.Popen(command, env=environment) for _ in range(2)]
    try:
        codes = [worker.wait(200) for worker in both]
    finally:
        for worker in both:
            worker.kill()
    require(codes == [0, 0], f"the workers ended with {codes}")
    with open_reader(str(ground.folder / "pair.db")) as store:
        study_id = queries.study_row(store, "pair").study_id
        trials = queries.trial_rows(store, study_id)
        at = [worker.device for worker in queries.workers(store, study_id)]
    require([trial.state for trial in trials] == ["done"] * TRIALS, f"trials: {[trial.error for trial in trials]}")
    require(all(str(ground.device) in (words or "") for words in at), f"they worked on {at}")
    return {"seconds": time.perf_counter() - begin, "devices": at, "losses": [trial.loss for trial in trials]}


def out_of_memory(ground: Ground) -> Figures:
    """A batch that does not fit is halved until it does; what it took is free again."""
    rows = torch.zeros(64, 1)
    if ground.on_gpu:
        free, _ = torch.cuda.mem_get_info(ground.device)
        each = free // 20  # so that some 16 rows fit

    def run(part: torch.Tensor) -> int:
        if ground.on_gpu:
            large = [torch.zeros(each, dtype=torch.uint8, device=ground.device) for _ in part]
            return len(large)
        if len(part) > 16:
            raise torch.OutOfMemoryError("as a GPU would say")
        return len(part)

    sizes = [len(part) for part, _ in memory.halving(rows, 64, ground.device, run)]
    require(sum(sizes) == 64 and max(sizes) <= 20, f"batches of {sizes}")
    if ground.on_gpu:
        left = torch.cuda.mem_get_info(ground.device)[0]
        memory.let_go(ground.device)
        left = max(left, torch.cuda.mem_get_info(ground.device)[0])
        require(left > 0.9 * free, f"{(free - left) / 2**20:.0f} MiB are still held")
    return {"batches": sizes}


def finalize(ground: Ground) -> Figures:
    """The study's best candidate becomes a folder that opens."""
    from transformers import AutoModel

    from kdnas.students.distil import Job, Telling, distil

    spec = ground.spec("hidden-state", full={"epochs": 1})
    candidate = recipe("hidden-state").describe(spec).space.from_ordinal(0)
    telling = Telling(lambda *_: None)
    facts = distil(Job(spec, candidate), ground.folder / "student", telling, device=str(ground.device))
    model: Any = AutoModel.from_pretrained(ground.folder / "student")
    states = model(input_ids=torch.arange(5, 15)[None]).last_hidden_state
    require(bool(torch.isfinite(states).all()), "the student's states are no numbers")
    return {"loss": facts["metrics"]["loss"], "latency": facts["latency"]}


def evaluate(ground: Ground) -> Figures:
    """A classifier fine-tuned by transformers' Trainer trains on the device that was asked for, and gives it back."""
    from kdnas.data.glue import TASKS, Split
    from kdnas.scores.finetuning import FineTuning, score_once

    rng = seeds.generator(0, seeds.Benchmark.SAMPLE)
    labels = np.arange(64) % 2
    texts = [" ".join(rng.choice(encoders.WORDS[32 * label : 32 * label + 32], 8)) for label in labels]
    half = Split((texts,), labels, "a check")
    protocol = FineTuning(learning_rate=5e-3, batch_size=8)
    done: list[float] = []
    task = TASKS["sst2"]
    splits = {"train": half, **dict.fromkeys(task.splits, half)}
    scores = score_once(ground.plain, task, splits, 0, protocol, ground.device, done.append)
    require(done[-1] == 1.0, "the Trainer reported no end")
    if ground.on_gpu:
        require(torch.cuda.current_device() == ground.device.index, "the Trainer left another device current")
    require(scores["accuracy"] >= 0.7, f"accuracy {scores['accuracy']:.2f} on what it was trained on")
    with Turn(ground.device):
        pass  # nobody holds the device any more
    return dict(scores)


CHECKS: dict[str, Callable[[Ground], Figures]] = {
    "device": device,
    "bf16-caching": caching,
    "fitted-building": fitted,
    **{
        f"distil-{name}": distillation(name)
        for name in ("hidden-state", "causal-divergence", "causal-policy-gradient", "rnn-hybrid", "lora")
    },
    "latency-eager": timing("eager"),
    "latency-graph": timing("graph"),
    "failed-capture": broken_capture,
    "contention": contention,
    "lock": lock,
    "second-gpu": second_gpu,
    "teacher-elsewhere": teacher_elsewhere,
    "determinism": determinism,
    "sliding-window": sliding_window,
    "two-workers": workers,
    "out-of-memory": out_of_memory,
    "finalize": finalize,
    "evaluate": evaluate,
}


# ---------------------------------------------------------------------------- the run


def run(ground: Ground, names: list[str]) -> list[Outcome]:
    """Every check in order, each for itself."""
    begin, outcomes = time.monotonic(), []
    for name in names:
        at = time.monotonic()
        try:
            require(at - begin < LIMIT_S, f"not begun: {LIMIT_S:g} s are over")
            made = Outcome(name, True, 0.0, CHECKS[name](ground))
        except Failed as error:
            made = Outcome(name, False, 0.0, error=str(error))
        except Exception as error:
            words = f"{type(error).__name__}: {error}".splitlines()[0]
            made = Outcome(name, False, 0.0, error=words, traceback=traceback.format_exc())
        outcomes.append(Outcome(**{**vars(made), "seconds": round(time.monotonic() - at, 2)}))
        print(_line(outcomes[-1]), file=sys.stderr, flush=True)
    return outcomes


def _line(outcome: Outcome) -> str:
    sign = "ok    " if outcome.ok else "FAILED"
    return f"{sign} {outcome.name:<28} {outcome.seconds:6.1f} s   {outcome.error or ''}".rstrip()


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description="Every branch that only a GPU takes.")
    parser.add_argument("--dry-run", action="store_true", help="the same plan on the CPU with tiny models")
    parser.add_argument("--device", default="cuda", help="cuda or cuda:N")
    parser.add_argument("--only", metavar="NAMES", help=f"some of {', '.join(CHECKS)}, with commas")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write figures and failures to FILE")
    given = parser.parse_args(arguments)
    names = given.only.split(",") if given.only else list(CHECKS)
    for name in names:
        if name not in CHECKS:
            parser.error(f"there is no check {name!r}")
    if not given.dry_run and not torch.cuda.is_available():
        parser.error("torch finds no GPU; --dry-run walks the plan on the CPU")
    with tempfile.TemporaryDirectory(prefix="kdnas-gpu-") as place:
        # Caches and stores of its own; locks are those of the machine, so that other work there is respected.
        os.environ |= {"KDNAS_CACHE": f"{place}/cache", "HF_HUB_OFFLINE": "1"}
        devices.set_up_torch()
        where = CPU if given.dry_run else devices.resolve_device(given.device)
        outcomes = run(Ground(Path(place), where, given.dry_run), names)
    failed = [outcome.name for outcome in outcomes if not outcome.ok]
    if given.json is not None:
        body = {
            "format": "kdnas-gpu-checks",
            "version": 1,
            "dry_run": given.dry_run,
            "device": devices.device_name(where),
            "torch": torch.__version__,
            "failed": failed,
            "checks": [asdict(outcome) for outcome in outcomes],
        }
        write_atomically(given.json, json.dumps(body, indent=1, default=str) + "\n")
    print(f"{len(outcomes) - len(failed)} of {len(outcomes)} checks passed on {devices.device_name(where)}.")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
