"""The tables as they were when this was written: where all migrations begin. A new store gets them all at once."""

revision = "1"
down_revision = None


def upgrade() -> None:
    """Nothing comes before the first version."""
