"""A small recurrent classifier that learns from a teacher's logits, its own labels and the teacher's surest class.

Loss of an example: soft · T² · KL(teacher ‖ student at temperature T) + hard · cross-entropy with the label
+ sequence · cross-entropy with the teacher's most confident class. Students are built in recurrent.py; what makes a
finished one smaller is in smaller.py.
"""

from __future__ import annotations

import io
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from kdnas.measuring import device_lock, latency
from kdnas.measuring.passes import DtypeError
from kdnas.models import compression, recurrent, word_vectors
from kdnas.models.compression import Masks
from kdnas.models.own_code import carried
from kdnas.models.recurrent import CELLS, HEAD, RECURRENT, RecurrentConfig, RecurrentForSequenceClassification
from kdnas.models.tokenizer import count_ids
from kdnas.recipes import classifiers
from kdnas.recipes.classifiers import ClassifierBench, ClassifierTraining
from kdnas.recipes.contract import Description, Recipe
from kdnas.recipes.spaces.narrowing import choices_of, dimension, require_whole
from kdnas.recipes.spaces.parameter_count import ParameterCount
from kdnas.study.space import Candidate, SearchSpace, Value
from kdnas.study.spec import SpaceSpec, StudySpec
from kdnas.study.spec_recipes import RnnHybridRecipe
from kdnas.system import seeds
from kdnas.system.errors import BadOptionError, nearest
from kdnas.system.progress import Progress
from kdnas.teachers.classifier import figures
from kdnas.training.contract import Score, Student
from kdnas.training.losses import soft_labels

MODULE = "modeling_recurrent.py"  # in every folder written: the student's classes
TIGHTENINGS = 20  # of the masks, all within the first epoch
RECOVERY = 2  # epochs that a student without some of its units learns on
PROFILED = 20  # passes
SMALLER = "smaller"  # folder of that student, below the other's
CHOICES: dict[str, tuple[Value, ...]] = {
    "cell": CELLS,
    "num_hidden_layers": (1, 2, 3),
    "hidden_size": (32, 64, 96, 128, 192, 256),
    "embedding_size": (64, 128, 192, 256),
    "bidirectional": (False, True),
    "dropout": (0.1, 0.3, 0.5),
    "pruned": (0.0, 0.3, 0.5, 0.7),
}
LIMITS = {"num_hidden_layers": 12, "hidden_size": 4096, "embedding_size": 4096}


def space_of(spec: SpaceSpec) -> SearchSpace:
    """The choices above, or the spec's. Raises UsageError for a dimension or value that it cannot have."""
    choices = {**CHOICES, **{name: _checked(name, values) for name, values in choices_of(spec, tuple(CHOICES)).items()}}
    if "transformer" in choices["cell"]:
        odd = next((size for size in choices["hidden_size"] if int(size) % HEAD), None)
        if odd is not None:
            raise BadOptionError(
                "space.choices.hidden_size",
                f"hidden_size = {odd} is no multiple of {HEAD}, the width of a transformer cell's heads.",
                "Give multiples of it, or leave transformer out of space.choices.cell.",
            )
    recurrent_cells = tuple(cell for cell in choices["cell"] if cell in RECURRENT)
    made = []
    for name, values in choices.items():
        when = None
        if name == "bidirectional":
            if not recurrent_cells:
                continue
            when = ("cell", recurrent_cells) if len(recurrent_cells) < len(choices["cell"]) else None
        ordered = name not in ("cell", "bidirectional")
        made.append(dimension(name, values, ordered=ordered, when=when))
    return SearchSpace(tuple(made))


def _checked(name: str, values: tuple[Value, ...]) -> tuple[Value, ...]:
    field = f"space.choices.{name}"
    if name == "bidirectional":
        for value in values:
            if value not in (0, 1):
                raise BadOptionError(field, f"{name} = {value!r} is neither true nor false.", "Give true or false.")
        return tuple(bool(value) for value in values)
    for value in values:
        if name == "cell":
            if value not in CELLS:
                raise BadOptionError(field, f"cell = {value!r} is not known.", nearest(str(value), CELLS))
        elif name in LIMITS:
            require_whole(name, value, LIMITS[name])
        elif isinstance(value, bool | str) or not 0 <= value < 1:
            raise BadOptionError(field, f"{name} = {value!r} is out of range.", "Give a number from 0 to below 1.")
    return tuple(values) if name == "cell" or name in LIMITS else tuple(float(value) for value in values)


def flops(candidate: Candidate, length: int) -> float:
    """Of one token in a forward pass."""
    cell, size = str(candidate["cell"]), int(candidate["hidden_size"])
    directions = 2 if cell in RECURRENT and candidate.get("bidirectional") else 1
    inputs, total = int(candidate["embedding_size"]), 0
    for _ in range(int(candidate["num_hidden_layers"])):
        if cell in RECURRENT:
            total += directions * (4 if cell == "lstm" else 3) * size * (inputs + size)
        elif cell == "convolution":
            total += recurrent.KERNEL * inputs * size
        else:
            total += 8 * size * size + 2 * length * size + (inputs * size if inputs != size else 0)
        inputs = size * directions
    return 2.0 * (total + inputs * size)


class RnnHybrid(Recipe):
    """Builds search spaces and workbenches for small recurrent classifiers."""

    name = "rnn-hybrid"
    summary = "A small recurrent network with attention that learns to classify from an encoder"
    families = (RecurrentConfig.model_type,)

    def describe(self, spec: StudySpec) -> Description:
        _, facts = classifiers.described(spec)
        part = part_of(spec)
        notes = []
        if part.embeddings == "word2vec":
            notes.append("Embeddings begin as Word2Vec on the training text (package gensim).")
        return Description(
            space_of(spec.space),
            facts,
            notes=tuple(notes),
            flops_per_token=lambda candidate: flops(candidate, spec.data.length),
        )

    def in_words_of_the_space(self, spec: StudySpec, config: Mapping[str, Any]) -> Mapping[str, Any]:
        """What a finished student's config.json lacks: how much of it was pruned, and that cells without directions
        have none."""
        return {"pruned": 0.0, "bidirectional": False, **config}

    def prepare(self, spec: StudySpec, device: torch.device, on_progress: Progress) -> RnnBench:
        return RnnBench(spec, device, on_progress)


def part_of(spec: StudySpec) -> RnnHybridRecipe:
    assert isinstance(spec.recipe, RnnHybridRecipe)
    return spec.recipe


class RnnBench(ClassifierBench):
    """Beside what classifiers share: the embedding rows of the training text and the vectors that they begin with."""

    def __init__(self, spec: StudySpec, device: torch.device, on_progress: Progress) -> None:
        super().__init__(spec, device, on_progress)
        self.part = part_of(spec)
        self.space = space_of(spec.space)
        self.rows = word_vectors.rows_of(self.text.train, count_ids(self.source.tokenizer))
        self._vectors: dict[int, word_vectors.Vectors] = {}
        self._counted: ParameterCount | None = None

    def vectors(self, size: int) -> word_vectors.Vectors | None:
        """The first embeddings [rows, size]; None where students begin with fresh ones."""
        if self.part.embeddings == "random":
            return None
        if size not in self._vectors:
            if self.part.embeddings == "teacher":
                table: Tensor = self.teacher.model.get_input_embeddings().weight  # type: ignore[operator]
                self._vectors[size] = word_vectors.inherited(table.detach().cpu(), self.rows, size)
            else:
                self._vectors[size] = word_vectors.word2vec(self.text.train, self.rows, size, self.on_progress)
        return self._vectors[size]

    def configuration(self, candidate: Candidate) -> RecurrentConfig:
        return RecurrentConfig(
            cell=str(candidate["cell"]),
            vocab_size=len(self.rows.row_of),
            rows=self.rows.count,
            embedding_size=int(candidate["embedding_size"]),
            hidden_size=int(candidate["hidden_size"]),
            num_hidden_layers=int(candidate["num_hidden_layers"]),
            bidirectional=bool(candidate.get("bidirectional", False)),
            dropout=float(candidate["dropout"]),
            max_position_embeddings=max(self.spec.data.length, self.spec.latency.length),
            pad_token_id=self.text.pad_id,
            id2label=self.text.id2label,
            label2id={name: i for i, name in self.text.id2label.items()},
        )

    def config(self, candidate: Candidate) -> dict[str, Any]:
        values: dict[str, Any] = self.configuration(candidate).to_diff_dict()
        return {"model_type": RecurrentConfig.model_type, **json.loads(json.dumps(values, default=str))}

    def parameters(self, candidate: Candidate) -> int:
        if self._counted is None:

            def count(point: Candidate) -> int:
                with torch.device("meta"):
                    return Student(RecurrentForSequenceClassification(self.configuration(point))).size

            self._counted = ParameterCount(self.space, count, linear=(), without=("dropout", "pruned"))
        return self._counted(candidate)

    def build(self, candidate: Candidate, seed: int) -> Student:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seeds.number(seed, seeds.Student.WEIGHTS))
            body = RecurrentForSequenceClassification(self.configuration(candidate))
        body.row_of.copy_(self.rows.row_of)
        vectors = self.vectors(int(candidate["embedding_size"]))
        if vectors is not None:
            with torch.no_grad():
                body.embeddings.weight.copy_(vectors.table)
        body.to(self.device)  # type: ignore[arg-type]
        return Student(body, Masks(body, float(candidate["pruned"])).to(self.device))

    def training(self, student: Student, *, epochs: int, seed: int, full: bool = False) -> HybridTraining:
        return HybridTraining(self, student, epochs, seed, full=full)

    def score(self, student: Student) -> Score:
        found = super().score(student)
        return Score(found.loss, found.raw_loss, {**found.extra, "nonzero": float(compression.nonzero(student.body))})

    def shape_key(self, candidate: Candidate | None) -> str:
        keep: dict[str, Any] = {"teacher": self.teacher_shape()}
        if candidate is not None:
            values = {k: v for k, v in self.space.canonical(candidate).items() if k not in ("pruned", "dropout")}
            keep["student"] = {**values, "rows": self.rows.count}
        return json.dumps(keep, sort_keys=True)

    def save(self, student: Student, folder: Path) -> None:
        """The network, the module that opens it without kdnas, and the teacher's tokenizer."""
        write(_body(student), self.source.tokenizer, folder)

    def provenance(self) -> dict[str, Any]:
        found = {str(size): vectors.found for size, vectors in self._vectors.items()}
        return {
            **super().provenance(),
            "embeddings": self.part.embeddings,
            "embedding_rows": self.rows.count,
            **({"vectors_found": found} if found else {}),
        }

    # -------------------------------------------------------------------- a finished student

    def finished(self, student: Student, folder: Path, on_progress: Progress) -> dict[str, Any]:
        """Beside the scores: `forms`, the student as it is, in int8 and without some of its hidden units, each with
        size, latency and scores; `efficiency`, student and teacher under torch's profiler."""
        found = super().finished(student, folder, on_progress)
        body = _body(student)
        forms = [self._form("as trained", body)]
        if self.device.type == "cpu":
            on_progress("measuring the student in int8", None)
            forms.append(self._form("int8", self._int8(body), body))
        if self.part.remove:
            on_progress(f"taking {self.part.remove:.0%} of the hidden units out", None)
            less = Student(compression.narrowed(body, self.part.remove))
            forms.append(self._form("fewer units, as cut", _body(less)))
            self._recover(less)
            forms.append(self._form("fewer units, learned on", _body(less)))
            write(_body(less), self.source.tokenizer, folder / SMALLER)
            if self.device.type == "cpu":
                forms.append(self._form("fewer units, in int8", self._int8(_body(less)), _body(less)))
        on_progress("profiling student and teacher", None)
        return {
            **found,
            "forms": forms,
            "efficiency": {"student": self._profile(body), "teacher": self._profile(self.teacher.model)},
        }

    def _recover(self, less: Student) -> None:
        """A few epochs of the same distillation, from the weights that were left."""
        less.aids = Masks(less.body, 0.0)  # what was pruned may grow again: there are few weights left
        seed = seeds.number(self.spec.seed, seeds.Student.WEIGHTS, 1)
        training = HybridTraining(self, less, RECOVERY, seed, full=True)
        for _ in range(RECOVERY):
            with device_lock.Turn(self.device) as turn:  # other workers may measure between the steps
                training.run_epoch(lambda *_: turn.step())

    def _int8(self, body: RecurrentForSequenceClassification) -> torch.nn.Module:
        with device_lock.Turn(self.device):
            return compression.int8(body)

    def _form(self, name: str, body: torch.nn.Module, of: torch.nn.Module | None = None) -> dict[str, Any]:
        """Size, latency and scores of one form; a quantised one is counted by what it was made `of`."""
        counted = body if of is None else of
        body.eval()
        found: dict[str, Any] = {
            "form": name,
            "parameters": sum(p.numel() for p in counted.parameters()),
            "zeros": compression.zeros(counted),
            "mib": stored_mib(body),
            **self._form_timed(body),
        }
        for part in ("held_out", "test"):
            examples = getattr(self.text, part)
            if len(examples):
                found[part] = figures(self.student_logits(body, examples), examples.labels)
        return found

    def _form_timed(self, body: torch.nn.Module) -> dict[str, Any]:
        """Latency and speed-up of one form; none, and why, where it cannot be in the dtype of the study."""
        try:
            once = self.pass_of(body)
        except DtypeError as error:
            return {"latency_ms": None, "speedup": None, "flag": f"not timed: {error.problem}"}
        timed = latency.measure(once, self.timed(None), self.spec.latency, self.device)
        return {"latency_ms": timed.p50, "speedup": timed.teacher_p50 / timed.p50, "flag": timed.flag}

    def _profile(self, body: torch.nn.Module) -> dict[str, Any]:
        """CPU and device time of one pass in ms, and the memory that one pass asks for in MiB, by torch's profiler."""
        os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # else it tells of itself on standard error
        from torch.profiler import ProfilerActivity, profile

        once, cuda = self.pass_of(body), self.device.type == "cuda"
        body.eval()
        activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if cuda else [])]
        with device_lock.Turn(self.device):
            for _ in range(3):
                once()
            with profile(activities=activities, profile_memory=True) as seen:
                for _ in range(PROFILED):
                    once()
        rows = seen.key_averages()
        asked = sum(max(0, row.self_device_memory_usage if cuda else row.self_cpu_memory_usage) for row in rows)
        return {
            "cpu_ms": sum(row.self_cpu_time_total for row in rows) / 1000 / PROFILED,
            "cuda_ms": sum(row.self_device_time_total for row in rows) / 1000 / PROFILED if cuda else None,
            "memory_mib": asked / PROFILED / 2**20,
            "parameters": sum(p.numel() for p in body.parameters()),
            "nonzero": compression.nonzero(body),
            "mib": stored_mib(body),
            "passes": PROFILED,
        }


def _body(student: Student) -> RecurrentForSequenceClassification:
    return cast(RecurrentForSequenceClassification, student.body)


def stored_mib(body: torch.nn.Module) -> float:
    """What the weights take on a disk, in MiB."""
    counter = io.BytesIO()
    torch.save(body.state_dict(), counter)  # in memory only, and the one way to weigh quantised weights
    return counter.getbuffer().nbytes / 2**20


def write(body: RecurrentForSequenceClassification, tokenizer: Any, folder: Path) -> None:
    """A model folder that opens with `trust_remote_code=True` alone, and without the flag where kdnas is imported."""
    folder.mkdir(parents=True, exist_ok=True)
    classes = {"AutoConfig": RecurrentConfig, "AutoModelForSequenceClassification": RecurrentForSequenceClassification}
    body.config.auto_map = carried(folder, recurrent, MODULE, classes)
    body.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


class HybridTraining(ClassifierTraining):
    """Distillation by the hybrid loss; weights that are pruned are at zero from the end of the first epoch on, so that
    every epoch's student is as sparse as it will be."""

    def __init__(self, bench: RnnBench, student: Student, epochs: int, seed: int, *, full: bool) -> None:
        self.part = bench.part
        super().__init__(bench, student, epochs, seed, full=full, soft=bool(bench.part.soft or bench.part.sequence))

    def decays(self, name: str, parameter: torch.nn.Parameter) -> bool:
        return parameter is not _body(self.student).embeddings.weight

    def loss(self, logits: Tensor, labels: Tensor, teacher_logits: Tensor | None) -> Tensor:
        return soft_labels.hybrid(
            logits,
            labels,
            teacher_logits,
            weights=(self.part.soft, self.part.hard, self.part.sequence),
            temperature=self.part.temperature,
        )

    def after_step(self, step: int, count: int) -> None:
        masks = self.student.aids
        assert isinstance(masks, Masks)
        if not masks.share:
            return
        every = max(1, count // TIGHTENINGS)
        if step < count and ((step + 1) % every == 0 or step + 1 == count):
            masks.tighten((step + 1) / count)
        else:
            masks.apply_to_weights()
