"""The readers of data: CSV and TSV, JSON lines and JSON, Parquet. Sound files must give the rows that stand in them."""

from __future__ import annotations

import io
import json
from typing import Any

from hypothesis import strategies as st

from benchmarks.fuzz.commands import command, refusal
from benchmarks.fuzz.reader import Bench, Given, Reader, Reading, Wrong
from kdnas.data import documents, labelled
from kdnas.data.documents import Documents
from kdnas.study.spec import DataSpec, from_values
from kdnas.system.errors import KdnasError
from tests import odd_tables
from tests.odd_bytes import mutated
from tests.odd_tables import FILES, Sound

LONG = tuple((f"{name} " + "waa wab wac " * 20, name) for name in ("a", "b", "a", "b", "c", "c"))  # enough for a plan
ASKED: tuple[dict[str, Any], ...] = ({}, {"labelled": True}, {"summaries": True})


def _feeding(bench: Bench, inputs: st.SearchStrategy[Given], sound: Given) -> Reading:
    """`kdnas plan --dataset FILE`, and the rows as those get them who train, on texts, on classes and on summaries."""

    def feed(given: Given) -> bool:
        path = bench.put(given)
        data = from_values({"data": {"source": str(path), "length": 16, "label_column": "label"}}).data
        accepted = [_read(data, given, asked) for asked in ASKED]
        planned = command("plan", "--spec", str(bench.spec), "--dataset", str(path)).code == 0
        if planned and not accepted[0]:
            raise Wrong("a file is refused when it is read, and planned with")
        return accepted[0]

    return Reading(inputs, feed, sound)


def _read(data: DataSpec, given: Given, asked: dict[str, Any]) -> bool:
    try:
        found = documents.read(data, **asked)
        if asked.get("labelled"):
            labelled.classes(found)
    except KdnasError as error:
        refusal(error)
        return False
    _consistent(found)
    if given.rows is not None:
        _same(found, given)
    return True


def _consistent(found: Documents) -> None:
    if not found.texts or not all(text.strip() for text in found.texts):
        raise Wrong("a document without text is accepted")
    if found.labels is not None and len(found.labels) != len(found.texts):
        raise Wrong("there are labels of other rows", f"{len(found.labels)} for {len(found.texts)}")
    for text in (*found.texts, *(found.labels or ()), *found.notes):
        text.encode()


def _same(found: Documents, given: Given) -> None:
    """The rows are those that the file was made of."""
    assert given.rows is not None
    kept = Sound(given.raw, given.rows).kept
    if list(found.texts) != [text for text, _ in kept]:
        raise Wrong("other texts than the file's are read", f"{list(found.texts)!r} for {kept!r}")
    if found.labels is not None and list(found.labels) != [label for _, label in kept]:
        raise Wrong("other labels than the file's are read", f"{list(found.labels)!r} for {kept!r}")
    if found.empty != len(given.rows) - len(kept):
        raise Wrong("other rows than those without text are said to lack it", str(found.empty))


def _kind(suffix: str, sound: st.SearchStrategy[Sound]) -> st.SearchStrategy[Given]:
    """Sound files, sound ones that were changed, and such as are put together of odd pieces."""
    changed = mutated(sound.map(lambda each: each.raw)) | FILES[suffix]
    known = sound.map(lambda each: Given(each.raw, suffix, each.rows))
    return st.one_of(known, changed.map(lambda raw: Given(raw, suffix)), changed.map(lambda raw: Given(raw, suffix)))


def csv(bench: Bench) -> Reading:
    kinds = _kind(".csv", odd_tables.sound_csv()), _kind(".csv", odd_tables.sound_csv())
    sound = "\n".join(["text,label", *(f"{text},{label}" for text, label in LONG)])
    return _feeding(
        bench, st.one_of(*kinds, _kind(".tsv", odd_tables.sound_tsv())), Given(sound.encode(), ".csv", LONG)
    )


def jsonl(bench: Bench) -> Reading:
    inputs = st.one_of(*(_kind(suffix, odd_tables.sound_json()) for suffix in (".jsonl", ".json")))
    sound = "\n".join(json.dumps({"text": text, "label": label}) for text, label in LONG)
    return _feeding(bench, inputs, Given(sound.encode(), ".jsonl", LONG))


def parquet(bench: Bench) -> Reading:
    import pyarrow as pa
    import pyarrow.parquet

    sink = io.BytesIO()
    pyarrow.parquet.write_table(pa.table({"text": [row[0] for row in LONG], "label": [row[1] for row in LONG]}), sink)
    mixed = mutated(odd_tables.any_parquet()).map(lambda raw: Given(raw, ".parquet"))
    sound = Given(sink.getvalue(), ".parquet", LONG)
    return _feeding(bench, _kind(".parquet", odd_tables.sound_parquet()) | mixed, sound)


READERS = [Reader("csv", csv), Reader("jsonl", jsonl), Reader("parquet", parquet)]
