"""What a screen may ask of the app: where the store is, what time it is, and to have something written or opened.

A protocol only: the app fulfils it, screens take it, so that no screen knows the app. Holds no state.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

from kdnas.system.errors import KdnasError

if TYPE_CHECKING:
    from kdnas.store.database import Store


class Watching(Protocol):
    """What the feed looks at."""

    def watch(self, study: str | None) -> None:
        """One study from now on, or the list of them; everything is sent anew."""

    def want_curves(self, numbers: frozenset[int]) -> None:
        """Learning curves of these trials, too."""


class Desk(Protocol):
    """The app, as screens know it."""

    storage: str
    clock: Callable[[], float]  # UTC seconds
    readonly: str  # why nothing may be changed, a sentence; "" where it may

    @property
    def feed(self) -> Watching: ...

    def change(self, what: Callable[[Store], Any], done: str = "", then: Callable[[], Any] | None = None) -> Any:
        """Write to the store in a thread, say `done`, and call `then`; a fault becomes a notice with its hint."""

    def command(self, what: Callable[[], Any], done: str = "", then: Callable[[], Any] | None = None) -> Any:
        """The same for something slow that is not on the store: a process, a file."""

    def fault(self, error: KdnasError) -> None:
        """Show what went wrong and its hint."""

    def forget_faults(self) -> None:
        """Show them no longer."""

    def copy(self, text: str, name: str) -> None:
        """To the clipboard and to a file of this name."""

    def open_study(self, name: str) -> None:
        """Show a study over the list of them."""
