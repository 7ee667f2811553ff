"""Students in an environment of its own, without kdnas: whether sentence-transformers gives them the same similarities.

The environment is made with pip, which takes a minute and more.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from kdnas.models import sentence_layout, static_encoder
from kdnas.models.sentence_encoder import open_encoder
from kdnas.students.distil import Telling, distil
from kdnas.students.extras import Extras
from kdnas.students.from_config import given
from kdnas.study.spec import from_values
from tests.encoders import WORDS, text_folder, tiny_encoder, tiny_spec
from tests.sentence_folders import laid_out, module

pytestmark = pytest.mark.long

NEAR = 1e-5  # of cosines
LONG = " ".join(f"word{number}" for number in range(600))
TEXTS = [
    "A short one.",
    "",
    LONG,
    "Größe, ПРИВЕТ 12345, 漢字かな",
    "  blanks  around  ",
    "The bank raised its rates by a quarter of a point on Thursday.",
    "Interest on mortgages will rise after the decision of the central bank.",
    f"{WORDS[3]} {WORDS[9]} unheard {WORDS[11]}",
]
SCRIPT = """
import importlib.util, json, sys
import numpy as np
from sentence_transformers import SentenceTransformer

assert importlib.util.find_spec("kdnas") is None
folder, asked, output, backend = sys.argv[1:]
files = {"file_name": "model.onnx", "provider": "CPUExecutionProvider"} if backend == "onnx" else {}
model = SentenceTransformer(folder, device="cpu", backend=backend, model_kwargs=files, local_files_only=True)
asked = json.loads(asked)
np.save(output, model.encode(asked["texts"], prompt=asked["prompt"], convert_to_numpy=True))
"""


@dataclass(frozen=True)
class Folder:
    """A student's folder, a prompt of its own, and its vectors [texts, width] as kdnas makes them."""

    path: Path
    prompt: str
    encode: Callable[[list[str], str], torch.Tensor]


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of an environment with sentence-transformers and this torch, and nothing of ours."""
    place = tmp_path_factory.mktemp("library") / "venv"
    subprocess.run([sys.executable, "-m", "venv", str(place)], check=True)
    wanted = [f"torch=={torch.__version__.partition('+')[0]}", "sentence-transformers[onnx]"]
    done = subprocess.run(
        [str(place / "bin" / "python"), "-m", "pip", "install", "--quiet", *wanted], capture_output=True, text=True
    )
    if done.returncode:
        pytest.skip(f"pip cannot bring {' and '.join(wanted)}: {done.stderr.strip().splitlines()[-1:]}")
    return place / "bin" / "python"


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    place = tmp_path_factory.mktemp("students")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KDNAS_STATE", str(place / "state"))
        yield place


def real_student(shelf: Path, kind: str) -> Folder:
    """Of the shipped sentence encoder, solved on some news."""
    spec = from_values(
        {
            "device": "cpu",
            "teacher": {"model": "all-minilm-l6-v2"},
            "data": {"source": "bbc-news", "length": 128, "limit": 240},
            "recipe": {"name": "sentence-embedding"},
            "budget": {"proxy_fraction": 1.0, "short_text": "train"},
            "full": {"epochs": 0},
        }
    )
    sizes = {"num_hidden_layers": 3, "hidden_size": 320, "num_attention_heads": 10, "intermediate_size": 384}
    static = kind == "static"
    config = {"kind": "static"} if static else {**sizes, "hidden_act": "gelu"}
    distil(given(spec, config), shelf / kind, Telling(quiet), device="cpu", extras=Extras(onnx=not static))
    return opened(shelf / kind)


def tiny_student(shelf: Path) -> Folder:
    """Of a teacher that pools by mean and by first token, takes 30 tokens, and has a prompt, which it does not pool."""
    teacher = laid_out(tiny_encoder(shelf / "teacher"), {"pooling_mode": ["mean", "cls"], "include_prompt": False})
    module(teacher, "2_Normalize", "Normalize")
    (teacher / sentence_layout.SETTINGS).write_text(json.dumps({"prompts": {"query": f"{WORDS[1]} {WORDS[2]} "}}))
    (teacher / sentence_layout.LENGTH).write_text(json.dumps({"max_seq_length": 30}))
    own: dict[str, Any] = {"name": "sentence-embedding"}
    spec = tiny_spec(teacher, text_folder(shelf / "text", documents=40), recipe=own, full={"epochs": 0})
    sizes = {"num_hidden_layers": 2, "hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 32}
    config = {**sizes, "hidden_act": "gelu"}
    distil(given(spec, config), shelf / "tiny", Telling(quiet), device="cpu", extras=Extras(onnx=True))
    return opened(shelf / "tiny", f"{WORDS[1]} {WORDS[2]} ")


def opened(folder: Path, prompt: str = "") -> Folder:
    if static_encoder.is_static(folder):
        return Folder(folder, prompt, static_encoder.opened(folder, folder.name).encode)
    return Folder(folder, prompt, open_encoder(folder, folder.name, torch.device("cpu")).encode)


def quiet(words: str, share: float | None) -> None:
    return None


@pytest.mark.parametrize("kind", ["encoder", "static", "tiny"])
def test_the_library_alone_gives_the_similarities_of_kdnas(
    python: Path, shelf: Path, tmp_path: Path, kind: str
) -> None:
    student = tiny_student(shelf) if kind == "tiny" else real_student(shelf, kind)
    ours = student.encode(TEXTS, student.prompt).numpy()
    assert np.ptp(ours @ ours.T) > 0.1  # else no difference could be seen
    for backend in ("torch",) if kind == "static" else ("torch", "onnx"):
        theirs = vectors(python, student, backend, tmp_path / f"{backend}.npy")
        assert theirs.shape == ours.shape
        assert np.abs(theirs @ theirs.T - ours @ ours.T).max() <= NEAR, backend
        assert np.abs(theirs @ ours.T - ours @ ours.T).max() <= NEAR, backend


def vectors(python: Path, student: Folder, backend: str, output: Path) -> np.ndarray:
    asked = json.dumps({"texts": TEXTS, "prompt": student.prompt})
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [str(python), "-P", "-c", SCRIPT, str(student.path), asked, str(output), backend],
        capture_output=True,
        text=True,
        cwd=output.parent,
        env={**environment, "HF_HUB_OFFLINE": "1", "HF_HOME": str(output.parent / "hf")},
    )
    assert done.returncode == 0, done.stderr
    found: np.ndarray = np.load(output)
    return found
