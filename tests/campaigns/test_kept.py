"""A campaign that a backup leaves behind or brings where there is one, or that loses the study of a member."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from kdnas.campaigns.contract import Beat
from kdnas.campaigns.coordinator import run
from kdnas.search.begin import begin
from kdnas.store import campaigns, changes, queries
from kdnas.store.copies import copy
from kdnas.store.database import open_reader, open_store
from kdnas.store.studies import delete_study
from kdnas.study.campaign_rows import CampaignRow, CampaignStatus
from kdnas.study.campaign_spec import CampaignSpec, campaign_from
from kdnas.system.errors import BadOptionError, KdnasError, UsageError
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


def halted(storage: str, spec: CampaignSpec) -> list[str]:
    """The names of the members' studies of a campaign whose coordinator was killed once all had begun."""
    with open_store(storage, create=True) as store:
        campaigns.begin_campaign(store, spec, "/nowhere")
    own = formulas.hands(storage)

    def score(*_: Any) -> Any:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(storage, "c", replace(own, score=score), lambda line: None)
    with open_reader(storage) as store:
        return [study.name for study in queries.study_rows(store)]


def test_a_member_that_is_renamed_is_searched_twice(address: str) -> None:
    assert sorted(halted(address, formulas.spec(10))) == ["c-good", "c-poor"]
    with open_store(address) as store:
        changes.rename(store, queries.study_row(store, "c-good").study_id, "better")
        assert campaigns.campaign_of_study(store, "better") == ("c", "good")
    row = run(address, "c", formulas.hands(address), lambda line: None)
    assert row.result["winner"] == "good"
    with open_reader(address) as store:
        assert {study.name: study.done for study in queries.study_rows(store)} == {"c-poor": 2, "better": 8}


def test_a_member_is_renamed_deleted_or_replaced_under_its_campaign(tmp_path: Path) -> None:
    storage, other = str(tmp_path / "own.db"), str(tmp_path / "other.db")
    own = formulas.hands(storage)
    with open_store(storage, create=True) as store:
        campaigns.begin_campaign(store, formulas.spec(10), "/nowhere")
    begin(fakes.spec("mine", seed=7), storage)
    begin(fakes.spec("c-poor"), other)
    with open_store(storage) as store:  # none of these is a member, and each would be taken for one
        with pytest.raises(UsageError, match="'c-poor' is that of a member of the campaign 'c'"):
            changes.rename(store, queries.study_row(store, "mine").study_id, "c-poor")
        with open_reader(other) as source, pytest.raises(UsageError, match="is that of a member of the campaign 'c'"):
            copy(source, store)
    tried = []

    def score(campaign: CampaignRow, name: str, number: int, beat: Beat) -> Any:
        with open_store(storage) as store:
            study = queries.study_row(store, "c-poor")
            with pytest.raises(UsageError, match="which has not ended"):
                delete_study(store, "c-poor")
            with pytest.raises(UsageError, match="which runs now"):
                changes.rename(store, study.study_id, "worse")
        tried.append(name)
        return own.score(campaign, name, number, beat)

    row = run(storage, "c", replace(own, score=score), lambda line: None)
    assert row.result["winner"] == "good" and tried == ["poor", "good"]
    with open_store(storage) as store:
        delete_study(store, "c-poor")  # the table stays


def test_all_members_are_timed_in_the_campaigns_dtype() -> None:
    asked = formulas.spec(10, latency={"dtype": "bfloat16"})
    assert {asked.member(name).latency.dtype for name in asked.members} == {"bfloat16"}
    own = {name: {"latency": {"dtype": "float32"}} for name in asked.members}
    with pytest.raises(BadOptionError, match=r"sets latency: the latency protocol is the campaign's"):
        campaign_from({**asked.model_dump(), "members": own})
    with pytest.raises(BadOptionError, match="float16, which is for GPUs"):
        formulas.spec(10, device="cpu", latency={"dtype": "float16"})


def test_a_study_of_somebody_else_is_taken_for_a_member(tmp_path: Path) -> None:
    storage = str(tmp_path / "own.db")
    with open_store(storage, create=True) as store:
        campaigns.begin_campaign(store, formulas.spec(10), "/nowhere")
    begin(fakes.spec("c-poor", seed=7), storage)
    with pytest.raises(KdnasError, match="c-poor is not what the campaign c would begin: like differs"):
        run(storage, "c", formulas.hands(storage), lambda line: None)
    with open_store(storage) as store:
        assert campaigns.campaign_row(store, "c").status is CampaignStatus.STOPPED
        changes.rename(store, queries.study_row(store, "c-poor").study_id, "mine")
    assert run(storage, "c", formulas.hands(storage), lambda line: None).result["winner"] == "good"
