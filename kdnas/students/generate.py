"""What a causal model writes: continuations or summaries of given texts, and ROUGE against references.

Greedy by default, with the key-value cache, left padding and batches of like length. Opens any folder that
AutoModelForCausalLM opens; trains nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from kdnas.data import documents as reading
from kdnas.data import hub
from kdnas.measuring.devices import as_studies
from kdnas.students.model_folder import require_model
from kdnas.study.spec import DataSpec
from kdnas.system.errors import UsageError
from kdnas.system.progress import Progress

ROUGE = ("rouge1", "rouge2", "rougeL")


@dataclass(frozen=True)
class Prompt:
    """A text to go on from, and what a person wrote there, if known."""

    text: str
    reference: str | None = None


@dataclass(frozen=True)
class Settings:
    """How continuations are drawn. `separator` stands between each prompt and what is generated."""

    max_new_tokens: int = 100
    batch_size: int = 8
    beams: int = 1
    sample: bool = False
    temperature: float = 1.0
    top_p: float = 1.0
    seed: int = 0
    separator: str = ""

    def __post_init__(self) -> None:
        for name in ("max_new_tokens", "batch_size", "beams"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name} = {getattr(self, name)} is out of range.", "Give at least 1.")
        if not 0 < self.temperature <= 100:
            raise UsageError(f"temperature = {self.temperature} is out of range.", "Give more than 0, at most 100.")
        if not 0 < self.top_p <= 1:
            raise UsageError(f"top_p = {self.top_p} is out of range.", "Give more than 0, at most 1.")
        if not self.sample and (self.temperature != 1.0 or self.top_p != 1.0):
            raise UsageError("A temperature or top_p has no effect without sampling.", "Sample, or leave them out.")


@dataclass(frozen=True)
class Record:
    """One example's outcome."""

    prompt: str
    reference: str | None
    prediction: str


def prompts(source: DataSpec, on_progress: Progress | None = None) -> list[Prompt]:
    """Texts of `text_column` and, where `label_column` is given, references. Raises UsageError for bad data."""
    documents = reading.read(source, summaries=source.label_column is not None, on_progress=on_progress)
    references: Sequence[str | None] = documents.labels or [None] * len(documents.texts)
    return [Prompt(text, reference) for text, reference in zip(documents.texts, references, strict=True)]


def open_model(folder: Path, device: torch.device) -> tuple[Any, Any]:
    """A causal model in fp32 and its tokenizer. Raises UsageError for a folder that holds none."""
    hub.quiet()

    from kdnas.models import open as opening

    require_model(folder)
    config = opening.open_config(folder, str(folder))
    declared = config.architectures or ("CausalLM",)
    if not any("CausalLM" in name or "LMHead" in name for name in declared):
        raise UsageError(f"{folder} holds no causal model but {', '.join(declared)}.", "Give one that generates.")
    model = opening.open_causal(folder, str(folder), config)
    tokenizer = opening.open_tokenizer(folder, str(folder))
    opening.require_vocabulary(tokenizer, config, str(folder))
    return model.to(device), tokenizer


@as_studies()
@torch.inference_mode()
def generate(
    model: Any, tokenizer: Any, given: Sequence[Prompt], settings: Settings, on_progress: Progress
) -> list[Record]:
    """One record per prompt, in the prompts' order. A prompt too long for the model loses its end, not the separator.

    Raises UsageError where the model has no room for `max_new_tokens`.
    """
    room = _positions(model) - settings.max_new_tokens
    after = tokenizer(settings.separator, add_special_tokens=False)["input_ids"] if settings.separator else []
    if room - len(after) < 1:
        raise UsageError(
            f"The model has {_positions(model)} positions, too few for {settings.max_new_tokens} new tokens.",
            "Give fewer new tokens.",
        )
    ids = [tokenizer(p.text, truncation=True, max_length=room - len(after))["input_ids"] + after for p in given]
    ids = [row or [_pad(tokenizer)] for row in ids]
    order = sorted(range(len(ids)), key=lambda i: len(ids[i]))
    written: dict[int, str] = {}
    with torch.random.fork_rng(devices=[model.device] if model.device.type == "cuda" else []):
        torch.manual_seed(settings.seed)
        for start in range(0, len(order), settings.batch_size):
            places = order[start : start + settings.batch_size]
            for place, text in zip(places, _batch(model, tokenizer, [ids[i] for i in places], settings), strict=True):
                written[place] = text
            on_progress("generating", len(written) / len(order))
    return [Record(p.text, p.reference, written[i]) for i, p in enumerate(given)]


def _positions(model: Any) -> int:
    return int(getattr(model.config, "max_position_embeddings", 0) or 1 << 30)


def _pad(tokenizer: Any) -> int:
    """GPT-2 has no pad token; any other does where the mask says what is real."""
    found = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    return int(found or 0)


def _batch(model: Any, tokenizer: Any, rows: Sequence[Sequence[int]], settings: Settings) -> list[str]:
    pad, longest = _pad(tokenizer), max(len(row) for row in rows)
    ids = torch.tensor([[pad] * (longest - len(row)) + list(row) for row in rows])
    mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in rows])
    draw = {"temperature": settings.temperature, "top_p": settings.top_p, "top_k": 0} if settings.sample else {}
    out = model.generate(
        input_ids=ids.to(model.device),
        attention_mask=mask.to(model.device),
        max_new_tokens=settings.max_new_tokens,
        num_beams=settings.beams,
        do_sample=settings.sample,
        pad_token_id=pad,
        use_cache=True,
        **draw,
    )
    return [text.strip() for text in tokenizer.batch_decode(out[:, longest:], skip_special_tokens=True)]


def rouge(records: Sequence[Record]) -> dict[str, float]:
    """Mean F-measures of ROUGE-1, -2 and -L (Porter-stemmed) over the records that have a reference; {} without any.

    Raises UsageError where the package rouge-score is missing.
    """
    known = [record for record in records if record.reference]
    if not known:
        return {}
    try:
        from rouge_score.rouge_scorer import RougeScorer
    except ImportError:
        raise UsageError("ROUGE needs rouge-score.", "Install it with: pip install 'kdnas[causal]'") from None
    scorer = RougeScorer(list(ROUGE), use_stemmer=True)
    totals = dict.fromkeys(ROUGE, 0.0)
    for record in known:
        assert record.reference is not None
        for name, score in scorer.score(record.reference, record.prediction).items():
            totals[name] += score.fmeasure
    return {name: total / len(known) for name, total in totals.items()}


def as_json(records: Sequence[Record]) -> list[dict[str, Any]]:
    """The records as plain values, for a file."""
    return [asdict(record) for record in records]
