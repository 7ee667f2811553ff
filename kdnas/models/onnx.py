"""A model folder as ONNX: written by torch's exporter, checked against PyTorch in onnxruntime.

Only bodies and heads that `from_pretrained` opens. Needs the extra `onnx`.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import logging
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from kdnas.models import lora_adapters
from kdnas.models import open as opening
from kdnas.study.spec_latency import LatencySpec
from kdnas.system import seeds
from kdnas.system.errors import KdnasError, UsageError, first_line

FILE = "model.onnx"
TOLERANCE = 1e-4
OPSET = 18
LONGEST = 512  # tokens, or as many as the model takes: a text of that length is compared too
SHAPES = ((1, 8), (2, 16), (3, 33))  # batches and lengths that are compared, with padding in all but the first


def require() -> None:
    """Raise UsageError where the packages of the extra `onnx` are missing."""
    for name in ("onnx", "onnxscript", "onnxruntime"):
        if importlib.util.find_spec(name) is None:
            raise UsageError(f"Writing ONNX needs the package {name}.", "Install it: pip install 'kdnas[onnx]'.")


class _Outputs(torch.nn.Module):
    """A model as a function of ids and mask to its one output, which is what ONNX can hold."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        found = self.model(input_ids=input_ids, attention_mask=attention_mask)
        first: torch.Tensor = found[0]
        return first


@dataclass(frozen=True)
class Exported:
    """What was written, the largest difference of its outputs from PyTorch's, and one pass of it on the CPU."""

    file: str
    difference: float
    opset: int
    output: str
    once: Callable[[], object]


def export(folder: Path, settings: LatencySpec) -> Exported:
    """Write `model.onnx` into a model folder. Raises KdnasError where its outputs differ from PyTorch's by more than
    1e-4. The pass has the protocol's threads, batch and length."""
    require()
    from transformers import AutoModel, AutoModelForCausalLM, AutoModelForSequenceClassification

    config = opening.open_config(folder, str(folder))
    architecture = (config.architectures or [""])[0]
    opener: Any = AutoModel
    if architecture.endswith(("ForCausalLM", "LMHeadModel")):
        opener = AutoModelForCausalLM
    elif architecture.endswith("ForSequenceClassification"):
        opener = AutoModelForSequenceClassification
    if hasattr(config, "use_cache"):
        config.use_cache = False
    if lora_adapters.is_adapter(folder):
        model = _Outputs(lora_adapters.merged(folder, torch.device("cpu")))
    else:
        model = _Outputs(opening.open_weights(opener, folder, str(folder), config).model)
    limit = opening.longest(config, int(getattr(config, "max_position_embeddings", None) or 512))
    name = "last_hidden_state" if opener is AutoModel else "logits"
    path = folder / f"{FILE}.part"
    ids, mask = _sample(config, 2, min(16, limit))
    batch, length = torch.export.Dim("batch"), torch.export.Dim("length", max=limit)
    with _hushed():
        try:
            program = torch.onnx.export(
                model,
                (ids, mask),
                dynamo=True,
                opset_version=OPSET,
                input_names=["input_ids", "attention_mask"],
                output_names=[name],
                dynamic_shapes=({0: batch, 1: length}, {0: batch, 1: length}),
                external_data=False,
                verbose=False,
            )
        except Exception as error:
            raise KdnasError(
                f"torch's exporter cannot write this {config.model_type} model as ONNX: {first_line(error)}.",
                "Leave out --onnx; the folder can be written without it.",
            ) from error
        assert program is not None
        program.save(path, external_data=False)
    try:
        session, worst = _compared(path, model, config, limit, settings)
        path.replace(folder / FILE)
    finally:
        path.unlink(missing_ok=True)
    ids, mask = _sample(config, settings.batch_size, min(settings.length, limit), padded=False)
    feed = {"input_ids": ids.numpy(), "attention_mask": mask.numpy()}
    return Exported(FILE, worst, OPSET, name, lambda: session.run(None, feed))


def _compared(path: Path, model: _Outputs, config: Any, limit: int, settings: LatencySpec) -> tuple[Any, float]:
    """onnxruntime's session of a file, and the largest difference of its outputs. Raises KdnasError for too large a
    one."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = settings.threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    worst = 0.0
    for rows, tokens in (*SHAPES, (1, LONGEST)):
        ids, mask = _sample(config, rows, min(tokens, limit))
        with torch.inference_mode():
            wanted = model(ids, mask).numpy()
        given = session.run(None, {"input_ids": ids.numpy(), "attention_mask": mask.numpy()})[0]
        real = mask.numpy().astype(bool)
        difference = np.abs(wanted - given)
        # Classification heads give one row an example, the others one a token; what stands on padding is no output.
        worst = max(worst, float((difference[real] if difference.ndim == 3 else difference).max()))
    if not worst <= TOLERANCE:
        raise KdnasError(
            f"The ONNX file's outputs differ from PyTorch's by {worst:.2g}, more than {TOLERANCE:g}.",
            "Leave out --onnx; the folder can be written without it.",
        )
    return session, worst


def _sample(config: Any, rows: int, tokens: int, *, padded: bool = True) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seeds.fixed_number(seeds.Fixed.EXPORT_TOKENS, rows * 1000 + tokens))
    vocabulary = int(config.vocab_size)
    ids = torch.randint(min(5, vocabulary - 1), vocabulary, (rows, tokens), generator=generator)
    mask = torch.ones_like(ids)
    if padded:
        for row in range(1, rows):
            mask[row, tokens - row :] = 0
    return ids, mask


@contextlib.contextmanager
def _hushed() -> Any:
    """The exporter talks on both streams and through logging and warnings."""
    with (
        warnings.catch_warnings(),
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
    ):
        warnings.simplefilter("ignore")
        before = logging.root.manager.disable
        logging.disable(logging.ERROR)
        try:
            yield
        finally:
            logging.disable(before)
