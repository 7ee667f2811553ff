"""A cell means the same in every format: missing is missing, text is text, and all else is refused with its row."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from kdnas.data import labelled
from kdnas.data.parquet import read_parquet
from kdnas.system.errors import UsageError
from tests.data.reading import jsonl, parquet, put, read
from tests.forks import Forked

pytestmark = pytest.mark.usefixtures("own_cache")
TEXTS = ["one two", "three four", "five six", "seven eight"]


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ([["a"], "b"], "a list as its text in row 1"),
        ({"role": "user"}, "an object as its text in row 1"),
        (17, "the number 17 as its text in row 1"),
        (True, "the number True as its text in row 1"),
    ],
)
def test_what_is_no_text_is_not_trained_on_as_its_printed_form(tmp_path: Path, value: Any, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        read(jsonl(tmp_path, [{"text": value}, {"text": "fine"}]))


def test_a_column_of_lists_in_parquet_is_refused_by_its_row(tmp_path: Path) -> None:
    path = parquet(tmp_path, {"text": [None, ["a", "b"], ["c"]]})
    with pytest.raises(UsageError, match="a list as its text in row 2"):
        read(path)


def test_bytes_are_read_as_utf8_and_refused_by_their_row_where_they_are_not(tmp_path: Path) -> None:
    assert read(parquet(tmp_path, {"text": [b"caf\xc3\xa9", b"plain"]})).texts == ["café", "plain"]
    with pytest.raises(UsageError, match=r"bytes that are not UTF-8 \(0xe9\) as its text in row 2"):
        read(parquet(tmp_path, {"text": [b"plain", b"caf\xe9"]}))


ABORTS = bytes.fromhex(  # pyarrow 26 ends the process where the sizes of a column of this footer are asked for
    "b641523115061510151015baecaebb024c150615001506150615041500121c1801011801001600ff01011801001111000000"
    "06010200000003051500192c35001806736368656d611502001500251718056c6162656c001606191c191c26001c15001915"
    "061918056c6162656c150c1606166c166c26083c1801011801001600280101180100111100191c150015061502003c290619"
    "260006000000166c16062608166c002820706172397518742d6370702d6172726f772076657273696f6e2032362e302e3119"
    "1c1c0000009300000050415231"
)


def test_a_damaged_footer_ends_the_process() -> None:
    def read() -> int:
        with pytest.raises(UsageError, match="is damaged: "):
            read_parquet("x.parquet", ABORTS, ["label"])
        return 0

    assert Forked(read).wait() == 0


def test_memory_is_taken_for_rows_that_a_damaged_footer_invents(tmp_path: Path) -> None:
    raw = parquet(tmp_path, {"text": ["a b", "c"], "label": ["x", "y"]}).read_bytes()
    size = int.from_bytes(raw[-8:-4], "little")
    body, footer = raw[: -8 - size], raw[-8 - size : -8]
    two, many = b"\x16\x04", b"\x16" + b"\x80" * 5 + b"\x01"  # 64-bit numbers of the footer, as it writes them
    refused = 0
    for place in [n for n in range(size) if footer[n : n + 2] == two]:
        changed = footer[:place] + many + footer[place + 2 :]
        path = put(tmp_path, "changed.parquet", body + changed + len(changed).to_bytes(4, "little") + b"PAR1")
        try:
            assert read(path).texts == ["a b", "c"]
        except UsageError as error:
            assert "rows" in str(error) and "malloc" not in str(error)
            refused += 1
    assert refused >= 2  # the group's and the whole's; what nobody reads may say anything


def test_a_text_column_of_broken_strings_in_parquet_names_the_row(tmp_path: Path) -> None:
    broken = pa.Array.from_buffers(
        pa.string(), 2, [None, pa.array([0, 5, 9], pa.int32()).buffers()[1], pa.py_buffer(b"plaincaf\xe9")]
    )
    with pytest.raises(UsageError, match=r"not UTF-8.*row 2"):
        read(parquet(tmp_path, {"text": broken}))


@pytest.mark.parametrize("missing", [None, float("nan"), "", "  "])
def test_a_missing_text_is_left_out_and_counted_and_never_becomes_a_word(tmp_path: Path, missing: Any) -> None:
    documents = read(jsonl(tmp_path, [{"text": "fine"}, {"text": missing}, {"other": 1}, {"text": "dull"}]))
    assert documents.texts == ["fine", "dull"]
    assert documents.left_out.rows == 2 and documents.rows == [1, 4]
    assert "2 row(s) without text are left out." in documents.notes


@pytest.mark.parametrize("missing", [None, float("nan"), "", " "])
@pytest.mark.parametrize("kind", ["jsonl", "parquet", "csv"])
def test_a_missing_label_or_summary_is_refused_by_its_row(tmp_path: Path, missing: Any, kind: str) -> None:
    labels = ["good", "bad", missing, "bad"]
    if kind == "parquet":
        if isinstance(missing, float):
            labels = [1.0, 0.0, missing, 0.0]
        path = parquet(tmp_path, {"text": TEXTS, "label": labels})
    elif kind == "jsonl":
        path = jsonl(tmp_path, [{"text": t, "label": v} for t, v in zip(TEXTS, labels, strict=True)])
    else:
        shown = ["" if v is None or v != v else v for v in labels]
        path = put(tmp_path, "d.csv", "text,label\n" + "".join(f"{t},{v}\n" for t, v in zip(TEXTS, shown, strict=True)))
    with pytest.raises(UsageError, match="has no label in row 3"):
        read(path, labelled=True, label_column="label")
    if kind != "parquet" or not isinstance(missing, float):
        with pytest.raises(UsageError, match="has no summary in row 3"):
            read(path, summaries=True, label_column="label")


def test_a_row_is_named_as_it_stands_in_the_file_though_earlier_rows_are_left_out(tmp_path: Path) -> None:
    path = put(tmp_path, "d.csv", 'text,label\n,a\n"two\nlines",b\n\nfine,\n')
    with pytest.raises(UsageError, match=r"no label in row 3 \(line 6\)"):
        read(path, labelled=True, label_column="label")


def test_a_number_is_a_label_and_never_a_summary(tmp_path: Path) -> None:
    path = jsonl(tmp_path, [{"text": t, "label": 3} for t in TEXTS])
    assert read(path, labelled=True, label_column="label").labels == ["3"] * 4
    with pytest.raises(UsageError, match="the number 3 as its summary in row 1"):
        read(path, summaries=True, label_column="label")


def test_numbers_with_gaps_and_strings_are_labels_as_they_are(tmp_path: Path) -> None:
    path = parquet(tmp_path, {"text": TEXTS, "label": [1.0, 0.0, 1.0, 2.5]})
    assert read(path, labelled=True, label_column="label").labels == ["1", "0", "1", "2.5"]
    path = put(tmp_path, "d.csv", "text,label\na,01\nb,2.0\nc,true\nd,NULL\n")
    assert read(path, labelled=True, label_column="label").labels == ["01", "2.0", "true", "NULL"]


def test_rows_without_a_group_are_not_one_group(tmp_path: Path) -> None:
    rows = [{"text": t, "film": f} for t, f in zip(TEXTS, ("a", None, "", "a"), strict=True)]
    assert read(jsonl(tmp_path, rows), group_column="film").groups == ["a", None, None, "a"]


def test_a_group_may_be_a_number(tmp_path: Path) -> None:
    path = parquet(tmp_path, {"text": TEXTS, "film": [1.0, math.nan, 2.0, 1.0]})
    assert read(path, group_column="film").groups == ["1", None, "2", "1"]


def test_half_a_character_is_replaced_and_counted(tmp_path: Path) -> None:
    path = put(tmp_path, "d.jsonl", '{"text": "cut \\ud83d"}\n{"text": "whole \\ud83d\\ude00"}\n')
    documents = read(path)
    assert documents.texts == ["cut \ufffd", "whole 😀"]
    assert documents.left_out.repaired == 1 and "1 row(s) hold half a character" in documents.notes[0]


def test_blanks_around_labels_are_taken_off_and_counted(tmp_path: Path) -> None:
    path = put(tmp_path, "d.csv", "text,label\na,good\nb, good\nc,bad \nd,bad\n")
    documents = read(path, labelled=True, label_column="label")
    assert documents.labels == ["good", "good", "bad", "bad"] and documents.left_out.trimmed == 2


# ---------------------------------------------------------------- −1, and names of classes


CLASSES = {"info": {"features": {"label": {"names": ["neg", "pos"], "_type": "ClassLabel"}}}}


def test_numbers_under_declared_names_are_those_names_in_their_order(tmp_path: Path) -> None:
    path = parquet(tmp_path, {"text": TEXTS, "label": [1, 0, 1, 0]}, metadata=CLASSES)
    documents = read(path, labelled=True, label_column="label")
    assert documents.labels == ["pos", "neg", "pos", "neg"] and documents.classes == ("neg", "pos")
    assert labelled.classes(documents)[0] == ("neg", "pos")


def test_minus_one_under_declared_names_is_no_label(tmp_path: Path) -> None:
    path = parquet(tmp_path, {"text": TEXTS, "label": [1, 0, -1, 0]}, metadata=CLASSES)
    with pytest.raises(UsageError, match="has no label in row 3"):
        read(path, labelled=True, label_column="label")
    path = parquet(tmp_path, {"text": TEXTS, "label": [1, 0, 2, 0]}, metadata=CLASSES)
    with pytest.raises(UsageError, match="the number 2 as its label in row 3"):
        read(path, labelled=True, label_column="label")


@pytest.mark.parametrize("labels", [["pos", "neg", "-1", "pos"], ["0", "1", "-1", "2"]])
def test_minus_one_beside_names_or_a_count_of_classes_is_no_class(tmp_path: Path, labels: list[str]) -> None:
    path = put(tmp_path, "d.csv", "text,label\n" + "".join(f"{t},{v}\n" for t, v in zip(TEXTS, labels, strict=True)))
    with pytest.raises(UsageError, match=r"no label in row 3 .* −1"):
        read(path, labelled=True, label_column="label")


def test_minus_one_between_other_signs_is_a_class_and_is_said_where_it_may_be_none(tmp_path: Path) -> None:
    for labels, said in (([-1, 1, -1, 1], 0), ([-1, 0, 1, 1], 1), ([-2, -1, 1, 2], 0)):
        path = parquet(tmp_path, {"text": TEXTS, "label": labels})
        documents = read(path, labelled=True, label_column="label")
        assert documents.labels == [str(n) for n in labels] and documents.left_out.minus_one == said


def test_the_order_of_classes_does_not_follow_the_process_where_one_is_called_nan() -> None:
    """Hashing orders a set of words anew in every process; a name that compares with nothing kept that order."""
    from itertools import permutations

    from kdnas.data.documents import Documents

    names = ["2", "nan", "1", "inf", "zero", "1e3"]
    orders = set()
    for order in permutations(names):
        ranked = sorted(order, key=labelled._by_size)
        orders.add(tuple(ranked))
    assert orders == {("1", "2", "1e3", "inf", "nan", "zero")}
    documents = Documents("d", [str(i) for i in range(24)], "f", names * 4)
    assert labelled.classes(documents)[0] == ("1", "2", "1e3", "inf", "nan", "zero")
