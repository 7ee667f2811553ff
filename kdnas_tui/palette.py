"""The command palette: every key of the shown screen, under its explanation. Runs the same actions as the keys."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

from textual.command import DiscoveryHit, Hit, Hits, Provider

from kdnas_tui import keys


class Actions(Provider):
    """Finds a key by its label or explanation."""

    def _all(self) -> Iterable[tuple[keys.Key, Callable[[], Any]]]:
        name = getattr(self.screen, "NAME", "everywhere")
        for key in keys.keys(name) if name in keys.KEYS else keys.table("everywhere"):
            if key.action != "app.command_palette":
                yield key, partial(self.screen.run_action, key.action)
        at = self.focused
        for key in (key for part in keys.PARTS_OF.get(name, ()) for key in keys.PARTS[part][1]):
            action = key.action.removeprefix("focused.")
            if at is not None and hasattr(at, f"action_{action.partition('(')[0]}"):
                yield key, partial(at.run_action, action)

    async def discover(self) -> Hits:
        for key, call in self._all():
            yield DiscoveryHit(f"{key.label}  ({key.shown})", call, text=key.label, help=key.explains)

    async def search(self, query: str) -> Hits:
        matcher = self.matcher(query)
        for key, call in self._all():
            text = f"{key.label}: {key.explains}"
            score = matcher.match(text)
            if score > 0:
                yield Hit(score, matcher.highlight(text), call, text=text, help=f"key {key.shown}")
