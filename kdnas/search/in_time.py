"""Whether a worker may begin one more trial in the time that its study has left. Stops no trial, and writes nothing.

Asked twice: before a slot is claimed, whether any candidate could end in time, and once the candidate is known, whether
this one does. The second answer holds until people move the end: the slot's candidate would be the same again.
"""

from __future__ import annotations

from kdnas.recipes.contract import Workbench
from kdnas.store import ends
from kdnas.store.database import Store
from kdnas.store.present import Present
from kdnas.study.space import Candidate
from kdnas.study.time_budget import Cost, expected_s, fits, least_s
from kdnas.system.moments import full_words
from kdnas.system.time_left import duration


class TooLate(Exception):  # noqa: N818 - the time is over, which is nobody's fault
    """The candidate is not expected to end before its study does."""


class InTime:
    """Of one study, for one worker."""

    def __init__(self, store: Store, study_id: int, bench: Workbench) -> None:
        self._store, self._study_id, self._bench = store, study_id, bench
        self._late: tuple[float, float | None] | None = None  # an end, and what the next trial would take
        self._timed = False  # whether it had an end at the last look
        self.open = False  # whether the time alone limits the trials, at the last look

    def over(self, at: Present) -> str | None:
        """Why no trial is begun any more, in words; None while one may be, and in a study without an end."""
        end, now = at.end, at.clock
        self.open, self._timed = end is not None and end.open, end is not None
        if end is None:
            return None
        if self._late is None or self._late[0] != end.until:
            least = least_s(*self._known())
            self._late = None if fits(end.until - now, least) else (end.until, least)
        if self._late is None:
            return None
        took = "" if self._late[1] is None or now >= end.until else f": a trial takes {duration(self._late[1])}"
        return f"Its time ends at {full_words(end.until)}, and no further trial would end by then{took}."

    def require(self, candidate: Candidate) -> None:
        """Raises TooLate where a trial of the candidate is not expected to end in time."""
        if not self._timed:
            return
        end, now = ends.present(self._store, self._study_id)
        if end is None:
            return
        costs, estimate = self._known()
        expected = expected_s(costs, self._bench.comparable(candidate), estimate)
        if not fits(end.until - now, expected):
            self._late = end.until, expected
            raise TooLate

    def _known(self) -> tuple[list[Cost], float | None]:
        """What trials of this study took, and where none has ended, what one was expected to take."""
        costs = ends.costs(self._store, self._study_id, self._bench.comparable)
        return costs, None if costs else ends.estimate(self._store, self._study_id)
