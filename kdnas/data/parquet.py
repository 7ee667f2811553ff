"""Parquet as a table: only the columns that are asked for, with the class names that the hub's library wrote down."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from kdnas.data.table import Table, require_unique
from kdnas.system.errors import UsageError, first_line

PART = 65_536  # rows that are read at once
HINT = "Give a sound file, or write it again."


def read_parquet(name: str, raw: bytes, wanted: Sequence[str]) -> Table:
    """Raises UsageError for whatever pyarrow cannot read, in its own first words."""
    import pyarrow.parquet

    try:
        # Not a file of Python's: pyarrow's threads would ask for it after the interpreter has ended, and abort.
        file = pyarrow.parquet.ParquetFile(pyarrow.BufferReader(raw))
        schema = file.schema_arrow
    except Exception as error:  # of several unrelated types, and some of Python's own
        raise UsageError(f"{name} is no Parquet file: {first_line(error)}.", HINT) from None
    header = tuple(schema.names)
    require_unique(name, header)
    there = [column for column in wanted if column in header]
    try:
        # In parts: pyarrow takes memory for whatever number of rows a footer says, before it looks for the values.
        parts = list(file.iter_batches(PART, columns=there, use_threads=False)) if there else []
        columns = {column: [value for part in parts for value in _values(part.column(column))] for column in there}
        footer = file.metadata
        count = int(footer.num_rows)
        counted = sum(footer.row_group(n).num_rows for n in range(footer.num_row_groups))
    except Exception as error:
        raise UsageError(f"{name} is damaged: {first_line(error)}.", HINT) from None
    if counted != count:
        raise UsageError(f"{name} is damaged: its parts have {counted:,} rows, and the whole {count:,}.", HINT)
    short = next((column for column, values in columns.items() if len(values) != count), None)
    if short is not None:
        raise UsageError(f"{name} is damaged: {len(columns[short]):,} values for {count:,} rows.", HINT)
    return Table(name, header, columns, count, None, _class_names(schema.metadata))


def _values(column: Any) -> list[Any]:
    try:
        return list(column.to_pylist())
    except UnicodeDecodeError:
        import pyarrow

        # Bytes, so that whoever reads the cells can name the row.
        return list(column.cast(pyarrow.large_binary()).to_pylist())


def _class_names(metadata: dict[bytes, bytes] | None) -> dict[str, tuple[str, ...]]:
    """Names of classes by column, from the features that the library datasets writes into the schema."""
    try:
        features = json.loads((metadata or {})[b"huggingface"])["info"]["features"]
        return {
            column: tuple(map(str, feature["names"]))
            for column, feature in features.items()
            if isinstance(feature, dict) and feature.get("_type") == "ClassLabel" and feature.get("names")
        }
    except (KeyError, TypeError, ValueError, AttributeError):
        return {}
