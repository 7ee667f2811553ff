"""A campaign that gives its budget to the wrong member, decides anew after a death, or is stopped by one that fails."""

from __future__ import annotations

import os
import random
import signal
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from kdnas.campaigns.contract import Hands
from kdnas.campaigns.coordinator import run
from kdnas.search.begin import begin
from kdnas.store import campaigns, queries
from kdnas.store.database import open_store
from kdnas.study import halving
from kdnas.study.campaign_rows import CampaignRow, CampaignStatus, MemberState
from kdnas.study.campaign_spec import CampaignSpec, read_campaign
from kdnas.system.errors import KdnasError, UsageError
from tests import fakes
from tests.campaigns import formulas
from tests.forks import Forked


def begun(storage: str, spec: CampaignSpec) -> CampaignRow:
    with open_store(storage, create=True) as store:
        return campaigns.begin_campaign(store, spec, "/nowhere")


def finished(storage: str, spec: CampaignSpec, hands: Hands | None = None) -> CampaignRow:
    begun(storage, spec)
    return run(storage, spec.name, hands or formulas.hands(storage), lambda line: None)


@pytest.fixture
def storage(tmp_path: Path) -> str:
    return str(tmp_path / "studies.db")


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_share_buys_more_alone_than_in_a_campaign(tmp_path: Path, seed: int) -> None:
    storage = str(tmp_path / "campaign.db")
    row = finished(storage, formulas.spec(10, ("poor", "good"), seed))
    assert row.status is CampaignStatus.FINISHED
    with open_store(storage) as store:
        spent = {study.name: study.done for study in queries.study_rows(store)}
    assert spent == {"c-poor": 2, "c-good": 8}
    alone = str(tmp_path / "alone.db")
    best = []
    for name in ("poor", "good"):
        asked = formulas.member_spec(row, name)
        begin(fakes.spec(asked.name, seed=seed, budget={"trials": 5, "epochs": 2}), alone)
        formulas.Here(alone, asked.name)
        with open_store(alone) as store:
            best += [
                formulas.task_score(name, one.row.candidate) for one in formulas.best_feasible(store, asked.name, 1)
            ]
    assert row.result["rows"][0]["score"] >= max(best)


def of_three(hands: Hands) -> Hands:
    """Hands of members that have three candidates each, so that hours end with them."""

    def member(campaign: CampaignRow, name: str) -> Any:
        few = {"num_attention_heads": (2,), "intermediate_size": (128,), "hidden_act": ("gelu",)}
        choices = {"num_hidden_layers": (1, 2, 3), **few}
        spec = hands.member(campaign, name)
        return spec.model_copy(update={"space": spec.space.model_copy(update={"choices": choices})})

    return replace(hands, member=member)


def test_a_campaign_of_hours_gives_out_more_than_it_has(address: str) -> None:
    row = finished(address, formulas.spec(10, budget={"hours": 1}), of_three(formulas.hands(address)))
    assert row.timed and row.decisions[0].facts["going"] == ["good"] and row.result["winner"] == "good"
    assert row.member("poor").granted == pytest.approx(0.2) and row.member("good").granted == pytest.approx(0.8)
    with open_store(address) as store:
        ends = {study.name: study.until for study in queries.study_rows(store)}
    assert ends["c-good"] == pytest.approx(row.decisions[0].time + 0.6 * 3600, abs=600)


def test_hours_that_a_failed_member_did_not_use_are_lost(storage: str) -> None:
    begun(storage, formulas.spec(10, budget={"hours": 1}))
    row = run(storage, "c", of_three(broken(storage, {"good"})), lambda line: None)
    assert row.decisions[1].facts["going"] == ["poor"]
    assert row.member("good").granted == pytest.approx(0.2, abs=0.1)  # its last stage took no time
    assert row.member("poor").granted + row.member("good").granted == pytest.approx(1)


def test_what_was_decided_and_why_is_not_written_down(storage: str) -> None:
    row = finished(storage, formulas.spec(40, ("poor", "good", "worst", "fair")))
    first, second = row.decisions
    assert first.facts["going"] == ["good", "fair"] and second.facts["going"] == ["good"]
    assert set(first.facts["out"]) == {"poor", "worst"} and "of 4 go on" in first.facts["out"]["poor"]
    assert first.facts["rule"] == halving.RULE and first.facts["constants"]["budget"] == 40
    assert first.facts["global_best"]["member"] == "good" and first.facts["previous_best"] is None
    assert second.facts["previous_best"] == first.facts["global_best"]
    assert set(second.facts["best"]) == {"poor", "good", "worst", "fair"}
    with open_store(storage) as store:
        spent = {study.name: study.done for study in queries.study_rows(store)}
    assert sum(spent.values()) == 40 and spent["c-worst"] == 2 and spent["c-good"] == 30
    states = {member.name: member.state for member in row.members}
    assert states["worst"] is MemberState.OUT and states["good"] is MemberState.SEARCHED


def test_one_member_that_fails_stops_the_others(storage: str) -> None:
    own = formulas.hands(storage)

    def member(campaign: CampaignRow, name: str) -> Any:
        if name == "poor":
            raise UsageError("There is no model 'poor'.", "Give a folder.")
        return own.member(campaign, name)

    row = finished(storage, formulas.spec(10), Hands(member, own.start, own.score, own.finish))
    assert row.member("poor").state is MemberState.FAILED
    assert "There is no model 'poor'" in row.member("poor").reason
    with open_store(storage) as store:
        assert queries.study_row(store, "c-good").done == 10  # the other's share, too


def broken(storage: str, names: set[str]) -> Hands:
    """Hands with which members of these names cannot go on once the rounds are over."""
    own = formulas.hands(storage)

    def start(study: str) -> Any:
        with open_store(storage) as store:
            row = campaigns.campaign_row(store, "c")
        if len(row.decisions) >= row.rounds and study.removeprefix("c-") in names:
            raise UsageError("Its text is gone.", "Bring it back.")
        return own.start(study)

    return replace(own, start=start)


def test_what_the_last_member_leaves_is_spent_by_nobody(storage: str) -> None:
    heard: list[str] = []
    begun(storage, formulas.spec(20, ("poor", "good", "fair")))
    run(storage, "c", broken(storage, {"good"}), heard.append)
    with open_store(storage) as store:
        row = campaigns.campaign_row(store, "c")
        spent = {study.name: study.done for study in queries.study_rows(store)}
    assert row.decisions[1].facts["going"] == ["good"] and row.decisions[2].facts["going"] == ["fair"]
    assert row.decisions[2].facts["out"] == {"good": "Its text is gone. Bring it back."}
    assert row.member("good").state is MemberState.FAILED and row.member("fair").state is MemberState.SEARCHED
    assert sum(spent.values()) == 20 and spent["c-fair"] > spent["c-good"]
    assert any("fair has what is left, in place of good" in line for line in heard)


def test_a_campaign_whose_last_members_all_fail_never_ends(storage: str) -> None:
    row = finished(storage, formulas.spec(10), broken(storage, {"good", "poor"}))
    assert row.status is CampaignStatus.FINISHED and len(row.decisions) == 2  # what the rounds reached stays
    assert {one["member"] for one in row.result["rows"]} == {"good", "poor"}


def test_a_campaign_of_which_every_member_fails_has_a_winner(storage: str) -> None:
    own = formulas.hands(storage)

    def member(campaign: CampaignRow, name: str) -> Any:
        raise UsageError(f"There is no model {name!r}.", "Give a folder.")

    with pytest.raises(KdnasError, match=r"No member of the campaign c can go on: poor: There is no model 'poor'"):
        finished(storage, formulas.spec(10), Hands(member, own.start, own.score, own.finish))
    with open_store(storage) as store:
        assert campaigns.campaign_row(store, "c").status is CampaignStatus.FAILED


def test_a_constraint_that_nobody_keeps_is_silently_dropped(storage: str) -> None:
    row = finished(storage, formulas.spec(10, constraints={"max_latency_ms": 0.01}))
    assert row.decisions[0].facts["scores"] == {"poor": None, "good": None}
    assert row.result["winner"] is None


def test_the_second_coordinator_runs_beside_the_first(storage: str) -> None:
    begun(storage, formulas.spec(10))
    own = formulas.hands(storage)

    def start(study: str) -> Any:
        with pytest.raises(UsageError, match="The campaign 'c' is run by process"):
            run(storage, "c", own, lambda line: None)
        return own.start(study)

    run(storage, "c", Hands(own.member, start, own.score, own.finish), lambda line: None)
    with open_store(storage) as store:
        assert campaigns.campaign_row(store, "c").status is CampaignStatus.FINISHED


def killed(folder: Path, spec: CampaignSpec, kills: int, seed: int) -> tuple[CampaignRow, Counter[str], int]:
    """The campaign, with its coordinator or one of its workers killed so often; and what was scored how often."""
    folder.mkdir()
    storage = str(folder / "studies.db")
    begun(storage, spec)
    chance = random.Random(seed)
    hands = formulas.hands(storage, formulas.forked, folder / "scored")

    def work() -> int:
        run(storage, spec.name, hands, lambda line: None)
        return 0

    done = 0
    while True:
        process = Forked(work)
        if done < kills:
            time.sleep(chance.uniform(0.05, 0.5))
            victims = [process.pid]
            with open_store(storage) as store:
                for study in queries.study_rows(store):
                    victims += [w.pid for w in queries.workers(store, study.study_id) if w.alive]
            victim = chance.choice(victims)
            if process.poll() is None:
                os.kill(victim, signal.SIGKILL)
                done += 1
        if process.wait() == 0:
            break
    with open_store(storage) as store:
        row = campaigns.campaign_row(store, spec.name)
    return row, Counter((folder / "scored").read_text().splitlines()), done


def test_a_death_changes_what_is_decided_or_evaluates_something_twice(tmp_path: Path) -> None:
    spec = formulas.spec(20, ("poor", "good", "fair"))
    whole, _, _ = killed(tmp_path / "whole", spec, 0, 0)
    broken, _, done = killed(tmp_path / "broken", spec, 5, 1)
    assert done > 0
    decided = [
        formulas.told(str(tmp_path / part / "studies.db"), row) for part, row in (("broken", broken), ("whole", whole))
    ]
    assert decided[0] == decided[1]
    with open_store(str(tmp_path / "broken" / "studies.db")) as store:
        for study in queries.study_rows(store):
            ended = [row.slot for row in queries.trial_rows(store, study.study_id) if row.state == "done"]
            assert len(ended) == len(set(ended)) == study.done


TASK = '[task]\nsource = "rows.csv"\nlabel_column = "label"\n'
BUDGET = "[budget]\ntrials = 10\n"
TWO = "[members.a]\n[members.b]\n"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (TASK + BUDGET + "[members.a]\n", "a campaign compares two members or more, and this has 1"),
        (BUDGET + TWO, "task is not given, and it cannot be left out"),
        (TASK + BUDGET + "[members.a]\n[members.a.task]\nsource = 'x'\n[members.b]\n", "all members share one task"),
        (
            TASK + BUDGET + "[members.a]\n[members.b]\nrecipe = {name = 'rnn-hybrid'}\ndata = {source = 'sst.csv'}\n",
            "It learns from data.source = 'sst.csv', and the task has 'rows.csv'",
        ),
        (TASK + BUDGET + "[members.a]\n[members.b]\nrecipe = {name = 'causal-divergence'}\n", "cannot be solved"),
        (TASK + "[budget]\ntrials = 4\n" + TWO, "2 members need at least 5"),
        (TASK + BUDGET + "[constraints]\nmax_loss = 0.2\n" + TWO, "max_loss bounds a distance to one teacher"),
        (
            TASK + BUDGET + "[constraints]\nmin_speedup = 2\n[members.a]\n[members.b]\nteacher = {model = 'x'}\n",
            "min_speedup is over one teacher, and the members have several",
        ),
        (TASK + BUDGET + "[members.a]\nbudget = {trials = 3}\n[members.b]\n", "the campaign shares its budget out"),
        (TASK + BUDGET + "[members.a]\nteacher = {modle = 'x'}\n[members.b]\n", "no setting teacher.modle"),
        (TASK + BUDGET + "[[members]]\nname = 'a'\n[[members]]\nname = 'a'\n", "two members are called 'a'"),
    ],
)
def test_a_campaign_that_cannot_be_is_begun(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "campaign.toml"
    path.write_text('name = "c"\n' + text if text else text)
    with pytest.raises(UsageError) as refused:
        read_campaign(path)
    assert said in str(refused.value) and "\n" not in str(refused.value)


def test_a_member_joins_a_campaign_that_has_ended(storage: str) -> None:
    finished(storage, formulas.spec(10))
    with pytest.raises(UsageError, match=r"The campaign 'c' has ended with the members poor, good; fair is new"):
        begun(storage, formulas.spec(15, ("poor", "good", "fair")))
    with pytest.raises(UsageError, match=r"budget is .* asked for"):
        begun(storage, formulas.spec(20))


def test_a_share_is_more_than_there_is_or_a_loser_has_more_than_a_fifth() -> None:
    for members in range(2, 12):
        for budget in (halving.least(members), 100, 1000):
            if budget < halving.least(members):
                continue
            spent, alive, most_of_losers = 0.0, members, 0.0
            mine = 0.0
            for stage in range(halving.rounds(members) + 1):
                each = halving.whole(halving.share(budget, spent, stage, members, alive))
                assert each >= 1
                mine += each
                spent += each * alive
                if stage < halving.rounds(members):
                    most_of_losers = mine
                    alive = max(1, -(-alive // 2))
            assert alive == 1 and spent <= budget and most_of_losers <= 0.4 * budget
            if members == 2:
                assert most_of_losers <= budget / 5
