"""Full distillation: a candidate learns on the whole training data and becomes a model folder.

Checkpointed after every epoch beside the folder; a run that was killed goes on to the same result. The work itself is
the recipe's. Knows no study: `finalize` takes its candidate from one, `from_config` from a configuration.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, is_dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from kdnas.measuring import memory
from kdnas.measuring.device_lock import Turn
from kdnas.measuring.devices import as_studies, resolve_device
from kdnas.measuring.latency import measure
from kdnas.models.tokenizer import opener
from kdnas.recipes.contract import Workbench
from kdnas.search.candidate import Measure, Timed
from kdnas.search.timing import curve_columns
from kdnas.students import model_folder
from kdnas.study.ground import ground_of, require_same_ground
from kdnas.study.space import Candidate
from kdnas.study.spec import LatencySpec, StudySpec
from kdnas.system import fingerprint, folders, versions
from kdnas.system.errors import KdnasError, UsageError
from kdnas.system.progress import Progress
from kdnas.system.seeds import Purpose, number
from kdnas.training import checkpoints
from kdnas.training.contract import Epoch, Student, Training

if TYPE_CHECKING:
    from kdnas.models.onnx import Exported

Prepare = Callable[[StudySpec, torch.device, Progress], Workbench]

PREPARED = 0.05  # shares of the progress: until the first epoch, …
TRAINED = 0.95  # … until the last one


@dataclass(frozen=True)
class Job:
    """What is distilled. `found` is what the search knew of the candidate, for the record."""

    spec: StudySpec
    candidate: Candidate
    study: str | None = None
    trial: int | None = None
    found: Mapping[str, Any] | None = None
    ground: Mapping[str, Any] | None = None  # of the study, whose figures say that this candidate is a good one

    def key(self) -> str:
        """Of all that decides the weights and the figures in the folder."""
        spec = self.spec.model_dump(mode="json")
        parts = {name: spec[name] for name in ("seed", "teacher", "data", "recipe", "training", "full", "latency")}
        if spec["latency"]["gpu"] == "graph":
            del spec["latency"]["gpu"]  # the default, of which earlier folders say nothing
        proxy = spec["budget"]["proxy_fraction"]  # the loss is normalised by the targets' variance on the proxy set
        return fingerprint.run_key({**parts, "proxy_fraction": proxy, "candidate": self.candidate})


@dataclass(frozen=True)
class Telling:
    """Who hears how it goes: words with a share of the whole, and each finished epoch."""

    on_progress: Progress
    epoch: Callable[[Epoch], None] = lambda _: None


@dataclass(frozen=True)
class Extras:
    """What is made beside the folder's weights."""

    onnx: bool = False
    push: str | None = None


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
    if wanted.push is not None:
        from kdnas.students.upload import check_push

        check_push(wanted.push)
    if wanted.onnx:
        from kdnas.models.onnx import require

        require()
    key = job.key()
    partial_folder = folders.partial_of(output)
    with contextlib.ExitStack() as stack:
        if not model_folder.finished(output, key):
            stack.enter_context(checkpoints.alone(partial_folder, str(output)))
        if model_folder.finished(output, key):
            shutil.rmtree(partial_folder, ignore_errors=True)
            telling.on_progress(f"{output} is finished already", 1.0)
            facts = model_folder.read_facts(output)
        else:
            stack.enter_context(as_studies())
            where = resolve_device(device)
            facts = _distil(job, key, output, partial_folder, telling, where, wanted, prepare, measure)
            shutil.rmtree(partial_folder, ignore_errors=True)
    if wanted.push is not None:
        from kdnas.students.upload import push

        telling.on_progress(f"uploading to {wanted.push}", None)
        facts = {**facts, "pushed": push(output, wanted.push)}
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
    with memory.one_line(device):
        bench = prepare(job.spec, device, lambda words, share: telling.on_progress(words, PREPARED * (share or 0.0)))
    try:
        bench.space.indices(job.candidate)  # raises UsageError for what is not in the space
        provenance = bench.provenance()
        if job.ground:
            require_same_ground(
                job.ground,
                ground_of(provenance),
                f"the study {job.study!r} was begun with",
                "Bring back what was there then, or search again and finalize that study.",
            )
        seed = number(job.spec.seed, Purpose.STUDENT, 0)
        with Turn(device):
            student = bench.build(job.candidate, seed)
        epochs = job.spec.full.epochs
        training = bench.training(student, epochs=epochs, seed=seed, full=True)
        history: list[dict[str, Any]] = []
        if saved is not None:
            require_same_ground(
                saved.kept["ground"],
                _ground(provenance, device),
                f"the checkpoints in {partial_folder} were made with",
                "Bring it back, or remove that folder to begin afresh.",
            )
            training.restore(saved.tensors, saved.facts)
            history = list(saved.kept["history"])
            telling.on_progress(f"going on after epoch {len(history)}", _share(len(history), epochs))
            for point in history:
                telling.epoch(_epoch(point, epochs))
        del saved
        patience = job.spec.full.patience
        while len(history) < epochs and not _over(history, patience):
            history = _one_epoch(training, student, history, device, telling)
            best_number = best_epoch(history)
            kept = {"key": key, "history": history, "best": best_number, "ground": _ground(provenance, device)}
            tensors, facts = training.state()
            is_best = best_number == len(history)
            checkpoints.write(
                partial_folder, len(history), tensors, facts, kept, student.modules().state_dict() if is_best else None
            )
            telling.epoch(_epoch(history[-1], epochs))
        best_number = best_epoch(history)
        student.modules().load_state_dict(checkpoints.best(partial_folder, best_number))
        telling.on_progress(f"scoring the student of epoch {best_number}", TRAINED)
        with Turn(device):
            score = bench.score(student)
        telling.on_progress("measuring its latency", TRAINED)
        timed = (measure or _plain_measure)(bench, student, job.candidate)
        facts = {
            **_facts(job, key, bench, student, provenance, seed, device),
            "metrics": {
                "loss": score.loss,
                "raw_loss": score.raw_loss,
                "extra": dict(score.extra),
                "best_epoch": best_number,
                "epochs": len(history),
                "stopped_early": len(history) < epochs,
                "tokens": history[-1]["tokens"],
                "seconds": history[-1]["seconds"],
                "history": history,
            },
            "latency": {**_latency(timed, device), **further_passes(None)(bench, student, job.candidate)},
        }
        telling.on_progress("writing the folder", 0.98)
        with folders.whole(output) as work:
            bench.save(student, work)
            facts |= _saved_as(work)
            facts |= bench.finished(student, work, telling.on_progress)
            if extras.onnx:
                from kdnas.models.onnx import export

                telling.on_progress("writing ONNX", 0.98)
                facts["onnx"] = _onnx_facts(export(work, job.spec.latency), job.spec.latency)
            facts = model_folder.stamp(facts)
            model_folder.write_facts(work, facts)
        return facts
    except torch.OutOfMemoryError:
        raise KdnasError(
            f"The memory of {device} ran out.", "Give a smaller data.batch_size; finished epochs are kept."
        ) from None
    finally:
        bench.close()


def _one_epoch(
    training: Training, student: Student, history: list[dict[str, Any]], device: torch.device, telling: Telling
) -> list[dict[str, Any]]:
    done, epochs = len(history), training.epochs

    def on_step(turn: Turn, step: int, steps: int) -> None:
        turn.step()
        words = f"epoch {done + 1} of {epochs}, step {step:,} of {steps:,}"
        telling.on_progress(words, _share(done + step / max(1, steps), epochs))

    with Turn(device) as turn:
        epoch = training.run_epoch(partial(on_step, turn))
    if not math.isfinite(epoch.score.loss):
        raise KdnasError(
            f"The loss is {epoch.score.loss} after epoch {epoch.epoch}.", "Try a lower training.learning_rate."
        )
    return [*history, point_of(epoch)]


def _share(epochs_done: float, epochs: int) -> float:
    return PREPARED + (TRAINED - PREPARED) * epochs_done / epochs


def point_of(epoch: Epoch) -> dict[str, Any]:
    return {**curve_columns(epoch), "extra": dict(epoch.score.extra)}


def _epoch(point: Mapping[str, Any], epochs: int) -> Epoch:
    from kdnas.training.contract import Score

    score = Score(point["loss"], point["raw_loss"], point["extra"])
    return Epoch(point["epoch"], epochs, score, point["train_loss"], point["seconds"], point["tokens"])


def best_epoch(history: list[dict[str, Any]]) -> int:
    """The epoch, from 1, with the least held-out loss; of equal ones the first."""
    return min(range(len(history)), key=lambda i: (history[i]["loss"], i)) + 1


def _over(history: list[dict[str, Any]], patience: int) -> bool:
    return bool(history) and len(history) - best_epoch(history) >= patience


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


def _latency(timed: Timed, device: torch.device) -> dict[str, Any]:
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
        "device": _device_words(device),
        "measured": whole,
    }


def _device_words(device: torch.device) -> str:
    from kdnas.measuring.devices import device_name

    return device_name(device)


def _saved_as(work: Path) -> dict[str, Any]:
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


def _onnx_facts(exported: Exported, settings: LatencySpec) -> dict[str, Any]:
    """With the median latency of onnxruntime on the CPU, in ms, by the studies' protocol."""
    timed = measure(exported.once, None, settings, torch.device("cpu"))
    return {
        "file": exported.file,
        "difference": exported.difference,
        "latency_ms": timed.p50,
        "count": timed.count,
        "flag": timed.flag,
        "opset": exported.opset,
        "output": exported.output,
    }


def _plain_measure(bench: Workbench, student: Student, candidate: Candidate) -> Timed:
    from kdnas.measuring import latency

    return latency.measure(bench.timed(student), bench.timed(None), bench.spec.latency, bench.device)


def weights_digest(model: Path) -> str:
    """Of the weights in a folder: for telling whether two runs came to the same result."""
    digest = hashlib.sha256()
    for path in sorted(model.glob("*.safetensors")):
        digest.update(path.read_bytes())
    return digest.hexdigest()
