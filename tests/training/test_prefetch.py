"""Batches made ahead: in order, with their faults, and never a consumer and a producer that wait for each other."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from kdnas.training import prefetch


def test_batches_come_in_order_and_their_faults_are_raised() -> None:
    made = prefetch.ahead(lambda part: part, list(range(10)))
    assert list(made) == list(range(10))

    def broken(part: int) -> Any:
        if part == 2:
            raise ValueError("part 2")
        return part

    with pytest.raises(ValueError, match="part 2"):
        list(prefetch.ahead(broken, [0, 1, 2, 3]))


def test_a_fault_behind_a_full_queue_does_not_keep_one_who_leaves_waiting() -> None:
    failing = threading.Event()

    def make(part: int) -> int:
        if part == 3:  # one batch is taken and two are ready: the queue is full
            failing.set()
            raise ValueError("part 3")
        return part

    def consume() -> None:
        batches = prefetch.ahead(make, [0, 1, 2, 3])
        next(batches)
        assert failing.wait(60)
        batches.close()  # type: ignore[attr-defined]  # as where a step raises

    consumer = threading.Thread(target=consume, daemon=True)
    consumer.start()
    consumer.join(120)
    assert not consumer.is_alive()
