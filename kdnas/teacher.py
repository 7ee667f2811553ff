"""The frozen teacher, and its hidden states on fixed text: computed once, kept memory-mapped in bf16.

Loads, freezes and fingerprints an encoder; builds, opens and reads the cache whose folder cache.py looks after;
decides by timing whether to keep the states or to compute them again. Knows no student and no loss.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import psutil
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModel, AutoTokenizer, PretrainedConfig
from transformers.utils import logging as transformers_logging

from kdnas import adapters, assets, cache, hub
from kdnas.data import tokenizer_fingerprint
from kdnas.errors import KdnasError, UsageError, first_line, nearest
from kdnas.kept import kept
from kdnas.loading import loading
from kdnas.recipes.encoders import Family, Importance, body_arguments, family_of, importance
from kdnas.recipes.fitting import Moments, moments, sample
from kdnas.spec import TeacherSpec

Say = Callable[[str, float | None], None]
VERSION = 1  # of what an entry holds
SAMPLE_CHUNKS = 16  # of the proxy set, for timing and for the importance
BUILD_BATCH = 32

transformers_logging.set_verbosity_error()
transformers_logging.disable_progress_bar()


@dataclass(frozen=True)
class Teacher:
    """A frozen encoder body with its tokenizer."""

    name: str
    folder: Path
    family: Family
    config: PretrainedConfig
    body: torch.nn.Module
    pooler: Mapping[str, torch.Tensor]  # weights of the pooler that the checkpoint may hold, left out of the body
    tokenizer: Any
    fingerprint: str  # of weights, configuration and tokenizer

    @property
    def hidden(self) -> int:
        return self.family.sizes(self.config).width

    @property
    def device(self) -> torch.device:
        return next(self.body.parameters()).device


def locate(spec: TeacherSpec, say: Say | None = None, *, config_only: bool = False) -> Path:
    """The folder of a teacher given by shipped name, folder or hub id. Raises UsageError."""
    if spec.model in assets.ASSETS:
        if assets.ASSETS[spec.model].kind != "teacher":
            raise UsageError(
                f"{spec.model!r} is a data set, no teacher.", f"Known: {', '.join(assets.names('teacher'))}."
            )
        return assets.fetch(spec.model, say)
    path = Path(spec.model).expanduser()
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise UsageError(f"The folder {path} holds no config.json.", "Give the folder of a Hugging Face model.")
        return path
    if path.exists() or path.is_absolute() or spec.model.startswith((".", "~")) or not hub.is_id(spec.model):
        raise UsageError(
            f"There is no model at {spec.model!r}.",
            f"Give a folder, a hub id, or a shipped one. {nearest(spec.model, assets.names('teacher'))}",
        )
    if say is not None:
        say(f"looking for {spec.model}", None)
    fetch = hub.fetch_config if config_only else hub.fetch_model
    return fetch(spec.model, spec.revision)


def read_config(spec: TeacherSpec, say: Say | None = None) -> tuple[PretrainedConfig, Family]:
    """The teacher's configuration and family, without its weights. Raises UsageError for what cannot be a teacher."""
    folder = Path(spec.checkpoint).expanduser() if spec.checkpoint else locate(spec, say, config_only=True)
    if adapters.is_adapter(folder):
        folder = adapters.base_of(folder, locate(spec, say, config_only=True))
    config = _config(folder, spec.model)
    return config, family_of(config, spec.model)


def _config(folder: Path, name: str) -> PretrainedConfig:
    if not (folder / "config.json").is_file():
        if any(folder.glob("*.gguf")):
            raise UsageError(
                f"The teacher {name!r} is a causal model in a GGUF file, which this recipe does not take.",
                "Take an encoder of the BERT family.",
            )
        raise UsageError(f"The folder {folder} holds no config.json.", "Give the folder of a Hugging Face model.")
    try:
        values = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise UsageError(f"{folder / 'config.json'} is no JSON.", "Fetch the model again.") from None
    try:
        return AutoConfig.from_pretrained(folder)
    except (ValueError, OSError, KeyError, TypeError) as error:
        kind = values.get("model_type")
        raise UsageError(
            f"The teacher {name!r} has a configuration that transformers does not read (model_type {kind!r}): "
            f"{first_line(error)}.",
            "Take an encoder of the BERT family.",
        ) from None


def load(spec: TeacherSpec, device: torch.device, say: Say | None = None) -> Teacher:
    """Load and freeze a teacher: fp32, eval, no pooler, an adapter merged into its base.

    Raises UsageError for a model that cannot be one.
    """
    base = locate(spec, say)
    folder, adapter = base, None
    if spec.checkpoint:
        folder = Path(spec.checkpoint).expanduser()
        if not folder.is_dir():
            raise UsageError(
                f"There is no checkpoint at {spec.checkpoint!r}.",
                "Give the folder of a fine-tuned model or of a PEFT adapter.",
            )
        if adapters.is_adapter(folder):
            adapter, folder = folder, adapters.base_of(folder, base)
    config = _config(folder, spec.model)
    family = family_of(config, spec.model)
    if say is not None:
        say(f"loading {spec.model}", None)
    arguments = body_arguments(config)
    pooled = "add_pooling_layer" in arguments
    if pooled:  # loaded with the pooler, if the checkpoint has one: saved students carry its slice
        arguments["add_pooling_layer"] = True
    with loading(f"The weights of {spec.model!r}", "Fetch the model again."):
        model, report = AutoModel.from_pretrained(folder, config=config, output_loading_info=True, **arguments)
    missing = [name for name in report["missing_keys"] if "pooler" not in name]
    if missing or report["mismatched_keys"]:
        raise UsageError(
            f"The weights of {spec.model!r} do not fit its configuration; missing: {missing[:1]}.",
            "Give a complete checkpoint.",
        )
    if adapter is not None:
        model = adapters.into_body(model, adapter, folder)
    pooler: dict[str, torch.Tensor] = {}
    if pooled and not any("pooler" in name for name in report["missing_keys"]):
        pooler = {n: t.detach() for n, t in model.state_dict().items() if n.startswith("pooler.")}
    if pooled:
        model.pooler = None
        if family.model_type == "albert":
            model.pooler_activation = None
    model.requires_grad_(False)
    model.eval()
    own = next((f for f in (adapter, folder) if f is not None and (f / "tokenizer_config.json").is_file()), base)
    tokenizer = open_tokenizer(own, spec.model)
    if len(tokenizer) > config.vocab_size:
        raise UsageError(
            f"The tokenizer of {spec.model!r} has {len(tokenizer):,} words, its model only {config.vocab_size:,}.",
            "Give the tokenizer that belongs to the model.",
        )
    mark = fingerprint(model, config, tokenizer)
    return Teacher(spec.model, adapter or folder, family, config, model.to(device), pooler, tokenizer, mark)


def open_tokenizer(folder: Path, name: str) -> Any:
    """The fast tokenizer of a model folder. Raises UsageError."""
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder)
    except Exception as error:
        raise UsageError(
            f"The tokenizer of {name!r} cannot be loaded: {first_line(error)}.", "Give a folder with its tokenizer."
        ) from None
    if not getattr(tokenizer, "is_fast", False):
        raise UsageError(f"The tokenizer of {name!r} has no fast form.", "Take a model with a tokenizer.json.")
    # Without its files transformers makes a tokenizer of nothing but special tokens, and says nothing.
    if len(tokenizer) <= len(tokenizer.all_special_tokens):
        raise UsageError(f"The tokenizer of {name!r} has no words.", "Give a folder with its tokenizer.json.")
    return tokenizer


def fingerprint(body: torch.nn.Module, config: PretrainedConfig, tokenizer: Any) -> str:
    """Of weights, configuration and tokenizer: 64 hexadecimal digits."""
    digest = hashlib.sha256()
    values = config.to_dict()
    for key in ("_name_or_path", "transformers_version"):
        values.pop(key, None)
    digest.update(json.dumps(values, sort_keys=True, default=str).encode())
    digest.update(tokenizer_fingerprint(tokenizer).encode())
    for name, tensor in sorted(body.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().data)
    return digest.hexdigest()


# ---------------------------------------------------------------- hidden states


@dataclass(frozen=True)
class Decision:
    """Where the teacher's hidden states come from, and the timings that decided it."""

    place: str  # "device" | "memory" | "disk" | "recompute"
    reason: str
    bytes: int
    teacher_ms_per_chunk: float
    read_ms_per_chunk: float | None

    def facts(self) -> dict[str, Any]:
        return {
            "place": self.place,
            "reason": self.reason,
            "mib": round(self.bytes / 2**20, 1),
            "teacher_ms_per_chunk": round(self.teacher_ms_per_chunk, 3),
            "read_ms_per_chunk": None if self.read_ms_per_chunk is None else round(self.read_ms_per_chunk, 3),
        }


@dataclass(frozen=True)
class LayerStatistics:
    """Mean and variance of each hidden dimension over all tokens, float64 [hidden], for each layer kept."""

    mean: Mapping[int, torch.Tensor]
    variance: Mapping[int, torch.Tensor]


class HiddenStates:
    """The teacher's block outputs on fixed chunks, for chosen layers: bf16 [chunks, length, hidden] each.

    `batch` hands out rows; whether they come from the device, from memory, from a mapped file or from the teacher
    itself makes no difference to the values: all of them are rounded to bf16.
    """

    def __init__(
        self,
        teacher: Teacher,
        ids: torch.Tensor,
        layers: Sequence[int],
        decision: Decision,
        maps: Mapping[int, torch.Tensor],
        statistics: LayerStatistics,
        lock: IO[bytes] | None,
    ) -> None:
        self.teacher, self.ids, self.layers = teacher, ids, tuple(layers)
        self.decision, self.statistics = decision, statistics
        self._maps, self._lock = dict(maps), lock

    def batch(self, rows: torch.Tensor, layers: Sequence[int], positions: slice = slice(None)) -> list[torch.Tensor]:
        """bf16 [rows, positions, hidden] for each of `layers`, on the place's own device."""
        if self._maps:
            where = rows.to(next(iter(self._maps.values())).device)
            return [self._maps[layer][:, positions].index_select(0, where) for layer in layers]
        with torch.inference_mode():
            states = run(self.teacher, self.ids[rows])
            # Cloned: what inference mode makes can't be saved for a backward pass.
            kept = [states[layer][:, positions].to(torch.bfloat16) for layer in layers]
        return [state.clone() for state in kept]

    def close(self) -> None:
        self._maps.clear()
        if self._lock is not None:
            self._lock.close()
            self._lock = None


def run(teacher: Teacher, ids: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Block outputs [rows, length, hidden], the embeddings left out; bf16 autocast where the GPU has it."""
    device = teacher.device
    with torch.autocast(device.type, torch.bfloat16, enabled=autocasts(device)):
        out = teacher.body(input_ids=ids.to(device), output_hidden_states=True)
    return tuple(out.hidden_states[1:])


def autocasts(device: torch.device) -> bool:
    """Whether training and teacher run in bf16 there."""
    return device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)


def entry_key(teacher: Teacher, ids: torch.Tensor, layers: Sequence[int]) -> str:
    """Of weights, tokenizer, text, chunk length, layers and dtype: equal keys, equal bytes (to rounding)."""
    digest = hashlib.sha256()
    facts = [VERSION, teacher.fingerprint, list(ids.shape), list(layers), "bfloat16"]
    digest.update(json.dumps(facts).encode())
    digest.update(ids.contiguous().numpy().data)
    return digest.hexdigest()[:32]


def hidden_states(
    teacher: Teacher, ids: torch.Tensor, layers: Sequence[int], *, passes: int, say: Say, what: str = "the text"
) -> HiddenStates:
    """The teacher's states on `ids` [chunks, length] (on the CPU), from the cache or, where that is quicker, live.

    `passes` is how often the whole text will be asked for in this study: what is asked for once isn't kept.
    """
    key = entry_key(teacher, ids, layers)
    size = ids.numel() * teacher.hidden * 2 * len(layers)
    lock = cache.opened(key)
    if not cache.finished(key):
        lock.close()
        decision = decide(teacher, ids, layers, size, passes, say)
        if decision.place == "recompute":
            statistics = _live_statistics(teacher, ids, layers, say, what)
            return HiddenStates(teacher, ids, layers, decision, {}, statistics, None)
        with cache.building(key):
            if not cache.finished(key):
                _build(key, teacher, ids, layers, say, what)
        lock = cache.opened(key)
    manifest = json.loads((cache.root() / key / cache.MANIFEST).read_text(encoding="utf-8"))
    timing = manifest["timing"]
    place, reason = _place(size, teacher.device)
    decision = Decision(place, reason, size, timing["teacher_ms_per_chunk"], timing["read_ms_per_chunk"])
    maps = _mapped(key, ids, layers, int(manifest["hidden"]))
    if place == "device":
        maps = {layer: states.to(teacher.device) for layer, states in maps.items()}
    elif place == "memory":
        for states in maps.values():  # touched once, so that the pages stand in the page cache for all workers
            states.view(torch.int16).flatten()[:: 2048 // 2].sum()
    flat = load_file(cache.root() / key / "statistics.safetensors")
    statistics = LayerStatistics(
        {layer: flat[f"mean.{layer}"] for layer in layers}, {layer: flat[f"variance.{layer}"] for layer in layers}
    )
    return HiddenStates(teacher, ids, layers, decision, maps, statistics, lock)


def _place(size: int, device: torch.device) -> tuple[str, str]:
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        if size <= 0.3 * free:
            return "device", f"{_mib(size)} take less than 30 % of the GPU's free memory"
    available = psutil.virtual_memory().available
    if size <= 0.25 * available:
        return "memory", f"{_mib(size)} take less than a quarter of the free memory"
    return "disk", f"{_mib(size)} are more than a quarter of the free memory"


def decide(teacher: Teacher, ids: torch.Tensor, layers: Sequence[int], size: int, passes: int, say: Say) -> Decision:
    """Keep or recompute, from the time of the teacher and of a cold read of the same states on a few chunks."""
    sample = ids[:SAMPLE_CHUNKS]
    with torch.inference_mode():
        run(teacher, sample[:2])
        _wait(teacher.device)
        begin = time.perf_counter()
        states = run(teacher, sample)
        _wait(teacher.device)
        teacher_ms = (time.perf_counter() - begin) * 1000 / len(sample)
    if passes <= 1:
        return Decision("recompute", "the text is read only once", size, teacher_ms, None)
    if not cache.make_room(size):
        limit = _mib(cache.limit_bytes())
        return Decision("recompute", f"{_mib(size)} do not fit into the cache's {limit}", size, teacher_ms, None)
    read_ms = _cold_read([states[layer].to(torch.bfloat16).cpu() for layer in layers]) / len(sample)
    kept, live = teacher_ms + passes * read_ms, passes * teacher_ms
    if kept >= live:
        why = f"reading takes {read_ms:.2g} ms a chunk, the teacher {teacher_ms:.2g} ms"
        return Decision("recompute", why, size, teacher_ms, read_ms)
    place, why = _place(size, teacher.device)
    return Decision(place, why, size, teacher_ms, read_ms)


def _cold_read(states: Sequence[torch.Tensor]) -> float:
    """Milliseconds to read the states from the cache's disk, its pages dropped from memory first."""
    cache.root().mkdir(parents=True, exist_ok=True)
    path = cache.root() / f".timing-{os.getpid()}"
    try:
        with path.open("wb") as file:
            for state in states:
                file.write(state.contiguous().view(torch.uint8).numpy().data)
            file.flush()
            os.fsync(file.fileno())
            if hasattr(os, "posix_fadvise"):
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        begin = time.perf_counter()
        path.read_bytes()
        return (time.perf_counter() - begin) * 1000
    except OSError as error:
        raise _disk(error) from None
    finally:
        path.unlink(missing_ok=True)


def _mapped(key: str, ids: torch.Tensor, layers: Sequence[int], hidden: int) -> dict[int, torch.Tensor]:
    shape = (*ids.shape, hidden)
    count = ids.numel() * hidden
    return {
        layer: torch.from_file(str(_layer_file(cache.root() / key, layer)), size=count, dtype=torch.bfloat16).view(
            shape
        )
        for layer in layers
    }


def _layer_file(folder: Path, layer: int) -> Path:
    return folder / f"layer-{layer:02d}.bf16"


class _Moments:
    """Sums over tokens in float64, for each layer."""

    def __init__(self, layers: Sequence[int], hidden: int) -> None:
        self.count = 0
        self.first = {layer: torch.zeros(hidden, dtype=torch.float64) for layer in layers}
        self.second = {layer: torch.zeros(hidden, dtype=torch.float64) for layer in layers}

    def add(self, states: Mapping[int, torch.Tensor]) -> None:
        for layer, state in states.items():
            flat = state.flatten(0, 1).double()
            self.first[layer] += flat.sum(0).cpu()
            self.second[layer] += flat.square().sum(0).cpu()
        self.count += flat.shape[0]

    def statistics(self) -> LayerStatistics:
        mean = {layer: first / self.count for layer, first in self.first.items()}
        variance = {layer: (self.second[layer] / self.count - mean[layer].square()).clamp_min(0) for layer in mean}
        return LayerStatistics(mean, variance)


def _passes(teacher: Teacher, ids: torch.Tensor, layers: Sequence[int], say: Say, doing: str):  # type: ignore[no-untyped-def]
    done = 0
    for part in ids.split(BUILD_BATCH):
        with torch.inference_mode():
            states = run(teacher, part)
            yield {layer: states[layer].to(torch.bfloat16).cpu() for layer in layers}
        done += len(part)
        say(doing, done / len(ids))


def _live_statistics(
    teacher: Teacher, ids: torch.Tensor, layers: Sequence[int], say: Say, what: str
) -> LayerStatistics:
    moments = _Moments(layers, teacher.hidden)
    for states in _passes(teacher, ids, layers, say, f"measuring the teacher on {what}"):
        moments.add(states)
    return moments.statistics()


def _build(key: str, teacher: Teacher, ids: torch.Tensor, layers: Sequence[int], say: Say, what: str) -> None:
    """Fill a working folder and rename it when all is written: a killed build leaves nothing that looks finished."""
    hidden = teacher.hidden
    work = cache.root() / f".build-{key}-{os.getpid()}"
    shutil.rmtree(work, ignore_errors=True)
    moments = _Moments(layers, hidden)
    files: dict[int, IO[bytes]] = {}
    try:
        work.mkdir(parents=True)
        files = {layer: _layer_file(work, layer).open("wb") for layer in layers}
        begin = time.perf_counter()
        for states in _passes(teacher, ids, layers, say, f"caching the teacher on {what}"):
            moments.add(states)
            for layer, state in states.items():
                files[layer].write(state.contiguous().view(torch.uint8).numpy().data)
        seconds = time.perf_counter() - begin
        for file in files.values():
            file.flush()
            os.fsync(file.fileno())
        statistics = moments.statistics()
        save_file(
            {f"mean.{layer}": statistics.mean[layer] for layer in layers}
            | {f"variance.{layer}": statistics.variance[layer] for layer in layers},
            work / "statistics.safetensors",
        )
        begin = time.perf_counter()
        sample = _layer_file(work, layers[0]).read_bytes()
        read = (time.perf_counter() - begin) * 1000 * len(layers) / len(ids)
        del sample
        manifest = {
            "version": VERSION,
            "teacher": teacher.name,
            "fingerprint": teacher.fingerprint,
            "text": what,
            "layers": list(layers),
            "chunks": len(ids),
            "length": ids.shape[1],
            "hidden": hidden,
            "dtype": "bfloat16",
            "timing": {"teacher_ms_per_chunk": seconds * 1000 / len(ids), "read_ms_per_chunk": read},
        }
        (work / cache.MANIFEST).write_text(json.dumps(manifest, indent=1), encoding="utf-8")
        work.rename(cache.root() / key)
    except OSError as error:
        raise _disk(error) from None
    finally:
        for file in files.values():
            file.close()
        shutil.rmtree(work, ignore_errors=True)


def _disk(error: OSError) -> KdnasError:
    return KdnasError(
        f"The teacher cache in {cache.root()} cannot be written: {error.strerror}.",
        "Free some space, or set KDNAS_CACHE to a folder with room.",
    )


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _mib(size: int) -> str:
    return f"{size / 2**20:,.0f} MiB"


def worth(teacher: Teacher, ids: torch.Tensor) -> Importance:
    """The importance of the teacher's parts on the first chunks of the proxy set, kept beside the caches.

    Kept because it ranks: two workers whose sums differ in the last bit must still cut the same student.
    """
    sample = ids[:SAMPLE_CHUNKS]
    key = entry_key(teacher, sample, [-1])
    path = cache.root() / "importance" / f"{key}.safetensors"
    return Importance(**kept(path, lambda: importance(teacher.body, teacher.family, sample).tensors()))


def moments_of(teacher: Teacher, ids: torch.Tensor) -> Moments:
    """The moments of what leads into the teacher's layers, on the first chunks of the proxy set; kept as `worth` is."""
    chunks = sample(ids)
    path = cache.root() / "moments" / f"{entry_key(teacher, chunks, [-1])}.safetensors"
    return Moments(**kept(path, lambda: moments(teacher.body, teacher.family, chunks).tensors()))
