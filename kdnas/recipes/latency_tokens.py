"""The token ids that students and teachers are timed on: drawn once from the training text, the same in every study.

Times nothing itself.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from kdnas.study.spec_latency import LatencySpec
from kdnas.system import seeds
from kdnas.system.errors import UsageError

EXAMPLES = 256  # texts that ids are drawn from


def drawn(pool: np.ndarray, settings: LatencySpec) -> np.ndarray:
    """int64 [batch, length] of the ids `pool` [n]."""
    return seeds.fixed(seeds.Fixed.LATENCY_TOKENS).choice(pool, size=(settings.batch_size, settings.length))


def of_texts(texts: Sequence[np.ndarray], settings: LatencySpec, source: str) -> np.ndarray:
    """Drawn from what stands between the first and the last token of each text, which most tokenizers add; of texts
    that are no longer than that, from all of it. Raises UsageError for texts without a token."""
    within = np.concatenate([ids[1:-1] for ids in texts[:EXAMPLES]])
    pool = within if len(within) else np.concatenate(list(texts[:EXAMPLES]))
    if not len(pool):
        raise UsageError(f"The texts of {source!r} give no tokens.", "Give texts with words in them.")
    return drawn(pool, settings)
