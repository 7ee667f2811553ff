"""Which studies lend their trials to a new one: in words, and for its worker. `kdnas.store.lending` keeps the loan."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from kdnas.store import lending, queries
from kdnas.store.database import Store, reader_if_there
from kdnas.study.loan import AUTO, NOBODY, SAVES, Lender, Loan
from kdnas.study.space import Dimension, SearchSpace
from kdnas.study.spec import StudySpec
from kdnas.system.errors import BadOptionError


def lent(
    store: Store,
    study_id: int,
    spec: StudySpec,
    space: SearchSpace,
    provenance: Mapping[str, Any],
    log: Callable[[str, str], None],
) -> tuple[Lender, ...]:
    """What the study is lent, where this is its first worker. Raises BadOptionError where a study that it names cannot
    lend."""
    if queries.study_of(store, study_id).space_size is not None:
        return ()
    found = lending.lenders(store, spec, space, provenance)
    if found:
        log("info", f"warm start: {Loan(found)} are lent")
    return found


class Present:
    """The loan of a study by its α, β and constraints of now; None where it has none."""

    def __init__(self, store: Store, study_id: int) -> None:
        self._store, self._study_id = store, study_id
        self._there = bool(lending.loan_of(store, study_id))

    def __call__(self) -> Loan | None:
        return lending.loan_of(self._store, self._study_id) if self._there else None


def notes(spec: StudySpec, dimensions: Mapping[str, tuple[Any, ...]], storage: str) -> tuple[str, ...]:
    """Who would lend to a study that is not there yet, and what that is expected to save. Raises BadOptionError where
    the study that the spec names cannot lend."""
    if spec.like == NOBODY or not spec.strategy.borrows():
        return ()
    there = reader_if_there(storage)
    if there is None:
        if spec.like != AUTO:
            raise BadOptionError("like", f"There is no study {spec.like!r}, since there is no store yet.", lending.HINT)
        return ()
    with there as store:
        # Whether a choice is ordered plays no part in which trials lie in the space.
        space = SearchSpace(tuple(Dimension(name, tuple(choices)) for name, choices in dimensions.items()))
        if queries.find_study(store, spec.name) is not None:
            return ()
        found = lending.lenders(store, spec, space)
    return (f"Warm start: {Loan(found)} are lent. {SAVES}",) if found else ()
