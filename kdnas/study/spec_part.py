"""What every part of a spec is built on: frozen, no unknown field, no number without bounds. Knows no part."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, create_model

FLOOR = 1e-9
"""The least value of a number that must be positive: below it products and quotients of such numbers round to 0."""


class Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False)


class Choice(Part):
    """One of several parts that stand in the same place: a strategy's options, or a recipe's. Its `name` says which."""

    defaults: ClassVar[Mapping[str, Mapping[str, Any]]] = {}  # a recipe's own, for other parts of the spec
    if TYPE_CHECKING:
        name: str

    @classmethod
    def of(cls, name: str, summary: str, **fields: Any) -> type[Self]:
        """A choice in one line, for one that needs no validator. Its options are those of this class and `fields`, each
        (type, default or Field(…)). `summary` becomes its docstring, which lists and help print."""
        title = "".join(word.capitalize() for word in name.split("-")) + cls.__name__
        fields = {"name": (Literal[name], name), **fields}
        return create_model(title, __base__=cls, __doc__=summary, __module__=cls.__module__, **fields)


C = TypeVar("C", bound=Choice)


def by_name(parts: tuple[type[C], ...]) -> dict[str, type[C]]:
    """The parts by what they say their `name` is."""
    return {part.model_fields["name"].default: part for part in parts}
