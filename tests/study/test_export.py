"""Exported files: what they hold, that they are checked, and that nothing half-written is ever left."""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from kdnas.study import export
from kdnas.study.filter import parse
from kdnas.study.ranked_rows import rank
from kdnas.study.rows import Status, StudyRow
from kdnas.study.spec import StudySpec, from_values
from kdnas.system import files
from kdnas.system.errors import KdnasError, UsageError
from tests.rows import made_row, made_rows

PROVENANCE: dict[str, Any] = {
    "device": "cpu",
    "versions": {"torch": "2.13.0"},
    "teacher": "all-minilm-l6-v2",
    "teacher_fingerprint": "abc",
    "data_fingerprint": "def",
    "proxy_tokens": 1000,
}


def study(**changes: Any) -> StudyRow:
    values: dict[str, Any] = {
        "study_id": 1,
        "name": "s",
        "spec": StudySpec(name="s").model_dump(mode="json"),
        "status": Status.FINISHED,
        "trials": 40,
        "done": 40,
        "pruned": 0,
        "failed": 0,
        "reused": 0,
        "running": 0,
        "alpha": -0.06,
        "beta": 0.6,
        "best_reward": 0.9,
        "best_number": 3,
        "workers": 0,
        "hosts": (),
        "heartbeat": None,
        "teacher_latency_ms": 30.0,
        "space_size": 700,
        "ending": None,
        "created": 0.0,
        "updated": 0.0,
        "revision": 1,
        "eta_s": None,
    }
    return StudyRow(**{**values, **changes})


def made(count: int = 40, **asked: Any) -> dict[str, Any]:
    scored = rank(made_rows(count), -0.06, 0.6)
    return export.document(study(), export.select(scored, **asked), alpha=-0.06, beta=0.6, provenance=PROVENANCE)


def test_an_export_says_where_a_generated_token_was_timed() -> None:
    scored = export.select(rank(made_rows(3), -0.06, 0.6))
    for what in ("first", "token"):
        spec = from_values({"name": "s", "recipe": {"name": "causal-divergence"}, "latency": {"what": what}})
        row = study(spec=spec.model_dump(mode="json"))
        body = export.document(row, scored, alpha=-0.06, beta=0.6, provenance=PROVENANCE)
        assert body["latency"]["protocol"].get("what") == {"first": None, "token": "token"}[what]
        words = "Latency is that of one token generated with the cache, batch 1, after 128 tokens."
        assert (words in export.render(body, "markdown")) == (what == "token")


def test_an_export_says_in_which_dtype_was_timed() -> None:
    scored = export.select(rank(made_rows(3), -0.06, 0.6))
    for dtype in ("auto", "bfloat16"):
        spec = from_values({"name": "s", "latency": {"dtype": dtype}})
        body = export.document(
            study(spec=spec.model_dump(mode="json")), scored, alpha=-0.06, beta=0.6, provenance=PROVENANCE
        )
        assert body["latency"]["protocol"].get("dtype") == {"auto": None, "bfloat16": "bfloat16"}[dtype]
        words = "Latency is that of one forward pass of the body, batch 1, 128 tokens, in bfloat16."
        assert (words in export.render(body, "markdown")) == (dtype == "bfloat16")
        assert export.spec_of(body).latency.dtype == dtype
        del body["spec"]["latency"]["dtype"]  # as an earlier version wrote it
        assert export.spec_of(body).latency.dtype == "auto"


def test_document_fulfils_the_schema_and_lists_the_best_first() -> None:
    body = made(top=5)
    jsonschema.Draft202012Validator(export.schema()).validate(body)
    assert [c["rank"] for c in body["candidates"]] == [1, 2, 3, 4, 5]
    rewards = [c["reward"] for c in body["candidates"]]
    assert rewards == sorted(rewards, reverse=True)
    first = body["candidates"][0]
    assert first["config"]["model_type"] == "bert"
    assert first["speedup"] == first["teacher_latency_ms"] / first["latency_ms"]["p50"]
    assert body["teacher"]["fingerprint"] == "abc" and body["teacher"]["model"] == "all-minilm-l6-v2"


def test_only_ranked_trials_are_exported() -> None:
    everything = made()["candidates"]
    done = [r for r in made_rows(40) if r.state == "done"]
    assert len(everything) == len(done)


def test_select_keeps_the_filter_and_the_front() -> None:
    scored = rank(made_rows(60), -0.06, 0.6)
    some = export.select(scored, only=parse("layers>=4 latency<8"), pareto=True)
    assert some
    assert all(s.front and s.row.candidate["num_hidden_layers"] >= 4 for s in some)  # type: ignore[operator]


def test_nothing_to_export_is_said() -> None:
    with pytest.raises(UsageError, match="no finished candidate"):
        export.document(study(), [], alpha=-0.06, beta=0.6, provenance={})


def test_a_document_that_breaks_the_schema_does_not_leave() -> None:
    rows = [made_row(0, config={"hidden_size": 12})]  # no model_type
    with pytest.raises(KdnasError, match="candidates/0/config"):
        export.document(study(), rank(rows, -0.06, 0.6), alpha=-0.06, beta=0.6, provenance={})


def test_export_reads_back_and_gives_its_spec(tmp_path: Path) -> None:
    body = made(top=3)
    file = tmp_path / "best.json"
    files.write_atomically(file, export.render(body, "json"))
    assert export.read(file) == json.loads(json.dumps(body))
    assert export.spec_of(export.read(file)) == StudySpec(name="s")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "not JSON"),
        ("[]", "not an export"),
        ('{"format": "kdnas-export", "version": 2}', "version 2"),
        ('{"format": "kdnas-export", "version": 1}', "changed by hand"),
    ],
)
def test_what_is_no_export_is_refused(tmp_path: Path, text: str, words: str) -> None:
    file = tmp_path / "x.json"
    file.write_text(text)
    with pytest.raises(UsageError, match=words):
        export.read(file)


def test_csv_has_one_row_per_candidate_and_no_formulas() -> None:
    rows = [made_row(0, act="=cmd()"), made_row(1)]
    scored = rank(rows, -0.06, 0.6)
    text = export.render(export.document(study(), scored, alpha=-0.06, beta=0.6, provenance=PROVENANCE), "csv")
    table = list(csv.DictReader(io.StringIO(text)))
    assert [row["rank"] for row in table] == ["1", "2"]
    assert {row["hidden_act"] for row in table} == {"'=cmd()", "gelu"}
    assert json.loads(table[0]["config"])["model_type"] == "bert"


def test_tables_tell_latencies_of_contended_trials_for_one_teacher_and_carry_every_sign() -> None:
    """The slower of two students may have been timed while the machine was idle."""
    quiet = made_row(0, latency_ms=2.0, latency_p90_ms=2.2, teacher_latency_ms=40.0)
    busy = made_row(1, latency_ms=3.0, latency_p90_ms=3.9, teacher_latency_ms=120.0, latency_flag="contended: 20%")
    scored = rank([quiet, busy], -0.06, 0.6)
    row = study(teacher_latency_ms=40.0)
    body = export.document(row, scored, alpha=-0.06, beta=0.6, provenance=PROVENANCE)
    assert {entry["latency_ms"]["p50"] for entry in body["candidates"]} == {2.0, 3.0}  # JSON holds what was measured
    table = {line["trial"]: line for line in csv.DictReader(io.StringIO(export.render(body, "csv")))}
    assert float(table["1"]["latency_p50_ms"]) == pytest.approx(1.0)
    assert float(table["1"]["latency_p90_ms"]) == pytest.approx(1.3)
    assert {float(line["teacher_latency_ms"]) for line in table.values()} == {40.0}
    assert all(float(line["speedup"]) == pytest.approx(40.0 / float(line["latency_p50_ms"])) for line in table.values())
    assert (table["0"]["latency_flag"], table["1"]["latency_flag"]) == ("", "contended: 20%")
    fronts = {str(s.number): str(s.front).lower() for s in scored}
    assert {number: line["front"] for number, line in table.items()} == fronts
    assert {line["tie"] for line in table.values()} <= {"true", "false"}
    lines = [line for line in export.render(body, "markdown").splitlines() if line.startswith("| ")]
    assert lines[0].endswith("| front | tie | latency is |")
    (contended,) = (line for line in lines if "contended: 20%" in line)
    assert "| 1 | 40.00 |" in contended


def test_markdown_keeps_its_columns_whatever_a_value_holds() -> None:
    scored = rank([made_row(0, act="a|b")], -0.06, 0.6)
    text = export.render(export.document(study(), scored, alpha=-0.06, beta=0.6, provenance=PROVENANCE), "markdown")
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert len({line.replace("\\|", "").count("|") for line in lines}) == 1


@pytest.mark.parametrize(("name", "style"), [("a.json", "json"), ("a.CSV", "csv"), ("a.md", "markdown")])
def test_the_suffix_says_the_format(name: str, style: str) -> None:
    assert export.style_of(Path(name)) == style


def test_an_unknown_suffix_or_format_names_the_known_ones() -> None:
    with pytest.raises(UsageError, match=r"\.json, \.csv"):
        export.style_of(Path("best.txt"))
    with pytest.raises(UsageError, match="'markdown'"):
        export.style_of(None, "markdwn")


def test_a_full_disk_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    file = tmp_path / "best.json"
    file.write_text("old")
    script = (
        "import resource, sys\n"
        "from pathlib import Path\n"
        "from kdnas.system.errors import UsageError\n"
        "from kdnas.system.files import write_atomically\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))\n"
        "try:\n"
        "    write_atomically(Path(sys.argv[1]), 'x' * 5000)\n"
        "except UsageError as error:\n"
        "    print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", script, str(file)], capture_output=True, text=True)
    assert "the disk is full" in done.stdout, done.stderr
    assert file.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["best.json"]


def test_a_missing_folder_and_a_folder_in_the_way_are_said(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="does not exist"):
        files.write_atomically(tmp_path / "no" / "best.json", "{}")
    with pytest.raises(UsageError, match="is a folder"):
        files.write_atomically(tmp_path, "{}")


def test_export_loads_nothing_heavy() -> None:
    script = (
        "import sys, kdnas.study.export; print([m for m in ('torch', 'transformers', 'optuna') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
