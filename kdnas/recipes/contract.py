"""The contract that every recipe answers to: build, distil, score, save. No strategy, store or screen in sight.

A recipe is chosen by its name in the spec. `space` and `describe` need only the teacher's configuration;
`prepare` loads what all candidates share and returns a Workbench, on which one candidate after another is
built, timed, distilled and scored.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from kdnas.measuring.block_table import Block
from kdnas.measuring.passes import Once
from kdnas.models.encoder_sizes import LayerSizes, Sizes
from kdnas.models.sentence_layout import Layout
from kdnas.study.layer_words import DEPTH as DEPTH
from kdnas.study.space import Candidate, SearchSpace
from kdnas.study.spec import BudgetSpec, StudySpec
from kdnas.system.errors import UsageError
from kdnas.system.progress import Progress
from kdnas.training.contract import Score, Student, Training


@dataclass(frozen=True)
class Description:
    """What a study would do, told before anything heavy runs."""

    space: SearchSpace
    teacher: Mapping[str, Any]  # family, layers, width, parameters, …
    notes: tuple[str, ...] = ()
    cache_bytes_per_token: int | None = None  # of the teacher's outputs, where they are kept
    flops_per_token: Callable[[Candidate], float] | None = None  # of the student's forward pass, about
    parameters: Callable[[Candidate], int] | None = None  # of the student's body, exactly; None: known once it is built


BlockTime = Callable[[Sizes, LayerSizes], float]
"""What one layer takes in a student of that width, head size and activation, whatever the unit."""
Around = Callable[[Sizes], float]
"""What such a student takes besides its layers, in the same unit."""


@dataclass(frozen=True)
class Proposal:
    """A candidate that is predicted to be good: its loss as built, and its time in the unit of the times given."""

    candidate: Candidate
    loss: float
    time: float


class Workbench(ABC):
    """Everything that the candidates of one study share in one process: teacher, data, caches, device."""

    spec: StudySpec
    device: torch.device
    space: SearchSpace
    fitted_tokens: int | None = None  # on which students are solved before they learn; None where they are not

    @property
    def budget(self) -> BudgetSpec:
        """What candidates of a search have: as the spec says, unless a recipe finds that its text allows no more."""
        return self.spec.budget

    @abstractmethod
    def config(self, candidate: Candidate) -> dict[str, Any]:
        """The student's Hugging Face configuration as keys and values, `model_type` among them."""

    def parameters(self, candidate: Candidate) -> int | None:
        """Of the student's body, as `Student.size` counts them, without building it; None where only building tells."""
        return None

    @abstractmethod
    def build(self, candidate: Candidate, seed: int) -> Student:
        """A student, initialised as the spec says, on the bench's device."""

    def build_in_full(self, candidate: Candidate, seed: int) -> Student:
        """The same for a distillation in full, which may look at more of the text; the bench builds no other then."""
        return self.build(candidate, seed)

    @abstractmethod
    def training(self, student: Student, *, epochs: int, seed: int, full: bool = False) -> Training:
        """The distillation of the student; `full` takes the whole training data instead of the proxy set."""

    @abstractmethod
    def score(self, student: Student) -> Score:
        """The held-out loss now, in eval mode."""

    def comparable(self, candidate: Candidate) -> str:
        """A key: candidates of equal keys may be compared by their scores before training, and after a part of it."""
        return ""

    def group(self, candidate: Candidate) -> str:
        """A key: losses predicted of candidates of equal keys compare, and results of some correct the others'."""
        return self.comparable(candidate)

    @abstractmethod
    def timed(self, student: Student | None) -> Once:
        """One forward pass of the student's body (the teacher's for None), as it is served on the bench's device in the
        spec's latency dtype, on fixed token ids of its batch and length: what the latency protocol calls again and
        again. Raises DtypeError for a model that cannot be."""

    def asides(self, student: Student | None) -> Mapping[str, Once]:
        """Further passes (of the teacher for None) to time by the same protocol, by the name that their milliseconds
        get among a trial's own figures: a token generated with the cache, say. None unless a recipe has some."""
        return {}

    @abstractmethod
    def shape_key(self, candidate: Candidate | None) -> str:
        """What decides the latency of a candidate (of the teacher for None): equal keys, equal latency."""

    def blocks(self, candidate: Candidate) -> tuple[Block, ...]:
        """The candidate's blocks from below, where its latency is about a sum over them. Raises UsageError."""
        raise UsageError("Candidates of this recipe have no blocks to add up.", "Measure each of them.")

    def repeated(self, candidate: Candidate, depth: int) -> list[Candidate]:
        """For each of the candidate's different blocks a candidate of `depth` such blocks, whether or not the space has
        it."""
        return [{**candidate, DEPTH: depth}]

    def probe(self, candidate: Candidate) -> Student:
        """A student of the candidate's sizes to be timed and no more: its weights are whatever is made fastest."""
        return self.build(candidate, 0)

    def predicted(self, on_progress: Progress) -> np.ndarray:
        """The predicted loss of every candidate as built, in the order of the space; those of one `group` compare.
        Raises UsageError for students of which nothing is predicted."""
        raise UsageError("Nothing is predicted of this recipe's students.", "Take another strategy than blocks.")

    def proposals(self, block: BlockTime, around: Around, on_progress: Progress) -> list[Proposal]:
        """Where each layer has sizes of its own, so that nobody predicts every candidate: of each depth those that are
        predicted to be best. Raises UsageError where layers have none, or nothing is predicted."""
        raise UsageError("Students of this recipe have no layers that differ.", "Take another strategy than blocks.")

    @abstractmethod
    def save(self, student: Student, folder: Path) -> None:
        """Write the student's body and tokenizer so that `from_pretrained` opens them without kdnas."""

    @abstractmethod
    def provenance(self) -> dict[str, Any]:
        """Fingerprints of teacher and data, cache decision, number of proxy and held-out tokens."""

    def finished(self, student: Student, folder: Path, on_progress: Progress) -> dict[str, Any]:
        """What is measured once, on a finished student that `save` has just written into `folder`: JSON values by name
        for its `kdnas.json` (scores beside the teacher's, say). Smaller forms of it may be written below `folder`."""
        return {}

    def require_gguf(self, candidate: Candidate) -> None:
        """Raise UsageError where the candidate's folder cannot be written as a GGUF file, too."""
        raise UsageError("Students of this recipe are no causal models.", "Leave out --gguf.")

    def sentence_layout(self) -> Layout | None:
        """How the teacher makes one vector of a text; None where it is no sentence encoder. Raises UsageError for one
        that no student can follow."""
        return None

    def lay_out(self, student: Student, folder: Path, layout: Layout, on_progress: Progress) -> dict[str, Any]:
        """Make what `save` has just written into `folder` a sentence encoder in the space of the teacher, which has
        `layout`; what `kdnas.json` says of it."""
        raise NotImplementedError

    def close(self) -> None:
        """Let go of memory maps and device memory."""
        return None


class Recipe(ABC):
    """One family of distillation."""

    name: str
    summary: str  # one line for lists
    families: tuple[str, ...]  # the model_type values of the students that it makes

    def in_words_of_the_space(self, spec: StudySpec, config: Mapping[str, Any]) -> Mapping[str, Any]:
        """A student's Hugging Face configuration with the names that the space gives its sizes. Raises UsageError for
        one that cannot learn from the teacher at all."""
        return config

    def one(self, spec: StudySpec) -> Candidate:
        """The student that a study without a search has: the only one of its space, unless the recipe has settings of
        its own for it. Raises UsageError."""
        space = self.describe(spec).space
        if space.size != 1:
            raise UsageError(
                f"The space has {space.size:,} candidates, and one is wanted.", "Narrow space.choices to one of them."
            )
        return space.from_ordinal(0)

    @abstractmethod
    def describe(self, spec: StudySpec) -> Description:
        """The space and the teacher from the teacher's configuration alone. Raises UsageError for what cannot work."""

    @abstractmethod
    def prepare(self, spec: StudySpec, device: torch.device, on_progress: Progress) -> Workbench:
        """Load the teacher and the data, build or open the caches."""
