"""The chunked loss against the plain sum, whoever learns and in whatever precision; and signals of any shape."""

from __future__ import annotations

import itertools
import warnings

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from kdnas.measuring import devices
from kdnas.training.losses.divergences import (
    Signal,
    between,
    bucket_log_probs,
    divergence,
    full_signal,
    hard_loss,
    head_loss,
    top_signal,
)
from kdnas.training.losses.hidden_states import Projections

N, WIDTH, VOCABULARY = 23, 6, 31


def drawn(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


HIDDEN, WEIGHT, BIAS = drawn(0, N, WIDTH), drawn(1, VOCABULARY, WIDTH), drawn(2, VOCABULARY)
LABELS = torch.randint(VOCABULARY, (N,), generator=torch.Generator().manual_seed(3))


def plain(hidden: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return F.cross_entropy(F.linear(hidden, weight, bias), LABELS, reduction="sum")


@pytest.mark.parametrize("bias", [None, BIAS])
@pytest.mark.parametrize("rows", [4, 23, 100, None])
def test_scored_without_learning_it_is_the_same_sum(bias: Tensor | None, rows: int | None) -> None:
    with torch.inference_mode():
        found = head_loss(HIDDEN, WEIGHT, hard_loss(LABELS), bias=bias, rows=rows)
    torch.testing.assert_close(found, plain(HIDDEN, WEIGHT, bias))


@pytest.mark.parametrize("learns", list(itertools.product([False, True], repeat=3)))
def test_whoever_learns_gets_the_plain_gradient_and_the_others_none(learns: tuple[bool, ...]) -> None:
    grads = []
    for loss in (lambda h, w, b: head_loss(h, w, hard_loss(LABELS), bias=b, rows=5), plain):
        parts = [t.clone().requires_grad_(wanted) for t, wanted in zip((HIDDEN, WEIGHT, BIAS), learns, strict=True)]
        value = loss(*parts)
        assert value.requires_grad is any(learns)
        if any(learns):
            (value * 0.5).backward()
        grads.append([value.detach(), *(part.grad for part in parts)])
    for ours, wanted in zip(*grads, strict=True):
        assert (ours is None) is (wanted is None)
        if ours is not None:
            torch.testing.assert_close(ours, wanted, rtol=1e-5, atol=1e-5)


def test_nothing_is_differentiated_for_a_bias_where_nobody_learns() -> None:
    asked: list[bool] = []

    def token_loss(logits: Tensor, place: slice) -> Tensor:
        asked.append(logits.requires_grad)
        return logits.logsumexp(-1)

    with torch.no_grad():
        head_loss(HIDDEN, WEIGHT, token_loss, bias=BIAS.clone().requires_grad_())
    head_loss(HIDDEN, WEIGHT, token_loss, bias=BIAS)  # none of them is a parameter
    assert asked == [False, False]


def test_on_a_cpu_chunks_are_of_128_rows() -> None:
    seen: list[tuple[int, int]] = []

    def token_loss(logits: Tensor, place: slice) -> Tensor:
        seen.append((place.start, place.stop))
        return logits.logsumexp(-1)

    head_loss(drawn(0, 300, 2), drawn(1, 5, 2), token_loss)
    assert seen == [(0, 128), (128, 256), (256, 300)]


def test_under_autocast_logits_are_of_its_precision_and_their_sum_is_of_the_full_one() -> None:
    seen: list[torch.dtype] = []

    def token_loss(logits: Tensor, place: slice) -> Tensor:
        seen.append(logits.dtype)
        return torch.ones(len(logits), dtype=torch.bfloat16)

    hidden = drawn(0, 2000, WIDTH)
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        total = head_loss(hidden, WEIGHT, token_loss, bias=BIAS, rows=1)
    assert set(seen) == {torch.bfloat16}
    assert total.dtype == torch.float32 and total == 2000  # bfloat16 would stand still at 256
    assert head_loss(hidden.to(torch.bfloat16), WEIGHT.to(torch.bfloat16), token_loss, rows=1) == 2000


def test_hard_loss_is_the_cross_entropy_of_the_rows_at_hand_in_full_precision() -> None:
    logits = drawn(4, 3, VOCABULARY).to(torch.bfloat16)
    found = hard_loss(LABELS)(logits, slice(5, 8))
    assert found.dtype == torch.float32
    wanted = -logits.float().log_softmax(-1)[torch.arange(3), LABELS[5:8]]
    torch.testing.assert_close(found, wanted)


def test_sequences_say_the_same_as_their_positions_one_by_one_and_warn_of_nothing() -> None:
    """[batch, length, vocabulary] and [batch · length, vocabulary] are two views of the same."""
    teacher, student = drawn(5, 2, 3, VOCABULARY), drawn(6, 2, 3, VOCABULARY)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for signal_of in (lambda z: full_signal(z, 2.0), lambda z: top_signal(z, 2.0, 4)):
            grads = []
            for shape in ((2, 3, VOCABULARY), (6, VOCABULARY)):
                z = student.reshape(shape).clone().requires_grad_()
                value = divergence(z, signal_of(teacher.reshape(shape)), "forward", temperature=2.0)
                assert value.shape == shape[:-1]
                (value.flatten() * torch.arange(6)).sum().backward()
                assert z.grad is not None
                grads.append((value.detach().flatten(), z.grad.flatten()))
            for one, other in zip(*grads, strict=True):
                torch.testing.assert_close(one, other)


def test_without_a_temperature_nothing_is_softened_and_the_mixing_weight_is_the_given_one() -> None:
    teacher, student = drawn(5, 3, VOCABULARY), drawn(6, 3, VOCABULARY)
    p, q = teacher.log_softmax(-1), student.log_softmax(-1)
    for beta in (0.2, 0.5, 0.9):
        found = divergence(student, full_signal(teacher, 1.0), "js", js_beta=beta)
        torch.testing.assert_close(found, between(p, q, "js", beta))
    torch.testing.assert_close(divergence(student, full_signal(teacher, 1.0), "js"), between(p, q, "js", 0.5))


def test_a_signal_kept_in_half_precision_is_compared_in_full() -> None:
    student = drawn(6, 3, VOCABULARY)
    for signal in (full_signal(drawn(5, 3, VOCABULARY), 2.0), top_signal(drawn(5, 3, VOCABULARY), 2.0, 4)):
        kept = Signal(signal.log_probs.to(torch.bfloat16), signal.indices)
        found = divergence(student, kept, "forward", temperature=2.0)
        wanted = divergence(student, Signal(kept.log_probs.float(), kept.indices), "forward", temperature=2.0)
        assert torch.equal(found, wanted)


def test_where_the_others_have_no_mass_at_all_nothing_pulls_at_them() -> None:
    z = torch.tensor([[200.0, 0.0, -3.0]], requires_grad=True)
    (bucket_log_probs(z, torch.tensor([[0]])) * torch.tensor([1.0, 100.0])).sum().backward()
    assert z.grad is not None and z.grad[0, 1:].tolist() == [0.0, 0.0] and z.grad.isfinite().all()


def test_a_fit_in_bfloat16_is_summed_up_in_full(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a GPU does, worked out on the CPU: products in bfloat16, loss and gradients of what they gave."""
    monkeypatch.setattr(devices, "autocasts", lambda device: True)
    ours = Projections(1, WIDTH, 10)
    with torch.no_grad():
        ours.weight.copy_(drawn(1, 1, WIDTH, 10))
        ours.bias.copy_(drawn(2, 1, 10))
    output = drawn(3, 50, 4, WIDTH).requires_grad_()
    first, second = (drawn(seed, 50, 4, 5).to(torch.bfloat16) for seed in (4, 5))
    loss = ours.loss([output], [first], [second])
    loss.backward()
    flat, narrow = output.detach().flatten(0, 1).to(torch.bfloat16), ours.weight[0].detach().to(torch.bfloat16)
    off = torch.addmm(ours.bias[0].detach().to(torch.bfloat16), flat, narrow)
    off -= torch.cat([first, second], -1).flatten(0, 1)
    assert loss.dtype == torch.float32 and ours.bias.grad is not None and output.grad is not None
    torch.testing.assert_close(loss.detach().double(), off.double().square().mean(), rtol=1e-5, atol=0)
    scale = 2 / off.numel()
    torch.testing.assert_close(ours.bias.grad[0].double(), off.double().sum(0) * scale, rtol=1e-4, atol=1e-7)
    wanted = (off.double() @ narrow.double().T * scale).view_as(output)
    torch.testing.assert_close(output.grad.double(), wanted, rtol=2e-2, atol=1e-4)
