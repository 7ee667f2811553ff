"""What the form of a new study says: a spec, or the fault of each field, in words. Knows no widget and no store."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from kdnas.study import spec_flags
from kdnas.study.constraints import PART
from kdnas.study.loan import AUTO, NOBODY
from kdnas.study.spec import StudySpec, from_values
from kdnas.study.spec_end import moment_of
from kdnas.system.errors import BadOptionError, KdnasError, UsageError
from kdnas_tui import workers
from kdnas_tui.screens.spec_fields import (
    ENTRIES,
    FIELDS,
    TEXTS,
    bounds_of,
    check_value,
    entry_of,
    number,
    plain_fault,
    split_settings,
    time_of,
)


@dataclass(frozen=True)
class Read:
    """`faults` by the form's field; the spec, where there is none."""

    spec: StudySpec | None
    faults: dict[str, str]


def read(texts: Mapping[str, str], taken: Collection[str], now: float) -> Read:
    """The form whose fields hold `texts`, in a store with studies of the names `taken`, at UTC second `now`."""
    pairs, faults = _pairs(texts)
    for field, value in pairs:
        try:
            check_value(field, value)
        except KdnasError as error:
            if field.startswith(f"{PART}."):
                faults.setdefault(PART, str(error).replace(f"{PART}.", ""))
            if (place := entry_of(field)) != "more":
                faults.setdefault(place, plain_fault(FIELDS[place].label, field, error))
    name, like = texts["name"], texts["like"]
    if name in taken:
        faults.setdefault("name", f"There is a study {name} already. Choose another name, or open it.")
    if taken and like not in (*taken, AUTO, NOBODY):
        faults.setdefault("like", f"There is no study {like!r} in this store. F2 lists those that there are.")
    if faults:
        return Read(None, faults)
    try:
        spec = from_values(spec_flags.overlay({}, pairs))
        moment_of(spec.budget, now)
    except BadOptionError as error:
        return Read(None, {entry_of(error.field): str(error)})
    except (KdnasError, TypeError, AttributeError) as error:
        return Read(None, {"more": str(error)})
    return Read(spec, {})


def _pairs(texts: Mapping[str, str]) -> tuple[list[tuple[str, Any]], dict[str, str]]:
    """Fields of a spec with their values, and the faults of what cannot be read."""
    pairs: list[tuple[str, Any]] = []
    faults: dict[str, str] = {}
    for entry in ENTRIES:
        text = texts[entry.field]
        if entry.field in ("more", PART):
            try:
                pairs += bounds_of(text) if entry.field == PART else map(spec_flags.assigned, split_settings(text))
            except UsageError as error:
                faults[entry.field] = str(error)
        elif entry.field == "time":
            pairs += time_of(text)
        elif entry.field == "budget.trials" and not text and texts["time"]:
            continue
        elif entry.field == "workers":
            if text != workers.GPUS and not (text.isascii() and text.isdigit() and 1 <= int(text) <= 256):
                faults["workers"] = f"{text!r} workers cannot be started. Give 1 to 256, or gpus."
        elif entry.field == "data.text_column" and not text:
            continue
        else:
            pairs.append((entry.field, text if entry.field in TEXTS else number(text)))
    return pairs, faults
