"""Whatever bytes a file holds, reading it gives documents or one line: never another exception, never no text."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from kdnas.data import documents, labelled
from kdnas.system.errors import KdnasError
from tests import fuzzing
from tests.data.reading import spec
from tests.odd_tables import FILES


def holds(kind: str) -> Callable[[bytes], None]:
    def check(raw: bytes) -> None:
        handle, name = tempfile.mkstemp(suffix=kind)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(raw)
            source = spec(name, label_column="label", group_column=None)
            for asked in ({}, {"labelled": True}, {"summaries": True}):
                try:
                    found = documents.read(source, **asked)  # type: ignore[arg-type]
                    if asked.get("labelled"):
                        labelled.classes(found)
                except KdnasError as error:
                    line = str(error)
                    assert error.hint and line.isprintable() | (len(line.splitlines()) == 1), line
                    line.encode("utf-8")
                    continue
                assert found.texts and all(text.strip() for text in found.texts)
                assert len(found.texts) == len(found.keys)
                for text in (*found.texts, *(found.labels or ())):
                    text.encode("utf-8")
                if asked:
                    assert found.labels is not None and all(label.strip() for label in found.labels)
        finally:
            Path(name).unlink()

    return check


@pytest.mark.parametrize("kind", FILES)
def test_any_bytes_give_documents_or_one_line(kind: str) -> None:
    fuzzing.some(FILES[kind], holds(kind), 40)
