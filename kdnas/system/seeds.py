"""Where every random number comes from: a seed, what it is for, and which slot, episode or epoch.

Never from a process's age, so that a study taken up again draws what the uninterrupted one would have drawn.
Knows nothing of torch; a torch.Generator is seeded with `number(…)`.
"""

from __future__ import annotations

from enum import IntEnum

import numpy as np


class Purpose(IntEnum):
    """What random numbers under a study's seed are for. A changed number changes every study: only append."""

    PROPOSAL = 1  # by slot: what a strategy draws
    EPISODE = 2  # by episode: the LSTM controller's pool and its random candidates
    CONTROLLER = 3  # by episode: the LSTM controller's weights and training
    STUDENT = 4  # by repetition, the same for all candidates: the seed of a student and its training


class Student(IntEnum):
    """What random numbers under a student's seed are for."""

    WEIGHTS = 1  # fresh weights
    BATCHES = 2  # by epoch: the order of the rows
    NOISE = 3  # by epoch: dropout; by step: the tokens that a policy draws
    OFFSETS = 3  # by epoch: the first token that a step of hidden states scores


class Tuning(IntEnum):
    """What random numbers under the seed of an ordinary training are for."""

    BATCHES = 1  # by epoch: the order of the examples
    NOISE = 2  # by epoch: dropout


def generator_of(*path: int) -> np.random.Generator:
    """Of a path of whole numbers, for what no study's seed decides: the split of the data, for one."""
    return np.random.default_rng(np.random.SeedSequence(list(path)))


def generator(seed: int, purpose: IntEnum, index: int = 0) -> np.random.Generator:
    return np.random.default_rng(np.random.SeedSequence([seed, int(purpose), index]))


def latency_tokens() -> np.random.Generator:
    """Draws the token ids that latency is measured on: the same for all studies, so that their times compare."""
    return np.random.default_rng(np.random.SeedSequence([0, 4]))


def number(seed: int, purpose: IntEnum, index: int = 0) -> int:
    """One seed below 2³¹ for what takes only a number: torch, Optuna's own samplers."""
    return int(np.random.SeedSequence([seed, int(purpose), index]).generate_state(1, np.uint32)[0] >> 1)


def long_number(seed: int, purpose: IntEnum, index: int = 0) -> int:
    """One seed below 2⁶³. Students of hidden states have had their weights from it since the first study."""
    return int(np.random.SeedSequence([seed, int(purpose), index]).generate_state(1, np.uint64)[0] >> 1)
