"""The filter of a command over a study's trials. Which trials pass is decided elsewhere."""

from __future__ import annotations

from kdnas.cli import frame
from kdnas.study.filter import Filter, FilterError, keys_of, parse
from kdnas.study.ranking import Scored


def parsed(text: str | None, scored: list[Scored]) -> Filter | None:
    """The filter over a study's trials; a fault is underlined on standard error before it is raised."""
    if text is None:
        return None
    try:
        return parse(text, keys_of([s.row for s in scored]))
    except FilterError as error:
        for line in error.underlined:
            frame.say(f"  {line}")  # what was typed looks like no message
        raise
