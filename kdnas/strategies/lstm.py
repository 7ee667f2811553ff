"""The LSTM controller after KD-NAS (Trivedi et al., 2023, "Neural Architecture Search for Effective Teacher-Student
Knowledge Transfer in Language Models"): it foresees a candidate's reward from three states read one after the
other, the previous episode's best, the best so far and the candidate. Plans one episode at a time; knows no store.

`paper` follows the publication. `ours` keeps the network and changes what it learns from and how it chooses: see
docs/strategies.md for what each change brings.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import floor
from typing import Any, NoReturn

import numpy as np
import torch
from safetensors.torch import load, save
from torch import Tensor

from kdnas.strategies.asked import Asked
from kdnas.strategies.refused import also
from kdnas.strategies.without_replacement import SpaceExhausted, draw, exhausted
from kdnas.study.loan import Loan
from kdnas.study.space import Candidate, SearchSpace
from kdnas.study.spec_strategies import LstmStrategy
from kdnas.system.seeds import Purpose, generator, number

MEMBERS = 5  # controllers of `ours`
STEPS = 60  # training steps of `ours` in one episode
BATCH = 64  # rewarded candidates in one of them
EMBEDDING_SCALE = 0.3  # of `ours`: small, so that the learnt directions speak first
CONFIDENCE = 0.5  # spreads by which `ours` raises what its controllers disagree on
NEAR = 8  # the best candidates whose neighbours join the pool of `ours`


def sampler(asked: Asked[LstmStrategy]) -> NoReturn:
    """There is none: kdnas.search.episodes writes the candidates of an episode to its slots before one is claimed."""
    raise ValueError("a slot of an LSTM study was asked for before its episode was planned")


@dataclass(frozen=True)
class Rewarded:
    """A finished candidate of an earlier episode."""

    candidate: Candidate
    reward: float
    episode: int


@dataclass(frozen=True)
class Choice:
    """One candidate of an episode; `predicted` and `spread` are rewards, None before the controller has learnt."""

    candidate: Candidate
    origin: str  # controller | random
    predicted: float | None
    spread: float | None


@dataclass(frozen=True)
class Plan:
    """One episode as planned, and the controller's state after its training."""

    episode: int
    epsilon: float
    pool_size: int
    choices: tuple[Choice, ...]
    controller_loss: float | None  # mean squared error at the end of the training, in units of squared reward
    global_best: float | None
    previous_best: float | None
    state: bytes | None  # safetensors: weights and the optimiser's moments, as the next episode begins
    facts: dict[str, Any]


class Controller:
    """`members` independent networks, computed side by side.

    embedding [rows of all dimensions] → concatenated [dimensions · width] → LSTM over three states → linear → reward.
    One more row per dimension stands for "none yet". With `directions`, an ordered dimension's embedding also moves
    along a learnt direction with its value, so that what is learnt of one size says something of its neighbours.
    """

    def __init__(
        self, space: SearchSpace, width: int, hidden: int, members: int, directions: bool, rng: torch.Generator
    ) -> None:
        rows = [n + 1 for n in space.shape]
        self.offsets = torch.tensor([0, *np.cumsum(rows)[:-1]])
        self.none = torch.tensor(space.shape)
        self.values = _values(space)
        dimensions = len(space.shape)

        def uniform(*shape: int) -> Tensor:
            bound = hidden**-0.5
            return torch.rand(shape, generator=rng).mul_(2 * bound).sub_(bound)

        scale = EMBEDDING_SCALE if directions else 1.0
        self.parameters: dict[str, Tensor] = {
            "embedding": torch.randn(members, sum(rows), width, generator=rng) * scale,
            "lstm.input": uniform(members, dimensions * width, 4 * hidden),
            "lstm.hidden": uniform(members, hidden, 4 * hidden),
            "lstm.bias": uniform(members, 1, 4 * hidden),
            "head.weight": uniform(members, hidden, 1),
            "head.bias": uniform(members, 1, 1),
        }
        if directions:
            self.parameters["directions"] = torch.randn(members, dimensions, width, generator=rng)

    def embed(self, states: Tensor) -> Tensor:
        """states [batch, dimensions] of indices → [members, batch, dimensions · width]."""
        vectors = self.parameters["embedding"][:, states + self.offsets]
        if "directions" in self.parameters:
            values = self.values.gather(0, states.clamp_max(self.values.shape[0] - 1))
            vectors = vectors + values[None, :, :, None] * self.parameters["directions"][:, None]
        return vectors.flatten(2)

    def __call__(self, previous: Tensor, best: Tensor, candidates: Tensor) -> Tensor:
        """previous, best [dimensions], candidates [batch, dimensions] → predicted reward [members, batch]."""
        p = self.parameters
        hidden = cell = None
        for states in (previous[None], best[None], candidates):
            gates = self.embed(states) @ p["lstm.input"] + p["lstm.bias"]
            if hidden is not None:
                gates = gates + hidden @ p["lstm.hidden"]
            i, f, g, o = gates.chunk(4, dim=-1)
            new = torch.sigmoid(i) * torch.tanh(g)
            cell = new if cell is None else torch.sigmoid(f) * cell + new
            hidden = torch.sigmoid(o) * torch.tanh(cell)
        assert hidden is not None
        return (hidden @ p["head.weight"] + p["head.bias"]).squeeze(-1)


def _values(space: SearchSpace) -> Tensor:
    """[choices, dimensions]: −1 … 1 along ordered dimensions, 0 elsewhere and for "none yet"."""
    table = torch.zeros(max(space.shape) + 1, len(space.shape))
    for column, d in enumerate(space.dimensions):
        if d.ordered and len(d.choices) > 1:
            table[: len(d.choices), column] = torch.linspace(-1, 1, len(d.choices))
    return table


# ---------------------------------------------------------------------------- planning


def epsilon(options: LstmStrategy, episode: int) -> float:
    """The share of random candidates in an episode, from 0: falls by a step each, never below the floor."""
    return max(options.epsilon_floor, round(options.epsilon - options.epsilon_step * episode, 10))


def randoms(options: LstmStrategy, episode: int, count: int) -> int:
    """How many of an episode's candidates are random: whole numbers, so that none is lost to rounding.

    Small episodes carry what is left over to the next, so that over many of them the shares are those of ε.
    """
    before = sum(epsilon(options, e) for e in range(episode)) * options.samples
    after = before + epsilon(options, episode) * options.samples
    return min(count, floor(after + 1e-6) - floor(before + 1e-6))


def plan(
    options: LstmStrategy,
    space: SearchSpace,
    seed: int,
    episode: int,
    history: Sequence[Rewarded],
    taken: Collection[str],
    state: bytes | None,
    count: int,
    loan: Loan | None = None,
) -> Plan:
    """Train the controller on what the episodes before this one earned, then choose `count` candidates for this one.

    `history` holds the rewarded candidates in slot order, `state` what the episode before left (None at first),
    `taken` the keys that may not be chosen, `loan` what other studies lend. Fewer than `count` are chosen where the
    space ends. The result depends on the arguments alone. Raises SpaceExhausted when nothing is left.
    """
    with _one_thread():
        return _plan(options, space, seed, episode, history, taken, state, count, loan)


def _plan(
    options: LstmStrategy,
    space: SearchSpace,
    seed: int,
    episode: int,
    history: Sequence[Rewarded],
    taken: Collection[str],
    state: bytes | None,
    count: int,
    loan: Loan | None,
) -> Plan:
    ours = options.controller == "ours"
    lent, first, ahead = _borrowed(options, space, seed, episode, history, taken, loan if ours else None)
    history = [*lent, *history]
    # What was learnt of lent rewards is not handed on: the next episode may no longer believe them.
    handed_on, state = state, None if lent else state
    rng = generator(seed, Purpose.EPISODE, episode)
    torch_rng = torch.Generator().manual_seed(number(seed, Purpose.CONTROLLER, episode))
    controller = Controller(space, options.embedding, options.hidden, MEMBERS if ours else 1, ours, torch_rng)
    optimiser = _optimiser(controller, options)
    if state is not None:
        _restore(controller, optimiser, state)

    best = max(history, key=lambda r: r.reward, default=None)
    previous = max((r for r in history if r.episode == episode - 1), key=lambda r: r.reward, default=None)
    anchors = _anchor(controller, space, previous), _anchor(controller, space, best)
    mean, scale = _standard(history) if ours else (0.0, 1.0)
    loss = None
    lessons = history if ours else [r for r in history if r.episode == episode - 1]
    if lessons:
        inputs = torch.from_numpy(np.stack([space.encode(r.candidate) for r in lessons]))
        targets = torch.tensor([(r.reward - mean) / scale for r in lessons], dtype=torch.float32)
        train = _train_ours if ours else _train_paper
        loss = train(controller, optimiser, anchors, inputs, targets, torch_rng) * scale**2

    count = min(count, space.size - len(taken))
    if count <= 0:
        raise exhausted(space, taken)
    chance = min(randoms(options, episode + ahead, count), count - (first is not None))
    pool = _pool(options, space, rng, taken, history) if ours else _random_pool(options, space, rng, taken, count)
    choices: list[Choice] = []
    predictions = _predict(controller, anchors, space, pool) * scale + mean
    learnt = loss is not None or state is not None
    if first is not None:
        choices.append(first)
    known = None if not choices else space.key(choices[0].candidate)
    places = [place for place in _pick(predictions) if space.key(pool[place]) != known]
    for place in places[: count - chance - len(choices)]:
        spread = float(predictions[:, place].std()) if ours else None
        choices.append(Choice(pool[place], "controller", float(predictions[:, place].mean()), spread))
    chosen = also(taken, (space.key(c.candidate) for c in choices))
    while len(choices) < count:
        try:
            drawn = draw(space, rng, chosen)
        except SpaceExhausted:  # of a large space nobody has counted how many candidates constraints leave
            if not choices:
                raise
            break
        chosen = also(chosen, (space.key(drawn),))
        seen = _predict(controller, anchors, space, [drawn])[:, 0] * scale + mean
        foreseen = float(seen.mean()) if learnt else None
        choices.append(Choice(drawn, "random", foreseen, float(seen.std()) if learnt and ours else None))
    return Plan(
        episode,
        epsilon(options, episode + ahead),
        len(pool),
        tuple(choices),
        loss,
        None if best is None else best.reward,
        None if previous is None else previous.reward,
        handed_on if lent else _state(controller, optimiser),
        {
            "controller": options.controller,
            "lessons": len(lessons),
            "global_best": None if best is None else best.candidate,
            "previous_best": None if previous is None else previous.candidate,
        },
    )


def _borrowed(
    options: LstmStrategy,
    space: SearchSpace,
    seed: int,
    episode: int,
    history: Sequence[Rewarded],
    taken: Collection[str],
    loan: Loan | None,
) -> tuple[list[Rewarded], Choice | None, int]:
    """Of a loan: lent candidates with the rewards that they would have here, as of the episode before the first; the
    candidate that its model finds best; and how many episodes ε is ahead. Only that candidate before there are own
    trials, and nothing where these do not bear the loan out."""
    if loan is None:
        return [], None, 0
    from kdnas.strategies import warm

    rng = generator(seed, Purpose.LOAN, episode)
    pool = _pool(options, space, rng, taken, history)
    told = warm.lessons(space, loan, pool, [(r.candidate, r.reward) for r in history])
    lent = [Rewarded(candidate, reward, -1) for candidate, reward in told.rewards]
    first = None if told.best is None else Choice(told.best[0], "controller", told.best[1], None)
    return lent, first, len(lent) // options.samples


def _anchor(controller: Controller, space: SearchSpace, leader: Rewarded | None) -> Tensor:
    return controller.none if leader is None else torch.from_numpy(space.encode(leader.candidate))


def _standard(history: Sequence[Rewarded]) -> tuple[float, float]:
    rewards = np.asarray([r.reward for r in history])
    if len(rewards) < 2 or rewards.std() == 0:
        return (float(rewards.mean()) if len(rewards) else 0.0), 1.0
    return float(rewards.mean()), float(rewards.std())


def _predict(
    controller: Controller, anchors: tuple[Tensor, Tensor], space: SearchSpace, pool: Sequence[Candidate]
) -> np.ndarray:
    """[members, candidates]"""
    if not pool:
        return np.zeros((controller.parameters["head.bias"].shape[0], 0))
    with torch.no_grad():
        inputs = torch.from_numpy(np.stack([space.encode(c) for c in pool]))
        return controller(*anchors, inputs).double().numpy()


def _pick(predictions: np.ndarray) -> np.ndarray:
    """Places in the pool, best first: by the mean of the controllers plus a share of how far they disagree."""
    order: np.ndarray = np.argsort(-(predictions.mean(0) + CONFIDENCE * predictions.std(0)), kind="stable")
    return order


def _random_pool(
    options: LstmStrategy, space: SearchSpace, rng: np.random.Generator, taken: Collection[str], count: int
) -> list[Candidate]:
    """KD-NAS's pool. Evaluated candidates are drawn too, but their result is known: they are left out."""
    pool: dict[str, Candidate] = {}
    for _ in range(options.pool):
        drawn = space.sample(rng)
        if space.key(drawn) not in taken:
            pool[space.key(drawn)] = drawn
    return list(pool.values())


def _pool(
    options: LstmStrategy,
    space: SearchSpace,
    rng: np.random.Generator,
    taken: Collection[str],
    history: Sequence[Rewarded],
) -> list[Candidate]:
    """Random candidates and the neighbours of the best, none of them taken; a small space whole."""
    if space.product_size <= options.pool:
        return [c for c in space.candidates() if space.key(c) not in taken]
    pool: dict[str, Candidate] = {}
    for leader in sorted(history, key=lambda r: -r.reward)[:NEAR]:
        for near in space.neighbours(leader.candidate):
            pool[space.key(near)] = near
    for _ in range(options.pool):
        drawn = space.sample(rng)
        pool[space.key(drawn)] = drawn
    return [c for key, c in pool.items() if key not in taken]


def _train_paper(
    controller: Controller,
    optimiser: torch.optim.RMSprop,
    anchors: tuple[Tensor, Tensor],
    inputs: Tensor,
    targets: Tensor,
    rng: torch.Generator,
) -> float:
    """One pass over the last episode's candidates, all in one step."""
    optimiser.zero_grad()
    loss = (controller(*anchors, inputs) - targets).square().mean()
    loss.backward()
    optimiser.step()
    return float(loss.detach())


def _train_ours(
    controller: Controller,
    optimiser: torch.optim.RMSprop,
    anchors: tuple[Tensor, Tensor],
    inputs: Tensor,
    targets: Tensor,
    rng: torch.Generator,
) -> float:
    """Many steps over the whole history, each member weighing it anew, so that they differ where data is thin."""
    members = controller.parameters["head.bias"].shape[0]
    loss = torch.zeros(())
    for _ in range(STEPS):
        drawn = torch.randint(len(inputs), (min(BATCH, len(inputs)),), generator=rng)
        weights = torch.empty(members, len(drawn)).exponential_(generator=rng)
        optimiser.zero_grad()
        errors = (controller(*anchors, inputs[drawn]) - targets[drawn]).square()
        loss = (errors * weights).mean(1).sum()
        loss.backward()
        optimiser.step()
    with torch.no_grad():
        return float((controller(*anchors, inputs) - targets).square().mean())


# ---------------------------------------------------------------------------- state


def _optimiser(controller: Controller, options: LstmStrategy) -> torch.optim.RMSprop:
    for tensor in controller.parameters.values():
        tensor.requires_grad_(True)
    return torch.optim.RMSprop(controller.parameters.values(), lr=options.learning_rate, foreach=False)


def _state(controller: Controller, optimiser: torch.optim.RMSprop) -> bytes:
    tensors: dict[str, Tensor] = {}
    for name, tensor in controller.parameters.items():
        tensors[name] = tensor.detach().contiguous()
        for key, moment in optimiser.state[tensor].items():
            tensors[f"{name}/{key}"] = moment.detach().contiguous()
    return save(tensors)


def _restore(controller: Controller, optimiser: torch.optim.RMSprop, state: bytes) -> None:
    tensors = load(state)
    with torch.no_grad():
        for name, tensor in controller.parameters.items():
            tensor.copy_(tensors[name])
            for full, moment in tensors.items():
                owner, _, key = full.partition("/")
                if owner == name and key:
                    optimiser.state[tensor][key] = moment


@contextmanager
def _one_thread() -> Iterator[None]:
    """Sums in one order, so that a plan made again is the same to the last bit."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
