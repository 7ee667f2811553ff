"""What people want of a study that a worker is at, asked between two steps: run, pause, stop, abandon."""

from __future__ import annotations

from kdnas.search.heartbeat import Leave, Steering
from kdnas.store.database import Store
from kdnas.store.present import Present, present
from kdnas.study.states import Wanted, WorkerState
from kdnas.system import interrupts


class Wishes:
    """Of one study, for one worker."""

    def __init__(self, store: Store, study_id: int, steering: Steering) -> None:
        self.store, self.study_id, self.steering = store, study_id, steering

    def look(self) -> Present:
        """The study as people want it now. Raises Leave where it was deleted, StoreError where the store was."""
        self.store.require_there()
        at = present(self.store, self.study_id)
        self.steering.hear(Wanted.ABANDON if at is None else at.wanted)
        if at is None:
            raise Leave
        return at

    def wait_while_paused(self) -> Present:
        """The study when it is to run or to stop. Raises Leave where it is to be abandoned."""
        while True:
            interrupts.check()
            at = self.look()
            if at.wanted == Wanted.ABANDON:
                raise Leave
            if at.wanted != Wanted.PAUSE:
                self.steering.state = WorkerState.RUNNING
                return at
            self.steering.state = WorkerState.PAUSED
            self.steering.wait_for_news(at.wanted, 60.0)

    def leave_if_asked(self) -> None:
        """Without a look at the store. Raises Leave where the study is to be abandoned, StoreError where its store has
        gone."""
        interrupts.check()
        self.steering.leave_what_is_gone()
        if self.steering.wanted == Wanted.ABANDON:
            raise Leave
