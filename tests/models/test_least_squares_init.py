"""What is kept of a teacher takes over what was cut: held against least squares in float64, worked out here anew."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModel

from kdnas.models import encoder_cut, encoders, least_squares_init
from kdnas.models.encoder_cut import EncoderCut
from kdnas.models.encoders import Family, Sizes
from kdnas.models.kept_results import KeptResults
from kdnas.models.layer_choice import spread
from kdnas.models.least_squares_init import (
    RIDGE,
    Moments,
    explaining,
    moments,
    predicted,
    taken_over,
)
from kdnas.models.solved_blocks import HOLD, Listen, ends_of, solve_blocks
from tests.encoders import FAMILIES, tiny_encoder

IDS = torch.randint(5, 60, (24, 16), generator=torch.Generator().manual_seed(1))
CUT = Sizes(layers=2, width=24, heads=3, inner=40, act="gelu")
LAYERED = [name for name in FAMILIES if name != "albert"]


def rows(count: int = 4000, seed: int = 0) -> Tensor:
    """Three loud inputs, the second nearly the first's double, and one that is their sum."""
    drawn = torch.randn(count, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    one, noise, three = drawn.unbind(1)
    two = 2 * one + 0.01 * noise
    return torch.stack([one, two, three, one + three], dim=1) + 0.5


def opened(place: Path, family: str) -> tuple[Any, Family]:
    body = AutoModel.from_pretrained(tiny_encoder(place, family), dtype=torch.float32).eval()
    with torch.no_grad():  # norms begin as ones and zeros, which any other norm would hit
        for name, parameter in body.named_parameters():
            if "norm" in name.lower():
                parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(len(name))) * 0.1)
    return body, encoders.FAMILIES[family]


def inputs(body: Any, *names: str) -> list[Tensor]:
    """What enters the named modules on IDS, float64 [tokens, size]; calls of a shared layer after one another."""
    found: dict[str, list[Tensor]] = {name: [] for name in names}
    hooks = [
        body.get_submodule(name).register_forward_pre_hook(
            lambda _module, given, name=name: found[name].append(given[0].detach().double().flatten(0, -2))
        )
        for name in names
    ]
    with torch.no_grad():
        body(input_ids=IDS)
    for hook in hooks:
        hook.remove()
    return [torch.cat(found[name]) for name in names]


def ridged(x: Tensor, y: Tensor, share: float) -> tuple[Tensor, Tensor]:
    """Weight and bias that give y from x with the least mean squared error, plus `share` of x's mean variance times the
    squared weights: by QR of the stacked system, without moments or normal equations."""
    count, size = x.shape
    strength = share * float(x.var(0, correction=0).mean())
    stacked = torch.cat([x - x.mean(0), (count * strength) ** 0.5 * torch.eye(size, dtype=x.dtype)])
    wanted = torch.cat([y - y.mean(0), torch.zeros(size, y.shape[1], dtype=y.dtype)])
    weight = torch.linalg.lstsq(stacked, wanted, driver="gelsd").solution.t()
    return weight, y.mean(0) - weight @ x.mean(0)


def assert_alike(found: Tensor, wanted: Tensor, before: Tensor) -> None:
    """The change from `before` is as wanted, to a hundredth of its size: moments are sums of float32."""
    change = (wanted - before).norm()
    assert change > 0.02 * before.norm()  # else nothing would be shown
    assert (found.double() - wanted).norm() < 1e-2 * change


# ---------------------------------------------------------------- moments and predictions


@pytest.mark.parametrize("family", FAMILIES)
def test_moments_are_those_of_what_really_enters_each_layer(family: str, tmp_path: Path) -> None:
    body, own = opened(tmp_path, family)
    found = moments(body, own, IDS)
    for layer in range(1 if own.shared_layers else 4):
        prefix = own.layer_prefix(layer)
        for part, name in (("hidden", own.query), ("context", own.out), ("read", own.up)):
            (x,) = inputs(body, prefix + name)
            torch.testing.assert_close(getattr(found, f"mean_{part}")[layer].double(), x.mean(0), rtol=1e-4, atol=1e-5)
            covariance = x.T.cov(correction=0)
            torch.testing.assert_close(getattr(found, part)[layer].double(), covariance, rtol=1e-4, atol=1e-5)
        assert sorted(found.order[layer].tolist()) == list(range(64))


def test_what_was_cut_is_predicted_from_what_was_kept_as_least_squares_would() -> None:
    x = rows()
    kept = torch.tensor([1, 2])
    given, offset = predicted(x.T.cov(correction=0), x.mean(0), kept)
    guess = x[:, kept] @ given.T + offset
    torch.testing.assert_close(guess[:, kept], x[:, kept])  # itself, to the last digit that matters
    assert (guess - x).square().mean(0).max() < 1e-2 * x.var(0).min()
    weight, bias = ridged(x[:, kept], x[:, [0, 3]], RIDGE)
    torch.testing.assert_close(given[[0, 3]], weight, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(offset[[0, 3]], bias, rtol=1e-9, atol=1e-12)


def test_a_direction_that_hardly_varies_is_not_trusted() -> None:
    """Without the ridge, or with its sign turned, the noise would be blown up."""
    noise = torch.randn(300, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x = torch.cat([noise[:, :1], 1e-4 * noise[:, 1:], noise[:, :1] + noise[:, 1:]], dim=1)
    given, _ = predicted(x.T.cov(correction=0), x.mean(0), torch.tensor([0, 1]))
    assert given[2, 1].abs() < 1 and 0.9 < given[2, 0] < 1.1


def test_an_input_that_says_nothing_new_comes_last_however_loud() -> None:
    x = rows()
    outgoing = torch.tensor([[1.0, 1.0, 1.0, 0.0]], dtype=torch.float64)
    order = explaining(x.T.cov(), outgoing)
    assert sorted(order.tolist()) == [0, 1, 2, 3]
    # Of input 1 and 0 one is enough, and 3 is a mixture: what remains after the first is the third's.
    assert order[0] in (1, 3)
    first_two = order[:2]
    given, offset = predicted(x.T.cov(), x.mean(0), first_two)
    guess = (x[:, first_two] @ given.T + offset) @ outgoing.T
    wanted = x @ outgoing.T
    assert (guess - wanted).square().mean() < 1e-2 * wanted.var()


def test_the_order_is_the_loudest_first_where_nothing_varies_together() -> None:
    covariance = torch.diag(torch.tensor([1.0, 9.0, 4.0, 0.0]))
    assert explaining(covariance, torch.ones(1, 4)).tolist() == [1, 2, 0, 3]
    assert explaining(covariance, torch.tensor([[5.0, 1.0, 1.0, 1.0]])).tolist()[0] == 0  # by what its output carries


# ---------------------------------------------------------------- weights taken over


def cut_of(body: Any, own: Family, sizes: Sizes) -> EncoderCut:
    sources = spread(sizes.layers, own.sizes(body.config).layers)
    return EncoderCut(own, body.config, sizes, encoder_cut.importance(body, own, IDS), sources)


def buffers(body: Any) -> dict[str, Tensor]:
    return {name: buffer for name, buffer in body.named_buffers() if name not in body.state_dict()}


def built(body: Any, cut: EncoderCut, weights: dict[str, Tensor]) -> Any:
    values = encoders.config_values(cut.family, body.config, cut.sizes)
    return encoders.inherit(values, weights, buffers(body)).eval()


@pytest.mark.parametrize("family", FAMILIES)
def test_where_nothing_is_cut_the_fitted_student_is_the_teacher(family: str, tmp_path: Path) -> None:
    body, own = opened(tmp_path, family)
    cut = cut_of(body, own, own.sizes(body.config))
    student = built(body, cut, taken_over(body.state_dict(), cut, moments(body, own, IDS)))
    before = copy.deepcopy(student.state_dict())
    given: dict[int, list[Tensor]] = {}
    solve(student, body, cut, lambda layer, rows, states: given.setdefault(layer, []).append(states))
    assert all(torch.equal(tensor, before[name]) for name, tensor in student.state_dict().items())
    with torch.no_grad():
        wanted = body(input_ids=IDS, output_hidden_states=True).hidden_states[1:]
    assert len(given) == len(wanted) == 4
    for layer, states in enumerate(wanted):
        torch.testing.assert_close(torch.cat(given[layer]), states, rtol=1e-4, atol=1e-5)


def kept_parts(cut: EncoderCut, found: Moments) -> list[encoder_cut.KeptParts]:
    """Of each layer; the neurons are the first of the moments' order."""
    made = []
    for parts in cut.layers():
        order = found.order[0 if cut.family.shared_layers else parts.source]
        neurons = order[: cut.sizes.inner].sort().values
        made.append(encoder_cut.KeptParts(parts.index, parts.source, parts.logits, parts.context, neurons))
    return made


@pytest.mark.parametrize("family", FAMILIES)
def test_what_reads_the_cut_inputs_reads_their_least_squares_prediction(family: str, tmp_path: Path) -> None:
    body, own = opened(tmp_path, family)
    cut, found = cut_of(body, own, CUT), moments(body, own, IDS)
    weights = body.state_dict()
    made = taken_over(weights, cut, found)
    sharpen = (8 / 8) ** 0.5  # heads of the same size
    for parts in kept_parts(cut, found):
        prefix, target = own.layer_prefix(parts.source), own.layer_prefix(parts.index)
        for name, outputs, kept, scale in (
            (own.query, parts.logits, cut.width, sharpen),
            (own.key, parts.logits, cut.width, 1.0),
            (own.value, parts.context, cut.width, 1.0),
            (own.out, cut.width, parts.context, 1.0),
            (own.up, parts.neurons, cut.width, 1.0),
        ):
            (x,) = inputs(body, prefix + name)
            left = torch.tensor([i for i in range(x.shape[1]) if i not in set(kept.tolist())])
            guess, offset = ridged(x[:, kept], x[:, left], RIDGE)
            weight = scale * weights[f"{prefix}{name}.weight"].double()[outputs]
            bias = scale * weights[f"{prefix}{name}.bias"].double()[outputs]
            wanted = weight[:, kept] + weight[:, left] @ guess
            assert_alike(made[f"{target}{name}.weight"], wanted, weight[:, kept])
            shifted = bias + weight[:, left] @ offset
            assert_alike(made[f"{target}{name}.bias"], shifted, bias)


def test_queries_of_narrower_heads_are_softened_together_with_what_they_take_over(tmp_path: Path) -> None:
    body, own = opened(tmp_path, "bert")
    cut, found = cut_of(body, own, Sizes(layers=2, width=24, heads=12, inner=40, act="gelu")), moments(body, own, IDS)
    weights = body.state_dict()
    made = taken_over(weights, cut, found)
    for parts in kept_parts(cut, found):
        given, offset = predicted(found.hidden[parts.source], found.mean_hidden[parts.source], cut.width)
        for name, factor in ((own.query, 0.5), (own.key, 1.0)):  # heads of 2 for heads of 8
            prefix, target = own.layer_prefix(parts.source) + name, own.layer_prefix(parts.index) + name
            weight, bias = (weights[f"{prefix}.{leaf}"].double()[parts.logits] for leaf in ("weight", "bias"))
            torch.testing.assert_close(made[f"{target}.weight"].double(), factor * weight @ given, rtol=1e-4, atol=1e-6)
            shifted = factor * (weight @ offset + bias)
            torch.testing.assert_close(made[f"{target}.bias"].double(), shifted, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("family", ["bert", "albert"])
def test_predictions_kept_from_one_student_to_the_next_change_no_weight(
    family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Students of other widths and depths, one after the other, and the first once more: which is then solved anew?"""
    body, own = opened(tmp_path, family)
    found, weights = moments(body, own, IDS), body.state_dict()
    solved: list[int] = []
    monkeypatch.setattr(
        least_squares_init,
        "predicted",
        lambda moment, mean, kept: solved.append(len(kept)) or predicted(moment, mean, kept),
    )
    shapes = [CUT, Sizes(2, 16, 2, 40, "gelu"), Sizes(3, 24, 3, 40, "gelu"), CUT]
    known: KeptResults[Any] = KeptResults(1 << 20)
    counts = []
    for sizes in shapes:
        cut = cut_of(body, own, sizes)
        alone = taken_over(weights, cut, found)
        solved.clear()
        made = taken_over(weights, cut, found, known)
        counts.append(len(solved))
        assert all(torch.equal(made[name], tensor) for name, tensor in alone.items())
    assert counts[0] > 0 and counts[3] == 0


# ---------------------------------------------------------------- blocks solved


def unsolved(place: Path, family: str) -> tuple[Any, EncoderCut, Any]:
    """Teacher, cut and the student before its blocks are solved."""
    body, own = opened(place, family)
    with torch.no_grad():  # no layer's last norm is that of another
        for layer in range(own.sizes(body.config).layers):
            norm = body.get_submodule(own.layer_prefix(layer) + own.norm)
            norm.weight.add_(0.05 * layer)
            norm.bias.add_(0.05 * layer)
    cut = cut_of(body, own, CUT)
    return body, cut, built(body, cut, taken_over(body.state_dict(), cut, moments(body, own, IDS)))


def solve(student: Any, body: Any, cut: EncoderCut, listen: Listen | None = None) -> None:
    wanted = {}
    for end in ends_of(cut) if not cut.family.shared_layers else ():
        (entering,) = inputs(body, cut.family.layer_prefix(end) + cut.family.norm)
        wanted[end] = entering.float().view(*IDS.shape, -1)
    solve_blocks(student, cut, body.state_dict(), IDS, wanted, listen=listen)


def with_norms(student: Any, body: Any, cut: EncoderCut, layers: Sequence[int]) -> None:
    """The norms at the ends of these layers are those of the teacher's layers that they stand for."""
    own = cut.family
    for layer in layers:
        norm = student.get_submodule(own.layer_prefix(layer) + own.norm)
        theirs = body.get_submodule(own.layer_prefix(ends_of(cut)[layer]) + own.norm)
        with torch.no_grad():
            norm.weight.copy_(theirs.weight[cut.width])
            norm.bias.copy_(theirs.bias[cut.width])


@pytest.mark.parametrize("family", LAYERED)
def test_each_block_is_solved_as_least_squares_would_on_what_the_student_gives_by_then(
    family: str, tmp_path: Path
) -> None:
    body, cut, student = unsolved(tmp_path, family)
    own = cut.family
    reference = copy.deepcopy(student)
    solve(student, body, cut)
    for layer, end in enumerate(ends_of(cut)):
        prefix = own.layer_prefix(layer)
        with_norms(reference, body, cut, [layer])
        (wanted,) = inputs(body, own.layer_prefix(end) + own.norm)
        neurons, given = inputs(reference, prefix + own.down, prefix + own.norm)
        change, shift = ridged(neurons, wanted[:, cut.width] - given, HOLD)
        down, solved = reference.get_submodule(prefix + own.down), student.get_submodule(prefix + own.down)
        for leaf in ("weight", "bias"):
            names = (f"{prefix}{own.norm}.{leaf}", f"{own.layer_prefix(end)}{own.norm}.{leaf}")
            torch.testing.assert_close(student.get_parameter(names[0]), body.get_parameter(names[1])[cut.width])
        assert_alike(solved.weight, down.weight.double() + change, down.weight.double())
        assert_alike(solved.bias, down.bias.double() + shift, down.bias.double())
        with torch.no_grad():  # the next layer is solved on top of this one
            down.weight.copy_(solved.weight)
            down.bias.copy_(solved.bias)


@pytest.mark.parametrize("family", LAYERED)
def test_no_small_change_of_a_solved_weight_lowers_the_samples_error(family: str, tmp_path: Path) -> None:
    body, cut, student = unsolved(tmp_path, family)
    own, prefix = cut.family, cut.family.layer_prefix(0)
    held = student.get_submodule(prefix + own.down).weight.detach().double().clone()
    solve(student, body, cut)
    solved = student.get_submodule(prefix + own.down).weight.detach().double()
    neurons, entering = inputs(student, prefix + own.down, prefix + own.norm)
    wanted = inputs(body, own.layer_prefix(ends_of(cut)[0]) + own.norm)[0][:, cut.width]
    strength = HOLD * float(neurons.var(0, correction=0).mean())

    def error(weight: Tensor, bias: Tensor) -> Tensor:
        """What is solved for: the mean squared error, and how far the weights went from those that were held."""
        moved = entering + neurons @ weight.T + bias
        return (moved - wanted).square().sum(1).mean() + strength * (solved + weight - held).square().sum()

    nothing, none = torch.zeros_like(held), torch.zeros(len(held), dtype=torch.float64)
    least = float(error(nothing, none))
    generator = torch.Generator().manual_seed(0)
    for step in (1e-2, 1e-1):
        for _ in range(20):
            weight = step * torch.randn(held.shape, generator=generator, dtype=torch.float64)
            bias = step * torch.randn(len(held), generator=generator, dtype=torch.float64)
            assert float(error(weight, none)) > least and float(error(nothing, bias)) > least
    # Half of what was solved, or more of it, is worse as well: the way back to the held weights is one of the changes.
    for share in (-0.5, -0.05, 0.05, 0.5):
        assert float(error(share * (solved - held), none)) > least


# ---------------------------------------------------------------- importance


@pytest.mark.parametrize("family", FAMILIES)
def test_importance_is_what_its_definition_says(family: str, tmp_path: Path) -> None:
    body, own = opened(tmp_path, family)
    found = encoder_cut.importance(body, own, IDS)
    with torch.no_grad():
        states = body(input_ids=IDS, output_hidden_states=True).hidden_states[1:]
    variances = torch.stack([state.double().flatten(0, 1).var(0, correction=0) for state in states])
    torch.testing.assert_close(found.width, (variances / variances.mean(1, keepdim=True)).sum(0), rtol=1e-4, atol=1e-6)
    for layer in range(4):
        prefix = own.layer_prefix(layer)
        reads, context, active = inputs(body, prefix + own.query, prefix + own.out, prefix + own.down)
        if own.shared_layers:  # one pass calls the layer four times
            reads, context, active = (x.chunk(4)[layer] for x in (reads, context, active))
        weights = {name: tensor.double() for name, tensor in body.state_dict().items() if name.startswith(prefix)}
        q, k = (
            reads @ weights[f"{prefix}{name}.weight"].T + weights[f"{prefix}{name}.bias"]
            for name in (own.query, own.key)
        )
        strength = (q.square().mean(0) * k.square().mean(0)) ** 0.5
        torch.testing.assert_close(found.query[layer].flatten(), strength, rtol=1e-4, atol=1e-8)
        outgoing = weights[f"{prefix}{own.out}.weight"].square().sum(0) ** 0.5
        carried = context.square().mean(0) ** 0.5 * outgoing
        torch.testing.assert_close(found.value[layer].flatten(), carried, rtol=1e-4, atol=1e-8)
        down = weights[f"{prefix}{own.down}.weight"].square().sum(0) ** 0.5
        torch.testing.assert_close(found.inner[layer], active.abs().mean(0) * down, rtol=1e-4, atol=1e-8)


def test_a_sample_is_as_many_chunks_as_are_looked_at() -> None:
    ids = torch.zeros(400, 128, dtype=torch.long)
    assert len(least_squares_init.sample(ids)) == least_squares_init.TOKENS // 128
    assert len(least_squares_init.sample(ids[:1, :1].expand(2, least_squares_init.TOKENS * 2))) == 1
