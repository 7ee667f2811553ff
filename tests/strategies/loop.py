"""A search without models: the strategies in Optuna's loop over slots, on a made-up landscape of rewards."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import optuna
from optuna.storages import BaseStorage, InMemoryStorage, RDBStorage

from benchmarks.search_replay import Episodes
from kdnas.strategies import candidate, directions, sampler
from kdnas.study.forecast import Forecast
from kdnas.study.space import Candidate, Dimension, SearchSpace
from kdnas.study.spec import StudySpec, from_values

optuna.logging.set_verbosity(optuna.logging.WARNING)

SPACE = SearchSpace(
    (
        Dimension("num_hidden_layers", (1, 2, 3, 4, 5, 6)),
        Dimension("num_attention_heads", (2, 3, 4, 6, 12)),
        Dimension("intermediate_size", (128, 384, 768, 1536)),
        Dimension("hidden_act", ("gelu", "relu", "silu"), ordered=False),
    )
)
CONDITIONAL = SearchSpace(
    (
        Dimension("cell", ("lstm", "transformer"), ordered=False),
        Dimension("hidden_size", (32, 64, 96)),
        Dimension("heads", (1, 2, 4), when=("cell", ("transformer",))),
        Dimension("dropout", (0.1,)),
    )
)
STRATEGIES: dict[str, dict[str, object]] = {
    "tpe": {"name": "tpe"},
    "tpe-two": {"name": "tpe", "two_objectives": True},
    "gp": {"name": "gp"},
    "gp-two": {"name": "gp", "two_objectives": True},
    "surrogate": {"name": "surrogate"},
    "auto": {"name": "auto"},
    "auto-two": {"name": "auto", "two_objectives": True},
    "random": {"name": "random"},
    "grid": {"name": "grid"},
    "evolution": {"name": "evolution", "population": 8},
    "nsga2": {"name": "nsga2", "population": 8},
    "blocks": {"name": "blocks"},
    "blocks-two": {"name": "blocks", "two_objectives": True},
    "lstm": {"name": "lstm", "pool": 80},
    "lstm-paper": {"name": "lstm", "controller": "paper", "samples": 8},
}


def spec(strategy: str, *, seed: int = 3, trials: int = 60) -> StudySpec:
    return from_values({"name": strategy, "seed": seed, "strategy": STRATEGIES[strategy], "budget": {"trials": trials}})


def measured(space: SearchSpace, chosen: Candidate) -> tuple[float, float]:
    """Loss and latency (ms) of a candidate: smooth in its sizes, with a ripple that is its own."""
    x = space.encode(chosen) / [max(n - 1, 1) for n in space.shape]
    ripple = (space.ordinal(chosen) * 7919 % 101) / 101
    return float(0.9 - 0.5 * x.mean() + 0.15 * (x[0] - 0.6) ** 2 + 0.05 * ripple), float(1 + 6 * x[0] + 2 * x.sum())


def predicted(space: SearchSpace) -> Forecast:
    """What a library might say of the same landscape: near it, and on a scale of its own for each depth."""
    candidates = list(space.candidates())
    groups = tuple(str(c.get("num_hidden_layers", "")) for c in candidates)
    truth = np.array([measured(space, c) for c in candidates])
    bent = np.array([1 + 0.1 * space.encode(c)[0] + space.ordinal(c) * 31 % 17 / 200 for c in candidates])
    return Forecast.of(tuple(map(space.key, candidates)), groups, truth[:, 0] * bent / 2, truth[:, 1] / 15)


@dataclass
class Search:
    """A study's slots, filled one by one. Episodes are planned in memory here; test_episodes has the store."""

    spec: StudySpec
    space: SearchSpace = field(default_factory=lambda: SPACE)
    storage: Callable[[], BaseStorage] = InMemoryStorage
    lost: frozenset[int] = frozenset()  # slots whose first attempt dies
    done: list[Candidate] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.episodes = Episodes(self.spec, self.space, ()) if self.spec.strategy.name == "lstm" else None

    def forecast(self) -> Forecast | None:
        """For a strategy that asks for one, corrected by what is done."""
        if not self.spec.strategy.predicts():
            return None
        results = {self.space.key(c): measured(self.space, c) for c in self.done}
        return predicted(self.space).corrected({k: (loss, ms / 12) for k, (loss, ms) in results.items()}, -0.1, 1.0)

    def run(self, slots: Iterable[int], storage: BaseStorage | None = None) -> list[Candidate]:
        storage = storage or self.storage()
        study = optuna.create_study(
            storage=storage, study_name=self.spec.name, directions=directions(self.spec), load_if_exists=True
        )
        for slot in slots:
            for attempt in range(2 if slot in self.lost else 1):
                taken = frozenset(self.space.key(c) for c in self.done)
                planned = None if self.episodes is None else self.episodes.candidate(slot)
                study.sampler = sampler(self.spec, self.space, slot, taken, planned, self.forecast())
                lost = attempt == 0 and slot in self.lost

                def objective(trial: optuna.Trial, lost: bool = lost, slot: int = slot) -> float | tuple[float, float]:
                    chosen = candidate(trial, self.space)
                    if lost:
                        raise KeyboardInterrupt
                    self.done.append(chosen)
                    loss, latency = measured(self.space, chosen)
                    reward = (1 - loss) * latency**-0.1
                    if self.episodes is not None:
                        self.episodes.rewarded(slot, chosen, reward)
                    return (loss, latency) if self.spec.two_objectives else reward

                study.optimize(objective, n_trials=1, catch=(KeyboardInterrupt,))  # type: ignore[arg-type]
        return self.done


def on_file(path: Path) -> BaseStorage:
    """A storage object of its own on the file, whose tables only the first one makes."""
    there = path.exists()
    return RDBStorage(
        f"sqlite:///{path}",
        engine_kwargs={"connect_args": {"timeout": 60}},
        skip_compatibility_check=there,
        skip_table_creation=there,
    )
