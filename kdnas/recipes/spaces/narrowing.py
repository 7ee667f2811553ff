"""How a spec narrows a recipe's own space: the same rules and the same words for every recipe."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from kdnas.study.space import Condition, Dimension, Value
from kdnas.study.spec import SpaceSpec
from kdnas.system.errors import BadOptionError, UsageError, nearest


def choices_of(spec: SpaceSpec, known: Sequence[str], *, lists: bool = False) -> dict[str, tuple[Value, ...]]:
    """The only values that the spec allows, of each dimension that it narrows; not yet checked.

    `lists` is for a recipe to whose students KD-NAS's preset applies. Raises UsageError for that preset elsewhere,
    and for a dimension that is not known.
    """
    if spec.preset != "full" and not lists:
        raise UsageError(f"The preset {spec.preset!r} is a list of encoders.", "Take the preset full for this recipe.")
    for name in spec.choices:
        if name not in known:
            raise BadOptionError("space.choices", f"The search space has no dimension {name!r}.", nearest(name, known))
    return dict(spec.choices)


def dimension(name: str, values: Iterable[Value], *, ordered: bool, when: Condition | None = None) -> Dimension:
    """A dimension of the values as the spec has them; sizes rise, whatever order they were given in."""
    return Dimension(name, tuple(sorted(values) if ordered else values), ordered, when)


def require_whole(name: str, value: Value, most: int, whose: str = "") -> None:
    """Raise BadOptionError where a value is no whole number from 1 to `most`."""
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= most:
        raise BadOptionError(
            f"space.choices.{name}",
            f"{name} = {value!r} is out of range.",
            f"Give whole numbers from 1 to {most}{f', {whose}' if whose else ''}.",
        )
