"""What people change on a study: pause, stop, resume, workers, budget, constraints, and marks, tags and notes
on its trials.

Each writes rows that workers read, or starts a process. Nothing here draws, and nothing runs a search.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from kdnas.study.constraints import PART, limits_of
from kdnas.study.ranking import Scored
from kdnas.study.rows import Status, StudyRow
from kdnas.system import moments
from kdnas.system.errors import BadOptionError, UsageError
from kdnas_tui import keys
from kdnas_tui.desk import Desk
from kdnas_tui.keys import worded
from kdnas_tui.screens.ask import Answer, Ask, Write
from kdnas_tui.screens.frame import Frame, writes
from kdnas_tui.watched import Watched

if TYPE_CHECKING:
    from kdnas.study.spec_constraints import ConstraintsSpec

# A spec is read only once something is typed: its models take six MiB, which whoever only looks on does without.


def change(
    watched: Watched,
    desk: Desk,
    what: Callable[[Any, int], Any],
    done: str = "",
    then: Callable[[], Any] | None = None,
) -> None:
    """Write to the study: `what(store, study_id)` in a thread."""
    row = watched.study
    if row is not None:
        desk.change(lambda store: what(store, row.study_id), done, then)


def mark(watched: Watched, desk: Desk, number: int) -> None:
    """Mark the trial, or unmark it: in the store, or for this watching only where the store is only looked at."""
    from kdnas.store import changes

    scored = watched.trials.scored(number) if watched.trials is not None else None
    if scored is not None:
        marked = not scored.row.marked
        if desk.readonly:
            watched.mark_here(number, marked)
            return
        change(watched, desk, lambda store, study: changes.set_remark(store, study, number, marked=marked))


def copy_candidate(watched: Watched, desk: Desk) -> None:
    """Copy the candidate under the cursor as an export writes it."""
    from kdnas.study.export import candidate

    scored = watched.current()
    if scored is not None:
        text = json.dumps(candidate(scored), indent=2, ensure_ascii=False) + "\n"
        desk.copy(text, f"{watched.name}-{scored.number}.json")


def copy_as(screen: Frame, watched: Watched) -> None:
    """Ask in which form to copy the candidate under the cursor, or whether to copy the study's command."""
    from kdnas_tui.screens import copying

    row, scored = watched.study, watched.current()
    if row is None:
        return

    def take(form: copying.Form, heading: bool) -> None:
        if scored is not None:
            copying.copy_candidate(screen.desk, row, scored, form, heading)

    copying.ask(screen, screen.desk, row, "" if scored is None else f"the candidate of trial {scored.number}", take)


def constraints(value: str, row: StudyRow) -> ConstraintsSpec:
    """The constraints that were typed, `max_latency_ms=5 max_loss=0.2` or nothing. Raises UsageError where the study
    cannot take them."""
    from kdnas.study.spec import from_store, from_values
    from kdnas.study.spec_flags import assigned
    from kdnas_tui.screens.spec_fields import split_settings

    begun = from_store(row.spec).model_dump(mode="json")
    fields = (assigned(words) for words in split_settings(value))
    return from_values({**begun, PART: dict(fields)}).constraints


def budget(value: str, ended: int) -> int:
    """The number of trials that was typed. Raises BadOptionError where a study with `ended` trials cannot take it."""
    from kdnas.study.spec import from_values

    try:
        trials = from_values({"budget": {"trials": value}}).budget.trials
    except BadOptionError as error:
        raise BadOptionError("trials", error.problem.replace("budget.trials", "trials"), error.hint) from None
    if trials < ended:
        raise BadOptionError("trials", f"{ended} trials have ended already.", f"Give at least {ended}.")
    return trials


def new_end(value: str, row: StudyRow, now: float) -> float | None:
    """The end that was typed, `2h` or `07:30`, as UTC seconds; None for a number of trials. Raises UsageError where the
    study cannot have it."""
    from kdnas.study.spec import from_values
    from kdnas.study.spec_end import moment_of, require_use
    from kdnas_tui.screens.spec_fields import time_of

    if ":" not in value and not value.rstrip().endswith(("h", "hour", "hours")):
        return None
    fields = {field.removeprefix("budget."): given for field, given in time_of(value.strip())}
    until = moment_of(from_values({"budget": fields}).budget, now)
    require_use(row)
    return until


WRITING = frozenset(key.action for key in keys.KEYS["study"] if key.writes)


def idle_keys(row: StudyRow | None, marked: int) -> frozenset[str]:
    """Actions that would only say that there is nothing to do, as the study stands."""
    idle = {"compare"} if marked < 2 else set()
    if row is None:
        return frozenset(idle)
    if not row.workers:
        idle |= {"pause", "stop", "worker"}
    if row.status is Status.RUNNING or (row.spent and not row.workers):
        idle.add("resume")
    if row.status is not Status.RUNNING:
        idle.add("pause")  # r goes on
    return frozenset(idle)


class Steering(Frame):
    """A screen whose keys steer the watched study."""

    def __init__(self, watched: Watched, desk: Desk) -> None:
        super().__init__(desk)
        self.watched = watched

    def still_reading(self) -> bool:
        """Whether only a sketch of the trials has been read yet; says so."""
        if self.watched.sketched:
            self.notify("Still reading the trials: try again in a moment.", timeout=3, markup=False)
        return self.watched.sketched

    def change(self, what: Callable[[Any, int], Any], done: str = "", then: Callable[[], Any] | None = None) -> None:
        change(self.watched, self.desk, what, done, then)

    # ------------------------------------------------------------------ the search

    def _want(self, wanted: str, done: str) -> None:
        from kdnas.store import changes

        self.change(lambda store, study: changes.set_wanted(store, study, wanted), done)

    @writes
    def action_pause(self) -> None:
        row = self.watched.study
        if row is None:
            return
        if row.status in (Status.PAUSED, Status.PAUSING):
            self.action_resume()
        elif row.status is Status.RUNNING:
            self._want("pause", "Pausing after the running epoch; its training is kept.")
        else:
            self.desk.fault(UsageError(f"{row.name} is {row.status}: there is nothing to pause.", _hint(row)))

    @writes
    def action_stop(self) -> None:
        row = self.watched.study
        if row is None:
            return
        if not row.workers:
            self.desk.fault(UsageError(f"{row.name} is {row.status}: no worker runs.", _hint(row)))
            return

        def answered(answer: str | None) -> None:
            if answer in ("stop", "abandon"):
                self._want(answer, "Stopping after the running trial." if answer == "stop" else "Stopping now.")

        self.app.push_screen(
            Ask(
                f"Stop {row.name}?",
                [
                    Answer("stop", "Finish the running trial, then stop", "nothing is lost"),
                    Answer("abandon", "Stop now", "the running trial is lost, and tried again on resuming"),
                    Answer("run", "Keep running"),
                ],
            ),
            answered,
        )

    @writes
    def action_resume(self) -> None:
        row = self.watched.study
        if row is None:
            return
        if row.status is Status.RUNNING:
            self.notify(f"{row.name} is running.", timeout=3, markup=False)
        elif row.spent:
            self.desk.fault(
                UsageError(
                    f"{row.name} has finished its {row.trials} trials.", worded("Press <study.budget> for more.")
                )
            )
        elif row.workers:
            self._want("run", "Going on.")
        else:
            self._start()

    def _start(self) -> None:
        from kdnas_tui import workers

        name, storage = self.watched.name, self.desk.storage
        self.notify("Starting a worker …", timeout=3, markup=False)
        self.desk.command(lambda: workers.resume(name, storage))

    @writes
    def action_worker(self) -> None:
        row = self.watched.study
        if row is None:
            return
        if not row.workers:
            self.action_resume()
            return
        from kdnas_tui import workers

        name, storage = row.name, self.desk.storage
        self.desk.command(lambda: workers.add_worker(name, storage), "One more worker is starting.")

    @writes
    def action_budget(self) -> None:
        row = self.watched.study
        if row is None:
            return
        from kdnas.store import changes, ends

        ended, now = row.status is Status.FINISHED, self.desk.clock()

        def check(value: str) -> None:
            if new_end(value, row, now) is None:
                budget(value, row.done)

        def answered(value: str | None) -> None:
            if value is None:
                return
            until = new_end(value, row, now)
            if until is not None:
                self.change(
                    lambda store, study: ends.set_end(store, study, until),
                    f"It runs until {moments.clock_words(until, now)} now.",
                    self._start if ended else None,
                )
                return
            trials = budget(value, row.done)
            self.change(
                lambda store, study: changes.set_trials(store, study, trials),
                f"The budget is {trials:,} trials now.",
                self._start if ended and trials > row.trials else None,
            )

        detail = f"{row.done} have ended."
        if ended:
            detail += " With more, the search goes on at once."
        detail += " A time such as 07:30 or 2h limits it, too; where all have ended, it alone does."
        self.app.push_screen(
            Write(
                f"How many trials for {row.name}?",
                str(row.trials) if row.end is None or not row.open else moments.minute_text(row.end.until),
                detail=detail,
                check=check,
            ),
            answered,
        )

    @writes
    def action_constraints(self) -> None:
        row = self.watched.study
        if row is None or self.still_reading():
            return
        from kdnas.store import changes
        from kdnas.study.spec import from_store
        from kdnas_tui.screens.spec_fields import bounds_text

        def answered(value: str | None) -> None:
            if value is None:
                return
            chosen = constraints(value, row)
            limits = limits_of(chosen.model_dump(), row.teacher_latency_ms)
            self.change(
                lambda store, study: changes.set_constraints(store, study, chosen),
                f"From now on {limits}." if limits else "There are no constraints now.",
            )

        self.app.push_screen(
            Write(
                f"Which constraints has {row.name}?",
                bounds_text(from_store(row.spec).constraints),
                detail="Trials that miss one rank last. Any of max_latency_ms min_speedup max_parameters max_size_mib "
                "max_loss, such as max_latency_ms=5 min_speedup=3; or nothing.",
                check=lambda value: constraints(value, row),
            ),
            answered,
        )

    # ------------------------------------------------------------------ the trial under the cursor

    def action_mark(self) -> None:
        if self.watched.cursor is not None:
            mark(self.watched, self.desk, self.watched.cursor)

    @writes
    def action_tags(self) -> None:
        if (scored := self._remarkable()) is not None:
            detail = "Words separated by spaces; tag:word finds them."
            question = Write(f"Tags of trial {scored.number}", " ".join(scored.row.tags), detail=detail)
            self._ask_remark(question, scored.number, lambda value: {"tags": value.split()})

    @writes
    def action_note(self) -> None:
        if (scored := self._remarkable()) is not None:
            question = Write(f"A note to trial {scored.number}", scored.row.note)
            self._ask_remark(question, scored.number, lambda value: {"note": value.strip()})

    def _remarkable(self) -> Scored | None:
        """The trial under the cursor, unless what was said of it is still being read."""
        scored = self.watched.current()
        return None if scored is None or self.still_reading() else scored

    def _ask_remark(self, question: Write, number: int, remark: Callable[[str], dict[str, Any]]) -> None:
        """Ask, and write what `remark` makes of the answer beside the trial."""
        from kdnas.store import changes

        def answered(value: str | None) -> None:
            if value is not None:
                self.change(lambda store, study: changes.set_remark(store, study, number, **remark(value)))

        self.app.push_screen(question, answered)

    def action_copy(self) -> None:
        if not self.still_reading():
            copy_candidate(self.watched, self.desk)

    def action_copy_as(self) -> None:
        if not self.still_reading():
            copy_as(self, self.watched)


def _hint(row: StudyRow) -> str:
    return worded(
        "Press <study.budget> to raise its budget."
        if row.status is Status.FINISHED
        else "Press <study.resume> to go on."
    )
