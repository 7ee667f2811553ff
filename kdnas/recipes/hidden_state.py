"""Hidden-state distillation of encoders, Uniform+Last: the recipe of KD-NAS (Trivedi et al., 2023), made cheap.

Student layer i of L_S learns from the teacher's block outputs ⌊i·L_T/L_S⌋ and L_T−L_S+i (from 0, embeddings left
out), concatenated, through one linear layer H_S → 2·H_T of its own; mean squared error over real tokens. Bodies
only. Knows no strategy, no store and no screen.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from kdnas.data import chunks as chunking
from kdnas.data import tokens as tokenising
from kdnas.measuring import devices, memory, passes
from kdnas.measuring.block_table import Block
from kdnas.measuring.device_lock import Turn
from kdnas.measuring.passes import Once
from kdnas.models import encoders, least_squares_init, sentence_layout, solved_blocks
from kdnas.models.encoder_cut import EncoderCut, sliced
from kdnas.models.encoders import Family, Sizes
from kdnas.models.layer_choice import last, spread, uniform
from kdnas.models.sentence_encoder import with_length
from kdnas.models.sentence_layout import Layout
from kdnas.recipes import latency_tokens, layer_proposals, teacher_space
from kdnas.recipes.contract import Around, BlockTime, Description, Proposal, Recipe, Workbench
from kdnas.recipes.encoder_block_library import EncoderBlockLibrary
from kdnas.recipes.encoder_folder import EncoderFolder
from kdnas.recipes.fitted_students import FittedStudents
from kdnas.recipes.hidden_state_training import STRIDE, HiddenStateTraining, forward, projections
from kdnas.recipes.spaces import encoder_layers
from kdnas.recipes.spaces.encoder import layered, sizes_of
from kdnas.recipes.spaces.encoder_students import parameters_of, space_of
from kdnas.study import short_text
from kdnas.study.space import Candidate
from kdnas.study.spec import BudgetSpec, StudySpec
from kdnas.study.spec_recipes import EncoderRecipe
from kdnas.system import seeds
from kdnas.system.errors import BadOptionError, UsageError
from kdnas.system.progress import Progress
from kdnas.teachers import encoder, full_cut, hidden_state_cache
from kdnas.training.contract import Score, Student
from kdnas.training.losses.hidden_states import Projections, ProjectionSums

CUTS = {"spread": spread, "every-kth": uniform}
SCORE_TOKENS = {"cpu": 1024}  # that are scored at a time: what a layer leaves stays in the processor's cache
MORE_SCORE_TOKENS = 4096  # on other devices
CHECKED = 8  # chunks on which the teacher's values are looked at before anything is built on them


def _flops(student: Sizes, teacher: Sizes, length: int) -> float:
    """Of one token in a forward pass: attention's and feed-forward's products, and the projections'."""
    total = student.layers * student.width * 2 * teacher.width
    for layer in map(student.layer, range(student.layers)):
        heads = layer.heads * student.head_size
        total += 4 * student.width * heads + 2 * student.width * layer.inner + 2 * length * heads
    return 2.0 * total


class HiddenState(Recipe):
    """Builds search spaces and workbenches for encoders."""

    name = "hidden-state"
    summary = "Hidden states of an encoder, Uniform+Last layer mapping"
    families = (*encoders.FAMILIES, *encoders.PER_LAYER_TYPES)

    def describe(self, spec: StudySpec) -> Description:
        config, family = encoder.read_config(spec.teacher)
        own = family.sizes(config)
        _check_lengths(spec, family, config)
        if spec.strategy.predicts() and family.shared_layers:
            raise UsageError(
                f"The strategy {spec.strategy.name} scores blocks one by one, and those of {spec.teacher.model!r} "
                "share their weights.",
                "Take another strategy, tpe for example.",
            )
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
        space = space_of(spec, family, config)
        depths = [int(d) for d in next(d.choices for d in space.dimensions if d.name == "num_hidden_layers")]
        sources = {s for n in depths for s in (*uniform(n, own.layers), *last(n, own.layers))}
        return Description(
            space,
            facts,
            cache_bytes_per_token=len(sources) * own.width * 2,  # bf16
            flops_per_token=lambda candidate: _flops(sizes_of(candidate), own, spec.data.length),
            parameters=parameters_of(space, family, config),
        )

    def in_words_of_the_space(self, spec: StudySpec, config: Mapping[str, Any]) -> Mapping[str, Any]:
        return encoder_layers.in_words(config)

    def prepare(self, spec: StudySpec, device: torch.device, on_progress: Progress) -> HiddenStateBench:
        return HiddenStateBench(spec, device, on_progress)


def _check_lengths(spec: StudySpec, family: Family, config: Any) -> None:
    limit = family.length_limit(config)
    for field, length in (("data.length", spec.data.length), ("latency.length", spec.latency.length)):
        if length > limit:
            raise BadOptionError(
                field, f"{field} = {length} is more than the teacher's {limit} positions.", f"Give at most {limit}."
            )


class HiddenStateBench(Workbench):
    """Teacher, chunks and cached hidden states, shared by all candidates of a process."""

    def __init__(self, spec: StudySpec, device: torch.device, on_progress: Progress) -> None:
        self.spec, self.device, self._on_progress = spec, device, on_progress
        assert isinstance(spec.recipe, EncoderRecipe)
        self._init, self._cut = spec.recipe.init, spec.recipe.cut
        self.teacher = encoder.load(spec.teacher, device, on_progress)
        self.family = self.teacher.family
        self.own = self.family.sizes(self.teacher.config)
        _check_lengths(spec, self.family, self.teacher.config)
        self.space = space_of(spec, self.family, self.teacher.config)
        self._parameters = parameters_of(self.space, self.family, self.teacher.config)
        depths = next(d.choices for d in self.space.dimensions if d.name == "num_hidden_layers")
        self.layers = sorted({layer for d in depths for layer in self._sources(int(d))})
        self.chunks = chunking.chunks(spec.data, spec.budget.proxy_fraction, self.teacher.tokenizer, on_progress)
        self._scored_as_built = not self.budget.epochs or bool(self.budget.rungs)
        self._proxy_ids = torch.from_numpy(self.chunks.proxy)
        self._held_ids = torch.from_numpy(self.chunks.held_out)
        encoder.require_finite(self.teacher, self._proxy_ids[:CHECKED])
        readings = max(1, self.budget.epochs) * spec.budget.trials
        self.fitted: FittedStudents | None = None
        if self._init == "fitted":
            what = f"the proxy set of {spec.data.source}"
            sampled = least_squares_init.sample(self._proxy_ids)
            self.fitted = FittedStudents(self.teacher, sampled, spec.budget.trials, on_progress, what)
            self.fitted_tokens = sampled.numel()
        known = None if self.fitted is None else self.fitted.outputs()
        self.proxy = self._states(self._proxy_ids, readings, "the proxy set", known=known)
        self._as_built = self.proxy  # what a student is solved on, and all that one without epochs sees
        del known
        self.held_out = self._states(self._held_ids, readings, "the held-out part")
        self._configured: tuple[Candidate, dict[str, Any]] | None = None
        self._full: hidden_state_cache.HiddenStates | None = None
        self._importance = hidden_state_cache.importance_of(self.teacher, self._proxy_ids)
        self._weights = {name: tensor.cpu() for name, tensor in self.teacher.body.state_dict().items()}
        self._weights |= {name: tensor.cpu() for name, tensor in self.teacher.pooler.items()}
        self._buffers = {
            name: buffer.cpu() for name, buffer in self.teacher.body.named_buffers() if name not in self._weights
        }
        self._folder = EncoderFolder(spec.teacher, self.teacher, self._importance.width, self._init == "fitted")
        if self._init != "random":
            full_cut.require_repeated(self.teacher.name, self.teacher.fingerprint, device, self._both_states)
        statistics = self.proxy.statistics
        self._variance = {layer: float(statistics.variance[layer].mean()) for layer in self.layers}
        ids = latency_tokens.drawn(self.chunks.train[:64, 1:-1].reshape(-1), spec.latency)
        ids[:, 0], ids[:, -1] = tokenising.special_tokens(self.teacher.tokenizer)
        self._timed_ids = torch.from_numpy(ids).to(device)

    def _states(
        self,
        ids: torch.Tensor,
        readings: int,
        what: str,
        layers: Sequence[int] | None = None,
        known: hidden_state_cache.Known | None = None,
    ) -> hidden_state_cache.HiddenStates:
        where = f"{what} of {self.spec.data.source}"
        states = hidden_state_cache.hidden_states(
            self.teacher,
            ids,
            self.layers if layers is None else layers,
            passes=readings,
            on_progress=self._on_progress,
            what=where,
            known=known,
        )
        hidden_state_cache.require_finite(states, where)
        return states

    def _sources(self, layers: int) -> list[int]:
        return [*uniform(layers, self.own.layers), *last(layers, self.own.layers)]

    @property
    def budget(self) -> BudgetSpec:
        return short_text.allowed(self.spec, int(self.chunks.proxy.size))

    def config(self, candidate: Candidate) -> dict[str, Any]:
        """Computed once for all that asks of one candidate after another."""
        if self._configured is None or self._configured[0] != candidate:
            values = encoders.config_values(self.family, self.teacher.config, sizes_of(candidate))
            self._configured = dict(candidate), values
        return dict(self._configured[1])

    def parameters(self, candidate: Candidate) -> int:
        return self._parameters(candidate)

    def build(self, candidate: Candidate, seed: int) -> Student:
        """The body, cut out of the teacher or fresh, and one projection a layer."""
        sizes = sizes_of(candidate)
        values = self.config(candidate)
        aids = self.aids(sizes).to(self.device)
        if self._init == "random":
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seeds.long_number(seed, seeds.Student.WEIGHTS))
                body = encoders.build_body(encoders.configure(values)).to(self.device)
        else:
            body = self._cut_out(values, sizes, aids)
        return Student(body, aids)

    def build_in_full(self, candidate: Candidate, seed: int) -> Student:
        """A fitted one is solved on up to four times the tokens of a search's, where the training part has them."""
        ids = least_squares_init.sample(torch.from_numpy(self.chunks.train), least_squares_init.IN_FULL)
        if self.fitted is not None and len(ids) > len(self.fitted.ids):
            self.fitted.close()
            what, readings = "the training part", 2  # by the fit, and by what is laid out after it
            where = f"{what} of {self.spec.data.source}"
            self.fitted = FittedStudents(self.teacher, ids, readings, self._on_progress, where)
            self.fitted_tokens = ids.numel()
            known = self.fitted.outputs()
            if len(ids) > len(self._proxy_ids):
                layers = sorted({*self._sources(sizes_of(candidate).layers)})
                self._as_built = self._states(ids, readings, what, layers, known)
            del known  # which may be large
            self._scored_as_built = True
        return self.build(candidate, seed)

    def aids(self, sizes: Sizes) -> Projections:
        """What only the training of a student of these sizes needs, before any of it is solved."""
        return Projections(sizes.layers, sizes.width, 2 * self.own.width)

    def _cut_out(self, values: dict[str, Any], sizes: Sizes, aids: Projections) -> torch.nn.Module:
        sources = CUTS[self._cut](sizes.layers, self.own.layers)
        cut = EncoderCut(self.family, self.teacher.config, sizes, self._importance, sources)
        if self.fitted is None:
            return encoders.inherit(values, sliced(self._weights, cut), self._buffers).to(self.device)
        fitted = self.fitted

        def solved(rows: int) -> torch.nn.Module:
            if not self._scored_as_built:
                return fitted.body(values, cut, self._weights, self._buffers, at_once=rows)
            # The projections of a score before any step come from the states that the fit passes by.
            first, second = uniform(sizes.layers, self.own.layers), last(sizes.layers, self.own.layers)
            targets = self._as_built.first(len(fitted.ids), sorted({*first, *second}))
            sums = ProjectionSums(aids)

            def listen(layer: int, part: slice, states: torch.Tensor) -> None:
                sums.add(layer, states, targets[first[layer]][part], targets[second[layer]][part])

            body = fitted.body(values, cut, self._weights, self._buffers, listen, rows)
            sums.solve()
            return body

        return memory.whole(solved_blocks.rows_of(self.spec.data.length), self.device, solved)

    def _both_states(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Last states of the teacher and of a student that is all of it, on the first chunks."""
        values = encoders.config_values(self.family, self.teacher.config, self.own)
        cut = EncoderCut(self.family, self.teacher.config, self.own, self._importance, range(self.own.layers))
        whole = encoders.inherit(values, sliced(self._weights, cut), self._buffers).to(self.device)
        ids = self._proxy_ids[:CHECKED]
        return full_cut.last_state(self.teacher.body, ids), full_cut.last_state(whole, ids)

    def training(self, student: Student, *, epochs: int, seed: int, full: bool = False) -> HiddenStateTraining:
        states = self._full_states(student, epochs) if full and epochs else self._as_built
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
        body, aids = student.body, projections(student)
        first, second = self.targets_of(body)
        total = torch.zeros(len(first), 2, dtype=torch.float64)
        body.eval()
        at_once = SCORE_TOKENS.get(self.device.type, MORE_SCORE_TOKENS)
        for rows in torch.arange(len(self._held_ids)).split(max(1, at_once // self._held_ids.shape[1])):
            outputs = forward(body, self.device, input_ids=self._held_ids[rows].to(self.device))
            targets = self.held_out.batch(rows, sorted({*first, *second}))
            known = dict(zip(sorted({*first, *second}), targets, strict=True))
            for i, output in enumerate(outputs):
                total[i] += aids.squared_errors(i, output, known[first[i]], known[second[i]]).cpu().double()
        total /= self._held_ids.numel() * self.own.width
        raw = float(total.mean())
        loss = float(total[-1, 1]) / self.variance_of(self.own.layers - 1)
        return Score(loss, raw, {"mapped_loss": raw / self.variance(body)})

    def comparable(self, candidate: Candidate) -> str:
        return f"{sizes_of(candidate).layers} layers"

    def timed(self, student: Student | None) -> Once:
        body = self.teacher.body if student is None else student.body
        dtype = self.spec.latency.dtype
        return passes.one_pass(body, self.device, dtype, frozen=student is None, input_ids=self._timed_ids)

    def shape_key(self, candidate: Candidate | None) -> str:
        # A student's figure is taken beside the teacher's, so that the teacher's sizes belong to the key.
        keep = {
            "family": self.family.model_type,
            "teacher": self.own.values(),
            "student": None if candidate is None else sizes_of(candidate).values(),
            "batch": list(self._timed_ids.shape),
            "bf16": devices.autocasts(self.device),
        }
        return json.dumps(keep, sort_keys=True)

    def blocks(self, candidate: Candidate) -> tuple[Block, ...]:
        sizes = sizes_of(candidate)
        # Heads of another size than the width gives are named by it: equal blocks take equal time.
        of_size = f" of {sizes.head_size}" if layered(candidate) else ""
        layers = map(sizes.layer, range(sizes.layers))
        return tuple(
            Block(sizes.width, f"{layer.heads} heads{of_size}, {layer.inner} neurons, {sizes.act}") for layer in layers
        )

    def repeated(self, candidate: Candidate, depth: int) -> list[Candidate]:
        if layered(candidate):
            return encoder_layers.repeated(self.space, candidate, depth)
        return super().repeated(candidate, depth)

    def predicted(self, on_progress: Progress) -> np.ndarray:
        if self.fitted is None:
            return super().predicted(on_progress)
        return self._library().losses(self.space, on_progress)

    def proposals(self, block: BlockTime, around: Around, on_progress: Progress) -> list[Proposal]:
        if self.fitted is None or not layered(self.space.from_ordinal(0)):
            return super().proposals(block, around, on_progress)
        return layer_proposals.best(self.space, self._library(), block, around, on_progress)

    def _library(self) -> EncoderBlockLibrary:
        assert self.fitted is not None
        depths = next(d.choices for d in self.space.dimensions if d.name == "num_hidden_layers")
        spans = {}
        for depth in map(int, depths):
            sources = CUTS[self._cut](depth, self.own.layers)
            spans[depth] = list(zip(sources, solved_blocks.ends_at(sources, self.own.layers), strict=True))
        weights, buffers = self._weights, self._buffers
        return EncoderBlockLibrary(self.teacher, self.fitted, weights, buffers, self._importance, spans)

    def probe(self, candidate: Candidate) -> Student:
        with torch.random.fork_rng(devices=[]):  # the program's own numbers stay as they are
            return Student(encoders.build_body(encoders.configure(self.config(candidate))).to(self.device))

    def save(self, student: Student, folder: Path) -> None:
        self._folder.save(student.body, projections(student), torch.from_numpy(self.chunks.train), folder)

    def finished(self, student: Student, folder: Path, on_progress: Progress) -> dict[str, Any]:
        return self._folder.finished(self._held_ids, folder, on_progress)

    def sentence_layout(self) -> Layout | None:
        found = sentence_layout.read(self.teacher.folder, self.teacher.name)
        return None if found is None else with_length(found, self.teacher.config, self.teacher.tokenizer)

    def lay_out(self, student: Student, folder: Path, layout: Layout, on_progress: Progress) -> dict[str, Any]:
        on_progress("solving its way into the teacher's space", None)
        space = teacher_space.TeacherSpace(layout, student.body.eval())
        known = self._as_built if self._full is None else self._full

        def solved(rows: int) -> Layout:
            return space.solved(self._lessons(layout, known, rows), rows)

        def cosine(rows: int) -> float:
            return space.cosine(made, self._held_ids, partial(self.last, self.held_out), rows)

        with Turn(self.device):
            made = memory.whole(teacher_space.BATCH, self.device, solved)
            close = memory.whole(teacher_space.BATCH, self.device, cosine)
        sentence_layout.write(folder, made, self.family.sizes(student.body.config).width)  # type: ignore[arg-type]
        return {"embedding": {**made.facts(), "cosine": close}}

    def _lessons(
        self, layout: Layout, states: hidden_state_cache.HiddenStates, rows: int
    ) -> tuple[teacher_space.Lesson, ...]:
        begun, known = self.chunks.beginnings, partial(self.last, states)
        return teacher_space.lessons(layout, self.teacher.body, states.ids, begun, known, rows)

    def last(self, states: hidden_state_cache.HiddenStates, places: torch.Tensor) -> torch.Tensor:
        """The teacher's last states of the chunks at `places`."""
        return states.batch(places, [self.own.layers - 1])[0]

    def provenance(self) -> dict[str, Any]:
        proxy = int(self.chunks.proxy.size)
        return {
            "teacher": self.teacher.name,
            "teacher_fingerprint": self.teacher.fingerprint,
            "tokenizer_fingerprint": tokenising.tokenizer_fingerprint(self.teacher.tokenizer),
            "data": self.spec.data.source,
            "data_fingerprint": self.chunks.fingerprint,
            "documents": self.chunks.documents,
            **self.chunks.record,
            "training_tokens": int(self.chunks.train.size),
            "proxy_tokens": proxy,
            "held_out_tokens": int(self.chunks.held_out.size),
            **({} if self.budget == self.spec.budget else {"short_text": short_text.facts(self.spec, proxy)}),
            "cache": {"proxy": self.proxy.decision.facts(), "held_out": self.held_out.decision.facts()},
            "projection": "one per student layer",
            "stride": STRIDE,
        }

    def close(self) -> None:
        for states in (self.proxy, self._as_built, self.held_out):
            states.close()
        if self.fitted is not None:
            self.fitted.close()
        if self._full is not None:
            self._full.close()
            self._full = None
