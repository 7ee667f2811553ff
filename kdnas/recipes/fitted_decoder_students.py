"""Students of decoders fitted by least squares: what all candidates of a bench share for it, and the fit of one.

The teacher's states, and what is measured on them, are cached on the disk for all candidates, processes and studies.
Knows no loss and no store.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedModel

from kdnas.measuring import memory
from kdnas.measuring.device_lock import Turn
from kdnas.models import decoder_measures, fitted_decoders
from kdnas.models.decoder_blocks import Blocks, rows_of
from kdnas.models.decoder_measures import Measured, kept_blocks, unit_order
from kdnas.models.decoders import Importance, sizes
from kdnas.system.errors import UsageError
from kdnas.system.progress import Progress
from kdnas.system.tensor_files import computed_once
from kdnas.teachers import cache_folder, decoder_states
from kdnas.teachers.causal import CausalModel

LAYOUT = 1  # of what is measured; part of its files' names


class FittedDecoderStudents:
    """Fits one student after another to a teacher on the chunks `ids` [chunks, length].

    `blocks` are the teacher's, `states` what enters them, and `measured` what is measured on these once for all. `kept`
    are the blocks that students of so many layers keep, where that was chosen before. Raises UsageError for too few
    tokens to fit on, and for a teacher whose states are no finite numbers.
    """

    def __init__(
        self,
        teacher: CausalModel,
        ids: Tensor,
        on_progress: Progress,
        what: str,
        kept: Mapping[int, list[int]] | None = None,
    ) -> None:
        self.teacher, self._on_progress, self.ids = teacher, on_progress, ids
        self._kept = dict(kept or {})
        own = sizes(teacher.config)
        needed = max(own.width, own.inner)
        if self.ids.numel() < needed or len(self.ids) < 2:
            raise UsageError(
                f"{what[:1].upper()}{what[1:]} has {self.ids.numel():,} tokens in chunks of {ids.shape[1]}, too few "
                f"to fit students of {teacher.name!r} on: a layer of it has {needed:,} inputs.",
                'Give more text or a larger budget.proxy_fraction, or take recipe.init = "inherit".',
            )
        self.states = decoder_states.states_of(teacher, self.ids, on_progress, what)
        with Turn(teacher.device):
            self.blocks = Blocks(teacher.model, self.ids[:1])
        self._orders: dict[int, Tensor] = {}
        self.measured = Measured(**self._once("measured", self._measure))

    def sources(self, layers: int) -> list[int]:
        """The teacher's blocks that a student of so many layers keeps."""
        if layers not in self._kept:
            self._kept[layers] = kept_blocks(self.measured.costs, layers)
        return self._kept[layers]

    def student(self, config: PreTrainedConfig, importance: Importance) -> PreTrainedModel:
        """A fitted student of the configuration, on the teacher's device."""
        sources = self.sources(sizes(config).layers)
        orders = {source: self.order(source) for source in sources}

        def fitted(rows: int) -> PreTrainedModel:
            return fitted_decoders.fitted(
                self.blocks,
                config,
                sources,
                importance,
                self.ids,
                self.states.__getitem__,
                orders,
                self.measured,
                at_once=rows,
            )

        return memory.whole(self.rows, self.teacher.device, fitted)

    @property
    def rows(self) -> int:
        """Chunks that go through a block at a time, as long as they fit."""
        return rows_of(self.ids.shape[1])

    def _once(self, what: str, make: Callable[[int], dict[str, Tensor]]) -> dict[str, Tensor]:
        """Kept because it ranks: two workers whose sums differ in the last bit must still cut the same student."""
        path = cache_folder.root() / "moments" / f"{self.states.key}-{what}-{LAYOUT}.safetensors"

        def measured() -> dict[str, Tensor]:
            self._on_progress("measuring which parts of the teacher carry most", None)
            with Turn(self.teacher.device):
                return memory.whole(self.rows, self.teacher.device, make)

        return computed_once(path, measured)

    def _measure(self, rows: int) -> dict[str, Tensor]:
        return decoder_measures.measured(self.blocks, self.ids, self.states.__getitem__, rows).tensors()

    def order(self, source: int) -> Tensor:
        """The feed-forward units of one of the teacher's blocks, as `unit_order` has them."""
        if source not in self._orders:

            def order(rows: int) -> dict[str, Tensor]:
                return {"order": unit_order(self.blocks, source, self.states[source], rows)}

            self._orders[source] = self._once(f"units-{source}", order)["order"]
        return self._orders[source]

    def close(self) -> None:
        self.states.close()
