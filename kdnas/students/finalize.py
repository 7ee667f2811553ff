"""Full distillation: a candidate learns on the whole training data and becomes a model folder.

Checkpointed after every epoch beside the folder; a run that was killed goes on to the same result. The work itself
is the recipe's. `finalize` takes its candidate from a study and tells the store how far it is; `distil` needs none.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import shutil
import time
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, is_dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from kdnas.measuring.device_lock import Turn
from kdnas.measuring.devices import resolve_device
from kdnas.measuring.latency import measure
from kdnas.recipes.contract import Workbench
from kdnas.search.candidate import Measure, Timed
from kdnas.search.heartbeat import Steering, at_work
from kdnas.store import changes, jobs, queries
from kdnas.store.database import Store, open_store
from kdnas.students import model_folder
from kdnas.study.filter import keys_of, parse
from kdnas.study.ranking import Scored, rank
from kdnas.study.space import Candidate
from kdnas.study.spec import LatencySpec, StudySpec, from_values
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
WRITE_S = 1.0  # how often the store hears of progress


@dataclass(frozen=True)
class Job:
    """What is distilled. `found` is what the search knew of the candidate, for the record."""

    spec: StudySpec
    candidate: Candidate
    study: str | None = None
    trial: int | None = None
    found: Mapping[str, Any] | None = None

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


# ------------------------------------------------------------------------------------------------ from a study


def choose(store: Store, study: str, *, rank_wanted: int = 1, trial: int | None = None, only: str | None = None) -> Job:
    """The candidate of a trial, or of the one at a rank under the study's present α and β.

    `only` is a filter: ranks are counted among what it lets through. Raises UsageError.
    """
    row = queries.study_row(store, study)
    spec = from_values(row.spec)
    scored = rank(queries.trial_rows(store, row.study_id), row.alpha, row.beta, spec.reward.loss)
    if trial is not None:
        one = next((s for s in scored if s.number == trial), None)
        if one is None:
            raise UsageError(f"Study {study} has no trial {trial}.", f"See its trials with: kdnas show {study}")
        return _job(spec, one)
    ranked = [s for s in scored if s.rank is not None]
    if only is not None and ranked:
        ranked = parse(only, keys_of([s.row for s in scored])).select(ranked)
        if not ranked:
            raise UsageError(f"No finished trial of {study} passes {only!r}.", "Loosen the filter.")
    if rank_wanted > len(ranked):
        if not ranked:
            raise UsageError(f"Study {study} has no finished trial yet.", f"Let it finish one: kdnas search {study}")
        raise UsageError(
            f"Study {study} has {len(ranked)} ranked trials, not {rank_wanted}.", f"Give --rank 1 to {len(ranked)}."
        )
    return _job(spec, ranked[rank_wanted - 1])


def _job(spec: StudySpec, chosen: Scored) -> Job:
    row = chosen.row
    found = {
        "state": row.state,
        "reward": chosen.reward,
        "loss": row.loss,
        "raw_loss": row.raw_loss,
        "latency_ms": row.latency_ms,
        "epochs": row.epoch,
    }
    if spec.space.variants:
        from kdnas.recipes import variants

        spec, student = variants.resolved(spec, str(row.candidate[variants.NAME]))
        return Job(spec, student, spec.name, row.number, found)
    return Job(spec, dict(row.candidate), spec.name, row.number, found)


def finalize(
    storage: str,
    study: str,
    output: Path,
    telling: Telling,
    *,
    rank_wanted: int = 1,
    trial: int | None = None,
    only: str | None = None,
    full: Mapping[str, Any] | None = None,
    device: str | None = None,
    extras: Extras | None = None,
    prepare: Prepare | None = None,
    measure: Measure | None = None,
) -> dict[str, Any]:
    """Full KD of a trial of a study into `output`; what `kdnas.json` says of it.

    `full` replaces fields of the spec's `full` part. The store holds a row of the run and a worker that lives while
    it goes on. Raises UsageError before any work where the study, the trial or the folder cannot be.
    """
    from kdnas.search.worker import latency_protocol

    output = output.absolute()
    with open_store(storage) as store:
        job = choose(store, study, rank_wanted=rank_wanted, trial=trial, only=only)
        job = _with_full(job, full or {})
        if model_folder.finished(output, job.key()):
            telling.on_progress(f"{output} is finished already", 1.0)
            return _done_before(output)
        row = queries.study_row(store, study)
        where = device or job.spec.device
        with at_work(store, row.study_id, "finalize") as alive:
            alive.state, alive.device = "running", where
            run_id = jobs.begin(
                store, row.study_id, "finalize", str(output), number=job.trial, worker_id=alive.worker_id
            )
            changes.add_event(store, row.study_id, "finalize", {"trial": job.trial, "folder": str(output)})
            heard = _Heard(telling, store, run_id, alive)
            try:
                facts = distil(
                    job,
                    output,
                    Telling(heard.on_progress, heard.epoch),
                    device=where,
                    extras=extras,
                    prepare=prepare,
                    measure=measure or latency_protocol(store),
                )
            except BaseException as error:
                jobs.fail(store, run_id, _why(error))
                raise
            jobs.end(store, run_id, heard.result(facts))
        return facts


def _why(error: BaseException) -> str:
    if isinstance(error, KeyboardInterrupt):
        return "Stopped; the same command goes on from the last epoch."
    return str(error) if isinstance(error, KdnasError) else f"{type(error).__name__}: {error}"


def _with_full(job: Job, full: Mapping[str, Any]) -> Job:
    given = {name: value for name, value in full.items() if value is not None}
    if not given:
        return job
    values = job.spec.model_dump(mode="json")
    values["full"] = {**values["full"], **given}
    return Job(from_values(values), job.candidate, job.study, job.trial, job.found)


class _Heard:
    """Passes on what a run tells, and writes it into the store, not more often than once a second."""

    def __init__(self, telling: Telling, store: Store, run_id: int, alive: Steering) -> None:
        self.telling, self.store, self.run_id, self.alive = telling, store, run_id, alive
        self.share, self.written = 0.0, 0.0
        self.curve: list[dict[str, Any]] = []

    def on_progress(self, words: str, share: float | None) -> None:
        self.telling.on_progress(words, share)
        self.share = self.share if share is None else share
        self.alive.doing = words
        if time.monotonic() - self.written >= WRITE_S:
            self._write(words)

    def epoch(self, epoch: Epoch) -> None:
        self.telling.epoch(epoch)
        self.curve.append(_point(epoch))
        self._write(f"epoch {epoch.epoch} of {epoch.epochs} done")

    def _write(self, words: str) -> None:
        self.written = time.monotonic()
        jobs.progress(self.store, self.run_id, self.share, words, {"curve": self.curve})

    def result(self, facts: Mapping[str, Any]) -> dict[str, Any]:
        return {
            "curve": facts["metrics"]["history"],
            "metrics": {k: v for k, v in facts["metrics"].items() if k != "history"},
            "latency": facts["latency"],
            "parameters": facts["parameters"],
            "onnx": facts.get("onnx"),
        }


# ------------------------------------------------------------------------------------------ from a configuration


ALIASES = {  # what other families call the same
    "num_hidden_layers": ("n_layers", "n_layer"),
    "hidden_size": ("dim", "n_embd"),
    "num_attention_heads": ("n_heads", "n_head"),
    "head_size": ("head_dim",),
    "intermediate_size": ("hidden_dim", "n_inner"),
    "hidden_act": ("activation", "activation_function"),
}


def given(spec: StudySpec, config: Mapping[str, Any]) -> Job:
    """A configuration given by hand (Hugging Face keys, or a candidate's) as a job; the spec's space becomes it alone.

    Raises UsageError where a key of the recipe's space is missing, out of range, or the model is of another family.
    """
    from kdnas.recipes import recipe

    described = recipe(spec.recipe.name)
    family = config.get("model_type")
    if family is not None and family not in described.families:
        raise UsageError(
            f"The recipe {spec.recipe.name} makes no {family!r} models.", f"It makes {', '.join(described.families)}."
        )
    config = described.in_words_of_the_space(spec, config)
    names = [d.name for d in described.describe(spec).space.dimensions]
    known = {name: _value(config, name) for name in {*names, "hidden_size", "num_attention_heads"}}
    width, heads = known["hidden_size"], known["num_attention_heads"]
    if "head_size" in names and known["head_size"] is None and width is not None and heads is not None:
        if "num_attention_heads" not in names:
            names[names.index("head_size")] = "num_attention_heads"  # the same space, told by the number of heads
        elif heads and width % heads == 0:
            known["head_size"] = width // heads
    missing = [name for name in names if known[name] is None]
    if missing:
        raise UsageError(
            f"The configuration gives no {missing[0]}.", f"The recipe {spec.recipe.name} needs {', '.join(names)}."
        )
    values = spec.model_dump(mode="json")
    values["space"] = {"choices": {name: [known[name]] for name in names}}
    narrowed = from_values(values)
    space = described.describe(narrowed).space
    return Job(narrowed, space.from_ordinal(0))


def _value(config: Mapping[str, Any], name: str) -> Any:
    return next((config[key] for key in (name, *ALIASES.get(name, ())) if config.get(key) is not None), None)


def read_config(path: Path) -> dict[str, Any]:
    """A configuration from JSON (a config.json, a candidate, or the best of an exported file) or TOML."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} cannot be read: {error}.", "Give a JSON or TOML file.") from None
    try:
        found = tomllib.loads(text) if path.suffix == ".toml" else json.loads(text)
    except ValueError as error:
        kind = "TOML" if path.suffix == ".toml" else "JSON"
        raise UsageError(f"{path} is not {kind}: {error}.", "Mend that place.") from None
    if isinstance(found, dict) and found.get("format") == "kdnas-export" and found.get("candidates"):
        found = found["candidates"][0]["candidate"]
    if not isinstance(found, dict):
        raise UsageError(f"{path} holds no configuration.", 'Give keys and values, as in {"num_hidden_layers": 3, …}.')
    return found


# ------------------------------------------------------------------------------------------------ the work


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
    from kdnas.measuring.devices import set_up_torch

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
            facts = _done_before(output)
        else:
            set_up_torch()
            where = resolve_device(device)
            facts = _distil(job, key, output, partial_folder, telling, where, wanted, prepare, measure)
            shutil.rmtree(partial_folder, ignore_errors=True)
    if wanted.push is not None:
        from kdnas.students.upload import push

        telling.on_progress(f"uploading to {wanted.push}", None)
        facts = {**facts, "pushed": push(output, wanted.push)}
    telling.on_progress("done", 1.0)
    return facts


def _done_before(output: Path) -> dict[str, Any]:
    return model_folder.read_facts(output)


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
    from kdnas.search.worker import further_passes

    saved = checkpoints.last(partial_folder)
    if saved is not None and saved.kept["key"] != key:
        raise UsageError(
            f"{partial_folder} holds the checkpoints of another run.", "Remove it, or name another --output."
        )
    bench = prepare(job.spec, device, lambda words, share: telling.on_progress(words, PREPARED * (share or 0.0)))
    try:
        bench.space.indices(job.candidate)  # raises UsageError for what is not in the space
        provenance = bench.provenance()
        seed = number(job.spec.seed, Purpose.STUDENT, 0)
        with Turn(device):
            student = bench.build(job.candidate, seed)
        epochs = job.spec.full.epochs
        training = bench.training(student, epochs=epochs, seed=seed, full=True)
        history: list[dict[str, Any]] = []
        if saved is not None:
            _require_same_ground(saved.kept["ground"], _ground(provenance, device), partial_folder)
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
    return [*history, _point(epoch)]


def _share(epochs_done: float, epochs: int) -> float:
    return PREPARED + (TRAINED - PREPARED) * epochs_done / epochs


def _point(epoch: Epoch) -> dict[str, Any]:
    return {
        "epoch": epoch.epoch,
        "loss": epoch.score.loss,
        "raw_loss": epoch.score.raw_loss,
        "train_loss": epoch.train_loss,
        "seconds": epoch.seconds,
        "tokens": epoch.tokens,
        "extra": dict(epoch.score.extra),
    }


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
    """What a training stands on and what must not change under it."""
    plain = json.loads(json.dumps(provenance, default=str))
    found = {name: value for name, value in plain.items() if "fingerprint" in name}
    for part in ("teacher", "data"):
        if isinstance(plain.get(part), dict) and "fingerprint" in plain[part]:
            found[part] = plain[part]["fingerprint"]
    return {**found, "device": device.type}


def _require_same_ground(saved: Mapping[str, Any], now: Mapping[str, Any], where: Path) -> None:
    for name, before in saved.items():
        if now.get(name) != before:
            what = name.replace("_", " ").removesuffix(" fingerprint")
            raise UsageError(
                f"The {what} is not the one that the checkpoints in {where} were made with.",
                "Bring it back, or remove that folder to begin afresh.",
            )


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
        "teacher": {"model": job.spec.teacher.model, **_of(plain, "teacher")},
        "data": {"source": job.spec.data.source, **_of(plain, "data")},
        "provenance": plain,
        "versions": versions.versions(),
        "threads": torch.get_num_threads(),
        "device": str(device),
    }


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
    return {"dtype": str(dtype), "opens_with": f"AutoModel{head}", **own_code}


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
