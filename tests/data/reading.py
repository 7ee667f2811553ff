"""Small files for tests of reading, and the documents in them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kdnas.data import documents
from kdnas.data.documents import Documents
from kdnas.study.spec import DataSpec


def spec(source: object, **values: Any) -> DataSpec:
    return DataSpec.model_validate({"source": str(source), "length": 16, "held_out": 0.2, **values})


def read(source: object, *, labelled: bool = False, summaries: bool = False, **values: Any) -> Documents:
    return documents.read(spec(source, **values), labelled=labelled, summaries=summaries)


def put(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def jsonl(folder: Path, rows: Sequence[dict[str, Any]], name: str = "data.jsonl") -> Path:
    return put(folder, name, "".join(json.dumps(row) + "\n" for row in rows))


def parquet(folder: Path, columns: dict[str, Any], name: str = "data.parquet", metadata: Any = None) -> Path:
    import pyarrow as pa
    import pyarrow.parquet

    table = pa.table(columns)
    if metadata is not None:
        table = table.replace_schema_metadata({b"huggingface": json.dumps(metadata).encode()})
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(table, path)
    return path
