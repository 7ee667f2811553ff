"""Students of a sentence encoder whose embeddings are its teacher's: closed-form first, judged by the embedding.

Built as the students of hidden_state.py. Least squares then bring a student's pooled states to the teacher's
embeddings. Its loss is about these alone, and so a training may end with the student as it was built.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from kdnas.data import shipped
from kdnas.measuring import memory
from kdnas.measuring.device_lock import Turn
from kdnas.measuring.metrics import spearman
from kdnas.models import open as opening
from kdnas.models import sentence_layout, static_encoder
from kdnas.models.encoders import Sizes
from kdnas.models.sentence_layout import Dense, Layout
from kdnas.recipes import static_students, teacher_space
from kdnas.recipes.contract import Description
from kdnas.recipes.hidden_state import HiddenState, HiddenStateBench
from kdnas.recipes.sentence_embedding_training import IntoTheSpace, SentenceEmbeddingTraining, into
from kdnas.recipes.static_students import SolvedOnce, Table, table_of
from kdnas.recipes.teacher_space import Lesson, TeacherSpace, Texts
from kdnas.study.layer_words import KIND, STATIC, is_static
from kdnas.study.space import Candidate
from kdnas.study.spec import StudySpec, from_values
from kdnas.study.spec_recipes import SentenceEmbeddingRecipe
from kdnas.system import fingerprint
from kdnas.system.errors import BadOptionError, UsageError
from kdnas.system.progress import Progress
from kdnas.teachers import embeddings_cache, encoder
from kdnas.teachers.hidden_state_cache import HiddenStates
from kdnas.training.contract import Score, Student, Training
from kdnas.training.losses import embeddings

ALIKE = 1e-6  # of the largest number: what embeddings that are the same differ by
PAIRED = 512  # most held-out chunks of which all pairs are compared


def _require_layout(spec: StudySpec, folder: Path) -> Layout:
    """The layout of a teacher in a folder. Raises UsageError for one that has none, or none that a student can follow,
    and for chunks that are longer than what it takes of a text."""
    name = spec.teacher.checkpoint or spec.teacher.model
    try:
        found = sentence_layout.read(folder, name)
    except UsageError as error:
        raise UsageError(
            error.problem, "Take the recipe hidden-state with --for transformers, or another teacher."
        ) from None
    if found is None:
        raise UsageError(
            f"The teacher {name!r} is no sentence encoder: it has no {sentence_layout.MODULES}, which says how an "
            "embedding is made.",
            "Give a folder or an id of sentence-transformers, or take the recipe hidden-state.",
        )
    longest = found.max_seq_length
    if longest is not None and spec.data.length > longest:
        raise BadOptionError(
            "data.length",
            f"data.length = {spec.data.length} is more than the {longest} tokens that {name!r} takes of a text.",
            f"Give at most {longest}.",
        )
    return found


class SentenceEmbedding(HiddenState):
    """Builds search spaces and workbenches for students of sentence encoders."""

    name = "sentence-embedding"
    summary = "The embeddings of a sentence encoder, solved by least squares"

    families = (*HiddenState.families, STATIC)

    def describe(self, spec: StudySpec) -> Description:
        """Raises UsageError for a teacher that is no sentence encoder, where its folder is here already."""
        found = super().describe(spec)
        chosen = spec.teacher.checkpoint or spec.teacher.model
        folder = (
            opening.locate(spec.teacher, config_only=True) if chosen in shipped.ASSETS else Path(chosen).expanduser()
        )
        layout = _require_layout(spec, folder) if (folder / "config.json").is_file() else None
        if STATIC not in spec.space.choices.get(KIND, ()):
            return found
        config, _ = encoder.read_config(spec.teacher)
        # How wide its embeddings are, a model says that is not here yet.
        size = None if layout is None else int(config.vocab_size) * layout.width(found.teacher["width"])
        flops, parameters = found.flops_per_token, found.parameters
        assert flops is not None and parameters is not None
        return replace(
            found,
            flops_per_token=lambda one: 2.0 * found.teacher["width"] if is_static(one) else flops(one),
            parameters=None if size is None else lambda one: size if is_static(one) else parameters(one),
        )

    def in_words_of_the_space(self, spec: StudySpec, config: Mapping[str, Any]) -> Mapping[str, Any]:
        """A static student is given by its kind alone: the sizes that it lacks stand for nothing."""
        if not (is_static(dict(config)) or config.get("model_type") == STATIC):
            return super().in_words_of_the_space(spec, config)
        values = spec.model_dump(mode="json")
        values["space"] = {"choices": {KIND: [STATIC]}}
        return {**self.describe(from_values(values)).space.from_ordinal(0), **config, KIND: STATIC}

    def prepare(self, spec: StudySpec, device: torch.device, on_progress: Progress) -> SentenceEmbeddingBench:
        folder = Path(spec.teacher.checkpoint).expanduser() if spec.teacher.checkpoint else None
        _require_layout(spec, folder or opening.locate(spec.teacher, on_progress))
        return SentenceEmbeddingBench(spec, device, on_progress)


class SentenceEmbeddingBench(HiddenStateBench):
    """Beside what hidden states need: the teacher's embeddings of training text and of the held-out part."""

    def __init__(self, spec: StudySpec, device: torch.device, on_progress: Progress) -> None:
        super().__init__(spec, device, on_progress)
        assert isinstance(spec.recipe, SentenceEmbeddingRecipe)
        self.part = spec.recipe
        layout = self.sentence_layout()
        assert layout is not None
        self.layout = layout
        on_progress("asking the teacher for its embeddings", None)
        self._taught: tuple[HiddenStates, tuple[Lesson, ...]] | None = None
        wanted = torch.cat([one.wanted for one in self.lessons_of(self.proxy)])
        self.constant = embeddings.best_constant(wanted, layout.normalised)
        self._scored = Texts(self._held_ids)
        self._held = self._kept(self._held_ids, "whole", [self._scored], self._held_lesson)[0]
        self._require_embeddings()

    def _require_embeddings(self) -> None:
        """Raise UsageError where there is nothing to learn: no numbers, or one embedding of all texts."""
        taught = (*self.lessons_of(self.proxy), self._held)
        if not all(bool(one.wanted.isfinite().all()) for one in taught):
            raise UsageError(
                f"The teacher {self.teacher.name!r} gives embeddings that are not finite numbers.",
                "Check the weights of its dense modules.",
            )
        wanted = self._held.wanted
        if float((wanted - wanted.mean(0)).abs().max()) <= ALIKE * max(float(wanted.abs().max()), ALIKE):
            raise UsageError(
                f"The teacher {self.teacher.name!r} gives all held-out texts the same embedding.",
                "Check its weights, and that the text is of more than one passage.",
            )

    def _kept(
        self, ids: Tensor, what: str, parts: Sequence[Texts], make: Callable[[int], tuple[Lesson, ...]]
    ) -> tuple[Lesson, ...]:
        """The lessons of the `parts`, whose chunks are `ids` and whose beginnings `what` names: from the disk, or made,
        so many rows at a time."""

        def wanted() -> list[Tensor]:
            with Turn(self.device):
                return [one.wanted for one in memory.whole(teacher_space.BATCH, self.device, make)]

        found = embeddings_cache.embeddings_of(self.teacher, self.layout, ids, what, wanted)
        return tuple(Lesson(part, made) for part, made in zip(parts, found, strict=True))

    def _held_lesson(self, rows: int) -> tuple[Lesson, ...]:
        known = partial(self.last, self.held_out)
        return (teacher_space.lesson(self.layout, self.teacher.body, self._scored, known, rows),)

    def lessons_of(self, states: HiddenStates) -> tuple[Lesson, ...]:
        """What a student's layer is solved from, on the chunks of `states`; kept for the next student."""
        if self._taught is None or self._taught[0] is not states:
            parts = teacher_space.parted(states.ids, self.chunks.beginnings)
            begun = [ids.tolist() for part in parts for ids in part.begun]
            what = f"parted {fingerprint.digest(begun)}"
            made = self._kept(states.ids, what, parts, partial(self._lessons, self.layout, states))
            self._taught = states, made
        return self._taught[1]

    def aids(self, sizes: Sizes) -> IntoTheSpace:
        pooled = len(self.layout.pooling) * sizes.width
        return IntoTheSpace(sizes.layers, sizes.width, 2 * self.own.width, pooled, len(self.constant))

    def config(self, candidate: Candidate) -> dict[str, Any]:
        if is_static(candidate):
            size = int(self.teacher.config.vocab_size)
            return {"model_type": STATIC, "vocab_size": size, "hidden_size": len(self.constant)}
        return super().config(candidate)

    def parameters(self, candidate: Candidate) -> int:
        if is_static(candidate):
            return int(self.teacher.config.vocab_size) * len(self.constant)
        return super().parameters(candidate)

    def build(self, candidate: Candidate, seed: int) -> Student:
        """A static student is solved by its training, which solves and no more."""
        return self._table() if is_static(candidate) else super().build(candidate, seed)

    def build_in_full(self, candidate: Candidate, seed: int) -> Student:
        if is_static(candidate):
            self.fitted_tokens = static_students.solved_on(self.chunks.train).numel()
            return self._table()
        return super().build_in_full(candidate, seed)

    def probe(self, candidate: Candidate) -> Student:
        return self._table() if is_static(candidate) else super().probe(candidate)

    def _table(self) -> Student:
        return Student(Table(int(self.teacher.config.vocab_size), len(self.constant)).to(self.device))

    def comparable(self, candidate: Candidate) -> str:
        return STATIC if is_static(candidate) else super().comparable(candidate)

    def shape_key(self, candidate: Candidate | None) -> str:
        if candidate is None or not is_static(candidate):
            return super().shape_key(candidate)
        return f"{STATIC} {self.config(candidate)} beside {super().shape_key(None)}"

    def training(  # type: ignore[override]  # a table is solved, and learns by no steps
        self, student: Student, *, epochs: int, seed: int, full: bool = False
    ) -> Training:
        if isinstance(student.body, Table):
            ids = static_students.solved_on(self.chunks.train if full else self.chunks.proxy)
            texts = ids, self.chunks.beginnings
            return SolvedOnce(self, student, ids.numel(), epochs, partial(self._solve_table, *texts))
        # All chunks are read once for the teacher's embeddings of them, and once in each epoch.
        states = self._full_states(student, 1 + epochs) if full and epochs else self._as_built
        return SentenceEmbeddingTraining(self, student, states, epochs, seed)

    def _solve_table(self, ids: Tensor, begun: Sequence[np.ndarray], student: Student) -> None:
        source = self.spec.data.source
        table, _ = static_students.solved(self.teacher, self.layout, ids, begun, source, self._on_progress)
        with torch.no_grad():
            table_of(student).weight.copy_(table)

    def solve(self, student: Student, states: HiddenStates) -> None:
        """A student's layer into the teacher's space, by least squares on the chunks of `states`."""
        taught, space = self.lessons_of(states), TeacherSpace(self.layout, student.body.eval())
        made = memory.whole(teacher_space.BATCH, self.device, partial(space.solved, taught))
        dense, aids = made.steps[0], into(student)
        assert isinstance(dense, Dense) and dense.bias is not None
        with torch.no_grad():
            aids.into_weight.copy_(dense.weight)
            aids.into_bias.copy_(dense.bias)

    def provenance(self) -> dict[str, Any]:
        """A study that was begun before students were solved on beginnings of documents stands on another ground, and
        so does one whose trials learned from hidden states of all layers."""
        own = super().provenance()
        learned = ("their tokens",) if self.budget.epochs else ()
        said = fingerprint.digest(own["data_fingerprint"], "chunks and beginnings", *learned)
        return {**own, "data_fingerprint": said}

    def layout_of(self, student: Student) -> Layout:
        aids = into(student)
        return self.layout.student(aids.into_weight.detach().cpu(), aids.into_bias.detach().cpu())

    @torch.inference_mode()
    def score(self, student: Student) -> Score:
        """How far the student's embeddings of held-out texts are from the teacher's: the squared distance, over that of
        the one vector that is nearest to the teacher's embeddings of training text.

        0 is the teacher, 1 is that constant. Of normalised embeddings it is the mean of 1 − cosine over the constant's,
        so that it does not matter how alike a teacher's embeddings are. Texts are chunks and parts of them (an eighth
        to a half). `raw_loss` is the mean of 1 − cosine.
        """
        own = self._vectors(student)
        wanted = self._held.wanted
        cosine = float(functional.cosine_similarity(own, wanted).double().mean())
        extra = {"cosine": cosine}
        whole = min(PAIRED, len(self._held_ids))
        if whole > 2:
            first, second = torch.triu_indices(whole, whole, 1)
            pairs = [embeddings.cosines(vectors[:whole])[first, second].double().numpy() for vectors in (own, wanted)]
            extra["spearman"] = spearman(*pairs)
        loss = float(embeddings.apart(own.double(), wanted.double(), self.constant.double()))
        return Score(loss, 1 - cosine, extra)

    def _vectors(self, student: Student) -> Tensor:
        """The student's embeddings of all held-out texts."""
        if isinstance(student.body, Table):
            layout = static_students.own_layout(self.layout)
            return layout.finished(self._held_bags @ student.body.weight.cpu().float())
        space, made = TeacherSpace(self.layout, student.body.eval()), self.layout_of(student)
        return memory.whole(teacher_space.BATCH, self.device, partial(space.vectors, made, self._scored))

    @cached_property
    def _held_bags(self) -> Tensor:
        rows = [
            row
            for part, _ in self._scored.batches(teacher_space.BATCH)
            for row in static_students.without_special(self.teacher, part)
        ]
        return static_encoder.bags(rows, int(self.teacher.config.vocab_size))

    def save(self, student: Student, folder: Path) -> None:
        if isinstance(student.body, Table):
            static_students.write(student.body.weight.detach().cpu(), self.teacher, self.layout, folder)
        else:
            super().save(student, folder)

    def lay_out(self, student: Student, folder: Path, layout: Layout, on_progress: Progress) -> dict[str, Any]:
        """With the layer that was scored; a static student's folder is laid out as it is saved."""
        extra = self.score(student).extra
        if isinstance(student.body, Table):
            embedding = {**layout.facts(), "pooling": ["mean"], "width": len(self.constant)}
            return {KIND: STATIC, "opens_with": "SentenceTransformer", "embedding": {**embedding, **extra}}
        made = self.layout_of(student)
        sentence_layout.write(folder, made, self.family.sizes(student.body.config).width)  # type: ignore[arg-type]
        return {"embedding": {**made.facts(), **extra}}
