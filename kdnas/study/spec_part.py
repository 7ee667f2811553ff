"""What every part of a spec is built on: frozen, no unknown field, no number without bounds. Knows no part."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict

FLOOR = 1e-9
"""The least value of a number that must be positive: below it products and quotients of such numbers round to 0."""


class Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False)
    defaults: ClassVar[Mapping[str, Mapping[str, Any]]] = {}  # a recipe's own, for other parts of the spec


def by_name(parts: tuple[type[Part], ...]) -> dict[str, type[Part]]:
    """The parts by what they say their `name` is."""
    return {part.model_fields["name"].default: part for part in parts}
