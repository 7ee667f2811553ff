"""When a text is too short to learn from: then fitted students are scored as they are built, and none is trained.

The rule, for the search, its plan and what both say of it. Reads no text and trains nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kdnas.study.spec import BudgetSpec, StudySpec
from kdnas.study.spec_recipes import EncoderRecipe

LEARNABLE_TOKENS = 60_000
"""Tokens, times the epochs in which each is seen, below which training takes more from a fitted student than it gives.

Measured with all-MiniLM-L6-v2, held-out loss as fitted and after mini-KD:

- two epochs of 21,000 tokens: worse for 13 of 16 students at the default step size (3 x 384 x 1536: 0.376, then 0.420);
  at 2e-5 and 5e-5 no loss changes by more than 0.005;
- two epochs of 41,000 tokens of film reviews: better (4 x 320 x 192: 0.494, then 0.444);
- one epoch of 190,000 tokens at 2e-4: better for deep students (4 x 320 x 768: 0.494, then 0.465), no worse for others.

The border lies between 42,000 and 82,000; this is their geometric mean, rounded. It does not depend on a student's
parameters, since all students of a study must have been scored alike to be compared. Epochs count because nothing was
measured that tells a text that is read twice from one of twice the length.
"""


def too_short(spec: StudySpec, tokens: int) -> bool:
    """Whether the students of a search are to be scored as built, though epochs were asked for: where they are fitted,
    `tokens` of the proxy part times the epochs are fewer than LEARNABLE_TOKENS, and the spec does not say otherwise.

    Runs that are compared (`space.variants`) are trained as they say.
    """
    budget = spec.budget
    fitted = isinstance(spec.recipe, EncoderRecipe) and spec.recipe.init == "fitted" and not spec.space.variants
    asked = budget.epochs > 0 and budget.short_text == "score"
    return fitted and asked and tokens * budget.epochs < LEARNABLE_TOKENS


def allowed(spec: StudySpec, tokens: int) -> BudgetSpec:
    """The budget that candidates have on a proxy part of so many tokens: the spec's, or one without training."""
    if not too_short(spec, tokens):
        return spec.budget
    return spec.budget.model_copy(update={"epochs": 0, "rungs": (), "pruner": "none"})


def facts(spec: StudySpec, tokens: int) -> dict[str, Any]:
    """What a study records where the rule holds: tokens of the proxy part, epochs asked for, and the least that these
    would have to make together."""
    return {"proxy_tokens": tokens, "epochs": spec.budget.epochs, "needed": LEARNABLE_TOKENS}


def told(provenance: Mapping[str, Any]) -> tuple[str, ...]:
    """What a study's provenance says of the rule, for a person; nothing where it does not hold."""
    found = provenance.get("short_text")
    if not isinstance(found, Mapping):
        return ()
    tokens, epochs, needed = found["proxy_tokens"], found["epochs"], found["needed"]
    times = f" in {epochs} epochs" if epochs > 1 else ""
    return (
        f"The text is too short to learn from: {tokens:,} tokens{times}, where {needed:,} in all are needed. "
        "Students are scored as fitted, without training. Give more text or a larger budget.proxy_fraction; "
        "budget.short_text=train trains them all the same.",
    )
