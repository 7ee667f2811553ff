"""Queries and the documents that answer them: of a shipped text, whose documents are split in two, or of a user's file.

Embeds nothing and knows no model.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from kdnas.data import documents as reading
from kdnas.data import shipped
from kdnas.data.documents import Documents, same_text
from kdnas.study.spec import DataSpec
from kdnas.system import seeds
from kdnas.system.errors import UsageError
from kdnas.system.progress import Progress

OWN = "bbc-news"
SPLIT = ("bbc-news", "sotu")  # shipped texts of which queries are made
QUERY, DOCUMENT = "query", "document"  # columns of a user's file
CHARACTERS = 1200  # most of a document that a shipped text gives
SHORTEST = 200  # characters of a paragraph that is split
_SENTENCE = re.compile(r"(?<=[.!?])\s+")


@dataclass(frozen=True)
class Retrieval:
    """`answers[i]` is the place in `documents` of what answers `queries[i]`. Equal documents stand once.

    `trained` counts the queries that are left out since a model has seen them; `more_queries` and `more_documents`
    those beyond what is scored. `labels` are the documents' classes, where they have some.

    Where queries have several answers, or better and worse ones, `grades` says them in place of `answers`: the places
    in `documents` with whole numbers from 1, for each query. `unasked` queries have none.
    """

    name: str
    queries: Sequence[str]
    answers: Sequence[int]
    documents: Sequence[str]
    trained: int = 0
    more_queries: int = 0
    more_documents: int = 0
    labels: Sequence[str] | None = None
    grades: Sequence[Mapping[int, int]] | None = None
    unasked: int = 0

    @property
    def relevant(self) -> Sequence[Mapping[int, int]]:
        """The answers of each query, with their grades."""
        return [{answer: 1} for answer in self.answers] if self.grades is None else self.grades


@dataclass(frozen=True)
class _Pair:
    query: str
    document: str
    whole: str | None = None  # the text that both are parts of
    label: str | None = None  # its class

    @property
    def keys(self) -> set[str]:
        """What a model may have been trained on, of which this is a part or the whole."""
        texts = (self.query, self.document, f"{self.query} {self.document}", self.whole)
        return {same_text(text) for text in texts if text}


def read(
    source: str,
    query_column: str | None,
    document_column: str | None,
    trained: frozenset[str],
    most_queries: int,
    most_documents: int,
    on_progress: Progress,
) -> Retrieval:
    """Queries that no model has seen (`trained` holds keys of texts), drawn from a source, and an index for them.

    The index has the queries' own documents, and others up to `most_documents`. Raises UsageError for a source of
    which no queries can be made, or that is all known.
    """
    found = list(_pairs(source, query_column, document_column, on_progress))
    order = seeds.split(seeds.Split.RETRIEVAL).permutation(len(found))
    fresh = [i for i in order if not (found[i].keys & trained)]
    if not fresh:
        raise UsageError(
            f"The model was trained on all {len(found):,} texts of {source!r} that could be asked for."
            if found
            else f"{source!r} has no text of which a query can be made.",
            "Give other text with --text: a file with the columns query and document.",
        )
    chosen = fresh[:most_queries]
    rows: dict[str, int] = {}
    documents: list[str] = []
    labels: list[str | None] = []
    more: set[str] = set()
    for i in [*chosen, *order]:
        key = same_text(found[i].document)
        if key in rows:
            continue
        if len(documents) >= max(most_documents, len(chosen)):
            more.add(key)
            continue
        rows[key] = len(documents)
        documents.append(found[i].document)
        labels.append(found[i].label)
    return Retrieval(
        source,
        [found[i].query for i in chosen],
        [rows[same_text(found[i].document)] for i in chosen],
        documents,
        len(found) - len(fresh),
        len(fresh) - len(chosen),
        len(more),
        [label for label in labels if label is not None] if None not in labels else None,
    )


def _pairs(
    source: str, query_column: str | None, document_column: str | None, on_progress: Progress
) -> Iterator[_Pair]:
    if source in shipped.ASSETS:
        if source not in SPLIT:
            raise UsageError(
                f"No queries can be made of {source!r}: its texts are single sentences or none.",
                f"Take {' or '.join(SPLIT)}, or a file with the columns {QUERY} and {DOCUMENT}.",
            )
        texts: Documents = reading.read(DataSpec(source=source))  # type: ignore[call-arg]
        labels: Sequence[str | None] = texts.labels or [None] * len(texts.texts)
        for text, label in zip(texts.texts, labels, strict=True):
            yield from _articles(text, label) if source == OWN else _paragraphs(text)
        return
    spec = DataSpec.model_validate(
        {"source": source, "text_column": query_column or QUERY, "label_column": document_column or DOCUMENT}
    )
    given = reading.read(spec, summaries=True, on_progress=on_progress)
    assert given.labels is not None
    for query, document in zip(given.texts, given.labels, strict=True):
        yield _Pair(query, document)


def _articles(text: str, label: str | None) -> Iterator[_Pair]:
    """An article's first line asks for the rest."""
    head, _, rest = text.strip().partition("\n")
    if rest.strip():
        yield _Pair(head.strip(), rest.strip()[:CHARACTERS], text, label)


def _paragraphs(text: str) -> Iterator[_Pair]:
    """A paragraph's first sentence asks for the rest."""
    for paragraph in re.split(r"\n\s*\n", text):
        sentences = _SENTENCE.split(" ".join(paragraph.split()), maxsplit=1)
        if len(sentences) == 2 and sum(map(len, sentences)) >= SHORTEST:
            yield _Pair(sentences[0], sentences[1][:CHARACTERS], text)
