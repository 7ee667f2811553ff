"""How well a sentence encoder keeps its teacher's space: similarities, and retrieval in its own or the teacher's index.

Nothing is trained. What is asked for is text that neither model was trained on, by what their folders say.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from kdnas.data import retrieval
from kdnas.data.retrieval import Retrieval
from kdnas.measuring.metrics import spearman
from kdnas.models import static_encoder
from kdnas.models.sentence_encoder import SentenceEncoder, open_encoder
from kdnas.models.static_encoder import StaticEncoder
from kdnas.scores.training_texts import seen_by
from kdnas.system.errors import UsageError
from kdnas.system.progress import Progress

# Prompts by the names that folders of sentence-transformers give them, the first that is there.
QUERY_PROMPTS, DOCUMENT_PROMPTS = ("query",), ("document", "passage", "corpus")


@dataclass(frozen=True)
class EmbeddingProtocol:
    """`queries` and `documents` at most; texts are cut at `length` tokens, or where the model's own limit is lower."""

    queries: int = 500
    documents: int = 2500
    length: int = 128
    best: int = 10


def embedding_scores(
    model: Path,
    teacher: Path | None,
    source: str,
    device: torch.device,
    on_progress: Progress,
    query_column: str | None = None,
    document_column: str | None = None,
    protocol: EmbeddingProtocol | None = None,
) -> dict[str, Any]:
    """Scores of a folder and, where given, its teacher's beside them, as `results.json` holds them.

    Retrieval: each query against all documents by cosine. In the teacher's index the documents are the teacher's
    vectors and the queries the student's. Spearman is over all pairs of the queries' own documents. Raises UsageError
    for folders that are no sentence encoders, and where all text is known.
    """
    protocol = protocol or EmbeddingProtocol()
    student = _opened(model, device, protocol)
    taught = None if teacher is None else _opened(teacher, device, protocol)
    folders = [model] if teacher is None else [model, teacher]
    trained = seen_by(folders, on_progress).trained
    asked = retrieval.read(
        source, query_column, document_column, trained, protocol.queries, protocol.documents, on_progress
    )
    on_progress(f"embedding {len(asked.documents):,} documents with {model.name}", None)
    own = _vectors(student, asked)
    result: dict[str, Any] = {
        "source": source,
        "protocol": asdict(protocol),
        "queries": len(asked.queries),
        "documents": len(asked.documents),
        "left_out": {
            "trained_on": asked.trained,
            "more_queries": asked.more_queries,
            "more_documents": asked.more_documents,
        },
    }
    if taught is None:
        return {**result, "student": ranked(*own, asked.answers, protocol.best)}
    on_progress(f"embedding {len(asked.documents):,} documents with its teacher", None)
    return {**result, **compared(own, _vectors(taught, asked), asked.answers, protocol.best)}


def compared(
    own: tuple[Tensor, Tensor], theirs: tuple[Tensor, Tensor], answers: Sequence[int], best: int = 10
) -> dict[str, Any]:
    """Metrics of student and teacher, and the percentage kept of each, from their normalised vectors: queries
    [queries, width] and documents [documents, width]."""
    student, teacher = ranked(*own, answers, best), ranked(*theirs, answers, best)
    places = sorted(set(answers))
    if len(places) > 2:
        student["spearman"] = spearman(_similarities(own[1][places]), _similarities(theirs[1][places]))
        teacher["spearman"] = 1.0
    if own[0].shape[1] == theirs[1].shape[1]:
        for name, value in ranked(own[0], theirs[1], answers, best).items():
            student[f"aligned_{name}"], teacher[f"aligned_{name}"] = value, teacher[name]
    kept = {name: 100 * value / teacher[name] if teacher[name] > 0 else None for name, value in student.items()}
    return {"student": student, "teacher": teacher, "kept": kept}


def ranked(queries: Tensor, documents: Tensor, answers: Sequence[int], best: int = 10) -> dict[str, float]:
    """Recall and nDCG among the `best` of all documents, of queries with one answer each (nDCG after Järvelin and
    Kekäläinen, 2002: 1 / log2(1 + rank)). Documents as similar as the answer count as better than it."""
    rows = torch.as_tensor(answers)
    ranks: list[Tensor] = []
    for part in torch.arange(len(queries)).split(256):
        likeness = queries[part] @ documents.t()
        own = likeness.gather(1, rows[part, None])
        ranks.append((likeness >= own).sum(1))
    rank = torch.cat(ranks).double()
    gain = torch.where(rank <= best, 1 / torch.log2(1 + rank), torch.zeros_like(rank))
    return {f"recall@{best}": float((rank <= best).double().mean()), f"ndcg@{best}": float(gain.mean())}


def _similarities(vectors: Tensor) -> np.ndarray:
    """Of all pairs of rows."""
    first, second = torch.triu_indices(len(vectors), len(vectors), 1)
    found: np.ndarray = (vectors @ vectors.t())[first, second].double().numpy()
    return found


def _opened(folder: Path, device: torch.device, protocol: EmbeddingProtocol) -> SentenceEncoder | StaticEncoder:
    if static_encoder.is_static(folder):
        return static_encoder.opened(folder, str(folder)).shortened(protocol.length)
    return open_encoder(folder, str(folder), device).shortened(protocol.length)


def _vectors(encoder: SentenceEncoder | StaticEncoder, asked: Retrieval) -> tuple[Tensor, Tensor]:
    """Normalised vectors of queries and documents, with the prompts that the folder has for them."""
    queries = encoder.encode(asked.queries, prompt=_prompt(encoder, QUERY_PROMPTS))
    documents = encoder.encode(asked.documents, prompt=_prompt(encoder, DOCUMENT_PROMPTS))
    if not (bool(queries.isfinite().all()) and bool(documents.isfinite().all())):
        raise UsageError("The model gives values that are not finite numbers.", "Check its weights.")
    return functional.normalize(queries, dim=1), functional.normalize(documents, dim=1)


def _prompt(encoder: SentenceEncoder | StaticEncoder, names: Sequence[str]) -> str:
    prompts: Mapping[str, str] = encoder.layout.prompts
    default = encoder.layout.default_prompt_name
    return next((prompts[name] for name in (*names, default) if name is not None and name in prompts), "")
