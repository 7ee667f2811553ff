"""One rule of what is held out: equal texts on one side, every draw as before where there are none, all of it said."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kdnas.data import causal_text, chunks, documents, labelled, splits
from kdnas.data.documents import Documents, same_text
from kdnas.search.plan import plan
from kdnas.study.spec import StudySpec, from_values
from kdnas.system.errors import UsageError
from kdnas.system.progress import Note
from tests.data.reading import jsonl, put, spec
from tests.encoders import WORDS, tiny_encoder
from tests.encoders import texts as long_texts

pytestmark = pytest.mark.usefixtures("own_cache")


def fingerprint(*parts: np.ndarray) -> str:
    return hashlib.sha256(b"".join(part.astype(np.int64).tobytes() for part in parts)).hexdigest()[:16]


def made(texts: list[str], labels: Any = None, groups: Any = None) -> Documents:
    return Documents("d", texts, "f", None if labels is None else [str(n) for n in labels], groups)


# Of the rule as it was before equal texts were looked for.
BEFORE = {
    0.05: ("1b80d165c7eb7f7a", "c0aacce6aad526e1", "b7b0604d6f5bd021", "3e6130ed87b3a2fb"),
    0.3: ("fd751e30404c3d59", "d30c9807fe0e6213", "e67ef0ff45318ab9", "b5a505f734347457"),
}


@pytest.mark.parametrize("share", BEFORE)
def test_data_without_equal_texts_is_split_as_ever(share: float) -> None:
    rows = np.arange(300)
    texts, lengths, labels = [f"document {i}" for i in rows], (rows * 7919) % 211 + 1, rows * 31 % 7 % 3
    groups = [f"g{i * 13 % 41}" for i in rows]
    plain, grouped = made(texts, labels), made(texts, labels, groups)
    found = (
        splits.by_tokens(lengths, plain, share),
        splits.by_tokens(lengths, grouped, share),
        splits.by_label(plain, labels, share),
        splits.by_label(grouped, labels, share),
    )
    assert tuple(fingerprint(*sides) for sides in found) == BEFORE[share]


def test_the_order_within_a_side_is_as_ever() -> None:
    labels = np.arange(300) * 31 % 7 % 3
    assert fingerprint(splits.evenly(np.arange(0, 300, 2), labels)) == "ac677c621ae6111a"


@given(st.lists(st.integers(0, 30), min_size=8, max_size=80), st.floats(0.02, 0.6), st.booleans(), st.integers(0, 5))
@settings(deadline=None, max_examples=150)
def test_no_text_stands_on_both_sides_whatever_is_repeated(
    drawn: list[int], share: float, grouped: bool, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    spelled = ("Text {}", "text  {} ", "TEXT\n{}")
    texts = [spelled[int(rng.integers(3))].format(n) for n in drawn]
    groups = [None if n == 0 else f"g{n}" for n in rng.integers(0, 9, len(texts))] if grouped else None
    labels = rng.integers(0, 3, len(texts))
    rows = made(texts, labels, groups)
    for make in (
        lambda: splits.by_tokens(np.ones(len(texts)), rows, share),
        lambda: splits.by_label(rows, labels, share),
    ):
        try:
            held, train = make()
        except UsageError:
            continue  # nothing could be held out of so few texts
        assert sorted([*held, *train]) == list(range(len(texts)))
        assert not {rows.keys[i] for i in held} & {rows.keys[i] for i in train}
        if groups is not None:
            sides = [{groups[i] for i in side if groups[i] is not None} for side in (held, train)]
            assert not sides[0] & sides[1]


def test_a_table_in_which_every_row_stands_twice_still_holds_its_share_out() -> None:
    texts = [f"row {i // 2}" for i in range(400)]
    labels = np.arange(400) // 2 % 2
    for held, train in (
        splits.by_label(made(texts, labels), labels, 0.2),
        splits.by_tokens(np.ones(400), made(texts), 0.2),
    ):
        assert len(held) == 80 and len(train) == 320
        assert not {texts[i] for i in held} & {texts[i] for i in train}


def test_one_text_that_is_most_of_the_data_does_not_become_the_held_out_part() -> None:
    texts = ["same"] * 700 + [f"row {i}" for i in range(300)]
    labels = np.array([0] * 700 + [0, 1] * 150)
    for held in (
        splits.by_label(made(texts, labels), labels, 0.05)[0],
        splits.by_tokens(np.ones(1000), made(texts), 0.05)[0],
    ):
        assert 0 not in held and 40 <= len(held) <= 60


def test_rows_without_a_group_are_drawn_one_by_one() -> None:
    groups = [None] * 200 + ["film"] * 100
    held, _ = splits.by_label(made([f"t{i}" for i in range(300)], [0, 1] * 150, groups), np.array([0, 1] * 150), 0.1)
    assert 20 <= len(held) <= 130
    alone = [i for i in held if i < 200]
    assert 0 < len(alone) < 200


def test_a_class_of_one_row_is_trained_on_and_not_held_out() -> None:
    labels = np.array([0] * 20 + [1] * 20 + [2])
    for rows in (made([f"t{i}" for i in range(41)]), made([f"t{i // 2}" for i in range(40)] + ["t"])):
        held, train = splits.by_label(rows, labels, 0.2)
        assert 40 in train and {0, 1} == set(labels[held].tolist())


def test_equal_texts_with_two_summaries_stay_on_one_side() -> None:
    texts = [f"text {i // 2}" for i in range(40)]
    pairs = causal_text.paired(made(texts, [f"summary {i}" for i in range(40)]))
    assert len(set(pairs.texts)) == 40 and pairs.repeats == 20
    held, train = splits.by_tokens(np.ones(40), pairs, 0.2)
    assert not {texts[i] for i in held} & {texts[i] for i in train}


def test_texts_are_the_same_whatever_their_blanks_and_case() -> None:
    assert same_text(" The  Film\n") == same_text("the film") != same_text("the films")
    assert same_text("Straße") == same_text("STRASSE")
    assert same_text("caf\u00e9") == same_text("Cafe\u0301")


# ---------------------------------------------------------------- what is said


def labelled_rows(folder: Path, repeats: int = 10, blank: int = 7) -> Path:
    rows: list[dict[str, Any]] = [
        {"text": " ".join(WORDS[(i * k) % 64] for k in range(1, 9)), "label": "ab"[i % 2]} for i in range(60)
    ]
    rows += [{"text": row["text"].upper() + " ", "label": row["label"]} for row in rows[:repeats]]
    rows += [{"title": "no text here", "label": "a"}] * blank
    return jsonl(folder, rows)


def test_examples_of_one_text_are_on_one_side_and_all_counts_are_said(tmp_path: Path, tokenizer: Any) -> None:
    said: list[str] = []
    wanted = spec(labelled_rows(tmp_path), label_column="label", length=8, max_held_out=6)
    text = labelled.read(wanted, 1.0, tokenizer, lambda words, _: said.append(words))
    train = {tuple(ids.tolist()) for ids in text.train.ids}
    for part in (text.held_out, text.test):
        assert len(part) and not any(tuple(ids.tolist()) in train for ids in part.ids)
    notes = [words for words in said if isinstance(words, Note)]
    assert "7 row(s) without text are left out." in notes
    assert any(words.startswith("10 row(s) repeat an earlier text") for words in notes)
    cut = len(text.train) + len(text.held_out) + len(text.test)
    assert f"{cut} example(s) are cut at data.length = 8 tokens." in notes
    assert text.record["rows_without_text"] == 7 and text.record["rows_repeated"] == 10
    assert text.record["examples_cut"] == cut and text.record["source_fingerprint"]


def test_the_test_part_repeats_nothing_that_early_stopping_looks_at(tmp_path: Path, tokenizer: Any) -> None:
    rows = [{"text": f"{WORDS[i % 60]} {WORDS[i // 4]}", "label": "ab"[i % 2]} for i in range(160)]
    again = [row for row in rows for _ in range(2)]
    text = labelled.read(spec(jsonl(tmp_path, again), label_column="label", max_held_out=25), 1.0, tokenizer)
    scored = {tuple(ids.tolist()) for ids in text.held_out.ids}
    assert len(text.test) and not any(tuple(ids.tolist()) in scored for ids in text.test.ids)
    assert text.record["examples_beyond_test"] > 0


def test_chunks_say_what_was_left_out_and_tell_a_split_with_repeats_from_one_without(
    tmp_path: Path, tokenizer: Any
) -> None:
    said: list[str] = []
    rows: list[dict[str, Any]] = [{"text": text} for text in long_texts(20)]
    data = spec(jsonl(tmp_path, [*rows, *rows[:3], {"title": "x"}, {"text": " "}]))
    made_of = chunks.chunks(data, 1.0, tokenizer, lambda words, _: said.append(words))
    assert "2 row(s) without text are left out." in said
    assert any(words.startswith("3 row(s) repeat") for words in said)
    assert made_of.record["rows_without_text"] == 2 and made_of.record["rows_repeated"] == 3
    assert made_of.documents == 23


def plan_of(folder: Path, source: Path, **data: Any) -> StudySpec:
    tiny_encoder(folder / "m")
    values = {"source": str(source), "length": 16, "held_out": 0.1, **data}
    return from_values({"teacher": {"model": str(folder / "m")}, "data": values, "latency": {"length": 16}})


def test_the_plan_says_how_many_rows_are_left_out_and_repeated(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [{"text": text} for text in long_texts(20)]
    source = jsonl(tmp_path, [*rows, rows[0], {"title": "x"}])
    for limits in ({}, {"limit": 12}):
        notes = plan(plan_of(tmp_path, source, **limits)).notes
        assert "1 row(s) without text are left out." in notes
        assert any(words.startswith("1 row(s) repeat an earlier text") for words in notes)


def test_provenance_holds_the_counts(tmp_path: Path) -> None:
    import torch

    from kdnas.recipes import recipe

    rows: list[dict[str, Any]] = [{"text": text} for text in long_texts(20)]
    wanted = plan_of(tmp_path, jsonl(tmp_path, [*rows, rows[0], {"title": "x"}]))
    bench = recipe("hidden-state").prepare(wanted, torch.device("cpu"), lambda words, share: None)
    facts = bench.provenance()
    bench.close()
    assert facts["rows_without_text"] == 1 and facts["rows_repeated"] == 1 and facts["documents"] == 21


def test_a_study_of_rows_without_labels_is_refused_by_the_plan_already(tmp_path: Path) -> None:
    source = put(tmp_path, "d.csv", "text,label\n" + "".join(f"t{i},{'ab'[i % 2]}\n" for i in range(20)) + "t,\n")
    values = {"source": str(source), "label_column": "label", "length": 16}
    tiny_encoder(tmp_path / "m")
    parts = {"teacher": {"model": str(tmp_path / "m")}, "data": values, "recipe": {"name": "rnn-hybrid"}}
    with pytest.raises(UsageError, match=r"no label in row 21 \(line 22\)"):
        plan(from_values({**parts, "latency": {"length": 16}}))


def test_documents_know_their_rows() -> None:
    some = Documents("d", ["a", "b"], "f", rows=[2, 5], left_out=documents.LeftOut(rows=3))
    assert [some.row(0), some.row(1)] == [2, 5] and some.empty == 3
    assert Documents("d", ["a"], "f").row(0) == 1


@pytest.mark.parametrize("repeated", [False, True])
def test_the_only_row_of_a_class_is_trained_on_and_a_class_of_two_is_scored_too(repeated: bool) -> None:
    # A class whose only row is held out could not be learned; one without a held-out row would not be scored.
    labels = np.array([0] * 40 + [1] + [2] * 2)
    texts = [f"text {row}" for row in range(len(labels))]
    if repeated:
        texts[1] = texts[0]
    held, train = splits.by_label(Documents("d", texts, "f"), labels, 0.1)
    assert sorted([*held, *train]) == list(range(len(labels)))
    assert labels[held].tolist().count(1) == 0 and labels[train].tolist().count(1) == 1
    assert labels[held].tolist().count(2) == 1 and labels[train].tolist().count(2) == 1
    assert labels[held].tolist().count(0) == 4


@pytest.mark.parametrize(
    ("texts", "groups", "named"),
    [
        (["only one"], None, "one text"),
        (["the same", "The  same"], None, "again and again"),
        (["one", "two"], ["film", "film"], "again and again"),
    ],
)
def test_text_of_which_nothing_can_be_held_out_is_refused(texts: list[str], groups: Any, named: str) -> None:
    with pytest.raises(UsageError, match=f"'d' is .*{named}"):
        splits.by_tokens(np.full(len(texts), 9), made(texts, groups=groups), 0.1)
    splits.require_two(made([*texts, "another"], groups=None if groups is None else [*groups, "other film"]))


def test_the_plan_refuses_the_one_text_that_the_search_would(tmp_path: Path) -> None:
    one = put(tmp_path, "one.txt", " ".join(long_texts(40)))
    with pytest.raises(UsageError, match="at least two texts"):
        data, timed = {"source": str(one), "length": 16}, {"length": 16}
        plan(from_values({"teacher": {"model": str(tiny_encoder(tmp_path))}, "data": data, "latency": timed}))
