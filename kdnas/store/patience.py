"""Waits for a store that is away for a moment: a server that starts anew, a file that another program has locked.

Who holds a training in memory sets `Store.patience`; without it every trouble is raised at once. What is marked with
`patient` is one transaction that may be tried again, even where it was committed and only the answer was lost.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from functools import wraps
from typing import Concatenate, ParamSpec, Protocol, TypeVar

from kdnas.store.complaints import StoreError

LONGEST_S = 600.0  # how long a store may be away
FIRST_S, MOST_S = 0.25, 10.0  # between two attempts: doubled from the one to the other


class Patience:
    """What one thread does while the store is away. `tell` gets a line at the beginning and one at the end of it, and
    whether the store is back; `look` is called before every attempt, and may raise."""

    def __init__(self, tell: Callable[[str, bool], None], look: Callable[[], None] = lambda: None) -> None:
        self._tell = tell
        self._look = look
        self._thread = threading.get_ident()
        self._since: float | None = None
        self._next = FIRST_S

    @property
    def mine(self) -> bool:
        """Whether it is for the thread that asks."""
        return threading.get_ident() == self._thread

    def wait(self, trouble: StoreError) -> None:
        """Returns when it is time for another attempt. Raises StoreError where it has been away for too long."""
        now = time.monotonic()
        if self._since is None:
            self._since, self._next = now, FIRST_S
            self._tell(
                f"{trouble.problem} Waiting for it, at most {LONGEST_S / 60:.0f} minutes; nothing is lost.", False
            )
        if now - self._since >= LONGEST_S:
            self._since = None
            raise StoreError(f"{trouble.problem} It was waited for for {LONGEST_S / 60:.0f} minutes.", trouble.hint)
        pause(self._next)
        self._next = min(2 * self._next, MOST_S)
        self._look()

    def answered(self) -> None:
        """The store did what it was asked."""
        if self._since is not None:
            away, self._since = time.monotonic() - self._since, None
            self._tell(f"The store answers again, after {away:.0f} s.", True)


pause = time.sleep


class Waiting(Protocol):
    """What is waited for: a store."""

    patience: Patience | None


S = TypeVar("S", bound=Waiting)
P = ParamSpec("P")
R = TypeVar("R")


def persist(store: Waiting, once: Callable[[], R]) -> R:
    """The result of `once`, which raises StoreError where the store is away, tried until it is back."""
    patience = store.patience
    if patience is None or not patience.mine:
        return once()
    while True:
        try:
            result = once()
        except StoreError as trouble:
            if not trouble.passes:
                raise
            patience.wait(trouble)
        else:
            patience.answered()
            return result


def patient(function: Callable[Concatenate[S, P], R]) -> Callable[Concatenate[S, P], R]:
    """A function of a store and more, by `persist`."""

    @wraps(function)
    def call(store: S, /, *given: P.args, **named: P.kwargs) -> R:
        return persist(store, lambda: function(store, *given, **named))

    return call
