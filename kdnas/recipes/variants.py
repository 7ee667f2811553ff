"""Runs to compare in place of a search: a variant says what differs from the spec, and is one candidate.

With the strategy `grid` they run one after the other. Variants may have teachers of their own, and each keeps its own
as its yardstick; but latency is held against the first variant's teacher throughout, so that their rewards compare.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from kdnas.measuring.passes import Once
from kdnas.models.open import files_fingerprint, locate
from kdnas.recipes import recipe
from kdnas.recipes.contract import Description, Recipe, Workbench
from kdnas.study.space import Candidate, Dimension, SearchSpace
from kdnas.study.spec import StudySpec, TeacherSpec, from_values, variant
from kdnas.system.progress import Progress
from kdnas.training.contract import Score, Student, Training

NAME = "variant"  # the one dimension


def resolved(spec: StudySpec, name: str) -> tuple[StudySpec, Candidate]:
    """The study that a variant is, its space narrowed to its student, and that student. Raises UsageError."""
    own = variant(spec, name)
    student = recipe(own.recipe.name).one(own)
    values = own.model_dump(mode="json")
    values["space"] = {"choices": {dimension: [value] for dimension, value in student.items()}}
    return from_values(values), student


def _files(spec: TeacherSpec, on_progress: Progress) -> str:
    """A fingerprint of the files of a model, and of what is loaded over it. Raises UsageError for what is not there."""
    path = Path(spec.model).expanduser()
    if path.is_file():
        with path.open("rb") as file:
            own = hashlib.file_digest(file, "sha256").hexdigest()
    else:
        own = files_fingerprint(path if path.is_dir() else locate(spec, on_progress))
    return own if spec.checkpoint is None else f"{own}-{files_fingerprint(Path(spec.checkpoint).expanduser())}"


class Variants(Recipe):
    """The recipes of the variants, as one whose students are the variants' names."""

    name = NAME
    summary = "Runs to compare, each as its own spec says"
    families = ()

    def describe(self, spec: StudySpec) -> Description:
        """Raises UsageError where any of them cannot be."""
        studies = {name: resolved(spec, name)[0] for name in spec.space.variants}
        described = [recipe(own.recipe.name).describe(own) for own in studies.values()]
        return Description(SearchSpace((Dimension(NAME, tuple(studies), ordered=False),)), described[0].teacher)

    def prepare(self, spec: StudySpec, device: torch.device, on_progress: Progress) -> VariantsBench:
        return VariantsBench(spec, device, on_progress)


class VariantsBench(Workbench):
    """The benches of the variants, made when they are asked for; the first one's stays, of the others the last."""

    def __init__(self, spec: StudySpec, device: torch.device, on_progress: Progress) -> None:
        self.spec, self.device, self._on_progress = spec, device, on_progress
        self._resolved: dict[str, tuple[StudySpec, Candidate]] = {}
        self.space = SearchSpace((Dimension(NAME, tuple(spec.space.variants), ordered=False),))
        self._benches: dict[str, Workbench] = {}
        self._first = next(iter(spec.space.variants))
        self._now = self._first
        self._bench(self._first)

    def _bench(self, name: str) -> Workbench:
        if name not in self._benches:
            for other in [n for n in self._benches if n != self._first]:
                self._benches.pop(other).close()
            own, _ = self._study(name)
            told: Progress = lambda words, share: self._on_progress(f"{name}: {words}", share)  # noqa: E731
            self._benches[name] = recipe(own.recipe.name).prepare(own, self.device, told)
        return self._benches[name]

    def _study(self, name: str) -> tuple[StudySpec, Candidate]:
        """What `resolved` gives, which reads the disk: once for each variant."""
        if name not in self._resolved:
            self._resolved[name] = resolved(self.spec, name)
        return self._resolved[name]

    @property
    def _own(self) -> Workbench:
        """Of the student on the bench: the one built last."""
        return self._bench(self._now)

    def config(self, candidate: Candidate) -> dict[str, Any]:
        name = str(candidate[NAME])
        return {**self._bench(name).config(self._study(name)[1]), NAME: name}

    def build(self, candidate: Candidate, seed: int) -> Student:
        self._now = str(candidate[NAME])
        return self._own.build(self._study(self._now)[1], seed)

    def training(self, student: Student, *, epochs: int, seed: int, full: bool = False) -> Training:
        return self._own.training(student, epochs=epochs, seed=seed, full=full)

    def score(self, student: Student) -> Score:
        return self._own.score(student)

    def timed(self, student: Student | None) -> Once:
        return self._bench(self._first).timed(None) if student is None else self._own.timed(student)

    def asides(self, student: Student | None) -> Mapping[str, Once]:
        return self._bench(self._first).asides(None) if student is None else self._own.asides(student)

    def shape_key(self, candidate: Candidate | None) -> str:
        beside = self._bench(self._first).shape_key(None)
        if candidate is None:
            return beside
        name = str(candidate[NAME])
        return f"{self._bench(name).shape_key(self._study(name)[1])} beside {beside}"

    def save(self, student: Student, folder: Path) -> None:
        self._own.save(student, folder)

    def finished(self, student: Student, folder: Path, on_progress: Progress) -> dict[str, Any]:
        return self._own.finished(student, folder, on_progress)

    def provenance(self) -> dict[str, Any]:
        first = self._bench(self._first).provenance()
        return {**first, "variants": self.spec.space.variants, **self._other_grounds}

    @cached_property
    def _other_grounds(self) -> dict[str, str]:
        """Fingerprints of the models of the other variants, where they are others than the first one's: of their
        files, since their benches are made one at a time. The data are the same for all."""
        mine = self._study(self._first)[0]
        found: dict[str, str] = {}
        for name in self.spec.space.variants:
            own = self._study(name)[0]
            if own.teacher != mine.teacher:
                found[f"teacher_of_variant_{name}_fingerprint"] = _files(own.teacher, self._on_progress)
            student = getattr(own.recipe, "student", None)
            if student not in (None, getattr(mine.recipe, "student", None)):
                model = TeacherSpec.model_validate({"model": student})
                found[f"student_of_variant_{name}_fingerprint"] = _files(model, self._on_progress)
        return found

    def close(self) -> None:
        for bench in self._benches.values():
            bench.close()
        self._benches.clear()
