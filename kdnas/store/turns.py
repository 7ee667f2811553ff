"""Writers of one study take turns on PostgreSQL, in the order in which they came.

Many that wait for a row's lock are all woken whenever its holder is done, which takes a server of hundreds of workers
more time than their writing. Of those that wait for an advisory lock the next one is woken alone.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

_OURS = 0x6B64  # the first half of the advisory lock's key; the second is the study


def in_turn(dialect: str, study_id: Any) -> tuple[sa.ColumnElement[bool], ...]:
    """Conditions of a statement that locks the study's row: on PostgreSQL one that comes true once it is the
    transaction's turn, which it keeps until its end. `study_id` is a number or a bound parameter."""
    if dialect != "postgresql":
        return ()
    return (sa.func.pg_advisory_xact_lock(_OURS, study_id).is_not(None),)
