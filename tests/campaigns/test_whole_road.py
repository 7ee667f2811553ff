"""A campaign of three families of random weights over one CSV, from the command to the table: with real parts."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from kdnas.students import model_folder
from tests.campaigns import two_classes
from tests.cli.conftest import Place, place, shelf  # noqa: F401
from tests.encoders import tiny_encoder

SPEC = """
name = "three"
device = "cpu"
[task]
source = 'rows.csv'
label_column = "label"
length = 16
max_held_out = 24
[budget]
trials = 15
[scoring]
epochs = 0
[latency]
length = 16
precision = 0.5
max_seconds = 0.02
[study]
budget = {epochs = 1, short_text = "train"}
data = {batch_size = 8}
strategy = {name = "random"}
full = {epochs = 0}
[members.albert]
teacher = {model = 'albert'}
[members.roberta]
teacher = {model = 'roberta'}
[members.bert]
teacher = {model = 'bert'}
recipe = {name = "rnn-hybrid", embeddings = "teacher", teacher_epochs = 6, teacher_rate = 5e-3}
full = {epochs = 1}
"""


@pytest.mark.heavy
def test_three_families_do_not_come_to_one_table(place: Place) -> None:  # noqa: F811
    for family in ("albert", "roberta", "bert"):
        tiny_encoder(place.folder / family, family)
    two_classes.write(place.folder / "rows.csv")
    (place.folder / "three.toml").write_text(SPEC)
    assert place.forked("campaign", "three.toml", "--plan").code == 0
    assert not (place.folder / "campaigns").exists()  # which would keep the campaign from beginning
    said = place.forked("campaign", "three.toml", "--json")
    assert said.code == 0, said.err
    assert "disk      at most" in said.err
    assert json.loads(said.out)["result"]["timed"] == "All 6 models were timed in one go."
    row = json.loads(said.out)
    table = row["result"]["rows"]
    students = [one for one in table if one["kind"] == "student"]
    assert {one["member"] for one in students} == {"albert", "roberta", "bert"}
    assert sum(one["kind"] == "teacher" for one in table) == 3, table
    assert all(0.5 < one["score"] <= 1 and one["latency_ms"] > 0 and one["parameters"] > 0 for one in table)
    assert [one["rank"] for one in students] == [1, 2, 3]
    heads = {one["name"] for one in table if one["own_head"] is not None}
    assert heads == {"bert", "bert (taught)"}  # what classifies is scored by its own head, too
    assert row["result"]["winner"] == students[0]["member"] and any(one["front"] for one in table)
    assert row["result"]["task"] == {**row["result"]["task"], "train": 192, "held_out": 24, "test": 24}
    granted = {member["name"]: member["granted"] for member in row["members"]}
    assert sorted(granted.values()) == [1, 2, 12]
    folder = Path(students[0]["folder"])
    assert model_folder.read_facts(folder)["campaign"]["rank"] == 1
    assert "number 1 of 3" in (folder / model_folder.CARD).read_text()
    exported = place.forked("export", "three", "--format", "csv")
    assert [one["name"] for one in csv.DictReader(exported.out.splitlines())] == [one["name"] for one in table]
    assert place.forked("report", "three", "-o", "three.html").code == 0
    page = (place.folder / "three.html").read_text()
    assert "<svg" in page and str(row["result"]["verdict"]) in page and "Successive halving" in page
    shown = place.forked("campaign", "three", "--status")
    assert shown.code == 0 and "wins" in shown.out and "teacher bert (taught)" in shown.out
