"""Lays out a new screen once. For screens and dialogs alike; knows nothing of what they show."""

from __future__ import annotations

from textual._compositor import Compositor
from textual.geometry import Size


class LaidOutOnce:
    """For screens: Textual lays out a new one with its parts, and again when it hears its size, which is the same."""

    _compositor: Compositor

    def _screen_resized(self, size: Size) -> None:
        if size != self._compositor.size:
            super()._screen_resized(size)  # type: ignore[misc]  # the screen's
