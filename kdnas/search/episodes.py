"""The LSTM controller's episodes in the store: each one trained, chosen and written in a single transaction.

What the controller learns and chooses is decided in kdnas.strategies.lstm from what stands in the slots, so a plan
that a death undid is made again just the same. Slots that hold a candidate are claimed as any other.
"""

from __future__ import annotations

import json
import time
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from kdnas.store import changes
from kdnas.store import tables as t
from kdnas.store.database import Store
from kdnas.store.limits import limits_on, of_row
from kdnas.store.notices import News
from kdnas.store.patience import patient
from kdnas.strategies.lstm import Plan, Rewarded, plan
from kdnas.strategies.refused import Refusal, Refused
from kdnas.strategies.without_replacement import draw, exhausted
from kdnas.study.loan import Loan
from kdnas.study.reward import reward
from kdnas.study.space import Candidate, SearchSpace
from kdnas.study.spec import StudySpec
from kdnas.study.spec_strategies import LstmStrategy
from kdnas.study.states import ENDED_SLOTS, SlotState
from kdnas.system.seeds import Purpose, generator


@patient
def plan_next(
    store: Store,
    study_id: int,
    spec: StudySpec,
    space: SearchSpace,
    refusal: Refusal | None = None,
    loan: Loan | None = None,
) -> None:
    """Give the free slots of the next episode their candidates, once every slot before it has ended.

    Ask before each claim, outside of any trial, and then claim a slot that holds a candidate; where there is none,
    others are still at the episode. Raises SpaceExhausted where free slots are left and no candidate is.
    """
    options = spec.strategy
    if not isinstance(options, LstmStrategy):
        raise ValueError(f"{options.name} plans no episodes")
    s = t.slot.c
    with store.connect() as connection:
        free = (
            sa.select(s.slot).where(s.study_id == study_id, s.state == SlotState.FREE, s.candidate.is_(None)).limit(1)
        )
        if connection.execute(free).first() is None:
            return
    with store.begin() as connection:
        changes.hold(connection, study_id)
        rows = connection.execute(sa.select(t.slot).where(s.study_id == study_id).order_by(s.slot)).all()
        bare = [row.slot for row in rows if row.state == SlotState.FREE and row.candidate is None]
        if not bare:
            return
        episode = bare[0] // options.samples
        first, last = episode * options.samples, (episode + 1) * options.samples
        if any(row.state not in ENDED_SLOTS for row in rows if row.slot < first):
            return
        changes.bump(connection, study_id, News.SLOT)
        filled = False
        keys = {row.candidate_key for row in rows if row.candidate_key is not None}
        taken: set[str] | Refused = keys if refusal is None else Refused(keys, refusal)
        known = connection.execute(
            sa.select(t.episode).where(t.episode.c.study_id == study_id, t.episode.c.episode == episode)
        ).first()
        if known is None:
            held = {row.slot for row in rows if first <= row.slot < last and row.candidate is not None}
            open_slots = [slot for slot in range(first, last) if slot not in held]
            choices = _new_episode(connection, study_id, options, space, spec, episode, taken, open_slots, loan)
        else:
            choices = json.loads(known.facts)["choices"]
        by_slot = {choice["slot"]: choice for choice in choices}
        for slot in bare:
            if slot < last and len(taken) < space.size:
                _fill(connection, study_id, spec, space, episode, slot, by_slot.get(slot), taken)
                filled = True
    if not filled:
        raise exhausted(space, taken)


def _new_episode(
    connection: Connection,
    study_id: int,
    options: LstmStrategy,
    space: SearchSpace,
    spec: StudySpec,
    episode: int,
    taken: set[str] | Refused,
    open_slots: list[int],
    loan: Loan | None,
) -> list[dict[str, Any]]:
    """Plan and write one episode; its choices, for the slots of the budget and those that a larger one would add."""
    before = connection.execute(
        sa.select(t.episode.c.state)
        .where(t.episode.c.study_id == study_id, t.episode.c.episode < episode)
        .order_by(t.episode.c.episode.desc())
        .limit(1)
    ).scalar_one_or_none()
    history = _history(connection, study_id, spec, options.samples, episode * options.samples)
    made = plan(options, space, spec.seed, episode, history, taken, before, len(open_slots), loan)
    choices = [
        {
            "slot": slot,
            "candidate": choice.candidate,
            "origin": choice.origin,
            "predicted": choice.predicted,
            "spread": choice.spread,
        }
        for slot, choice in zip(open_slots, made.choices, strict=False)
    ]
    connection.execute(t.episode.insert().values(study_id=study_id, **_columns(made, choices)))
    return choices


def _columns(made: Plan, choices: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "episode": made.episode,
        "epsilon": made.epsilon,
        "pool_size": made.pool_size,
        "controller_loss": made.controller_loss,
        "global_best": made.global_best,
        "previous_best": made.previous_best,
        "state": made.state,
        "facts": json.dumps({**made.facts, "choices": choices}),
        "time": time.time(),
    }


def _fill(
    connection: Connection,
    study_id: int,
    spec: StudySpec,
    space: SearchSpace,
    episode: int,
    slot: int,
    choice: dict[str, Any] | None,
    taken: set[str] | Refused,
) -> None:
    """Write a slot's candidate: the episode's, or a random one where a person has enqueued that very one meanwhile."""
    if choice is not None and (space.key(choice["candidate"]) not in taken):
        candidate: Candidate = choice["candidate"]
        origin, predicted = choice["origin"], choice["predicted"]
    else:
        candidate = draw(space, generator(spec.seed, Purpose.PROPOSAL, slot), taken)
        origin, predicted = "random", None
    key = space.key(candidate)
    taken.add(key)
    connection.execute(
        sa.update(t.slot)
        .where(t.slot.c.study_id == study_id, t.slot.c.slot == slot)
        .values(candidate=json.dumps(candidate), candidate_key=key, origin=origin, predicted=predicted, episode=episode)
    )


def _history(connection: Connection, study_id: int, spec: StudySpec, samples: int, until: int) -> list[Rewarded]:
    """The rewarded candidates of the slots before `until`, in slot order, at the study's α and β of now.

    A trial that misses constraints counts with less than the least reward of those that keep them, a pruned one with
    the loss at which it was stopped; a failed one has no reward and teaches nothing.
    """
    s, c = t.slot.c, t.trial.c
    rate = connection.execute(sa.select(t.study.c.alpha, t.study.c.beta).where(t.study.c.study_id == study_id)).one()
    loss = c.raw_loss if spec.reward.loss == "raw" else c.loss
    limits = limits_on(connection, study_id)
    rows = connection.execute(
        sa.select(s.slot, c.candidate, loss.label("loss"), c.latency_ms, c.teacher_latency_ms, c.parameters)
        .join_from(t.slot, t.trial, sa.and_(c.study_id == s.study_id, c.number == s.trial))
        .where(s.study_id == study_id, s.slot < until, s.state.in_((SlotState.DONE, SlotState.PRUNED)))
        .order_by(s.slot)
    )
    whole = [row for row in rows if None not in (row.loss, row.latency_ms, row.teacher_latency_ms)]
    rewards = [reward(row.loss, row.latency_ms, row.teacher_latency_ms, rate.alpha, rate.beta) for row in whole]
    misses = [limits.miss(of_row(row, limits)) for row in whole]
    # What misses a constraint is to be foreseen as worse than all that keeps them, by as much as it misses.
    least = min((value for value, miss in zip(rewards, misses, strict=True) if not miss), default=0.0)
    return [
        Rewarded(json.loads(row.candidate), min(value, least) - miss if miss else value, row.slot // samples)
        for row, value, miss in zip(whole, rewards, misses, strict=True)
    ]
