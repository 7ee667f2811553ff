"""AdamW over named parameters: its step size over a whole training, clipping, and its state by the parameters' names.

The one place that writes down an optimiser and takes it up again. Knows no loss and no data.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

MOMENTS = ("step", "exp_avg", "exp_avg_sq")


@dataclass(frozen=True)
class Group:
    """Parameters that share a peak step size and a decay."""

    parameters: Sequence[torch.nn.Parameter]
    peak: float
    decay: float


class Optimiser:
    """`schedule`, a backward pass, `step`: once for each step of a training."""

    def __init__(
        self, named: Mapping[str, torch.nn.Parameter], groups: Iterable[Group], *, warmup: float, clip: float
    ) -> None:
        self.named = dict(named)
        self._parameters = list(self.named.values())
        self._warmup, self._clip = warmup, clip
        self._peaks = [group.peak for group in groups]
        given = [{"params": list(g.parameters), "lr": g.peak, "weight_decay": g.decay} for g in groups]
        self._inner = torch.optim.AdamW(given, fused=True)

    def schedule(self, step: int, steps: int) -> None:
        """The step sizes of `step`, counted from 0, of `steps` in the whole training."""
        share = rate(step, steps, self._warmup)
        for group, peak in zip(self._inner.param_groups, self._peaks, strict=True):
            group["lr"] = peak * share

    def step(self) -> None:
        """Clip the gradients, take a step, let the gradients go."""
        clip(self._parameters, self._clip)
        self._inner.step()
        self._inner.zero_grad(set_to_none=True)

    def state(self) -> dict[str, Tensor]:
        """The moments, `NAME.step`, `NAME.exp_avg` and `NAME.exp_avg_sq`: the tensors themselves, not copies."""
        return {
            f"{name}.{moment}": value.detach()
            for name, parameter in self.named.items()
            for moment, value in self._inner.state.get(parameter, {}).items()
        }

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Take up what `state` gave; parameters without moments there begin without any."""
        for name, parameter in self.named.items():
            found = {
                moment: state[f"{name}.{moment}"].to(parameter.device, copy=True)
                for moment in MOMENTS
                if f"{name}.{moment}" in state
            }
            if found:
                self._inner.state[parameter] = found


def rate(step: int, steps: int, warmup: float) -> float:
    """Share of the peak step size at a step counted from 0: linear rise over `warmup`, then linear fall to 0.

    Not transformers' `get_linear_schedule_with_warmup`: its first step has size 0, ours the first part of the rise, so
    that no step of a short training is wasted. Studies begun before would not go on to the same bits.
    """
    rise = max(1, round(warmup * steps)) if warmup > 0 else 0
    if step < rise:
        return (step + 1) / rise
    return max(0.0, (steps - step) / max(1, steps - rise))


@torch.no_grad()
def clip(parameters: Sequence[torch.nn.Parameter], largest: float) -> None:
    """Scale the gradients down to a norm of `largest`; on the CPU gradients within it are not touched at all.

    Not `torch.nn.utils.clip_grad_norm_`: it adds 1e-6 to the norm, so that gradients just within `largest` change in
    their last bits, and on the CPU it costs a pass over all gradients at every step.
    """
    gradients = [p.grad for p in parameters if p.grad is not None]
    norm = torch.nn.utils.get_total_norm(gradients)
    if norm.is_cuda or float(norm) > largest:
        torch.nn.utils.clip_grads_with_norm_(parameters, largest, norm)
