"""Evaluates the leaders of a study again with fresh seeds, so that chance shows: mean, spread and ties.

The k-th fresh seed is the same for all candidates and on every run; what has been evaluated is not evaluated again.
Runs in this process, beside a search or after it.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from kdnas.measuring import memory
from kdnas.recipes.contract import Workbench
from kdnas.search.candidate import EvaluationError, Measure, Timed, evaluate
from kdnas.search.heartbeat import Steering, at_work
from kdnas.search.set_up import Prepare, place, recipe_of
from kdnas.search.timing import latency_protocol, require_timed
from kdnas.store import changes, queries, repeats, studies
from kdnas.store.database import Store, open_store
from kdnas.study.ranked_rows import rank_of
from kdnas.study.ranking import Scored
from kdnas.study.rows import TrialRow
from kdnas.study.spec import from_store
from kdnas.study.states import WorkerState
from kdnas.system.errors import UsageError
from kdnas.system.seeds import Purpose, number
from kdnas.training.contract import Epoch


def recheck(
    storage: str,
    name: str,
    *,
    top: int,
    seeds: int,
    device: str | None,
    say: Callable[[str], None],
    prepare: Prepare | None = None,
    measure: Measure | None = None,
) -> list[Scored]:
    """The ranked trials after `seeds` more evaluations of each of the `top` best. Raises UsageError, KdnasError.

    `prepare` and `measure` are the recipe's and the latency protocol's, unless given. An interrupt loses only the
    evaluation that runs.
    """
    with open_store(storage) as store:
        row = queries.study_row(store, name)
        spec = from_store(row.spec)
        leaders = [s.row for s in _ranked(store, name)[:top]]
        if not leaders:
            raise UsageError(f"{name} has no finished trial to evaluate again.", "Let it finish one first.")
        fresh = [number(spec.seed, Purpose.STUDENT, k) for k in range(1, seeds + 1)]
        had = {leader.number: repeats.seeds(store, row.study_id, leader.number) for leader in leaders}
        missing = [(leader, seed) for leader in leaders for seed in fresh if seed not in had[leader.number]]
        if not missing:
            say("All of them have been evaluated with these seeds.")
        else:
            with at_work(store, row.study_id, "recheck") as steering:
                where = place(steering, device or spec.device)

                def on_progress(words: str, share: float | None) -> None:
                    steering.doing = words if share is None else f"{words} {share:.0%}"

                with memory.one_line(where):
                    bench = (prepare or recipe_of(spec))(spec, where, on_progress)
                try:
                    studies.require_ground(store, row.study_id, bench.provenance())
                    require_timed(bench, on_progress)
                    _evaluate(store, row.study_id, bench, measure or latency_protocol(store), steering, missing, say)
                finally:
                    bench.close()
                numbers = [leader.number for leader in leaders]
                changes.add_event(store, row.study_id, "recheck", {"trials": numbers, "seeds": fresh})
        return _ranked(store, name)


def _had_more(leader: TrialRow, epoch: Epoch, timed: Timed) -> bool:
    """Whether the trial went on after this epoch: it may have stopped at a rung."""
    return epoch.epoch < leader.epoch


def _ranked(store: Store, name: str) -> list[Scored]:
    row = queries.study_row(store, name)
    scored = rank_of(row, queries.trial_rows(store, row.study_id))
    return [s for s in scored if s.rank is not None]


def _evaluate(
    store: Store,
    study_id: int,
    bench: Workbench,
    measure: Measure,
    steering: Steering,
    missing: list[tuple[TrialRow, int]],
    say: Callable[[str], None],
) -> None:
    steering.state = WorkerState.RUNNING
    for done, (leader, seed) in enumerate(missing, start=1):
        steering.doing = f"trial {leader.number} again, {done} of {len(missing)}"
        try:
            found = evaluate(
                bench,
                dict(leader.candidate),
                measure,
                seed=seed,
                epochs=leader.epochs,
                on_phase=lambda phase: None,
                on_timed=lambda timed, parameters: None,
                on_epoch=partial(_had_more, leader),
                as_built=leader.epoch == 0,
            )
        except EvaluationError as fault:
            steering.log("error", f"trial {leader.number} again: failed: {fault}")
            say(f"#{leader.number} failed: {fault}")
            continue
        repeats.add(
            store,
            study_id,
            leader.number,
            seed,
            loss=found.loss,
            raw_loss=found.raw_loss,
            latency_ms=found.timed.p50,
            teacher_latency_ms=found.timed.teacher_p50,
        )
        line = f"#{leader.number}: loss {found.loss:.4f} (was {leader.loss:.4f})"
        if leader.latency_predicted and leader.latency_ms:
            error = leader.latency_ms / found.timed.p50 - 1
            line += f", {found.timed.p50:.3g} ms measured ({leader.latency_ms:.3g} predicted, {error:+.1%})"
        steering.log("info", f"again {line}, seed {seed}")
        say(f"[{done}/{len(missing)}] {line}")
