"""The other workers of a study, as one of them sees them: who has died, and when it is worth to look again.

What it asks the store is little: a dead worker of this host shows without a query, and a store that tells of news need
not be asked for them. Puts nothing right.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from kdnas.search.every import Every
from kdnas.search.heartbeat import Steering, look_s
from kdnas.store import recovery
from kdnas.store.database import Store

LOOK_S = 1.0  # how often a worker whose trials are short looks for others
LISTENING_LOOK_S = 10.0  # the same while it waits for news
NOBODY_S = 600.0  # for which nobody has searched, until a worker that only times gives up


class Others:
    """Of one study, for one worker."""

    def __init__(self, store: Store, study_id: int, steering: Steering) -> None:
        self._store, self._study_id, self._steering = store, study_id, steering
        self._known: Sequence[Any] = ()
        self._due = Every(LOOK_S)
        self._counted = Every(LISTENING_LOOK_S)
        self._without = 0  # looks in a row at which nobody searched

    def any_dead(self) -> bool:
        """Whether one has died by now."""
        if self._due.due():
            self._known = recovery.at_work(self._store, self._study_id)
        return recovery.any_dead(self._known)

    def any_latency_worker(self) -> bool:
        """Whether one that only times is at work."""
        self.any_dead()
        return recovery.any_with(self._known, recovery.LATENCY)

    def nobody_searches(self) -> bool:
        """Whether none has been at work that searches, for NOBODY_S. Looks are LISTENING_LOOK_S apart:
        what lies between two of them, be it a pause or a time in which the store was away, counts for no more."""
        if self._counted.due():
            workers = recovery.at_work(self._store, self._study_id)
            self._without = 0 if recovery.any_with(workers, recovery.SEARCH) else self._without + 1
        return self._without * LISTENING_LOOK_S > NOBODY_S

    def look_again(self) -> None:
        """Those that are known have been put right."""
        self._due.now()

    def wait(self, wanted: str, seen: object, meanwhile: Callable[[], None]) -> None:
        """Until the store says something else than it did at `seen`, one has died, or people want something else than
        `wanted`; `meanwhile` is called now and then."""
        steering = self._steering
        if steering.listen_to_slots():
            return  # what happened since the claim was not heard
        known, again = recovery.at_work(self._store, self._study_id), Every(LISTENING_LOOK_S)
        again.due()
        while not steering.wait_for_news(wanted, look_s(self._store)):
            if steering.changed() != seen or recovery.any_dead(known):
                self.look_again()
                return
            meanwhile()
            if steering.listening and again.due():  # heartbeats of other hosts are no news
                known = recovery.at_work(self._store, self._study_id)
