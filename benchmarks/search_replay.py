"""One search of one strategy, with a search's own samplers, on a table of candidates that were all distilled and timed.

Nothing in the strategies knows the table. Trains nothing; `benchmarks.search` asks for many of these.
"""

from __future__ import annotations

import csv
import gzip
import json
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from kdnas.study.loan import Loan
from kdnas.study.reward import reward
from kdnas.study.space import Candidate, SearchSpace
from kdnas.study.spec import StudySpec, from_values
from kdnas.study.spec_strategies import GP_TRIALS
from kdnas.system import seeds

TABLES = Path(__file__).resolve().parent / "tables"
DEFAULT = TABLES / "minilm-sotu.csv.gz"
ALPHAS = {"evaluations_median": -0.06, "evaluations_median_strict": -0.3}
BETA = 0.6
INITIAL = 10  # the same random candidates first, for all strategies of a seed
AT = (10, 30, 100)  # evaluations at which the regret is told
GOAL = 0.01  # of the achievable range, from the table's median to its best
STRATEGIES: dict[str, dict[str, Any]] = {
    "auto": {"name": "auto"},
    "auto_after_ten": {"name": "auto"},
    "lstm": {"name": "lstm"},
    "lstm_paper": {"name": "lstm", "controller": "paper"},
    "tpe": {"name": "tpe"},
    "gp": {"name": "gp"},
    "evolution": {"name": "evolution"},
    "nsga2": {"name": "nsga2"},
    "tpe_two_objectives": {"name": "tpe", "two_objectives": True},
    "random": {"name": "random"},
    "grid": {"name": "grid"},
}
LIMITS = {"gp": AT[-1], "nsga2": 200, "tpe_two_objectives": 200}  # evaluations; the whole space for all others
OWN_START = ("auto",)  # chooses its first candidates, too
BASELINES = ("local_search", "largest_first", "smallest_first")


@dataclass(frozen=True)
class Recorded:
    """A table as arrays over its candidates, in the order of the space."""

    space: SearchSpace
    candidates: tuple[Candidate, ...]
    losses: np.ndarray
    latencies: np.ndarray  # of the teacher's
    parameters: np.ndarray
    noise: float  # standard deviation of a loss between seeds
    latency_noise: float  # relative, between two measurements

    def rewards(self, alpha: float) -> np.ndarray:
        pairs = zip(self.losses, self.latencies, strict=True)
        return np.asarray([reward(loss, share, 1.0, alpha, BETA) for loss, share in pairs])


@dataclass(frozen=True)
class Replay:
    """One search on the table."""

    reached: int | None  # evaluations until a candidate within the goal; None where the limit came first
    regrets: tuple[float, ...]  # at each of the evaluations asked for, in achievable ranges
    best: tuple[float, ...]  # regret after each evaluation


def load(path: Path) -> Recorded:
    """Read a recorded table. Raises SystemExit with what to do where there is none."""
    facts_path = path.with_name(path.name.removesuffix(".csv.gz") + ".json")
    if not path.exists() or not facts_path.exists():
        raise SystemExit(f"There is no recorded table {path}; make one with `python -m benchmarks.record_table`.")
    space = SearchSpace.from_json(json.dumps(json.loads(facts_path.read_text())["space"]))
    with gzip.open(path, "rt", newline="") as file:
        rows = list(csv.DictReader(file))
    by_seed: dict[str, dict[str, dict[str, str]]] = {"0": {}, "1": {}}
    for row in rows:
        by_seed[row["seed"]][space.key(_candidate(space, row))] = row
    first, again = by_seed["0"], by_seed["1"]
    candidates = tuple(space.candidates())
    ordered = [first[space.key(c)] for c in candidates]
    losses = [(float(first[key]["loss"]), float(row["loss"])) for key, row in again.items()]
    shares = [(_share(first[key]), _share(row)) for key, row in again.items()]
    return Recorded(
        space,
        candidates,
        np.asarray([float(r["loss"]) for r in ordered]),
        np.asarray([_share(r) for r in ordered]),
        np.asarray([int(r["parameters"]) for r in ordered]),
        float(np.sqrt(np.mean([(a - b) ** 2 / 2 for a, b in losses]))),
        float(np.sqrt(np.mean([np.log(a / b) ** 2 / 2 for a, b in shares]))),
    )


def _candidate(space: SearchSpace, row: dict[str, str]) -> Candidate:
    return {d.name: next(c for c in d.choices if str(c) == row[d.name]) for d in space.dimensions}


def _share(row: dict[str, str]) -> float:
    return float(row["latency_ms"]) / float(row["teacher_latency_ms"])


# ---------------------------------------------------------------------------- one search


Evaluate = Callable[[Candidate], tuple[float, float, float]]
"""Loss, latency as a share of the teacher's, reward."""
Violations = Callable[[Candidate], Mapping[str, float]]
"""By how much a candidate misses each constraint, as samplers get it (`kdnas.study.constraints.Limits.scaled`)."""


def replay(
    name: str,
    recorded: Recorded,
    alpha: float,
    seed: int,
    workers: int = 1,
    *,
    at_once: int = 0,
    regrets_at: Sequence[int] = AT,
) -> Replay:
    """One search from `INITIAL` candidates of the seed: to the goal, and at least to the last of `regrets_at`. Of
    strategies of kdnas the first `at_once` candidates are begun before any ends."""
    rewards = recorded.rewards(alpha)
    best, scale = rewards.max(), rewards.max() - np.median(rewards)
    space = recorded.space
    evaluate = evaluate_from(recorded, rewards)
    order = seeds.generator(seed, seeds.Benchmark.SAMPLE).permutation(len(recorded.candidates))
    initial = [recorded.candidates[i] for i in order[:INITIAL]] if name not in OWN_START else []

    limit = LIMITS.get(name, space.size)
    regrets: list[float] = []
    reached = None
    for value in _search(name, recorded, evaluate, initial, seed, workers, at_once):
        regret = (best - value) / scale
        regrets.append(min(regret, regrets[-1]) if regrets else regret)
        if reached is None and regret <= GOAL:
            reached = len(regrets)
        # With the best of the table found, nothing can change any more.
        if (
            len(regrets) >= limit
            or regrets[-1] == 0
            or (reached is not None and len(regrets) >= max(regrets_at, default=0))
        ):
            break
    at = tuple(regrets[min(n, len(regrets)) - 1] for n in regrets_at)
    return Replay(reached, at, tuple(regrets[: AT[-1]]))


def evaluate_from(recorded: Recorded, rewards: np.ndarray) -> Evaluate:
    """What the table says of a candidate."""
    rows = {recorded.space.key(c): i for i, c in enumerate(recorded.candidates)}

    def evaluate(candidate: Candidate) -> tuple[float, float, float]:
        i = rows[recorded.space.key(candidate)]
        return float(recorded.losses[i]), float(recorded.latencies[i]), float(rewards[i])

    return evaluate


def _search(
    name: str,
    recorded: Recorded,
    evaluate: Evaluate,
    initial: Sequence[Candidate],
    seed: int,
    workers: int,
    at_once: int,
) -> Iterator[float]:
    """The rewards of one search, in the order of its evaluations."""
    if name == "local_search":
        return _local_search(recorded.space, evaluate, initial, seed)
    if name in BASELINES:
        sign = -1 if name == "largest_first" else 1
        order = np.argsort(sign * recorded.parameters, kind="stable")
        return (evaluate(recorded.candidates[i])[2] for i in order)
    spec = from_values(
        {"seed": seed, "strategy": STRATEGIES[name], "budget": {"trials": min(recorded.space.size, GP_TRIALS)}}
    )
    return strategy_loop(spec, recorded.space, evaluate, initial, workers=workers, at_once=at_once)


def strategy_loop(
    spec: StudySpec,
    space: SearchSpace,
    evaluate: Evaluate,
    initial: Sequence[Candidate],
    *,
    workers: int = 1,
    at_once: int = 0,
    violations: Violations | None = None,
    loan: Loan | None = None,
) -> Iterator[float]:
    """The loop of a worker on an in-memory storage: the initial candidates enqueued, then one slot after another. With
    several workers as many trials are in flight, and end in the order in which they began; of the first `at_once` none
    ends before all have begun."""
    import optuna

    from kdnas.strategies import SpaceExhausted, candidate, directions, sampler

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(directions=directions(spec))
    plans = Episodes(spec, space, initial, loan) if spec.strategy.name == "lstm" else None
    taken: set[str] = set()
    begun: deque[tuple[Any, int, Candidate]] = deque()

    def ended(trial: Any, slot: int, chosen: Candidate) -> float:
        loss, share, value = evaluate(chosen)
        for field, by in (violations(chosen) if violations is not None else {}).items():
            trial.set_constraint(field, by)
        study.tell(trial, [loss, share] if spec.two_objectives else value)
        if plans is not None:
            plans.rewarded(slot, chosen, value)
        return value

    for slot in range(space.size):
        while len(begun) >= (workers if slot >= at_once else at_once):
            yield ended(*begun.popleft())
        planned = initial[slot] if slot < len(initial) else None
        if plans is not None:
            while begun and plans.waits(slot):
                yield ended(*begun.popleft())
            try:
                planned = plans.candidate(slot)
            except SpaceExhausted:
                break
        study.sampler = sampler(spec, space, slot, taken, planned, loan=loan)
        trial = study.ask()
        chosen = candidate(trial, space)
        taken.add(space.key(chosen))
        begun.append((trial, slot, chosen))
    while begun:
        yield ended(*begun.popleft())


class Episodes:
    """What kdnas.search.episodes does with the store's rows, in memory: the same plans from the same arguments."""

    def __init__(
        self, spec: StudySpec, space: SearchSpace, enqueued: Sequence[Candidate], loan: Loan | None = None
    ) -> None:
        self.spec, self.space, self.loan = spec, space, loan
        self.planned = dict(enumerate(enqueued))
        self.history: list[Any] = []
        self.state: bytes | None = None

    def waits(self, slot: int) -> bool:
        """Whether the slot's episode is planned once every slot before it has ended, and not yet."""
        options: Any = self.spec.strategy
        return slot not in self.planned and slot % options.samples == 0

    def candidate(self, slot: int) -> Candidate:
        from kdnas.strategies import SpaceExhausted, lstm

        options: Any = self.spec.strategy
        if slot not in self.planned:
            episode = slot // options.samples
            bare = [s for s in range(slot, (episode + 1) * options.samples) if s not in self.planned]
            taken = {self.space.key(c) for c in self.planned.values()}
            before = (self.history, taken, self.state)
            plan = lstm.plan(options, self.space, self.spec.seed, episode, *before, len(bare), self.loan)
            self.state = plan.state
            self.planned.update(zip(bare, (choice.candidate for choice in plan.choices), strict=False))
        if slot not in self.planned:
            raise SpaceExhausted(self.space.size)
        return self.planned[slot]

    def rewarded(self, slot: int, chosen: Candidate, value: float) -> None:
        from kdnas.strategies import lstm

        options: Any = self.spec.strategy
        self.history.append(lstm.Rewarded(chosen, value, slot // options.samples))


def _local_search(space: SearchSpace, evaluate: Evaluate, initial: Sequence[Candidate], seed: int) -> Iterator[float]:
    """First improvement: from the best so far to any better neighbour; from a random candidate where there is none."""
    from kdnas.strategies.without_replacement import draw

    rng = seeds.generator(seed, seeds.Benchmark.NEIGHBOURS)
    seen: dict[str, float] = {}
    for candidate in initial:
        seen[space.key(candidate)] = evaluate(candidate)[2]
        yield seen[space.key(candidate)]
    here = max(initial, key=lambda c: seen[space.key(c)])
    while len(seen) < space.size:
        near = [c for c in space.neighbours(here) if space.key(c) not in seen]
        chosen = near[int(rng.integers(len(near)))] if near else draw(space, rng, seen)
        value = seen[space.key(chosen)] = evaluate(chosen)[2]
        yield value
        if not near or value > seen[space.key(here)]:
            here = chosen
