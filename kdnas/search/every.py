"""What is to be done now and then, and not each time that it could be. Knows no store."""

from __future__ import annotations

import time


class Every:
    """Due at once, and again so many seconds after it was."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._next = 0.0

    def due(self) -> bool:
        now = time.monotonic()
        if now < self._next:
            return False
        self._next = now + self._seconds
        return True

    def now(self) -> None:
        """It is due, whenever it was."""
        self._next = 0.0
