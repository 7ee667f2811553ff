"""A spec as a TOML file: read with every fault named, written with every value. Checks no value itself."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import tomli_w

from kdnas.study.spec import StudySpec, from_values
from kdnas.system.errors import UsageError, first_line


def read_toml(path: Path) -> StudySpec:
    """A spec file. Raises UsageError for one that is missing, is not TOML, or holds a wrong value."""
    return from_values(read_values(path))


def read_values(path: Path) -> dict[str, Any]:
    """A spec file's nested values, unchecked, so that flags can be laid over them."""
    try:
        text = path.read_text(encoding="utf-8-sig")  # some editors begin a file with a byte-order mark
    except OSError as error:
        raise UsageError(f"The spec {path} cannot be read: {error.strerror}.", "Give a TOML file.") from None
    except UnicodeDecodeError:
        raise UsageError(f"The spec {path} is not text in UTF-8.", "Save it as UTF-8.") from None
    try:
        return tomllib.loads(text)
    except RecursionError:
        raise UsageError(f"The spec {path} is nested too deeply.", "Write it with fewer brackets.") from None
    except ValueError as error:  # a TOMLDecodeError, or a number of too many digits
        raise UsageError(f"The spec {path} is not TOML: {first_line(error)}.", "Fix that line.") from None


def to_toml(spec: StudySpec) -> str:
    """The spec as TOML, every value written out; what is None is left out."""
    return tomli_w.dumps(spec.model_dump(mode="json", exclude_none=True))
