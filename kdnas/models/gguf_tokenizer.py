"""What a GGUF file says of a tokenizer: tokens, their kinds, what is merged, and the name of its way of splitting text.

Byte-level byte-pair encodings, as GPT-2, Llama 3, Qwen and SmolLM have, and those of SentencePiece, as Llama 2 and
Mistral have. llama.cpp knows ways of splitting by name alone, so that any other one is refused. Opens no tokenizer and
writes no file.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any

from kdnas.system.errors import UsageError

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6  # kinds of tokens, as llama.cpp numbers them
SPECIAL = ("bos", "eos", "unk", "pad")
_WORDS = (  # how Llama 3 and Qwen2 split text, but for runs of digits
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|{digits}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)
_BYTES = ("ByteLevel", "split words")
_BYTE = re.compile(r"<0x[0-9A-F]{2}>")
MARK = "\u2581"  # what SentencePiece writes for a space
SPLITS: Mapping[tuple[Any, ...], tuple[str, bool]] = {
    (_BYTES,): ("gpt-2", False),
    (("Digits", "each"), _BYTES): ("smollm", False),
    (("Split", _WORDS.format(digits=r"\p{N}")), ("ByteLevel", "")): ("qwen2", False),
    (("Split", _WORDS.format(digits=r"\p{N}{1,3}")), ("ByteLevel", "")): ("llama-bpe", True),
}
"""The parts of a pre-tokenizer → llama.cpp's name for it, and whether it takes whole words of the vocabulary first."""


@dataclass(frozen=True)
class Vocabulary:
    """A tokenizer in llama.cpp's words; `tokens` and `kinds` by id, `special` the ids of those that it names.

    Byte-level ones have `merges`. Those of SentencePiece have `scores` by id, the highest of which is merged first.
    """

    tokens: tuple[str, ...]
    kinds: tuple[int, ...]
    merges: tuple[str, ...]
    scores: tuple[float, ...]
    split: str
    space: bool  # whether a text gets a space before it
    special: Mapping[str, int]
    begins: bool  # whether every text begins with the special token `bos`
    ends: bool  # whether it ends with `eos`
    chat_template: str | None


def vocabulary(tokenizer: Any, size: int) -> Vocabulary:
    """A fast tokenizer for a model with `size` rows of embeddings; rows without a token are called `[PAD…]`.

    Raises UsageError for one that llama.cpp would read otherwise.
    """
    values = json.loads(tokenizer.backend_tokenizer.to_str())
    model = values["model"]
    if model.get("type") != "BPE" or model.get("continuing_subword_prefix") or model.get("end_of_word_suffix"):
        raise refused(f"its tokenizer is no byte-pair encoding that llama.cpp knows but {model.get('type')}")
    begins, ends = _around(tokenizer)
    kinds = {token["id"]: CONTROL if token["special"] else USER_DEFINED for token in values["added_tokens"]}
    names = {place: token for token, place in tokenizer.get_vocab().items()}
    merges = [tuple(merge.split(" ")) if isinstance(merge, str) else tuple(merge) for merge in model["merges"]]
    pieces = bool(model.get("byte_fallback"))
    if pieces:
        split, space = "default", _space(values)
        scores = _scores(merges, {token for place, token in names.items() if place not in kinds})
        kinds |= {place: BYTE for place, token in names.items() if _BYTE.fullmatch(token)}
        kinds |= {} if tokenizer.unk_token_id is None else {tokenizer.unk_token_id: UNKNOWN}
    else:
        split, space, scores = _split(values), False, {}
    return Vocabulary(
        tuple(names.get(place, f"[PAD{place}]") for place in range(size)),
        tuple(kinds.get(place, NORMAL) if place in names else UNUSED for place in range(size)),
        () if pieces else tuple(map(" ".join, merges)),
        tuple(scores.get(names.get(place, ""), -float(len(merges))) for place in range(size)) if pieces else (),
        split,
        space,
        {name: int(place) for name in SPECIAL if (place := getattr(tokenizer, f"{name}_token_id")) is not None},
        begins,
        ends,
        tokenizer.chat_template if isinstance(tokenizer.chat_template, str) else None,
    )


def _split(values: Mapping[str, Any]) -> str:
    """llama.cpp's name for how a byte-level tokenizer splits text. Raises UsageError where it has none."""
    if (values.get("normalizer") or {"type": "NFC"})["type"] != "NFC":
        raise refused("its tokenizer changes text before it splits it")
    known = SPLITS.get(_parts(values.get("pre_tokenizer")))
    if known is None or bool(values["model"].get("ignore_merges")) is not known[1]:
        raise refused("llama.cpp has no name for how its tokenizer splits text")
    return known[0]


def _space(values: Mapping[str, Any]) -> bool:
    """Whether a tokenizer of SentencePiece, which writes a mark for a space, puts one before a text.

    Raises UsageError for one that changes more of a text than that.
    """
    normaliser, before = values.get("normalizer"), values.get("pre_tokenizer")
    steps = [] if normaliser is None else normaliser.get("normalizers", [normaliser])
    replaced = {"type": "Replace", "pattern": {"String": " "}, "content": MARK}
    if before is None and steps in ([replaced], [{"type": "Prepend", "prepend": MARK}, replaced]):
        return len(steps) == 2
    if not steps and before and before["type"] == "Metaspace" and before["replacement"] == MARK and not before["split"]:
        return str(before["prepend_scheme"]) != "never"
    raise refused("llama.cpp has no name for how its tokenizer splits text")


def _scores(merges: Sequence[tuple[str, ...]], tokens: Set[str]) -> dict[str, float]:
    """The scores by which llama.cpp merges in the order of `merges`: it joins any two neighbours whose text is a token,
    that of the highest score first. Raises UsageError where the merges say something else."""
    found: dict[str, float] = {}
    last = ""
    for left, right in merges:
        piece = left + right
        if piece != last and piece in found:
            raise refused("its tokenizer merges pieces in an order that llama.cpp cannot follow")
        found.setdefault(piece, -float(len(found)))
        last = piece
    splits = {(t[:cut], t[cut:]) for t in tokens for cut in range(1, len(t)) if t[:cut] in tokens and t[cut:] in tokens}
    if splits != set(merges):
        raise refused("its tokenizer does not merge all that its vocabulary holds")
    return found


def refused(why: str) -> UsageError:
    """What is raised of a student that the format has no words for; `why` is what it has."""
    return UsageError(f"The student cannot be written as GGUF: {why}.", "Leave out --gguf; AutoModel opens the folder.")


def _parts(described: Mapping[str, Any] | None) -> tuple[Any, ...]:
    """A pre-tokenizer's steps by what matters of each."""
    steps = [] if described is None else described.get("pretokenizers", [described])
    return tuple(_part(step) for step in steps)


def _part(step: Mapping[str, Any]) -> tuple[str, str]:
    kind = str(step["type"])
    if kind == "ByteLevel" and not step.get("add_prefix_space"):
        return kind, "split words" if step.get("use_regex", True) else ""
    if kind == "Digits":
        return kind, "each" if step.get("individual_digits") else "runs"
    if kind == "Split" and step.get("behavior") == "Isolated" and not step.get("invert"):
        return kind, str(step["pattern"].get("Regex"))
    return kind, "otherwise"


def _around(tokenizer: Any) -> tuple[bool, bool]:
    """Whether the tokenizer puts its special tokens before and after a text. Raises UsageError for others there."""
    plain, whole = (tokenizer("a", add_special_tokens=added)["input_ids"] for added in (False, True))
    for begins in (False, True):
        for ends in (False, True):
            first, last = [tokenizer.bos_token_id] * begins, [tokenizer.eos_token_id] * ends
            if whole == [*first, *plain, *last]:
                return begins, ends
    raise refused("its tokenizer puts other tokens around a text than those that begin and end one")
