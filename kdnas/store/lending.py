"""Which studies of a store lend their trials to one that begins, and what it was lent. Plain SQL.

The loan is written with the search space, in the transaction of the first worker, as an entry of the study's history: a
table that every store has had since its first study. Nothing of it is read from the lenders again.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from kdnas.store import changes, queries
from kdnas.store import tables as t
from kdnas.store.database import Store
from kdnas.store.limits import limits_on
from kdnas.store.patience import patient
from kdnas.study import timed_words
from kdnas.study.ground import ground_of
from kdnas.study.loan import AUTO, EVENT, FEWEST, LENDERS, NOBODY, STUDIES, Lender, LentTrial, Loan, some, within
from kdnas.study.ranked_rows import rank_of
from kdnas.study.reward import reward
from kdnas.study.rows import StudyRow
from kdnas.study.space import SearchSpace
from kdnas.study.spec import StudySpec, from_store
from kdnas.study.spec_differences import same_question
from kdnas.system.errors import BadOptionError, UsageError


def lenders(
    store: Store, spec: StudySpec, space: SearchSpace, provenance: Mapping[str, Any] | None = None
) -> tuple[Lender, ...]:
    """What a study of this spec and space is lent: by the study that it names, else by those that fit, the most trials
    first. Unless it is named, one that asks the same question lends nothing: two seeds or two strategies are compared
    as they are alone. Raises BadOptionError, saying why, where the one that it names does not fit.

    `provenance`: what the first worker has found; without it the teachers are compared by their names in the specs.
    """
    if spec.like == NOBODY or not spec.strategy.borrows():
        return ()
    if spec.like != AUTO:
        row = queries.find_study(store, spec.like)
        why, found = (
            ("there is no such study in this store", None) if row is None else _of(store, row, spec, space, provenance)
        )
        if found is None:
            raise cannot_lend(spec, why)
        return (found,)
    fitting = []
    for row in queries.study_rows(store):
        if row.name == spec.name or _repeated(row, spec):
            continue
        if (found := _of(store, row, spec, space, provenance)[1]) is not None:
            fitting.append((row.study_id, found))
    fitting.sort(key=lambda pair: (-len(pair[1].trials), -pair[0]))
    return tuple(found for _, found in fitting[:LENDERS])


HINT = f"Name one of the same teacher, recipe and dimensions, or give {AUTO} or {NOBODY}."


def require_lender(store: Store, spec: StudySpec) -> None:
    """Raises BadOptionError where the study that the spec names cannot lend, as far as that is known before a worker
    has opened the teacher."""
    if spec.like in (AUTO, NOBODY):
        return
    row = queries.find_study(store, spec.like)
    if row is None:
        why = "there is no such study in this store"
    else:
        why = _other(row, spec) or ("" if row.done > row.failed else "it has no finished trials")
    if why:
        raise cannot_lend(spec, why)


def cannot_lend(spec: StudySpec, why: str) -> BadOptionError:
    return BadOptionError("like", f"The study {spec.like!r} cannot lend its trials: {why}.", HINT)


def _repeated(row: StudyRow, spec: StudySpec) -> bool:
    """Whether a study asks the same question; so does one whose spec cannot be read, for all that is known."""
    try:
        return same_question(from_store(row.spec), spec)
    except UsageError:
        return True


def _other(row: StudyRow, spec: StudySpec) -> str:
    """Why a study is of another kind, by the specs alone; empty where it is not."""
    if row.name == spec.name:
        return "it is the one that would borrow them"
    recipe = str(row.spec.get("recipe", {}).get("name"))
    if recipe != spec.recipe.name:
        return f"its recipe is {recipe}, and this one's {spec.recipe.name}"
    if row.spec.get("space", {}).get("variants") or spec.space.variants:
        return "a comparison of variants has no sizes in common with another study"
    theirs = timed_words.what(row.spec.get("latency", {}))
    if theirs != spec.latency.what:
        return f"it times another thing (latency.what is {theirs}, and this one's {spec.latency.what})"
    theirs = timed_words.dtype(row.spec.get("latency", {}))
    if theirs != spec.latency.dtype:
        return f"it times in another dtype (latency.dtype is {theirs}, and this one's {spec.latency.dtype})"
    return ""


def _of(
    store: Store, row: StudyRow, spec: StudySpec, space: SearchSpace, provenance: Mapping[str, Any] | None
) -> tuple[str, Lender | None]:
    """Why a study lends nothing, or what it lends."""
    if why := _other(row, spec):
        return why, None
    theirs, ours = row.spec.get("teacher", {}), spec.teacher.model_dump(mode="json")
    if provenance is None:
        if any(theirs.get(key) != ours[key] for key in ("model", "revision", "checkpoint")):
            return f"its teacher is {theirs.get('model')}, and this one's {spec.teacher.model}", None
    else:
        known = _teacher(queries.provenance(store, row.study_id))
        if known is None or known != _teacher(provenance):
            return f"its teacher {theirs.get('model')} is not the one of this study, by the weights' fingerprint", None
    trials = _finished(store, row, raw=spec.reward.loss == "raw")
    inside = within(trials, space)
    if len(inside) < FEWEST:
        names = {name for trial in trials for name in trial.candidate}
        if trials and names != {d.name for d in space.dimensions}:
            return f"its candidates have other dimensions ({', '.join(sorted(names))})", None
        return f"{len(inside)} of its finished trials lie in this space, and it takes {FEWEST}", None
    worth = [reward(one.loss, one.ratio, 1.0, spec.reward.alpha, spec.reward.beta) for one in inside]
    return "", Lender(row.name, tuple(some(inside, worth)))


def _teacher(provenance: Mapping[str, Any]) -> Any:
    ground = ground_of(provenance)
    return ground.get("teacher_fingerprint", ground.get("teacher"))


def _finished(store: Store, row: StudyRow, *, raw: bool) -> list[LentTrial]:
    """The trials that have a rank, by number, each candidate once; of repeats the mean loss."""
    found: dict[str, LentTrial] = {}
    for one in rank_of(row, queries.trial_rows(store, row.study_id)):
        trial = one.row
        loss = (trial.mean_raw_loss, trial.raw_loss) if raw else (trial.mean_loss, trial.loss)
        seen = loss[1] if loss[0] is None else loss[0]
        if one.rank is None or seen is None or not trial.latency_ms or not trial.teacher_latency_ms:
            continue
        ratio = trial.latency_ms / trial.teacher_latency_ms
        key = json.dumps(trial.candidate, sort_keys=True)
        found.setdefault(key, LentTrial(dict(trial.candidate), seen, ratio, trial.parameters))
    return list(found.values())


def write(connection: Connection, study_id: int, lent: tuple[Lender, ...]) -> None:
    """The loan of a study that begins, as part of the transaction that writes its space."""
    if lent:
        loan = Loan(lent)
        changes.record(connection, study_id, EVENT, {"by": str(loan), STUDIES: loan.to_values()})


@patient
def loan_of(store: Store, study_id: int) -> Loan:
    """What the study was lent when it began, weighed by its α, β and constraints of now; empty where nothing."""
    c = t.study.c
    with store.connect() as connection:
        lent = changes.recorded(connection, study_id, EVENT)
        if lent is None:
            return Loan(())
        row = connection.execute(sa.select(c.alpha, c.beta).where(c.study_id == study_id)).one()
        limits = limits_on(connection, study_id)
    return Loan.from_values(lent[STUDIES]).by_now(row.alpha, row.beta, limits)
