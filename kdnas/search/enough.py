"""Whether a study that asks for it is to end before its budget is spent, since little is left to gain.

To advise on a study its whole history is read: it is asked anew only where a slot changed hands or α and β did, however
often a waiting worker looks. Writes nothing.
"""

from __future__ import annotations

from kdnas.store import queries, slots
from kdnas.store.advising import advised_soon
from kdnas.store.database import Store
from kdnas.study.spec import StudySpec


class Enough:
    """Of one study, for one worker."""

    def __init__(self, store: Store, study_id: int, spec: StudySpec) -> None:
        self._store, self._study_id, self._spec = store, study_id, spec
        self._judged: tuple[object, ...] | None = None

    def said(self) -> str | None:
        """Why the study is to end; None where it goes on, and where nobody asked for that."""
        if not self._spec.budget.stop_when_done:
            return None
        now = (slots.counts(self._store, self._study_id), slots.rate(self._store, self._study_id))
        if now == self._judged:
            return None  # it went on at the last look
        self._judged = now
        told = advised_soon(self._store, queries.study_of(self._store, self._study_id))
        return str(told) if told is not None and told.trials and told.done else None
