"""Where a student comes from, in the hub's words: its teacher's name and licence, its data's name, its languages.

Asks what ships with kdnas and the teacher's own model card, where one lies in its folder. Fetches nothing.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdnas.data import hub
from kdnas.data.shipped import ASSETS, present

_SPDX = re.compile(r"[A-Za-z0-9][A-Za-z0-9.+-]*")
_OF_FILES = (".csv", ".tsv", ".json", ".jsonl", ".ndjson", ".parquet", ".txt", ".text")


@dataclass(frozen=True)
class Origin:
    """What is known; None and () stand for nothing."""

    teacher_id: str | None  # on the hub
    data_id: str | None  # on the hub
    data_name: str  # without the folders of the machine that it was read on, as is the teacher's
    licence: str | None  # of the teacher, which its student inherits
    languages: tuple[str, ...] = ()
    teacher_name: str = "a teacher"


def origin(spec: Mapping[str, Any]) -> Origin:
    """What a spec's teacher and data are on the hub."""
    teacher, source = str(spec["teacher"]["model"]), str(spec["data"]["source"])
    said = _said_of(teacher)
    shipped = ASSETS.get(teacher)
    data_id = source if source not in ASSETS and _on_hub(source) else None
    teacher_id = shipped.hub_id if shipped is not None else teacher if _on_hub(teacher) else None
    return Origin(
        teacher_id=teacher_id,
        teacher_name=teacher if teacher in ASSETS or teacher_id is not None else Path(teacher).name or teacher,
        data_id=data_id,
        data_name=source if source in ASSETS or data_id is not None else Path(source).name or source,
        licence=_licence(shipped.licence if shipped is not None else said.get("license")),
        languages=_languages(said.get("language")) or (("en",) if shipped is not None else ()),
    )


def _on_hub(name: str) -> bool:
    """Whether a name can only be that of the hub: USER/NAME, where no such file or folder is."""
    if name.count("/") != 1 or not hub.is_id(name) or name.lower().endswith(_OF_FILES):
        return False
    with contextlib.suppress(OSError, ValueError):
        return not Path(name).exists()
    return True


def _said_of(teacher: str) -> Mapping[str, Any]:
    """The front matter of the teacher's own card; empty where none can be read."""
    from huggingface_hub import ModelCard

    folder = present(teacher) if teacher in ASSETS else Path(teacher)
    with contextlib.suppress(Exception):  # somebody else's file, of which nothing is needed
        path = None if folder is None else folder / "README.md"
        if path is not None and path.is_file():
            return dict(ModelCard.load(path, ignore_metadata_errors=True).data.to_dict())
    return {}


def _licence(said: Any) -> str | None:
    found = _SPDX.match(said) if isinstance(said, str) else None
    return None if found is None else found[0].lower()


def _languages(said: Any) -> tuple[str, ...]:
    given = [said] if isinstance(said, str) else said if isinstance(said, list) else []
    return tuple(each for each in given if isinstance(each, str) and re.fullmatch(r"[A-Za-z-]{2,12}", each))
