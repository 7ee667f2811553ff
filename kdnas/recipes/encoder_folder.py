"""The folder of an encoder student: its body, the pooler that its class expects, the head of a teacher that has one."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from kdnas.measuring import memory
from kdnas.measuring.device_lock import Turn
from kdnas.models import classifier_head, encoders, least_squares_init
from kdnas.models import open as opening
from kdnas.models.encoder_cut import best
from kdnas.study.spec import TeacherSpec
from kdnas.system import seeds
from kdnas.system.progress import Progress
from kdnas.teachers import encoder
from kdnas.teachers.encoder import Teacher
from kdnas.training.losses.hidden_states import Projections


@dataclass(frozen=True)
class EncoderFolder:
    """Writes students of one teacher. Layers that read the teacher's last state are taken over into each student: a
    slice by `importance` [H_T] of the teacher's dimensions, or, of students that were `fitted`, read through the
    student's own projection."""

    asked: TeacherSpec
    teacher: Teacher
    importance: torch.Tensor
    fitted: bool

    def save(self, body: torch.nn.Module, aids: Projections, ids: torch.Tensor, folder: Path) -> None:
        """The body, with the pooler that AutoModel's class expects, and the tokenizer; with a head, of a teacher that
        classifies, whose labels come from the chunks `ids` [chunks, length]."""
        folder.mkdir(parents=True, exist_ok=True)
        family = self.teacher.family
        config = encoders.configure(encoders.config_values(family, self.teacher.config, family.sizes(body.config)))  # type: ignore[arg-type]
        config.architectures = [type(body).__name__]
        if family.sizes(config).each:
            config.auto_map = encoders.carry_code(config, folder)
        config.dtype = torch.float32
        weights = {name: tensor.detach().cpu().contiguous() for name, tensor in body.state_dict().items()}
        width = family.sizes(config).width
        taken_over = partial(self._taken_over, aids, width)
        if family.pooler is not None:
            weight, bias = self._pooler(taken_over, width)
            weights[f"{family.pooler}.weight"] = weight.contiguous()
            weights[f"{family.pooler}.bias"] = bias.contiguous()
        whole = self._classifier()
        if whole is not None:

            def solved(rows: int) -> Any:
                return classifier_head.classifier(whole, family, config, weights, taken_over, ids, rows)

            with Turn(self.teacher.device):
                made = memory.whole(classifier_head.BATCH, self.teacher.device, solved)
            weights = {name: tensor.contiguous() for name, tensor in made.state_dict().items()}
        config.save_pretrained(folder)
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
        self.teacher.tokenizer.save_pretrained(folder)

    def finished(self, held_out: torch.Tensor, folder: Path, on_progress: Progress) -> dict[str, Any]:
        """`head`, of a teacher that classifies: its labels, and the share of the chunks `held_out` [chunks, length] on
        which the two agree."""
        whole = self._classifier()
        if whole is None:
            return {}
        on_progress("scoring its head", None)
        made = classifier_head.opened(folder, self.teacher.device)
        labels = [str(whole.config.id2label[place]) for place in range(whole.config.num_labels)]

        def agreement(rows: int) -> float:
            return classifier_head.agreement(made, whole, held_out, rows)

        with Turn(self.teacher.device):
            share = memory.whole(classifier_head.BATCH, self.teacher.device, agreement)
        return {"head": {"labels": labels, "agreement": share}}

    def _classifier(self) -> Any | None:
        return encoder.classifier_of(self.teacher, opening.locate(self.asked))

    def _pooler(self, taken_over: classifier_head.TakenOver, width: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Weight [width, width] and bias of the student's pooler: the teacher's where there is one, else a fixed random
        one."""
        own = {name.removeprefix(f"{self.teacher.family.pooler}."): t.cpu() for name, t in self.teacher.pooler.items()}
        if own:
            return taken_over(own["weight"], own["bias"])
        drawn = torch.Generator().manual_seed(seeds.fixed_number(seeds.Fixed.POOLER))
        return torch.randn(width, width, generator=drawn) * 0.02, torch.zeros(width)

    @torch.no_grad()
    def _taken_over(
        self, aids: Projections, width: int, weight: torch.Tensor, bias: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """A layer that reads the teacher's last state, cut to the student's width."""
        kept = best(self.importance, width)
        weight, bias = weight[kept], bias[kept]
        if not self.fitted:
            return weight[:, kept], bias
        given, offset = (part[-1][..., self.teacher.hidden :].cpu() for part in (aids.weight, aids.bias))
        return least_squares_init.reading(weight, bias, given.t(), offset)
