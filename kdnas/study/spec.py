"""Everything that the user chose for a study, validated, as one frozen value.

Immutable once the study has begun, except the budget's trials and time, α/β and the constraints. Imports nothing heavy:
the screens check a form with it on every key.
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field, ValidationError, field_validator, model_validator

from kdnas.study.loan import AUTO, NOBODY
from kdnas.study.plain_values import unwritable
from kdnas.study.spec_constraints import ConstraintsSpec
from kdnas.study.spec_faults import explain
from kdnas.study.spec_latency import LatencySpec
from kdnas.study.spec_part import FLOOR, Choice, Part
from kdnas.study.spec_recipes import (
    CausalRecipe,
    EncoderRecipe,
    HiddenStateRecipe,
    RecipeSpec,
    RnnHybridRecipe,
    recipe_parts,
    scored_as_built,
)
from kdnas.study.spec_strategies import (
    GP_TRIALS,
    PAPER,
    AutoStrategy,
    GpStrategy,
    LstmStrategy,
    StrategySpec,
    strategy_parts,
)
from kdnas.study.time_budget import MOST_TRIALS
from kdnas.system import moments
from kdnas.system.errors import BadOptionError, UsageError

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,79}")


class TeacherSpec(Part):
    """The frozen model."""

    model: str = Field("all-minilm-l6-v2", min_length=1, description="shipped name, hub id or folder")
    revision: str | None = Field(None, description="branch, tag or commit of a hub model")
    checkpoint: str | None = Field(None, description="folder of a fine-tuned model or PEFT adapter to load over it")
    device: str | None = Field(
        None,
        pattern=r"^(cpu|mps|cuda(:\d+)?)$",
        examples=["cpu", "cuda", "cuda:1", "mps"],
        description="its device, where not the students' (causal recipes)",
    )


class DataSpec(Part):
    """The text on which students learn and are scored."""

    source: str = Field("sotu", min_length=1, description="shipped name, hub id, or CSV, JSONL, Parquet or text file")
    config: str | None = Field(None, description="configuration of a hub data set")
    split: str = Field("train", description="split of a hub data set")
    text_column: str = Field("text", description="column that holds the text")
    label_column: str | None = Field(None, description="column that holds the label, for recipes that need one")
    group_column: str | None = Field(None, description="rows that share this value stay on one side of a split")
    length: int = Field(128, ge=8, le=8192, description="tokens in one chunk")
    batch_size: int = Field(32, ge=1, le=4096, description="chunks in one training step")
    held_out: float = Field(0.05, ge=FLOOR, lt=1, description="share of the data kept for scoring")
    max_held_out: int = Field(256, ge=1, description="at most this many chunks (or examples) score a candidate")
    limit: int | None = Field(None, ge=2, description="use at most this many chunks (or examples) of the data")


PLAIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,39}")
VARYING = ("teacher", "recipe", "training")  # parts of the spec that the runs of one comparison may differ in


class SpaceSpec(Part):
    """How the recipe's own space is narrowed."""

    preset: Literal["full", "kd-nas"] = Field("full", description="the recipe's own choices, or KD-NAS's lists")
    choices: dict[str, tuple[int | float | str, ...]] = Field(
        default_factory=dict, examples=["{hidden_act = ['gelu']}"], description="dimension → the only values allowed"
    )
    variants: dict[str, dict[str, dict[str, Any]]] = Field(
        default_factory=dict,
        examples=["{fresh = {recipe = {init = 'random'}}}"],
        description="runs to compare instead of a search: name → what differs from the spec",
    )
    per_layer: bool = Field(
        False, description="layers of one encoder student may differ in heads and in feed-forward neurons"
    )

    @field_validator("choices")
    @classmethod
    def _some_choice(cls, value: dict[str, tuple[Any, ...]]) -> dict[str, tuple[Any, ...]]:
        for name, choices in value.items():
            if not choices:
                raise ValueError(f"{name} has no value left; allow at least one")
        return value

    @field_validator("variants")
    @classmethod
    def _what_may_vary(cls, value: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
        for name, parts in value.items():
            if not PLAIN.fullmatch(name):
                raise ValueError(f"the variant {name!r} needs a plain name: letters, digits, dashes and underscores")
            for part in parts:
                if part not in VARYING:
                    raise ValueError(f"the variant {name} changes {part}; it may change {', '.join(VARYING)}")
        return value


class RewardSpec(Part):
    """`(1 − loss) · (latency_S / (β · latency_T)) ^ α`."""

    alpha: float = Field(
        -0.06, ge=-2, le=0, description="how much speed counts: 0 not at all, −0.06 a little, −0.3 a lot"
    )
    beta: float = Field(0.6, ge=FLOOR, le=10, description="latency target as a share of the teacher's")
    loss: Literal["normalised", "raw"] = Field("normalised", description="the loss that the reward sees")


class BudgetSpec(Part):
    """How much the search may spend."""

    trials: int = Field(100, ge=1, le=MOST_TRIALS, description="candidates to evaluate")
    epochs: int = Field(4, ge=0, le=1000, description="epochs of mini-KD; 0 scores students as they are fitted")
    proxy_fraction: float = Field(0.3, ge=FLOOR, le=1, description="share of the training data that mini-KD sees")
    pruner: Literal["none", "median", "asha", "hyperband"] = Field("none", description="who stops hopeless candidates")
    rungs: tuple[float, ...] = Field(
        (), description="shares of a depth's candidates that go on: from the score as built, then after each part"
    )
    short_text: Literal["score", "train"] = Field(
        "score", description="fitted students on too little text to learn from: only scored, or trained all the same"
    )
    stop_when_done: bool = Field(
        False, description="end once the next trials are expected to gain next to nothing, said of up to 300"
    )
    attempts: int = Field(3, ge=1, le=100, description="how often a candidate whose worker died is tried again")
    hours: float | None = Field(
        None, ge=FLOOR, le=8760, description="wall time from the beginning; no trial is begun that would end after it"
    )
    until: str | None = Field(
        None, max_length=60, description="end of the wall time: a time of the day, or a date with one, as in 07:30"
    )

    @property
    def timed(self) -> bool:
        """Whether wall time limits the search."""
        return self.hours is not None or self.until is not None

    @property
    def open(self) -> bool:
        """Whether wall time alone does, and the number of trials is whatever fits into it."""
        return self.timed and self.trials == MOST_TRIALS

    @model_validator(mode="before")
    @classmethod
    def _time_decides_alone(cls, values: Any) -> Any:
        """Where a time is given and no number of trials, as many may be evaluated as a study can have."""
        if not isinstance(values, Mapping) or values.get("trials") is not None:
            return values
        timed = values.get("hours") is not None or values.get("until") is not None
        return {**values, "trials": MOST_TRIALS} if timed else values

    @field_validator("until", mode="before")
    @classmethod
    def _of_toml(cls, value: Any) -> Any:
        """TOML has times and dates of its own."""
        return value.isoformat() if isinstance(value, datetime.time | datetime.datetime) else value

    @field_validator("until")
    @classmethod
    def _some_moment(cls, value: str | None) -> str | None:
        if value is not None:
            try:
                moments.require_form(value)
            except UsageError as error:
                hint = error.hint[:1].lower() + error.hint[1:].rstrip(".")
                raise ValueError(f"it {error.problem.removeprefix(f'{value!r} ').rstrip('.')}; {hint}") from None
        return value

    @model_validator(mode="after")
    def _one_time(self) -> BudgetSpec:
        if self.hours is not None and self.until is not None:
            raise ValueError("hours and until both say when the search ends; give one of them")
        return self

    @model_validator(mode="after")
    def _rungs_divide_the_epochs(self) -> BudgetSpec:
        if not all(FLOOR <= share <= 1 for share in self.rungs):
            raise ValueError(f"rungs are shares of more than 0 and at most 1; {list(self.rungs)} has another")
        if len(self.rungs) > self.epochs:
            raise ValueError(f"{len(self.rungs)} rungs need as many epochs, and epochs is {self.epochs}")
        if self.rungs and self.pruner != "none":
            raise ValueError(f"rungs stop candidates themselves; set pruner to none (it is {self.pruner})")
        return self


class TrainingSpec(Part):
    """The optimiser of mini-KD and full KD."""

    learning_rate: float = Field(5e-4, ge=FLOOR, le=1, description="peak step size of AdamW")
    warmup: float = Field(0.2, ge=0, lt=1, description="share of the steps in which the step size rises")
    weight_decay: float = Field(0.01, ge=0, le=1, description="AdamW's decay")
    clip: float = Field(1.0, ge=FLOOR, description="largest norm of the gradient")
    accumulate: int = Field(
        1, ge=1, le=4096, description="batches whose gradients make one step, as one big batch would"
    )
    checkpointing: bool = Field(
        False, description="keep only the blocks' inputs and compute the rest again in the backward pass: less memory"
    )


class FullSpec(Part):
    """The long distillation of the chosen candidate."""

    epochs: int = Field(20, ge=0, le=10_000, description="at most this many epochs; 0 keeps the student as fitted")
    patience: int = Field(3, ge=1, description="epochs without a better held-out loss before stopping")


class StudySpec(Part):
    """One study, as the user chose it."""

    name: str = Field("study", description="what the study is called in its store")
    seed: int = Field(0, ge=0, lt=2**31, description="every random number comes from it")
    device: str = Field(
        "auto",
        pattern=r"^(auto|cpu|mps|cuda(:\d+)?)$",
        examples=["auto", "cpu", "cuda", "cuda:1", "mps"],
        description="auto, cpu, cuda, cuda:N or mps",
    )
    like: str = Field(AUTO, description="a study that lends its trials to the strategy; auto: those that fit; none")
    teacher: TeacherSpec = TeacherSpec()  # type: ignore[call-arg]
    data: DataSpec = DataSpec()  # type: ignore[call-arg]
    recipe: RecipeSpec = HiddenStateRecipe()  # type: ignore[call-arg]
    space: SpaceSpec = SpaceSpec()  # type: ignore[call-arg]
    strategy: StrategySpec = AutoStrategy()  # type: ignore[call-arg]
    reward: RewardSpec = RewardSpec()  # type: ignore[call-arg]
    constraints: ConstraintsSpec = ConstraintsSpec()  # type: ignore[call-arg]
    budget: BudgetSpec = BudgetSpec()  # type: ignore[call-arg]
    training: TrainingSpec = TrainingSpec()  # type: ignore[call-arg]
    latency: LatencySpec = LatencySpec()  # type: ignore[call-arg]
    full: FullSpec = FullSpec()  # type: ignore[call-arg]

    @field_validator("name")
    @classmethod
    def _plain_name(cls, value: str) -> str:
        if not NAME.fullmatch(value):
            raise ValueError("use 1 to 80 letters, digits, dots, dashes and underscores, a letter or digit first")
        return value

    @field_validator("like")
    @classmethod
    def _a_study(cls, value: str) -> str:
        if not NAME.fullmatch(value):
            raise ValueError(f"{value!r} is no name of a study; give one, or {AUTO} or {NOBODY}")
        return value

    @property
    def two_objectives(self) -> bool:
        """Whether the strategy minimises loss and latency rather than maximising the reward."""
        return self.strategy.for_the_front()

    @model_validator(mode="before")
    @classmethod
    def _episodes_are_a_budget(cls, values: Any) -> Any:
        """The trials are those of the controller's episodes where no number of trials is given."""
        if not isinstance(values, Mapping) or not isinstance(values.get("strategy"), Mapping):
            return values
        given, budget = values["strategy"], values.get("budget", {})
        if given.get("name") != "lstm" or not isinstance(budget, Mapping) or budget.get("trials") is not None:
            return values
        own = PAPER if given.get("controller") == "paper" else {}
        episodes, samples = given.get("episodes", own.get("episodes")), given.get("samples", own.get("samples"))
        if samples is None:
            samples = LstmStrategy.model_fields["samples"].default
        if not isinstance(episodes, int) or not isinstance(samples, int):
            return values
        return {**values, "budget": {**budget, "trials": episodes * samples}}

    @model_validator(mode="before")
    @classmethod
    def _defaults_of_the_recipe(cls, values: Any) -> Any:
        """The recipe's own defaults for other parts, where nothing else is given."""
        if not isinstance(values, Mapping) or not isinstance(values.get("recipe"), Mapping):
            return values
        part = recipe_parts().get(str(values["recipe"].get("name")))
        made = dict(values)
        for name, own in (part.defaults if part is not None else {}).items():
            given = made.get(name, {})
            if isinstance(given, Mapping):
                made[name] = {**own, **given}
        return made

    def _has_blocks(self) -> bool:
        """Whether a library of fitted blocks can be made for its students."""
        fitted = isinstance(self.recipe, HiddenStateRecipe | CausalRecipe) and self.recipe.init == "fitted"
        return fitted and not self.space.variants

    @model_validator(mode="after")
    def _fits_together(self) -> StudySpec:
        if not self.budget.epochs and not scored_as_built(self.recipe):
            raise ValueError(
                "budget.epochs is 0, which scores students before they learn, and those of this recipe begin with "
                "nothing to score; give 1 or more, or take the recipe hidden-state with init fitted or inherit, or a "
                "causal one with init fitted"
            )
        if not self.full.epochs and not scored_as_built(self.recipe):
            raise ValueError(
                "full.epochs is 0, which keeps the student as it is built, and those of this recipe begin knowing "
                "nothing; give 1 or more, or take the recipe hidden-state with init fitted or inherit, or a causal one "
                "with init fitted"
            )
        if self.budget.rungs and not scored_as_built(self.recipe):
            raise ValueError(
                "budget.rungs begins with scores of students before they learn, and those of this recipe begin with "
                "nothing to score; leave it out, or take the recipe hidden-state with init fitted or inherit, or a "
                "causal one with init fitted"
            )
        if self.space.per_layer and (not isinstance(self.recipe, EncoderRecipe) or self.space.variants):
            raise ValueError(
                "space.per_layer is true, and only students of the recipe hidden-state have layers that differ, "
                "outside a comparison of variants; take it away"
            )
        if self.training.checkpointing and isinstance(self.recipe, RnnHybridRecipe):
            raise ValueError(
                "training.checkpointing is true, and recurrent students have no blocks to compute again; leave it out, "
                "and give training.accumulate with a smaller data.batch_size where memory is short"
            )
        if self.latency.what == "token" and not isinstance(self.recipe, CausalRecipe):
            raise ValueError(
                f"latency.what is token, and students of the recipe {self.recipe.name} generate none; leave it out"
            )
        if (why := self.latency.cannot_serve(self.device, self.teacher.device)) is not None:
            raise ValueError(why)
        adds_up = isinstance(self.recipe, EncoderRecipe | CausalRecipe) and not self.space.variants
        if self.latency.by == "blocks" and not adds_up:
            raise ValueError(
                "latency.by is blocks, and only students of encoders and of causal models add up, outside a comparison "
                "of variants; take model"
            )
        if (why := self.latency.cannot_wait(self.budget.pruner, bool(self.budget.rungs))) is not None:
            raise ValueError(why)
        if self.strategy.predicts() and not self._has_blocks():
            raise ValueError(
                f"the strategy {self.strategy.name} predicts students of the recipe hidden-state or of causal models, "
                "with init fitted, outside a comparison of variants; take such ones, or another strategy"
            )
        if self.strategy.predicts() and self.reward.loss == "raw":
            raise ValueError(
                f"the strategy {self.strategy.name} predicts the normalised loss, and reward.loss is raw; take "
                "normalised, or another strategy"
            )
        if isinstance(self.strategy, GpStrategy) and self.budget.open:
            raise ValueError(
                f"gp is for budgets up to {GP_TRIALS} trials, since a proposal then takes seconds, and a time alone "
                f"sets no such limit; give budget.trials, too, at most {GP_TRIALS}, or take tpe or lstm"
            )
        if self.like not in (AUTO, NOBODY) and not self.strategy.borrows():
            raise ValueError(
                f"the strategy {self.strategy.name} learns from no other study, and like is {self.like}; take auto, "
                "surrogate, tpe, gp or lstm, or leave like out"
            )
        if isinstance(self.strategy, GpStrategy) and self.budget.trials > GP_TRIALS:
            raise ValueError(
                f"gp is for budgets up to {GP_TRIALS} trials, since a proposal then takes seconds "
                f"(budget.trials is {self.budget.trials}); lower it, or take tpe or lstm"
            )
        if self.two_objectives and self.budget.pruner != "none":
            raise ValueError(
                f"a search for the Pareto front cannot prune; set budget.pruner to none (it is {self.budget.pruner})"
            )
        if self.two_objectives and self.budget.stop_when_done:
            raise ValueError(
                "budget.stop_when_done goes by the reward, and this strategy searches the Pareto front; take it away"
            )
        for name in self.space.variants:
            try:
                variant(self, name)
            except UsageError as error:
                raise ValueError(f"the variant {name} cannot be: {error}".rstrip(".")) from None
        return self


def variant(spec: StudySpec, name: str) -> StudySpec:
    """The study that one run of a comparison is: the spec with the variant's values laid over it, and no variants."""
    values = spec.model_dump(mode="json")
    for part, changed in spec.space.variants[name].items():
        other = changed.get("name", values[part].get("name")) != values[part].get("name")
        values[part] = dict(changed) if other else {**values[part], **changed}  # another recipe: its own defaults
    values["space"]["variants"] = {}
    return from_values(values)


def from_values(values: Mapping[str, Any]) -> StudySpec:
    """A spec from nested plain values. Raises BadOptionError that names the first wrong field and the hint."""
    if (fault := unwritable(values)) is not None:
        raise BadOptionError("spec", f"The spec {fault}.", "Write it anew.")
    try:
        return StudySpec.model_validate(values)
    except ValidationError as error:
        raise explain(error, StudySpec, {"recipe": recipe_parts(), "strategy": strategy_parts()}) from None


def from_store(values: Mapping[str, Any]) -> StudySpec:
    """The spec of a study that has begun, as its store holds it: whole, so that a field that it lacks is of an earlier
    version. Then the study goes on as it began: fitted students are trained on however little text, and a causal study
    that does not say how its students begin has sliced ones."""
    recipe = values.get("recipe", {})
    if "init" not in recipe and issubclass(recipe_parts().get(recipe.get("name"), Choice), CausalRecipe):
        values = {**values, "recipe": {**recipe, "init": "inherit"}}
    if values.get("recipe", {}).get("init") != "fitted":  # no other start has the rule
        return from_values(values)
    return from_values({**values, "budget": {"short_text": "train", **values.get("budget", {})}})
