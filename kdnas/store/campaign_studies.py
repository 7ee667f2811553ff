"""Which studies are members of campaigns, and what may not be done to them: names that campaigns know them by.

Plain SQL, as part of the transactions that rename, delete or copy studies.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from kdnas.store import tables as t
from kdnas.store.campaigns import bump, status_of
from kdnas.store.database import clock
from kdnas.study.campaign_rows import CampaignStatus
from kdnas.system.errors import UsageError


def follow(connection: Connection, study_id: int, name: str) -> None:
    """The campaign of a study knows it by its other name, in the transaction that renames it. Raises UsageError while
    the campaign's coordinator lives, and where a member of a campaign will have the name."""
    require_free(connection, name)
    m = t.campaign_member.c
    for campaign_id in connection.execute(sa.select(m.campaign_id).where(m.study_id == study_id)).scalars().all():
        bump(connection, campaign_id)
        row = connection.execute(sa.select(t.campaign).where(t.campaign.c.campaign_id == campaign_id)).one()
        if status_of(row, clock(connection)) is CampaignStatus.RUNNING:
            raise UsageError(
                f"The study is a member of the campaign {row.name!r}, which runs now.", "Stop the campaign first."
            )
        mine = sa.and_(m.campaign_id == campaign_id, m.study_id == study_id)
        connection.execute(sa.update(t.campaign_member).where(mine).values(study=name))


def require_free(connection: Connection, name: str) -> None:
    """Raises UsageError for the name of a campaign, and for one that a member's study has, or will have, in a campaign
    that has not ended."""
    require_none_of([name], names_in_use(connection))


def require_no_campaign(connection: Connection, name: str) -> None:
    """Raises UsageError for the name of a campaign: commands know both by their names."""
    if connection.execute(sa.select(t.campaign.c.name).where(t.campaign.c.name == name)).first() is not None:
        require_none_of([name], {name: name})


def names_in_use(connection: Connection) -> dict[str, str]:
    """The names of campaigns, and those that members' studies have, or will have, in campaigns that have not ended →
    the campaign's."""
    members = {row.study: row.name for row in connection.execute(_unended())}
    return members | {name: name for name in connection.execute(sa.select(t.campaign.c.name)).scalars()}


def require_none_of(names: Iterable[str], in_use: Mapping[str, str]) -> None:
    """Raises UsageError for the first of the names that is in use."""
    for name in names:
        if name in in_use:
            whose = "a campaign" if in_use[name] == name else f"a member of the campaign {in_use[name]!r}"
            raise UsageError(
                f"The name {name!r} is that of {whose}.",
                f"Choose another name, or delete the campaign: kdnas delete {in_use[name]}",
            )


def require_dispensable(connection: Connection, study_id: int) -> None:
    """Raises UsageError for a study without which a campaign that has not ended could not go on."""
    campaign = connection.execute(_unended().where(t.campaign_member.c.study_id == study_id)).first()
    if campaign is not None:
        raise UsageError(
            f"The study is a member of the campaign {campaign.name!r}, which has not ended.",
            f"Delete the campaign first: kdnas delete {campaign.name}",
        )


def _unended() -> sa.Select[tuple[str, str]]:
    m, c = t.campaign_member.c, t.campaign.c
    query = sa.select(c.name, m.study).join(t.campaign_member, c.campaign_id == m.campaign_id)
    return query.where(c.state != CampaignStatus.FINISHED)
