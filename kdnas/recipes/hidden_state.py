"""Hidden-state distillation of encoders, Uniform+Last: the recipe of KD-NAS (Trivedi et al., 2023), made cheap.

Student layer i of L_S learns from the teacher's block outputs ⌊i·L_T/L_S⌋ and L_T−L_S+i (from 0, embeddings left
out), concatenated, through one linear layer H_S → 2·H_T of its own; mean squared error over real tokens. Bodies
only. Knows no strategy, no store and no screen.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from kdnas.data import chunks as chunking
from kdnas.data import tokens as tokenising
from kdnas.measuring import devices
from kdnas.models import classifier_head, encoders, least_squares_init
from kdnas.models import open as opening
from kdnas.models.encoders import Family, Sizes
from kdnas.models.layer_choice import last, spread, uniform
from kdnas.recipes import latency_tokens
from kdnas.recipes.contract import Description, Recipe, Workbench
from kdnas.recipes.spaces.encoder import sizes_of, space_of
from kdnas.study.space import Candidate
from kdnas.study.spec import StudySpec
from kdnas.study.spec_recipes import HiddenStateRecipe
from kdnas.system.errors import BadOptionError, UsageError
from kdnas.system.progress import Progress
from kdnas.teachers import encoder, full_cut, hidden_state_cache
from kdnas.training.contract import Epoch, OnStep, Score, Student, Training
from kdnas.training.loop import clip, rate
from kdnas.training.losses.hidden_states import Projections
from kdnas.training.prefetch import ahead

CUTS = {"spread": spread, "every-kth": uniform}
STRIDE = 2  # each step scores every second token, from a random first one: see Projections.loss
SOLVE_TOKENS = 65_536  # most tokens from which the projections are solved
SCORE_BATCH = 32
CHECKED = 8  # chunks on which the teacher's values are looked at before anything is built on them
WEIGHTS, BATCHES, OFFSETS = 1, 2, 3  # purposes of random numbers


def _flops(student: Sizes, teacher: Sizes, length: int) -> float:
    """Of one token in a forward pass: attention's and feed-forward's products, and the projections'."""
    block = 4 * student.width**2 + 2 * student.width * student.inner + 2 * length * student.width
    return 2.0 * student.layers * (block + student.width * 2 * teacher.width)


class HiddenState(Recipe):
    """Builds search spaces and workbenches for encoders."""

    name = "hidden-state"
    summary = "Hidden states of an encoder, Uniform+Last layer mapping"
    families = tuple(encoders.FAMILIES)

    def describe(self, spec: StudySpec) -> Description:
        config, family = encoder.read_config(spec.teacher)
        own = family.sizes(config)
        _check_lengths(spec, family, config)
        facts = {
            "model": spec.teacher.model,
            "family": family.model_type,
            "layers": own.layers,
            "width": own.width,
            "heads": own.heads,
            "intermediate": own.inner,
            "activation": own.act,
            "parameters": encoders.count_parameters(config),
        }
        space = space_of(spec.space, own, _closed(spec, family, config))
        depths = [int(d) for d in next(d.choices for d in space.dimensions if d.name == "num_hidden_layers")]
        sources = {s for n in depths for s in (*uniform(n, own.layers), *last(n, own.layers))}
        return Description(
            space,
            facts,
            cache_bytes_per_token=len(sources) * own.width * 2,  # bf16
            flops_per_token=lambda candidate: _flops(sizes_of(candidate), own, spec.data.length),
        )

    def prepare(self, spec: StudySpec, device: torch.device, on_progress: Progress) -> HiddenStateBench:
        return HiddenStateBench(spec, device, on_progress)


def _check_lengths(spec: StudySpec, family: Family, config: Any) -> None:
    limit = family.length_limit(config)
    for field, length in (("data.length", spec.data.length), ("latency.length", spec.latency.length)):
        if length > limit:
            raise BadOptionError(
                field, f"{field} = {length} is more than the teacher's {limit} positions.", f"Give at most {limit}."
            )


def _closed(spec: StudySpec, family: Family, config: Any) -> frozenset[int]:
    """Widths that students of this study cannot have."""
    assert isinstance(spec.recipe, HiddenStateRecipe)
    return frozenset() if spec.recipe.init == "random" else encoders.closed_widths(family, config)


class HiddenStateBench(Workbench):
    """Teacher, chunks and cached hidden states, shared by all candidates of a process."""

    def __init__(self, spec: StudySpec, device: torch.device, on_progress: Progress) -> None:
        self.spec, self.device, self._on_progress = spec, device, on_progress
        assert isinstance(spec.recipe, HiddenStateRecipe)
        self._init, self._cut = spec.recipe.init, spec.recipe.cut
        self.teacher = encoder.load(spec.teacher, device, on_progress)
        self.family = self.teacher.family
        self.own = self.family.sizes(self.teacher.config)
        _check_lengths(spec, self.family, self.teacher.config)
        self.space = space_of(spec.space, self.own, _closed(spec, self.family, self.teacher.config))
        depths = next(d.choices for d in self.space.dimensions if d.name == "num_hidden_layers")
        self.layers = sorted({layer for d in depths for layer in self._sources(int(d))})
        self.chunks = chunking.chunks(spec.data, spec.budget.proxy_fraction, self.teacher.tokenizer, on_progress)
        self._proxy_ids = torch.from_numpy(self.chunks.proxy)
        self._held_ids = torch.from_numpy(self.chunks.held_out)
        encoder.require_finite(self.teacher, self._proxy_ids[:CHECKED])
        passes = spec.budget.epochs * spec.budget.trials
        self.proxy = self._states(self._proxy_ids, passes, "the proxy set")
        self.held_out = self._states(self._held_ids, passes, "the held-out part")
        self._configured: tuple[Candidate, dict[str, Any]] | None = None
        self._full: hidden_state_cache.HiddenStates | None = None
        self._importance = hidden_state_cache.importance_of(self.teacher, self._proxy_ids)
        self._moments = hidden_state_cache.moments_of(self.teacher, self._proxy_ids) if self._init == "fitted" else None
        self._weights = {name: tensor.cpu() for name, tensor in self.teacher.body.state_dict().items()}
        self._weights |= {name: tensor.cpu() for name, tensor in self.teacher.pooler.items()}
        self._buffers = {
            name: buffer.cpu() for name, buffer in self.teacher.body.named_buffers() if name not in self._weights
        }
        if self._init != "random":
            full_cut.require_repeated(self.teacher.name, self.teacher.fingerprint, self._both_states)
        statistics = self.proxy.statistics
        self._variance = {layer: float(statistics.variance[layer].mean()) for layer in self.layers}
        ids = latency_tokens.drawn(self.chunks.train[:64, 1:-1].reshape(-1), spec.latency)
        ids[:, 0], ids[:, -1] = tokenising.special_tokens(self.teacher.tokenizer)
        self._timed_ids = torch.from_numpy(ids).to(device)

    def _states(
        self, ids: torch.Tensor, passes: int, what: str, layers: Sequence[int] | None = None
    ) -> hidden_state_cache.HiddenStates:
        return hidden_state_cache.hidden_states(
            self.teacher,
            ids,
            self.layers if layers is None else layers,
            passes=passes,
            on_progress=self._on_progress,
            what=f"{what} of {self.spec.data.source}",
        )

    def _sources(self, layers: int) -> list[int]:
        return [*uniform(layers, self.own.layers), *last(layers, self.own.layers)]

    def config(self, candidate: Candidate) -> dict[str, Any]:
        """Computed once for all that asks of one candidate after another."""
        if self._configured is None or self._configured[0] != candidate:
            values = encoders.config_values(self.family, self.teacher.config, sizes_of(candidate))
            self._configured = dict(candidate), values
        return dict(self._configured[1])

    def build(self, candidate: Candidate, seed: int) -> Student:
        """The body, cut out of the teacher or fresh, and one projection a layer."""
        sizes = sizes_of(candidate)
        values = self.config(candidate)
        if self._init == "random":
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(_draw(seed, WEIGHTS, 0))
                body = encoders.build_body(encoders.configure(values)).to(self.device)
        else:
            body = self._cut_out(values, sizes)
        aids = Projections(sizes.layers, sizes.width, 2 * self.own.width).to(self.device)
        return Student(body, aids)

    def _cut_out(self, values: dict[str, Any], sizes: Sizes) -> torch.nn.Module:
        sources = CUTS[self._cut](sizes.layers, self.own.layers)
        cut = encoders.EncoderCut(self.family, self.teacher.config, sizes, self._importance, sources)
        if self._moments is None:
            return encoders.inherit(values, encoders.sliced(self._weights, cut), self._buffers).to(self.device)
        weights = least_squares_init.taken_over(self._weights, cut, self._moments)
        body = encoders.inherit(values, weights, self._buffers).to(self.device)
        least_squares_init.solve_blocks(body, self.teacher.body, cut, least_squares_init.sample(self._proxy_ids))
        return body

    def _both_states(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Last states of the teacher and of a student that is all of it, on the first chunks."""
        values = encoders.config_values(self.family, self.teacher.config, self.own)
        cut = encoders.EncoderCut(self.family, self.teacher.config, self.own, self._importance, range(self.own.layers))
        whole = encoders.inherit(values, encoders.sliced(self._weights, cut), self._buffers).to(self.device)
        ids = self._proxy_ids[:CHECKED]
        return full_cut.last_state(self.teacher.body, ids), full_cut.last_state(whole, ids)

    def training(self, student: Student, *, epochs: int, seed: int, full: bool = False) -> HiddenStateTraining:
        states = self._full_states(student, epochs) if full else self.proxy
        return HiddenStateTraining(self, student, states, epochs, seed)

    def _full_states(self, student: Student, epochs: int) -> hidden_state_cache.HiddenStates:
        """Of the whole training part, and only the layers that this student learns from."""
        first, second = self.targets_of(student.body)
        layers = sorted({*first, *second})
        if self._full is None or self._full.layers != tuple(layers):
            if self._full is not None:
                self._full.close()
            ids = torch.from_numpy(self.chunks.train)
            self._full = self._states(ids, epochs, "the training part", layers)
        return self._full

    def targets_of(self, body: torch.nn.Module) -> tuple[list[int], list[int]]:
        """The teacher's layers that each layer of a student learns from: (uniform, last)."""
        layers = self.family.sizes(body.config).layers  # type: ignore[arg-type]
        return uniform(layers, self.own.layers), last(layers, self.own.layers)

    def variance_of(self, layer: int) -> float:
        """Mean variance of one of the teacher's block outputs on the proxy set."""
        return self._variance[layer]

    def variance(self, body: torch.nn.Module) -> float:
        """Mean variance of the student's own targets on the proxy set: what a constant per dimension leaves."""
        first, second = self.targets_of(body)
        return sum(self._variance[layer] for layer in [*first, *second]) / (2 * len(first))

    @torch.inference_mode()
    def score(self, student: Student) -> Score:
        """How well the student's last layer gives the teacher's last block output on every held-out token: mean squared
        error through the student's own projection, over that output's variance.

        That much is asked of every student alike. What Uniform+Last asks (`raw_loss`, as KD-NAS's; `mapped_loss` over
        its own variance) depends on the depth: of one layer the easy first of the teacher's besides the last, of three
        all those between, so that neither compares students of different depths.
        """
        body, aids = student.body, _projections(student)
        first, second = self.targets_of(body)
        total = torch.zeros(len(first), 2, dtype=torch.float64)
        body.eval()
        for rows in torch.arange(len(self._held_ids)).split(SCORE_BATCH):
            outputs = forward(body, self.device, input_ids=self._held_ids[rows].to(self.device))
            targets = self.held_out.batch(rows, sorted({*first, *second}))
            known = dict(zip(sorted({*first, *second}), targets, strict=True))
            for i, output in enumerate(outputs):
                total[i] += aids.squared_errors(i, output, known[first[i]], known[second[i]]).cpu().double()
        total /= self._held_ids.numel() * self.own.width
        raw = float(total.mean())
        loss = float(total[-1, 1]) / self.variance_of(self.own.layers - 1)
        return Score(loss, raw, {"mapped_loss": raw / self.variance(body)})

    def timed(self, student: Student | None) -> Callable[[], None]:
        body = self.teacher.body if student is None else student.body
        body.eval()
        ids = self._timed_ids

        def once() -> None:
            with (
                torch.inference_mode(),
                torch.autocast(self.device.type, torch.bfloat16, enabled=devices.autocasts(self.device)),
            ):
                body(input_ids=ids)

        return once

    def shape_key(self, candidate: Candidate | None) -> str:
        # A student's figure is taken beside the teacher's, so that the teacher's sizes belong to the key.
        keep = {
            "family": self.family.model_type,
            "teacher": asdict(self.own),
            "student": None if candidate is None else asdict(sizes_of(candidate)),
            "batch": list(self._timed_ids.shape),
            "bf16": devices.autocasts(self.device),
        }
        return json.dumps(keep, sort_keys=True)

    def save(self, student: Student, folder: Path) -> None:
        """The body, with the pooler that AutoModel's class expects, and the tokenizer; with a head, of a teacher that
        classifies."""
        folder.mkdir(parents=True, exist_ok=True)
        body = student.body
        config = encoders.configure(self.family_values(body))
        config.architectures = [type(body).__name__]
        config.dtype = torch.float32
        weights = {name: tensor.detach().cpu().contiguous() for name, tensor in body.state_dict().items()}
        taken_over = partial(self._taken_over, _projections(student), self.family.sizes(config).width)
        if self.family.pooler is not None:
            weight, bias = self._pooler(taken_over, self.family.sizes(config).width)
            weights[f"{self.family.pooler}.weight"] = weight.contiguous()
            weights[f"{self.family.pooler}.bias"] = bias.contiguous()
        whole = self._classifier()
        if whole is not None:
            ids = torch.from_numpy(self.chunks.train)
            made = classifier_head.classifier(whole, self.family, config, weights, taken_over, ids)
            weights = {name: tensor.contiguous() for name, tensor in made.state_dict().items()}
        config.save_pretrained(folder)
        from safetensors.torch import save_file

        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
        self.teacher.tokenizer.save_pretrained(folder)

    def _classifier(self) -> Any | None:
        return encoder.classifier_of(self.teacher, opening.locate(self.spec.teacher))

    def finished(self, student: Student, folder: Path, on_progress: Progress) -> dict[str, Any]:
        """`head`, of a teacher that classifies: its labels, and the share of held-out chunks on which the two agree."""
        whole = self._classifier()
        if whole is None:
            return {}
        on_progress("scoring its head", None)
        made = classifier_head.opened(folder, self.device)
        labels = [str(whole.config.id2label[place]) for place in range(whole.config.num_labels)]
        return {"head": {"labels": labels, "agreement": classifier_head.agreement(made, whole, self._held_ids)}}

    def _pooler(self, taken_over: classifier_head.TakenOver, width: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Weight [width, width] and bias of the student's pooler: the teacher's where there is one, else a fixed random
        one."""
        own = {name.removeprefix(f"{self.family.pooler}."): t.cpu() for name, t in self.teacher.pooler.items()}
        if own:
            return taken_over(own["weight"], own["bias"])
        return torch.randn(width, width, generator=torch.Generator().manual_seed(0)) * 0.02, torch.zeros(width)

    @torch.no_grad()
    def _taken_over(
        self, aids: Projections, width: int, weight: torch.Tensor, bias: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """A layer that reads the teacher's last state, cut to the student's width.

        A slice; a fitted student's reads that state as the student's own projection gives it, rather than the
        dimensions that were kept as they are.
        """
        kept = encoders.best(self._importance.width, width)
        weight, bias = weight[kept], bias[kept]
        if self._init != "fitted":
            return weight[:, kept], bias
        given, offset = (part[-1][..., self.own.width :].cpu() for part in (aids.weight, aids.bias))
        return least_squares_init.reading(weight, bias, given.t(), offset)

    def family_values(self, body: torch.nn.Module) -> dict[str, Any]:
        return encoders.config_values(self.family, self.teacher.config, self.family.sizes(body.config))  # type: ignore[arg-type]

    def provenance(self) -> dict[str, Any]:
        return {
            "teacher": self.teacher.name,
            "teacher_fingerprint": self.teacher.fingerprint,
            "tokenizer_fingerprint": tokenising.tokenizer_fingerprint(self.teacher.tokenizer),
            "data": self.spec.data.source,
            "data_fingerprint": self.chunks.fingerprint,
            "documents": self.chunks.documents,
            **self.chunks.record,
            "training_tokens": int(self.chunks.train.size),
            "proxy_tokens": int(self.chunks.proxy.size),
            "held_out_tokens": int(self.chunks.held_out.size),
            "cache": {"proxy": self.proxy.decision.facts(), "held_out": self.held_out.decision.facts()},
            "projection": "one per student layer",
            "stride": STRIDE,
        }

    def close(self) -> None:
        self.proxy.close()
        self.held_out.close()
        if self._full is not None:
            self._full.close()
            self._full = None


def forward(body: torch.nn.Module, device: torch.device, **inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Block outputs [rows, length, hidden] of a student, embeddings left out."""
    with torch.autocast(device.type, torch.bfloat16, enabled=devices.autocasts(device)):
        out = body(**inputs, output_hidden_states=True)
    return tuple(out.hidden_states[1:])


def _projections(student: Student) -> Projections:
    assert isinstance(student.aids, Projections)
    return student.aids


def _draw(*path: int) -> int:
    return int(np.random.SeedSequence(path).generate_state(1, np.uint64)[0] >> 1)


@dataclass(frozen=True)
class _Ready:
    """One batch on the device: compact ids, and the targets of the positions scored."""

    ids: torch.Tensor
    states: dict[int, torch.Tensor]
    positions: slice
    tokens: int


class HiddenStateTraining(Training):
    """AdamW with warm-up and linear decay over all epochs, clipped; only the embedding rows that occur are trained.

    The projections are trained with the student, and besides solved by least squares before the first step and after
    each epoch: found from nothing by steps alone, they cost most of a short budget (measured: 24 steps end at a loss
    of 0.95 without, 0.21 with), and what is scored should be the student, not how far they came.

    A row of the embedding table whose token does not occur in the text gets no gradient, and rows are not decayed:
    leaving it out of the optimiser changes nothing but the cost (70 % of a small student are embeddings).
    """

    def __init__(
        self, bench: HiddenStateBench, student: Student, states: hidden_state_cache.HiddenStates, epochs: int, seed: int
    ) -> None:
        self.bench, self.student, self.epochs, self.seed, self.done = bench, student, epochs, seed, 0
        self._states, self._ids = states, states.ids
        self._batch = min(bench.spec.data.batch_size, len(self._ids))
        self._steps = ceil(len(self._ids) / self._batch)
        self._seconds, self._tokens = 0.0, 0
        self._table: torch.nn.Parameter = student.body.get_input_embeddings().weight  # type: ignore[operator]
        self._rows, compact = _compact(self._ids)
        self._compact = compact.view_as(self._ids)
        self._rows = self._rows.to(bench.device)
        self._table.requires_grad_(False)
        self._embeddings = torch.nn.Parameter(self._table.detach()[self._rows].clone())
        self._names, self._parameters, self._optimiser = self._make_optimiser()

    def _make_optimiser(self) -> tuple[list[str], list[torch.nn.Parameter], torch.optim.AdamW]:
        named = [(n, p) for n, p in self.student.body.named_parameters() if p.requires_grad]
        named += [(f"aids.{n}", p) for n, p in _projections(self.student).named_parameters()]
        named += [("rows", self._embeddings)]
        decayed = [p for n, p in named if p.dim() >= 2 and n != "rows" and "embeddings" not in n and n != "aids.bias"]
        marked = {id(p) for p in decayed}
        rest = [p for _, p in named if id(p) not in marked]
        settings = self.bench.spec.training
        groups = [{"params": decayed, "weight_decay": settings.weight_decay}, {"params": rest, "weight_decay": 0.0}]
        optimiser = torch.optim.AdamW(groups, lr=settings.learning_rate, fused=True)
        return [n for n, _ in named], [p for _, p in named], optimiser

    def run_epoch(self, on_step: OnStep | None = None) -> Epoch:
        begin = time.perf_counter()
        body, aids = self.student.body, _projections(self.student)
        if self.done == 0:
            self._solve()
        body.train()
        first, second = self.bench.targets_of(body)
        settings, total = self.bench.spec.training, self.epochs * self._steps
        losses = torch.zeros((), device=self.bench.device)
        for done, batch in enumerate(self._feed(), start=1):
            step = self.done * self._steps + done - 1
            for group in self._optimiser.param_groups:
                group["lr"] = settings.learning_rate * rate(step, total, settings.warmup)
            embedded = functional.embedding(batch.ids, self._embeddings)
            outputs = forward(body, self.bench.device, inputs_embeds=embedded)
            loss = aids.loss(
                [output[:, batch.positions] for output in outputs],
                [batch.states[layer] for layer in first],
                [batch.states[layer] for layer in second],
            )
            loss.backward()
            clip(self._parameters, settings.clip)
            self._optimiser.step()
            self._optimiser.zero_grad(set_to_none=True)
            losses += loss.detach() * len(batch.ids)
            self._tokens += batch.tokens
            if on_step is not None:
                on_step(done, self._steps)
        self.done += 1
        self._write_back()
        self._solve()
        score = self.bench.score(self.student)
        self._seconds += time.perf_counter() - begin
        return Epoch(self.done, self.epochs, score, float(losses) / len(self._ids), self._seconds, self._tokens)

    def peek(self) -> Score:
        """The score in the middle of an epoch, as its end would give it now; the training goes on as if not asked."""
        aids = _projections(self.student)
        kept = [parameter.detach().clone() for parameter in aids.parameters()]
        self._write_back()
        self._solve()
        score = self.bench.score(self.student)
        with torch.no_grad():
            for parameter, value in zip(aids.parameters(), kept, strict=True):
                parameter.copy_(value)
        self.student.body.train()
        return score

    @torch.no_grad()
    def _solve(self) -> None:
        """The projections by least squares on the first chunks, for the student's body as it is."""
        body, aids = self.student.body, _projections(self.student)
        first, second = self.bench.targets_of(body)
        device = self.bench.device
        body.eval()
        width, outputs = aids.weight.shape[1], aids.weight.shape[2]
        grams = torch.zeros(len(first), width + 1, width + 1, device=device)
        crosses = torch.zeros(len(first), width + 1, outputs, device=device)
        count = min(len(self._ids), max(1, SOLVE_TOKENS // self._ids.shape[1]))
        for rows in torch.arange(count).split(self._batch):
            hidden = forward(body, device, input_ids=self._ids[rows].to(device))
            for i, output in enumerate(hidden):
                one, two = self._states.batch(rows, [first[i], second[i]])
                flat = output.flatten(0, 1).float()
                flat = torch.cat([flat, torch.ones_like(flat[:, :1])], dim=1)
                target = torch.cat([one.flatten(0, 1), two.flatten(0, 1)], dim=1).to(device).float()
                grams[i] += flat.t() @ flat
                crosses[i] += flat.t() @ target
        for i in range(len(first)):
            aids.solve(i, grams[i], crosses[i], count * self._ids.shape[1])

    def _feed(self) -> Iterator[_Ready]:
        """The epoch's batches in the order that the seed and the epoch's number give; made ahead on a GPU."""
        order = torch.from_numpy(
            np.random.default_rng(np.random.SeedSequence([self.seed, BATCHES, self.done])).permutation(len(self._ids))
        )
        offsets = np.random.default_rng(np.random.SeedSequence([self.seed, OFFSETS, self.done]))
        plan = [(rows, slice(int(offsets.integers(STRIDE)), None, STRIDE)) for rows in order.split(self._batch)]
        if self.bench.device.type == "cuda" and self._states.decision.place != "recompute":
            yield from ahead(lambda part: self._ready(*part), plan)
        else:
            for part in plan:
                yield self._ready(*part)

    def _ready(self, rows: torch.Tensor, positions: slice) -> _Ready:
        device = self.bench.device
        wanted = sorted({layer for side in self.bench.targets_of(self.student.body) for layer in side})
        states = self._states.batch(rows, wanted, positions)
        ids = self._compact[rows]
        if device.type == "cuda":
            ids = ids.pin_memory().to(device, non_blocking=True)
            states = [s if s.is_cuda else s.pin_memory().to(device, non_blocking=True) for s in states]
        return _Ready(ids, dict(zip(wanted, states, strict=True)), positions, int(ids.numel()))

    @torch.no_grad()
    def _write_back(self) -> None:
        self._table[self._rows] = self._embeddings.detach()

    def state(self) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        tensors = {f"body.{n}": t.detach().clone() for n, t in self.student.body.state_dict().items()}
        tensors |= {f"aids.{n}": t.detach().clone() for n, t in _projections(self.student).state_dict().items()}
        for name, parameter in zip(self._names, self._parameters, strict=True):
            for key, value in self._optimiser.state.get(parameter, {}).items():
                tensors[f"optimiser.{name}.{key}"] = value.detach().clone()
        facts = {
            "done": self.done,
            "epochs": self.epochs,
            "seed": self.seed,
            "seconds": self._seconds,
            "tokens": self._tokens,
        }
        return tensors, facts

    def restore(self, tensors: Mapping[str, torch.Tensor], facts: Mapping[str, Any]) -> None:
        if facts["epochs"] != self.epochs or facts["seed"] != self.seed:
            raise UsageError(
                f"The checkpoint is of a training over {facts['epochs']} epochs with seed {facts['seed']}.",
                f"This one runs over {self.epochs} with seed {self.seed}; start it afresh.",
            )
        device = self.bench.device
        split: dict[str, dict[str, torch.Tensor]] = {"body": {}, "aids": {}, "optimiser": {}}
        for name, tensor in tensors.items():
            part, _, rest = name.partition(".")
            split[part][rest] = tensor
        self.student.body.load_state_dict(split["body"])
        _projections(self.student).load_state_dict(split["aids"])
        with torch.no_grad():
            self._embeddings.copy_(self._table[self._rows])
        for name, parameter in zip(self._names, self._parameters, strict=True):
            kept = {}
            for key in ("step", "exp_avg", "exp_avg_sq"):
                value = split["optimiser"].get(f"{name}.{key}")
                if value is not None:
                    kept[key] = value.clone().to(device)
            if kept:
                self._optimiser.state[parameter] = kept
        self.done, self._seconds = int(facts["done"]), float(facts["seconds"])
        self._tokens = int(facts["tokens"])


def _compact(ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    rows, places = torch.unique(ids, return_inverse=True)
    return rows, places
