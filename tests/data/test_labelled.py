"""Labelled examples: nothing on both sides, every class in every part, and one line for labels that are none."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kdnas.data import documents as reading
from kdnas.data import labelled, splits
from kdnas.study.spec import DataSpec
from kdnas.system.errors import BadOptionError, UsageError
from tests.encoders import VOCABULARY, WORDS, texts

pytestmark = pytest.mark.usefixtures("own_cache")


def spec(source: object, **values: Any) -> DataSpec:
    given = {"source": str(source), "length": 16, "held_out": 0.2, "label_column": "label", **values}
    return DataSpec.model_validate(given)


def table(path: Path, labels: list[Any], films: int = 6) -> Path:
    """One short text a label, with a film each, as JSONL."""
    rows = [
        {"text": " ".join(WORDS[i % 60 : i % 60 + 4]), "label": label, "film": f"f{i % films}"}
        for i, label in enumerate(labels)
    ]
    path = path / "data.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return path


def test_examples_of_one_group_stay_on_one_side(tmp_path: Path, tokenizer: Any) -> None:
    path = tmp_path / "data.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["body", "label", "film"])
        writer.writerows([text, "ab"[i % 2], f"f{i % 6}"] for i, text in enumerate(texts()))
    wanted = spec(path, text_column="body", group_column="film", max_held_out=2)
    made = labelled.read(wanted, 0.5, tokenizer)
    found = reading.read(wanted, labelled=True)
    assert made.names == ("a", "b") and found.groups is not None
    group = dict(zip(found.texts, found.groups, strict=True))
    train, held, test = [
        {group[next(t for t in group if t.startswith(" ".join(WORDS[i - 5] for i in ids[1:-1])))] for ids in side.ids}
        for side in (made.train, made.held_out, made.test)
    ]
    assert train and held and test and not train & (held | test)
    assert all(ids[0] == VOCABULARY["[CLS]"] and ids[-1] == VOCABULARY["[SEP]"] for ids in made.train.ids)
    assert all(len(ids) <= 16 for ids in made.train.ids)


@given(
    st.lists(st.integers(4, 40), min_size=2, max_size=4), st.floats(0.1, 0.5), st.floats(0.2, 1.0), st.integers(0, 9)
)
@settings(deadline=None, max_examples=30)
def test_every_part_has_each_class_in_its_share(counts: list[int], held_out: float, head: float, seed: int) -> None:
    labels = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(counts)), counts))
    documents = reading.Documents("d", [f"x{i}" for i in range(len(labels))], "f", [str(n) for n in labels])
    held, train = splits.by_label(documents, labels, held_out)
    assert sorted([*held, *train]) == list(range(len(labels)))
    for rows in (held, train):
        ordered = splits.evenly(rows, labels)
        assert sorted(ordered) == sorted(rows)
        part = ordered[: max(1, round(head * len(rows)))]
        for label in range(len(counts)):
            wanted = float((labels[rows] == label).mean()) * len(part)
            assert abs(int((labels[part] == label).sum()) - wanted) <= 2
    for label, count in enumerate(counts):
        assert abs(int((labels[held] == label).sum()) - held_out * count) <= 1


def test_the_split_is_the_same_every_time_and_the_proxy_is_a_head(tmp_path: Path, tokenizer: Any) -> None:
    wanted = spec(table(tmp_path, ["good", "bad"] * 30), max_held_out=8)
    one, two = (labelled.read(wanted, 0.25, tokenizer) for _ in range(2))
    assert one.fingerprint == two.fingerprint and one.train.fingerprint() == two.train.fingerprint()
    assert (len(one.train), len(one.held_out), len(one.test), len(one.proxy)) == (48, 8, 4, 12)
    assert one.proxy.fingerprint() == one.train[:12].fingerprint()
    assert sorted(one.proxy.labels) == [0] * 6 + [1] * 6
    assert one.id2label == {0: "bad", 1: "good"}


def test_the_limit_counts_both_sides(tmp_path: Path, tokenizer: Any) -> None:
    made = labelled.read(spec(table(tmp_path, ["good", "bad"] * 30), limit=20), 1.0, tokenizer)
    assert (len(made.train), len(made.held_out)) == (16, 4)


def test_numbers_are_classes_in_their_own_order(tmp_path: Path, tokenizer: Any) -> None:
    made = labelled.read(spec(table(tmp_path, [10, 2, 1.0] * 12)), 1.0, tokenizer)
    assert made.names == ("1", "2", "10")


def test_the_hubs_order_of_classes_is_kept() -> None:
    """Heads that name no classes were trained in that order."""
    order = ["World", "Sports", "Business", "Sci/Tech"]
    documents = reading.Documents("ag", ["x"] * 40, "f", sorted(order) * 10, classes=order)
    names, labels = labelled.classes(documents)
    assert names == tuple(order)
    assert [names[label] for label in labels[:4]] == sorted(order)


@given(st.lists(st.integers(1, 30), min_size=1, max_size=60), st.integers(1, 9), st.booleans())
@settings(deadline=None, max_examples=40)
def test_length_grouped_batches_give_every_example_once(lengths: list[int], batch: int, shuffled: bool) -> None:
    examples = labelled.Examples(tuple(np.full(n, n) for n in lengths), np.arange(len(lengths)))
    rng = np.random.default_rng(0) if shuffled else None
    seen = []
    for part in labelled.batches(examples, batch, 99, rng):
        assert part.ids.shape == part.mask.shape and len(part.ids) <= batch
        assert ((part.ids == 99) == ~part.mask).all()
        assert part.mask.sum(1).tolist() == [lengths[row] for row in part.rows]
        seen += part.labels.tolist()
    assert sorted(seen) == list(range(len(lengths)))


def written(path: Path, name: str, content: bytes) -> Path:
    (path / name).write_bytes(content)
    return path / name


MISTAKES: dict[str, tuple[Callable[[Path], DataSpec], str]] = {
    "one class only": (lambda p: spec(table(p, ["good"] * 20)), "has only one class, 'good'"),
    "a label missing": (lambda p: spec(table(p, ["good", "bad", None, "bad"] * 5)), "has no label in row 3"),
    "a blank label": (lambda p: spec(table(p, ["good", " "] * 5)), "has no label in row 2"),
    "a list as a label": (lambda p: spec(table(p, ["good", ["bad"]] * 5)), "has a list as its label in row 2"),
    "texts as labels": (lambda p: spec(table(p, [f"text {i}" for i in range(20)])), "are no classes: 20 different"),
    "measurements as labels": (lambda p: spec(table(p, [i / 7 for i in range(1, 20)])), "are no classes"),
    "a missing column": (
        lambda p: spec(table(p, ["good", "bad"] * 9), label_column="lable"),
        "has no column 'lable'. There are: text, label, film.",
    ),
    "another encoding": (
        lambda p: spec(written(p, "a.csv", "text,label\ncafé,good\n".encode("cp1252"))),
        "is not UTF-8: byte 0xe9 in line 2",
    ),
    "an empty file": (lambda p: spec(written(p, "a.csv", b"")), "is empty"),
    "a header alone": (lambda p: spec(written(p, "a.csv", b"text,label\n")), "is empty"),
    "one film": (lambda p: spec(table(p, ["good", "bad"] * 9, films=1), group_column="film"), "too few examples"),
    "a class that is held out whole": (
        lambda p: spec(table(p, ["good", "bad"] * 9, films=2), group_column="film"),
        "none of the class",
    ),
    "a text without labels": (lambda p: spec("sotu"), "has no labels"),
    "no column named": (lambda p: spec(table(p, ["good", "bad"] * 9), label_column=None), "needs labels"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_line_with_the_hint(tmp_path: Path, tokenizer: Any, mistake: str) -> None:
    make, words = MISTAKES[mistake]
    with pytest.raises(UsageError) as caught:
        labelled.read(make(tmp_path), 1.0, tokenizer)
    line = str(caught.value)
    assert words in line and caught.value.hint and "\n" not in line


def test_a_source_without_labels_points_at_its_field() -> None:
    for wanted, field in ((spec("sotu"), "data.source"), (spec("a/b", label_column=None), "data.label_column")):
        with pytest.raises(BadOptionError) as caught:
            reading.require_labels(wanted)
        assert caught.value.field == field
