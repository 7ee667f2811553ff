"""A study read straight into columns is the study read row by row, whatever its configurations look like."""

from __future__ import annotations

import json
from dataclasses import fields
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdnas.store import queries, read_columns
from kdnas.store import tables as t
from kdnas.store.database import Store, open_store
from kdnas.store.read_columns import by_column, read_board, sketch_board
from kdnas.store.studies import create_study
from kdnas.study.columns import Same
from kdnas.study.spec import StudySpec
from kdnas.study.trial_columns import Board
from tests.rows import made_row, made_rows

OWN = ("candidate", "config", "extra")
STORED = {c.name for c in t.trial.c} & {f.name for f in fields(type(made_row()))} - set(OWN)


def filled(address: str, rows: list[Any], configs: list[str | None]) -> tuple[Store, int]:
    store = open_store(address)
    study_id = create_study(store, StudySpec(name="some"))
    values = []
    for row, config in zip(rows, configs, strict=True):
        value = {name: getattr(row, name) for name in STORED}
        value |= {"study_id": study_id, "candidate": json.dumps(row.candidate), "candidate_key": str(row.number)}
        value |= {"config": config, "extra": json.dumps(dict(row.extra)) if row.number % 2 else None}
        values.append(value)
    with store.begin() as connection:
        connection.execute(t.trial.insert(), values)
    return store, study_id


def by_rows(store: Store, study_id: int) -> Board:
    board = Board(-0.06, 0.6)
    board.update(queries.trial_rows(store, study_id))
    return board


BASE = {"output": False, "id2label": {"0": "A, B", "1": "C"}, "label2id": {"A, B": 0}, "hidden_size": 1, "eps": 1e-12,
        "none": None, "list": [1, 2], "hidden_act": "gelu", "model_type": "bert", "last": True}  # fmt: skip


def test_a_study_reads_the_same_by_rows_and_by_columns(address, monkeypatch):
    monkeypatch.setattr(read_columns, "_BATCH", 16)  # so that there are several
    rows = made_rows(60)
    configs: list[str | None] = [json.dumps({**BASE, **row.config}) for row in rows]
    configs[7] = None
    configs[20] = json.dumps({"another": "family", "with": {"other": "keys"}})
    configs[33] = json.dumps({**BASE, "id2label": {"0": "Z", "1": "C"}})
    configs[34] = json.dumps({**BASE, "eps": 1, "none": "now some", "last": False})
    store, study_id = filled(address, rows, configs)
    with store, store.begin() as connection:
        for seed in (1, 2):
            again = {"number": 4, "seed": seed, "loss": 0.3, "raw_loss": 0.1, "latency_ms": 4.0}
            connection.execute(t.repeat.insert().values(study_id=study_id, teacher_latency_ms=30.0, time=0.0, **again))
        connection.execute(
            t.remark.insert().values(study_id=study_id, number=5, marked=True, tags="keep tiny", note="again")
        )
    with store:
        columns, plain = read_board(store, study_id, -0.06, 0.6), by_rows(store, study_id)
    assert columns.ranked() == plain.ranked()
    assert columns.revision == plain.revision
    assert columns.keys() == plain.keys()
    for place in range(len(rows)):
        for key, value in columns.row(place).config.items():
            assert type(value) is type(plain.row(place).config[key])


def test_a_sketch_ranks_lists_and_plots_the_same_and_has_the_best_whole(address, monkeypatch):
    monkeypatch.setattr(read_columns, "_LOOKED_AT", 5)
    rows = made_rows(60)
    store, study_id = filled(address, rows, [json.dumps(row.config) for row in rows])
    with store:
        sketch, whole = sketch_board(store, study_id, -0.06, 0.6), read_board(store, study_id, -0.06, 0.6)
    assert (sketch.whole, whole.whole) == (False, True)
    for name in ("reward", "rank", "tie", "front", "order"):
        np.testing.assert_array_equal(getattr(sketch.standing, name), getattr(whole.standing, name))
    for descending in (True, False):
        np.testing.assert_array_equal(
            sketch.order("reward", descending=descending), whole.order("reward", descending=descending)
        )
    np.testing.assert_array_equal(sketch.ended(), whole.ended())
    assert sketch.best(5) == whole.best(5)
    assert sketch.best(6)[5].row.config == {} != whole.best(6)[5].row.config


def test_an_empty_study_is_an_empty_board(address):
    with open_store(address) as store:
        board = read_board(store, create_study(store, StudySpec(name="none")), -0.06, 0.6)
    assert len(board) == 0 and board.revision == -1


def told(columns: dict[str, Any], count: int) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for place in range(count):
        values = {key: column.value if isinstance(column, Same) else column[place] for key, column in columns.items()}
        found.append({key: value for key, value in values.items() if repr(value) != "ABSENT"})
    return found


scalars = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.text(max_size=6),
                    st.sampled_from(["a, b", '"k": 1', '", "', "}, {"]))  # fmt: skip
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abcd"), inner, max_size=3),
    max_leaves=5,
)
objects = st.dictionaries(st.sampled_from("abcde"), values, max_size=5)


@given(objects, st.lists(st.tuples(st.sampled_from("abcde"), values), max_size=6))
def test_objects_that_differ_in_a_few_values_are_read_exactly(first, changes):
    texts = [json.dumps(first)]
    for key, value in changes:
        texts.append(json.dumps({**json.loads(texts[-1]), key: value}))
    found = told(by_column(texts), len(texts))
    for was, text in zip(found, texts, strict=True):
        assert json.dumps(was, sort_keys=True) == json.dumps(json.loads(text), sort_keys=True)


@pytest.mark.parametrize(
    "texts",
    [
        ['{"a": {"b": 1}, "b": 1}', '{"a": {"b": 2}, "b": 1}'],
        ['{"a": {"x": 0, "b": 1}, "b": 1}', '{"a": {"x": 0, "b": 2}, "b": 1}'],
        ['{"b": 1, "a": [{"c": 0, "b": 1, "d": 2}]}', '{"b": 1, "a": [{"c": 0, "b": 3, "d": 2}]}'],
        ['{"a": "x, y", "b": 1}', '{"a": "x, z", "b": 1}'],
        ['{"a": 1}', '{"a": 1.0}', '{"a": true}', '{"a": null}', '{"a": "1"}'],
        ['{"a": NaN}', '{"a": -Infinity}', '{"a": 1e999}', '{"a": 1}'],
        ['{"a": 123456789012345678901234567890}', '{"a": "\\ud800"}', '{"a": -0.0}'],
        ["[1]", "[2]"][:0],
    ],
)
def test_pieces_that_only_look_like_keys_are_not_mistaken(texts):
    found = told(by_column(texts), len(texts))
    assert [json.dumps(value, sort_keys=True) for value in found] == [
        json.dumps(json.loads(text), sort_keys=True) for text in texts
    ]
