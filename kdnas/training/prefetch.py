"""Batches made by a thread ahead of their use. Knows nothing of what a batch is."""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Callable, Generator, Sequence
from typing import TypeVar

Part = TypeVar("Part")
Batch = TypeVar("Batch")


def ahead(make: Callable[[Part], Batch], plan: Sequence[Part]) -> Generator[Batch]:
    """The batches of a plan, made by a thread two ahead of their use."""
    ready: queue.Queue[Batch | BaseException] = queue.Queue(maxsize=2)
    stop = threading.Event()

    def hand_over(made: Batch | BaseException) -> None:
        """Wait for a place in the queue, but not for one who has stopped listening: it waits for this thread."""
        while not stop.is_set():
            with contextlib.suppress(queue.Full):
                ready.put(made, timeout=0.1)
                return

    def work() -> None:
        try:
            for part in plan:
                hand_over(make(part))
                if stop.is_set():
                    return
        except BaseException as error:
            hand_over(error)

    thread = threading.Thread(target=work, daemon=True, name="batches")
    thread.start()
    try:
        for _ in plan:
            made = ready.get()
            if isinstance(made, BaseException):
                raise made
            yield made
    finally:
        stop.set()
        thread.join()
