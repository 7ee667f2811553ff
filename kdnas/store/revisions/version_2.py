"""Campaigns: five things are told of one, in four tables; nothing that was there before changes."""

import sqlalchemy as sa
from alembic import op

revision = "2"
down_revision = "1"


def _of_campaign() -> sa.Column:
    key = sa.ForeignKey("kdnas_campaign.campaign_id", ondelete="CASCADE")
    return sa.Column("campaign_id", sa.Integer, key, primary_key=True, nullable=False)


def upgrade() -> None:
    op.create_table(
        "kdnas_campaign",
        sa.Column("campaign_id", sa.Integer, primary_key=True),
        sa.Column("name", sa.String(40), nullable=False, unique=True),
        sa.Column("spec", sa.Text, nullable=False),
        sa.Column("state", sa.String(12), nullable=False),
        sa.Column("stage", sa.Integer, nullable=False),
        sa.Column("doing", sa.Text),
        sa.Column("ending", sa.Text),
        sa.Column("folder", sa.Text, nullable=False),
        sa.Column("result", sa.Text),
        sa.Column("host", sa.String(255)),
        sa.Column("pid", sa.Integer),
        sa.Column("lock", sa.Text),
        sa.Column("heartbeat", sa.Float),
        sa.Column("created", sa.Float, nullable=False),
        sa.Column("updated", sa.Float, nullable=False),
        sa.Column("finished", sa.Float),
        sa.Column("revision", sa.Integer, nullable=False),
    )
    op.create_table(
        "kdnas_campaign_member",
        _of_campaign(),
        sa.Column("place", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("name", sa.String(40), nullable=False),
        sa.Column("study", sa.String(80), nullable=False),
        sa.Column("study_id", sa.Integer),
        sa.Column("state", sa.String(12), nullable=False),
        sa.Column("stage", sa.Integer, nullable=False),
        sa.Column("granted", sa.Float, nullable=False),
        sa.Column("reason", sa.Text),
    )
    op.create_table(
        "kdnas_campaign_score",
        _of_campaign(),
        sa.Column("stage", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("place", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("trial", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("score", sa.Float, nullable=False),
        sa.Column("facts", sa.Text, nullable=False),
        sa.Column("time", sa.Float, nullable=False),
    )
    op.create_table(
        "kdnas_campaign_decision",
        _of_campaign(),
        sa.Column("stage", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("facts", sa.Text, nullable=False),
        sa.Column("time", sa.Float, nullable=False),
    )
