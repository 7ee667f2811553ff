"""A folder of files in the layout of BEIR and MTEB: queries, a corpus, which document answers which query, how well.

    corpus.jsonl      _id, text, perhaps title
    queries.jsonl     _id, text
    qrels/test.tsv    query-id, corpus-id, score
    train.jsonl       text, label
    test.jsonl        text, label

The last two are for a classification by the embeddings; either they or the first three may be left out. Embeds
nothing and knows no model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from kdnas.data import cells, files
from kdnas.data.cells import Role
from kdnas.data.documents import same_text
from kdnas.data.retrieval import Retrieval
from kdnas.data.table import Table, listed, near_column
from kdnas.system.errors import UsageError

CORPUS, QUERIES, QRELS = "corpus.jsonl", "queries.jsonl", "qrels/test.tsv"
TRAIN, TEST = "train.jsonl", "test.jsonl"
ID, TITLE, TEXT = "_id", "title", "text"
QUERY_ID, CORPUS_ID, SCORE = "query-id", "corpus-id", "score"
LABEL, LABEL_TEXT = "label", "label_text"
UNREAD = "metadata"  # a column that the layout has for people
LAYOUT = f"It takes {CORPUS}, {QUERIES} and {QRELS}, or {TRAIN} and {TEST} with the columns {TEXT} and {LABEL}."


@dataclass(frozen=True)
class Labelled:
    """Texts with their labels: what a probe is fitted on, and what it is scored on."""

    train: Sequence[str]
    train_labels: Sequence[str]
    test: Sequence[str]
    test_labels: Sequence[str]
    trained: int = 0  # test texts that are left out since a model has seen them


@dataclass(frozen=True)
class Given:
    """What a folder holds: at least one of the two."""

    retrieval: Retrieval | None
    labelled: Labelled | None


def read(folder: Path, trained: frozenset[str]) -> Given:
    """The folder's parts, less the queries and test texts that a model has seen (`trained` holds keys of texts).

    Raises UsageError for a folder of another layout, unknown columns, ids that are missing or stand twice, texts that
    are empty, and scores that are no whole numbers from 0.
    """
    if not folder.is_dir():
        raise UsageError(f"There is no folder {folder}.", LAYOUT)
    asks = [(folder / name).is_file() for name in (CORPUS, QUERIES, QRELS)]
    labels = [(folder / name).is_file() for name in (TRAIN, TEST)]
    for names, there in (((CORPUS, QUERIES, QRELS), asks), ((TRAIN, TEST), labels)):
        if any(there) and not all(there):
            missing = names[there.index(False)]
            raise UsageError(f"{folder} has no {missing}, which belongs to {names[there.index(True)]}.", LAYOUT)
    if not any(asks) and not any(labels):
        raise UsageError(f"{folder} holds no files of the layout of BEIR and MTEB.", LAYOUT)
    return Given(
        _retrieval(folder, trained) if all(asks) else None, _labelled(folder, trained) if all(labels) else None
    )


def _retrieval(folder: Path, trained: frozenset[str]) -> Retrieval:
    corpus, queries = _texts(folder / CORPUS, (ID, TITLE, TEXT)), _texts(folder / QUERIES, (ID, TEXT))
    places = {name: place for place, name in enumerate(corpus)}
    grades: dict[str, dict[int, int]] = {}
    table = _table(folder / QRELS, (QUERY_ID, CORPUS_ID, SCORE))
    asked, found = (_required(table, name, "group") for name in (QUERY_ID, CORPUS_ID))
    for row, (query, document, score) in enumerate(zip(asked, found, _required(table, SCORE, "group"), strict=True)):
        for name, known, where in ((query, queries, QUERIES), (document, corpus, CORPUS)):
            if name not in known:
                raise UsageError(
                    f"{table.name} names {name!r} in {table.place(row)}, and {where} has no such {ID}.",
                    "Add it there, or remove the row.",
                )
        if not (score.isascii() and score.isdigit()):
            raise UsageError(
                f"{table.name} has the score {score!r} in {table.place(row)}.",
                "A score is a whole number: 0 for no answer, 1 or more for how good a one.",
            )
        own = grades.setdefault(query, {})
        if places[document] in own:
            raise UsageError(
                f"{table.name} scores the document {document!r} for the query {query!r} twice, the second time in "
                f"{table.place(row)}.",
                "Keep one of the two rows.",
            )
        own[places[document]] = int(score)
    relevant = {name: {at: score for at, score in own.items() if score} for name, own in grades.items()}
    answered = [name for name, own in relevant.items() if own]
    texts = list(corpus.values())

    def seen(name: str) -> bool:
        documents = [texts[at] for at in relevant[name]]
        return any(same_text(text) in trained for text in (queries[name], *documents))

    fresh = [name for name in answered if not seen(name)]
    if not fresh:
        raise UsageError(
            f"The model was trained on all {len(answered):,} queries of {folder} or on their documents."
            if answered
            else f"{table.name} gives no query a document of a score above 0.",
            "Give other text with --data.",
        )
    return Retrieval(
        str(folder),
        [queries[name] for name in fresh],
        [],
        texts,
        trained=len(answered) - len(fresh),
        grades=[relevant[name] for name in fresh],
        unasked=len(queries) - len(answered),
    )


def _texts(path: Path, columns: Sequence[str]) -> dict[str, str]:
    """Id → text, with the title in front where there is one."""
    table = _table(path, columns, optional=(TITLE, UNREAD))
    names = _required(table, ID, "group")
    titles: Sequence[str | None] = [None] * table.rows
    if TITLE in table.header:
        titles = cells.column(table.columns[TITLE], "text", table.name, table.place).values
    found: dict[str, str] = {}
    for row, (name, title, text) in enumerate(
        zip(names, titles, cells.column(table.columns[TEXT], "text", table.name, table.place).values, strict=True)
    ):
        if name in found:
            raise UsageError(
                f"{table.name} has the {ID} {name!r} twice, the second time in {table.place(row)}.",
                "Give each row an id of its own.",
            )
        found[name] = " ".join(part.strip() for part in (title, text) if part and part.strip())
        if not found[name]:
            raise UsageError(f"{table.name} has no text in {table.place(row)}.", "Fill it in, or leave the row out.")
    return found


def _labelled(folder: Path, trained: frozenset[str]) -> Labelled:
    parts = []
    for name in (TRAIN, TEST):
        table = _table(folder / name, (TEXT, LABEL), optional=(ID, LABEL_TEXT, UNREAD))
        texts = cells.column(table.columns[TEXT], "text", table.name, table.place).values
        for row, text in enumerate(texts):
            if text is None or not text.strip():
                raise UsageError(f"{table.name} has no text in {table.place(row)}.", "Fill it in, or leave it out.")
        parts.append(([text for text in texts if text is not None], _required(table, LABEL, "label")))
    (train, train_labels), (test, labels) = parts
    if len(set(train_labels)) < 2:
        raise UsageError(f"{folder / TRAIN} has one label alone, {train_labels[0]!r}.", "Give rows of two or more.")
    odd = next((label for label in labels if label not in set(train_labels)), None)
    if odd is not None:
        raise UsageError(f"{folder / TEST} has the label {odd!r}, which {TRAIN} has not.", "Give such rows there too.")
    known = trained | {same_text(text) for text in train}
    keep = [row for row, text in enumerate(test) if same_text(text) not in known]
    if not keep:
        raise UsageError(f"All {len(test):,} texts of {folder / TEST} were trained on.", "Give other ones.")
    return Labelled(
        train, train_labels, [test[row] for row in keep], [labels[row] for row in keep], len(test) - len(keep)
    )


def _table(path: Path, columns: Sequence[str], optional: Sequence[str] = ()) -> Table:
    """A file with these columns and no others but the optional ones."""
    table = files.read_table(path, files.read_bytes(path), tuple({*columns, *optional}))
    needed = [name for name in columns if name not in optional]
    missing = next((name for name in needed if name not in table.header), None)
    if missing is not None:
        near = near_column(missing, table.header)
        raise UsageError(
            f"{path} has no column {missing!r}; it has {listed(table.header)}.",
            near or f"It takes {', '.join(needed)}.",
        )
    odd = next((name for name in table.header if name not in (*columns, *optional)), None)
    if odd is not None:
        raise UsageError(
            f"{path} has a column {odd!r}, which is not read.",
            f"Remove it; the layout has {', '.join(dict.fromkeys((*columns, *optional)))}.",
        )
    if not table.rows:
        raise UsageError(f"{path} has no rows.", LAYOUT)
    return table


def _required(table: Table, name: str, role: Role) -> list[str]:
    """The cells of a column in which none is missing: ids, labels and scores."""
    found = []
    for row, value in enumerate(cells.column(table.columns[name], role, table.name, table.place).values):
        if value is None:
            raise UsageError(f"{table.name} has no {name} in {table.place(row)}.", "Fill it in, or leave the row out.")
        found.append(value)
    return found
