"""All trials of a study straight into columns, for screens: four times as fast as row by row, in a third of the room.

What `reader.trial_batches` would tell, in the form of a `kdnas.board.Board`. Writes nothing.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from kdnas.board import Board, Columns, Same, by_key
from kdnas.ranking import LossKind
from kdnas.store import tables as t
from kdnas.store.open import Store
from kdnas.store.reader import averages

_BATCH = 1000
_OWN = ("candidate", "config", "extra")
_PLAIN = tuple(c.name for c in t.trial.c if c.name not in (*_OWN, "study_id", "worker_id", "candidate_key"))


def read_board(store: Store, study_id: int, alpha: float, beta: float, loss: LossKind = "normalised") -> Board:
    """Every trial of the study; `board.revision` says from where to go on asking."""
    board = Board(alpha, beta, loss)
    c = t.trial.c
    with store.connect() as connection:
        remarks = {
            row.number: row for row in connection.execute(sa.select(t.remark).where(t.remark.c.study_id == study_id))
        }
        repeats: dict[int, list[Any]] = defaultdict(list)
        for row in connection.execute(sa.select(t.repeat).where(t.repeat.c.study_id == study_id)):
            repeats[row.number].append(row)
        # One statement, so that rows that change meanwhile are told by the next look and never missed.
        query = sa.select(*(c[name] for name in (*_PLAIN, *_OWN))).where(c.study_id == study_id).order_by(c.number)
        count = sa.select(sa.func.count()).select_from(t.trial).where(c.study_id == study_id)
        board.reserve(connection.execute(count).scalar_one())
        configs = Alike()
        with connection.execution_options(yield_per=_BATCH).execute(query) as found:
            for part in found.partitions():
                told = dict(zip((*_PLAIN, *_OWN), zip(*part, strict=True), strict=True))
                board.put(_columns(told, configs, remarks, repeats))
    return board


def _columns(
    told: dict[str, tuple[Any, ...]], configs: Alike, remarks: Mapping[int, Any], repeats: Mapping[int, list[Any]]
) -> Columns:
    fields: dict[str, Sequence[Any] | Same] = {name: told[name] for name in _PLAIN}
    numbers = told["number"]
    fields["repeats"] = [len(repeats.get(number, ())) for number in numbers] if repeats else Same(0)
    means = [
        averages(loss, raw, repeats.get(number, ()))
        for number, loss, raw in zip(numbers, told["loss"], told["raw_loss"], strict=True)
    ] if repeats else []
    for place, name in enumerate(("mean_loss", "mean_raw_loss", "loss_spread")):
        fields[name] = [mean[place] for mean in means] if means else Same(None)
    said = [remarks.get(number) for number in numbers] if remarks else []
    fields["marked"] = [bool(remark.marked) if remark else False for remark in said] if said else Same(False)
    fields["tags"] = [tuple(remark.tags.split()) if remark else () for remark in said] if said else Same(())
    fields["note"] = [remark.note if remark else "" for remark in said] if said else Same("")
    candidates = json.loads(f"[{','.join(told['candidate'])}]")
    extras = json.loads(f"[{','.join(text or '{}' for text in told['extra'])}]")
    return Columns(fields, by_key(candidates), configs.read(told["config"]), by_key(extras))


class Alike:
    """Reads JSON objects that differ in a few values, as the configurations of one study do, without decoding the rest.

    A text is cut at `, `; where all pieces but some equal those of the first text, and each of those some is by itself
    a `"key": value` of the same top-level key as there, the objects differ in these values only. Anything else is
    decoded whole.
    """

    def __init__(self) -> None:
        self._first: list[str] = []
        self._known: dict[str, Any] = {}
        self._key_at: dict[int, str] = {}  # place of a piece that may differ → its key
        self._values: dict[int, dict[str, Any]] = {}  # place of a piece that has differed → piece → value

    def read(self, texts: Sequence[str | None]) -> dict[str, Sequence[Any] | Same]:
        """The objects by key; None stands for an empty one."""
        cut = []
        for text in texts:
            pieces = None if text is None else self._pieces(text)
            if pieces is None:
                return dict(by_key([json.loads(text) if text else {} for text in texts]))
            cut.append(pieces)
        columns: dict[str, Sequence[Any] | Same] = {key: Same(value) for key, value in self._known.items()}
        for place, values in self._values.items():
            columns[self._key_at[place]] = [values[pieces[place]] for pieces in cut]
        return columns

    def _pieces(self, text: str) -> list[str] | None:
        """The text's pieces where it is like the first one, else None."""
        pieces = text[1:-1].split(", ")
        if not self._first:
            self._begin(text, pieces)
        rest = pieces.copy()
        if len(rest) != len(self._first) or text[0] != "{" or text[-1] != "}":
            return None
        for place, values in self._values.items():
            if pieces[place] not in values and not self._learn(place, pieces[place]):
                return None
            rest[place] = self._first[place]
        if rest == self._first:
            return pieces
        for place, (piece, first) in enumerate(zip(rest, self._first, strict=True)):
            if piece != first:
                if place not in self._key_at:
                    return None
                self._values[place] = {first: self._known[self._key_at[place]]}
                if not self._learn(place, piece):
                    return None
        return pieces

    def _learn(self, place: int, piece: str) -> bool:
        """Take down what a new piece says; False where it is not a value of the key that stands there."""
        found = _pair(piece)
        if found is None or found[0] != self._key_at[place]:
            return False
        self._values[place][piece] = found[1]
        return True

    def _begin(self, text: str, pieces: list[str]) -> None:
        known = json.loads(text)
        if not isinstance(known, dict):
            return
        self._first, self._known = pieces, known
        for place, piece in enumerate(pieces):
            found = _pair(piece)
            # Only scalars of a key that stands nowhere else: a piece of something nested looks like a key, too.
            if found is None or isinstance(found[1], dict | list) or text.count(f"{json.dumps(found[0])}:") != 1:
                continue
            if found[0] in known and type(known[found[0]]) is type(found[1]) and known[found[0]] == found[1]:
                self._key_at[place] = found[0]


def _pair(piece: str) -> tuple[str, Any] | None:
    """`"key": value` as a pair, where the piece is that and nothing else."""
    try:
        found = json.loads(f"{{{piece}}}")
    except ValueError:
        return None
    return next(iter(found.items())) if len(found) == 1 else None
