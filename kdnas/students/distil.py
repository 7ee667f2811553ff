"""Full distillation: a candidate learns on the whole training data and becomes a model folder.

Checkpointed beside the folder after every epoch, and within one every few minutes; a run that was killed goes on to the
same result. The student of the best epoch is written; where students begin with weights of their teacher, that may be
the one before any step, epoch 0. The work itself is the recipe's. Knows no study: `finalize` takes its candidate from
one, `from_config` from a configuration.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import math
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, is_dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from kdnas.measuring import memory
from kdnas.measuring.device_lock import Turn
from kdnas.measuring.devices import as_studies, device_name, resolve_device
from kdnas.measuring.passes import dtype_name
from kdnas.models.tokenizer import opener
from kdnas.recipes.contract import Workbench
from kdnas.search.candidate import Measure, Timed
from kdnas.search.timing import curve_columns, require_timed
from kdnas.students import best_epoch, model_folder, unfinished
from kdnas.students.course import Course, Epochs
from kdnas.students.extras import Extras
from kdnas.study.ground import ground_of, require_same_ground
from kdnas.study.layer_words import is_static
from kdnas.study.space import Candidate
from kdnas.study.spec import StudySpec
from kdnas.study.spec_recipes import scored_as_built
from kdnas.system import fingerprint, folders, versions
from kdnas.system.errors import KdnasError, UsageError
from kdnas.system.progress import Progress
from kdnas.system.seeds import Purpose, number
from kdnas.training import checkpoints
from kdnas.training.contract import Epoch, Student, Training

Prepare = Callable[[StudySpec, torch.device, Progress], Workbench]

PREPARED = 0.05  # shares of the progress: until the first epoch, …
TRAINED = 0.95  # … until the last one, …
SCORED = 0.98  # … until the folder is written
KEPT_S = 300.0  # seconds between two checkpoints within an epoch
LATER: Mapping[str, Mapping[str, Any]] = {  # defaults of later versions, of which earlier folders say nothing
    "latency": {"gpu": "graph", "what": "first", "dtype": "auto"},
    "training": {"accumulate": 1, "checkpointing": False},
}
LATER_OF_RECIPES: Mapping[str, Mapping[str, Any]] = {
    "causal-divergence": {"skew_alpha": 0.1, "text": "data", "on_policy": 0.0, "prompt_tokens": 32, "reuse": 1},
    "causal-policy-gradient": {"reuse": 1},
}


@dataclass(frozen=True)
class Job:
    """What is distilled. `found` is what the search knew of the candidate, for the record."""

    spec: StudySpec
    candidate: Candidate
    study: str | None = None
    trial: int | None = None
    found: Mapping[str, Any] | None = None
    ground: Mapping[str, Any] | None = None  # of the study, whose figures say that this candidate is a good one

    @property
    def epochs(self) -> int:
        """At most so many; a static student learns by none."""
        return 0 if is_static(self.candidate) else self.spec.full.epochs

    def key(self) -> str:
        """Of all that decides the weights and the figures in the folder."""
        spec = self.spec.model_dump(mode="json")
        parts = {name: spec[name] for name in ("seed", "teacher", "data", "recipe", "training", "full", "latency")}
        later_ones = {**LATER, "recipe": LATER_OF_RECIPES.get(self.spec.recipe.name, {})}
        for name, later in later_ones.items():
            for field, usual in later.items():
                if parts[name].get(field) == usual:
                    del parts[name][field]
        del parts["latency"]["when"]  # of a search; a distillation times its student in the end
        if self.spec.recipe.name == "sentence-embedding" and self.spec.full.epochs:
            parts["learned"] = "tokens"  # what an earlier version began learned from hidden states of all layers
        proxy = spec["budget"]["proxy_fraction"]  # the loss is normalised by the targets' variance on the proxy set
        return fingerprint.run_key({**parts, "proxy_fraction": proxy, "candidate": self.candidate})


@dataclass(frozen=True)
class Telling:
    """Who hears how it goes: words with a share of the whole, and each finished epoch."""

    on_progress: Progress
    epoch: Callable[[Epoch], None] = lambda _: None


def distil(
    job: Job,
    output: Path,
    telling: Telling,
    *,
    device: str,
    extras: Extras | None = None,
    prepare: Prepare | None = None,
    measure: Measure | None = None,
) -> dict[str, Any]:
    """Distil a candidate on the whole training data and write the folder; what `kdnas.json` says.

    Goes on from the checkpoints beside `output` where there are some. Raises UsageError where they belong to another
    run, or where something else is under the folder's name.
    """
    wanted = extras or Extras()
    output = output.absolute()
    wanted.check(job.spec, job.candidate)
    key = job.key()
    partial_folder = folders.partial_of(output)
    with contextlib.ExitStack() as stack:
        if not model_folder.finished(output, key):
            stack.enter_context(checkpoints.alone(partial_folder, str(output)))
        if model_folder.finished(output, key):
            shutil.rmtree(partial_folder, ignore_errors=True)
            telling.on_progress(f"{output} is finished already", 1.0)
            facts = wanted.completed(output, telling.on_progress)
        else:
            stack.enter_context(as_studies())
            where = resolve_device(device)
            facts = _distil(job, key, output, partial_folder, telling, where, wanted, prepare, measure)
            shutil.rmtree(partial_folder, ignore_errors=True)
    facts = wanted.pushed(output, facts, telling.on_progress)
    telling.on_progress("done", 1.0)
    return facts


def _distil(
    job: Job,
    key: str,
    output: Path,
    partial_folder: Path,
    telling: Telling,
    device: torch.device,
    extras: Extras,
    prepare: Prepare | None,
    measure: Measure | None,
) -> dict[str, Any]:
    if prepare is None:
        from kdnas.recipes import recipe

        prepare = recipe(job.spec.recipe.name).prepare
    from kdnas.search.timing import further_passes

    saved = checkpoints.last(partial_folder)
    if saved is not None and saved.kept["key"] != key:
        raise UsageError(
            f"{partial_folder} holds the checkpoints of another run.", "Remove it, or name another --output."
        )
    course = Course(telling.on_progress)
    course.until(PREPARED)
    with memory.one_line(device):
        bench = prepare(job.spec, device, course.tell)
    try:
        layout = extras.layout(bench)
        bench.space.indices(job.candidate)  # raises UsageError for what is not in the space
        if extras.gguf:
            bench.require_gguf(job.candidate)
        provenance = bench.provenance()
        if job.ground:
            require_same_ground(
                job.ground,
                ground_of(provenance),
                f"the study {job.study!r} was begun with",
                "Bring back what was there then, or search again and finalize that study.",
            )
        require_timed(bench, course.tell)
        seed = number(job.spec.seed, Purpose.STUDENT, 0)
        with Turn(device):
            student = bench.build_in_full(job.candidate, seed)
        epochs, patience = job.epochs, job.spec.full.patience
        training = bench.training(student, epochs=epochs, seed=seed, full=True)
        history: list[dict[str, Any]] = []
        fitted_tokens = bench.fitted_tokens if saved is None else saved.kept.get("fitted_tokens")
        if saved is not None:
            require_same_ground(
                saved.kept["ground"],
                _ground(provenance, device),
                f"the checkpoints in {partial_folder} were made with",
                "Bring it back, or remove that folder to begin afresh.",
            )
            training.restore(saved.tensors, saved.facts)
            history = list(saved.kept["history"])
            within = f" and {training.step:,} steps" if training.step else ""
            course.reach(
                f"going on after epoch {best_epoch.done(history)}{within}", _share(best_epoch.done(history), epochs)
            )
            for point in history:
                telling.epoch(_epoch(point, epochs))
        fresh = saved is None
        del saved
        stands_on = {"ground": _ground(provenance, device), "fitted_tokens": fitted_tokens}
        keeper = _Keeper(key, partial_folder, training, student, stands_on)
        unfinished.write(
            partial_folder, study=job.study, trial=job.trial, epochs=job.spec.full.epochs, patience=patience
        )
        if fresh and scored_as_built(job.spec.recipe):
            course.tell("scoring the student before it learns", None)
            with Turn(device):
                start = _sound(training.begin())
            history = [point_of(start)]
            keeper.keep(history)
            telling.epoch(start)
        rest = Epochs(epochs, _seconds(history))
        while best_epoch.done(history) < epochs and not best_epoch.over(history, patience):
            rest.begins(training.step)
            history = _one_epoch(training, history, device, course, rest, keeper, _held_out(provenance))
            keeper.keep(history)
            rest.ends()
            telling.epoch(_epoch(history[-1], epochs))
        best_number = best_epoch.best(history)
        student.modules().load_state_dict(checkpoints.best(partial_folder, best_number))
        course.until(TRAINED)
        course.until(SCORED)
        which = f"of epoch {best_number}" if best_number else "as it began"
        course.tell(f"scoring the student {which}", None)
        with Turn(device):
            score = bench.score(student)
        course.tell("measuring its latency", None)
        timed = (measure or _plain_measure)(bench, student, job.candidate)
        facts = {
            **_facts(job, key, bench, student, provenance, seed, device),
            "metrics": {
                **({} if fitted_tokens is None else {"fitted_tokens": fitted_tokens}),
                "loss": score.loss,
                "raw_loss": score.raw_loss,
                "extra": dict(score.extra),
                "best_epoch": best_number,
                "epochs": best_epoch.done(history),
                "stopped_early": best_epoch.done(history) < epochs,
                "tokens": history[-1]["tokens"],
                "seconds": history[-1]["seconds"],
                "history": history,
            },
            "latency": {
                **_latency(timed, device, job.spec.latency.dtype),
                **further_passes(None)(bench, student, job.candidate),
            },
        }
        course.tell("writing the folder", None)
        with folders.whole(output) as work:
            bench.save(student, work)
            facts |= extras.merged(work)
            facts |= saved_as(work)
            facts |= bench.lay_out(student, work, layout, course.tell) if layout is not None else {}
            facts |= bench.finished(student, work, course.tell) if extras.figures else {}
            course.until(1.0)
            facts |= extras.exported(work, job.spec.latency, course.tell)
            facts = model_folder.stamp(facts)
            model_folder.write_facts(work, facts)
        return facts
    except torch.OutOfMemoryError:
        raise KdnasError(
            f"The memory of {device} ran out.", "Give a smaller data.batch_size; finished epochs are kept."
        ) from None
    finally:
        bench.close()


class _Keeper:
    """Writes the checkpoints of one training, with `facts` of what it stands on."""

    def __init__(self, key: str, folder: Path, training: Training, student: Student, facts: Mapping[str, Any]) -> None:
        self._key, self._folder = key, folder
        self._training, self._student, self._facts = training, student, facts
        self._written = time.monotonic()

    def keep(self, history: list[dict[str, Any]]) -> None:
        """The training as it is now, between two epochs or within one."""
        best = best_epoch.best(history) if history else 0
        kept = {"key": self._key, "history": history, "best": best, **self._facts}
        tensors, facts = self._training.state()
        step = self._training.step
        done = best_epoch.done(history)
        own = self._student.modules().state_dict() if history and best == done and not step else None
        checkpoints.write(self._folder, done, tensors, facts, kept, own, step)
        self._written = time.monotonic()

    def keep_now_and_then(self, history: list[dict[str, Any]]) -> None:
        if time.monotonic() - self._written >= KEPT_S:
            self.keep(history)


def _one_epoch(
    training: Training,
    history: list[dict[str, Any]],
    device: torch.device,
    course: Course,
    rest: Epochs,
    keeper: _Keeper,
    held_out: float,
) -> list[dict[str, Any]]:
    done, epochs = best_epoch.done(history), training.epochs

    def on_step(turn: Turn, step: int, steps: int) -> None:
        turn.step()
        left = rest.step(done, step, steps, held_out)
        words = f"epoch {done + 1} of {epochs}, step {step:,} of {steps:,}"
        course.reach(words, _share(done + step / max(1, steps), epochs), left)
        if step < steps:
            keeper.keep_now_and_then(history)

    with Turn(device) as turn:
        epoch = _sound(training.run_epoch(partial(on_step, turn)))
    return [*history, point_of(epoch)]


def _sound(epoch: Epoch) -> Epoch:
    """Raises KdnasError for a loss that is no number."""
    if not math.isfinite(epoch.score.loss):
        hint = "Try a lower training.learning_rate." if epoch.epoch else "Check the teacher and the text."
        raise KdnasError(f"The loss is {epoch.score.loss} after epoch {epoch.epoch}.", hint)
    return epoch


def _seconds(history: list[dict[str, Any]]) -> list[float]:
    """Of each epoch, the time at its end being counted from the beginning of the first."""
    ends = [0.0, *(point["seconds"] for point in history if point["epoch"])]
    return [after - before for before, after in itertools.pairwise(ends)]


def _held_out(provenance: Mapping[str, Any]) -> float:
    """Tokens scored for each one that an epoch learns from."""
    held, whole = (provenance.get(name) for name in ("held_out_tokens", "training_tokens"))
    return held / whole if isinstance(held, int) and isinstance(whole, int) and whole else 0.0


def _share(epochs_done: float, epochs: int) -> float:
    return PREPARED + (TRAINED - PREPARED) * epochs_done / max(1, epochs)


def point_of(epoch: Epoch) -> dict[str, Any]:
    return {**curve_columns(epoch), "extra": dict(epoch.score.extra)}


def _epoch(point: Mapping[str, Any], epochs: int) -> Epoch:
    from kdnas.training.contract import Score

    score = Score(point["loss"], point["raw_loss"], point["extra"])
    return Epoch(point["epoch"], epochs, score, point["train_loss"], point["seconds"], point["tokens"])


# ------------------------------------------------------------------------------------------------ what is recorded


def _ground(provenance: Mapping[str, Any], device: torch.device) -> dict[str, Any]:
    """What a training stands on and what must not change under its checkpoints."""
    return {**ground_of(provenance), "device": device.type}


def _facts(
    job: Job,
    key: str,
    bench: Workbench,
    student: Student,
    provenance: Mapping[str, Any],
    seed: int,
    device: torch.device,
) -> dict[str, Any]:
    plain = json.loads(json.dumps(provenance, default=str))
    return {
        "run": key,
        "study": job.study,
        "trial": job.trial,
        "found": dict(job.found) if job.found else None,
        "spec": job.spec.model_dump(mode="json"),
        "candidate": dict(job.candidate),
        "config": bench.config(job.candidate),
        "seed": seed,
        "parameters": student.size,
        "teacher": {"model": job.spec.teacher.model, **_size_of_teacher(job.spec), **_of(plain, "teacher")},
        "data": {"source": job.spec.data.source, **_of(plain, "data")},
        "provenance": plain,
        "versions": versions.versions(),
        "threads": torch.get_num_threads(),
        "device": str(device),
    }


def _size_of_teacher(spec: StudySpec) -> dict[str, Any]:
    """Parameters of the teacher's body, where its recipe counts them."""
    from kdnas.recipes import recipe

    count = recipe(spec.recipe.name).describe(spec).teacher.get("parameters")
    return {} if count is None else {"parameters": int(count)}


def _of(provenance: Mapping[str, Any], part: str) -> dict[str, Any]:
    found = dict(provenance[part]) if isinstance(provenance.get(part), dict) else {}
    if f"{part}_fingerprint" in provenance:
        found["fingerprint"] = provenance[f"{part}_fingerprint"]
    return found


def _latency(timed: Timed, device: torch.device, dtype: str) -> dict[str, Any]:
    whole: dict[str, Any] = asdict(timed) if is_dataclass(timed) and not isinstance(timed, type) else {}
    return {
        "student_ms": timed.p50,
        "student_p90_ms": timed.p90,
        "low_ms": timed.low,
        "high_ms": timed.high,
        "teacher_ms": timed.teacher_p50,
        "speedup": timed.teacher_p50 / timed.p50,
        "count": timed.count,
        "flag": timed.flag,
        "device": device_name(device),
        "dtype": dtype_name(device, dtype),
        "measured": whole,
    }


def saved_as(work: Path) -> dict[str, Any]:
    """What the recipe's configuration declares: the weights' dtype, the class that opens the folder, and whether that
    class lies in the folder itself."""
    config = work / "config.json"
    declared = json.loads(config.read_text(encoding="utf-8")) if config.is_file() else {}
    architecture = (declared.get("architectures") or [""])[0]
    heads = ("ForCausalLM", "ForMaskedLM", "ForSequenceClassification")
    head = next((head for head in heads if architecture.endswith(head)), "")
    if architecture.endswith("LMHeadModel"):
        head = "ForCausalLM"
    dtype = declared.get("dtype") or declared.get("torch_dtype") or "float32"
    adapter = work / "adapter_config.json"
    if adapter.is_file():
        base = json.loads(adapter.read_text(encoding="utf-8"))["base_model_name_or_path"]
        return {"dtype": str(dtype), "opens_with": "PeftModel", "base": str(base)}
    own_code = {"own_code": True} if declared.get("auto_map") else {}
    reader = opener(work)
    other = {} if reader == "AutoTokenizer" else {"tokenizer_opens_with": reader}
    return {"dtype": str(dtype), "opens_with": f"AutoModel{head}", **own_code, **other}


def _plain_measure(bench: Workbench, student: Student, candidate: Candidate) -> Timed:
    from kdnas.measuring import latency

    return latency.measure(bench.timed(student), bench.timed(None), bench.spec.latency, bench.device)


def weights_digest(model: Path) -> str:
    """Of the weights in a folder: for telling whether two runs came to the same result."""
    digest = hashlib.sha256()
    for path in sorted(model.glob("*.safetensors")):
        digest.update(path.read_bytes())
    return digest.hexdigest()
