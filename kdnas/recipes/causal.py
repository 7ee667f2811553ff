"""What all distillation of causal models shares: teacher, text, held-out score, the bench and the training loop.

The two recipes beside it (causal_divergence, causal_policy_gradient) say what one step's loss is. Knows no strategy,
no store and no screen.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import exp, log
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, DynamicCache, PreTrainedConfig, PreTrainedModel

from kdnas import assets, data, gguf_teacher, places, teacher
from kdnas.atomic import write_atomically
from kdnas.data import Chunks, Frame, tokenizer_fingerprint
from kdnas.errors import BadOptionError, UsageError, first_line
from kdnas.kept import kept
from kdnas.loading import loading
from kdnas.recipes import decoders
from kdnas.recipes.contract import Description, Narrate, Recipe, Score, Student, Workbench
from kdnas.recipes.decoder_space import space_of
from kdnas.recipes.decoders import Shape, Worth, body_and_head
from kdnas.recipes.divergences import TokenLoss, head_loss
from kdnas.recipes.stepwise import Stepwise, draw
from kdnas.space import Candidate
from kdnas.spec import CausalDivergenceRecipe, CausalPolicyGradientRecipe, DataSpec, StudySpec, TeacherSpec

WEIGHTS = 1  # purpose of random numbers, beside those of stepwise.py
WORTH_CHUNKS = 16  # on which the importance of the teacher's parts is measured
SCORE_TOKENS = 2048
SEPARATOR = "\n\nTL;DR: "  # between a text and its summary, as GPT-2's authors prompted for one


# ---------------------------------------------------------------------------- teacher and text


@dataclass(frozen=True)
class CausalModel:
    """A frozen causal language model with its tokenizer."""

    name: str
    folder: Path
    model: PreTrainedModel
    tokenizer: Any
    fingerprint: str

    @property
    def config(self) -> PreTrainedConfig:
        return self.model.config

    @property
    def device(self) -> torch.device:
        return self.model.device

    def hidden(self, ids: Tensor) -> Tensor:
        """Hidden states under the vocabulary head, [rows, length, width]; bf16 autocast where the GPU has it."""
        body, _ = body_and_head(self.model)
        with torch.no_grad(), autocast(self.device):
            states: Tensor = body(input_ids=ids.to(self.device), use_cache=False).last_hidden_state
        return states

    def logits(self, hidden: Tensor) -> Tensor:
        """[n, width] → [n, vocabulary] in float32."""
        _, head = body_and_head(self.model)
        with torch.no_grad(), autocast(self.device):
            return cast(Tensor, head(hidden)).float()

    def next_logits(self, ids: Tensor) -> Tensor:
        """Of every position that has a successor: [rows, length] → [rows · (length − 1), vocabulary]."""
        return self.logits(self.hidden(ids)[:, :-1].flatten(0, 1))


def autocast(device: torch.device) -> torch.autocast:
    return torch.autocast(device.type, torch.bfloat16, enabled=teacher.autocasts(device))


def model_folder(spec: TeacherSpec, narrate: Narrate | None = None) -> Path:
    """The ordinary model folder of a teacher given by shipped name, hub id, folder, or GGUF file. Raises UsageError."""
    if spec.checkpoint is not None:
        folder = Path(spec.checkpoint).expanduser()
        if not folder.is_dir():
            raise UsageError(f"There is no checkpoint at {spec.checkpoint!r}.", "Give a fine-tuned model's folder.")
        return folder
    path = Path(spec.model).expanduser()
    if path.suffix == ".gguf" and path.is_file():
        return gguf_teacher.rebuilt(path, narrate)
    alone = gguf_teacher.gguf_file(path) if path.is_dir() else None
    if alone is not None:
        return gguf_teacher.rebuilt(alone, narrate)
    folder = teacher.locate(spec, narrate)
    file = gguf_teacher.gguf_file(folder) if spec.model in assets.ASSETS else None
    return folder if file is None else gguf_teacher.rebuilt(file, narrate)


def read_config(folder: Path, name: str) -> PreTrainedConfig:
    """The configuration of a causal model's folder. Raises UsageError for what is none that the recipes take."""
    if not (folder / "config.json").is_file():
        raise UsageError(f"The folder {folder} holds no config.json.", "Give the folder of a Hugging Face model.")
    try:
        config = AutoConfig.from_pretrained(folder)
    except (ValueError, OSError, KeyError, TypeError) as error:
        raise UsageError(
            f"The model {name!r} has a configuration that transformers does not read: {first_line(error)}.",
            f"Take a model of these families: {', '.join(decoders.FAMILIES)}.",
        ) from None
    decoders.shape(config)
    return cast(PreTrainedConfig, config)


def load(spec: TeacherSpec, device: torch.device, narrate: Narrate | None = None) -> CausalModel:
    """Load and freeze: fp32, eval. Raises UsageError for a model that cannot be one, or that lacks weights."""
    folder = model_folder(spec, narrate)
    name = spec.model if spec.checkpoint is None else spec.checkpoint
    config = read_config(folder, name)
    if narrate is not None:
        narrate(f"loading {name}", None)
    with loading(f"The weights of {name!r}", "Fetch the model again."):
        opened: Any = AutoModelForCausalLM.from_pretrained(
            folder, config=config, dtype=torch.float32, attn_implementation="sdpa", output_loading_info=True
        )
    model, report = opened
    if report["missing_keys"] or report["mismatched_keys"]:
        raise UsageError(
            f"The weights of {name!r} do not fit its configuration: {len(report['missing_keys'])} are missing.",
            "Give a complete checkpoint of a causal model.",
        )
    model.requires_grad_(False)
    model.eval()
    has_own = (folder / "tokenizer_config.json").is_file() or spec.checkpoint is None
    base = folder if has_own else model_folder(spec.model_copy(update={"checkpoint": None}), narrate)
    tokenizer = teacher.open_tokenizer(base, name)
    if len(tokenizer) > config.vocab_size:
        raise UsageError(
            f"The tokenizer of {name!r} has {len(tokenizer):,} tokens, the model only {config.vocab_size:,}.",
            "Give the tokenizer that the model was trained with.",
        )
    return CausalModel(name, folder, model.to(device), tokenizer, teacher.fingerprint(model, config, tokenizer))


def same_vocabulary(one: CausalModel, other: CausalModel) -> None:
    """Raise UsageError where two models do not mean the same by a token id."""
    ours, theirs = one.config.vocab_size, other.config.vocab_size
    if ours != theirs:
        raise UsageError(
            f"The teacher {one.name!r} has a vocabulary of {ours:,} tokens, the student {other.name!r} of {theirs:,}.",
            "Distillation on tokens needs two models of the same tokenizer.",
        )
    if tokenizer_fingerprint(one.tokenizer) != tokenizer_fingerprint(other.tokenizer):
        raise UsageError(
            f"The teacher {one.name!r} and the student {other.name!r} split text differently.",
            "Distillation on tokens needs two models of the same tokenizer.",
        )


def chunks(spec: StudySpec, tokenizer: Any, vocabulary: int, narrate: Narrate) -> tuple[Chunks, Tensor]:
    """Fixed chunks of the joined text, the end-of-text token between documents; where `data.label_column` is given, a
    document is the text, `SEPARATOR` and the label (a summary). With them how often each token stands in the training
    text before `data.limit` shortens it, int64 [vocabulary]. Raises UsageError for too little text."""
    documents = read_documents(spec.data, narrate)
    tokens = data.tokenise(documents, tokenizer, narrate)
    frame = Frame(None, end_of_text(tokenizer), None)
    whole = data.cut(tokens, documents, spec.data.model_copy(update={"limit": None}), 1.0, frame)
    counts = torch.from_numpy(np.bincount(whole.train.ravel(), minlength=vocabulary))
    return data.cut(tokens, documents, spec.data, spec.budget.proxy_fraction, frame), counts


def read_documents(source: DataSpec, narrate: Narrate | None = None) -> data.Documents:
    """Texts, with their summaries after SEPARATOR where `label_column` is given. Raises UsageError."""
    documents = data.read(source, labelled=source.label_column is not None, say=narrate)
    if documents.labels is None:
        return documents
    texts = [f"{text}{SEPARATOR}{label}" for text, label in zip(documents.texts, documents.labels, strict=True)]
    return data.Documents(documents.name, texts, f"{documents.fingerprint}-pairs", None, documents.groups)


def end_of_text(tokenizer: Any) -> int:
    """The token between documents: `<|endoftext|>` where there is one, else the tokenizer's end of sequence."""
    found = tokenizer.convert_tokens_to_ids("<|endoftext|>")
    if isinstance(found, int) and found not in (None, tokenizer.unk_token_id):
        return found
    if tokenizer.eos_token_id is not None:
        return int(tokenizer.eos_token_id)
    return 0 if found is None else int(found)


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
        own = decoders.shape(config)
        check_lengths(spec, own)
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
        return Description(
            space_of(spec.space, base),
            facts,
            cache_bytes_per_token=self.cache_bytes(spec),
            flops_per_token=lambda point: decoders.flops(decoders.student_config(base, point), spec.data.length),
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


def causal_part(spec: StudySpec) -> CausalDivergenceRecipe | CausalPolicyGradientRecipe:
    assert isinstance(spec.recipe, CausalDivergenceRecipe | CausalPolicyGradientRecipe)
    return spec.recipe


def _student_spec(name: str) -> TeacherSpec:
    return TeacherSpec(model=name)  # type: ignore[call-arg]


def check_lengths(spec: StudySpec, own: Shape) -> None:
    for field, length in (("data.length", spec.data.length), ("latency.length", spec.latency.length)):
        if length > own.positions:
            raise BadOptionError(
                field,
                f"{field} = {length} is more than the teacher's {own.positions} positions.",
                f"Give at most {own.positions}.",
            )


@dataclass(frozen=True)
class Yardsticks:
    """Cross-entropies of the held-out text in nats per token: what a student is measured between."""

    teacher: float
    unigram: float


class CausalBench(Workbench):
    """Teacher, chunks and yardsticks, shared by all candidates of a process."""

    def __init__(self, spec: StudySpec, device: torch.device, narrate: Narrate) -> None:
        self.spec, self.device, self.narrate = spec, device, narrate
        self.recipe = causal_part(spec)
        own_device = device if spec.teacher.device is None else torch.device(spec.teacher.device)
        self.teacher = load(spec.teacher, own_device, narrate)
        self.base = self.teacher
        if self.recipe.student is not None:
            self.base = load(_student_spec(self.recipe.student), torch.device("cpu"), narrate)
            same_vocabulary(self.teacher, self.base)
        check_lengths(spec, decoders.shape(self.teacher.config))
        check_lengths(spec, decoders.shape(self.base.config))
        self.space = space_of(spec.space, self.base.config)
        self.chunks, self._counts = chunks(spec, self.teacher.tokenizer, self.vocabulary, narrate)
        self.proxy_ids = torch.from_numpy(self.chunks.proxy)
        self.held_ids = torch.from_numpy(self.chunks.held_out)
        unigram = unigram_loss(self._counts, self.held_ids)
        self.yardsticks = Yardsticks(self._teacher_loss(), unigram)
        if self.yardsticks.teacher >= self.yardsticks.unigram:
            raise UsageError(
                f"The teacher {self.teacher.name!r} predicts {spec.data.source!r} no better than word counts do "
                f"({self.yardsticks.teacher:.2f} nats a token against {self.yardsticks.unigram:.2f}).",
                "Give a teacher of this language and kind of text, or fine-tune it first.",
            )
        self._worth: Worth | None = None
        rng = np.random.default_rng(np.random.SeedSequence([0, 4]))
        shape = (spec.latency.batch_size, spec.latency.length)
        self._timed_ids = torch.from_numpy(rng.choice(self.chunks.train[:64].reshape(-1), size=shape)).to(device)

    @property
    def vocabulary(self) -> int:
        return int(self.teacher.config.vocab_size)

    def _train_ids(self) -> Tensor:
        return torch.from_numpy(self.chunks.train)

    def _teacher_loss(self) -> float:
        """Kept on disk: it is the same for every worker and study."""
        fingerprint = f"{self.teacher.fingerprint}-{ids_fingerprint(self.held_ids)}"
        path = places.cache_folder() / "causal" / f"{fingerprint}.json"
        if path.is_file():
            return float(json.loads(path.read_text(encoding="utf-8"))["cross_entropy"])
        self.narrate("scoring the teacher on the held-out part", None)
        found = cross_entropy(self.teacher.model, self.held_ids)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, json.dumps({"cross_entropy": found}))
        return found

    def worth(self) -> Worth:
        """The importance of the parts of the model that students are cut from, kept beside the caches.

        Kept because it ranks: two workers whose sums differ in the last bit must still cut the same student.
        """
        if self._worth is None:
            sample = self.proxy_ids[:WORTH_CHUNKS]
            folder = places.cache_folder() / "teacher" / "importance"
            path = folder / f"{self.base.fingerprint}-{ids_fingerprint(sample)}.safetensors"

            def weigh() -> dict[str, Tensor]:
                self.narrate("weighing the teacher's parts", None)
                return decoders.worth(self.base.model, sample).tensors()

            self._worth = Worth(**kept(path, weigh))
        return self._worth

    def config(self, candidate: Candidate) -> dict[str, Any]:
        return dict(decoders.student_config(self.base.config, candidate).to_dict())

    def build(self, candidate: Candidate, seed: int) -> Student:
        config = decoders.student_config(self.base.config, candidate)
        if self.recipe.init == "inherit":
            model = decoders.inherited(self.base.model, config, self.worth())
        else:
            model = decoders.fresh(config, draw(seed, WEIGHTS, 0))
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

    def timed(self, student: Student | None) -> Callable[[], None]:
        """One forward pass of the spec's length that ends in the next token's logits."""
        model = self._timed_model(student)

        def once() -> None:
            with torch.inference_mode(), autocast(self.device):
                model(input_ids=self._timed_ids, use_cache=False, logits_to_keep=1)

        return once

    def asides(self, student: Student | None) -> dict[str, Callable[[], None]]:
        return {"token_ms": self.timed_token(student)}

    def timed_token(self, student: Student | None) -> Callable[[], None]:
        """One generated token after a text of the spec's length, with the key-value cache."""
        model = self._timed_model(student)
        past = DynamicCache(config=model.config)
        with torch.inference_mode(), autocast(self.device):
            model(input_ids=self._timed_ids, past_key_values=past, logits_to_keep=1)
        token = self._timed_ids[:, -1:]

        def once() -> None:
            with torch.inference_mode(), autocast(self.device):
                model(input_ids=token, past_key_values=past, logits_to_keep=1)
                past.crop(-1)

        return once

    def _timed_model(self, student: Student | None) -> PreTrainedModel:
        model = self.teacher.model if student is None else cast(PreTrainedModel, student.body)
        model.eval()
        return model

    def shape_key(self, candidate: Candidate | None) -> str:
        config = self.teacher.config if candidate is None else decoders.student_config(self.base.config, candidate)
        own = decoders.shape(config)
        keep = {
            "family": config.model_type,
            "causal": True,
            "layers": own.layers,
            "width": own.width,
            "heads": own.heads,
            "key_value_heads": own.key_value_heads,
            "inner": own.inner,
            "act": own.activation,
            "vocabulary": own.vocabulary,
            "batch": list(self._timed_ids.shape),
            "bf16": teacher.autocasts(self.device),
        }
        return json.dumps(keep, sort_keys=True)

    def save(self, student: Student, folder: Path) -> None:
        """The whole causal model and its tokenizer."""
        model = cast(PreTrainedModel, student.body)
        folder.mkdir(parents=True, exist_ok=True)
        if self.teacher.model.generation_config is not None:
            model.generation_config = self.teacher.model.generation_config
        model.save_pretrained(folder)
        self.teacher.tokenizer.save_pretrained(folder)

    def provenance(self) -> dict[str, Any]:
        facts = {
            "teacher": self.teacher.name,
            "teacher_fingerprint": self.teacher.fingerprint,
            "data": self.spec.data.source,
            "data_fingerprint": self.chunks.fingerprint,
            "documents": self.chunks.documents,
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


def ids_fingerprint(ids: Tensor) -> str:
    digest = hashlib.sha256(json.dumps(list(ids.shape)).encode())
    digest.update(ids.contiguous().numpy().data)
    return digest.hexdigest()[:32]


@torch.inference_mode()
def cross_entropy(model: PreTrainedModel, ids: Tensor) -> float:
    """Mean cross-entropy of every next token of the chunks [chunks, length], in nats, in eval mode."""
    training = model.training
    model.eval()
    body, head = body_and_head(model)
    device = model.device
    total = 0.0
    for part in ids.split(max(1, SCORE_TOKENS // ids.shape[1])):
        part = part.to(device)
        labels = part[:, 1:].flatten()
        with autocast(device):
            hidden = body(input_ids=part, use_cache=False).last_hidden_state[:, :-1].flatten(0, 1)
            total += float(head_loss(hidden, head.weight, hard_loss(labels), bias=head.bias))
    model.train(training)
    return total / (len(ids) * (ids.shape[1] - 1))


def hard_loss(labels: Tensor) -> TokenLoss:
    """Cross-entropy with the labels [n]."""
    return lambda logits, rows: F.cross_entropy(logits.float(), labels[rows], reduction="none")


def unigram_loss(counts: Tensor, held_out: Tensor) -> float:
    """Cross-entropy in nats of the next held-out token under the shares of counts [vocabulary], one added to each."""
    added = counts.double() + 1.0
    return float(-(added.log() - log(float(added.sum())))[held_out[:, 1:].flatten()].mean())


# ---------------------------------------------------------------------------- training


class CausalTraining(Stepwise):
    """Steps over chunks; a recipe's subclass says what a step's loss is."""

    def __init__(self, bench: CausalBench, student: Student, ids: Tensor, epochs: int, seed: int) -> None:
        self.ids, self.model = ids, cast(PreTrainedModel, student.body)
        super().__init__(bench, student, len(ids), epochs, seed)

    def undecayed(self) -> list[torch.nn.Parameter]:
        return list(self.model.get_input_embeddings().parameters())

    def batches(self, generator: np.random.Generator) -> Sequence[Tensor]:
        order = torch.from_numpy(generator.permutation(len(self.ids)))
        return order.split(min(self.bench.spec.data.batch_size, len(self.ids)))

    def tokens(self, rows: Tensor) -> int:
        return len(rows) * (self.ids.shape[1] - 1)
