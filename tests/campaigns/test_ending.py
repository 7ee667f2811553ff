"""An ending that does again what it did, keeps half of a timing, or has a winner that misses the constraints."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from kdnas.campaigns import ending
from kdnas.campaigns.contract import Beat
from kdnas.campaigns.coordinator import run
from kdnas.campaigns.hands import here
from kdnas.store import campaigns
from kdnas.store.database import open_store
from kdnas.study.campaign_rows import CampaignRow
from kdnas.study.campaign_spec import read_campaign
from tests.campaigns import two_classes
from tests.cli.conftest import Place, place, shelf  # noqa: F401
from tests.encoders import tiny_encoder

SPEC = """
name = "two"
device = "cpu"
[task]
source = 'rows.csv'
label_column = "label"
length = 16
max_held_out = 24
[budget]
trials = 5
[scoring]
epochs = 0
finetune = true
[latency]
length = 16
precision = 0.5
max_seconds = 0.02
[study]
budget = {epochs = 0}
data = {batch_size = 8}
strategy = {name = "random"}
full = {epochs = 0}
[members.albert]
teacher = {model = 'albert'}
[members.roberta]
teacher = {model = 'roberta'}
"""


@pytest.fixture
def two(place: Place, monkeypatch: pytest.MonkeyPatch) -> Place:  # noqa: F811
    for family in ("albert", "roberta"):
        tiny_encoder(place.folder / family, family)
    two_classes.write(place.folder / "rows.csv")
    monkeypatch.chdir(place.folder)
    monkeypatch.setenv("KDNAS_CACHE", str(place.folder / "cache"))  # no earlier run has left scores in it
    return place


@pytest.mark.heavy
def test_an_ending_that_was_killed_does_again_what_it_did_or_keeps_half_of_a_timing(two: Place) -> None:
    (two.folder / "two.toml").write_text(SPEC)
    storage = str(two.folder / "own.db")
    with open_store(storage, create=True) as store:
        campaigns.begin_campaign(store, read_campaign(two.folder / "two.toml"), str(two.folder / "models"))
    heard: list[str] = []

    def finish(campaign: CampaignRow, beat: Beat, killed: bool) -> Mapping[str, Any]:
        def hear(words: str) -> None:
            heard.append(words)
            if killed and words == "side by side: timing roberta":
                raise KeyboardInterrupt

        return ending.finish(storage, campaign, hear)

    own = here(storage)
    with pytest.raises(KeyboardInterrupt):
        run(storage, "two", replace(own, finish=lambda row, beat: finish(row, beat, True)), lambda line: None)
    first, heard[:] = list(heard), []
    row = run(storage, "two", replace(own, finish=lambda row, beat: finish(row, beat, False)), lambda line: None)
    done_once = ("texts of the task", "seed 0", "building", "scoring the student")
    for words in done_once[:2]:
        assert any(words in line for line in first), words
    assert not any(words in line for line in heard for words in done_once if "seed 0" not in words), heard
    assert sum("side by side: timing" in line for line in heard) == 4
    assert row.result["timed"].startswith("All 4 models were timed again in one go. An earlier one was cut off")
    assert all(one["finetuned"] is not None for one in row.result["rows"])
    assert [one["rank"] for one in row.result["rows"]] == [1, 2, None, None]


@pytest.mark.heavy
def test_a_constraint_that_no_member_meets_has_a_winner_or_is_not_said(two: Place) -> None:
    (two.folder / "two.toml").write_text(SPEC + "[constraints]\nmax_latency_ms = 0.0001\n")
    said = two.forked("campaign", "two.toml", "--json")
    assert said.code == 1, said.err
    result = json.loads(said.out)["result"]
    assert result["winner"] is None and result["verdict"].startswith("No student keeps max_latency_ms 0.0001.")
    assert "albert has" in result["verdict"] and "roberta has" in result["verdict"]
    assert all(one["score"] is None and "for at most" in one["misses"] for one in result["rows"])
    exported = two.forked("export", "two", "--format", "csv")
    assert [one["misses"] for one in csv.DictReader(exported.out.splitlines())] == [
        one["misses"] for one in result["rows"]
    ]
    assert two.forked("campaign", "two").code == 1
