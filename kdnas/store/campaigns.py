"""Campaigns in the store: begun, read, and each step of one written in one transaction. Plain SQL; runs nothing.

What a step decides stands in its row, so that whoever goes on takes the same decision. A member's trials are those of
its study.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Row
from sqlalchemy.exc import IntegrityError

from kdnas.store import tables as t
from kdnas.store.database import Store, clock
from kdnas.store.patience import patient
from kdnas.study import halving
from kdnas.study.campaign_rows import CampaignRow, CampaignStatus, DecisionRow, MemberRow, MemberState, ScoreRow
from kdnas.study.campaign_spec import CampaignSpec, campaign_from, study_name
from kdnas.system import liveness
from kdnas.system.errors import UsageError, nearest

_LIVING = "a campaign's coordinator"

# ---------------------------------------------------------------------------- reading


@patient
def campaign_rows(store: Store) -> list[CampaignRow]:
    """Every campaign, the one that changed last first."""
    with store.connect() as connection:
        if not _are_known(store, connection):
            return []
        query = sa.select(t.campaign).order_by(t.campaign.c.updated.desc(), t.campaign.c.campaign_id)
        now = clock(connection)
        return [_read(connection, row, now) for row in connection.execute(query).all()]


@patient
def find_campaign(store: Store, name: str) -> CampaignRow | None:
    """One campaign; None where there is none of that name."""
    with store.connect() as connection:
        if not _are_known(store, connection):
            return None
        row = connection.execute(sa.select(t.campaign).where(t.campaign.c.name == name)).first()
        return None if row is None else _read(connection, row, clock(connection))


def campaign_row(store: Store, name: str) -> CampaignRow:
    """One campaign. Raises UsageError, with the nearest name, where there is none of that name."""
    found = find_campaign(store, name)
    if found is None:
        names = [row.name for row in campaign_rows(store)]
        hint = nearest(name, names) if names else "Begin one with: kdnas campaign FILE.toml"
        raise UsageError(f"There is no campaign {name!r} in {store.place}.", hint)
    return found


@patient
def campaign_of_study(store: Store, study: str) -> tuple[str, str] | None:
    """The campaign and the member that a study is of; None where it is of none."""
    m, c = t.campaign_member.c, t.campaign.c
    query = sa.select(c.name, m.name).join(t.campaign, c.campaign_id == m.campaign_id).where(m.study == study)
    with store.connect() as connection:
        row = connection.execute(query).first() if _are_known(store, connection) else None
        return None if row is None else (row[0], row[1])


def _are_known(store: Store, connection: Connection) -> bool:
    """Whether the store has the tables of campaigns; one of version 1 that is only read has not."""
    return not store.read_only or sa.inspect(connection).has_table(t.campaign.name)


def _read(connection: Connection, row: Row[Any], now: float) -> CampaignRow:
    mine = row.campaign_id
    spec: dict[str, Any] = json.loads(row.spec)
    names = list(spec["members"])
    s, d, m = t.campaign_score.c, t.campaign_decision.c, t.campaign_member.c
    scores = tuple(
        ScoreRow(one.stage, names[one.place], one.trial, one.score, json.loads(one.facts), one.time)
        for one in connection.execute(
            sa.select(t.campaign_score).where(s.campaign_id == mine).order_by(s.stage, s.place, s.trial)
        )
    )
    best: dict[str, float] = {}
    for score in scores:
        best[score.member] = max(score.score, best.get(score.member, score.score))
    members = tuple(
        _member(one, spec, best.get(one.name))
        for one in connection.execute(sa.select(t.campaign_member).where(m.campaign_id == mine).order_by(m.place))
    )
    decisions = tuple(
        DecisionRow(one.stage, json.loads(one.facts), one.time)
        for one in connection.execute(sa.select(t.campaign_decision).where(d.campaign_id == mine).order_by(d.stage))
    )
    return CampaignRow(
        campaign_id=mine,
        name=row.name,
        spec=spec,
        status=status_of(row, now),
        stage=row.stage,
        rounds=halving.rounds(len(names)),
        doing=row.doing or "",
        ending=row.ending or "",
        folder=row.folder,
        members=members,
        scores=scores,
        decisions=decisions,
        result=json.loads(row.result) if row.result else {},
        created=row.created,
        updated=row.updated,
        finished=row.finished,
        revision=row.revision,
        pid=row.pid,
        host=row.host,
    )


def _member(row: Row[Any], spec: Mapping[str, Any], best: float | None) -> MemberRow:
    own = {**spec["study"], **spec["members"][row.name]}
    return MemberRow(
        place=row.place,
        name=row.name,
        study=row.study,
        study_id=row.study_id,
        state=MemberState(row.state),
        stage=row.stage,
        granted=row.granted,
        reason=row.reason or "",
        teacher=str(own.get("teacher", {}).get("model", "all-minilm-l6-v2")),
        recipe=str(own.get("recipe", {}).get("name", "hidden-state")),
        best=best,
    )


def status_of(row: Row[Any], now: float) -> CampaignStatus:
    if row.state != CampaignStatus.RUNNING:
        return CampaignStatus(row.state)
    return CampaignStatus.RUNNING if _alive(row, now) else CampaignStatus.DEAD


def _alive(row: Row[Any], now: float) -> bool:
    if row.host is None or row.heartbeat is None:
        return False
    return liveness.alive((_LIVING, row.campaign_id), row.host, row.lock, row.heartbeat, now)


# ---------------------------------------------------------------------------- beginning


def draft(spec: CampaignSpec, folder: str) -> CampaignRow:
    """The campaign as it would begin, in no store."""
    names = list(spec.members)
    values = spec.model_dump(mode="json")
    members = tuple(
        MemberRow(place, name, study_name(spec.name, name), None, MemberState.WAITING, 0, 0.0, "", "", "", None)
        for place, name in enumerate(names)
    )
    return CampaignRow(
        0, spec.name, values, CampaignStatus.NEW, 0, halving.rounds(len(names)), "", "", folder, members, (), (), {},
        0.0, 0.0, None, 0, None, None,
    )  # fmt: skip


@patient
def begin_campaign(store: Store, spec: CampaignSpec, folder: str) -> CampaignRow:
    """The campaign, created or taken up. Raises UsageError, with what differs, where one of that name was begun with
    another spec, and where a study has its name or that of one of its members."""
    found = find_campaign(store, spec.name)
    if found is not None:
        require_same(found, spec)
        return found
    now = time.time()
    names = {name: study_name(spec.name, name) for name in spec.members}
    with store.begin() as connection:
        c = t.study.c.name
        taken = (
            connection.execute(sa.select(c).where(c.in_([spec.name, *names.values()])).order_by(c)).scalars().first()
        )
        if taken is not None:
            raise UsageError(
                f"There is a study {taken!r} already, which is no member of a campaign.",
                "Give the campaign another name, or rename or delete that study.",
            )
        try:
            campaign_id = connection.execute(
                t.campaign.insert()
                .values(
                    name=spec.name,
                    spec=spec.model_dump_json(),
                    state=CampaignStatus.NEW,
                    stage=0,
                    folder=folder,
                    created=now,
                    updated=now,
                    revision=0,
                )
                .returning(t.campaign.c.campaign_id)
            ).scalar_one()
        except IntegrityError:
            raise UsageError(f"Somebody else began a campaign {spec.name!r} at this moment.", "Try again.") from None
        connection.execute(
            t.campaign_member.insert(),
            [
                {
                    "campaign_id": campaign_id,
                    "place": place,
                    "name": name,
                    "study": study,
                    "state": MemberState.WAITING,
                    "stage": 0,
                    "granted": 0.0,
                }
                for place, (name, study) in enumerate(names.items())
            ],
        )
    return campaign_row(store, spec.name)


def require_same(row: CampaignRow, spec: CampaignSpec) -> None:
    """Raises UsageError where the campaign was begun with another spec: members first, then other parts."""
    known = campaign_from(row.spec).model_dump(mode="json")
    wanted = spec.model_dump(mode="json")
    new = [name for name in wanted["members"] if name not in known["members"]]
    gone = [name for name in known["members"] if name not in wanted["members"]]
    if new or gone:
        verb = "has ended" if row.status is CampaignStatus.FINISHED else "was begun"
        what = f"{', '.join(new)} is new" if new else f"{', '.join(gone)} is gone"
        raise UsageError(
            f"The campaign {row.name!r} {verb} with the members {', '.join(known['members'])}; {what}.",
            "Begin another campaign under another name.",
        )
    differing = [part for part in wanted if wanted[part] != known[part]]
    if differing:
        part = differing[0]
        raise UsageError(
            f"The campaign {row.name!r} was begun with another spec: {part} is {known[part]!r}, asked for "
            f"{wanted[part]!r}.",
            "Give the campaign another name, or leave this as it was.",
        )


# ---------------------------------------------------------------------------- the coordinator


@patient
def take(store: Store, campaign_id: int, lock: str) -> None:
    """This process coordinates the campaign from now on. Raises UsageError while another one lives."""
    with store.begin() as connection:
        bump(connection, campaign_id)
        row = connection.execute(sa.select(t.campaign).where(t.campaign.c.campaign_id == campaign_id)).one()
        now = clock(connection)
        if row.state == CampaignStatus.RUNNING and row.lock != lock and _alive(row, now):
            raise UsageError(
                f"The campaign {row.name!r} is run by process {row.pid} on {row.host} now.",
                f"See it with: kdnas campaign {row.name} --status",
            )
        _set(
            connection,
            campaign_id,
            state=CampaignStatus.RUNNING,
            host=liveness.this_host(),
            pid=os.getpid(),
            lock=lock,
            heartbeat=now,
            ending=None,
        )


@patient
def beat(store: Store, campaign_id: int, doing: str) -> None:
    """The coordinator lives, and this is what it is at."""
    with store.begin() as connection:
        bump(connection, campaign_id)
        _set(connection, campaign_id, heartbeat=clock(connection), doing=doing)


@patient
def leave(store: Store, campaign_id: int, state: CampaignStatus, ending: str) -> None:
    """The coordinator ends: the campaign is stopped or has failed."""
    with store.begin() as connection:
        bump(connection, campaign_id)
        _set(connection, campaign_id, state=state, ending=ending, doing=None, lock=None, pid=None, host=None)


@patient
def grant(store: Store, campaign_id: int, stage: int, shares: Mapping[str, float]) -> None:
    """A stage begins: what each member in it may have spent at its end, in one transaction. One that is written already
    stays as it is."""
    m = t.campaign_member.c
    with store.begin() as connection:
        bump(connection, campaign_id)
        _set(connection, campaign_id, stage=stage)
        for name, granted in shares.items():
            waiting = sa.or_(m.stage < stage, m.state == MemberState.WAITING)
            connection.execute(
                sa.update(t.campaign_member)
                .where(m.campaign_id == campaign_id, m.name == name, waiting)
                .values(stage=stage, granted=granted, state=MemberState.SEARCHING)
            )


@patient
def set_member(
    store: Store,
    campaign_id: int,
    name: str,
    state: MemberState,
    *,
    reason: str = "",
    study_id: int | None = None,
    granted: float | None = None,
) -> None:
    """Where a member stands now; `granted` corrects what it had, where it gave some of it back."""
    m = t.campaign_member.c
    more = {name: value for name, value in (("study_id", study_id), ("granted", granted)) if value is not None}
    with store.begin() as connection:
        bump(connection, campaign_id)
        connection.execute(
            sa.update(t.campaign_member)
            .where(m.campaign_id == campaign_id, m.name == name)
            .values(state=state, reason=reason or None, **more)
        )


@patient
def add_score(
    store: Store, campaign_id: int, stage: int, place: int, trial: int, score: float, facts: Mapping[str, Any]
) -> None:
    """A student's score in a round; one that is there already stays."""
    s = t.campaign_score.c
    with store.begin() as connection:
        bump(connection, campaign_id)
        there = sa.select(s.score).where(
            s.campaign_id == campaign_id, s.stage == stage, s.place == place, s.trial == trial
        )
        if connection.execute(there).first() is not None:
            return
        connection.execute(
            t.campaign_score.insert().values(
                campaign_id=campaign_id,
                stage=stage,
                place=place,
                trial=trial,
                score=score,
                facts=json.dumps(dict(facts)),
                time=time.time(),
            )
        )


@patient
def decide(
    store: Store, campaign_id: int, stage: int, facts: Mapping[str, Any], going: Sequence[str], out: Mapping[str, str]
) -> None:
    """A round's decision with all that it stands on, and what becomes of the members, in one transaction."""
    m, d = t.campaign_member.c, t.campaign_decision.c
    with store.begin() as connection:
        bump(connection, campaign_id)
        there = sa.select(d.stage).where(d.campaign_id == campaign_id, d.stage == stage)
        if connection.execute(there).first() is not None:
            return
        connection.execute(
            t.campaign_decision.insert().values(
                campaign_id=campaign_id, stage=stage, facts=json.dumps(dict(facts)), time=time.time()
            )
        )
        for name in going:
            _of(connection, campaign_id, name, state=MemberState.GOING)
        for name, why in out.items():
            mine = sa.and_(m.campaign_id == campaign_id, m.name == name, m.state != MemberState.FAILED)
            connection.execute(sa.update(t.campaign_member).where(mine).values(state=MemberState.OUT, reason=why))


@patient
def finish(store: Store, campaign_id: int, result: Mapping[str, Any], ending: str) -> None:
    """The campaign has its table."""
    with store.begin() as connection:
        bump(connection, campaign_id)
        _set(
            connection,
            campaign_id,
            state=CampaignStatus.FINISHED,
            result=json.dumps(dict(result)),
            ending=ending,
            doing=None,
            lock=None,
            pid=None,
            host=None,
            finished=time.time(),
        )


@patient
def delete_campaign(store: Store, name: str) -> None:
    """Removes a campaign; the studies of its members stay. Raises UsageError while its coordinator lives."""
    row = campaign_row(store, name)
    if row.status is CampaignStatus.RUNNING:
        raise UsageError(f"The campaign {name!r} is run by process {row.pid} on {row.host} now.", "Stop it first.")
    with store.begin() as connection:
        for table in (t.campaign_decision, t.campaign_score, t.campaign_member, t.campaign):
            connection.execute(sa.delete(table).where(table.c.campaign_id == row.campaign_id))


def _of(connection: Connection, campaign_id: int, name: str, **columns: Any) -> None:
    m = t.campaign_member.c
    mine = sa.and_(m.campaign_id == campaign_id, m.name == name)
    connection.execute(sa.update(t.campaign_member).where(mine).values(**columns))


def bump(connection: Connection, campaign_id: int) -> int:
    """The campaign's next revision: the first statement of a transaction, so that writers wait for each other. Raises
    UsageError for a campaign that is gone."""
    c = t.campaign.c
    statement = sa.update(t.campaign).where(c.campaign_id == campaign_id)
    found = connection.execute(
        statement.values(revision=c.revision + 1, updated=time.time()).returning(c.revision)
    ).scalar_one_or_none()
    if found is None:
        raise UsageError("The campaign was deleted.", "Begin another one.")
    return int(found)


def _set(connection: Connection, campaign_id: int, **columns: Any) -> None:
    connection.execute(sa.update(t.campaign).where(t.campaign.c.campaign_id == campaign_id).values(**columns))
