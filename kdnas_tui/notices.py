"""Notices outside the screens when a study ends or fails: the terminal's bell, or a desktop notification (OSC 9, 777).

Off unless it was asked for. No character of a study's name or ending that a terminal obeys is sent. Writes nothing.
"""

from __future__ import annotations

import os
from collections.abc import Iterable

from kdnas.study.rows import Status, StudyRow
from kdnas.system.errors import UsageError, nearest
from kdnas.system.text import clean

WAYS = ("off", "bell", "osc9", "osc777")
ALIVE = frozenset({Status.RUNNING, Status.PAUSING, Status.PAUSED, Status.STOPPING})
ENDED = frozenset({Status.FINISHED, Status.FAILED, Status.DEAD})  # who stops a study knows of it
MOST = 160  # letters of a notice
BELL, ESC = "\a", "\x1b"


def require_way(way: str, where: str) -> str:
    """The way, if it is one. Raises UsageError; `where` it was given."""
    if way not in WAYS:
        raise UsageError(f"{where}: {way!r} is no way to notify.", nearest(way, WAYS))
    return way


class Endings:
    """Which studies have ended since they were last seen at work. What ended before it was first seen is no news."""

    def __init__(self) -> None:
        self._seen: dict[int, Status] = {}

    def among(self, rows: Iterable[StudyRow]) -> list[StudyRow]:
        """Those that ended; each is told once."""
        found = [row for row in rows if row.status in ENDED and self._seen.get(row.study_id) in ALIVE]
        self._seen.update({row.study_id: row.status for row in rows})
        return found


def sequence(way: str, row: StudyRow) -> str:
    """What the terminal is sent for a study that ended; "" for the way `off`."""
    if way == "off":
        return ""
    if way == "bell":
        return BELL
    best = "" if row.best_reward is None else f", best reward {row.best_reward:.3f}"
    ending = f". {row.ending}" if row.ending and row.status is not Status.FINISHED else ""
    title, text = _plain(f"kdnas {row.name}"), _plain(f"{row.name} {row.status}{best}{ending}")
    if way == "osc9":
        return through(f"{ESC}]9;{text}{BELL}")
    return through(f"{ESC}]777;notify;{title.replace(';', ',')};{text}{BELL}")


def _plain(text: str) -> str:
    return clean(" ".join(text.split()))[:MOST]


def through(sequence: str) -> str:
    """The sequence as tmux hands it on to the terminal around it, where this runs in tmux (`allow-passthrough on`)."""
    if not os.environ.get("TMUX"):
        return sequence
    return f"{ESC}Ptmux;{sequence.replace(ESC, ESC + ESC)}{ESC}\\"
