"""Where every random number comes from: a seed, what it is for, and which slot, episode or epoch.

Never from a process's age, so that a study taken up again draws what the uninterrupted one would have drawn.
Knows nothing of torch; a torch.Generator is seeded with `number(…)`.
"""

from __future__ import annotations

from enum import IntEnum

import numpy as np

_SPLIT = 20_231  # begins the path of every random number that a split takes


class Purpose(IntEnum):
    """What random numbers under a study's seed are for. A changed number changes every study: only append."""

    PROPOSAL = 1  # by slot: what a strategy draws
    EPISODE = 2  # by episode: the LSTM controller's pool and its random candidates
    CONTROLLER = 3  # by episode: the LSTM controller's weights and training
    STUDENT = 4  # by repetition, the same for all candidates: the seed of a student and its training
    LOAN = 5  # by episode: candidates that a warm start looks at before the LSTM controller plans


class Split(IntEnum):
    """What random numbers are for that divide and order data: the same in every study, so that studies share caches and
    held-out parts."""

    GROUPS = 0  # documents or groups, as they are drawn
    CHUNKS = 1  # the order of chunks
    DOCUMENTS = 2  # the order of documents
    HEAD = 3  # of the perplexity: the batches of a head
    MASKS = 4  # of the perplexity: which tokens are masked
    ORDER = 6  # of labelled examples
    SIDES = 7  # which labelled examples are held out
    RETRIEVAL = 8  # the order in which queries are drawn


class Fixed(IntEnum):
    """What random numbers are for that are the same in every study and on every machine."""

    ESTIMATE = 0  # candidates whose arithmetic tells a rough time
    LATENCY_TOKENS = 4  # the token ids that a study's latency is measured on, so that times compare
    FOLDER_TOKENS = 5  # those that a model folder's is measured on
    EXPORT_TOKENS = 6  # by shape: the token ids that an exported file is compared on
    POOLER = 7  # the pooler of a student whose teacher has none
    TOKEN_HEAD = 8  # the weights of the head that a perplexity needs
    FOREST = 9  # the trees that weigh a study's dimensions
    WORD_VECTORS = 10  # how word vectors begin
    KERNELS = 11  # settings of a surrogate's kernel
    GAINS = 12  # draws that tell what further trials would gain


class Benchmark(IntEnum):
    """What random numbers under a benchmark's seed are for."""

    SAMPLE = 0  # candidates, rows and texts that are drawn, figures that are made up
    NEIGHBOURS = 1  # the steps of a local search
    DEATHS = 2  # when a worker is killed
    SPREAD = 7  # candidates that use all choices evenly
    ORDERS = 8  # in which pruners see the candidates


class Student(IntEnum):
    """What random numbers under a student's seed are for."""

    WEIGHTS = 1  # fresh weights
    BATCHES = 2  # by epoch: the order of the rows
    NOISE = 3  # by epoch: dropout; by step: the tokens that a policy draws
    OFFSETS = 3  # by epoch: the first token that a step of hidden states scores
    OWN_STEPS = 4  # by epoch: which steps learn on text that the student writes
    OWN_TEXT = 5  # by step: the tokens that it draws for them


class Tuning(IntEnum):
    """What random numbers under the seed of an ordinary training are for."""

    BATCHES = 1  # by epoch: the order of the examples
    NOISE = 2  # by epoch: dropout


def generator(seed: int, purpose: IntEnum, index: int = 0) -> np.random.Generator:
    return np.random.default_rng(np.random.SeedSequence([seed, int(purpose), index]))


def split(purpose: Split) -> np.random.Generator:
    return np.random.default_rng(np.random.SeedSequence([_SPLIT, int(purpose)]))


def fixed(purpose: Fixed) -> np.random.Generator:
    return np.random.default_rng(np.random.SeedSequence([0, int(purpose)]))


def fixed_number(purpose: Fixed, index: int = 0) -> int:
    """One seed below 2³¹ for what takes only a number."""
    return _OLDER.get(purpose, number(0, purpose, index))


def number(seed: int, purpose: IntEnum, index: int = 0) -> int:
    """One seed below 2³¹ for what takes only a number: torch, Optuna's own samplers."""
    return int(np.random.SeedSequence([seed, int(purpose), index]).generate_state(1, np.uint32)[0] >> 1)


def long_number(seed: int, purpose: IntEnum, index: int = 0) -> int:
    """One seed below 2⁶³. Students of hidden states have had their weights from it since the first study."""
    return int(np.random.SeedSequence([seed, int(purpose), index]).generate_state(1, np.uint64)[0] >> 1)


# Seeds of what was drawn before it had a purpose: other ones would change students and scores that exist.
_OLDER = {Fixed.POOLER: 0, Fixed.TOKEN_HEAD: _SPLIT, Fixed.FOREST: 0, Fixed.WORD_VECTORS: 1}
