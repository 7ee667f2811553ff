"""How well a sentence encoder keeps its teacher's space: similarities, and retrieval in its own or the teacher's index.

Nothing is trained. What is asked for is text that neither model was trained on, by what their folders say.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from kdnas.data import retrieval, retrieval_folder
from kdnas.data.retrieval import Retrieval
from kdnas.data.retrieval_folder import Labelled
from kdnas.measuring.metrics import spearman
from kdnas.models import static_encoder
from kdnas.models.sentence_encoder import SentenceEncoder, open_encoder
from kdnas.models.static_encoder import StaticEncoder
from kdnas.scores.linear_probe import probed
from kdnas.scores.training_texts import seen_by
from kdnas.system.errors import UsageError
from kdnas.system.progress import Progress

# Prompts by the names that folders of sentence-transformers give them, the first that is there.
QUERY_PROMPTS, DOCUMENT_PROMPTS, CLASS_PROMPTS = ("query",), ("document", "passage", "corpus"), ("classification",)
PAIRED = 2500  # most documents of which all pairs' similarities are compared


@dataclass(frozen=True)
class EmbeddingProtocol:
    """`queries` and `documents` at most; texts are cut at `length` tokens, or where the model's own limit is lower."""

    queries: int = 500
    documents: int = 2500
    length: int = 128
    best: int = 10


@dataclass(frozen=True)
class Asked:
    """What is asked of the encoders: `source` with its columns, or the files of a `folder` in the layout of MTEB; and
    how many of their first `dimensions` are scored besides all of them."""

    source: str = retrieval.OWN
    query_column: str | None = None
    document_column: str | None = None
    folder: Path | None = None
    dimensions: Sequence[int] = ()


@dataclass(frozen=True)
class _Vectors:
    """Of one encoder, as it gives them: queries, documents, and texts to fit a probe on and to score it on."""

    queries: Tensor
    documents: Tensor
    train: Tensor
    test: Tensor

    @property
    def width(self) -> int:
        return next(int(v.shape[1]) for v in (self.documents, self.train) if len(v))

    def cut(self, width: int) -> _Vectors:
        """Their first dimensions, of length 1."""
        return _Vectors(*(functional.normalize(part[:, :width], dim=1) for part in vars(self).values()))


def embedding_scores(
    model: Path,
    teacher: Path | None,
    asked: Asked,
    device: torch.device,
    on_progress: Progress,
    protocol: EmbeddingProtocol | None = None,
) -> dict[str, Any]:
    """Scores of a folder and, where given, its teacher's beside them, as `results.json` holds them.

    Retrieval: each query against all documents by cosine. In the teacher's index the documents are the teacher's
    vectors and the queries the student's. Spearman is over all pairs of the queries' own documents. Where texts have
    labels, a linear probe is fitted on the vectors. Raises UsageError for folders that are no sentence encoders, for
    dimensions that they lack, and where all text is known.
    """
    protocol = protocol or EmbeddingProtocol()
    student = _opened(model, device, protocol)
    taught = None if teacher is None else _opened(teacher, device, protocol)
    folders = [model] if teacher is None else [model, teacher]
    trained = seen_by(folders, on_progress).trained
    task, labelled = _task(asked, trained, protocol, on_progress)
    documents = 0 if task is None else len(task.documents)
    texts = documents + (0 if labelled is None else len(labelled.train) + len(labelled.test))
    on_progress(f"embedding {texts:,} texts with {model.name}", None)
    own = _vectors(student, task, labelled)
    result: dict[str, Any] = {"source": str(asked.folder or asked.source), "protocol": asdict(protocol)}
    if asked.folder is not None:  # whole
        result["protocol"] |= {"queries": None, "documents": None}
    if task is not None:
        result |= {"queries": len(task.queries), "documents": documents}
        result["left_out"] = {
            "trained_on": task.trained,
            "more_queries": task.more_queries,
            "more_documents": task.more_documents,
        } | ({"without_answer": task.unasked} if task.unasked else {})
    if labelled is not None:
        left = {"left_out": labelled.trained} if labelled.trained else {}
        result["probe"] = {"train": len(labelled.train), "test": len(labelled.test), **left}
    widths = _widths(asked.dimensions, own.width, None)
    theirs = None
    if taught is not None:
        on_progress(f"embedding {texts:,} texts with its teacher", None)
        theirs = _vectors(taught, task, labelled)
        _widths(asked.dimensions, own.width, theirs.width)
    result |= _scored(own, theirs, theirs, task, labelled, protocol.best)
    if widths:
        result["width"] = own.width
        result["dimensions"] = {}
        for width in widths:
            on_progress(f"scoring {width} of {own.width} dimensions", None)
            cut = _scored(
                own.cut(width), None if theirs is None else theirs.cut(width), theirs, task, labelled, protocol.best
            )
            result["dimensions"][str(width)] = cut
            if theirs is not None:
                whole = result["teacher"]
                cut["kept_of_whole"] = {name: _share(value, whole[name]) for name, value in cut["student"].items()}
    return result


def _task(
    asked: Asked, trained: frozenset[str], protocol: EmbeddingProtocol, on_progress: Progress
) -> tuple[Retrieval | None, Labelled | None]:
    if asked.folder is not None:
        found = retrieval_folder.read(asked.folder, trained)
        return found.retrieval, found.labelled
    columns = asked.query_column, asked.document_column
    task = retrieval.read(asked.source, *columns, trained, protocol.queries, protocol.documents, on_progress)
    if task.labels is None:
        return task, None
    # Documents that no query is of are fitted on, so that nothing scored was trained on.
    test = sorted(set(task.answers))
    train = sorted(set(range(len(task.documents))) - set(test))
    texts, labels = task.documents, task.labels
    labelled = Labelled(
        [texts[i] for i in train], [labels[i] for i in train], [texts[i] for i in test], [labels[i] for i in test]
    )
    odd = set(labelled.test_labels) - set(labelled.train_labels)
    return task, None if odd or len(set(labelled.train_labels)) < 2 else labelled


def _widths(wanted: Sequence[int], own: int, theirs: int | None) -> list[int]:
    """The dimensions that are asked for, each once, the most first. Raises UsageError for more than there are."""
    for who, width in (("student", own), ("teacher", theirs)):
        odd = next((one for one in wanted if width is not None and not 1 <= one <= width), None)
        if odd is not None:
            raise UsageError(
                f"{odd} dimensions cannot be scored: the {who}'s vectors have {width}.", f"Give 1 to {width}."
            )
    return sorted(set(wanted), reverse=True)


def _scored(
    own: _Vectors,
    theirs: _Vectors | None,
    whole: _Vectors | None,
    task: Retrieval | None,
    labelled: Labelled | None,
    best: int,
) -> dict[str, Any]:
    """Metrics of a student, and of its teacher and what is kept where vectors of the teacher are given; `whole` are
    those that similarities are compared with."""
    own = own.cut(own.width)
    result: dict[str, Any] = {"student": {}}
    if theirs is not None and whole is not None:
        theirs, whole = theirs.cut(theirs.width), whole.cut(whole.width)
        result["teacher"] = {}
    if task is not None:
        pair = (own.queries, own.documents)
        if theirs is None or whole is None:
            result["student"] |= ranked(*pair, task.relevant, best)
        else:
            found = compared(pair, (theirs.queries, theirs.documents), task.relevant, best, whole.documents)
            result["student"] |= found["student"]
            result["teacher"] |= found["teacher"]
    if labelled is not None:
        for who, vectors in (("student", own), ("teacher", theirs)):
            if vectors is not None:
                result[who] |= probed(vectors.train, labelled.train_labels, vectors.test, labelled.test_labels)
    if theirs is not None:
        result["kept"] = {name: _share(value, result["teacher"][name]) for name, value in result["student"].items()}
    return result


def _share(value: float, of: float) -> float | None:
    return 100 * value / of if of > 0 else None


def compared(
    own: tuple[Tensor, Tensor],
    theirs: tuple[Tensor, Tensor],
    relevant: Sequence[int | Mapping[int, int]],
    best: int = 10,
    whole: Tensor | None = None,
) -> dict[str, Any]:
    """Metrics of student and teacher, and the percentage kept of each, from their normalised vectors: queries
    [queries, width] and documents [documents, width]. `relevant` is as `ranked` has it. Similarities are compared with
    those of the teacher's vectors, or of `whole` [documents, any], where `theirs` are cut."""
    student, teacher = ranked(*own, relevant, best), ranked(*theirs, relevant, best)
    places = sorted({place for one in relevant for place in ([one] if isinstance(one, int) else one)})[:PAIRED]
    if len(places) > 2:
        wanted = _similarities((theirs[1] if whole is None else whole)[places])
        student["spearman"] = spearman(_similarities(own[1][places]), wanted)
        teacher["spearman"] = 1.0 if whole is None else spearman(_similarities(theirs[1][places]), wanted)
    if own[0].shape[1] == theirs[1].shape[1]:
        for name, value in ranked(own[0], theirs[1], relevant, best).items():
            student[f"aligned_{name}"], teacher[f"aligned_{name}"] = value, teacher[name]
    kept = {name: _share(value, teacher[name]) for name, value in student.items()}
    return {"student": student, "teacher": teacher, "kept": kept}


def ranked(
    queries: Tensor, documents: Tensor, relevant: Sequence[int | Mapping[int, int]], best: int = 10
) -> dict[str, float]:
    """Recall and nDCG among the `best` of all documents, means over the queries. `relevant` holds the place of each
    query's answer, or its answers with grades from 1.

    Recall is the share of a query's answers that is found. nDCG (Järvelin and Kekäläinen, 2002) sums grade / log2(1 +
    rank), over the sum of the best order, as trec_eval has it. Of equally similar documents the worse come first.
    """
    recalls, gains = [], []
    for part in torch.arange(len(queries)).split(256):
        for likeness, place in zip(queries[part] @ documents.t(), part.tolist(), strict=True):
            given = relevant[place]
            grades = {given: 1} if isinstance(given, int) else given
            own = likeness[list(grades)]
            order = sorted(range(len(grades)), key=lambda i: (-float(own[i]), list(grades.values())[i]))
            # Of what is no answer all that is as similar stands before; of the answers those before it in the order.
            others = (likeness >= own[:, None]).sum(1) - (own >= own[:, None]).sum(1)
            ranks = {at: int(others[at]) + turn for turn, at in enumerate(order, 1)}
            worth = list(grades.values())
            found = [at for at, rank in ranks.items() if rank <= best]
            ideal = sum(g / math.log2(1 + turn) for turn, g in enumerate(sorted(worth, reverse=True)[:best], 1))
            recalls.append(len(found) / len(grades))
            gains.append(sum(worth[at] / math.log2(1 + ranks[at]) for at in found) / ideal)
    return {f"recall@{best}": statistics.fmean(recalls), f"ndcg@{best}": statistics.fmean(gains)}


def _similarities(vectors: Tensor) -> np.ndarray:
    """Of all pairs of rows."""
    first, second = torch.triu_indices(len(vectors), len(vectors), 1)
    found: np.ndarray = (vectors @ vectors.t())[first, second].double().numpy()
    return found


def _opened(folder: Path, device: torch.device, protocol: EmbeddingProtocol) -> SentenceEncoder | StaticEncoder:
    if static_encoder.is_static(folder):
        return static_encoder.opened(folder, str(folder)).shortened(protocol.length)
    return open_encoder(folder, str(folder), device).shortened(protocol.length)


def _vectors(encoder: SentenceEncoder | StaticEncoder, task: Retrieval | None, labelled: Labelled | None) -> _Vectors:
    """As the encoder gives them, queries and documents with the prompts that the folder has for them."""
    parts = [
        ([] if task is None else task.queries, _prompt(encoder, QUERY_PROMPTS)),
        ([] if task is None else task.documents, _prompt(encoder, DOCUMENT_PROMPTS)),
        ([] if labelled is None else labelled.train, _prompt(encoder, CLASS_PROMPTS)),
        ([] if labelled is None else labelled.test, _prompt(encoder, CLASS_PROMPTS)),
    ]
    made = [encoder.encode(texts, prompt=prompt) if texts else torch.empty(0, 0) for texts, prompt in parts]
    if not all(bool(part.isfinite().all()) for part in made):
        raise UsageError("The model gives values that are not finite numbers.", "Check its weights.")
    return _Vectors(*made)


def _prompt(encoder: SentenceEncoder | StaticEncoder, names: Sequence[str]) -> str:
    prompts: Mapping[str, str] = encoder.layout.prompts
    default = encoder.layout.default_prompt_name
    return next((prompts[name] for name in (*names, default) if name is not None and name in prompts), "")
