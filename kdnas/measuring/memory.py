"""Memory that runs out: how it shows on each device, a pass tried again with half the rows, one line for people.

Knows no model.
"""

from __future__ import annotations

import contextlib
import gc
import re
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import torch
from torch import Tensor

from kdnas.measuring import devices
from kdnas.system.errors import KdnasError

Made = TypeVar("Made")


class OutOfMemoryError(KdnasError):
    """A single row does not fit on the device."""


def ran_out(error: BaseException) -> bool:
    """Whether an exception means that memory ran out; torch's CPU allocator has no type of its own for it."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError | OutOfMemoryError):
        return True
    words = "not enough memory|out of memory|[Cc]an('t|not) allocate memory"
    return isinstance(error, RuntimeError) and re.search(words, str(error)) is not None


def halving(
    ids: Tensor, rows: int, device: torch.device, run: Callable[[Tensor], Made]
) -> Iterator[tuple[Tensor, Made]]:
    """Rows of `ids` in order, `rows` at a time, each with what `run` makes of it. Where memory runs out, half as many
    rows are tried from there on. Raises OutOfMemoryError where a single one does not fit."""
    start = 0
    while start < len(ids):
        part = ids[start : start + rows]
        made = _tried(run, part, device)
        if made is None:
            rows = max(1, len(part) // 2)
            continue
        yield part, made[0]
        start += len(part)


def whole(rows: int, device: torch.device, run: Callable[[int], Made]) -> Made:
    """What `run` makes with batches of `rows`, or of half as many, and so on. Raises OutOfMemoryError."""
    while True:
        made = _tried(run, rows, device)
        if made is not None:
            return made[0]
        rows = max(1, rows // 2)


def _tried(run: Callable[[Any], Made], given: Any, device: torch.device) -> tuple[Made] | None:
    """What `run` gives, or None where memory ran out over more than one row; its tensors are then gone."""
    try:
        return (run(given),)
    except Exception as error:
        if not ran_out(error):
            raise
    # Only here, since the exception and the frames in its traceback held the tensors until now.
    let_go(device)
    if (given if isinstance(given, int) else len(given)) <= 1:
        raise explained(device)
    return None


def let_go(device: torch.device) -> None:
    """Give back what no tensor needs."""
    gc.collect()
    devices.let_go(device)


def explained(device: torch.device) -> OutOfMemoryError:
    return OutOfMemoryError(
        f"The memory of {device} ran out.", "Give a smaller data.batch_size or data.length, or fewer workers."
    )


@contextlib.contextmanager
def one_line(device: torch.device) -> Iterator[None]:
    """Memory that runs out inside becomes one line with a hint."""
    try:
        yield
        return
    except Exception as error:
        if not ran_out(error) or isinstance(error, OutOfMemoryError):
            raise
    let_go(device)
    raise explained(device)
