"""Results kept in memory for who asks again, up to so many bytes: the one asked for longest ago goes first."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from typing import Generic, TypeVar

Result = TypeVar("Result")


class KeptResults(Generic[Result]):
    """By name, at most `limit` bytes together. What is larger than that alone is not kept."""

    def __init__(self, limit: int) -> None:
        self.limit, self.bytes = limit, 0
        self._found: OrderedDict[Hashable, tuple[Result, int]] = OrderedDict()

    def get(self, name: Hashable) -> Result | None:
        if name not in self._found:
            return None
        self._found.move_to_end(name)
        return self._found[name][0]

    def put(self, name: Hashable, result: Result, size: int) -> None:
        """`size` in bytes."""
        if name in self._found:
            self.bytes -= self._found.pop(name)[1]
        if size > self.limit:
            return
        while self.bytes + size > self.limit:
            _, (_, freed) = self._found.popitem(last=False)
            self.bytes -= freed
        self._found[name] = (result, size)
        self.bytes += size
