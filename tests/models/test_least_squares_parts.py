"""The arithmetic of the least-squares initialisation on drawn numbers, each part against its definition in float64."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from transformers import BertConfig, BertModel

from kdnas.models.encoders import FAMILIES
from kdnas.models.least_squares_init import (
    RIDGE,
    TOKENS,
    Moments,
    _Sums,
    explaining,
    moments,
    predicted,
    reading,
    sample,
)


def drawn(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def mixed(seed: int, count: int, size: int) -> Tensor:
    """Rows [count, size] that vary together and do not lie around zero."""
    return drawn(seed, count, size) @ drawn(seed + 1, size, size) + 2 * drawn(seed + 2, size)


def ridged(x: Tensor, y: Tensor, share: float) -> tuple[Tensor, Tensor]:
    """By QR of the stacked system: no moments and no normal equations."""
    strength = share * float(x.var(0, correction=0).mean())
    stacked = torch.cat([x - x.mean(0), (len(x) * strength) ** 0.5 * torch.eye(x.shape[1], dtype=x.dtype)])
    wanted = torch.cat([y - y.mean(0), torch.zeros(x.shape[1], y.shape[1], dtype=y.dtype)])
    weight = torch.linalg.lstsq(stacked, wanted, driver="gelsd").solution.t()
    return weight, y.mean(0) - weight @ x.mean(0)


def test_moments_of_several_batches_are_those_of_all_rows() -> None:
    rows = mixed(0, 100, 5)
    sums = _Sums()
    for batch in rows.split([1, 60, 39]):
        sums.add(batch.float())
    assert sums.count == 100 and sums.mean().dtype == sums.covariance().dtype == torch.float64
    torch.testing.assert_close(sums.mean(), rows.mean(0), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(sums.covariance(), rows.T.cov(correction=0), rtol=1e-4, atol=1e-4)


def test_sums_of_half_precision_are_added_up_in_full() -> None:
    """In bfloat16 a sum of thousands would stand still after 256; in float32 it would lose the digits of the last."""
    sums = _Sums()
    sums.add(torch.full((5000, 2), 1.0, dtype=torch.bfloat16))
    assert sums.mean().tolist() == [1.0, 1.0] and sums.covariance().abs().max() == 0
    sums = _Sums()
    sums.add(torch.full((1, 1), 2.0**24))
    for _ in range(3):
        sums.add(torch.ones(1, 1))
    assert float(sums.first) == 2.0**24 + 3 and float(sums.second) == 2.0**48 + 3


def test_a_prediction_leaves_the_moments_alone_and_takes_any_order_of_what_is_kept() -> None:
    x = mixed(8, 400, 5)
    covariance, mean = x.T.cov(correction=0), x.mean(0)
    before = covariance.clone(), mean.clone()
    for kept in ([0, 3, 4], [4, 0, 3], [2]):
        given, offset = predicted(covariance, mean, torch.tensor(kept))
        left = [i for i in range(5) if i not in kept]
        weight, bias = ridged(x[:, kept], x[:, left], RIDGE)
        torch.testing.assert_close(given[left], weight, rtol=1e-8, atol=1e-10)
        torch.testing.assert_close(offset[left], bias, rtol=1e-8, atol=1e-10)
        assert torch.equal(given[kept], torch.eye(len(kept), dtype=given.dtype))  # what is kept is itself
        torch.testing.assert_close(offset[kept], torch.zeros(len(kept), dtype=offset.dtype), rtol=0, atol=1e-12)
    assert torch.equal(covariance, before[0]) and torch.equal(mean, before[1])
    given, offset = predicted(covariance.float(), mean.float(), torch.tensor([0, 3]))
    assert given.dtype == offset.dtype == torch.float64 and given.is_contiguous()


def test_a_layer_that_reads_the_kept_gives_what_it_gave_of_the_prediction() -> None:
    weight, bias = drawn(9, 3, 5).float(), drawn(10, 3).to(torch.bfloat16)
    given, offset, kept = drawn(11, 5, 2), drawn(12, 5), drawn(13, 7, 2)
    read, shifted = reading(weight, bias, given, offset)
    assert (read.dtype, shifted.dtype) == (torch.float32, torch.bfloat16)  # as they were
    wanted = (kept @ given.T + offset) @ weight.double().T + bias.double()
    torch.testing.assert_close(kept @ read.double().T + shifted.double(), wanted, rtol=1e-2, atol=5e-2)
    assert torch.equal(shifted, (weight.double() @ offset + bias.double()).to(torch.bfloat16))
    torch.testing.assert_close(read.double(), weight.double() @ given, rtol=1e-6, atol=1e-6)


def by_definition(covariance: Tensor, outgoing: Tensor) -> list[int]:
    """Greedily: which input, beside those taken, tells most of the outputs that those do not tell."""
    taken: list[int] = []
    for _ in range(len(covariance)):
        left = covariance.clone()
        if taken:
            own = covariance[taken][:, taken]
            left = covariance - covariance[:, taken] @ torch.linalg.solve(own, covariance[taken])
        told = (left @ outgoing.T).square().sum(1) / left.diagonal().clamp_min(1e-9)
        told[taken] = -1
        taken.append(int(told.argmax()))
    return taken


@pytest.mark.parametrize("seed", range(6))
def test_the_order_is_that_of_what_each_input_tells_beside_the_earlier_ones(seed: int) -> None:
    size = 7
    covariance = mixed(20 + seed, 300, size).T.cov(correction=0)
    outgoing = drawn(40 + seed, 3, size)
    found = explaining(covariance, outgoing)
    assert found.dtype == torch.int64
    # The outputs are three: after as many inputs, with others left over, what is told is rounding.
    assert found.tolist()[:3] == by_definition(covariance, outgoing)[:3]
    assert sorted(found.tolist()) == list(range(size))
    many = explaining(covariance, drawn(60 + seed, 12, size))
    assert many.tolist() == by_definition(covariance, drawn(60 + seed, 12, size))


def test_an_input_that_never_varies_comes_last_and_disturbs_no_other() -> None:
    covariance = mixed(20, 300, 5).T.cov(correction=0)
    covariance[2], covariance[:, 2] = 0.0, 0.0
    found = explaining(covariance, drawn(1, 8, 5)).tolist()
    others = [0, 1, 3, 4]
    alone = by_definition(covariance[others][:, others], drawn(1, 8, 5)[:, others])
    assert found == [*(others[place] for place in alone), 2]


def test_rounding_of_what_is_told_already_is_not_taken_for_news() -> None:
    """A copy of an input varies by rounding alone once the input is taken, however much its weight is."""
    base = drawn(2, 500, 3)
    x = torch.cat([base, base[:, :1] * (1 + 1e-7)], dim=1)
    found = explaining(x.T.cov(correction=0), torch.diag(torch.tensor([3.0, 0.2, 0.1, 3.0], dtype=torch.float64)))
    assert sorted(found[[0, 3]].tolist()) == [0, 3] and found[1:3].tolist() == [1, 2]


def test_a_sample_is_the_first_chunks_up_to_the_tokens_that_are_looked_at() -> None:
    ids = torch.arange(400 * 128).view(400, 128)
    assert torch.equal(sample(ids), ids[: TOKENS // 128])
    assert torch.equal(sample(ids[:5]), ids[:5])
    assert torch.equal(sample(ids.view(2, -1)), ids.view(2, -1)[:1])  # one longer than all that is looked at


def test_moments_are_written_down_by_their_names() -> None:
    parts = {name: torch.zeros(1) for name in ("hidden", "context", "read", "mean_hidden", "mean_context", "mean_read")}
    found = Moments(**parts, order=torch.zeros(1, dtype=torch.int64)).tensors()
    assert set(found) == {*parts, "order"} and found["hidden"] is parts["hidden"]


@pytest.mark.parametrize("scale", [1e-8, 1e-4, 1e4, 1e8])
def test_the_order_is_the_same_whatever_the_unit_of_the_inputs(scale: float) -> None:
    covariance, outgoing = mixed(20, 300, 7).T.cov(correction=0), drawn(60, 12, 7)
    assert explaining(covariance * scale, outgoing).tolist() == explaining(covariance, outgoing).tolist()


def test_moments_are_measured_so_many_chunks_at_a_time_and_the_hidden_states_are_heard() -> None:
    sizes = {"hidden_size": 8, "num_attention_heads": 2, "intermediate_size": 16, "num_hidden_layers": 2}
    body = BertModel(BertConfig(vocab_size=40, **sizes)).eval()
    ids = torch.randint(5, 40, (9, 6), generator=torch.Generator().manual_seed(1))
    heard: list[tuple[Tensor, ...]] = []
    entered: list[Tensor] = []
    found = moments(body, FAMILIES["bert"], ids, 4, {"encoder.layer.1": entered.append}, heard.append)
    assert [[tuple(state.shape) for state in states] for states in heard] == [[(n, 6, 8)] * 3 for n in (4, 4, 1)]
    assert [tuple(rows.shape) for rows in entered] == [(24, 8), (24, 8), (6, 8)]
    assert torch.equal(entered[0], heard[0][1].flatten(0, 1))
    rows = torch.cat([states[0].flatten(0, 1) for states in heard]).double()
    torch.testing.assert_close(found.mean_hidden[0].double(), rows.mean(0), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found.hidden[0].double(), rows.T.cov(correction=0), rtol=1e-4, atol=1e-5)
