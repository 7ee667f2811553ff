"""Files as people's tools write them are read whole, or refused with the line; never cut, merged or reordered."""

from __future__ import annotations

import bz2
import gzip
import json
from pathlib import Path

import pytest

from kdnas.system.errors import KdnasError, UsageError
from tests.data.reading import jsonl, parquet, put, read

pytestmark = pytest.mark.usefixtures("own_cache")


def refused(path: Path, **values: object) -> str:
    with pytest.raises(UsageError) as caught:
        read(path, **values)  # type: ignore[arg-type]
    line = str(caught.value)
    assert "\n" not in line and caught.value.hint
    return line


# ---------------------------------------------------------------- CSV and TSV


def test_a_quote_that_is_never_closed_swallows_no_rows(tmp_path: Path) -> None:
    rows = [f"word{i},x" for i in range(30)]
    rows[9] = '"lost,x'
    assert "begins in line 11" in refused(put(tmp_path, "d.csv", "text,label\n" + "\n".join(rows) + "\n"))
    rows[20] = '"found,x'  # a second one closes the first, in the middle of a line
    assert "line 11" in refused(put(tmp_path, "d.csv", "text,label\n" + "\n".join(rows) + "\n"))


@pytest.mark.parametrize(("row", "count"), [("3,a, b", "3 fields"), ("3", "1 field")])
def test_a_row_of_another_width_is_named_with_both_counts(tmp_path: Path, row: str, count: str) -> None:
    said = refused(put(tmp_path, "d.csv", f"id,text\n1,fine\n2,dull\n{row}\n4,odd\n"))
    assert f"{count} in line 4 (row 3); its header has 2" in said


def test_fields_over_several_lines_and_blank_lines_count_as_lines_and_not_as_rows(tmp_path: Path) -> None:
    path = put(tmp_path, "d.csv", 'id,text\r\n1,"two\r\nlines"\r\n\r\n2,"a ""quoted"" word, and a comma"\r\n')
    assert read(path).texts == ["two\r\nlines", 'a "quoted" word, and a comma']
    assert "in line 6" in refused(put(tmp_path, "e.csv", path.read_bytes() + b"3,a,b\r\n"))


def test_two_columns_of_one_name_are_refused_in_every_format(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet

    assert "two columns of the name 'text'" in refused(put(tmp_path, "d.csv", "text,id,text\na,1,b\n"))
    assert "two columns of the name 'text'" in refused(put(tmp_path, "d.tsv", "text\ttext\na\tb\n"))
    assert "'text' stands twice" in refused(put(tmp_path, "d.jsonl", '{"text": "a", "text": "b"}\n'))
    assert "'text' stands twice" in refused(put(tmp_path, "d.json", '[{"text": "a", "text": "b"}]'))
    twice = pa.Table.from_arrays([pa.array(["a"]), pa.array(["b"])], names=["text", "text"])
    pyarrow.parquet.write_table(twice, tmp_path / "d.parquet")
    assert "two columns of the name 'text'" in refused(tmp_path / "d.parquet")


def test_columns_without_a_name_may_repeat(tmp_path: Path) -> None:
    assert read(put(tmp_path, "d.csv", "text,,\na,,\nb,,\n")).texts == ["a", "b"]


def test_tsv_is_read_as_it_is_quotes_included(tmp_path: Path) -> None:
    text = 'sentence\tlabel\n"never closed\t1\nsays "well" and\u2028goes on\x85now\t0\r\n"" both\t1\n'
    path = put(tmp_path, "d.tsv", text)
    documents = read(path, labelled=True, text_column="sentence", label_column="label")
    assert documents.texts == ['"never closed', 'says "well" and\u2028goes on\x85now', '"" both']
    assert documents.labels == ["1", "0", "1"]
    assert "in line 3" in refused(put(tmp_path, "e.tsv", "text\tlabel\na\t1\nb\tc\t1\n"))


def test_a_mark_of_byte_order_is_no_part_of_a_name_or_a_text(tmp_path: Path) -> None:
    for name, content in (
        ("d.csv", "\ufefftext,label\r\none,1\r\n\ufefftwo,1\r\n"),
        ("d.tsv", "\ufeff\ufefftext\tlabel\none\t1\n\ufefftwo\t1\n"),
        ("d.jsonl", '\ufeff{"text": "one"}\n\ufeff{"text": "two"}\n'),
        ("d.json", '\ufeff[{"text": "one"}, {"text": "\ufefftwo"}]'),
        ("d.txt", "\ufeffone\n\ntwo"),
    ):
        assert list(read(put(tmp_path, name, content)).texts) == ["one", "two"], name


def test_nul_bytes_and_huge_fields_are_read(tmp_path: Path) -> None:
    long = "very " * 400_000
    path = put(tmp_path, "d.csv", f'text,label\n"a\x00b",1\n"c\x1ad",0\n"{long}",1\n')
    assert read(path).texts == ["a\x00b", "c\x1ad", long]


def test_semicolons_and_other_encodings_are_named(tmp_path: Path) -> None:
    said = refused(put(tmp_path, "d.csv", "text;label\nfine;1\n"))
    assert "There are: text;label." in said and "commas" in said
    assert "UTF-16" in refused(put(tmp_path, "u.csv", "text,label\nfine,1\n".encode("utf-16")))
    assert "UTF-16" in refused(put(tmp_path, "v.txt", "some text without a mark".encode("utf-16-le")))
    assert "0x92 in line 3" in refused(put(tmp_path, "w.csv", b"text,label\nfine,1\nit\x92s,1\n"))


def test_a_lone_carriage_return_ends_no_row_of_a_file_with_line_feeds(tmp_path: Path) -> None:
    assert read(put(tmp_path, "d.tsv", "text\tn\na\rb\t1\n")).texts == ["a\rb"]
    assert read(put(tmp_path, "d.csv", 'text,n\n"a\rb",1\n')).texts == ["a\rb"]
    assert read(put(tmp_path, "mac.csv", "text,n\ra,1\rb,2\r")).texts == ["a", "b"]


# ---------------------------------------------------------------- JSON


def test_lines_end_only_at_line_feeds(tmp_path: Path) -> None:
    texts = ["a\u2028b", "c\x85d", "e\u2029f", "g\x1ch", "plain"]
    path = put(tmp_path, "d.jsonl", "".join(json.dumps({"text": t}, ensure_ascii=False) + "\r\n" for t in texts))
    assert read(path).texts == texts
    assert read(put(tmp_path, "d.txt", "\n".join(texts))).texts == texts


def test_a_broken_line_is_named_by_its_number(tmp_path: Path) -> None:
    rows = [json.dumps({"text": f"t{i}"}) for i in range(60)]
    rows[41] = '{"text": "cut'
    for name in ("d.jsonl", "d.ndjson", "d.json"):
        assert "at line 42" in refused(put(tmp_path, name, "\n".join(rows) + "\n")), name


def test_tables_written_by_columns_are_read_as_rows(tmp_path: Path) -> None:
    lists = put(tmp_path, "d.json", json.dumps({"text": ["a", "b"], "label": [1, 0]}))
    assert read(lists, labelled=True, label_column="label").labels == ["1", "0"]
    objects = put(tmp_path, "d.json", json.dumps({"text": {"7": "a", "9": "b"}, "label": {"7": 1, "9": 0}}))
    assert read(objects, labelled=True, label_column="label").texts == ["a", "b"]


@pytest.mark.parametrize("name", ["d.json", "d.jsonl"])
def test_pretty_printed_objects_are_rows(tmp_path: Path, name: str) -> None:
    rows = [{"text": "a"}, {"text": "b"}]
    assert read(put(tmp_path, name, json.dumps(rows, indent=2))).texts == ["a", "b"]
    assert read(put(tmp_path, name, "\n".join(json.dumps(row, indent=2) for row in rows))).texts == ["a", "b"]
    assert read(put(tmp_path, name, json.dumps(rows[0], indent=2))).texts == ["a"]


def test_sound_json_of_another_shape_is_refused_by_its_keys(tmp_path: Path) -> None:
    for value, said in (
        ({"version": "1", "data": ["a"]}, "one object with the keys version, data"),
        ({"columns": ["text"], "index": [0, 1], "data": [["a"], ["b"]]}, "orient='split'"),
        ({"train": [{"text": "a"}], "test": [{"text": "b"}]}, "several lists of rows, under the keys train, test"),
        ({"7": {"text": "a"}, "9": {"text": "b"}}, "keys stand for rows: 7, 9"),
        (["a", "b"], "no objects: a text in row 1"),
        ([{"text": "a"}, None], "no objects: null in row 2"),
        (17, "a number and no objects"),
        ({}, "one object with the keys"),
    ):
        for indent in (None, 2):
            said_of = refused(put(tmp_path, "d.json", json.dumps(value, indent=indent)))
            assert said in said_of and "no JSON" not in said_of


def test_what_json_cannot_take_is_one_line(tmp_path: Path) -> None:
    assert "nested too deeply" in refused(put(tmp_path, "d.json", "[" * 60_000))
    assert "nested too deeply" in refused(put(tmp_path, "d.jsonl", '{"text": ' + "[" * 60_000 + "\n"))
    assert "no JSON" in refused(put(tmp_path, "d.jsonl", '{"text": "a", "n": ' + "9" * 5000 + "}\n"))


# ---------------------------------------------------------------- Parquet, compression, names


def test_damaged_pages_under_a_whole_footer_are_one_line(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet

    path = tmp_path / "d.parquet"
    table = pa.table({"text": [f"row {i * 7919} of many" for i in range(4000)]})
    pyarrow.parquet.write_table(table, path, compression="snappy", use_dictionary=False)
    raw = bytearray(path.read_bytes())
    raw[100:3000] = b"\xff" * 2900
    assert str(path) in refused(put(tmp_path, "d.parquet", bytes(raw)))
    assert "no Parquet" in refused(put(tmp_path, "e.parquet", bytes(raw[:-9])))


def test_a_damaged_column_that_nobody_asked_for_harms_nothing(tmp_path: Path) -> None:
    assert read(parquet(tmp_path, {"text": ["a", "b"], "other": [[1], {"x": 1}.get("y")]})).texts == ["a", "b"]


def test_suffixes_in_upper_case_and_other_names_are_read(tmp_path: Path) -> None:
    assert read(put(tmp_path, "TRAIN.CSV", "text\na\nb\n")).texts == ["a", "b"]
    assert read(put(tmp_path, "d.NDJSON", '{"text": "a"}\n')).texts == ["a"]
    assert read(put(tmp_path, "D.TSV.GZ", gzip.compress(b"text\tn\na\t1\n"))).texts == ["a"]
    assert read(put(tmp_path, "d.parquet.bz2", bz2.compress(parquet(tmp_path, {"text": ["a"]}).read_bytes()))).texts


def test_wrong_compression_is_named(tmp_path: Path) -> None:
    packed = gzip.compress(b"text\na\n")
    assert "is a gzip file" in refused(put(tmp_path, "d.csv", packed))
    assert "cannot be unpacked" in refused(put(tmp_path, "d.csv.gz", b"text\na\n"))
    assert "cannot be unpacked" in refused(put(tmp_path, "d.csv.bz2", packed))
    assert "cannot be unpacked" in refused(put(tmp_path, "e.csv.gz", packed[:12] + b"\x00\x01\x02" + packed[15:]))
    assert "is a Parquet file" in refused(put(tmp_path, "p.jsonl", b"PAR1 and more of it"))


def test_paths_that_cannot_be_looked_up_are_one_line() -> None:
    for source in ("~nobody-of-this-name/data.csv", "x" * 5000 + ".csv"):
        with pytest.raises(KdnasError) as caught:
            read(source)
        assert "\n" not in str(caught.value)


def test_paragraphs_of_a_text_with_other_line_ends_are_documents(tmp_path: Path) -> None:
    assert read(put(tmp_path, "d.txt", "one\r\nmore\r\n\r\ntwo\r\n")).texts == ["one\r\nmore", "two\r\n"]


# ---------------------------------------------------------------- folders


def test_shards_beside_a_readme_are_one_table_in_their_order(tmp_path: Path) -> None:
    for shard in range(3):
        parquet(tmp_path, {"text": [f"s{shard}a", f"s{shard}b"]}, f"d/data-0000{shard}-of-00003.parquet")
    put(tmp_path, "d/README.md", "about")
    put(tmp_path, "d/LICENSE.txt", "terms")
    documents = read(tmp_path / "d")
    assert documents.texts == ["s0a", "s0b", "s1a", "s1b", "s2a", "s2b"]
    assert documents.left_out.files == ("LICENSE.txt", "README.md")
    assert "2 file(s) of the folder are not read" in documents.notes[0]


def test_shards_of_other_splits_are_not_mixed_in(tmp_path: Path) -> None:
    for split in ("train", "test"):
        jsonl(tmp_path, [{"text": f"{split} row"}], f"d/{split}-0.jsonl")
    assert read(tmp_path / "d").texts == ["train row"]
    assert read(tmp_path / "d", split="test").texts == ["test row"]
    assert "none of 'validation'" in refused(tmp_path / "d", split="validation")


def test_a_row_of_a_shard_is_named_with_its_file(tmp_path: Path) -> None:
    put(tmp_path, "d/a.csv", "text,label\none,x\n")
    put(tmp_path, "d/b.csv", "text,label\ntwo,x\nthree,\n")
    assert "row 2 (line 3) of b.csv" in refused(tmp_path / "d", labelled=True, label_column="label")
    put(tmp_path, "d/c.csv", "words,label\ntwo,x\n")
    assert "c.csv" in refused(tmp_path / "d") and "no column 'text'" in refused(tmp_path / "d")


def test_a_folder_of_several_kinds_asks_which(tmp_path: Path) -> None:
    put(tmp_path, "d/a.csv", "text\none\n")
    put(tmp_path, "d/b.txt", "two")
    assert "several kinds: a.csv, b.txt" in refused(tmp_path / "d")


def test_a_folder_of_texts_leaves_the_readme_out_and_says_so(tmp_path: Path) -> None:
    put(tmp_path, "d/a.txt", "one")
    put(tmp_path, "d/README.txt", "about")
    put(tmp_path, "d/.cache/b.txt", "hidden")
    documents = read(tmp_path / "d")
    assert documents.texts == ["one"] and documents.left_out.files == ("README.txt",)
