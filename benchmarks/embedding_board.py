"""Encoders beside one teacher, on the same queries and documents: how close, how well they find, how fast, how large.

Opens and trains no model.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor
from torch.nn import functional

from benchmarks.report import Result, Table, say
from kdnas.data.retrieval import Retrieval
from kdnas.scores.embeddings import compared
from kdnas.scores.linear_probe import probed

COLUMNS = ("spearman", "recall@10", "ndcg@10", "aligned_recall@10", "aligned_ndcg@10")
PROBE = "probe_accuracy"  # where documents have classes

Encode = Callable[[Sequence[str]], Tensor]
"""Vectors [texts, width] of texts, of any length of theirs."""


class Board:
    """`corpora` by their names; `teacher` gives the vectors that are compared with. Times are of CPU seconds, with the
    tokenizer's among them."""

    def __init__(self, corpora: Mapping[str, Retrieval], teacher: Encode) -> None:
        self.corpora = corpora
        self.rows: list[tuple[Any, ...]] = []
        self.figures: dict[str, float] = {}
        self._theirs: dict[str, tuple[Tensor, Tensor]] = {}
        self._seconds: dict[str, float] = {}
        for source, corpus in corpora.items():
            say(f"the teacher on {len(corpus.documents)} documents of {source}")
            documents, self._seconds[source] = _timed(teacher, corpus.documents)
            self._theirs[source] = _unit(teacher(corpus.queries)), documents
            found = compared(self._theirs[source], self._theirs[source], corpus.relevant)["teacher"]
            self.figures[f"{source}/teacher/recall@10"] = found["recall@10"]
            say(f"{source}: the teacher's recall@10 is {found['recall@10']:.3f}")

    def score(self, name: str, encode: Encode, size: float | None = None, beside: Encode | None = None) -> None:
        """One row more for each corpus. `size` is in MiB; `beside` is the teacher as the encoder runs, where its times
        are to be told by that."""
        for source, corpus in self.corpora.items():
            own, seconds = _timed(encode, corpus.documents)
            teachers = self._seconds[source] if beside is None else _timed(beside, corpus.documents)[1]
            pair = _unit(encode(corpus.queries)), own
            found = compared(pair, self._theirs[source], corpus.relevant)
            student, kept = found["student"], found["kept"]
            probe = self._probe(corpus, own)
            figures = {c: student[c] for c in COLUMNS if c in student} | probe
            figures |= {"kept": kept.get("aligned_recall@10", kept["recall@10"]), "faster": teachers / seconds}
            figures |= {} if size is None else {"MiB": size}
            self.figures.update({f"{source}/{name}/{key}": value for key, value in figures.items()})
            shown = [f"{figures[c]:.3f}" if c in figures else "–" for c in (*COLUMNS, PROBE)]  # none of another width
            large = "–" if size is None else f"{size:.0f}"
            self.rows.append((source, name, f"{figures['faster']:.3g}", large, *shown, f"{figures['kept']:.1f} %"))
            say(" ".join(map(str, self.rows[-1])))

    def _probe(self, corpus: Retrieval, vectors: Tensor) -> dict[str, float]:
        """Of documents with classes: fitted on those that no query is of, scored on those of the queries."""
        test = sorted(set(corpus.answers))
        train = sorted(set(range(len(corpus.documents))) - set(test))
        if corpus.labels is None or len({corpus.labels[place] for place in train}) < 2:
            return {}
        labels = [[corpus.labels[place] for place in part] for part in (train, test)]
        if set(labels[1]) - set(labels[0]):
            return {}
        return {PROBE: probed(vectors[train], labels[0], vectors[test], labels[1])[PROBE]}

    def result(self, title: str, provenance: Mapping[str, Any], note: str) -> Result:
        counts = ", ".join(f"{len(c.queries)} of {len(c.documents)} ({s})" for s, c in self.corpora.items())
        columns = ["text", "student", "× teacher", "MiB", *COLUMNS, PROBE, "of the teacher's"]
        notes = [f"queries and documents: {counts}; {note}; × is of CPU seconds."]
        return Result([Table(title, columns, self.rows, notes)], self.figures, provenance)


def _timed(encode: Encode, texts: Sequence[str]) -> tuple[Tensor, float]:
    began = time.process_time()
    made = encode(texts)
    return _unit(made), max(time.process_time() - began, 1e-9)


def _unit(vectors: Tensor) -> Tensor:
    return functional.normalize(vectors, dim=1)
