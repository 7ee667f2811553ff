"""A student of the teacher's own sizes is the teacher: checked once for each teacher, before any other student is cut.

Cuts nothing itself. Knows no recipe.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from kdnas.measuring.device_lock import Turn
from kdnas.system import paths
from kdnas.system.errors import UsageError
from kdnas.system.tensor_files import computed_once

LAYOUT = 1  # of the check; part of its file's name
TOLERANCE = 1e-2  # of the states' standard deviation; rounding is far below it, a lost part far above


def require_repeated(
    name: str, fingerprint: str, device: torch.device, states: Callable[[], tuple[Tensor, Tensor]]
) -> None:
    """Raise UsageError where the two differ: last states of the teacher and of its cut of full size, on real text.

    `states`, computed on `device`, is asked once for each fingerprint of a teacher; what it found is cached.
    """
    path = paths.cache_folder() / "teacher" / "repeats" / f"{fingerprint}-{LAYOUT}.safetensors"

    def compared() -> dict[str, Tensor]:
        with Turn(device), torch.random.fork_rng(devices=[]):  # whoever draws afterwards draws what it would have drawn
            own, cut = (state.to("cpu", torch.float64) for state in states())
        return {"difference": (own - cut).square().mean().sqrt() / own.std().clamp_min(1e-12)}

    difference = float(computed_once(path, compared)["difference"])
    if not difference <= TOLERANCE:
        raise UsageError(
            f"kdnas cannot cut students out of {name!r}: one of its own sizes differs by {difference:.2g} of its "
            "states' spread.",
            'Take another teacher, or students that begin fresh (recipe.init = "random").',
        )


@torch.inference_mode()
def last_state(body: torch.nn.Module, ids: Tensor) -> Tensor:
    """The last hidden state [chunks, length, width] of a body on the chunks `ids` [chunks, length]."""
    body.eval()
    device = next(body.parameters()).device
    found: Tensor = body(input_ids=ids.to(device)).last_hidden_state
    return found.float()
