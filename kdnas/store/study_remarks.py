"""What people say of a study as a whole: its tags and its note, kept as Optuna's user attributes of the study.

Every store has had that table since its first study, and Optuna's own tools show what is in it. Only a recording has
none. What people say of a trial is kept elsewhere. `changes` is what people write by. Imports no Optuna.
"""

from __future__ import annotations

import json
from typing import Any
from weakref import WeakSet

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine

from kdnas.store import tables as t
from kdnas.system.errors import UsageError

TABLE = "study_user_attributes"
TAGS, NOTE = "kdnas:tags", "kdnas:note"  # their keys there; the values are JSON: a list of words, a text

_attributes = sa.table(TABLE, sa.column("study_id"), sa.column("key"), sa.column("value_json"))
_c = _attributes.c


_known: WeakSet[Engine] = WeakSet()  # stores that have the table; none loses it


def there(connection: Connection) -> bool:
    """Whether the store has the table that tags and notes of studies are in: Optuna's, made with its first study."""
    if connection.engine in _known:
        return True
    if not sa.inspect(connection).has_table(TABLE):
        return False
    _known.add(connection.engine)
    return True


def columns(there: bool) -> list[sa.Label[Any]]:
    """`tags` and `note` of the study in a statement over `kdnas_study`, as JSON; nulls without the table."""
    if not there:
        return [sa.null().label("tags"), sa.null().label("note")]
    mine = _c.study_id == t.study.c.study_id
    value = sa.select(_c.value_json)
    return [
        value.where(mine, _c.key == key).limit(1).correlate(t.study).scalar_subquery().label(name)
        for key, name in ((TAGS, "tags"), (NOTE, "note"))
    ]


def tags_of(text: str | None) -> tuple[str, ...]:
    """The tags from their JSON; what another program has put there is passed over."""
    value = _value(text)
    return tuple(word for word in value if isinstance(word, str)) if isinstance(value, list) else ()


def note_of(text: str | None) -> str:
    """The note from its JSON."""
    value = _value(text)
    return value if isinstance(value, str) else ""


def _value(text: str | None) -> Any:
    try:
        return json.loads(text or "null")
    except (ValueError, RecursionError):
        return None


def tags(connection: Connection, study_id: int) -> tuple[str, ...]:
    """The tags of one study."""
    if not sa.inspect(connection).has_table(TABLE):
        return ()
    query = sa.select(_c.value_json).where(_c.study_id == study_id, _c.key == TAGS)
    return tags_of(connection.execute(query).scalars().first())


def put(connection: Connection, study_id: int, key: str, value: list[str] | str) -> None:
    """Write the tags or the note; empty ones are taken away. Raises UsageError where the study is a recording."""
    if not sa.inspect(connection).has_table(TABLE):
        raise UsageError("This store holds a recording, which takes no tags and notes.", "Begin a study of your own.")
    connection.execute(sa.delete(_attributes).where(_c.study_id == study_id, _c.key == key))
    if value:
        connection.execute(sa.insert(_attributes).values(study_id=study_id, key=key, value_json=json.dumps(value)))
