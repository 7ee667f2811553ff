"""What makes a trained recurrent student smaller: weights at zero, whole hidden units taken out, int8 weights.

Zeros alone save neither time nor space until something stores them sparsely; the other two do. Measures nothing.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator
from math import ceil
from typing import cast

import torch
from torch import Tensor, nn

from kdnas.models.recurrent import (
    ConvolutionLayer,
    RecurrentConfig,
    RecurrentForSequenceClassification,
    RecurrentLayer,
    TransformerLayer,
)

# ---------------------------------------------------------------------------- weights at zero


def prunable(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """The matrices of recurrent, convolution and linear layers: no biases, norms and embeddings."""
    for name, module in model.named_modules():
        if isinstance(module, nn.LSTM | nn.GRU | nn.Linear | nn.Conv1d):
            for leaf, parameter in module.named_parameters(recurse=False):
                if parameter.dim() >= 2:
                    yield f"{name}.{leaf}", parameter


class Masks(nn.Module):
    """Which weights of a student are at zero for good: in each matrix those of least magnitude (Zhu and Gupta, 2017).

    A student is trained with them and saved without: what they hold at zero is zero in its weights.
    """

    def __init__(self, model: nn.Module, share: float) -> None:
        super().__init__()
        self.share = share
        self._weights: dict[str, nn.Parameter] = dict(prunable(model)) if share else {}
        for name, parameter in self._weights.items():
            self.register_buffer(name.replace(".", "-"), torch.ones_like(parameter, dtype=torch.bool))

    @torch.no_grad()
    def tighten(self, progress: float) -> None:
        """Let go of more weights: at `progress` (0 … 1) of the ramp, share · (1 − (1 − progress)³) of each matrix. What
        was let go of stays so."""
        for name, parameter in self._weights.items():
            kept: Tensor = getattr(self, name.replace(".", "-"))
            wanted = round(self.share * (1.0 - (1.0 - min(1.0, progress)) ** 3) * parameter.numel())
            if wanted > parameter.numel() - int(kept.sum()):
                strength = parameter.abs().masked_fill(~kept, -1.0).flatten()
                kept.view(-1)[strength.argsort(stable=True)[:wanted]] = False
        self.apply_to_weights()

    @torch.no_grad()
    def apply_to_weights(self) -> None:
        for name, parameter in self._weights.items():
            parameter.mul_(getattr(self, name.replace(".", "-")))


def zeros(model: nn.Module) -> float:
    """Share of the prunable weights that are zero."""
    weights = [parameter for _, parameter in prunable(model)]
    return sum(int((w == 0).sum()) for w in weights) / max(1, sum(w.numel() for w in weights))


def nonzero(model: nn.Module) -> int:
    """Parameters that are not zero."""
    return sum(int(torch.count_nonzero(p)) for p in model.parameters())


# ---------------------------------------------------------------------------- whole hidden units


def kept_units(size: int, remove: float) -> int:
    return max(1, ceil(size * (1.0 - remove)))


@torch.no_grad()
def narrowed(model: RecurrentForSequenceClassification, remove: float) -> RecurrentForSequenceClassification:
    """The student without the share `remove` of the hidden units of every layer, and of its attention: those whose
    weights are smallest in sum. In a transformer cell units are those between a block's two feed-forward layers, since
    what runs along the residual stream can't be taken out of one layer alone."""
    config = cast(RecurrentConfig, copy.deepcopy(model.config))
    config.attention_size = kept_units(config.attention_size, remove)
    if config.cell == "transformer":
        config.intermediate_size = kept_units(config.intermediate_size, remove)
    else:
        config.hidden_size = kept_units(config.hidden_size, remove)
    made = RecurrentForSequenceClassification(config)
    made.to(next(model.parameters()).device)  # type: ignore[arg-type]
    made.row_of.copy_(model.row_of)
    made.embeddings.load_state_dict(model.embeddings.state_dict())
    alive: Tensor | None = None  # of the outputs of the layer before: places that are kept
    for old, new in zip(model.layers, made.layers, strict=True):
        if isinstance(old, RecurrentLayer) and isinstance(new, RecurrentLayer):
            alive = _narrow_recurrent(old, new, alive, config.hidden_size)
        elif isinstance(old, ConvolutionLayer) and isinstance(new, ConvolutionLayer):
            alive = _narrow_convolution(old, new, alive, config.hidden_size)
        elif isinstance(old, TransformerLayer) and isinstance(new, TransformerLayer):
            _narrow_transformer(old, new, config.intermediate_size)
    _narrow_linear(model.output, made.output, None, alive)
    strength = model.attention.project.weight.abs().sum(1) * model.attention.score.weight[0].abs()
    inner = _top(strength, config.attention_size)
    _narrow_linear(model.attention.project, made.attention.project, inner, alive)
    _narrow_linear(model.attention.score, made.attention.score, None, inner)
    return made.train(model.training)


def _top(strength: Tensor, count: int) -> Tensor:
    """Places of the `count` largest, in ascending order; of equal ones the first."""
    return strength.argsort(descending=True, stable=True)[:count].sort().values


def _cut(tensor: Tensor, rows: Tensor | None, columns: Tensor | None = None) -> Tensor:
    tensor = tensor if rows is None else tensor.index_select(0, rows)
    return tensor if columns is None else tensor.index_select(1, columns)


def _narrow_linear(old: nn.Linear, new: nn.Linear, rows: Tensor | None, columns: Tensor | None) -> None:
    new.weight.copy_(_cut(old.weight, rows, columns))
    if old.bias is not None:
        new.bias.copy_(_cut(old.bias, rows))


def _narrow_recurrent(old: RecurrentLayer, new: RecurrentLayer, inputs: Tensor | None, count: int) -> Tensor:
    kept, offset = [], 0
    for before, after in ((old.ahead, new.ahead), (old.back, new.back)):
        if before is None or after is None:
            continue
        own, made = before.state_dict(), after.state_dict()  # the very tensors
        size = before.hidden_size
        gates = len(own["bias_ih_l0"]) // size
        to_unit = own["weight_ih_l0"].abs().sum(1) + own["weight_hh_l0"].abs().sum(1)
        units = _top(to_unit.view(gates, size).sum(0) + own["weight_hh_l0"].abs().sum(0), count)
        rows = torch.cat([units + gate * size for gate in range(gates)])
        columns = {"weight_ih_l0": inputs, "weight_hh_l0": units}
        for name, tensor in own.items():
            made[name].copy_(_cut(tensor, rows, columns.get(name)))
        kept.append(units + offset)
        offset += size
    return torch.cat(kept)


def _narrow_convolution(old: ConvolutionLayer, new: ConvolutionLayer, inputs: Tensor | None, count: int) -> Tensor:
    units = _top(old.convolution.weight.abs().sum((1, 2)), count)
    new.convolution.weight.copy_(_cut(old.convolution.weight, units, inputs))
    assert old.convolution.bias is not None and new.convolution.bias is not None
    new.convolution.bias.copy_(_cut(old.convolution.bias, units))
    return units


def _narrow_transformer(old: TransformerLayer, new: TransformerLayer, count: int) -> None:
    units = _top(old.up.weight.abs().sum(1) * old.down.weight.abs().sum(0), count)
    weights = {name: t for name, t in old.state_dict().items() if not name.startswith(("up.", "down."))}
    new.load_state_dict(weights, strict=False)
    _narrow_linear(old.up, new.up, units, None)
    _narrow_linear(old.down, new.down, None, units)


# ---------------------------------------------------------------------------- int8


def int8(model: RecurrentForSequenceClassification) -> nn.Module:
    """The student with recurrent and linear weights in int8, activations quantised as they come, and embeddings in
    8 bits a row: torch's dynamic quantisation, for the CPU. Convolutions stay as they are.

    It is deprecated, but nothing replaces it: torchao 0.18 leaves LSTM and GRU in float, onnxruntime leaves GRU."""
    from torch.ao.quantization import (
        default_dynamic_qconfig,
        float_qparams_weight_only_qconfig,
        quantize_dynamic,
    )

    chosen = {
        nn.LSTM: default_dynamic_qconfig,
        nn.GRU: default_dynamic_qconfig,
        nn.Linear: default_dynamic_qconfig,
        nn.Embedding: float_qparams_weight_only_qconfig,
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it will move to another package one day
        made: nn.Module = quantize_dynamic(copy.deepcopy(model).cpu().eval(), chosen)
    return made
