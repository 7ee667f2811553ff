"""One class has one form: what looks the same, is one number or is of another kind is never two classes unsaid."""

from __future__ import annotations

import json
import unicodedata
from pathlib import Path
from typing import Any

import pytest

from kdnas.system.errors import BadOptionError, UsageError
from tests.data.reading import jsonl, parquet, put, read

pytestmark = pytest.mark.usefixtures("own_cache")


def labelled(path: Path, **values: Any) -> Any:
    return read(path, labelled=True, label_column="label", **values)


def rows(*labels: object) -> list[dict[str, Any]]:
    return [{"text": f"film {number}", "label": label} for number, label in enumerate(labels)]


def csv(folder: Path, *labels: str) -> Path:
    return put(folder, "d.csv", "text,label\n" + "".join(f"film {n},{label}\n" for n, label in enumerate(labels)))


@pytest.mark.parametrize(
    ("one", "other", "kinds"),
    [
        (1, "neg", ("number 1 in row 1", "text 'neg' in row 3")),
        (1, "1", ("number 1 in row 1", "text '1' in row 3")),
        (True, "true", ("truth value True in row 1", "text 'true' in row 3")),
        (True, 1, ("truth value True in row 1", "number 1 in row 3")),
    ],
)
def test_labels_of_two_kinds_are_refused_with_a_row_of_each(
    tmp_path: Path, one: object, other: object, kinds: tuple[str, str]
) -> None:
    with pytest.raises(UsageError) as caught:
        labelled(jsonl(tmp_path, rows(one, one, other, one, other)))
    assert all(kind in str(caught.value) for kind in kinds) and "(line 3)" in str(caught.value)


def test_labels_of_two_kinds_in_two_shards_are_refused_with_their_files(tmp_path: Path) -> None:
    jsonl(tmp_path, rows(1, 0), "a.jsonl")
    jsonl(tmp_path, rows("1", "0"), "b.jsonl")
    with pytest.raises(UsageError, match=r"number 1 in row 1 .* of a.jsonl and the text '1' in row 1 .* of b.jsonl"):
        labelled(tmp_path)


def test_numbers_of_one_kind_are_one_class_whatever_their_fraction(tmp_path: Path) -> None:
    assert labelled(jsonl(tmp_path, rows(1, 1.0, 0, 0.0, None)[:4])).labels == ["1", "1", "0", "0"]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("café", unicodedata.normalize("NFD", "café")),
        ("very good", "very  good"),
        ("very good", "very\u00a0good"),
        ("pos", "p\u200bos"),
        ("pos", "po\u00ads"),
    ],
)
def test_labels_that_look_the_same_are_refused_and_shown_apart(tmp_path: Path, one: str, other: str) -> None:
    with pytest.raises(UsageError) as caught:
        labelled(jsonl(tmp_path, rows(one, other, "neg")))
    said = str(caught.value)
    assert "look the same" in said and repr(one) in said and (ascii(other) in said)


@pytest.mark.parametrize(("one", "other"), [("1", "1.0"), ("01", "1"), ("1", "１"), ("1000", "1e3")])
def test_one_number_written_twice_is_refused(tmp_path: Path, one: str, other: str) -> None:
    with pytest.raises(UsageError, match=rf"one number: '{one}' in row 1 .* and '{other}' in row 2"):
        labelled(csv(tmp_path, one, other, "0"))


def test_large_numbers_stay_apart_and_floats_that_cannot_are_refused(tmp_path: Path) -> None:
    names = [str(2**53), str(2**53 + 1)]
    assert labelled(csv(tmp_path, *names)).labels == names
    assert labelled(jsonl(tmp_path, rows(2**53, 2**53 + 1))).labels == names
    with pytest.raises(UsageError, match="a float holds no single digits"):
        labelled(parquet(tmp_path, {"text": ["a", "b"], "label": [float(2**53), float(2**53 + 2)]}))


def test_case_numbers_beside_words_and_words_for_nothing_are_told(tmp_path: Path) -> None:
    notes = labelled(csv(tmp_path, "pos", "POS", "neg")).notes
    assert any("'pos' in row 1 (line 2) and 'POS' in row 2 (line 3)" in note for note in notes)
    notes = labelled(csv(tmp_path, "pos", "1", "neg")).notes
    assert any("numbers and others words: '1' in row 2 (line 3) and 'pos' in row 1" in note for note in notes)
    notes = labelled(csv(tmp_path, "nan", "1", "0", "nan")).notes
    assert notes == ("2 row(s) are of the class 'nan'; leave them out if it means no label.",)
    assert labelled(csv(tmp_path, "pos", "neg", "neutral", "n°2")).notes == ()


def test_texts_that_are_a_word_for_nothing_are_counted(tmp_path: Path) -> None:
    notes = read(put(tmp_path, "d.csv", "text,n\nnan,1\nnone of it,2\nNULL,3\n")).notes
    assert notes == ("2 row(s) have 'nan' as their whole text; leave them out if it means none.",)


def test_a_nul_in_a_label_which_no_database_takes_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="a text with a NUL character as its label in row 2"):
        labelled(jsonl(tmp_path, rows("pos", "ne\0g")))


def test_dates_are_refused_with_a_hint_that_fits(tmp_path: Path) -> None:
    import datetime

    path = parquet(tmp_path, {"text": ["a", "b"], "label": [datetime.date(2020, 1, 1)] * 2})
    with pytest.raises(UsageError, match=r"a date as its label in row 1. Write it as a text"):
        labelled(path)


def test_one_column_is_not_text_and_label(tmp_path: Path) -> None:
    with pytest.raises(BadOptionError, match="asked for as text and as label"):
        read(csv(tmp_path, "a", "b"), labelled=True, label_column="text")


# ---------------------------------------------------------------- files of another shape than their name says


@pytest.mark.parametrize("about", [{}, {"version": "1.1"}, {"schema": {"fields": [{"name": "text"}]}}])
def test_the_one_list_of_rows_in_an_object_is_read_and_told(tmp_path: Path, about: dict[str, Any]) -> None:
    documents = labelled(put(tmp_path, "d.json", json.dumps({**about, "data": rows("a", "b", "a")})))
    assert documents.labels == ["a", "b", "a"]
    assert documents.notes == ("The rows of d.json are the list under the key 'data'.",)


@pytest.mark.parametrize(
    ("name", "content", "hint"),
    [
        ("d.csv", "text;label\na, b;x\n", "commas, as .csv has them; here they are separated by semicolons"),
        ("d.csv", "text|label\na|x\n", "separated by vertical bars"),
        ("d.csv", "text\tlabel\na\tx\n", "Or name it .tsv"),
        ("d.tsv", "text,label\na,x\n", "Or name it .csv"),
        ("d.csv", "sep=;\ntext;label\na;x\n", "Remove its first line, 'sep=…'"),
        ("d.csv", "sep=,\ntext,label\na,x\n", "Remove its first line, 'sep=…'"),
        ("d.csv", "# exported\ntext,label\na,x\n", "Remove its first line, '# exported'"),
        ("d.csv", "Text, Label\na,x\n", "Did you mean 'Text'?"),
        ("d.csv", "text, label\na,x\n", "Did you mean ' label'?"),
        ("d.csv", "<!DOCTYPE html>\n<html>\n</html>\n", "a web page"),
        ("d.csv", "text,label\na,x\ntext,label\nb,y\n", "names its columns again in line 3"),
        ("d.csv", b"text,label\r\na,x\nb,y\rc,x\n", "one kind of line end"),
        ("d.txt", "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "git lfs pull"),
        ("d.parquet", "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "git lfs pull"),
        ("d.txt", b"%PDF-1.7\n1 0 obj\n", "a PDF, which its name does not say"),
        ("d.jsonl", '{"text": "a", "label": ' + "9" * 5000 + "}\n", "too many digits"),
    ],
)
def test_what_a_file_is_instead_is_said(tmp_path: Path, name: str, content: str | bytes, hint: str) -> None:
    with pytest.raises(UsageError) as caught:
        read(put(tmp_path, name, content), labelled=not name.endswith("txt"), label_column="label")
    assert hint in str(caught.value)


# ---------------------------------------------------------------- folders


def test_a_shard_that_is_a_link_to_nothing_is_not_left_out(tmp_path: Path) -> None:
    csv(tmp_path, "a", "b")
    (tmp_path / "e.csv").symlink_to(tmp_path / "gone.csv")
    with pytest.raises(UsageError, match=r"e\.csv is a link to a file that is not there"):
        labelled(tmp_path)


def test_shards_behind_a_linked_folder_are_read_once(tmp_path: Path) -> None:
    jsonl(tmp_path / "elsewhere", rows("a", "b"))
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "part").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "here" / "again").symlink_to(tmp_path / "here")
    assert labelled(tmp_path / "here").labels == ["a", "b"]


def test_an_empty_shard_is_named(tmp_path: Path) -> None:
    csv(tmp_path, "a", "b")
    put(tmp_path, "e.csv", "")
    with pytest.raises(UsageError, match=r"e\.csv is empty"):
        labelled(tmp_path)


def test_a_folder_that_cannot_be_listed_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Root reads every folder, so that the refusal of the system is played."""
    import os

    csv(tmp_path, "a", "b")
    (tmp_path / "locked").mkdir()
    whole = os.scandir

    def scandir(place: Any) -> Any:
        if str(place).endswith("locked"):
            raise PermissionError(13, "Permission denied", str(place))
        return whole(place)

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(UsageError, match="locked cannot be read: Permission denied"):
        labelled(tmp_path)
