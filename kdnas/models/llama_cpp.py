"""A GGUF file in llama.cpp itself: what it writes, greedily, and passes of it to time.

By the package xllamacpp (extra `llama-cpp`), on the CPU, the key-value cache in fp32. The package has llama.cpp's
server alone, which listens whether or not it is asked to: here on a socket in a folder of its user's alone, never on
the network. Times nothing.
"""

from __future__ import annotations

import importlib.util
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from kdnas.models.tokenizer import PROBES
from kdnas.system.errors import KdnasError, first_line

PACKAGE = "xllamacpp"
TOKENS = 24  # that are written and compared after each text
TIE = 1e-2  # two tokens whose logits are closer are as likely: either may be the next


def there() -> bool:
    """Whether the package is installed."""
    return importlib.util.find_spec(PACKAGE) is not None


def version() -> str:
    return metadata.version(PACKAGE)


@dataclass(frozen=True)
class Said:
    """What llama.cpp wrote after a prompt: token ids, without one that ended the text; `tokens` is how many it wrote,
    `given` the prompt's length, as llama.cpp counts."""

    ids: tuple[int, ...]
    tokens: int
    given: int


class LlamaCpp:
    """A file that is open in llama.cpp, with `room` tokens for a prompt and what follows it."""

    def __init__(self, file: Path, room: int, threads: int = 1) -> None:
        """Raises KdnasError where llama.cpp does not open the file."""
        import xllamacpp

        # A socket's path may have some 100 bytes.
        self._folder = tempfile.TemporaryDirectory(prefix="kdnas-", ignore_cleanup_errors=True)
        own = xllamacpp.CommonParams()
        own.hostnames = [str(Path(self._folder.name, "llama.sock"))]
        own.model.path = str(file)
        own.n_ctx, own.n_parallel, own.n_gpu_layers = room, 1, 0
        own.cpuparams.n_threads = own.cpuparams_batch.n_threads = threads
        own.cache_type_k = own.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
        own.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
        own.warmup = own.fit_params = False
        own.verbosity = -1  # it would talk on standard error
        try:
            self._server: Any = xllamacpp.Server(own)
        except Exception as error:  # the bindings raise types of their own
            raise KdnasError(
                f"llama.cpp does not open {file.name}: {first_line(error)}.",
                "Leave out --gguf; the folder can be written without it.",
            ) from None

    def write(self, prompt: str | Sequence[int], tokens: int) -> Said:
        """Greedily, until a token ends the text or so many are written."""
        asked = {
            "prompt": prompt if isinstance(prompt, str) else list(prompt),
            "max_tokens": tokens,
            "temperature": 0,
            "return_tokens": True,
            "verbose": True,  # else it returns none: log-probabilities leave out tokens that are no whole character
            "cache_prompt": False,
        }
        found = self._answer(asked)
        counts = found["usage"]
        ids = tuple(map(int, found["__verbose"]["tokens"]))
        if found["choices"][0]["finish_reason"] == "stop":
            ids = ids[:-1]  # it ended the text
        return Said(ids, int(counts["completion_tokens"]), int(counts["prompt_tokens"]))

    def generate(self, ids: Sequence[int], tokens: int) -> int:
        """Write so many tokens after `ids`, whatever ends a text: a pass to time. How many were written."""
        asked = {
            "prompt": list(ids),
            "max_tokens": tokens,
            "temperature": 0,
            "ignore_eos": True,
            "cache_prompt": False,
        }
        return int(self._answer(asked)["usage"]["completion_tokens"])

    def _answer(self, asked: dict[str, Any]) -> dict[str, Any]:
        found: dict[str, Any] = self._server.handle_completions(asked)
        if "choices" not in found:
            said = (found.get("error") or {}).get("message", found)
            raise _other(f"answers {said!r}")
        return found


def compare(file: Path, model: Any, tokenizer: Any) -> int:
    """How many tokens llama.cpp writes as the model does, after each of the probes that fit into its positions.

    Raises KdnasError where it reads another number of tokens, or writes one that the model finds clearly less likely.
    """
    room = int(model.config.max_position_embeddings)
    read = {text: tokenizer(text)["input_ids"] for text in (*PROBES, *(text.split(",")[0] for text in PROBES))}
    fitting = {text: ids for text, ids in read.items() if len(ids) + TOKENS <= room}
    running = LlamaCpp(file, min(room, TOKENS + max(map(len, fitting.values()), default=0)))
    same = 0
    for text, ids in fitting.items():
        said = running.write(text, TOKENS)
        if said.given != len(ids):
            raise _other(f"reads {said.given} tokens in {text!r} where the tokenizer reads {len(ids)}")
        same += _agreed(model, ids, said, tokenizer)
    return same


@torch.inference_mode()
def _agreed(model: Any, given: Sequence[int], said: Said, tokenizer: Any) -> int:
    """Of the tokens that llama.cpp wrote, how many the model writes itself, up to the first tie."""
    wrote = said.ids
    ids = torch.tensor([[*given, *wrote]])
    logits = model(input_ids=ids, use_cache=False).logits[0, len(given) - 1 :]
    best = logits.argmax(-1).tolist()
    for place, token in enumerate(wrote):
        if best[place] != token:
            if logits[place, best[place]] - logits[place, token] > TIE:
                mine, theirs = (tokenizer.convert_ids_to_tokens(i) for i in (best[place], token))
                raise _other(f"writes {theirs!r} where the model writes {mine!r}")
            return place
    end = logits[len(wrote)]
    if len(wrote) < said.tokens and end.max() - end[tokenizer.all_special_ids].max() > TIE:
        raise _other(f"ends where the model writes {tokenizer.convert_ids_to_tokens(best[len(wrote)])!r}")
    return len(wrote)


def _other(what: str) -> KdnasError:
    return KdnasError(f"llama.cpp {what}.", "Leave out --gguf; the folder can be written without it.")
