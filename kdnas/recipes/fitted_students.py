"""Students of encoders fitted by least squares: what all candidates of a bench share for it, and the fit of one.

The teacher's moments and what enters its norms are cached on the disk, for all candidates, processes and studies; Gram
matrices that candidates share are kept in memory. Knows no loss and no store.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from kdnas.models import encoders, least_squares_init, solved_blocks
from kdnas.models.encoder_cut import EncoderCut
from kdnas.models.kept_results import KeptResults
from kdnas.models.least_squares_init import Prediction
from kdnas.models.solved_blocks import Gram, Listen
from kdnas.system.errors import UsageError
from kdnas.system.progress import Progress
from kdnas.teachers import hidden_state_cache, moments_cache
from kdnas.teachers.encoder import Teacher
from kdnas.teachers.hidden_state_cache import Kind, Known

KEPT = 128 * 2**20  # bytes of Gram matrices that a process keeps, and of predictions


class FittedStudents:
    """Fits one student after another to a teacher on the chunks `ids` [chunks, length].

    `students` is how many are about to be fitted. Raises UsageError for too few tokens to fit on.
    """

    def __init__(self, teacher: Teacher, ids: Tensor, students: int, on_progress: Progress, what: str) -> None:
        self.ids = ids
        self._teacher = teacher
        own = teacher.family.sizes(teacher.config)
        needed = max(own.width, own.inner)
        if self.ids.numel() < needed:
            raise UsageError(
                f"{what[:1].upper()}{what[1:]} has {self.ids.numel():,} tokens, too few to fit students of "
                f"{teacher.name!r} on: a layer of it has {needed:,} inputs.",
                "Give more text or a larger budget.proxy_fraction, or leave out recipe.init = fitted.",
            )
        beside: dict[Kind, Known] = {}
        self.moments = moments_cache.moments_of(teacher, ids, beside)
        self._outputs = beside.get("outputs")
        self._grams: KeptResults[Gram] = KeptResults(KEPT)
        self._predictions: KeptResults[Prediction] = KeptResults(KEPT)
        self._entering: hidden_state_cache.HiddenStates | None = None
        if not teacher.family.shared_layers:
            self._entering = hidden_state_cache.hidden_states(
                teacher,
                self.ids,
                range(own.layers),
                passes=students,
                on_progress=on_progress,
                what=what,
                kind="entering",
                known=beside.get("entering"),
            )
            hidden_state_cache.require_finite(self._entering, what)

    def outputs(self) -> Known | None:
        """The teacher's block outputs on the first of the chunks, where fitting has just made them; handed out once."""
        found, self._outputs = self._outputs, None
        return found

    def body(
        self,
        values: Mapping[str, object],
        cut: EncoderCut,
        weights: Mapping[str, Tensor],
        buffers: Mapping[str, Tensor],
        listen: Listen | None = None,
        at_once: int | None = None,
    ) -> torch.nn.Module:
        """A fitted body of the configuration `values` on the teacher's device, from the teacher's `weights` and
        `buffers`. `listen` hears what its layers give on the chunks `ids`, `at_once` of them at a time."""
        made = encoders.inherit(values, self.taken_over(weights, cut), buffers).to(self._teacher.device)
        wanted: Mapping[int, Tensor] = {}
        if solved_blocks.solves(cut):
            wanted = self.entering(len(self.ids), sorted(set(solved_blocks.ends_of(cut))))
        solved_blocks.solve_blocks(
            made, cut, weights, self.ids, wanted, kept=self._grams, listen=listen, at_once=at_once
        )
        return made

    def taken_over(self, weights: Mapping[str, Tensor], cut: EncoderCut) -> dict[str, Tensor]:
        """The weights of a student before its blocks are solved, from the teacher's `weights`."""
        return least_squares_init.taken_over(weights, cut, self.moments, self._predictions)

    def entering(self, count: int, layers: Sequence[int]) -> Mapping[int, Tensor]:
        """What enters the last norm of the teacher's `layers` on the first chunks: bf16 [count, length, hidden] each.

        Of a teacher whose layers are not shared.
        """
        assert self._entering is not None
        return self._entering.first(count, layers)

    def close(self) -> None:
        if self._entering is not None:
            self._entering.close()
