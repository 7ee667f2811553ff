"""Which candidates a study's slots hold, kept by whoever asks again and again: what has ended is read once.

Slots are claimed and planned from the lowest free one on, and an ended one keeps its candidate for ever. So only those
behind the first that has not ended are looked at anew, as far as any is held. With tens of thousands of slots all else
takes longer than the trials. A candidate that were overlooked for that would be refused when it is proposed again.
Each ended slot is kept as one bit. Neighbours share an entry, which helps studies that try much of their space.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence, Set
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from kdnas.store import tables as t
from kdnas.study.states import ENDED_SLOTS, SlotState

PART = 512  # slots that are read at once; behind half as many free ones none is held
_KEY = re.compile(r"0|[1-9][0-9]{0,39}")  # a damaged row may hold something else, which nobody proposes
_BITS = 64


class _Keys(Set[str]):
    """Keys of candidates (`SearchSpace.key`), a bit for each: 64 neighbouring places share an entry."""

    def __init__(self) -> None:
        self._places: dict[int, int] = {}  # place // 64 → one bit for each of the 64
        self._many = 0

    def add(self, key: object) -> None:
        if key in self or not _KEY.fullmatch(str(key)):
            return
        part, bit = divmod(int(str(key)), _BITS)
        self._places[part] = self._places.get(part, 0) | 1 << bit
        self._many += 1

    def __contains__(self, key: object) -> bool:
        if not isinstance(key, str) or not _KEY.fullmatch(key):
            return False
        part, bit = divmod(int(key), _BITS)
        return bool(self._places.get(part, 0) >> bit & 1)

    def __len__(self) -> int:
        return self._many

    def __iter__(self) -> Iterator[str]:
        for part, bits in self._places.items():
            yield from (str(part * _BITS + bit) for bit in range(_BITS) if bits >> bit & 1)


class Taken(Set[str]):
    """Keys of the candidates that slots hold. No longer true once the same `SlotKeys` has looked again."""

    def __init__(self, ended: Set[str], others: frozenset[str]) -> None:
        """`ended` and `others` have none in common."""
        self._ended = ended
        self._others = others

    def __contains__(self, key: object) -> bool:
        return key in self._ended or key in self._others

    def __len__(self) -> int:
        return len(self._ended) + len(self._others)

    def __iter__(self) -> Iterator[str]:
        yield from self._ended
        yield from self._others

    @classmethod
    def _from_iterable(cls, keys: Iterable[str]) -> frozenset[str]:  # type: ignore[override]
        return frozenset(keys)


class SlotKeys:
    """Of one study, for one thread."""

    def __init__(self) -> None:
        self.below = 0  # slots before it have ended
        self._ended = _Keys()  # their candidates
        self._rest: Sequence[Any] = ()  # what else is held, as last seen

    def look(self, connection: Connection, study_id: int) -> None:
        """Reads what may have changed."""
        s = t.slot.c
        query = sa.select(s.slot, s.state, s.worker_id, s.trial, s.candidate_key).order_by(s.slot)
        held = sa.or_(s.state != SlotState.FREE, s.candidate_key.is_not(None))
        rows: list[Any] = []
        first = self.below
        while True:
            part = sa.and_(s.study_id == study_id, s.slot >= first, s.slot < first + PART)
            found = connection.execute(query.where(part, held)).all()
            rows += found
            first += PART
            if not found or found[-1].slot < first - PART // 2:
                break
        known = 0
        for row in rows:
            if row.slot != self.below or row.state not in ENDED_SLOTS:
                break
            self.below += 1
            known += 1
            if row.candidate_key is not None:
                self._ended.add(row.candidate_key)
        self._rest = rows[known:]

    def unbegun(self, worker_id: int) -> int | None:
        """The lowest slot that the worker holds without a trial."""
        mine = (row for row in self._rest if row.worker_id == worker_id and row.trial is None)
        return next((row.slot for row in mine if row.state == SlotState.RUNNING), None)

    def taken(self, slot: int) -> Taken:
        """What other slots hold: ended, running or planned."""
        held = (row.candidate_key for row in self._rest if row.slot != slot)
        return Taken(self._ended, frozenset(key for key in held if key is not None))
