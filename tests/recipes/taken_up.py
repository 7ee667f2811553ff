"""A training that is left within an epoch and taken up again, compared with one that was not."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from pathlib import Path

import torch

from kdnas.training import checkpoints
from kdnas.training.contract import Student, Training
from kdnas.training.loop import Stepwise


class Left(Exception):  # noqa: N818 - it is no error
    """The training is left here."""


def assert_same_within_an_epoch(begin: Callable[[], tuple[Student, Training]], folder: Path) -> None:
    """`begin` makes student and training anew, over at least two epochs of at least two steps."""
    student, straight = begin()
    whole = [straight.run_epoch() for _ in range(straight.epochs)]

    _, first = begin()
    first.run_epoch()
    steps = []

    def leave(step: int, count: int) -> None:
        steps.append(count)
        if step == max(1, count // 2):
            tensors, facts = first.state()
            folder.mkdir()
            checkpoints.write(folder, first.done, tensors, facts, {"best": 0}, step=first.step)
            raise Left

    with contextlib.suppress(Left):
        first.run_epoch(leave)
    assert steps and steps[0] >= 2, "an epoch of one step has no middle"

    saved = checkpoints.last(folder)
    assert saved is not None and saved.facts["step"] == max(1, steps[0] // 2)
    other, resumed = begin()
    resumed.restore(saved.tensors, json.loads(json.dumps(saved.facts)))
    assert isinstance(resumed, Stepwise) and (resumed.done, resumed.step) == (1, len(steps))
    torch.manual_seed(12345)  # what others drew meanwhile is nothing to it
    seen: list[int] = []
    again = [resumed.run_epoch(lambda step, count: seen.append(step)) for _ in range(resumed.epochs - 1)]
    assert seen[: steps[0] - len(steps)] == list(range(len(steps) + 1, steps[0] + 1))  # no step is done twice
    for one, two in zip(whole[1:], again, strict=True):
        assert (one.epoch, one.score, one.train_loss, one.tokens) == (two.epoch, two.score, two.train_loss, two.tokens)
    theirs = other.modules().state_dict()
    for name, tensor in student.modules().state_dict().items():
        assert torch.equal(tensor, theirs[name]), name
