"""The words by which a list of studies is filtered, the same on the command line and on the screens.

A study passes that holds every word, in whatever case; `tag:WORD` asks for the tag itself. Knows no store.
"""

from __future__ import annotations

from collections.abc import Iterable

from kdnas.study.rows import StudyRow


def passes(row: StudyRow, cells: Iterable[object], words: Iterable[str]) -> bool:
    """Whether the study has all the words; `cells` are what its line in the list shows beside tags and note."""
    tags = [tag.lower() for tag in row.tags]
    text = " ".join([*map(str, cells), *tags, row.note]).lower()
    return all(word.removeprefix("tag:") in tags if word.startswith("tag:") else word in text for word in words)


def in_cells(cells: Iterable[object], words: Iterable[str]) -> bool:
    """Whether a line that is no study's, and so has no tags, has all the words."""
    text = " ".join(map(str, cells)).lower()
    return all(not word.startswith("tag:") and word in text for word in words)


def words(text: str) -> list[str]:
    """The words of a filter as it is typed; a `tag:` still without its word asks for nothing."""
    return [word for word in text.lower().split() if word != "tag:"]
