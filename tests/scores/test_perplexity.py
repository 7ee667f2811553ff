"""Which tokens a masked-language perplexity asks for."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from kdnas.scores.perplexity import PerplexityProtocol, _masked

MASK, SPECIAL = 4, torch.tensor([0, 1, 2, 3, 4])


@pytest.mark.parametrize("share", [0.15, 0.5])
def test_the_stated_share_of_tokens_is_masked_and_no_special_one(share: float) -> None:
    rows = np.random.default_rng(0).integers(5, 100, (200, 128))
    rows[:, 0], rows[:, -1] = 1, 2
    ids, hidden, wanted = _masked(rows, SPECIAL, MASK, np.random.default_rng(1), PerplexityProtocol(masked=share))
    inner = hidden[:, 1:-1]
    assert not hidden[:, 0].any() and not hidden[:, -1].any()
    # 25,200 draws: a standard deviation of at most 0.0032.
    assert abs(float(inner.double().mean()) - share) < 0.015
    assert (ids[hidden] == MASK).all() and torch.equal(ids[~hidden], torch.from_numpy(rows)[~hidden])
    assert torch.equal(wanted, torch.from_numpy(rows)[hidden])
