"""Commands on stores whose rows are hostile, damaged or out of bounds: one line at most, and nothing gets out."""

from __future__ import annotations

import json
import re
import shutil
import sqlite3
from html.parser import HTMLParser
from pathlib import Path

import pytest

from kdnas.search.begin import begin
from kdnas.search.worker import run_worker
from tests import fakes
from tests.cli.conftest import Place, Quick

EVIL = "x\x1b]0;title\x07\x1b[2J\x9b31m\u202edrow\u2066\r\nkdnas: forged\x00\x7f"
UNSEEN = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069]")
LOOKS = (["studies"], ["show", "fake"], ["logs", "fake"], ["rescore", "fake", "--alpha", "-0.2", "--beta", "0.5"])


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("ran") / "studies.db"
    begin(fakes.spec(budget={"trials": 3, "epochs": 1}), path)
    assert run_worker(str(path), "fake", prepare=fakes.prepare, measure=fakes.measure) == 0
    begin(fakes.spec("other"), path)
    return path


@pytest.fixture
def rows(ran: Path, place: Place) -> sqlite3.Connection:
    shutil.copy(ran, place.store)
    return sqlite3.connect(place.store, isolation_level=None)


@pytest.fixture
def hostile(rows: sqlite3.Connection) -> None:
    spec = json.loads(rows.execute("SELECT spec FROM kdnas_study WHERE name = 'fake'").fetchone()[0])
    spec["teacher"]["model"] = spec["data"]["source"] = EVIL
    candidate = json.dumps({"num_hidden_layers": EVIL, EVIL: 3})
    rows.execute("UPDATE kdnas_study SET spec = ?, ending = ? WHERE name = 'fake'", (json.dumps(spec), EVIL))
    rows.execute("UPDATE kdnas_trial SET error = ?, latency_flag = ?, candidate = ?", (EVIL, EVIL, candidate))
    rows.execute("UPDATE kdnas_log SET line = ?, level = 'error'", (EVIL,))
    rows.execute("INSERT INTO kdnas_remark VALUES (1, 0, 1, ?, ?)", (EVIL, EVIL))
    rows.execute("UPDATE kdnas_trial SET state = 'failed' WHERE number = 2")
    rows.close()


@pytest.mark.parametrize("words", [*LOOKS, ["export", "fake", "--format", "markdown"], ["show", "fake", "--json"]])
def test_hostile_text_reaches_the_output(words: list[str], hostile: None, quick: Quick) -> None:
    said = quick(*words)
    assert said.code == 0
    assert len(said.out) > 20
    assert not UNSEEN.findall(said.out + said.err)
    assert not [line for line in (said.out + said.err).splitlines() if line.startswith("kdnas: forged")]


def test_a_table_for_programs_is_made_fit_for_a_terminal_and_left_alone_elsewhere(
    hostile: None, quick: Quick, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = quick("export", "fake", "--format", "csv").out
    assert "\x1b]0;title\x07" in out, repr(out)
    monkeypatch.setattr("kdnas.cli.frame.on_terminal", lambda: True)
    said = quick("export", "fake", "--format", "csv")
    assert "forged" in said.out
    assert not UNSEEN.findall(said.out)


IMAGE = "<img src=x onerror=alert(1)>"
MARKUP = f"x\n\n# Owned\n\n---\n| a | b |\n{IMAGE} </script><script>alert(1)</script> [a](javascript:b) ``` "


def test_a_report_is_marked_up_from_outside(rows: sqlite3.Connection, place: Place, quick: Quick) -> None:
    def written(name: str) -> str:
        assert quick("report", "fake", "-o", name).code == 0
        return (place.folder / name).read_text(encoding="utf-8")

    plain = written("plain.md")
    spec = json.loads(rows.execute("SELECT spec FROM kdnas_study WHERE name = 'fake'").fetchone()[0])
    spec["teacher"]["model"] = spec["data"]["source"] = MARKUP + EVIL
    rows.execute("UPDATE kdnas_study SET spec = ?, ending = ? WHERE name = 'fake'", (json.dumps(spec), MARKUP))
    rows.execute("UPDATE kdnas_trial SET latency_flag = ?", (MARKUP + EVIL,))
    rows.execute("INSERT INTO kdnas_remark VALUES (1, 0, 1, 'tag', ?)", (MARKUP + EVIL,))
    rows.close()
    hostile, page = written("hostile.md"), written("hostile.html")
    assert "Owned" in hostile
    for start in ("#", "---", "```", "|--", "| --"):
        counts = [sum(line.startswith(start) for line in text.splitlines()) for text in (plain, hostile)]
        assert counts[0] == counts[1], start
    assert not UNSEEN.findall(hostile)
    outside = re.sub(r"(`+).*?\1", "", hostile, flags=re.DOTALL)
    assert "<img" not in outside and "<script" not in outside and "[a](" not in outside
    tags: list[tuple[str, str | None]] = []
    parser = HTMLParser()
    parser.handle_starttag = lambda tag, attributes: tags.extend((tag, n) for n, _ in [*attributes, ("", None)])  # type: ignore[method-assign]
    parser.feed(page)
    assert ("h1", "") in tags
    assert not [name for _, name in tags if name and name.startswith("on")]
    assert "alert(1)</script>" not in page


@pytest.mark.parametrize("beta", [5e-324, 1e-300, 1e308])
def test_numbers_out_of_bounds_brick_the_store(beta: float, rows: sqlite3.Connection, quick: Quick) -> None:
    rows.execute("UPDATE kdnas_study SET alpha = -0.3, beta = ? WHERE name = 'fake'", (beta,))
    rows.execute("UPDATE kdnas_trial SET latency_ms = 5e-324, teacher_latency_ms = 1e308 WHERE number = 0")
    rows.execute("UPDATE kdnas_trial SET loss = 1e308, alpha = 1e308, beta = 0 WHERE number = 1")
    rows.execute("UPDATE kdnas_trial SET latency_ms = 0.1, teacher_latency_ms = 0.3 WHERE number = 2")  # β · 0.3 is 0
    rows.close()
    for words in (*LOOKS, ["export", "fake", "--format", "csv"]):
        assert quick(*words).code == 0, words
    assert quick("rescore", "fake", "--alpha", "-0.1").line.startswith("kdnas: reward.beta")  # what would stay is bad
    assert quick("rescore", "fake", "--alpha", "-0.1", "--beta", "0.6", "--use").code == 0
    assert "β 0.6" in quick("show", "fake").out
    assert quick("delete", "fake", "--yes").code == 0
    assert "fake" not in quick("studies").out


@pytest.mark.parametrize("spec", ["", "{", "[]", "null", '{"teacher": 3}', "[" * 3000], ids=range(6))
def test_one_damaged_spec_hides_every_study(spec: str, rows: sqlite3.Connection, quick: Quick) -> None:
    rows.execute("UPDATE kdnas_study SET spec = ?, space = '{' WHERE name = 'fake'", (spec,))
    rows.close()
    said = quick("studies")
    assert said.code == 0
    assert "fake" in said.out and "other" in said.out
    assert "cannot be read: its row is damaged. `kdnas delete fake` removes it." in quick("show", "fake").out
    assert quick("worker", "fake").line
    assert quick("show", "other").code == quick("delete", "fake", "--yes").code == 0
    assert "fake" not in quick("studies").out
    assert quick("delete", "other", "--yes").code == 0


@pytest.mark.parametrize("text", ["{", "[]", "{},{}", "[" * 3000, "3"], ids=range(5))
def test_a_damaged_trial_is_taken_for_another_or_ends_in_a_traceback(
    text: str, rows: sqlite3.Connection, quick: Quick
) -> None:
    rows.execute("UPDATE kdnas_trial SET candidate = ? WHERE number = 1", (text,))
    rows.close()
    for words in (["show", "fake"], ["export", "fake"], ["show", "fake", "--filter", "layers=3"]):
        said = quick(*words)
        assert said.code == 2 and "A row of the store" in said.line and "is damaged" in said.line
    assert quick("show", "other").code == 0
    assert "kdnas_trial are damaged" in quick("doctor", "--store").out
    assert quick("delete", "fake", "--yes").code == 0


@pytest.mark.parametrize(
    "change",
    [
        "kdnas_trial SET loss = 'low'",
        "kdnas_trial SET latency_ms = x'00ff'",
        "kdnas_trial SET number = 'one' WHERE number = 1",
        "kdnas_study SET trials = 'many'",
        "kdnas_study SET alpha = 'low'",
    ],
)
def test_a_value_of_another_type_ends_in_a_traceback(change: str, rows: sqlite3.Connection, quick: Quick) -> None:
    rows.execute(f"UPDATE {change}")
    rows.close()
    refused = 0
    for words in (["studies"], ["show", "fake"], ["show", "fake", "--json"], ["logs", "fake"], ["export", "fake"]):
        said = quick(*words)
        assert said.code in (0, 2)
        if said.code:
            refused += "is damaged" in said.line
    assert refused
    assert "are damaged: in the first, " in quick("doctor", "--store").out


@pytest.mark.parametrize("gone", [["trial_params"], ["alembic_version"], ["studies", "trials"], ["trials"]])
def test_a_study_whose_side_of_optuna_is_gone_cannot_be_deleted(
    gone: list[str], rows: sqlite3.Connection, quick: Quick
) -> None:
    for table in gone:
        rows.execute(f"DROP TABLE {table}")
    assert quick("delete", "fake", "--yes").code == 0
    assert "fake" not in quick("studies").out
    for (table,) in rows.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall():
        theirs = "trials" not in gone and table.startswith("trial_")
        if theirs or table in ("kdnas_trial", "kdnas_slot"):
            left = rows.execute(f"SELECT count(*) FROM {table}").fetchone()[0]
            assert left == (8 if table == "kdnas_slot" else 0), table


@pytest.mark.parametrize("version", ["²", "", "1e9", "-1", "9" * 400], ids=range(5))
def test_a_schema_version_that_is_no_number(version: str, rows: sqlite3.Connection, quick: Quick) -> None:
    rows.execute("UPDATE kdnas_meta SET value = ? WHERE key = 'schema_version'", (version,))
    rows.close()
    said = quick("studies")
    assert said.code == 2
    assert "was written by a newer kdnas" in said.line
