"""A causal model's folder as one GGUF file, the format of llama.cpp: weights in fp32, read back before it is kept.

The file says sizes, weights and tokenizer; what it has no words for is refused. Needs the packages gguf and accelerate
(extra `causal`). Trains nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedConfig

from kdnas.models import decoders, gguf, llama_cpp
from kdnas.models import open as opening
from kdnas.models.gguf_tokenizer import Vocabulary, refused, vocabulary
from kdnas.models.tokenizer import same_ids
from kdnas.system.errors import KdnasError

FILE = "model.gguf"
KINDS = {
    "gpt2": "gpt2",
    "llama": "llama",
    "mistral": "llama",
    "qwen2": "qwen2",
    "qwen3": "qwen3",
}  # as llama.cpp has it
ACTIVATIONS = {"gpt2": ("gelu_new", "gelu_pytorch_tanh", "gelu_fast")}  # what llama.cpp computes, whatever a file says
PLAIN = ("silu", "swish")
SCALED = "llama3"  # rotary positions with a factor for each frequency, as in Llama 3.1
ALL_FP32 = 0  # llama.cpp's number for a file's kind


@dataclass(frozen=True)
class Written:
    """The file's name, its size in MiB, and how many tokens llama.cpp wrote as the model does; None where it is not
    installed."""

    file: str
    mib: float
    same: int | None


def require_writable(config: PreTrainedConfig, tokenizer: Any) -> None:
    """Raise UsageError for a model that llama.cpp would compute otherwise, and where packages are missing."""
    gguf.require("Writing GGUF")
    own = decoders.sizes(config)
    if own.activation not in ACTIVATIONS.get(config.model_type, PLAIN):
        raise refused(
            f"llama.cpp computes {' or '.join(ACTIVATIONS.get(config.model_type, PLAIN)[:1])} in {config.model_type} "
            f"models, and its activation is {own.activation}"
        )
    rotary = getattr(config, "rope_parameters", None) or {}
    kind = rotary.get("rope_type", "default")
    if kind not in ("default", SCALED) or float(rotary.get("partial_rotary_factor") or 1.0) != 1.0:
        raise refused(f"its rotary positions are scaled ({rotary.get('rope_type')})")
    window = getattr(config, "sliding_window", None) if getattr(config, "use_sliding_window", True) else None
    if window is not None and window < own.positions:
        raise refused(f"its attention sees {window} of {own.positions} positions at a time")
    if config.model_type in ("llama", "mistral", "qwen3") and _biased(config):
        raise refused(f"a {config.model_type} model with biases is none of llama.cpp's")
    scaled = getattr(config, "scale_attn_weights", True)
    if not scaled or getattr(config, "scale_attn_by_inverse_layer_idx", False):
        raise refused("it scales attention in a way of its own")
    vocabulary(tokenizer, own.vocabulary)


def _biased(config: PreTrainedConfig) -> bool:
    return bool(getattr(config, "attention_bias", False) or getattr(config, "mlp_bias", False))


def write(folder: Path) -> Written:
    """Write `model.gguf` into a causal model's folder. Raises UsageError for what the format has no words for, and
    KdnasError where transformers reads anything else back than what was written, or llama.cpp, where it is installed,
    writes other text."""
    config = opening.open_config(folder, str(folder))
    tokenizer = opening.open_tokenizer(folder, str(folder))
    require_writable(config, tokenizer)
    model = opening.open_causal(folder, str(folder), config)
    part = folder / f"part-{FILE}"  # a name that ends as the format's do, for those who read it back
    try:
        _write(part, model, vocabulary(tokenizer, decoders.sizes(config).vocabulary))
        check(part, model, tokenizer)
        same = llama_cpp.compare(part, model, tokenizer) if llama_cpp.there() else None
        part.replace(folder / FILE)
    finally:
        part.unlink(missing_ok=True)
    return Written(FILE, (folder / FILE).stat().st_size / 2**20, same)


def _write(path: Path, model: Any, words: Vocabulary) -> None:
    from gguf import GGUFWriter

    config = model.config
    own, kind = decoders.sizes(config), KINDS[config.model_type]
    writer = GGUFWriter(path, kind)
    try:
        writer.add_name("student")
        writer.add_file_type(ALL_FP32)
        writer.add_context_length(own.positions)
        writer.add_embedding_length(own.width)
        writer.add_block_count(own.layers)
        writer.add_feed_forward_length(own.inner)
        writer.add_head_count(own.heads)
        writer.add_vocab_size(own.vocabulary)
        if kind == "gpt2":
            writer.add_layer_norm_eps(config.layer_norm_epsilon)
        else:
            writer.add_head_count_kv(own.key_value_heads)
            writer.add_key_length(own.head_size)
            writer.add_value_length(own.head_size)
            writer.add_rope_dimension_count(own.head_size)
            writer.add_rope_freq_base(float(config.rope_parameters["rope_theta"]))
            writer.add_layer_norm_rms_eps(config.rms_norm_eps)
        _add_words(writer, words)
        for name, weight in tensors(model):
            writer.add_tensor(name, weight)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
    finally:
        writer.close()


def _add_words(writer: Any, words: Vocabulary) -> None:
    writer.add_tokenizer_model("llama" if words.scores else "gpt2")  # for SentencePiece, and for byte-level byte pairs
    writer.add_tokenizer_pre(words.split)
    writer.add_token_list(list(words.tokens))
    writer.add_token_types(list(words.kinds))
    if words.scores:
        writer.add_token_scores(list(words.scores))
        writer.add_add_space_prefix(words.space)
    else:
        writer.add_token_merges(list(words.merges))
    add = {
        "bos": writer.add_bos_token_id,
        "eos": writer.add_eos_token_id,
        "unk": writer.add_unk_token_id,
        "pad": writer.add_pad_token_id,
    }
    for name, place in words.special.items():
        add[name](place)
    writer.add_add_bos_token(words.begins)
    writer.add_add_eos_token(words.ends)
    if words.chat_template is not None:
        writer.add_chat_template(words.chat_template)


def tensors(model: Any) -> Iterator[tuple[str, np.ndarray]]:
    """A model's weights by llama.cpp's names and in its order, each [outputs, inputs]; a tied head is left out."""
    from gguf import MODEL_ARCH, get_tensor_name_map

    config = model.config
    own, kind = decoders.sizes(config), KINDS[config.model_type]
    names = get_tensor_name_map(getattr(MODEL_ARCH, kind.upper()), own.layers)
    for name, weight in model.named_parameters():  # tied ones once
        theirs = names.get_name(name, try_suffixes=(".weight", ".bias"))
        if theirs is None:
            raise refused(f"llama.cpp has no name for {name}")
        yield theirs, _laid_out(weight.detach(), theirs, kind, own).contiguous().numpy()
    rotary = getattr(config, "rope_parameters", None) or {}
    if rotary.get("rope_type") == SCALED:
        plain = rotary["rope_theta"] ** -(torch.arange(0, own.head_size, 2, dtype=torch.float64) / own.head_size)
        yield "rope_freqs.weight", (plain / model.get_decoder().rotary_emb.inv_freq.double()).float().numpy()


def _laid_out(weight: Tensor, name: str, kind: str, own: decoders.Sizes) -> Tensor:
    if kind == "gpt2" and weight.ndim == 2 and name.startswith("blk."):
        return weight.t()  # GPT-2 keeps [inputs, outputs]
    if kind == "llama" and name.endswith(("attn_q.weight", "attn_k.weight")):
        heads = own.heads if "attn_q" in name else own.key_value_heads
        # Of a head's rotary pairs, transformers has the first halves before the second, llama.cpp each pair together.
        pairs = weight.view(heads, 2, own.head_size // 2, -1).transpose(1, 2)
        return pairs.reshape(weight.shape)
    return weight


def check(path: Path, model: Any, tokenizer: Any) -> None:
    """Raise KdnasError where the model or the tokenizer that is read back differs in anything."""
    rotary = getattr(model.config, "rope_parameters", None) or {}
    read, words = gguf.opened(path, rotary if rotary.get("rope_type") == SCALED else None)
    theirs = dict(read.named_parameters())
    odd = next((n for n, p in model.named_parameters() if n not in theirs or not torch.equal(p, theirs[n])), None)
    facts = [_computed(m.config) for m in (model, read)]
    odd = odd or next((name for name, value in facts[0].items() if facts[1][name] != value), None)
    odd = odd or (None if same_ids(tokenizer, words) else "tokenizer")
    if odd is not None:
        raise KdnasError(
            f"The GGUF file does not give back what was written; its {odd} differs.",
            "Leave out --gguf; the folder can be written without it.",
        )


def _computed(config: PreTrainedConfig) -> dict[str, Any]:
    """What a model computes with besides its weights; norms' smallest variance as fp32 holds it."""
    own = decoders.sizes(config)
    smallest = config.layer_norm_epsilon if config.model_type == "gpt2" else config.rms_norm_eps
    rotary = getattr(config, "rope_parameters", None) or {}
    return {
        "layers": own.layers,
        "heads": (own.heads, own.key_value_heads, own.head_size),
        "width": (own.width, own.inner, own.vocabulary),
        "positions": own.positions,
        "rotary base": rotary.get("rope_theta"),
        "norms": float(np.float32(smallest)),
        "activation": own.activation in ACTIVATIONS.get(config.model_type, PLAIN),
        "tied head": config.tie_word_embeddings,
    }
