"""The recipes and their options as parts of a spec. How students learn stands in `kdnas.recipes`, a file for each.

A recipe is a line in `RECIPES`, at the end, and the file of its name.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Union

from pydantic import Field, model_validator

from kdnas.study.spec_part import FLOOR, Choice, by_name


class EncoderRecipe(Choice):
    """What the recipes of encoders share: how a student begins."""

    name: str = ""
    init: Literal["fitted", "inherit", "random"] = Field(
        "fitted", description="the teacher's weights, what was cut solved anew; these only sliced; or fresh ones"
    )
    cut: Literal["spread", "every-kth"] = Field(
        "spread", description="layers to inherit: evenly spaced with the first and the last, or every k-th"
    )


class HiddenStateRecipe(EncoderRecipe):
    """Hidden states of an encoder, Uniform+Last layer mapping."""

    name: Literal["hidden-state"] = "hidden-state"


class SentenceEmbeddingRecipe(EncoderRecipe):
    """The embeddings of a sentence encoder, solved by least squares."""

    defaults: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "data": {"source": "bbc-news"},
        "budget": {"epochs": 0},
        "training": {"learning_rate": 2e-4},
        "full": {"epochs": 3},
    }
    name: Literal["sentence-embedding"] = "sentence-embedding"
    cosine: float = Field(1.0, ge=0, le=100, description="weight of the distance from the teacher's embeddings")
    pairwise: float = Field(1.0, ge=0, le=100, description="weight of the difference from their similarities")
    hidden: float = Field(
        1.0, ge=0, le=100, description="weight of the error of each token's last state, where their mean is pooled"
    )

    @model_validator(mode="after")
    def _some_loss(self) -> SentenceEmbeddingRecipe:
        if not self.cosine + self.pairwise:
            raise ValueError("cosine and pairwise are both 0; give one of them a weight, or take hidden-state")
        return self


class CausalRecipe(Choice):
    """What the recipes of causal models share: how a student begins. A label column holds the texts' summaries."""

    init: Literal["fitted", "inherit", "random"] = Field(
        "fitted",
        description="the teacher's weights, what was cut solved anew; these only sliced (with recipe.student the "
        "default); or fresh ones",
    )
    student: str | None = Field(
        None, min_length=1, description="model of the teacher's tokenizer that students are cut from in its place"
    )

    @model_validator(mode="before")
    @classmethod
    def _students_of_another_model_are_sliced(cls, values: Any) -> Any:
        """Unless they are asked to be fitted: to that model, not to the teacher."""
        if isinstance(values, Mapping) and values.get("student") is not None:
            return {"init": "inherit", **values}
        return values


class CausalDivergenceRecipe(CausalRecipe):
    """Token-level divergence on the logits of a causal model."""

    name: Literal["causal-divergence"] = "causal-divergence"
    divergence: Literal["forward", "reverse", "js", "skew-forward", "skew-reverse", "adaptive"] = Field(
        "forward", description="which divergence"
    )
    js_beta: float = Field(0.5, ge=FLOOR, lt=1, description="mixing weight of the Jensen–Shannon divergence")
    skew_alpha: float = Field(
        0.1, ge=FLOOR, lt=1, description="share of the first side in a skewed divergence's second"
    )
    temperature: float = Field(
        1.0, ge=FLOOR, le=100, description="softens both distributions; the loss is scaled by T²"
    )
    weight: float = Field(0.5, ge=0, le=1, description="share of the divergence; the rest is cross-entropy")
    top_k: int = Field(64, ge=0, description="log-probabilities cached per token; 0: all of them, computed live")
    text: Literal["data", "teacher"] = Field(
        "data",
        description="what students read: the data, or the teacher's greedy continuation of each chunk's beginning",
    )
    on_policy: float = Field(0.0, ge=0, le=1, description="share of the steps on text that the student writes itself")
    prompt_tokens: int = Field(32, ge=1, description="tokens of a chunk before what teacher or student write")
    reuse: int = Field(1, ge=1, le=1000, description="steps that learn on the same text of the student's")

    @model_validator(mode="after")
    def _something_to_learn(self) -> CausalDivergenceRecipe:
        if self.on_policy and not self.weight:
            raise ValueError(
                "on_policy has students learn from the teacher's view of their own text, and weight, the share of that "
                "view, is 0; raise weight, or leave on_policy out"
            )
        return self


class CausalPolicyGradientRecipe(CausalRecipe):
    """Reward-based distillation of a causal model on its own samples."""

    name: Literal["causal-policy-gradient"] = "causal-policy-gradient"
    teacher_mix: float = Field(0.2, ge=0, lt=1, description="share of the teacher in the sampling distribution")
    temperature: float = Field(1.0, ge=FLOOR, le=100, description="sampling temperature")
    weight: float = Field(0.5, ge=0, le=1, description="share of the policy loss; the rest is cross-entropy")
    prompt_tokens: int = Field(32, ge=1, description="tokens of real text before the sampled ones")
    new_tokens: int = Field(32, ge=1, description="sampled tokens")
    reuse: int = Field(1, ge=1, le=1000, description="steps that learn on the same sampled tokens")
    frequency_penalty: float = Field(0.0, ge=0, description="weight of the token-frequency penalty")
    diversity_penalty: float = Field(0.0, ge=0, description="weight of the embedding-diversity penalty")
    entropy_penalty: float = Field(0.0, ge=0, description="weight of the entropy penalty")


class ClassifierRecipe(Choice):
    """What the recipes of classifiers share: how a teacher without a classification head gets one."""

    teacher_epochs: int = Field(3, ge=1, le=100, description="most epochs in which a teacher without a head is taught")
    teacher_rate: float = Field(5e-5, ge=FLOOR, le=1, description="peak step size of its body")
    teacher_head_rate: float = Field(1e-3, ge=FLOOR, le=1, description="peak step size of its fresh head")


class RnnHybridRecipe(ClassifierRecipe):
    """A small recurrent network with attention that learns to classify from an encoder."""

    defaults: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "data": {"source": "rotten-tomatoes", "max_held_out": 1000},
        "training": {"learning_rate": 2e-3},
        "full": {"patience": 5},
    }
    name: Literal["rnn-hybrid"] = "rnn-hybrid"
    soft: float = Field(0.4, ge=0, le=100, description="weight of the divergence from the teacher, times T²")
    hard: float = Field(0.4, ge=0, le=100, description="weight of the cross-entropy with the labels")
    sequence: float = Field(0.2, ge=0, le=100, description="weight of the cross-entropy with the teacher's own class")
    temperature: float = Field(3.0, ge=FLOOR, le=100, description="T, which softens both distributions")
    embeddings: Literal["word2vec", "teacher", "random"] = Field(
        "word2vec", description="how embeddings begin: Word2Vec on the training text, the teacher's own, or fresh"
    )
    remove: float = Field(
        0.5, ge=FLOOR, lt=1, description="share of hidden units that finalize's smaller variant loses"
    )

    @model_validator(mode="after")
    def _some_loss(self) -> RnnHybridRecipe:
        if not self.soft + self.hard + self.sequence:
            raise ValueError("soft, hard and sequence are all 0; give at least one of them a weight")
        return self


LoraModules = Literal["query-value", "query-key-value", "attention", "all"]


class LoraRecipe(ClassifierRecipe):
    """LoRA teacher into LoRA student, through PEFT, under a limit of trainable parameters."""

    defaults: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "data": {"source": "rotten-tomatoes", "max_held_out": 1000},
        "training": {"learning_rate": 1e-3},
    }
    name: Literal["lora"] = "lora"
    teacher_rate: float = Field(5e-4, ge=FLOOR, le=1, description="peak step size of the teacher's adapters")
    weight: float = Field(0.5, ge=0, le=1, description="share of the soft loss; the rest is cross-entropy with labels")
    temperature: float = Field(
        2.0, ge=FLOOR, le=100, description="softens both distributions; the loss is scaled by T²"
    )
    max_parameters: int = Field(1_000_000, ge=1, description="most trainable parameters of a student, its head too")
    truncate: bool = Field(False, description="keep only the layers up to the student's highest adapted one")
    teacher_rank: int = Field(16, ge=1, le=1024, description="rank of the teacher's adapters")
    teacher_alpha: float = Field(32, ge=FLOOR, description="scale of the teacher's adapters, times 1/rank")
    teacher_layers: int | None = Field(None, ge=1, description="its adapted layers, from below  [two thirds of all]")
    teacher_modules: LoraModules = Field("query-value", description="which parts of a layer the teacher adapts")
    teacher_dropout: float = Field(0.1, ge=0, lt=1, description="dropout before the teacher's adapters")
    student: str | None = Field(None, min_length=1, description="base of the students, where not the teacher's")
    rank: int = Field(8, ge=1, le=1024, description="rank of the student that no search chooses")
    alpha: float = Field(16, ge=FLOOR, description="scale of its adapters, times 1/rank")
    layers: int | None = Field(None, ge=1, description="its adapted layers, from below  [half of all]")
    modules: LoraModules = Field("query-value", description="which parts of a layer it adapts")
    dropout: float = Field(0.1, ge=0, lt=1, description="dropout before its adapters")


RECIPES: tuple[type[Choice], ...] = (
    HiddenStateRecipe,
    SentenceEmbeddingRecipe,
    CausalDivergenceRecipe,
    CausalPolicyGradientRecipe,
    RnnHybridRecipe,
    LoraRecipe,
)

if TYPE_CHECKING:
    RecipeSpec = Choice
else:
    RecipeSpec = Annotated[Union[RECIPES], Field(discriminator="name")]  # noqa: UP007 - of a tuple


def recipe_parts() -> dict[str, type[Choice]]:
    """Recipe name → the model of its options; the docstring's first line says what it is."""
    return by_name(RECIPES)


def recipe_names() -> list[str]:
    return list(recipe_parts())


def scored_as_built(recipe: RecipeSpec) -> bool:
    """Whether a student's loss before any step says something of it: not where it begins with fresh weights, nor of a
    decoder that is only sliced."""
    if isinstance(recipe, CausalRecipe):
        return recipe.init == "fitted"
    return isinstance(recipe, EncoderRecipe) and recipe.init != "random"
