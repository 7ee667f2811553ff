"""What a study would do, before anything runs: its space, how much speed counts, the cache, a rough time.

Reads the teacher's configuration and the text, loads no weights and writes nothing. Heavy all the same (it imports
torch): screens ask it through `kdnas plan --json`.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch

from kdnas.data import documents as reading
from kdnas.data.splits import require_two
from kdnas.measuring import devices, passes
from kdnas.models.least_squares_init import TOKENS as FIT_TOKENS
from kdnas.recipes import recipe_of
from kdnas.recipes.contract import Description
from kdnas.search import refusal, rungs
from kdnas.search.measured_cost import Measured
from kdnas.study import short_text, strategy_choice
from kdnas.study.constraints import limits_of
from kdnas.study.reward import exchange
from kdnas.study.spec import BudgetSpec, StudySpec
from kdnas.study.spec_end import moment_of
from kdnas.study.spec_flags import command
from kdnas.study.spec_recipes import CausalRecipe, ClassifierRecipe
from kdnas.study.spec_strategies import AutoStrategy
from kdnas.study.time_budget import End, end_words, fits, trials_in
from kdnas.study.timed_words import AUTO
from kdnas.system import seeds
from kdnas.system.errors import UsageError
from kdnas.system.moments import clock_words
from kdnas.system.time_left import duration

CHARACTERS_PER_TOKEN = 4.4  # English prose under the usual vocabularies; only for sizes told beforehand
SHARE_OF_PEAK = 0.4  # of the speed of a large matrix product that training reaches
OVERHEAD_S = 4.0  # of one evaluation: building, timing, scoring
SAMPLES = 64  # candidates drawn for the cost of the middle one


@dataclass(frozen=True)
class Plan:
    """A study in figures. None where a figure cannot be known beforehand."""

    space_size: int
    dimensions: Mapping[str, tuple[Any, ...]]
    teacher: Mapping[str, Any]
    exchange: str  # how much speed counts, in words
    tokens: int | None  # of the whole text, estimated from its characters
    proxy_tokens: int | None
    epochs: int  # 0: each candidate is scored as it is fitted to the proxy set, and none is trained
    cache_bytes: int | None
    seconds_per_trial: float | None
    seconds: float | None  # of the whole search by one worker
    trials: int | None  # candidates that it evaluates; expected where time decides, and None where nobody can say
    ends: str | None  # the time asked for, in words
    device: str
    notes: tuple[str, ...]
    command: str

    def values(self) -> dict[str, Any]:
        """As plain values for JSON."""
        return asdict(self)


def plan(
    spec: StudySpec, storage: str | None = None, measured: Measured | None = None, now: float | None = None
) -> Plan:
    """Raises UsageError for whatever would keep the study from beginning: teacher, data, space, device, a time in which
    not one trial would end. `measured` is what trials like these took; without it that is estimated. `now`: UTC
    seconds."""
    device = devices.resolve_device(spec.device)
    described = recipe_of(spec).describe(spec)
    notes = list(described.notes)
    size = described.space.size
    if spec.budget.trials > size and not spec.budget.open:
        notes.append(f"The space has only {size:,} candidates; the search ends when all are evaluated.")
    notes += _timed_in(spec, described, device)
    notes += _constraints(spec, described)
    if isinstance(spec.strategy, AutoStrategy):
        notes.append(strategy_choice.words(spec.strategy, described.space, spec.budget.trials))
    tokens, told = _tokens(spec)
    notes += told
    if tokens is None:
        notes.append("The data set is not on this machine yet; its size and the time are known once it is fetched.")
    proxy = None if tokens is None else round(tokens * (1 - spec.data.held_out) * spec.budget.proxy_fraction)
    most = spec.data.max_held_out * spec.data.length
    held = None if tokens is None else min(round(tokens * spec.data.held_out), most)
    cached = described.cache_bytes_per_token
    budget = spec.budget if proxy is None else short_text.allowed(spec, proxy)
    if proxy is not None and budget != spec.budget:
        notes += short_text.told({"short_text": short_text.facts(spec, proxy)})
    if measured is not None:
        each: float | None = measured.seconds
        notes.append(f"A trial is reckoned at {duration(each)}, the mean of the study {measured.study}.")
    else:
        each = None if proxy is None or held is None else _seconds(budget, described, proxy, held, device)
    number, end = _in_time(spec, size, each, time.time() if now is None else now)
    if end is not None:
        notes += end[1:]
    trials = None if number is None else min(number, size)
    return Plan(
        space_size=size,
        dimensions={d.name: d.choices for d in described.space.dimensions},
        teacher=described.teacher,
        exchange=str(exchange(spec.reward.alpha)),
        tokens=tokens,
        proxy_tokens=proxy,
        epochs=spec.budget.epochs,
        cache_bytes=None if proxy is None or held is None or cached is None else (proxy + held) * cached,
        seconds_per_trial=each,
        seconds=None if each is None or trials is None else each * trials,
        trials=trials,
        ends=None if end is None else end[0],
        device=str(device),
        notes=tuple(notes),
        command=command(spec, storage),
    )


def _in_time(spec: StudySpec, size: int, each: float | None, now: float) -> tuple[int | None, tuple[str, ...] | None]:
    """How many trials the budget has or leaves time for; and until when, with notes on that, where a time was asked
    for. Raises UsageError where not one trial would end in it, and BadOptionError for a moment that has passed."""
    until = moment_of(spec.budget, now)
    if until is None:
        return spec.budget.trials, None
    end, left = End(until, spec.budget.open), until - now
    if each is not None and not fits(left, each):
        raise UsageError(
            f"No trial fits into the time until {clock_words(until, now)}: one takes about {duration(each)}, and "
            f"{duration(left)} are left.",
            "Give more time, or fewer epochs or a smaller proxy share.",
        )
    fit: int | None = None if each is None else trials_in(left, each)
    notes = [f"The search runs {end_words(end, spec.budget.trials, now)}; no trial is begun that would end later."]
    if fit is not None and fit < min(size, spec.budget.trials):
        notes.append(f"That is time for about {fit:,} trials by one worker; their number follows from what they take.")
    elif fit is not None:
        which = "its space" if size <= spec.budget.trials else "its trials"
        notes.append(f"That is time for about {fit:,} trials: the search ends before, with {which}.")
    notes.append(
        "Epochs, proxy share and rungs stay as the spec has them: what a study's candidates would lose by less is not "
        "known before it is measured."
    )
    known = min(spec.budget.trials, spec.budget.trials if fit is None else fit)
    if fit is None and spec.budget.open:
        return None, (end_words(end, known, now), *notes)
    return known, (end_words(end, spec.budget.trials, now), *notes)


def _timed_in(spec: StudySpec, described: Description, device: torch.device) -> list[str]:
    """That a dtype was asked for, and what the teacher's copy in it takes. Raises DtypeError for one that the device
    does not have."""
    dtype = spec.latency.dtype
    if dtype == AUTO:
        return []
    served = passes.dtype_on(device, dtype)
    count = described.teacher.get("parameters")
    if served == torch.float32 or count is None:
        return [f"Teacher and students are timed in {dtype}."]
    mib = count * served.itemsize / 2**20
    return [f"Teacher and students are timed in {dtype}; a copy of the teacher is kept for it, about {mib:,.0f} MiB."]


def _constraints(spec: StudySpec, described: Description) -> list[str]:
    """What the constraints on sizes leave of the space. Raises UsageError where that is nothing."""
    limits = limits_of(spec.constraints.model_dump(), None)
    refused = None if described.parameters is None else refusal.of_sizes(described.space, limits, described.parameters)
    if refused is None or not refused.counted:
        return []
    refusal.require_some(refused)
    left, size = len(refused.allowed), described.space.size
    return [f"{left:,} of {size:,} candidates keep to {refused}; no other is proposed."]


def _tokens(spec: StudySpec) -> tuple[int | None, tuple[str, ...]]:
    """About how many tokens the text has, and what reading it left out; None for a hub data set, which is not fetched
    for this."""
    source, limit = spec.data.source, spec.data.limit
    limited = None if limit is None else limit * spec.data.length
    if not reading.at_hand(spec.data):
        return limited, ()
    classes = isinstance(spec.recipe, ClassifierRecipe)
    pairs = isinstance(spec.recipe, CausalRecipe) and spec.data.label_column is not None
    documents = reading.read(spec.data, labelled=classes, summaries=pairs)
    if not classes:
        require_two(documents)
    tokens = round(sum(map(len, documents.texts)) / CHARACTERS_PER_TOKEN)
    if limited is None and tokens < 2 * spec.data.length:
        raise UsageError(
            f"The data set {source!r} is too small: about {tokens:,} tokens.",
            f"Give at least some {2 * spec.data.length:,} (two chunks of data.length), or lower data.length.",
        )
    return tokens if limited is None else limited, documents.notes


def _seconds(budget: BudgetSpec, described: Description, proxy: int, held: int, device: torch.device) -> float | None:
    """Of the middle candidate: forward and backward on the proxy set, forward on the held-out part, each epoch. A score
    as built costs a fit: the products of its Gram matrices are about two forward passes over the sample."""
    if described.flops_per_token is None:
        return None
    rng = seeds.fixed(seeds.Fixed.ESTIMATE)
    forward = statistics.median(described.flops_per_token(described.space.sample(rng)) for _ in range(SAMPLES))
    built = 3 * min(proxy, FIT_TOKENS) + held if budget.rungs or not budget.epochs else 0
    work = forward * (rungs.expected_epochs(budget) * (3 * proxy + held) + built)
    return OVERHEAD_S + work / (SHARE_OF_PEAK * _flops_per_second(device))


def _flops_per_second(device: torch.device) -> float:
    """Of matrix products in fp32, the best of many. On a CPU they are small ones of one thread, times the threads: some
    of them nobody interrupts, however busy the machine is."""
    n, products = (256, 100) if device.type == "cpu" else (4096, 8)
    with devices.threads(1):
        a = torch.linspace(-1, 1, n * n, device=device).view(n, n)
        best = float("inf")
        for _ in range(products):
            began = time.perf_counter()
            float((a @ a)[0, 0])  # reading a value waits for the device
            best = min(best, time.perf_counter() - began)
    return 2 * n**3 / best * (torch.get_num_threads() if device.type == "cpu" else 1)
