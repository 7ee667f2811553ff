"""Whether a folder of sentence-transformers is read as that library means it, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from transformers import AutoModel, AutoTokenizer

from kdnas.data import shipped
from kdnas.models import sentence_layout
from kdnas.models.sentence_encoder import open_encoder
from kdnas.models.sentence_layout import POOLINGS, Dense, Layout, Normalise
from kdnas.system.errors import UsageError
from tests.encoders import WORDS, tiny_encoder
from tests.sentence_folders import laid_out, module

TEXTS = [" ".join(WORDS[:5]), "", " ".join(WORDS[7:30]), WORDS[3]]


def reference(folder: Path, text: str, poolings: list[str], skipped: int = 0) -> np.ndarray:
    """The pooled states of one text, which needs no padding, in plain numpy."""
    tokens = AutoTokenizer.from_pretrained(folder)(text, return_tensors="pt", truncation=True, max_length=40)
    with torch.no_grad():
        states = AutoModel.from_pretrained(folder).eval()(**tokens).last_hidden_state[0, skipped:].double().numpy()
    places = np.arange(skipped + 1, skipped + len(states) + 1)[:, None]
    made = {
        "cls": states[0],
        "max": states.max(0),
        "mean": states.mean(0),
        "mean_sqrt_len_tokens": states.sum(0) / np.sqrt(len(states)),
        "weightedmean": (states * places).sum(0) / places.sum(),
        "lasttoken": states[-1],
    }
    return np.concatenate([made[how] for how in poolings])


@pytest.mark.parametrize("poolings", [*([how] for how in POOLINGS), ["mean", "cls"]], ids="-".join)
def test_texts_of_any_length_are_pooled_as_the_folder_says(tmp_path: Path, poolings: list[str]) -> None:
    folder = laid_out(tiny_encoder(tmp_path / "m"), {"pooling_mode": poolings, "embedding_dimension": 32})
    encoder = open_encoder(folder, "m", torch.device("cpu"))
    given = encoder.encode(TEXTS).numpy()
    wanted = np.stack([reference(folder, text, poolings) for text in TEXTS])
    np.testing.assert_allclose(given, wanted, atol=1e-5)


def test_several_switches_are_joined_in_the_librarys_order(tmp_path: Path) -> None:
    switches = {"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": True, "pooling_mode_max_tokens": True}
    folder = laid_out(tiny_encoder(tmp_path / "m"), switches)
    layout = sentence_layout.read(folder, "m")
    assert layout is not None and layout.pooling == ("cls", "max", "mean")


def test_dense_layers_normalisation_length_case_and_prompts_are_taken(tmp_path: Path) -> None:
    folder = laid_out(tiny_encoder(tmp_path / "m"), {"pooling_mode_mean_tokens": True, "include_prompt": False})
    weight, bias = torch.randn(6, 32) * 0.1, torch.randn(6)
    module(folder, "2_Dense", "Dense", activation_function="torch.nn.modules.activation.Tanh")
    save_file({"linear.weight": weight, "linear.bias": bias}, folder / "2_Dense" / "model.safetensors")
    module(folder, "3_Dropout", "Dropout", dropout=0.5)
    module(folder, "4_Normalize", "Normalize")
    (folder / sentence_layout.LENGTH).write_text(json.dumps({"max_seq_length": 9, "do_lower_case": True}))
    (folder / sentence_layout.SETTINGS).write_text(json.dumps({"prompts": {"query": f"{WORDS[9]} "}}))
    encoder = open_encoder(folder, "m", torch.device("cpu"))
    assert encoder.layout.prompts == {"query": f"{WORDS[9]} "} and encoder.layout.max_seq_length == 9
    long = " ".join(WORDS[7:30])
    given = encoder.encode([long.upper()], prompt=encoder.layout.prompts["query"])[0].numpy()
    # Seven tokens of the text with its prompt are left between the special ones; of these, prompt and [CLS] are not
    # pooled.
    inner = reference(folder, " ".join([WORDS[9], *WORDS[7:13]]), ["mean"], skipped=2)
    wanted = np.tanh(weight.double().numpy() @ inner + bias.double().numpy())
    np.testing.assert_allclose(given, wanted / np.linalg.norm(wanted), atol=1e-5)


def test_what_is_written_is_what_was_meant(tmp_path: Path) -> None:
    folder = tiny_encoder(tmp_path / "m")
    dense = Dense(torch.randn(6, 64), torch.randn(6))
    layout = Layout(("mean", "cls"), (dense, Normalise()), False, 12, True, {"query": "q: "}, "query", "dot")
    sentence_layout.write(folder, layout, 32)
    again = sentence_layout.read(folder, "m")
    assert again is not None and isinstance(again.steps[0], Dense) and again.normalised
    assert torch.equal(again.steps[0].weight, dense.weight) and again.steps[0].bias is not None
    same = ("pooling", "include_prompt", "max_seq_length", "do_lower_case", "prompts", "default_prompt_name")
    assert all(getattr(again, name) == getattr(layout, name) for name in same)
    assert again.similarity == "dot"
    types = [one["type"] for one in json.loads((folder / "modules.json").read_text())]
    assert [one.rpartition(".")[2] for one in types] == ["Transformer", "Pooling", "Dense", "Normalize"]


def test_a_zero_vector_stays_one_and_no_text_gives_no_vector(tmp_path: Path) -> None:
    assert not Normalise()(torch.zeros(2, 3)).any()
    folder = laid_out(tiny_encoder(tmp_path / "m"), {"pooling_mode_mean_tokens": True})
    assert len(open_encoder(folder, "m", torch.device("cpu")).encode([])) == 0


@pytest.mark.parametrize(
    ("kind", "path", "values", "said"),
    [
        ("sentence_transformers.models.LSTM", "2_LSTM", {}, "a module 'LSTM', which kdnas does not know"),
        ("mine.Own", "2_Own", {}, "its own code"),
        ("sentence_transformers.models.Dense", "2_Dense", {"activation_function": "a.Odd"}, "activation 'Odd'"),
        ("sentence_transformers.models.Dense", "../away", {}, "outside the model's"),
        (
            "sentence_transformers.models.Dense",
            "2_Dense",
            {"activation_function": "torch.nn.Tanh", "module_input_name": "token_embeddings"},
            "'token_embeddings'",
        ),
    ],
)
def test_what_no_student_can_follow_is_refused_in_one_line(
    tmp_path: Path, kind: str, path: str, values: dict[str, Any], said: str
) -> None:
    folder = laid_out(tiny_encoder(tmp_path / "m"), {"pooling_mode_mean_tokens": True})
    module(folder, path, kind, **values)
    with pytest.raises(UsageError, match=said) as refused:
        sentence_layout.read(folder, "m")
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("pooling", [{"pooling_mode_median_tokens": True}, {"pooling_mode": "median"}, {}])
def test_an_unknown_pooling_is_refused(tmp_path: Path, pooling: dict[str, Any]) -> None:
    folder = laid_out(tiny_encoder(tmp_path / "m"), pooling)
    with pytest.raises(UsageError, match="pooling"):
        sentence_layout.read(folder, "m")


@pytest.mark.parametrize("name", ["modules.json", "1_Pooling/config.json", sentence_layout.LENGTH])
def test_a_broken_file_is_one_line(tmp_path: Path, name: str) -> None:
    folder = laid_out(tiny_encoder(tmp_path / "m"), {"pooling_mode_mean_tokens": True})
    (folder / name).write_text("{")
    with pytest.raises(UsageError, match="cannot be read"):
        sentence_layout.read(folder, "m")


def test_a_plain_encoder_is_no_sentence_encoder(tmp_path: Path) -> None:
    folder = tiny_encoder(tmp_path / "m")
    assert sentence_layout.read(folder, "m") is None
    with pytest.raises(UsageError, match="no sentence encoder"):
        open_encoder(folder, "m", torch.device("cpu"))


def test_the_shipped_teacher_unpacked_by_an_earlier_version_is_known(tmp_path: Path) -> None:
    (tmp_path / shipped.MARK).write_text(json.dumps({"asset": "all-minilm-l6-v2"}))
    layout = sentence_layout.read(tmp_path, "all-minilm-l6-v2")
    assert layout is not None and layout.pooling == ("mean",) and layout.normalised and layout.max_seq_length == 256
