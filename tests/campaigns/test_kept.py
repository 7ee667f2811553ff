"""A campaign that a backup leaves behind, or brings where there is one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from kdnas.campaigns.coordinator import run
from kdnas.search.begin import begin
from kdnas.store import campaigns, queries
from kdnas.store.copies import copy
from kdnas.store.database import open_reader, open_store
from kdnas.study.campaign_rows import CampaignRow
from kdnas.system.errors import UsageError
from tests import fakes
from tests.campaigns import formulas


def apart_from_numbers(row: CampaignRow) -> CampaignRow:
    members = tuple(replace(member, study_id=None) for member in row.members)
    return replace(row, campaign_id=0, members=members, pid=None, host=None)


def test_a_backup_leaves_a_campaign_behind(tmp_path: Path) -> None:
    own, other = str(tmp_path / "own.db"), str(tmp_path / "other.db")
    with open_store(own, create=True) as store:
        campaigns.begin_campaign(store, formulas.spec(10, ("poor", "good")), "/nowhere")
    row = run(own, "c", formulas.hands(own), lambda line: None)
    begin(fakes.spec("before"), other)
    with open_reader(own) as source, open_store(other) as target:
        copy(source, target, ["c-poor"])
        assert campaigns.campaign_rows(target) == []  # half of one is none
    whole = str(tmp_path / "whole.db")
    begin(fakes.spec("before"), whole)
    with open_reader(own) as source, open_store(whole) as target:
        copy(source, target)
        found = campaigns.campaign_row(target, "c")
        assert apart_from_numbers(found) == apart_from_numbers(row)
        ids = {study.name: study.study_id for study in queries.study_rows(target)}
        assert [member.study_id for member in found.members] == [ids["c-poor"], ids["c-good"]]
    with open_reader(own) as source, open_store(tmp_path / "taken.db", create=True) as target:
        campaigns.begin_campaign(target, formulas.spec(10, ("poor", "good")), "/nowhere")
        with pytest.raises(UsageError, match=r"There is a campaign 'c' in .* already"):
            copy(source, target)
        assert queries.study_rows(target) == []
