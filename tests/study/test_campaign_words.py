"""The files of a campaign's table: text from outside stays text in each of them."""

from __future__ import annotations

import csv
import io
import json

import pytest

from kdnas.study.campaign_rows import CampaignRow, CampaignStatus
from kdnas.study.campaign_words import columns, rendered
from kdnas.system.text import clean

EVIL = "=HYPERLINK(1)\x9b31m\u202e | **x** <img src=x>"


@pytest.fixture
def row() -> CampaignRow:
    keys = ("member", "trial", "own_head", "finetuned", "latency_ms", "speedup", "parameters", "size_mib", "folder")
    one = {**dict.fromkeys(keys), "name": EVIL, "kind": "teacher", "score": 0.5, "flag": EVIL, "front": False}
    result = {"rows": [{**one, "rank": None, "misses": "", "state": "", "reason": EVIL}], "verdict": EVIL}
    spec = {"budget": {"trials": 9}, "task": {"source": EVIL}}
    return CampaignRow(
        1, "c", spec, CampaignStatus.FINISHED, 1, 1, "", "", "models", (), (), (), result, 0.0, 0.0, 1.0, 3, None, None
    )


def test_a_table_commands_a_spreadsheet_a_terminal_or_a_page(row: CampaignRow) -> None:
    text = rendered(row, "csv")
    [read] = csv.DictReader(io.StringIO(text))
    assert read["name"] == read["reason"] == "'" + EVIL
    text = rendered(row, "json")
    assert json.loads(text)["campaign"]["result"]["verdict"] == EVIL
    assert all(line.isprintable() for line in text.split("\n"))
    text = rendered(row, "markdown")
    assert all(line.isprintable() for line in text.split("\n"))
    assert "<img" not in text and "**x**" not in text and clean("\u202e") in text
    assert {line.replace("\\|", "").count("|") for line in text.splitlines() if line.startswith("|")} == {
        len(columns(row)) + 1
    }
