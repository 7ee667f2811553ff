"""Folders in the layout of BEIR and MTEB: what they mean, and that nothing of a wrong one is read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from kdnas.data.documents import same_text
from kdnas.data.retrieval_folder import read
from kdnas.system.errors import UsageError

CORPUS = [
    {"_id": "a", "title": "Seas", "text": "The sea is salt.", "metadata": {"url": "x"}},
    {"_id": "b", "title": "", "text": "A lake is not."},
    {"_id": "c", "title": "Rain", "text": " "},
    {"_id": 7, "text": "Rivers run."},
]
QUERIES = [
    {"_id": "q1", "text": "What is salt?"},
    {"_id": "q2", "text": "What runs?"},
    {"_id": "q3", "text": "Of another split"},
]
QRELS = [("q1", "a", "2"), ("q1", "b", "1"), ("q1", "c", "0"), ("q2", "7", "1")]


def written(folder: Path, corpus: Any = CORPUS, queries: Any = QUERIES, qrels: Any = QRELS, header: str = "") -> Path:
    (folder / "qrels").mkdir(parents=True, exist_ok=True)
    for name, rows in (("corpus", corpus), ("queries", queries)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    lines = [header or "query-id\tcorpus-id\tscore", *("\t".join(row) for row in qrels)]
    (folder / "qrels" / "test.tsv").write_text("\n".join(lines) + "\n")
    return folder


def labelled(folder: Path, train: list[tuple[str, Any]], test: list[tuple[str, Any]]) -> Path:
    folder.mkdir(exist_ok=True)
    for name, rows in (("train", train), ("test", test)):
        lines = (json.dumps({"text": text, "label": label}) + "\n" for text, label in rows)
        (folder / f"{name}.jsonl").write_text("".join(lines))
    return folder


def test_graded_answers_titles_and_numbers_as_ids_are_what_the_files_say(tmp_path: Path) -> None:
    found = read(written(tmp_path / "d"), frozenset())
    task = found.retrieval
    assert task is not None and found.labelled is None
    assert list(task.documents) == ["Seas The sea is salt.", "A lake is not.", "Rain", "Rivers run."]
    assert list(task.queries) == ["What is salt?", "What runs?"] and task.unasked == 1
    assert list(task.relevant) == [{0: 2, 1: 1}, {3: 1}]


def test_a_query_is_not_asked_where_it_or_an_answer_was_trained_on(tmp_path: Path) -> None:
    folder = written(tmp_path / "d")
    for known, left in (("what IS salt?", ["What runs?"]), ("A lake is not.", ["What runs?"]), ("other", None)):
        task = read(folder, frozenset({same_text(known)})).retrieval
        assert task is not None and list(task.queries) == (left or [row["text"] for row in QUERIES[:2]])
        assert task.trained == (1 if left else 0) and len(task.documents) == 4
    with pytest.raises(UsageError, match="trained on all 2 queries"):
        read(folder, frozenset(map(same_text, ("What is salt?", "What runs?"))))


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"corpus": [*CORPUS, {"_id": "a", "text": "Again"}]}, r"corpus.jsonl has the _id 'a' twice.*row 5 \(line 5\)"),
        ({"queries": [*QUERIES, {"_id": "q1", "text": "Again"}]}, r"queries.jsonl has the _id 'q1' twice"),
        ({"corpus": [{"_id": "a", "title": " ", "text": ""}]}, r"corpus.jsonl has no text in row 1"),
        ({"queries": [{"_id": "q1", "text": None}]}, r"queries.jsonl has no text in row 1"),
        ({"queries": [{"_id": "", "text": "Who?"}]}, r"queries.jsonl has no _id in row 1"),
        ({"queries": [{"_id": "q1", "text": 5}]}, r"the number 5 as its text in row 1"),
        ({"queries": [{"id": "q1", "text": "Who?"}]}, r"no column '_id'; it has id, text"),
        ({"corpus": [{**row, "url": "x"} for row in CORPUS]}, r"a column 'url', which is not read"),
        ({"qrels": [("q9", "a", "1")]}, r"names 'q9' in row 1 \(line 2\), and queries.jsonl has no such _id"),
        ({"qrels": [("q1", "z", "1")]}, r"names 'z' in row 1 .*corpus.jsonl has no such _id"),
        ({"qrels": [("q1", "a", "1"), ("q1", "a", "1")]}, r"scores the document 'a' for the query 'q1' twice"),
        ({"qrels": [("q1", "a", "-1")]}, r"has the score '-1' in row 1"),
        ({"qrels": [("q1", "a", "0.5")]}, r"has the score '0.5' in row 1"),
        ({"qrels": [("q1", "a", "0")]}, r"gives no query a document of a score above 0"),
        ({"qrels": []}, r"test.tsv (has no rows|is empty)"),
        ({"header": "query-id\tcorpus-id\tscore\textra", "qrels": [("q1", "a", "1", "x")]}, r"a column 'extra'"),
        ({"header": "query\tdocument\tscore", "qrels": [("q1", "a", "1")]}, r"no column 'query-id'"),
    ],
)
def test_what_is_wrong_is_said_with_its_row(tmp_path: Path, changed: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said) as refused:
        read(written(tmp_path / "d", **changed), frozenset())
    assert "\n" not in str(refused.value)


def test_a_folder_of_another_layout_names_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"There is no folder .*corpus.jsonl, queries.jsonl and qrels/test.tsv"):
        read(tmp_path / "none", frozenset())
    with pytest.raises(UsageError, match="no files of the layout"):
        read(tmp_path, frozenset())
    folder = written(tmp_path / "d")
    (folder / "qrels" / "test.tsv").rename(folder / "qrels" / "dev.tsv")
    with pytest.raises(UsageError, match=r"has no qrels/test.tsv, which belongs to corpus.jsonl"):
        read(folder, frozenset())


def test_labels_are_read_and_texts_that_were_trained_on_are_no_test(tmp_path: Path) -> None:
    train = [("one", 0), ("two", 1), ("three", 0)]
    found = read(
        labelled(tmp_path / "d", train, [("Two", 1), ("four", 0), ("five", 1)]), frozenset({same_text("five")})
    )
    assert found.retrieval is None and found.labelled is not None
    assert (found.labelled.test, found.labelled.test_labels, found.labelled.trained) == (["four"], ["0"], 2)
    for rows, said in (
        ([("one", 0), ("two", 0)], "has one label alone, '0'"),
        ([("one", 2), ("two", 3)], r"has the label '0', which train.jsonl has not"),
        ([("one", None), ("two", 0)], "has no label in row 1"),
        ([("", 1), ("two", 0)], "has no text in row 1"),
    ):
        with pytest.raises(UsageError, match=said):
            read(labelled(tmp_path / "d", rows, [("four", 0)]), frozenset())
