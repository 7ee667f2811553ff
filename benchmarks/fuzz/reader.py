"""A reader, what it is given, and how it says that something was wrong. Knows no reader."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from hypothesis import strategies as st

from benchmarks.torture.faults import Kit
from tests.odd_tables import Rows


class Wrong(Exception):  # noqa: N818 - what an input brought to light, in words
    """`kind` is the same for all inputs that show the same fault."""

    def __init__(self, kind: str, detail: str = "") -> None:
        super().__init__(kind, detail)
        self.kind, self.detail = kind, detail


@dataclass(frozen=True)
class Given:
    """One input: bytes, the suffix of their file, and the rows that stand in it where that is known."""

    raw: bytes
    suffix: str = ".txt"
    rows: Rows | None = None


@dataclass(frozen=True)
class Reading:
    """What a reader may be given, and what gives it: `feed` says whether it was accepted. It raises Wrong, or what
    the reader itself lets out. `sound` is an input that it accepts."""

    inputs: st.SearchStrategy[Given]
    feed: Callable[[Given], bool]
    sound: Given


class Bench:
    """What readers need beside their input, in a folder; made when it is first needed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.kit = Kit(folder)

    @cached_property
    def scratch(self) -> Path:
        """Where inputs are written."""
        path = self.folder / "scratch"
        path.mkdir(exist_ok=True)
        return path

    def put(self, given: Given, name: str = "given") -> Path:
        path = self.scratch / f"{name}{given.suffix}"
        path.write_bytes(given.raw)
        return path

    @cached_property
    def spec(self) -> Path:
        """Of a study of a tiny teacher, on a few texts."""
        path = self.folder / "tiny.toml"
        path.write_text(
            f"name = 'tiny'\ndevice = 'cpu'\n[teacher]\nmodel = '{self.kit.teacher}'\n"
            f"[data]\nsource = '{self.kit.text}'\nlength = 16\nbatch_size = 8\nheld_out = 0.2\n"
            "[strategy]\nname = 'random'\n[budget]\ntrials = 4\nepochs = 1\nshort_text = 'train'\n"
            "[reward]\nalpha = -0.06\nbeta = 0.6\n[latency]\nlength = 16\n",
            encoding="utf-8",
        )
        return path

    def close(self) -> None:
        self.kit.close()


@dataclass(frozen=True)
class Reader:
    """`title` is what `--only` looks for."""

    title: str
    opened: Callable[[Bench], Reading]
