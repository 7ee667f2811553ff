"""Text that a causal student, its teacher or a mixture of both writes while the student learns, kept for several steps.

Generation runs once for all prompts of a step, through static key-value caches. Knows no loss.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from math import log

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor
from transformers import PreTrainedModel, StaticCache

from kdnas.measuring.devices import autocast
from kdnas.models.decoders import body_and_head
from kdnas.system.errors import BadOptionError
from kdnas.teachers.causal import CausalModel

JUDGED_ROWS = 256  # positions whose vocabulary is held at a time


@dataclass(frozen=True)
class Sample:
    """Continuations of a batch of prompts. All [batch, new tokens] but `ids` [batch, prompt + new tokens]."""

    ids: Tensor
    real: Tensor  # 1 up to and with the end of text
    student: Tensor  # log q of the drawn tokens, at temperature 1
    drawn_from: Tensor  # log of the mixture that they were drawn from
    teacher_hidden: Tensor  # [batch, new tokens, teacher's width], under its vocabulary head, at the drawing position
    teacher: Tensor | None = None  # log p of the drawn tokens, at temperature 1, where it was asked for

    def __getitem__(self, rows: slice) -> Sample:
        return Sample(**{name: tensor[rows] for name, tensor in self.tensors().items()})

    def tensors(self) -> dict[str, Tensor]:
        found = {part.name: getattr(self, part.name) for part in fields(self)}
        return {name: tensor for name, tensor in found.items() if tensor is not None}

    @property
    def prompt(self) -> int:
        """Tokens before the drawn ones."""
        return self.ids.shape[1] - self.real.shape[1]

    @property
    def tokens(self) -> Tensor:
        """The drawn ones, [batch, new tokens]."""
        return self.ids[:, self.prompt :]


@torch.no_grad()
def sample(
    student: PreTrainedModel,
    teacher: CausalModel,
    prompts: Tensor,
    *,
    new_tokens: int,
    mix: float,
    temperature: float,
    end: int,
    generator: torch.Generator,
    judged: bool = True,
) -> Sample:
    """Draw from mix · teacher + (1 − mix) · student, both softened, token by token with key-value caches. With `judged`
    the teacher's log-probabilities of what was drawn are part of the sample.

    Teacher and student may sit on different devices. With mix 0 the teacher runs once, at the end.
    """
    was = student.training
    student.eval()
    device = student.device
    body, head = body_and_head(student)
    teacher_body, _ = body_and_head(teacher.model)
    room = prompts.shape[1] + new_tokens
    past = StaticCache(config=student.config, max_cache_len=room)
    teacher_past = StaticCache(config=teacher.config, max_cache_len=room) if mix > 0 else None
    given = ids = prompts.to(device)
    alive = torch.ones(len(ids), device=device)
    real, own, mixture, theirs, hidden = [], [], [], [], []
    for _ in range(new_tokens):
        with autocast(device):
            logits = head(body(input_ids=given, past_key_values=past, use_cache=True).last_hidden_state[:, -1])
        log_q = F.log_softmax(logits.float(), -1)
        source = F.log_softmax(logits.float() / temperature, -1) if temperature != 1.0 else log_q
        log_p = None
        if teacher_past is not None:
            with autocast(teacher.device):
                state = teacher_body(
                    input_ids=given.to(teacher.device), past_key_values=teacher_past, use_cache=True
                ).last_hidden_state[:, -1]
            hidden.append(state)
            said = teacher.logits(state)
            log_p = F.log_softmax(said, -1).to(device)
            softened = F.log_softmax(said / temperature, -1).to(device) if temperature != 1.0 else log_p
            source = torch.logaddexp(softened + log(mix), source + log(1.0 - mix))
        token = torch.multinomial(source.exp(), 1, generator=generator)
        own.append(log_q.gather(1, token)[:, 0])
        mixture.append(source.gather(1, token)[:, 0])
        if log_p is not None:
            theirs.append(log_p.gather(1, token)[:, 0])
        real.append(alive)
        ids = torch.cat([ids, token], 1)
        given = token
        alive = alive * (token[:, 0] != end)
        if not bool(alive.any()):
            break
    student.train(was)
    first = prompts.shape[1]
    states = torch.stack(hidden, 1) if hidden else teacher.hidden(ids)[:, first - 1 : -1]
    said_of_drawn = torch.stack(theirs, 1) if theirs else _of_drawn(teacher, states, ids[:, first:]) if judged else None
    return Sample(ids, torch.stack(real, 1), torch.stack(own, 1), torch.stack(mixture, 1), states, said_of_drawn)


def _of_drawn(teacher: CausalModel, states: Tensor, tokens: Tensor) -> Tensor:
    """The teacher's log-probabilities of drawn tokens [batch, new], a few positions' vocabulary at a time."""
    flat, drawn, parts = states.flatten(0, 1), tokens.flatten(), []
    for place in range(0, len(flat), JUDGED_ROWS):
        log_p = F.log_softmax(teacher.logits(flat[place : place + JUDGED_ROWS]), -1).to(tokens.device)
        parts.append(log_p.gather(-1, drawn[place : place + JUDGED_ROWS, None]).squeeze(-1))
    return torch.cat(parts).view_as(tokens)


def check_prompt(prompt_tokens: int, length: int) -> None:
    """Raise BadOptionError for beginnings of chunks that leave nothing to write."""
    if prompt_tokens >= length:
        raise BadOptionError(
            "recipe.prompt_tokens",
            f"recipe.prompt_tokens = {prompt_tokens} leaves nothing of chunks of {length} tokens.",
            "Give fewer, or raise data.length.",
        )


class Kept:
    """The last sample, and for how many steps it has served: part of what a training writes down within an epoch."""

    def __init__(self, uses: int) -> None:
        """`uses`: steps that one sample serves."""
        self._uses = uses
        self.sample: Sample | None = None
        self.used = 0

    @property
    def due(self) -> bool:
        """Whether the next step needs a new one."""
        return self.sample is None or self.used >= self._uses

    def draw(self, drawn: Sample) -> None:
        self.sample, self.used = drawn, 0

    def forget(self) -> None:
        self.sample, self.used = None, 0

    def state(self) -> dict[str, Tensor]:
        """Nothing where the next step draws anew."""
        if self.due or self.sample is None:
            return {}
        return {"used": torch.tensor(self.used), **self.sample.tensors()}

    def restore(self, state: Mapping[str, Tensor], device: torch.device, teacher: torch.device) -> None:
        self.forget()
        if state:
            self.used = int(state["used"])
            tensors = {name: tensor for name, tensor in state.items() if name != "used"}
            places = {name: teacher if name == "teacher_hidden" else device for name in tensors}
            self.sample = Sample(**{name: tensor.to(places[name], copy=True) for name, tensor in tensors.items()})
