"""Students of a sentence encoder whose embeddings are its teacher's: closed-form first, judged by the embedding.

Built as the students of hidden_state.py. Least squares then bring a student's pooled states to the teacher's
embeddings. Its loss is about these alone, and so a training may end with the student as it was built.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from kdnas.measuring import memory
from kdnas.measuring.device_lock import Turn
from kdnas.measuring.metrics import spearman
from kdnas.models import open as opening
from kdnas.models import sentence_layout
from kdnas.models.encoders import Sizes
from kdnas.models.sentence_layout import Dense, Layout
from kdnas.recipes import teacher_space
from kdnas.recipes.contract import Description
from kdnas.recipes.hidden_state import HiddenState, HiddenStateBench
from kdnas.recipes.hidden_state_training import HiddenStateTraining, Ready
from kdnas.recipes.teacher_space import Lesson, TeacherSpace
from kdnas.study.spec import StudySpec
from kdnas.study.spec_recipes import SentenceEmbeddingRecipe
from kdnas.system.errors import UsageError
from kdnas.system.progress import Progress
from kdnas.teachers.hidden_state_cache import HiddenStates
from kdnas.training.contract import Score, Student
from kdnas.training.losses import embeddings
from kdnas.training.losses.hidden_states import Projections

PAIRED = 512  # most held-out chunks of which all pairs are compared
SHORT = (2, 4, 8)  # parts of a chunk that are learned from beside it, one after the other


class IntoTheSpace(Projections):
    """A student's projections onto hidden states, and the linear layer from its pooled states to embeddings."""

    def __init__(self, layers: int, width: int, outputs: int, pooled: int, embedding: int) -> None:
        super().__init__(layers, width, outputs)
        self.into_weight = torch.nn.Parameter(torch.zeros(embedding, pooled))
        self.into_bias = torch.nn.Parameter(torch.zeros(embedding))


def into(student: Student) -> IntoTheSpace:
    assert isinstance(student.aids, IntoTheSpace)
    return student.aids


def _require_layout(spec: StudySpec, folder: Path) -> Layout:
    found = sentence_layout.read(folder, spec.teacher.checkpoint or spec.teacher.model)
    if found is None:
        raise UsageError(
            f"The teacher {spec.teacher.checkpoint or spec.teacher.model!r} is no sentence encoder: it has no "
            f"{sentence_layout.MODULES}, which says how a text's embedding is made.",
            "Give a folder or an id of sentence-transformers, or take the recipe hidden-state.",
        )
    return found


class SentenceEmbedding(HiddenState):
    """Builds search spaces and workbenches for students of sentence encoders."""

    name = "sentence-embedding"
    summary = "The embeddings of a sentence encoder, solved by least squares"

    def describe(self, spec: StudySpec) -> Description:
        """Raises UsageError for a teacher that is no sentence encoder, where its folder is here already."""
        found = super().describe(spec)
        here = Path(spec.teacher.checkpoint or spec.teacher.model).expanduser()
        if (here / "config.json").is_file():
            _require_layout(spec, here)
        return found

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
        with Turn(device):
            self._held = memory.whole(teacher_space.BATCH, device, self._held_lesson)

    def _held_lesson(self, rows: int) -> Lesson:
        known = partial(self._last, self.held_out)
        return teacher_space.lesson(self.layout, self.teacher.body, self._held_ids, known, 0, rows)

    def lessons_of(self, states: HiddenStates) -> tuple[Lesson, ...]:
        """What a student's layer is solved from, on the chunks of `states`; kept for the next student."""
        if self._taught is None or self._taught[0] is not states:
            with Turn(self.device):
                made = memory.whole(teacher_space.BATCH, self.device, partial(self._lessons, self.layout, states))
            self._taught = states, made
        return self._taught[1]

    def aids(self, sizes: Sizes) -> IntoTheSpace:
        pooled = len(self.layout.pooling) * sizes.width
        return IntoTheSpace(sizes.layers, sizes.width, 2 * self.own.width, pooled, len(self.constant))

    def training(self, student: Student, *, epochs: int, seed: int, full: bool = False) -> SentenceEmbeddingTraining:
        states = self._full_states(student, epochs) if full else self.proxy
        return SentenceEmbeddingTraining(self, student, states, epochs, seed)

    def solve(self, student: Student, states: HiddenStates) -> None:
        """A student's layer into the teacher's space, by least squares on the chunks of `states`."""
        taught, space = self.lessons_of(states), TeacherSpace(self.layout, student.body.eval())
        made = memory.whole(teacher_space.BATCH, self.device, partial(space.solved, taught))
        dense, aids = made.steps[0], into(student)
        assert isinstance(dense, Dense) and dense.bias is not None
        with torch.no_grad():
            aids.into_weight.copy_(dense.weight)
            aids.into_bias.copy_(dense.bias)

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
        space, made = TeacherSpace(self.layout, student.body.eval()), self.layout_of(student)
        own = memory.whole(teacher_space.BATCH, self.device, partial(space.vectors, made, self._held_ids))
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

    def lay_out(self, student: Student, folder: Path, layout: Layout, on_progress: Progress) -> dict[str, Any]:
        """With the layer that was scored."""
        made = self.layout_of(student)
        sentence_layout.write(folder, made, self.family.sizes(student.body.config).width)  # type: ignore[arg-type]
        return {"embedding": {**made.facts(), **self.score(student).extra}}


@dataclass(frozen=True)
class ReadyTexts(Ready):
    """A batch with the teacher's embeddings [rows, width] of its chunks, on the device."""

    wanted: Tensor


class SentenceEmbeddingTraining(HiddenStateTraining):
    """Learns embeddings and, by the weight that the spec says, hidden states.

    Each step embeds its chunks, and parts of them, since short texts are embedded too. The layer into the teacher's
    space is solved before the first step and trained with the student.
    """

    bench: SentenceEmbeddingBench

    def __init__(
        self, bench: SentenceEmbeddingBench, student: Student, states: HiddenStates, epochs: int, seed: int
    ) -> None:
        self.part = bench.part
        super().__init__(bench, student, states, epochs, seed)

    @cached_property
    def _wanted(self) -> Tensor:
        """The teacher's embeddings of all chunks."""
        layout, known = self.bench.layout, partial(self.bench._last, self._states)
        with torch.no_grad():
            parts = torch.arange(len(self._ids)).split(teacher_space.BATCH)
            return torch.cat([layout.finished(teacher_space.whole_pooled(known(rows), layout)).cpu() for rows in parts])

    def named(self) -> dict[str, torch.nn.Parameter]:
        found = super().named()
        return found if self.part.hidden else {n: p for n, p in found.items() if n not in ("aids.weight", "aids.bias")}

    def solve_as_built(self) -> None:
        super().solve_as_built()
        if not bool(into(self.student).into_weight.any()):
            self.bench.solve(self.student, self._states)

    def before_epoch(self) -> None:
        if self.done == 0:
            self.solve_as_built()

    def _solve(self, most: int = 65_536) -> None:
        super()._solve(most)
        self.bench.solve(self.student, self._states)

    def step_loss(self, batch: Ready, step: int) -> Tensor:
        assert isinstance(batch, ReadyTexts)
        outputs = self.outputs(batch.ids)
        loss = self._apart(outputs[-1], batch.wanted)
        if self.part.hidden:
            loss = loss + self.part.hidden * self.hidden_loss(batch, outputs) / self.bench.variance(self.student.body)
        short = batch.ids.shape[1] // SHORT[step % len(SHORT)]
        if short >= teacher_space.SHORTEST:
            compact = torch.cat([batch.ids[:, : short - 1], batch.ids[:, -1:]], 1)
            with torch.no_grad():
                states = self.bench.teacher.body(input_ids=self._rows[compact]).last_hidden_state
                wanted = self.bench.layout.finished(teacher_space.whole_pooled(states, self.bench.layout))
            loss = (loss + self._apart(self.outputs(compact)[-1], wanted)) / 2
        return loss

    def _apart(self, states: Tensor, wanted: Tensor) -> Tensor:
        """The weighted losses of the embeddings of texts with the last states [rows, length, width]."""
        aids, layout = into(self.student), self.bench.layout
        made = layout.student(aids.into_weight, aids.into_bias)
        own = made.finished(teacher_space.whole_pooled(states, layout))
        constant = self.bench.constant.to(own.device)
        loss = self.part.cosine * embeddings.apart(own, wanted, constant)
        return loss + self.part.pairwise * embeddings.pairwise(own, wanted) if self.part.pairwise else loss

    def _ready(self, rows: Tensor, positions: slice) -> ReadyTexts:
        made = super()._ready(rows, positions)
        return ReadyTexts(made.ids, made.states, made.positions, self._wanted[rows].to(self.bench.device))
