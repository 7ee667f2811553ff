"""All readers. A new one is a line in the list of its kind."""

from __future__ import annotations

from benchmarks.fuzz import filters, specs, stores, tables
from benchmarks.fuzz.reader import Reader

READERS: list[Reader] = [*specs.READERS, *filters.READERS, *tables.READERS, *stores.READERS]
