"""What was asked of a campaign: members that are ordinary studies, one labelled task that scores them, one budget.

Validated once, as a study's spec is; each member becomes a whole `StudySpec` by overlay. Reads no file but the TOML,
and imports nothing heavy.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError, field_validator, model_validator

from kdnas.study import halving, spec_toml
from kdnas.study.loan import NOBODY
from kdnas.study.plain_values import unwritable
from kdnas.study.spec import NAME, PLAIN, DataSpec, StudySpec, from_values
from kdnas.study.spec_constraints import ConstraintsSpec
from kdnas.study.spec_faults import explain
from kdnas.study.spec_latency import LatencySpec
from kdnas.study.spec_part import FLOOR, Part
from kdnas.study.spec_recipes import ClassifierRecipe, recipe_parts
from kdnas.study.time_budget import MOST_TRIALS
from kdnas.system.errors import BadOptionError, UsageError

SCORED = ("hidden-state", "sentence-embedding", "rnn-hybrid")  # recipes whose students a head can be solved for
SHARED = ("teacher", "data", "recipe", "space", "strategy", "reward", "budget", "training", "full")
OF_THE_TASK = ("source", "config", "split", "text_column", "label_column", "group_column", "held_out", "max_held_out")
_ALL = "the campaign's, shared by all members"
REFUSED = {  # what a member may not say of itself → why
    "task": "all members share one task, which stands above them as [task]",
    "latency": f"the latency protocol is {_ALL}; it stands above them as [latency]",
    "seed": f"the seed is {_ALL}; it stands at the head",
    "device": f"the device is {_ALL}; it stands at the head",
    "like": "a member learns from no other study, so that a campaign comes out alike in every store",
}


class TaskSpec(Part):
    """Labelled rows on which all students are scored. The held-out part decides, the test part is reported."""

    source: str = Field(min_length=1, description="shipped name, hub id, or CSV, JSONL or Parquet file")
    config: str | None = Field(None, description="configuration of a hub data set")
    split: str = Field("train", description="split of a hub data set")
    text_column: str = Field("text", description="column that holds the text")
    label_column: str | None = Field(None, description="column that holds the label; a shipped one is known")
    group_column: str | None = Field(None, description="rows that share this value stay on one side of a split")
    held_out: float = Field(0.2, ge=FLOOR, lt=1, description="share of the rows that nobody learns from")
    max_held_out: int = Field(1000, ge=2, description="at most this many of them decide; the others are the test part")
    length: int = Field(128, ge=8, le=8192, description="tokens of a text at most, where a model reads as many")

    def data(self) -> DataSpec:
        """The rows as a study reads them."""
        return DataSpec(**self.model_dump())


class CampaignBudgetSpec(Part):
    """What all members together may spend."""

    trials: int | None = Field(None, ge=1, le=MOST_TRIALS, description="candidates that all members evaluate together")
    hours: float | None = Field(None, ge=FLOOR, le=8760, description="hours that their searches take together")

    @model_validator(mode="after")
    def _one(self) -> CampaignBudgetSpec:
        if (self.trials is None) == (self.hours is None):
            raise ValueError("give trials or hours, one of them")
        return self


class ScoringSpec(Part):
    """How students are scored on the task."""

    epochs: int = Field(1, ge=0, le=1000, description="of the short distillation before a round's score")
    students: int = Field(1, ge=1, le=20, description="best students of a member that are scored in each round")
    finetune: bool = Field(False, description="at the end, fine-tune each student on the task, too")
    seeds: int = Field(1, ge=1, le=100, description="fine-tunings of each")


class CampaignSpec(Part):
    """A campaign as the user chose it. `members` are overlays of `study`, which is an overlay of a study's defaults."""

    name: str = Field("campaign", description="what the campaign is called in its store")
    seed: int = Field(0, ge=0, lt=2**31, description="every random number of every member comes from it")
    device: str = Field(
        "auto",
        pattern=r"^(auto|cpu|mps|cuda(:\d+)?)$",
        examples=["auto", "cpu", "cuda", "cuda:1", "mps"],
        description="auto, cpu, cuda, cuda:N or mps",
    )
    task: TaskSpec = Field(description="what all students are scored on")
    budget: CampaignBudgetSpec = Field(description="trials or hours, of all members together")
    scoring: ScoringSpec = ScoringSpec()  # type: ignore[call-arg]
    latency: LatencySpec = LatencySpec()  # type: ignore[call-arg]
    constraints: ConstraintsSpec = ConstraintsSpec()  # type: ignore[call-arg]
    study: dict[str, dict[str, Any]] = Field(
        default_factory=dict, examples=["{training = {warmup = 0.1}}"], description="what all members share of a spec"
    )
    members: dict[str, dict[str, dict[str, Any]]] = Field(
        examples=["{small = {teacher = {model = 'all-minilm-l6-v2'}}}"],
        description="members: name → what differs from the study that all share",
    )

    @field_validator("name")
    @classmethod
    def _plain_name(cls, value: str) -> str:
        if not PLAIN.fullmatch(value):
            raise ValueError("use 1 to 40 letters, digits, dashes and underscores, a letter or digit first")
        return value

    @model_validator(mode="before")
    @classmethod
    def _members_by_name(cls, values: Any) -> Any:
        """`[[members]]` with a name in each are the same as `[members.NAME]`."""
        if not isinstance(values, Mapping):
            return values
        values = dict(values)
        given = values.get("members")
        if isinstance(given, list):
            named: dict[str, Any] = {}
            for place, one in enumerate(given, 1):
                if not isinstance(one, Mapping) or not isinstance(one.get("name"), str):
                    raise ValueError(f'member {place} has no name; write name = "…" into it')
                if one["name"] in named:
                    raise ValueError(f"two members are called {one['name']!r}; give each a name of its own")
                named[one["name"]] = {part: inner for part, inner in one.items() if part != "name"}
            values["members"] = given = named
        for name, parts in given.items() if isinstance(given, Mapping) else ():
            if isinstance(parts, Mapping):
                _require_own(f"the member {name}", parts)
        if isinstance(values.get("study"), Mapping):
            _require_own("study", values["study"])
        return values

    @field_validator("members")
    @classmethod
    def _some_to_compare(cls, value: dict[str, Any]) -> dict[str, Any]:
        if len(value) < 2:
            raise ValueError(
                f"a campaign compares two members or more, and this has {len(value)}; add another, or begin an "
                "ordinary study with kdnas search"
            )
        for name in value:
            if not PLAIN.fullmatch(name):
                raise ValueError(f"the member {name!r} needs a plain name: letters, digits, dashes and underscores")
        return value

    @model_validator(mode="after")
    def _fits_together(self) -> CampaignSpec:
        specs = {name: self._member_or_fault(name) for name in self.members}
        if self.budget.trials is not None and self.budget.trials < halving.least(len(self.members)):
            raise ValueError(
                f"budget.trials is {self.budget.trials}, and {len(self.members)} members need at least "
                f"{halving.least(len(self.members))}, so that each has a first share"
            )
        if self.constraints.max_loss is not None:
            raise ValueError(
                "constraints.max_loss bounds a distance to one teacher, and members have their own; give it to a "
                "member, or bound latency, parameters or size"
            )
        teachers = {(spec.teacher.model, spec.teacher.revision, spec.teacher.checkpoint) for spec in specs.values()}
        if self.constraints.min_speedup is not None and len(teachers) > 1:
            raise ValueError(
                "constraints.min_speedup is over one teacher, and the members have several; give max_latency_ms"
            )
        return self

    def _member_or_fault(self, name: str) -> StudySpec:
        try:
            return self.member(name)
        except UsageError as error:
            raise ValueError(f"the member {name} cannot be: {error}".rstrip(".")) from None

    def member(self, name: str, text: Path | None = None) -> StudySpec:
        """The ordinary study that a member is, without its share of the budget. `text`: the file with the training part
        of the task's texts, which those learn on that need no labels and name no data. Raises UsageError."""
        own = self.members[name]
        values = laid_over(self.study, own)
        values |= {
            "name": f"{self.name}-{name}",
            "seed": self.seed,
            "device": self.device,
            "like": NOBODY,
            "latency": self.latency.model_dump(mode="json"),
        }
        shared = {part: bound for part, bound in self.constraints.model_dump(mode="json").items() if bound is not None}
        values["constraints"] = {**values.get("constraints", {}), **shared}
        recipe = str(values.get("recipe", {}).get("name", "hidden-state"))
        if recipe in recipe_parts() and recipe not in SCORED:
            raise UsageError(
                f"A head for {self.task.source} cannot be solved for students of the recipe {recipe}.",
                f"Take {', '.join(SCORED)}.",
            )
        values["data"] = self._data(values.get("data", {}), recipe, text)
        if "static" in values.get("space", {}).get("choices", {}).get("kind", ()):
            raise UsageError("A campaign times bodies of models, and a static student has none.", "Leave static out.")
        spec = from_values(values)
        if spec.space.variants:
            raise UsageError("A member that compares variants has no best student.", "Make each a member.")
        return spec

    def _data(self, given: Mapping[str, Any], recipe: str, text: Path | None) -> dict[str, Any]:
        """A member's data: the task's rows for classifiers, and text of its own, or the task's, for others."""
        task = self.task.model_dump(mode="json")
        if issubclass(recipe_parts().get(recipe, Part), ClassifierRecipe):
            for field in OF_THE_TASK:
                if field in given and given[field] != task[field]:
                    raise UsageError(
                        f"It learns from data.{field} = {given[field]!r}, and the task has {task[field]!r}.",
                        "A classifier learns the task that it is scored on: leave it out.",
                    )
            return {"length": task["length"], **given, **{field: task[field] for field in OF_THE_TASK}}
        if "source" in given:
            return dict(given)
        named = {"source": task["source"]} if text is None else {"source": str(text)}
        return {
            "length": task["length"],
            **given,
            **named,
            "text_column": task["text_column"] if text is None else "text",
        }

    def constraints_of(self) -> dict[str, Any]:
        """The shared constraints as plain values."""
        return self.constraints.model_dump(mode="json")


def _require_own(whose: str, parts: Mapping[str, Any]) -> None:
    for part in parts:
        if part in REFUSED:
            raise ValueError(f"{whose} sets {part}: {REFUSED[part]}")
        if part not in (*SHARED, "constraints"):
            raise ValueError(f"{whose} sets {part}; it may set {', '.join(SHARED)} and constraints")
    budget = parts.get("budget")
    for field in ("trials", "hours", "until"):
        if isinstance(budget, Mapping) and field in budget:
            raise ValueError(f"{whose} sets budget.{field}, and the campaign shares its budget out; leave it out")


def laid_over(base: Mapping[str, Mapping[str, Any]], changed: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Parts of a spec over others. Another recipe or strategy starts from its own defaults."""
    values: dict[str, Any] = {part: dict(inner) for part, inner in base.items()}
    for part, inner in changed.items():
        before = values.get(part, {})
        other = "name" in inner and inner["name"] != before.get("name")
        values[part] = dict(inner) if other else {**before, **inner}
    return values


def campaign_from(values: Mapping[str, Any]) -> CampaignSpec:
    """A spec from nested plain values. Raises BadOptionError that names the first wrong field and the hint."""
    if (fault := unwritable(values)) is not None:
        raise BadOptionError("spec", f"The spec {fault}.", "Write it anew.")
    try:
        return CampaignSpec.model_validate(values)
    except ValidationError as error:
        raise explain(error, CampaignSpec, {}) from None


def read_campaign(path: Path) -> CampaignSpec:
    """A campaign's file. Raises UsageError for one that is missing, is not TOML, or holds a wrong value."""
    return campaign_from(spec_toml.read_values(path))


def study_name(campaign: str, member: str) -> str:
    """What a member's study is called in the store."""
    name = f"{campaign}-{member}"
    assert NAME.fullmatch(name) is not None
    return name
