"""ONNX of every family: written, and right at every length that the model takes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModel

from kdnas.models import onnx
from kdnas.study.spec_latency import LatencySpec
from tests.encoders import FAMILIES, tiny_encoder

pytest.importorskip("onnxruntime")


@pytest.mark.parametrize(("family", "longest"), [(f, 37 if "roberta" in f else 40) for f in FAMILIES])
def test_the_file_runs_at_the_longest_text_and_gives_the_models_values(
    family: str, longest: int, tmp_path: Path
) -> None:
    import onnxruntime

    layers = "n_layers" if family == "distilbert" else "num_hidden_layers"
    changes = {"pad_token_id": 2} if "roberta" in family else {}
    folder = tiny_encoder(tmp_path / "m", family, **changes, **{layers: 1})  # the exporter takes a second for each
    assert onnx.export(folder, LatencySpec(length=64)).difference < onnx.TOLERANCE
    session = onnxruntime.InferenceSession(str(folder / onnx.FILE), providers=["CPUExecutionProvider"])
    body = AutoModel.from_pretrained(folder).eval()
    for rows, tokens in ((1, 3), (3, longest)):
        ids = np.random.default_rng(tokens).integers(5, 60, (rows, tokens))
        mask = np.ones_like(ids)
        given = session.run(None, {"input_ids": ids, "attention_mask": mask})[0]
        with torch.no_grad():
            wanted = body(input_ids=torch.from_numpy(ids), attention_mask=torch.from_numpy(mask)).last_hidden_state
        np.testing.assert_allclose(given, wanted.numpy(), atol=1e-4)
