"""LoRA teacher into LoRA student: both are a frozen encoder with low-rank adapters and a head that learns (PEFT).

Loss of an example: (1 − weight) · cross-entropy with the label + weight · T² · KL(teacher ‖ student at temperature T).
A student's trainable parameters are limited, and counted before it learns. Adapters alone make nothing faster: with
`truncate` a student has only the blocks up to its highest adapted one. Knows no strategy, no store and no screen.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from math import ceil
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from kdnas.data import labelled
from kdnas.data.labelled import Examples
from kdnas.measuring.passes import Once
from kdnas.models import encoders, lora_adapters
from kdnas.models import open as opening
from kdnas.models.encoders import Family, Sizes
from kdnas.models.lora_adapters import Adapters, Base
from kdnas.recipes import latency_tokens
from kdnas.recipes.classifiers import ClassifierBench, ClassifierTraining, described
from kdnas.recipes.contract import Description, Recipe
from kdnas.recipes.spaces.narrowing import choices_of, dimension, require_whole
from kdnas.study.space import Candidate, Ceiling, Dimension, SearchSpace, Value
from kdnas.study.spec import SpaceSpec, StudySpec, TeacherSpec
from kdnas.study.spec_recipes import LoraRecipe
from kdnas.system import seeds
from kdnas.system.errors import BadOptionError, nearest
from kdnas.system.progress import Progress
from kdnas.teachers import classifier as classifiers
from kdnas.teachers.classifier import Classifier
from kdnas.training.contract import Score, Student
from kdnas.training.losses import soft_labels

ORDER = ("r", "lora_alpha", "adapted_layers", "placement", "target_modules", "lora_dropout")
RANKS = (2, 4, 8, 16, 32)
ALPHAS = (8.0, 16.0, 32.0)
DROPOUTS = (0.0, 0.1)
PLACEMENTS = ("first", "spread", "last")


# ---------------------------------------------------------------------------- space


def usual_layers(total: int, given: int | None, share: float, field: str) -> int:
    """How many blocks are adapted: as given, else a share of all. Raises BadOptionError for more than there are."""
    if given is None:
        return max(1, round(share * total))
    if given > total:
        raise BadOptionError(field, f"{field} = {given} is more than the base's {total} layers.", f"Give 1 to {total}.")
    return given


def student_of(part: LoraRecipe, sizes: Sizes) -> Candidate:
    """The student of the recipe's own settings: where no search chooses another."""
    return {
        "r": part.rank,
        "lora_alpha": part.alpha,
        "adapted_layers": usual_layers(sizes.layers, part.layers, 1 / 2, "recipe.layers"),
        "placement": PLACEMENTS[0],
        "target_modules": part.modules,
        "lora_dropout": part.dropout,
    }


def space_of(spec: SpaceSpec, part: LoraRecipe, sizes: Sizes, head: int) -> SearchSpace:
    """Students on a base of these sizes whose head has `head` parameters; none of them exceeds the limit.

    Raises UsageError for choices that cannot be.
    """
    allowed = choices_of(spec, ORDER)
    usual, total = student_of(part, sizes), sizes.layers
    choices: dict[str, tuple[Value, ...]] = {
        "r": RANKS,
        "lora_alpha": ALPHAS,
        "adapted_layers": tuple(sorted({ceil(total * k / 4) for k in range(1, 5)})),
        # What stands higher than the others leaves nothing to cut off.
        "placement": PLACEMENTS[:1] if part.truncate else PLACEMENTS,
        "target_modules": lora_adapters.PARTS,
        "lora_dropout": DROPOUTS,
    }
    choices = {name: _with(values, usual[name]) for name, values in choices.items()}
    for name, given in allowed.items():
        for value in given:
            _check(name, value, total)
        choices[name] = tuple(float(v) for v in given) if name in ("lora_alpha", "lora_dropout") else given
    limit = part.max_parameters
    if head >= limit:
        raise BadOptionError(
            "recipe.max_parameters",
            f"The head alone has {head:,} trainable parameters, the limit is {limit:,}.",
            "Raise recipe.max_parameters, or take a narrower base.",
        )
    _make_fit(choices, set(allowed), sizes, head, limit)
    below = tuple(n for n in choices["adapted_layers"] if int(n) < total)
    made: dict[str, Dimension] = {}
    for name in ORDER:
        # On all layers there is only one placement.
        when = ("adapted_layers", below) if name == "placement" and below else None
        values = choices[name] if name != "placement" or below else choices[name][:1]
        made[name] = dimension(name, values, ordered=name not in ("placement", "target_modules"), when=when)
    factors = {
        "r": cast(tuple[int, ...], made["r"].choices),
        "adapted_layers": cast(tuple[int, ...], made["adapted_layers"].choices),
        "target_modules": tuple(lora_adapters.cost(sizes, str(m)) for m in made["target_modules"].choices),
    }
    return SearchSpace(tuple(made.values()), Ceiling(limit, head, factors, "r"))


def _with(values: tuple[Value, ...], usual: Value) -> tuple[Value, ...]:
    if usual in values:
        return values
    return tuple(sorted((*values, usual))) if not isinstance(usual, str) else (*values, usual)


def _check(name: str, value: Value, total: int) -> None:
    field, problem = f"space.choices.{name}", f"{name} = {value!r} is out of range."
    if name == "r":
        require_whole(name, value, 1024)
    if name == "adapted_layers":
        require_whole(name, value, total, "the base's layers")
    if name == "lora_alpha" and not (isinstance(value, int | float) and 0 < value < 1e6):
        raise BadOptionError(field, problem, "Give more than 0.")
    if name == "lora_dropout" and not (isinstance(value, int | float) and 0 <= value < 1):
        raise BadOptionError(field, problem, "Give 0 to below 1.")
    known = {"placement": PLACEMENTS, "target_modules": lora_adapters.PARTS}.get(name)
    if known is not None and value not in known:
        raise BadOptionError(field, f"{name} = {value!r} is not known.", nearest(str(value), known))


def _make_fit(choices: dict[str, tuple[Value, ...]], given: set[str], sizes: Sizes, head: int, limit: int) -> None:
    """Leave out what does not fit at the lowest rank, parts of a layer first; what the user asked for is refused."""
    while True:
        rank, layers = min(cast(Any, choices["r"])), max(cast(Any, choices["adapted_layers"]))
        dearest = max(choices["target_modules"], key=lambda m: lora_adapters.cost(sizes, str(m)))
        count = head + rank * layers * lora_adapters.cost(sizes, str(dearest))
        if count <= limit:
            return
        if "target_modules" not in given and len(choices["target_modules"]) > 1:
            choices["target_modules"] = tuple(m for m in choices["target_modules"] if m != dearest)
        elif "adapted_layers" not in given and len(choices["adapted_layers"]) > 1:
            choices["adapted_layers"] = tuple(n for n in choices["adapted_layers"] if n != layers)
        elif "r" not in given and rank > 1:
            choices["r"] = (max(1, int(rank) // 2), *choices["r"])
        else:
            raise too_many(count, limit, head)


def too_many(count: int, limit: int, head: int) -> BadOptionError:
    """The refusal of a student with more trainable parameters than the limit."""
    return BadOptionError(
        "recipe.max_parameters",
        f"The student has {count:,} trainable parameters ({head:,} of them in its head), the limit is {limit:,}.",
        "Adapt fewer layers or parts of them, lower the rank, or raise recipe.max_parameters.",
    )


def require_within(count: int, limit: int, head: int) -> None:
    """Raise BadOptionError, with the count, for more than `limit` trainable parameters."""
    if count > limit:
        raise too_many(count, limit, head)


def layers_of(count: int, placement: str, total: int) -> tuple[int, ...]:
    """Places of the adapted blocks, from 0. Spread: the last of each of `count` even parts."""
    if placement == "first":
        return tuple(range(count))
    if placement == "last":
        return tuple(range(total - count, total))
    return tuple(ceil((i + 1) * total / count) - 1 for i in range(count))


def adapters_of(candidate: Candidate, total: int) -> Adapters:
    return Adapters(
        int(candidate["r"]),
        float(candidate["lora_alpha"]),
        layers_of(int(candidate["adapted_layers"]), str(candidate["placement"]), total),
        str(candidate["target_modules"]),
        float(candidate["lora_dropout"]),
    )


# ---------------------------------------------------------------------------- recipe


def lora_part(spec: StudySpec) -> LoraRecipe:
    assert isinstance(spec.recipe, LoraRecipe)
    return spec.recipe


def _student_spec(spec: StudySpec) -> TeacherSpec:
    """Where the students' base comes from: never the teacher's checkpoint, which may be fine-tuned already."""
    name = lora_part(spec).student
    if name is None:
        return spec.teacher.model_copy(update={"checkpoint": None})
    return TeacherSpec(model=name)  # type: ignore[call-arg]


class Lora(Recipe):
    """Builds search spaces and workbenches for pairs of adapters."""

    name = "lora"
    summary = "LoRA teacher into LoRA student under a limit of trainable parameters"
    families = tuple(name for name, family in encoders.FAMILIES.items() if not family.shared_layers)

    def describe(self, spec: StudySpec) -> Description:
        lora_adapters.require()
        _, facts = described(spec)
        config, family, sizes = self._base(spec)
        part = lora_part(spec)
        space = space_of(spec.space, part, sizes, lora_adapters.head_size(config))
        length = spec.data.length
        return Description(space, facts, flops_per_token=lambda point: _flops(point, part, family, sizes, length))

    def in_words_of_the_space(self, spec: StudySpec, config: Mapping[str, Any]) -> Mapping[str, Any]:
        """What a configuration leaves open is the recipe's own student's."""
        return {**self.one(spec), **config}

    def one(self, spec: StudySpec) -> Candidate:
        _, _, sizes = self._base(spec)
        return student_of(lora_part(spec), sizes)

    def _base(self, spec: StudySpec) -> tuple[Any, Family, Sizes]:
        where = _student_spec(spec)
        folder = opening.locate(where, config_only=True)
        config = classifiers.config_of(folder, where.model)
        family = lora_adapters.family_of(config, where.model)
        return config, family, family.sizes(config)

    def prepare(self, spec: StudySpec, device: torch.device, on_progress: Progress) -> LoraBench:
        return LoraBench(spec, device, on_progress)


def _flops(candidate: Candidate, part: LoraRecipe, family: Family, sizes: Sizes, length: int) -> float:
    """Of one token in a forward pass of the frozen blocks; the adapters' share is small."""
    depth = depth_of(candidate, part, sizes.layers)
    return 2.0 * depth * (4 * sizes.width**2 + 2 * sizes.width * sizes.inner + 2 * length * sizes.width)


def depth_of(candidate: Candidate, part: LoraRecipe, total: int) -> int:
    """Blocks that the student has."""
    return max(adapters_of(candidate, total).layers) + 1 if part.truncate else total


def passed_over(name: str) -> bool:
    """Whether a parameter of a PEFT model is none of the model as it is served: adapters merged, one head."""
    return ".lora_" in name or ".original_module." in name


@dataclass
class LoraStudent(Student):
    """A PEFT model. What is written down of it while it learns is what learns: adapters and head."""

    depth: int = 0

    @property
    def size(self) -> int:
        """Parameters of the whole model as it is served, the adapters merged into it."""
        return sum(p.numel() for n, p in self.body.named_parameters() if not passed_over(n))

    def modules(self) -> torch.nn.ModuleList:
        learned = [p for p in self.body.parameters() if p.requires_grad]
        return torch.nn.ModuleList([torch.nn.ParameterList(learned)])


class LoraBench(ClassifierBench):
    """Teacher, its logits, and the base of all students."""

    def __init__(self, spec: StudySpec, device: torch.device, on_progress: Progress) -> None:
        self.part = lora_part(spec)
        self._taught: tuple[Sizes, Adapters] | None = None  # the teacher's base and adapters, where it was taught here
        Lora().describe(spec)  # what cannot be is said before a teacher is taught
        super().__init__(spec, device, on_progress)
        where = _student_spec(spec)
        folder = opening.locate(where, on_progress)
        self.base: Base = lora_adapters.open_base(folder, where.model, self.text.names, device)
        self._named_base = lora_adapters.public_name(where.model)
        self._base_fingerprint = None if self.part.student is None else opening.files_fingerprint(folder)
        # Another base may split text otherwise; the examples, their order and their sides are the same.
        self.tokenizer, self.own_text = self.source.tokenizer, self.text
        if self.part.student is not None:
            self.tokenizer = opening.open_tokenizer(folder, where.model)
            classifiers.check_length(spec.data, self.base.config, spec.latency.length)
            self.own_text = labelled.read(spec.data, spec.budget.proxy_fraction, self.tokenizer, on_progress)
        self.space = space_of(spec.space, self.part, self.base.sizes, self.base.head_size)
        self._plain: dict[int, torch.nn.Module] = {}
        drawn = latency_tokens.of_texts(self.own_text.train.ids, spec.latency, spec.data.source)
        self._ids = torch.from_numpy(drawn).to(device)

    # -------------------------------------------------------------------- the teacher

    def open_teacher(self) -> Classifier:
        """The checkpoint, the model's own head, or else the base with adapters taught on the examples."""
        where = self.source
        if where.checkpoint is not None or classifiers.has_head(where, self.text.names):
            return super().open_teacher()
        config = classifiers.config_of(where.base, where.name)
        family = lora_adapters.family_of(config, where.name)
        total = family.sizes(config).layers
        count = usual_layers(total, self.part.teacher_layers, 2 / 3, "recipe.teacher_layers")
        own = Adapters(
            self.part.teacher_rank,
            self.part.teacher_alpha,
            layers_of(count, "first", total),
            self.part.teacher_modules,
            self.part.teacher_dropout,
        )
        settings = self.teaching()

        def adapt(model: torch.nn.Module) -> tuple[torch.nn.Module, set[str]]:
            made = lora_adapters.put(model, family, own, settings.seed)
            return made, {n for n, p in made.named_parameters() if p.requires_grad and ".lora_" not in n}

        self._taught = family.sizes(config), own
        about = {"lora": json.loads(json.dumps(asdict(own)))}
        folder = classifiers.taught(where, self.text, settings, self.device, self.on_progress, adapt, about)
        return self.opened(folder)

    # -------------------------------------------------------------------- students

    def config(self, candidate: Candidate) -> dict[str, Any]:
        """The base's configuration at the student's depth, and the adapters' as PEFT names them."""
        depth = depth_of(candidate, self.part, self.base.sizes.layers)
        own = adapters_of(candidate, self.base.sizes.layers)
        values = encoders.config_values(self.base.family, self.base.config, replace(self.base.sizes, layers=depth))
        return values | {
            "peft_type": "LORA",
            "r": own.rank,
            "lora_alpha": own.alpha,
            "lora_dropout": own.dropout,
            "target_modules": lora_adapters.targets(self.base.family, own.parts),
            "layers_to_transform": list(own.layers),
        }

    def build(self, candidate: Candidate, seed: int) -> LoraStudent:
        """The base with fresh adapters and head. Raises BadOptionError, with the count, for more than the limit."""
        depth = depth_of(candidate, self.part, self.base.sizes.layers)
        own = adapters_of(candidate, self.base.sizes.layers)
        model = lora_adapters.adapted(self.base, depth, own, seeds.number(seed, seeds.Student.WEIGHTS))
        require_within(lora_adapters.trainable(model), self.part.max_parameters, self.base.head_size)
        return LoraStudent(model.to(self.device), depth=depth)

    def training(self, student: Student, *, epochs: int, seed: int, full: bool = False) -> LoraTraining:
        return LoraTraining(self, student, epochs, seed, full=full, soft=self.part.weight > 0)

    def student_logits(self, body: torch.nn.Module, examples: Examples) -> Tensor:
        for name in ("held_out", "test"):
            if examples is getattr(self.text, name):
                examples = getattr(self.own_text, name)
        return classifiers.logits_of(body, examples, self.own_text.pad_id)

    def timed(self, student: Student | None) -> Once:
        """A student as it is served, its adapters merged: the plain model of its depth has the same arithmetic."""
        if student is None:
            return super().timed(None)
        depth = cast(LoraStudent, student).depth
        if depth not in self._plain:
            self._plain[depth] = self.base.cut(depth)
        return self.pass_of(self._plain[depth], self._ids, frozen=True)

    def shape_key(self, candidate: Candidate | None) -> str:
        keep: dict[str, Any] = {"teacher": self.teacher_shape(), "student": None}
        if candidate is not None:
            depth = depth_of(candidate, self.part, self.base.sizes.layers)
            sizes = asdict(replace(self.base.sizes, layers=depth))
            keep["student"] = {"family": self.base.family.model_type, **sizes}
        return json.dumps(keep, sort_keys=True)

    def score(self, student: Student) -> Score:
        found = super().score(student)
        return replace(found, extra={**found.extra, "trainable_parameters": lora_adapters.trainable(student.body)})

    def counts(self, student: Student | None) -> dict[str, int]:
        """As served: adapters merged. What learned is adapters and head."""
        if student is not None:
            served = [p for n, p in student.body.named_parameters() if not passed_over(n)]
            non_zero = sum(int(p.count_nonzero()) for p in served)
            return {
                "parameters": student.size,
                "trainable": lora_adapters.trainable(student.body),
                "non_zero": non_zero,
            }
        found = super().counts(None)
        if self._taught is not None:
            sizes, own = self._taught
            head = lora_adapters.head_size(cast(Any, self.teacher.model).config)
            found["trainable"] = head + own.rank * len(own.layers) * lora_adapters.cost(sizes, own.parts)
        return found

    def save(self, student: Student, folder: Path) -> None:
        """Adapter, head, configuration and tokenizer, for `PeftModel.from_pretrained`; a base that was cut too."""
        cut = cast(LoraStudent, student).depth < self.base.sizes.layers
        lora_adapters.save(student.body, folder, self.tokenizer, self._named_base, truncated=cut)

    def provenance(self) -> dict[str, Any]:
        facts = super().provenance()
        if self.part.student is not None:
            facts["student"] = self.base.name
            facts["student_fingerprint"] = self._base_fingerprint
        return facts | {"head_parameters": self.base.head_size}


class LoraTraining(ClassifierTraining):
    """Adapters and head by both losses."""

    def __init__(self, bench: LoraBench, student: Student, epochs: int, seed: int, *, full: bool, soft: bool) -> None:
        super().__init__(bench, student, epochs, seed, full=full, soft=soft)
        self._part, self.text = bench.part, bench.own_text
        self.examples = self.text.train if full else self.text.proxy
        self._lengths = self.examples.lengths

    def decays(self, name: str, parameter: torch.nn.Parameter) -> bool:
        return True

    def loss(self, logits: Tensor, labels: Tensor, teacher_logits: Tensor | None) -> Tensor:
        weight = self._part.weight
        return soft_labels.hybrid(
            logits,
            labels,
            teacher_logits,
            weights=(weight, 1.0 - weight, 0.0),
            temperature=self._part.temperature,
        )
