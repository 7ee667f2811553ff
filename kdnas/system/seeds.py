"""Where every random number comes from: the study's seed, what it is for, and which slot, episode or epoch.

Never from a process's age, so that a study taken up again draws what the uninterrupted one would have drawn.
Knows nothing of torch; a torch.Generator is seeded with `number(…)`.
"""

from __future__ import annotations

from enum import IntEnum

import numpy as np


class Purpose(IntEnum):
    """What random numbers are for. Written into no file, but a changed number changes every study: only append."""

    PROPOSAL = 1  # by slot: what a strategy draws
    EPISODE = 2  # by episode: the LSTM controller's pool and its random candidates
    CONTROLLER = 3  # by episode: the LSTM controller's weights and training
    STUDENT = 4  # by repetition, the same for all candidates: fresh weights, batches and dropout
    SPLIT = 5  # which part of the data is held out, which is the proxy set
    TOKENS = 6  # the fixed token ids of the latency protocol


def generator_of(*path: int) -> np.random.Generator:
    """Of a path of whole numbers, for what no study's seed decides: the split of the data, for one."""
    return np.random.default_rng(np.random.SeedSequence(list(path)))


def generator(seed: int, purpose: Purpose, index: int) -> np.random.Generator:
    return np.random.default_rng(np.random.SeedSequence([seed, int(purpose), index]))


def latency_tokens() -> np.random.Generator:
    """Draws the token ids that latency is measured on: the same for all studies, so that their times compare."""
    return np.random.default_rng(np.random.SeedSequence([0, 4]))


def number(seed: int, purpose: Purpose, index: int) -> int:
    """One seed below 2³¹ for what takes only a number: torch, Optuna's own samplers."""
    return int(np.random.SeedSequence([seed, int(purpose), index]).generate_state(1, np.uint32)[0] >> 1)
