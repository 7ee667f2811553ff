"""What all distillation of causal models shares: teacher, text, held-out score, the bench and the training loop.

The two recipes beside it (causal_divergence, causal_policy_gradient) say what one step's loss is. Knows no strategy,
no store and no screen.
"""

from __future__ import annotations

import contextlib
import copy
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import exp, isfinite
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor
from transformers import AutoConfig, PreTrainedConfig, PreTrainedModel

from kdnas.data.causal_text import chunks, ids_fingerprint
from kdnas.data.tokens import tokenizer_fingerprint
from kdnas.measuring import devices, memory
from kdnas.measuring.block_table import Block
from kdnas.measuring.device_lock import Turn
from kdnas.measuring.passes import Once
from kdnas.models import decoders, gguf_writing, least_squares_init
from kdnas.models.decoders import Importance, Sizes
from kdnas.recipes import causal_passes, latency_tokens
from kdnas.recipes.contract import DEPTH, Description, Recipe, Workbench
from kdnas.recipes.decoder_block_library import DecoderBlockLibrary
from kdnas.recipes.fitted_decoder_students import FittedDecoderStudents
from kdnas.recipes.spaces.decoder import blocks_of, require_alike, space_of
from kdnas.recipes.spaces.parameter_count import ParameterCount
from kdnas.study import spec_recipes
from kdnas.study.space import Candidate, SearchSpace
from kdnas.study.spec import StudySpec, TeacherSpec
from kdnas.system import disk_cache, paths, seeds
from kdnas.system.errors import BadOptionError, UsageError
from kdnas.system.files import write_atomically
from kdnas.system.fingerprint import digest
from kdnas.system.progress import Progress
from kdnas.system.tensor_files import computed_once
from kdnas.teachers import full_cut
from kdnas.teachers.causal import cross_entropy, load, model_folder, read_config, same_vocabulary, unigram_loss
from kdnas.training.contract import Epoch, Score, Student
from kdnas.training.loop import Step, Stepwise

WEIGHED = 16  # chunks on which the importance of the teacher's parts is measured
WEIGHED_BATCH = 8  # of them at a time, as long as they fit
CHECKED = 4  # chunks on which a full-size student is held against its teacher


# ---------------------------------------------------------------------------- recipe and bench


class CausalRecipe(Recipe):
    """`describe` for both recipes."""

    families = decoders.FAMILIES

    def describe(self, spec: StudySpec) -> Description:
        recipe = causal_part(spec)
        config = read_config(model_folder(spec.teacher), spec.teacher.model)
        base = config
        if recipe.student is not None:
            base = read_config(model_folder(_student_spec(recipe.student)), recipe.student)
            if base.vocab_size != config.vocab_size:
                raise UsageError(
                    f"The teacher {spec.teacher.model!r} has a vocabulary of {config.vocab_size:,} tokens, the student "
                    f"{recipe.student!r} of {base.vocab_size:,}.",
                    "Distillation on tokens needs two models of the same tokenizer.",
                )
        own = decoders.sizes(config)
        check_lengths(spec, own)
        require_alike(spec, base, recipe.student or spec.teacher.model)
        facts = {
            "model": spec.teacher.model,
            "family": config.model_type,
            "layers": own.layers,
            "width": own.width,
            "heads": own.heads,
            "key_value_heads": own.key_value_heads,
            "intermediate": own.inner,
            "activation": own.activation,
            "parameters": decoders.count_parameters(config),
        }
        space = space_of(spec.space, base)
        return Description(
            space,
            facts,
            cache_bytes_per_token=self.cache_bytes(spec),
            flops_per_token=lambda point: decoders.flops(decoders.student_config(base, point), spec.data.length),
            parameters=parameters_of(space, base),
        )

    def in_words_of_the_space(self, spec: StudySpec, config: Mapping[str, Any]) -> Mapping[str, Any]:
        vocabulary = config.get("vocab_size")
        whole = read_config(model_folder(spec.teacher), spec.teacher.model).vocab_size
        if vocabulary is not None and vocabulary != whole:
            raise UsageError(
                f"The configuration has a vocabulary of {vocabulary:,} tokens, the teacher {spec.teacher.model!r} of "
                f"{whole:,}.",
                "Distillation on tokens needs two models of the same tokenizer.",
            )
        if config.get("model_type") not in decoders.FAMILIES:
            return config  # a candidate, or a model that the families will refuse
        given = dict(config)
        found = AutoConfig.for_model(given.pop("model_type"), **given)
        return {**decoders.candidate_of(found), "model_type": config["model_type"]}

    def cache_bytes(self, spec: StudySpec) -> int | None:
        """Of the teacher's outputs for one token, where they are kept."""
        return None


def parameters_of(space: SearchSpace, base: PreTrainedConfig) -> ParameterCount:
    """Counts the parameters of the space's candidates, as students of a model of this configuration."""
    return ParameterCount(space, lambda point: decoders.count_parameters(decoders.student_config(base, point)))


def causal_part(spec: StudySpec) -> spec_recipes.CausalRecipe:
    assert isinstance(spec.recipe, spec_recipes.CausalRecipe)
    return spec.recipe


def _student_spec(name: str) -> TeacherSpec:
    return TeacherSpec(model=name)  # type: ignore[call-arg]


def check_lengths(spec: StudySpec, own: Sizes) -> None:
    """Raise BadOptionError for more tokens than the teacher has positions: what is timed is the pass of
    `latency.length` tokens, and that of one more."""
    length = spec.data.length
    if length > own.positions:
        raise BadOptionError(
            "data.length",
            f"data.length = {length} is more than the teacher's {own.positions} positions.",
            f"Give at most {own.positions}.",
        )
    length = spec.latency.length
    if length >= own.positions:
        raise BadOptionError(
            "latency.length",
            f"latency.length = {length} and the token generated after it are more than the teacher's "
            f"{own.positions} positions.",
            f"Give at most {own.positions - 1}.",
        )


@dataclass(frozen=True)
class Yardsticks:
    """Cross-entropies of the held-out text in nats per token: what a student is measured between."""

    teacher: float
    unigram: float


class CausalBench(Workbench):
    """Teacher, chunks and yardsticks, shared by all candidates of a process."""

    def __init__(self, spec: StudySpec, device: torch.device, on_progress: Progress) -> None:
        self.spec, self.device, self.on_progress = spec, device, on_progress
        self.recipe = causal_part(spec)
        own_device = device if spec.teacher.device is None else devices.device_beside(spec.teacher.device)
        self.teacher = load(spec.teacher, own_device, on_progress)
        self.base = self.teacher
        if self.recipe.student is not None:
            self.base = load(_student_spec(self.recipe.student), torch.device("cpu"), on_progress)
            same_vocabulary(self.teacher, self.base)
        check_lengths(spec, decoders.sizes(self.teacher.config))
        check_lengths(spec, decoders.sizes(self.base.config))
        self.space = space_of(spec.space, self.base.config)
        self.chunks, self._counts = chunks(spec, self.teacher.tokenizer, self.vocabulary, on_progress)
        self.proxy_ids = torch.from_numpy(self.chunks.proxy)
        self.held_ids = torch.from_numpy(self.chunks.held_out)
        unigram = unigram_loss(self._counts, self.held_ids)
        self.yardsticks = Yardsticks(self._teacher_loss(), unigram)
        if not isfinite(self.yardsticks.teacher):
            raise UsageError(
                f"The teacher {self.teacher.name!r} gives values that are not finite numbers on {spec.data.source!r}.",
                "Check its weights; a checkpoint that overflowed in fp16 cannot teach.",
            )
        if self.yardsticks.teacher >= self.yardsticks.unigram:
            raise UsageError(
                f"The teacher {self.teacher.name!r} predicts {spec.data.source!r} no better than word counts do "
                f"({self.yardsticks.teacher:.2f} nats a token against {self.yardsticks.unigram:.2f}).",
                "Give a teacher of this language and kind of text, or fine-tune it first.",
            )
        self._importance: Importance | None = None
        self._counted: ParameterCount | None = None
        self._configured: tuple[Candidate, PreTrainedConfig] | None = None
        ids = latency_tokens.drawn(self.chunks.train[:64].reshape(-1), spec.latency)
        self._timed_ids = torch.from_numpy(ids).to(device)

        self.fitted: FittedDecoderStudents | None = None
        if self.recipe.init == "fitted":
            what = f"the proxy set of {spec.data.source}"
            sampled = least_squares_init.sample(self.proxy_ids)
            self.fitted = FittedDecoderStudents(self.base, sampled, on_progress, what)
            self.fitted_tokens = sampled.numel()
        if self.recipe.init != "random":
            full_cut.require_repeated(self.base.name, self.base.fingerprint, self.base.device, self._both_states)

    def _both_states(self) -> tuple[Tensor, Tensor]:
        """Last states of the model that students are cut from and of a student that is all of it, on the first
        chunks."""
        ids, base = self.proxy_ids[:CHECKED], self.base.model
        config = decoders.student_config(base.config, decoders.candidate_of(base.config))
        whole = decoders.inherited(base, config, self.importance()).to(cast(Any, base.device))
        return tuple(full_cut.last_state(decoders.body_and_head(m)[0], ids) for m in (base, whole))  # type: ignore[return-value]

    @property
    def vocabulary(self) -> int:
        return int(self.teacher.config.vocab_size)

    def _train_ids(self) -> Tensor:
        return torch.from_numpy(self.chunks.train)

    def _teacher_loss(self) -> float:
        """Kept on disk: it is the same for every worker and study."""
        said = digest(self.teacher.fingerprint, devices.numerics(self.teacher.device))
        fingerprint = f"{said}-{ids_fingerprint(self.held_ids)}"
        path = paths.cache_folder() / "causal" / f"{fingerprint}.json"
        with contextlib.suppress(FileNotFoundError):  # unless it is thrown out at this moment
            known = float(json.loads(path.read_text(encoding="utf-8"))["cross_entropy"])
            disk_cache.used(path)
            return known
        self.on_progress("scoring the teacher on the held-out part", None)
        with Turn(self.teacher.device):
            found = cross_entropy(self.teacher.model, self.held_ids)
        paths.own_folder(path.parent)
        write_atomically(path, json.dumps({"cross_entropy": found}))
        disk_cache.trim()
        return found

    def importance(self) -> Importance:
        """The importance of the parts of the model that students are cut from, kept beside the caches.

        Kept because it ranks: two workers whose sums differ in the last bit must still cut the same student.
        """
        if self._importance is None:
            sample = self.proxy_ids[:WEIGHED]
            folder = paths.cache_folder() / "teacher" / "importance"
            said = digest(self.base.fingerprint, devices.numerics(self.base.device))
            path = folder / f"{said}-{ids_fingerprint(sample)}.safetensors"

            def weigh() -> dict[str, Tensor]:
                self.on_progress("measuring the importance of the teacher's parts", None)

                def measure(rows: int) -> dict[str, Tensor]:
                    return decoders.importance(self.base.model, sample, rows).tensors()

                with Turn(self.base.device):
                    return memory.whole(WEIGHED_BATCH, self.base.device, measure)

            self._importance = Importance(**computed_once(path, weigh))
        return self._importance

    def configuration(self, candidate: Candidate) -> PreTrainedConfig:
        """The candidate's configuration, computed once for all that asks of one candidate after another."""
        if self._configured is None or self._configured[0] != candidate:
            sources = None if self.fitted is None else self.fitted.sources(int(candidate["num_hidden_layers"]))
            self._configured = dict(candidate), decoders.student_config(self.base.config, candidate, sources)
        return self._configured[1]

    def config(self, candidate: Candidate) -> dict[str, Any]:
        return dict(self.configuration(candidate).to_dict())

    def parameters(self, candidate: Candidate) -> int:
        if self._counted is None:
            self._counted = parameters_of(self.space, self.base.config)
        return self._counted(candidate)

    def build(self, candidate: Candidate, seed: int) -> Student:
        config = copy.deepcopy(self.configuration(candidate))  # a model writes into its own
        if self.fitted is not None:
            model = self.fitted.student(config, self.importance())
        elif self.recipe.init == "inherit":
            model = decoders.inherited(self.base.model, config, self.importance())
        else:
            model = decoders.fresh(config, seeds.number(seed, seeds.Student.WEIGHTS))
        return Student(cast(torch.nn.Module, model).to(self.device))

    def build_in_full(self, candidate: Candidate, seed: int) -> Student:
        """A fitted one is solved on up to four times the tokens of a search's, where the training part has them. It
        keeps the blocks that the search chose, so that it has the shape that was timed."""
        ids = least_squares_init.sample(self._train_ids(), least_squares_init.IN_FULL)
        if self.fitted is not None and len(ids) > len(self.fitted.ids):
            layers = int(candidate["num_hidden_layers"])
            kept = {layers: self.fitted.sources(layers)}
            self.fitted.close()
            what = f"the training part of {self.spec.data.source}"
            self.fitted = FittedDecoderStudents(self.base, ids, self.on_progress, what, kept)
            self.fitted_tokens = ids.numel()
        return self.build(candidate, seed)

    def probe(self, candidate: Candidate) -> Student:
        model = decoders.fresh(copy.deepcopy(self.configuration(candidate)), 0)  # nothing is solved or cut for it
        return Student(cast(torch.nn.Module, model).to(self.device))

    def score(self, student: Student) -> Score:
        """Cross-entropy on the held-out part: (student − teacher) / (unigram − teacher)."""
        raw = cross_entropy(cast(Any, student.body), self.held_ids)
        low, high = self.yardsticks.teacher, self.yardsticks.unigram
        return Score(
            (raw - low) / (high - low),
            raw,
            {"perplexity": exp(min(raw, 700.0)), "teacher_perplexity": exp(low), "unigram_perplexity": exp(high)},
        )

    def timed(self, student: Student | None) -> Once:
        """What the spec's `latency.what` says: a first token, or one generated after it."""
        return self.timed_token(student) if self.spec.latency.what == "token" else self.timed_first(student)

    def asides(self, student: Student | None) -> dict[str, Once]:
        """The other of the two."""
        if self.spec.latency.what == "token":
            return {"first_ms": self.timed_first(student)}
        return {"token_ms": self.timed_token(student)}

    def timed_first(self, student: Student | None) -> Once:
        return self._timed(causal_passes.first_token, student)

    def timed_token(self, student: Student | None) -> Once:
        return self._timed(causal_passes.next_token, student)

    def _timed(self, what: Callable[..., Once], student: Student | None) -> Once:
        frozen = student is None
        return what(self._model(student), self._timed_ids, self.device, self.spec.latency.dtype, frozen=frozen)

    def _model(self, student: Student | None) -> PreTrainedModel:
        return self.teacher.model if student is None else cast(PreTrainedModel, student.body)

    def shape_key(self, candidate: Candidate | None) -> str:
        # A student's figure is taken beside the teacher's, so that the teacher's sizes belong to the key.
        config = None if candidate is None else self.configuration(candidate)
        keep = {
            "causal": True,
            "teacher": causal_passes.timed_shape(self.teacher.config),
            "student": None if config is None else causal_passes.timed_shape(config),
            "batch": list(self._timed_ids.shape),
            "bf16": devices.autocasts(self.device),
        }
        if self.spec.latency.what == "token":
            keep["what"] = "token"  # figures of first tokens were kept before there was a choice
        return json.dumps(keep, sort_keys=True)

    def blocks(self, candidate: Candidate) -> tuple[Block, ...]:
        return blocks_of(self.base.config, candidate)

    def group(self, candidate: Candidate) -> str:
        return f"{candidate[DEPTH]} layers"

    def predicted(self, on_progress: Progress) -> np.ndarray:
        if self.fitted is None:
            return super().predicted(on_progress)
        depths = next(d.choices for d in self.space.dimensions if d.name == DEPTH)
        return DecoderBlockLibrary(self.fitted, self.importance(), map(int, depths)).losses(self.space, on_progress)

    def save(self, student: Student, folder: Path) -> None:
        """The whole causal model and its tokenizer."""
        model = cast(PreTrainedModel, student.body)
        folder.mkdir(parents=True, exist_ok=True)
        if self.teacher.model.generation_config is not None:
            model.generation_config = self.teacher.model.generation_config
        model.save_pretrained(folder)
        self.teacher.tokenizer.save_pretrained(folder)

    def require_gguf(self, candidate: Candidate) -> None:
        gguf_writing.require_writable(self.configuration(candidate), self.teacher.tokenizer)

    def provenance(self) -> dict[str, Any]:
        facts = {
            "teacher": self.teacher.name,
            "teacher_fingerprint": self.teacher.fingerprint,
            "tokenizer_fingerprint": tokenizer_fingerprint(self.teacher.tokenizer),
            "data": self.spec.data.source,
            "data_fingerprint": self.chunks.fingerprint,
            "documents": self.chunks.documents,
            **self.chunks.record,
            "training_tokens": int(self.chunks.train.size),
            "proxy_tokens": int(self.chunks.proxy.size),
            "held_out_tokens": int(self.chunks.held_out.size),
            "teacher_cross_entropy": self.yardsticks.teacher,
            "unigram_cross_entropy": self.yardsticks.unigram,
        }
        if self.recipe.student is not None:
            facts["student"] = self.base.name
            facts["student_fingerprint"] = self.base.fingerprint
        return facts

    def close(self) -> None:
        if self.fitted is not None:
            self.fitted.close()


# ---------------------------------------------------------------------------- training


class CausalTraining(Stepwise[Tensor]):
    """Steps over chunks; a recipe's subclass says what a step's loss is."""

    def __init__(self, bench: CausalBench, student: Student, ids: Tensor, epochs: int, seed: int) -> None:
        self.ids, self.model = ids, cast(PreTrainedModel, student.body)
        super().__init__(bench, student, len(ids), epochs, seed)

    def begin(self) -> Epoch:
        if not spec_recipes.scored_as_built(self.bench.spec.recipe):
            return super().begin()
        began = time.perf_counter()
        score = self.bench.score(self.student)
        return Epoch(0, self.epochs, score, score.raw_loss, time.perf_counter() - began, 0)

    def decays(self, name: str, parameter: torch.nn.Parameter) -> bool:
        return parameter is not self.model.get_input_embeddings().weight

    def feed(self, generator: np.random.Generator, first: int = 0) -> tuple[Sequence[Step[Tensor]], int]:
        order = torch.from_numpy(generator.permutation(len(self.ids)))
        plan = order.split(min(self.step_rows, len(self.ids)))
        return [Step(rows.split(self.bench.spec.data.batch_size), len(rows)) for rows in plan[first:]], len(plan)

    def size(self, batch: Tensor) -> int:
        return len(batch)

    def tokens(self, batch: Tensor) -> int:
        return len(batch) * (self.ids.shape[1] - 1)
