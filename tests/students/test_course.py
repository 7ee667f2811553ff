"""How far a distillation is: a share that never falls, and times only where they are known."""

from __future__ import annotations

import re

import pytest

from kdnas.students.course import Course, Epochs
from kdnas.system.progress import Note


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_the_share_never_falls_whatever_the_parts_say() -> None:
    told: list[tuple[str, float | None]] = []
    course = Course(lambda words, share: told.append((words, share)), Clock())
    course.until(0.05)
    for part in ("reading", "asking the teacher 1", "asking the teacher again"):
        for share in (0.0, 0.5, 1.0):
            course.tell(part, share)
    for epoch in range(4):
        course.reach(f"epoch {epoch}", 0.05 + 0.9 * epoch / 4)
        course.tell("asking the teacher for more", 0.01)  # a cache that is built late
    course.until(0.95)
    course.until(1.0)
    course.tell("scoring", None)
    course.tell("scoring", 0.5)
    shares = [share for _, share in told if share is not None]
    assert len(shares) == len(told) and shares == sorted(shares)
    assert max(shares[:9]) <= 0.05 < shares[-1] < 1.0
    assert 0 < shares[2] < shares[5] < shares[8]  # each part moves it


def test_a_note_stays_a_note() -> None:
    told: list[str] = []
    course = Course(lambda words, share: told.append(words))
    course.tell(Note("3 rows left out"), None)
    assert isinstance(told[0], Note)


def test_the_teachers_pass_has_a_time_left_once_it_is_known() -> None:
    clock, told = Clock(), []
    course = Course(lambda words, share: told.append(words), clock)
    course.until(0.05)
    for step in range(101):
        course.tell("asking the teacher", step / 100)
        clock.now += 2.0
    assert told[0] == told[3] == "asking the teacher"
    assert told[50] == "asking the teacher, 1m40 left"
    course.tell("asking the teacher for the rest", 0.1)  # nothing is known of that
    assert told[-1] == "asking the teacher for the rest"


def test_the_time_left_of_epochs_is_first_told_by_steps_and_then_by_epochs() -> None:
    clock = Clock()
    rest = Epochs(10, clock=clock)
    found = None
    rest.begins(0)
    for step in range(1, 101):
        clock.now += 0.5
        found = rest.step(0, step, 100, 0.3)
        assert (found is None) == (step < 10)  # five blocks of a second
    assert found == pytest.approx((450.0, 450.0 + 500.0 * 0.1))  # without the scores, and with them
    for done in range(4):
        clock.now += 25.0  # the score, and what is written down
        rest.ends()
        rest.begins(0)
        for step in range(1, 101):
            clock.now += 0.5
            found = rest.step(done + 1, step, 100, 0.3)
    assert found == pytest.approx((6 * 75.0 - 50.0, 6 * 75.0 - 50.0))


def test_an_epoch_that_was_taken_up_counts_for_its_rest_only() -> None:
    clock = Clock()
    rest = Epochs(5, [10.0, 10.0, 10.0], clock)
    rest.begins(50)
    clock.now += 0.1
    assert rest.step(3, 51, 100, 0.0) == pytest.approx((14.9, 14.9))
    clock.now += 4.9
    rest.ends()
    rest.begins(0)
    assert rest.step(4, 1, 100, 0.0) == pytest.approx((10.0, 10.0))


def test_a_training_may_end_early_and_its_time_says_so() -> None:
    told: list[str] = []
    Course(lambda words, share: told.append(words)).reach("epoch 1 of 9", 0.2, (60.0, 120.0))
    assert told == ["epoch 1 of 9, at most 1m00–2m00 left"] and re.search(r"\d left$", told[0])
