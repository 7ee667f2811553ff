"""Students as GGUF: the same greedy text when read back, and a refusal where llama.cpp would compute otherwise."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from tokenizers import Regex, Tokenizer, pre_tokenizers
from transformers import AutoConfig, PreTrainedTokenizerFast
from transformers.pytorch_utils import Conv1D

from kdnas.models import gguf, gguf_writing, llama_cpp
from kdnas.models import open as opening
from kdnas.models.gguf_tokenizer import vocabulary
from kdnas.students import generate
from kdnas.students.distil import Job, Telling, distil
from kdnas.students.extras import Extras
from kdnas.students.from_config import given
from kdnas.students.generate import Prompt, Settings
from kdnas.study.spec import from_values
from kdnas.system.errors import KdnasError, UsageError
from kdnas.teachers import causal
from tests.outside import Outside
from tests.recipes import tiny_causal

QUIET = Telling(lambda words, share: None)
FAMILIES = {"llama": "silu", "mistral": "silu", "qwen2": "silu", "qwen3": "silu", "gpt2": "gelu_new"}
OPEN = {"mistral": {"sliding_window": None}}
PROMPTS = [Prompt("the senate shall"), Prompt("we must keep peace and law"), Prompt("our great nation")]


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Teachers of all families with a byte-level tokenizer, a text, and a cache that the tests of this file share."""
    place = tmp_path_factory.mktemp("gguf")
    words = tiny_causal.byte_pairs()
    for family in FAMILIES:
        tiny_causal.folder(place / family, family, words=words, steps=40, **OPEN.get(family, {}))
    tiny_causal.text_file(place / "text.txt", 12)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KDNAS_CACHE", str(place / "cache"))
        yield place


def job(shelf: Path, family: str, **changed: Any) -> Job:
    """A student of half the layers, other widths and no epochs: as it is fitted."""
    spec = from_values(
        {
            "device": "cpu",
            "teacher": {"model": str(shelf / family)},
            "data": {"source": str(shelf / "text.txt"), "length": 16, "batch_size": 8, "held_out": 0.1},
            "recipe": {"name": "causal-divergence", "top_k": 6},
            "budget": {"proxy_fraction": 1.0, "epochs": 0},
            "latency": {"length": 16, "precision": 0.5, "max_seconds": 0.02},
            "full": {"epochs": 0},
        }
    )
    head = 16 if family == "gpt2" else 8
    sizes = {"num_hidden_layers": 2, "num_attention_heads": 2, "head_size": head, "intermediate_size": 48}
    if family == "gpt2":
        sizes["num_attention_heads"] = 1
    return given(spec, {**sizes, "hidden_act": FAMILIES[family], **changed})


@pytest.fixture(scope="module", params=FAMILIES)
def student(request: pytest.FixtureRequest, shelf: Path) -> Path:
    """A fitted student with its GGUF file."""
    output: Path = shelf / f"student-{request.param}"
    facts = distil(job(shelf, request.param), output, QUIET, device="cpu", extras=Extras(gguf=True))
    assert facts["gguf"]["file"] == "model.gguf" and facts["gguf"]["mib"] > 0
    return output


def greedy(model: Any, tokenizer: Any) -> list[str]:
    settings = Settings(max_new_tokens=20)
    return [r.prediction for r in generate.generate(model, tokenizer, PROMPTS, settings, lambda *_: None)]


def with_fewer_merges(tokenizer: Any) -> Any:
    values = json.loads(tokenizer.backend_tokenizer.to_str())
    del values["model"]["merges"][:5]
    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(json.dumps(values)))


def test_a_fitted_student_read_back_from_gguf_writes_the_same_greedy_text(student: Path) -> None:
    wanted = greedy(*generate.open_model(student, torch.device("cpu")))
    assert any(wanted)
    assert greedy(*gguf.opened(student / "model.gguf")) == wanted


def test_the_file_is_a_teacher_and_what_students_are_cut_from(student: Path, tmp_path: Path) -> None:
    alone = tmp_path / "moved.gguf"
    alone.write_bytes((student / "model.gguf").read_bytes())
    spec = from_values({"teacher": {"model": str(alone)}})
    loaded = causal.load(spec.teacher, torch.device("cpu"))
    model = opening.open_causal(student, "student", opening.open_config(student, "student"))
    ids = torch.tensor([[5, 9, 200, 31]])
    with torch.no_grad():
        torch.testing.assert_close(loaded.model(input_ids=ids).logits, model(input_ids=ids).logits)


def test_transformers_alone_reads_a_llama_file_and_writes_on_from_it(
    shelf: Path, tmp_path: Path, outside: Outside
) -> None:
    output = tmp_path / "out"
    distil(job(shelf, "llama"), output, QUIET, device="cpu", extras=Extras(gguf=True))
    program = (
        "import sys; from transformers import AutoModelForCausalLM, AutoTokenizer\n"
        "def text(**where):\n"
        "    m = AutoModelForCausalLM.from_pretrained('.', **where)\n"
        "    t = AutoTokenizer.from_pretrained('.', **where)\n"
        "    x = t('the senate shall', return_tensors='pt', return_token_type_ids=False)\n"
        "    return t.decode(m.generate(**x, max_new_tokens=8, do_sample=False)[0], skip_special_tokens=True)\n"
        "a, b = text(), text(gguf_file='model.gguf')\n"
        "assert 'kdnas' not in sys.modules; print(a == b, a)"
    )
    done = outside.run(program, output)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("True the senate shall")


def test_a_finished_folder_gets_its_file_later_and_only_once(shelf: Path, tmp_path: Path) -> None:
    output, chosen = tmp_path / "out", job(shelf, "gpt2")
    assert "gguf" not in distil(chosen, output, QUIET, device="cpu")
    assert distil(chosen, output, QUIET, device="cpu", extras=Extras(gguf=True))["gguf"]["file"] == "model.gguf"
    assert "`model.gguf`" in (output / "README.md").read_text()
    written = (output / "model.gguf").stat().st_mtime_ns
    distil(chosen, output, QUIET, device="cpu", extras=Extras(gguf=True))
    assert (output / "model.gguf").stat().st_mtime_ns == written
    assert json.loads((output / "kdnas.json").read_text())["gguf"]["mib"] > 0


def test_a_file_with_one_changed_weight_is_not_kept(student: Path, tmp_path: Path) -> None:
    damaged = tmp_path / "model.gguf"
    data = bytearray((student / "model.gguf").read_bytes())
    data[-4] ^= 1  # the lowest bit of the last weight
    damaged.write_bytes(data)
    model, tokenizer = generate.open_model(student, torch.device("cpu"))
    gguf_writing.check(student / "model.gguf", model, tokenizer)
    with pytest.raises(KdnasError, match=r"does not give back what was written; its .*(weight|bias) differs"):
        gguf_writing.check(damaged, model, tokenizer)


def test_llama_cpp_itself_writes_what_the_student_writes_and_is_timed(student: Path) -> None:
    pytest.importorskip("xllamacpp", reason="the extra llama-cpp is not installed")
    told = json.loads((student / "kdnas.json").read_text())["gguf"]
    timed = told["llama_cpp"]
    assert told["same"] >= llama_cpp.TOKENS and timed["first_ms"] > 0
    assert timed["token_ms"] > 0 if timed["token_ms"] is not None else timed["flag"]  # so small a model takes no time
    model, tokenizer = generate.open_model(student, torch.device("cpu"))
    with torch.no_grad():
        for block in model.base_model.modules():
            if isinstance(block, torch.nn.Linear | Conv1D):
                block.weight.mul_(-1)
    with pytest.raises(KdnasError, match=r"llama.cpp writes .* where the model writes"):
        llama_cpp.compare(student / "model.gguf", model, tokenizer)


def test_llama_cpp_listens_where_others_reach_it(student: Path) -> None:
    pytest.importorskip("xllamacpp", reason="the extra llama-cpp is not installed")
    running = llama_cpp.LlamaCpp(student / gguf_writing.FILE, 32)
    assert running.write("the senate shall", 4).tokens > 0
    heard = psutil.Process().net_connections(kind="all")
    assert not [each for each in heard if each.status == psutil.CONN_LISTEN]
    [socket] = [Path(each.laddr) for each in heard if str(each.laddr).endswith("llama.sock")]
    assert socket.parent.stat().st_mode & 0o077 == 0
    del running
    assert not socket.parent.exists()


def test_tokens_that_are_parts_of_characters_are_compared_too(tmp_path: Path) -> None:
    pytest.importorskip("xllamacpp", reason="the extra llama-cpp is not installed")
    folder = tiny_causal.folder(tmp_path / "llama", "llama", words=tiny_causal.byte_pairs(), steps=2)
    written = gguf_writing.write(folder)
    _, tokenizer = generate.open_model(folder, torch.device("cpu"))
    ids = llama_cpp.LlamaCpp(folder / gguf_writing.FILE, 64).write("the senate shall", llama_cpp.TOKENS).ids
    assert len(ids) == llama_cpp.TOKENS and "\ufffd" in tokenizer.decode(ids)
    assert written.same is not None and written.same >= llama_cpp.TOKENS


def test_the_token_that_ends_a_text_is_compared(tmp_path: Path) -> None:
    pytest.importorskip("xllamacpp", reason="the extra llama-cpp is not installed")
    folder = tiny_causal.folder(tmp_path / "llama", "llama", words=tiny_causal.byte_pairs(), steps=40)
    model, tokenizer = generate.open_model(folder, torch.device("cpu"))
    written = llama_cpp_of(folder).write("the senate shall", 8).ids
    head, end, third = model.get_output_embeddings().weight, tokenizer.eos_token_id, written[2]
    assert third not in written[:2]
    with torch.no_grad():
        head[[end, third]] = head[[third, end]]  # the third token is now the one that ends
    model.save_pretrained(folder)
    said = llama_cpp_of(folder).write("the senate shall", 8)
    assert said.ids == written[:2] and said.tokens == 3
    assert llama_cpp._agreed(model, tokenizer("the senate shall")["input_ids"], said, tokenizer) == 2
    with torch.no_grad():
        head[[end, third]] = head[[third, end]]
    with pytest.raises(KdnasError, match="ends where the model writes"):
        llama_cpp._agreed(model, tokenizer("the senate shall")["input_ids"], said, tokenizer)


def llama_cpp_of(folder: Path) -> llama_cpp.LlamaCpp:
    gguf_writing.write(folder)
    return llama_cpp.LlamaCpp(folder / gguf_writing.FILE, 64)


def test_rotary_positions_scaled_as_in_llama_3_1_reach_llama_cpp(tmp_path: Path) -> None:
    pytest.importorskip("xllamacpp", reason="the extra llama-cpp is not installed")
    scaled = {"rope_type": "llama3", "rope_theta": 1e4, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
              "original_max_position_embeddings": 16}  # fmt: skip
    sizes = {"rope_parameters": scaled, "max_position_embeddings": 128}
    folder = tiny_causal.folder(tmp_path / "model", words=tiny_causal.byte_pairs(), steps=40, **sizes)
    written = gguf_writing.write(folder)
    assert written.same is not None and written.same >= 3 * llama_cpp.TOKENS
    model, tokenizer = generate.open_model(folder, torch.device("cpu"))
    model.get_decoder().rotary_emb.inv_freq *= 2
    with pytest.raises(KdnasError, match=r"llama.cpp writes .* where the model writes"):
        llama_cpp.compare(folder / "model.gguf", model, tokenizer)
    with pytest.raises(UsageError, match=r"rotary positions of model.gguf are scaled"):
        gguf.opened(folder / "model.gguf")


def test_a_file_whose_tokens_are_others_is_not_taken_for_the_student(student: Path) -> None:
    pytest.importorskip("xllamacpp", reason="the extra llama-cpp is not installed")
    model, tokenizer = generate.open_model(student, torch.device("cpu"))
    with pytest.raises(KdnasError, match=r"reads .* tokens in .* where the tokenizer reads"):
        llama_cpp.compare(student / "model.gguf", model, with_fewer_merges(tokenizer))


@pytest.mark.parametrize(
    ("family", "changed", "words"),
    [
        ("llama", {"hidden_act": "relu"}, r"llama.cpp computes silu in llama models, and its activation is relu"),
        ("gpt2", {"hidden_act": "gelu"}, r"llama.cpp computes gelu_new in gpt2 models, and its activation is gelu"),
    ],
)
def test_another_activation_is_refused_before_anything_is_trained(
    shelf: Path, tmp_path: Path, family: str, changed: dict[str, Any], words: str
) -> None:
    with pytest.raises(UsageError, match=words) as caught:
        distil(job(shelf, family, **changed), tmp_path / "out", QUIET, device="cpu", extras=Extras(gguf=True))
    assert "\n" not in str(caught.value) and not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("family", "values", "words"),
    [
        ("mistral", {"sliding_window": 8, "max_position_embeddings": 64}, "sees 8 of 64 positions at a time"),
        ("llama", {"attention_bias": True}, "a llama model with biases"),
        ("llama", {"rope_parameters": {"rope_type": "linear", "rope_theta": 1e4, "factor": 2.0}}, r"scaled \(linear\)"),
        ("gpt2", {"scale_attn_by_inverse_layer_idx": True}, "scales attention in a way of its own"),
    ],
)
def test_what_llama_cpp_computes_otherwise_is_refused(family: str, values: dict[str, Any], words: str) -> None:
    tokenizer = tiny_causal.byte_pairs()
    config = AutoConfig.for_model(family, vocab_size=len(tokenizer), **values)
    with pytest.raises(UsageError, match=words) as caught:
        gguf_writing.require_writable(config, tokenizer)
    assert "--gguf" in caught.value.hint


QWEN = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"


def test_ways_of_splitting_text_get_the_names_that_llama_cpp_knows() -> None:
    split = pre_tokenizers.Split(Regex(QWEN), "isolated")
    assert vocabulary(tiny_causal.byte_pairs(), 320).split == "gpt-2"
    assert vocabulary(tiny_causal.byte_pairs(split), 320).split == "qwen2"
    for other in (pre_tokenizers.Split(Regex(r"\s+"), "isolated"), pre_tokenizers.Split(Regex(QWEN), "removed")):
        with pytest.raises(UsageError, match="no name for how its tokenizer splits text"):
            vocabulary(tiny_causal.byte_pairs(other), 320)
    with pytest.raises(UsageError, match=r"no byte-pair encoding that llama.cpp knows but WordLevel"):
        vocabulary(tiny_causal.tokenizer(), 28)


def test_a_model_with_the_tokenizer_of_llama_2_or_mistral_is_read_back_alike(tmp_path: Path) -> None:
    words = tiny_causal.sentence_pieces()
    sizes = {"sliding_window": None, "max_position_embeddings": 128, "bos_token_id": 1, "eos_token_id": 2}
    folder = tiny_causal.folder(tmp_path / "model", "mistral", words=words, steps=40, **sizes)
    written = gguf_writing.write(folder)
    assert written.same is None or written.same >= 3 * llama_cpp.TOKENS
    assert greedy(*gguf.opened(folder / "model.gguf")) == greedy(*generate.open_model(folder, torch.device("cpu")))


def changed(tokenizer: Any, change: Callable[[dict[str, Any]], None]) -> Any:
    values = json.loads(tokenizer.backend_tokenizer.to_str())
    change(values)
    own = Tokenizer.from_str(json.dumps(values))
    return PreTrainedTokenizerFast(tokenizer_object=own, unk_token="<unk>", bos_token="<s>", eos_token="</s>")


def put_apart(model: dict[str, Any]) -> None:
    """The two merges that make `xzx` have one of another piece between them."""
    for piece in ("x", "z", "xz", "zx", "xzx", "zxz"):
        model["vocab"][piece] = len(model["vocab"])
    model["merges"] += [["x", "z"], ["z", "x"], ["xz", "x"], ["zx", "z"], ["z", "xz"], ["x", "zx"]]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda v: v["model"]["merges"].pop(), "does not merge all that its vocabulary holds"),
        (lambda v: put_apart(v["model"]), r"an order that llama.cpp cannot follow"),
        (lambda v: v.update(normalizer={"type": "Lowercase"}), "no name for how its tokenizer splits text"),
    ],
)
def test_what_scores_of_pieces_cannot_say_is_refused(change: Callable[[dict[str, Any]], None], words: str) -> None:
    plain = tiny_causal.sentence_pieces()
    found = vocabulary(plain, len(plain))
    assert (found.begins, found.ends, found.space) == (True, False, True)
    assert [found.kinds[place] for place in (0, 1, 3, 300)] == [2, 3, 6, 1]
    with pytest.raises(UsageError, match=words):
        vocabulary(changed(plain, change), len(plain))


def test_rows_without_a_token_have_a_name_and_special_tokens_their_kind() -> None:
    tokenizer = tiny_causal.byte_pairs()
    tokenizer.add_tokens(["<think>"])
    found = vocabulary(tokenizer, 330)
    assert len(found.tokens) == len(set(found.tokens)) == 330
    assert found.tokens[329] == "[PAD329]" and found.kinds[329] == 5
    assert (found.kinds[0], found.kinds[len(tokenizer) - 1], found.kinds[40]) == (3, 4, 1)
    assert found.special == {"bos": 0, "eos": 0, "unk": 0} and not found.begins and not found.ends


def test_students_that_are_no_causal_models_are_refused(tmp_path: Path) -> None:
    chosen = Job(from_values({"recipe": {"name": "hidden-state"}}), {})
    with pytest.raises(UsageError, match="recipe hidden-state are no causal models"):
        distil(chosen, tmp_path / "out", QUIET, device="cpu", extras=Extras(gguf=True))


def test_a_tokenizer_that_is_read_back_as_another_one_is_not_kept(student: Path) -> None:
    model, tokenizer = generate.open_model(student, torch.device("cpu"))
    with pytest.raises(KdnasError, match="its tokenizer differs"):
        gguf_writing.check(student / "model.gguf", model, with_fewer_merges(tokenizer))
