"""Which dimensions of the space the reward depends on, as Optuna estimates it; a short-lived process for the screens.

    python -m kdnas.reports.parameter_importance STUDY --storage URL [--json]

By fANOVA (Hutter et al., 2014). Rewards are those of the study's present α and β, so that it agrees with the ranking
shown. Writes nothing.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import sqlalchemy as sa

from kdnas.store import queries
from kdnas.store import tables as t
from kdnas.store.database import open_reader
from kdnas.study.ranked_rows import rank
from kdnas.study.ranking import LossKind
from kdnas.study.rows import TrialRow
from kdnas.study.space import SearchSpace
from kdnas.system import seeds
from kdnas.system.errors import KdnasError, UsageError
from kdnas.system.paths import default_storage
from kdnas.system.text import clean

LEAST = 8  # finished trials, below which an estimate says nothing
MOST = 1500  # finished trials looked at, evenly chosen from all of them


@dataclass(frozen=True)
class Importance:
    """Shares of the reward's variance by dimension, the largest first; they add up to 1."""

    evaluator: str  # fanova
    trials: int  # looked at
    shares: tuple[tuple[str, float], ...]


def importance(
    rows: Sequence[TrialRow], space: SearchSpace, alpha: float, beta: float, loss: LossKind = "normalised"
) -> Importance:
    """What the done trials say of the reward, those that miss constraints, too. Raises UsageError where they are too
    few or all alike."""
    import optuna

    from kdnas.store.optuna_storage import hushed

    scored = sorted((s for s in rank(rows, alpha, beta, loss) if s.rank is not None), key=lambda s: s.number)
    if len(scored) < LEAST:
        raise UsageError(
            f"{len(scored)} finished trials are too few to tell what matters.", f"Wait until there are {LEAST}."
        )
    if len(scored) > MOST:
        scored = [scored[i] for i in np.linspace(0, len(scored) - 1, MOST).astype(int).tolist()]
    used = [d for d in space.dimensions if len({str(s.row.candidate.get(d.name)) for s in scored}) > 1]
    if not used or len({s.reward for s in scored}) == 1:
        raise UsageError("All finished trials are alike, so nothing tells what matters.", "Wait for others.")
    distributions: dict[str, optuna.distributions.BaseDistribution] = {
        d.name: optuna.distributions.IntDistribution(0, len(d.choices) - 1)
        if d.ordered
        else optuna.distributions.CategoricalDistribution(d.choices)
        for d in used
    }
    with hushed(optuna.logging.ERROR):
        study = optuna.create_study(direction="maximize")
        for s in scored:
            values = {d.name: s.row.candidate[d.name] for d in used}
            study.add_trial(
                optuna.trial.create_trial(
                    params={d.name: d.choices.index(values[d.name]) if d.ordered else values[d.name] for d in used},
                    distributions=distributions,
                    value=s.reward,
                )
            )
        forest = optuna.importance.FanovaImportanceEvaluator(seed=seeds.fixed_number(seeds.Fixed.FOREST))
        found = optuna.importance.get_param_importances(study, evaluator=forest)
    shares = sorted(((name, float(share)) for name, share in found.items()), key=lambda pair: (-pair[1], pair[0]))
    return Importance("fanova", len(scored), tuple(shares))


def of_study(name: str, storage: str) -> Importance:
    """The importance in a stored study."""
    with open_reader(storage) as store:
        row = queries.study_row(store, name)
        with store.connect() as connection:
            space = connection.execute(
                sa.select(t.study.c.space).where(t.study.c.study_id == row.study_id)
            ).scalar_one_or_none()
        if space is None:
            raise UsageError(f"No worker has begun {name} yet, so its space is not known.", "Start one first.")
        rows = queries.trial_rows(store, row.study_id)
    return importance(rows, SearchSpace.from_json(space), row.alpha, row.beta, row.spec["reward"]["loss"])


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="kdnas.reports.parameter_importance", description="Which dimensions the reward depends on."
    )
    parser.add_argument("study")
    parser.add_argument("--storage", default=None, help="where the study lies; the default place where none is given")
    parser.add_argument("--json", action="store_true", help="print JSON")
    asked = parser.parse_args(arguments)
    try:
        found = of_study(asked.study, asked.storage or default_storage())
    except KdnasError as error:
        print(clean(f"kdnas: {error}"), file=sys.stderr)
        return error.exit_code
    if asked.json:
        shares = [{"name": name, "share": share} for name, share in found.shares]
        print(json.dumps({"evaluator": found.evaluator, "trials": found.trials, "importance": shares}))
    else:
        for name, share in found.shares:
            print(clean(f"{share:6.1%}  {name}"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
