"""Optuna's trials as a worker needs them: what has ended is read once, and what one step writes is one transaction.

Optuna's own storage writes each parameter and attribute in a transaction of its own, and reads a trial again before
each. Here a worker's own trial is known without reading; what it sets is held until it is written beside our rows, or
with the trial's end. The rows are those that Optuna itself would have written. All else Optuna's storage does.
"""

from __future__ import annotations

import contextlib
import copy
import datetime
import functools
import json
from collections import defaultdict
from collections.abc import Container, Iterator, Sequence
from typing import Any

import sqlalchemy as sa
from optuna.distributions import (
    BaseDistribution,
    check_distribution_compatibility,
    distribution_to_json,
    json_to_distribution,
)
from optuna.exceptions import UpdateFinishedTrialError
from optuna.storages import RDBStorage
from optuna.storages._cached_storage import _CachedStorage, _StudyInfo
from optuna.storages._rdb.models import (
    StudyModel,
    TrialIntermediateValueModel,
    TrialModel,
    TrialParamModel,
    TrialSystemAttributeModel,
    TrialUserAttributeModel,
    TrialValueModel,
)
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import Connection

from kdnas.store import changes
from kdnas.store.database import Store
from kdnas.store.patience import persist

_IN = 500  # values in one IN (…)
TRIALS, STUDIES = TrialModel.__table__, StudyModel.__table__
VALUES, PARAMETERS = TrialValueModel.__table__, TrialParamModel.__table__
EPOCHS = TrialIntermediateValueModel.__table__
USER, SYSTEM = TrialUserAttributeModel.__table__, TrialSystemAttributeModel.__table__
ENDED = tuple(state for state in TrialState if state.is_finished())
OPEN = tuple(state for state in TrialState if not state.is_finished())
KEYS = {  # of each table the columns that make a row one of its kind
    PARAMETERS: ("trial_id", "param_name"),
    VALUES: ("trial_id", "objective"),
    EPOCHS: ("trial_id", "step"),
    USER: ("trial_id", "key"),
    SYSTEM: ("trial_id", "key"),
}
Rows = dict[sa.Table, dict[tuple[Any, ...], dict[str, Any]]]


class TrialStorage(_CachedStorage):
    """The storage of one worker of one study. Raises StoreError where the store complains."""

    def __init__(self, store: Store, backend: RDBStorage, *, follow: bool = True) -> None:
        """`follow`: whether what running trials of others report matters, as it does to pruners. Without, they are read
        once they have their parameters, and again when they have ended."""
        super().__init__(backend)
        self._store, self._follow = store, follow
        self._own: dict[int, FrozenTrial] = {}  # running trials of this worker, by Optuna's id
        self._past: list[int] = []  # own trials that have ended since the last one began
        self._read = False  # whether anybody has asked for trials that have ended
        self._unwritten: Rows = {}
        self._holding = False

    @property
    def known(self) -> int:
        """How many trials are held in memory."""
        return len(self._trial_id_to_study_id_and_number)

    # ------------------------------------------------------------------------ holding what is set

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Inside, what is set of own trials is written by `write`, with the end of a trial, or else at the exit; where
        something is raised, not at all."""
        self._holding = True
        try:
            yield
        except BaseException:
            self._unwritten = {}
            raise
        finally:
            self._holding = False
        if self._unwritten:
            self._flush()

    def write(self, connection: Connection) -> None:
        """Writes what is held, as part of a transaction that may be tried again; `written` says that it was committed.

        Raises UpdateFinishedTrialError where somebody else has ended the trial."""
        ids = sorted({row["trial_id"] for rows in self._unwritten.values() for row in rows.values()})
        query = sa.select(sa.func.count()).where(TRIALS.c.trial_id.in_(ids), TRIALS.c.state == TrialState.RUNNING)
        if ids and connection.execute(query).scalar_one() != len(ids):
            self._give_up(ids)
        self._insert(connection)

    def written(self) -> None:
        self._unwritten = {}

    def _flush(self) -> None:
        def once() -> None:
            with self._store.begin() as connection:
                self.write(connection)

        persist(self._store, once)
        self.written()

    def _insert(self, connection: Connection) -> None:
        for table, rows in self._unwritten.items():
            connection.execute(_upsert(table, self._store.is_sqlite), list(rows.values()))

    def _set(self, table: sa.Table, trial_id: int, **columns: Any) -> None:
        row = {"trial_id": trial_id, **columns}
        self._unwritten.setdefault(table, {})[tuple(row[name] for name in KEYS[table])] = row
        if not self._holding:
            self._flush()

    def forget_own(self) -> None:
        """From now on the running trials of this worker are read like any other's: somebody else may end them."""
        self._unwritten = {}
        with self._lock:
            for trial_id in self._own:
                study_id, _ = self._trial_id_to_study_id_and_number[trial_id]
                self._studies[study_id].unfinished_trial_ids.add(trial_id)
            self._own.clear()

    def take_over(self, study_id: int, number: int) -> int:
        """The running trial is this worker's from now on, if it was not so already; its id. Raises
        UpdateFinishedTrialError where it has ended."""
        known = self._study_id_and_number_to_trial_id.get((study_id, number))
        if known is not None and known in self._own:
            return known
        columns = (TRIALS.c.trial_id, TRIALS.c.number, TRIALS.c.state)
        query = sa.select(*columns, TRIALS.c.datetime_start, TRIALS.c.datetime_complete)
        query = query.where(TRIALS.c.study_id == study_id, TRIALS.c.number == number)

        def once() -> FrozenTrial:
            with self._store.connect() as connection:
                return _whole(connection, connection.execute(query).all())[0]

        trial = persist(self._store, once)
        if trial.state.is_finished():
            raise UpdateFinishedTrialError(f"Trial {number} has been ended by somebody else.")
        with self._lock:
            self._own[trial._trial_id] = trial
            self._studies.setdefault(study_id, _StudyInfo())
            self._add_trials_to_cache(study_id, [trial])
        return int(trial._trial_id)

    def _give_up(self, ids: Sequence[int]) -> None:
        self.forget_own()
        raise UpdateFinishedTrialError(f"Trial {ids[0]} has been ended by somebody else.")

    # ------------------------------------------------------------------------ own trials

    def create_new_trial(self, study_id: int, template_trial: FrozenTrial | None = None) -> int:
        if template_trial is not None:
            return super().create_new_trial(study_id, template_trial)
        now = datetime.datetime.now(datetime.UTC)
        number = sa.select(sa.func.count()).where(TRIALS.c.study_id == study_id).scalar_subquery()
        columns = {"study_id": study_id, "state": TrialState.RUNNING, "datetime_start": now.replace(tzinfo=None)}
        with self._store.begin() as connection:
            # Numbers are given one by one: SQLite writes for one at a time, elsewhere the study's row is held.
            locked = sa.select(STUDIES.c.study_id).where(STUDIES.c.study_id == study_id).with_for_update()
            if connection.execute(locked).first() is None:
                raise changes.gone()
            made = TRIALS.insert().values(**columns, number=number).returning(TRIALS.c.trial_id, TRIALS.c.number)
            row = connection.execute(made).one()
        trial = _frozen(row.trial_id, row.number, TrialState.RUNNING, now.astimezone().replace(tzinfo=None), None)
        with self._lock:
            self._let_go()
            self._own[row.trial_id] = trial
            self._studies.setdefault(study_id, _StudyInfo())
            self._add_trials_to_cache(study_id, [trial])
        return int(row.trial_id)

    def get_trial(self, trial_id: int) -> FrozenTrial:
        own = self._own.get(trial_id)
        if own is None:
            return super().get_trial(trial_id)
        mine = copy.copy(own)  # whoever asks may change it
        for name in ("_params", "_distributions", "_user_attrs", "_system_attrs", "intermediate_values"):
            setattr(mine, name, dict(getattr(own, name)))
        return mine

    def set_trial_param(
        self, trial_id: int, param_name: str, param_value_internal: float, distribution: BaseDistribution
    ) -> None:
        own = self._own.get(trial_id)
        if own is None:
            super().set_trial_param(trial_id, param_name, param_value_internal, distribution)
            return
        study_id, _ = self._trial_id_to_study_id_and_number[trial_id]
        study = self._studies[study_id]
        before = study.param_distribution.get(param_name) or next(
            (t.distributions[param_name] for t in study.trials.values() if param_name in t.distributions), distribution
        )
        check_distribution_compatibility(before, distribution)
        study.param_distribution[param_name] = before
        own.params[param_name] = distribution.to_external_repr(param_value_internal)
        own.distributions[param_name] = before if before == distribution else distribution  # one object for all trials
        text = distribution_to_json(distribution)
        row = {"param_name": param_name, "param_value": param_value_internal, "distribution_json": text}
        self._set(PARAMETERS, trial_id, **row)

    def set_trial_user_attr(self, trial_id: int, key: str, value: Any) -> None:
        own = self._own.get(trial_id)
        if own is None:
            super().set_trial_user_attr(trial_id, key, value)
            return
        text = json.dumps(value)
        own.user_attrs[key] = json.loads(text)
        self._set(USER, trial_id, key=key, value_json=text)

    def set_trial_system_attr(self, trial_id: int, key: str, value: Any) -> None:
        own = self._own.get(trial_id)
        if own is None:
            super().set_trial_system_attr(trial_id, key, value)
            return
        text = json.dumps(value)
        own.system_attrs[key] = json.loads(text)
        self._set(SYSTEM, trial_id, key=key, value_json=text)

    def set_trial_intermediate_value(self, trial_id: int, step: int, intermediate_value: float) -> None:
        own = self._own.get(trial_id)
        if own is None:
            super().set_trial_intermediate_value(trial_id, step, intermediate_value)
            return
        own.intermediate_values[step] = intermediate_value
        value, kind = TrialIntermediateValueModel.intermediate_value_to_stored_repr(intermediate_value)
        self._set(EPOCHS, trial_id, step=step, intermediate_value=value, intermediate_value_type=kind)

    def set_trial_state_values(self, trial_id: int, state: TrialState, values: Sequence[float] | None = None) -> bool:
        own = self._own.get(trial_id)
        if own is None or not state.is_finished():
            return super().set_trial_state_values(trial_id, state, values)
        now = datetime.datetime.now(datetime.UTC)
        for objective, value in enumerate(values or ()):
            stored, kind = TrialValueModel.value_to_stored_repr(value)
            row = {"trial_id": trial_id, "objective": objective, "value": stored, "value_type": kind}
            self._unwritten.setdefault(VALUES, {})[trial_id, objective] = row
        mine = sa.update(TRIALS).where(TRIALS.c.trial_id == trial_id, TRIALS.c.state == TrialState.RUNNING)
        with self._store.begin() as connection:
            ended = connection.execute(mine.values(state=state, datetime_complete=now.replace(tzinfo=None))).rowcount
            if ended:
                self._insert(connection)
        if not ended:
            self._give_up([trial_id])
        self.written()
        with self._lock:
            own.state, own.datetime_complete = state, now.astimezone().replace(tzinfo=None)
            own.values = None if values is None else list(values)
            del self._own[trial_id]
            self._past.append(trial_id)
        return True

    def _let_go(self) -> None:
        """Forgets own trials that have ended, unless somebody has asked for ended ones: then memory does not grow."""
        for trial_id in () if self._read else self._past:
            study_id, number = self._trial_id_to_study_id_and_number.pop(trial_id)
            del self._study_id_and_number_to_trial_id[study_id, number]
            del self._studies[study_id].trials[number]
        self._past.clear()

    # ------------------------------------------------------------------------ everybody's trials

    def get_all_trials(
        self, study_id: int, deepcopy: bool = True, states: Container[TrialState] | None = None
    ) -> list[FrozenTrial]:
        if states is not None and not any(state in states for state in ENDED):
            return self._unfinished(study_id, states)
        self._read = True
        self._read_trials_from_remote_storage(study_id)
        with self._lock:
            known = self._studies[study_id].trials
            trials = [known[number] for number in sorted(known)]
        trials = trials if states is None else [trial for trial in trials if trial.state in states]
        return copy.deepcopy(trials) if deepcopy else trials

    def _unfinished(self, study_id: int, states: Container[TrialState]) -> list[FrozenTrial]:
        """Trials that have not ended, as the store has them; no ended one is read for it."""
        c = TRIALS.c
        query = sa.select(c.trial_id, c.number, c.state, c.datetime_start, c.datetime_complete).order_by(c.number)
        query = query.where(c.study_id == study_id, c.state.in_([one for one in OPEN if one in states]))
        with self._store.look() as connection:
            return _whole(connection, connection.execute(query).all())

    def _read_trials_from_remote_storage(self, study_id: int) -> None:
        c = TRIALS.c
        with self._lock:
            study = self._studies.setdefault(study_id, _StudyInfo())
            last = study.last_finished_trial_id
            new: Any = c.trial_id > last
            if earlier := sorted(one for one in study.unfinished_trial_ids if one <= last):
                new = sa.or_(new, c.trial_id.in_(earlier))
            query = sa.select(c.trial_id, c.number, c.state, c.datetime_start, c.datetime_complete)
            with self._store.look() as connection:
                rows = connection.execute(query.where(c.study_id == study_id, new).order_by(c.trial_id)).all()
                others = [row for row in rows if self._to_be_read(study, row)]
                trials = _whole(connection, others)
            self._add_trials_to_cache(study_id, trials)
            for row in rows:
                if row.state.is_finished():
                    study.last_finished_trial_id = max(study.last_finished_trial_id, row.trial_id)
                    study.unfinished_trial_ids.discard(row.trial_id)
                elif row.trial_id not in self._own and not _has_ended(study, row):
                    study.unfinished_trial_ids.add(row.trial_id)

    def _to_be_read(self, study: _StudyInfo, row: Any) -> bool:
        if row.trial_id in self._own or _has_ended(study, row):
            return False
        known = study.trials.get(row.number)
        same = known is not None and known._trial_id == row.trial_id and known.state == row.state
        return self._follow or not (same and known is not None and known.params)


def _has_ended(study: _StudyInfo, row: Any) -> bool:
    """Whether the row's trial is known with its end: nothing more is to be read of it."""
    known = study.trials.get(row.number)
    return known is not None and known._trial_id == row.trial_id and known.state.is_finished()


def _whole(connection: Connection, rows: Sequence[Any]) -> list[FrozenTrial]:
    """Trials of Optuna's table with all that its other tables say of them."""
    parts: dict[sa.Table, dict[int, list[Any]]] = {table: defaultdict(list) for table in KEYS}
    ids = [row.trial_id for row in rows]
    for start in range(0, len(ids), _IN):
        for table, found in parts.items():
            query = sa.select(table).where(table.c.trial_id.in_(ids[start : start + _IN]))
            for part in connection.execute(query.order_by(*table.primary_key.columns)):
                found[part.trial_id].append(part)
    trials = []
    for row in rows:
        trial = _frozen(row.trial_id, row.number, row.state, _local(row.datetime_start), _local(row.datetime_complete))
        for one in parts[PARAMETERS][row.trial_id]:
            distribution = _distribution(one.distribution_json)
            trial.params[one.param_name] = distribution.to_external_repr(one.param_value)
            trial.distributions[one.param_name] = distribution
        values = {
            one.objective: TrialValueModel.stored_repr_to_value(one.value, one.value_type)
            for one in parts[VALUES][row.trial_id]
        }
        if values:
            trial.values = [values[objective] for objective in sorted(values)]
        trial.user_attrs.update((one.key, json.loads(one.value_json)) for one in parts[USER][row.trial_id])
        trial.system_attrs.update((one.key, json.loads(one.value_json)) for one in parts[SYSTEM][row.trial_id])
        for one in parts[EPOCHS][row.trial_id]:
            trial.intermediate_values[one.step] = TrialIntermediateValueModel.stored_repr_to_intermediate_value(
                one.intermediate_value, one.intermediate_value_type
            )
        trials.append(trial)
    return trials


def _frozen(
    trial_id: int,
    number: int,
    state: TrialState,
    start: datetime.datetime | None,
    complete: datetime.datetime | None,
) -> FrozenTrial:
    return FrozenTrial(
        number=number,
        state=state,
        value=None,
        values=None,
        datetime_start=start,
        datetime_complete=complete,
        params={},
        distributions={},
        user_attrs={},
        system_attrs={},
        intermediate_values={},
        trial_id=trial_id,
    )


def _local(stored: datetime.datetime | None) -> datetime.datetime | None:
    """Optuna stores UTC and shows this machine's time, both without a zone."""
    return None if stored is None else stored.replace(tzinfo=datetime.UTC).astimezone().replace(tzinfo=None)


@functools.lru_cache(maxsize=4096)
def _distribution(text: str) -> BaseDistribution:
    return json_to_distribution(text)


@functools.cache
def _upsert(table: sa.Table, is_sqlite: bool) -> Any:
    keys = KEYS[table]
    names = [c.name for c in table.columns if not c.primary_key]
    made = (sqlite if is_sqlite else postgresql).insert(table).values({name: sa.bindparam(name) for name in names})
    others = {name: made.excluded[name] for name in names if name not in keys}
    return made.on_conflict_do_update(index_elements=list(keys), set_=others)
