"""What going on with a study is expected to bring, in words: for whoever decides whether to stop it.

A surrogate of the rewards (kdnas.study.surrogate) says of every candidate that nobody has evaluated what its reward may
be; draws of these, the most promising candidates of each as many as there are trials to come, say what the best of them
would gain. Under constraints only those draws count that keep them, by a surrogate of each, and it is said when no
candidate that is left is likely to. Advises and does nothing. Pure numpy: loads neither torch nor Optuna.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from kdnas.study.expected_gain import LIKELY, chance_to_keep, expected_improvement
from kdnas.study.space import Candidate, SearchSpace
from kdnas.study.surrogate import Places, Prediction, Surrogate
from kdnas.system import seeds

FEWEST = 8  # finished trials before anything is said
SETTLED = 20  # finished trials before going on may be hardly worth it: fewer can make the surrogate too sure
NEXT = 20  # trials of which the gain is told
POOL = 4096  # candidates that are looked at; smaller spaces are seen whole
DRAWS = 256
DONE = 0.001  # of the best reward: an expected gain below it is not worth going on for
SLIM = 0.3  # where none that is left keeps the constraints with such a chance, going on is not worth it either


@dataclass(frozen=True)
class Advice:
    """The gain in reward that is expected of the next `trials`, after so many `finished` ones.

    `likeliest` is the highest chance of a candidate that is left to keep all constraints; None without constraints, and
    where not all candidates of the space were looked at."""

    gain: float
    trials: int
    best: float
    finished: int = SETTLED
    likeliest: float | None = None

    @property
    def unlikely(self) -> bool:
        """Whether no candidate that is left is likely to keep the constraints."""
        return self._below(LIKELY)

    @property
    def doubtful(self) -> bool:
        """Whether every candidate that is left has but a slim chance to keep all constraints."""
        return self._below(SLIM)

    def _below(self, chance: float) -> bool:
        return self.finished >= SETTLED and self.likeliest is not None and self.likeliest < chance

    @property
    def done(self) -> bool:
        """Whether going on is expected to bring next to nothing, or has but a slim chance to keep all constraints."""
        enough = self.finished >= SETTLED or not self.trials
        return self.doubtful or (enough and self.gain < DONE * abs(self.best))

    def values(self) -> dict[str, Any]:
        """As plain values for JSON."""
        return {**asdict(self), "done": self.done, "words": str(self)}

    @property
    def brief(self) -> str:
        """The same where there is no room for sentences."""
        if not self.trials:
            return "every candidate evaluated"
        if self.doubtful:
            return "none left likely feasible"
        return "hardly worth going on" if self.done else f"next {self.trials}: gain of {self._gain} expected"

    @property
    def _gain(self) -> str:
        return f"{self.gain:.1g}" if self.gain >= 5e-5 else "less than 0.0001"

    def __str__(self) -> str:
        if not self.trials:
            return "Every candidate of the space has been evaluated."
        many = "the next trial is" if self.trials == 1 else f"the next {self.trials} trials are"
        told = f"{many[0].upper()}{many[1:]} expected to gain {self._gain} (best {self.best:.4f})."
        if self.unlikely:
            unlikely = f"No candidate left is likely feasible ({_percent(self.likeliest)})."
            told = unlikely if self.doubtful else f"{unlikely} {told}"
        return f"{told} Going on is hardly worth it." if self.done else told


def advice(
    space: SearchSpace,
    finished: Sequence[tuple[Candidate, float]],
    taken: Sequence[Candidate],
    following: int = NEXT,
    violations: Sequence[Mapping[str, float]] = (),
) -> Advice | None:
    """Of the trials that finished with a reward, all positive, and the candidates that are no longer free. None before
    there are `FEWEST`, or where rewards have no logarithm.

    `violations`, where the study has constraints: by how much each finished trial misses each of them, at most 0 where
    it keeps it (kdnas.study.constraints.Limits.scaled). None, too, while no trial keeps them all.
    """
    rewards = np.asarray([reward for _, reward in finished])
    met = np.asarray([all(by <= 0 for by in one.values()) for one in violations] or [True] * len(rewards))
    if len(rewards) < FEWEST or not (rewards > 0).all() or not met.any():
        return None
    known, best = {space.key(c) for c in taken}, float(rewards[met].max())
    pool = [c for c in _pool(space) if space.key(c) not in known]
    following = min(following, len(pool))
    if not following:
        return Advice(0.0, 0, best)
    places = Places(space, [*(c for c, _ in finished), *pool])
    done, free = np.arange(len(rewards)), np.arange(len(rewards), len(rewards) + len(pool))
    found = Surrogate(places, done, np.log(rewards)).predict(free)
    missed = [
        Surrogate(places, done, np.asarray([one[field] for one in violations])).predict(free)
        for field in (violations[0] if violations else ())
    ]
    chances = chance_to_keep(missed, len(pool))
    # Those that a search would take next.
    next_ones = _promising(found, chances if missed else None, np.log(best))[:following]
    rng = seeds.fixed(seeds.Fixed.GAINS)
    drawn = np.exp(np.minimum(_drawn(found, next_ones, rng), np.log(10 * best)))
    for one in missed:
        drawn[_drawn(one, next_ones, rng) > 0] = 0.0
    likeliest = float(chances.max()) if missed and _whole(space) else None
    return Advice(float(np.maximum(drawn.max(1) - best, 0).mean()), following, best, len(rewards), likeliest)


def _promising(found: Prediction, chances: np.ndarray | None, best: float) -> np.ndarray:
    """The places of all candidates, those first whose reward may be the highest; under constraints those that may gain
    most and keep them, by these chances."""
    if chances is None:
        return np.argsort(-(found.mean + found.deviation))
    return np.argsort(-chances * expected_improvement(found, best), kind="stable")


def _drawn(found: Prediction, places: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Draws of what is predicted at places [n], float [DRAWS, n]."""
    return found.mean[places] + found.deviation[places] * rng.standard_normal((DRAWS, len(places)))


def _percent(chance: float | None) -> str:
    """A chance as people read it; one that rounds to 0 % is not called impossible."""
    assert chance is not None
    return f"{100 * chance:.0f} % at most" if chance >= 0.005 else "less than 1 %"


def _whole(space: SearchSpace) -> bool:
    """Whether all candidates of the space are looked at."""
    return space.product_size <= POOL


def _pool(space: SearchSpace) -> list[Candidate]:
    if _whole(space):
        return list(space.candidates())
    rng = seeds.fixed(seeds.Fixed.GAINS)
    found = {space.key(c): c for c in (space.sample(rng) for _ in range(POOL))}
    return list(found.values())
