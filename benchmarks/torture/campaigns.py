"""Coordinators and workers of campaigns killed at random moments: members are formulas. The campaign must end with the
same scores, decisions and table as one that nothing happened to, and no slot may be evaluated to its end twice."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from benchmarks.torture.faults import Fault, Ground, Lost
from kdnas.campaigns.coordinator import run
from kdnas.store import campaigns, queries
from kdnas.store.database import open_store
from kdnas.study.campaign_rows import CampaignRow
from kdnas.study.campaign_spec import CampaignSpec
from tests.campaigns import formulas
from tests.forks import Forked

DEATHS = 50


def killed(ground: Ground, most: int = DEATHS) -> int:
    """So many deaths, each of the coordinator or of a worker that is at work then; fewer where the campaign ends."""
    spec = formulas.spec(40, ("poor", "good", "worst", "fair"), ground.seed)
    whole, _ = _campaign(ground, ground.folder / "whole", spec, 0)
    broken, deaths = _campaign(ground, ground.folder / "broken", spec, most)
    decided = [
        formulas.told(str(ground.folder / part / "studies.db"), row)
        for part, row in (("broken", broken), ("whole", whole))
    ]
    if decided[0] != decided[1]:
        raise Lost("the campaign decided otherwise")
    return deaths


def _campaign(ground: Ground, folder: Path, spec: CampaignSpec, most: int) -> tuple[CampaignRow, int]:
    folder.mkdir()
    place = str(folder / "studies.db")
    with open_store(place, create=True) as store:
        campaigns.begin_campaign(store, spec, "/nowhere")
    hands = formulas.hands(place, formulas.forked, folder / "scored")

    def work() -> int:
        run(place, spec.name, hands, lambda line: None)
        return 0

    deaths = 0
    while True:
        coordinator = ground.fork(work)
        while deaths < most and coordinator.poll() is None:
            ground.moment(0.6)
            deaths += _struck(ground, place, coordinator)
        if ground.ended(coordinator, "a coordinator") == 0:
            break
        if deaths >= most and coordinator.returncode not in (0, -signal.SIGKILL):
            raise Lost(f"a coordinator ended with {coordinator.returncode}")
    with open_store(place) as store:
        for study in queries.study_rows(store):
            ended = [row.slot for row in queries.trial_rows(store, study.study_id) if row.state == "done"]
            if len(ended) != len(set(ended)):
                raise Lost(f"a slot of {study.name} was evaluated twice")
        return campaigns.campaign_row(store, spec.name), deaths


def _struck(ground: Ground, place: str, coordinator: Forked) -> int:
    """Whether the coordinator, or a worker that lives, was killed."""
    victims = [coordinator.pid]
    with open_store(place) as store:
        for study in queries.study_rows(store):
            victims += [worker.pid for worker in queries.workers(store, study.study_id) if worker.alive]
    victim = victims[int(ground.rng.integers(len(victims)))]
    if victim == coordinator.pid and coordinator.poll() is not None:
        return 0
    try:
        os.kill(victim, signal.SIGKILL)
    except ProcessLookupError:  # it had just ended
        return 0
    return 1


FAULTS = [Fault("campaigns", "a coordinator or a worker is killed", killed, share=0.5)]
