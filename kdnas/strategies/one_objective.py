"""One objective for every strategy and pruner: finished trials as their rewards and constraints are now, not as they
were reported.

α, β and constraints may change while a study runs, and Optuna keeps what it was told. This stands before its storage
and changes what is read, never what is written. Computes no reward itself.
"""

from __future__ import annotations

import copy
from collections.abc import Container, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState

RUNG = "completed_rung_"  # successive halving writes an epoch's reward under such a name
CONSTRAINT = "constraints:"  # what `optuna.Trial.set_constraint` puts before a constraint's name


class Rescored:
    """An Optuna storage whose trials have other rewards, once `use` has told it which."""

    def __init__(self, storage: BaseStorage) -> None:
        self._storage = storage
        self._final: Mapping[int, float] = {}
        self._by_epoch: Mapping[int, Mapping[int, float]] = {}
        self._violations: Mapping[int, Mapping[str, float]] | None = None
        self._seen: list[FrozenTrial] | None = None  # while one candidate is chosen: all trials, read once
        self._unwritten: dict[tuple[int, str], Any] | None = None
        self._made: dict[int, tuple[FrozenTrial, tuple[Any, ...], FrozenTrial]] = {}  # finished trials as they are now

    def use(self, final: Mapping[int, float], by_epoch: Mapping[int, Mapping[int, float]]) -> None:
        """By trial number the final reward, and the reward after each epoch. What is in neither stays as reported."""
        self._final, self._by_epoch = final, by_epoch

    def constrain(self, violations: Mapping[int, Mapping[str, float]] | None) -> None:
        """By trial number how far each constraint is missed, at most 0 where it is kept; a trial that is not among them
        has none. None where the study never had a constraint."""
        self._violations = violations

    @contextmanager
    def one_look(self) -> Iterator[None]:
        """Inside, while one candidate is chosen: trials are read once, and of what a sampler notes down of its own
        trial the last is written at the end. A sampler that repeats itself is asked several times for a candidate."""
        self._seen, self._unwritten = None, {}
        try:
            yield
            for (trial_id, name), value in self._unwritten.items():
                self._storage.set_trial_system_attr(trial_id, name, value)
        finally:
            self._seen = self._unwritten = None

    def get_all_trials(
        self, study_id: int, deepcopy: bool = True, states: Container[TrialState] | None = None
    ) -> list[FrozenTrial]:
        if states == (TrialState.WAITING,):
            return []  # of Optuna's own queue, which Optuna looks for before each trial: what is planned is in slots
        if self._unwritten is None or deepcopy:
            return [self._as_now(trial) for trial in self._storage.get_all_trials(study_id, deepcopy, states)]
        if self._seen is None:
            reported = self._storage.get_all_trials(study_id, deepcopy=False)
            changed = self._final or self._by_epoch or self._violations is not None
            self._seen = list(map(self._as_now, reported)) if changed else reported
        return [trial for trial in self._seen if states is None or trial.state in states]

    def set_trial_system_attr(self, trial_id: int, key: str, value: Any) -> None:
        if self._unwritten is None:
            self._storage.set_trial_system_attr(trial_id, key, value)
        else:
            self._unwritten[trial_id, key] = value

    def get_trial(self, trial_id: int) -> FrozenTrial:
        return self._as_now(self._storage.get_trial(trial_id))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._storage, name)

    def _as_now(self, reported: FrozenTrial) -> FrozenTrial:
        final, by_epoch = self._final.get(reported.number), self._by_epoch.get(reported.number)
        if final is None and by_epoch is None and self._violations is None:
            return reported
        own = None if self._violations is None else self._violations.get(reported.number, {})
        made = self._made.get(reported.number)
        if made is not None and made[0] is reported and made[1] == (final, by_epoch, own):
            return made[2]
        trial = self._changed(reported, final, by_epoch, own)
        if reported.state.is_finished():
            self._made[reported.number] = (reported, (final, by_epoch, own), trial)
        return trial

    def _changed(
        self,
        reported: FrozenTrial,
        final: float | None,
        by_epoch: Mapping[int, float] | None,
        own: Mapping[str, float] | None,
    ) -> FrozenTrial:
        """`own`: by how much it misses each constraint; None in a study without any."""
        trial = copy.copy(reported)  # Optuna keeps the reported one
        if own is not None:
            others = {n: value for n, value in reported.system_attrs.items() if not n.startswith(CONSTRAINT)}
            trial.system_attrs = others | {f"{CONSTRAINT}{field}": by for field, by in own.items()}
        if final is not None and reported.state in (TrialState.COMPLETE, TrialState.PRUNED):
            trial.values = [final]
        if by_epoch is not None:
            before = reported.intermediate_values
            trial.intermediate_values = {step: by_epoch.get(step, value) for step, value in before.items()}
            steps = {value: step for step, value in before.items()}
            trial.system_attrs = {
                name: trial.intermediate_values[steps[value]] if name.startswith(RUNG) and value in steps else value
                for name, value in trial.system_attrs.items()
            }
        return trial
