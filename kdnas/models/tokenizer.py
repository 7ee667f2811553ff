"""The tokenizer of a model folder: the one that its tokenizer.json describes, whatever class transformers picks.

Opens tokenizers and compares them; trains none and reads no text of a data set.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from kdnas.system.errors import UsageError, first_line

FILE, CONFIG = "tokenizer.json", "tokenizer_config.json"
# Where two tokenizers of one vocabulary tend to part: digits, case, accents, contractions, white space, scripts.
PROBES = (
    "The film of 1987 wasn't 250 or 640,000.5 long; it's I'LL-fated, naïve CAFÉ (e-mail: a_b@c.de)!",
    "  two  spaces,\ttabs\nlines\r\n\n and trailing ",
    "Größe, ПРИВЕТ 12345, 漢字かな, العربية 42, हिन्दी, emoji 🎬👍🏽, ½ ﬁ №9",
    "x=foo_bar(1+2)**3 // snake_case camelCase 0xFF",
)


def open_tokenizer(folder: Path, name: str) -> Any:
    """The fast tokenizer of a model folder. Raises UsageError for one that is missing or reads other tokens than its
    own tokenizer.json does."""
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    except Exception as error:  # whatever the libraries raise on a file that is not theirs
        raise UsageError(
            f"The tokenizer of {name!r} cannot be loaded: {first_line(error)}.", "Give a folder with its tokenizer."
        ) from None
    if not getattr(tokenizer, "is_fast", False):
        raise UsageError(f"The tokenizer of {name!r} has no fast form.", "Take a model with a tokenizer.json.")
    # Without its files transformers makes a tokenizer of nothing but special tokens, and says nothing.
    if len(tokenizer) <= len(tokenizer.all_special_tokens):
        raise UsageError(f"The tokenizer of {name!r} has no words.", "Give a folder with its tokenizer.json.")
    described = _described(folder, name)
    return tokenizer if described is None else _as_described(tokenizer, described, folder, name)


def opener(folder: Path) -> str:
    """The class of transformers that opens a folder's tokenizer as its tokenizer.json describes it: AutoTokenizer,
    save where that rebuilds the tokenizer of the model's family."""
    described = _described(folder, str(folder))
    try:
        found = AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    except Exception:  # a folder with code of its own, which names its own classes
        return "AutoTokenizer"
    return "AutoTokenizer" if described is None or _reads_alike(found, described) else "PreTrainedTokenizerFast"


def _described(folder: Path, name: str) -> Tokenizer | None:
    """What tokenizer.json says, with the settings of tokenizer_config.json that have always stood above it."""
    path = folder / FILE
    if not path.is_file():
        return None
    settings = _values(folder / CONFIG)
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        normaliser, before = values.get("normalizer") or {}, values.get("pre_tokenizer") or {}
        if normaliser.get("type") == "BertNormalizer":
            for ours, theirs in (
                ("do_lower_case", "lowercase"),
                ("strip_accents", "strip_accents"),
                ("tokenize_chinese_chars", "handle_chinese_chars"),
            ):
                if ours in settings:
                    normaliser[theirs] = settings[ours]
        if before.get("type") == "ByteLevel" and "add_prefix_space" in settings:
            before["add_prefix_space"] = bool(settings["add_prefix_space"])
        values["truncation"] = values["padding"] = None
        return Tokenizer.from_str(json.dumps(values))
    except Exception as error:  # tokenizers raises bare exceptions
        raise UsageError(
            f"The tokenizer of {name!r} cannot be loaded: {first_line(error)}.", "Fetch its tokenizer.json again."
        ) from None


def _values(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _as_described(tokenizer: Any, described: Tokenizer, folder: Path, name: str) -> Any:
    """The tokenizer where it reads as it should, else one made of tokenizer.json alone that does."""
    if _reads_alike(tokenizer, described):
        return tokenizer
    try:
        own = PreTrainedTokenizerFast.from_pretrained(folder, local_files_only=True)
    except Exception:  # then there is only the one that reads otherwise
        own = None
    if own is not None and _reads_alike(own, described):
        return own
    raise UsageError(
        f"transformers does not read the tokenizer of {name!r} as its {FILE} describes it.",
        f"Correct tokenizer_class in its {CONFIG}, or save the tokenizer again.",
    )


def _reads_alike(tokenizer: Any, described: Tokenizer) -> bool:
    """Whether both give the same ids for the probes, special tokens around them left out."""
    return all(
        tokenizer(text, add_special_tokens=False, truncation=False, padding=False, verbose=False)["input_ids"]
        == described.encode(text, add_special_tokens=False).ids
        for text in PROBES
    )


def same_ids(tokenizer: Any, other: Any) -> bool:
    """Whether two fast tokenizers read the probes alike, with the special tokens that each puts around a text."""
    return all(
        tokenizer(text, truncation=False, padding=False, verbose=False)["input_ids"]
        == other(text, truncation=False, padding=False, verbose=False)["input_ids"]
        for text in PROBES
    )


def pad_id(tokenizer: Any) -> int:
    """The token that batches are padded with: the tokenizer's, else its end of sequence, else the first."""
    found = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    return int(found or 0)


def ends_no_text(tokenizer: Any) -> int:
    """`pad_id`, or another token where the tokenizer ends every text with that one."""
    pad, last = pad_id(tokenizer), tokenizer("a", truncation=False, padding=False)["input_ids"][-1:]
    others = (pad, tokenizer.unk_token_id, 0, 1)
    bare = tokenizer("a", add_special_tokens=False, truncation=False, padding=False)["input_ids"][-1:]
    return pad if last == bare else next(int(other) for other in others if other is not None and [other] != last)


def count_ids(tokenizer: Any) -> int:
    """Rows that a table of embeddings needs: ids may have gaps, so that there can be more of them than tokens."""
    return max(len(tokenizer), 1 + max(tokenizer.get_vocab().values()))
