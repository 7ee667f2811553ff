"""Whether a row holds what its table says. A file keeps any value in any column, whoever wrote it. Reads no store."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from kdnas.system.moments import CALENDAR_S

OBJECTS: Mapping[str, frozenset[str]] = {  # table → its columns that hold a JSON object where they hold anything
    "kdnas_study": frozenset({"spec", "provenance"}),
    "kdnas_slot": frozenset({"candidate"}),
    "kdnas_trial": frozenset({"candidate", "config", "extra"}),
    "kdnas_episode": frozenset({"facts"}),
    "kdnas_event": frozenset({"detail"}),
    "kdnas_run": frozenset({"result"}),
    "kdnas_latency": frozenset({"measured"}),
    "kdnas_campaign": frozenset({"spec", "result"}),
    "kdnas_campaign_score": frozenset({"facts"}),
    "kdnas_campaign_decision": frozenset({"facts"}),
}
MOMENTS = frozenset({"created", "updated", "finished", "started", "ended", "heartbeat", "time"})  # UTC seconds
SHOWN = 40  # letters of a value that a message repeats


def fault(table: sa.Table, values: Mapping[Any, Any]) -> str | None:
    """What is wrong with a row, to follow `is damaged:`; None for a sound one."""
    objects = OBJECTS.get(table.name, frozenset())
    for column in table.columns:
        value = values.get(column.name)
        if value is None:
            if column.name in values and not column.nullable:
                return f"{column.name} is missing"
        elif not isinstance(value, _kinds(column)):
            return f"{column.name} is {repr(value)[:SHOWN]}"
        elif column.name in objects and not _is_object(value):
            return f"{column.name} is no JSON object"
        elif column.name in MOMENTS and isinstance(value, int | float) and not CALENDAR_S[0] <= value < CALENDAR_S[1]:
            return f"{column.name} is {value:g}, which is no time"
    return None


def require_objects(found: Sequence[Any], texts: Sequence[str | None]) -> None:
    """Raises json.JSONDecodeError where the JSON of several rows, read as one list, is not one object for each."""
    if len(found) != len(texts) or not all(type(each) is dict for each in found):
        raise json.JSONDecodeError("a text is no JSON object", "", 0)


def _kinds(column: sa.Column[Any]) -> tuple[type, ...]:
    kind: type = column.type.python_type
    return (int, float) if kind is float else (kind,)


def _is_object(text: object) -> bool:
    try:
        return isinstance(json.loads(str(text)), dict)
    except (ValueError, RecursionError):
        return False
