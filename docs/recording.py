"""Records the README's five minutes: `python -m docs.recording [--size 120x36]`.

Drives `kdnas-tui` in a real pseudo-terminal and writes docs/five-minutes.COLUMNSxLINES.cast. `asciinema play` shows it;
`python -m docs.recording --show FILE` prints it as text, a screen for each step. The form is the quickstart's own, and
its search really begins. It is ended after its first trials: the study that one comes back to is the quickstart that
ships as a recording, so that nobody waits for the rest.
"""

from __future__ import annotations

import argparse
import codecs
import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pyte

from kdnas.store import queries, recording
from kdnas.store.database import open_reader, open_store
from kdnas.system.liveness import this_host
from tests.tui.terminal import Terminal

FOLDER = Path(__file__).resolve().parent
SIZES = ("120x36", "80x24")
NAMES = ("black", "red", "green", "brown", "blue", "magenta", "cyan", "white")  # the emulator's, in the codes' order
LOOK_S = 1.5  # for which a step stands still
SHORT_S = 0.2  # the longest wait between two pieces of a step: nobody watches a cache being built
SETTLED_S = 1.2  # without a byte, after which a step is drawn


@dataclass
class Cast:
    """What the terminal was sent, with the time at which it is shown: asciinema's format, version 2."""

    columns: int
    rows: int
    moment: float = 0.0
    events: list[tuple[float, str, str]] = field(default_factory=list)
    _decoder: Any = field(default_factory=lambda: codecs.getincrementaldecoder("utf-8")("replace"))

    def add(self, sent: bytes) -> None:
        text = self._decoder.decode(sent)
        if text:
            self.moment += SHORT_S
            self.events.append((round(self.moment, 2), "o", text))

    def mark(self, title: str) -> None:
        """A step ends here, and is looked at."""
        self.events.append((round(self.moment, 2), "m", title))
        self.moment += LOOK_S

    def text(self) -> str:
        head = {"version": 2, "width": self.columns, "height": self.rows, "title": "kdnas-tui: the first five minutes"}
        return "\n".join([json.dumps(head), *(json.dumps(one, ensure_ascii=False) for one in self.events)]) + "\n"


Cell = tuple[str, bool, bool, str, str]
"""A letter, whether it is bold and reversed, and its colours."""


def small(raw: str) -> str:
    """The same steps without what no eye sees: for each one only the cells that differ, in as few codes as it takes."""
    head, *lines = raw.splitlines()
    size = json.loads(head)
    screen = pyte.Screen(size["width"], size["height"])
    stream = pyte.Stream(screen)
    kept = [head, json.dumps([0, "o", "\x1b[2J\x1b[?25l"])]
    before: list[list[Cell]] = [[] for _ in range(size["height"])]
    moment = 0.0
    for line in lines:
        _, kind, text = json.loads(line)
        if kind == "o":
            stream.feed(text)
            continue
        after = [_cells(screen.buffer[y], size["width"]) for y in range(size["height"])]
        changed = "".join(_differing(y, before[y], now) for y, now in enumerate(after))
        kept += [json.dumps([moment, "o", changed], ensure_ascii=False), json.dumps([moment, "m", text])]
        before, moment = after, moment + LOOK_S
    return "\n".join(kept) + "\n"


def _cells(line: Mapping[int, Any], width: int) -> list[Cell]:
    return [(c.data, c.bold, c.reverse, _colour(38, c.fg), _colour(48, c.bg)) for c in (line[x] for x in range(width))]


def _differing(y: int, before: list[Cell], after: list[Cell]) -> str:
    """What a terminal is sent to show a line in place of another: the cells from the first that differs to the last."""
    unlike = [x for x, cell in enumerate(after) if x >= len(before) or before[x] != cell]
    if not unlike:
        return ""
    said = f"\x1b[{y + 1};{unlike[0] + 1}H\x1b[0m"
    bold, reverse, ink, paper = False, False, "", ""
    for letter, *rest in after[unlike[0] : unlike[-1] + 1]:
        look: list[Any] = rest
        codes = []
        if look[:2] != [bold, reverse] or (ink and not look[2]) or (paper and not look[3]):
            codes = ["0", *(["1"] if look[0] else []), *(["7"] if look[1] else [])]
            ink = paper = ""
        codes += [new for old, new in ((ink, look[2]), (paper, look[3])) if new != old]
        bold, reverse, ink, paper = look
        said += (f"\x1b[{';'.join(codes)}m" if codes else "") + letter
    return said


def _colour(which: int, name: str) -> str:
    """A colour of an emulated cell as the terminal takes it; "" for the default one."""
    if name in NAMES:
        return str(which - 8 + NAMES.index(name))
    return "" if name == "default" else f"{which};2;" + ";".join(str(int(name[i : i + 2], 16)) for i in (0, 2, 4))


class Filmed(Terminal):
    """A terminal whose output goes into a cast."""

    def __init__(self, cast: Cast, arguments: list[str], folder: Path, environment: Mapping[str, str]) -> None:
        super().__init__(arguments, folder, environment, (cast.columns, cast.rows))
        self.cast = cast

    def read(self, seconds: float = 0.05) -> None:
        before = len(self.bytes)
        super().read(seconds)
        self.cast.add(self.bytes[before:])

    def until(self, condition: str | Callable[[], Any], what: str = "") -> None:
        """Read until a text is shown or a condition holds, as long as the screens run."""
        holds = condition if callable(condition) else (lambda: condition in self.text)
        while not holds():
            if not self.child.isalive():
                raise SystemExit(f"The screens ended before they showed {what or condition!r}:\n{self.text}")
            self.read()

    def settle(self) -> None:
        """Until nothing more is drawn."""
        before = -1
        while before != len(self.bytes):
            before = len(self.bytes)
            self.read(SETTLED_S)

    def step(self, title: str, keys: Sequence[str], shows: str) -> None:
        """Press keys, wait for words on the screen, and let people look at it."""
        for key in keys:
            self.press(key)
            if key == "escape":
                self.settle()  # an escape with a letter right after it is another key
            self.read(SHORT_S)
        self.until(shows)
        self.settle()
        self.cast.mark(title)


def film(size: str) -> Cast:
    """All steps at one size, in a folder of their own."""
    columns, rows = map(int, size.split("x"))
    cast = Cast(columns, rows)
    folder = Path(tempfile.gettempdir()) / f"five-minutes-{size}"
    folder.mkdir()  # refuses one that is there
    (folder / "studies").mkdir()
    environment = {"KDNAS_STATE": str(folder / "state"), "KDNAS_CONFIG": str(folder / "config")}
    os.environ.pop("KDNAS_STORAGE", None)
    try:
        first = Filmed(cast, ["--preset", "quickstart"], folder, environment)
        try:
            begin(first)
            watch(first)
            cast.add(b"\x1b[2J\x1b[H$ kdnas-tui quickstart    # when the search has finished\r\n")
            cast.mark("Closed")
        finally:
            first.kill()
            end_workers(folder / "studies" / "kdnas.db")
        for left in (folder / "studies").iterdir():
            left.unlink()
        with open_store(folder / "studies" / "kdnas.db", create=True) as store:
            recording.read(recording.shipped(), store)
        again = Filmed(cast, ["quickstart"], folder, environment)
        try:
            come_back(again)
        finally:
            again.kill()
    finally:
        shutil.rmtree(folder)
    return cast


def begin(screens: Filmed) -> None:
    """The form of the quickstart, and its command."""
    screens.step("The form of a new study, filled in", [], "^s start")
    screens.step("What it will take", [], "of cache")
    screens.step("The same study as one command", ["\x1b[15~"], "kdnas search quickstart")
    screens.step("Back in the form", ["escape"], "new study")


def watch(screens: Filmed) -> None:
    """The search begins from the form, and its first trials arrive."""
    screens.press("^s")
    screens.until("RUNNING")
    screens.read(SETTLED_S)
    screens.cast.mark("The search begins")
    screens.until(lambda: re.search(r"\b[3-9]/12\b", screens.text), "three trials of twelve")
    screens.read(SETTLED_S)
    screens.cast.mark("Candidates arrive, the best on top")
    screens.press("q")
    screens.ended()


def end_workers(path: Path) -> None:
    """End the search that goes on without its screens, and wait until its last process is gone."""
    if not path.exists():
        return
    with open_reader(path) as store:
        for row in queries.study_rows(store):
            for worker in queries.workers(store, row.study_id):
                if worker.alive and worker.host == this_host():
                    process = psutil.Process(worker.pid)
                    process.terminate()
                    process.wait()


def come_back(screens: Filmed) -> None:
    """What one does with a finished study."""
    wide = screens.cast.columns >= 100
    screens.step("Come back: the best stand on top", [], "FINISHED")
    if not wide:
        screens.step("The front of loss and latency", ["]"], "latency ms →")
        screens.step("Back to the trials", ["["], "#")
    screens.step("The cursor in the table is the cross in the plot", ["down", "down"], "#")
    screens.step("Another α and β", ["a"], "ranked again")
    screens.step("Speed counts more", ["left"] * 8, "ranked again")
    screens.step("Nothing was changed", ["escape"], "FINISHED")
    screens.step("Filter table and plots", ["/", "layers<=3 speedup>=2", "enter"], " of 12")
    screens.step("All trials again", ["escape"], "FINISHED")
    screens.step("Mark three", [" ", "down", " ", "down", " "], "●")
    screens.step("Compare them", ["c"], "compare")
    screens.step("All about one candidate", ["escape", "i"], "loss, normalised")
    screens.step("Copy it as people paste it", ["Y"], "a row of a Markdown table")
    screens.step("Make a model of it", ["escape", "escape", "f"], "distil")
    screens.step("Export the best to a file", ["escape", "x"], "the Pareto front")
    screens.step("Which keys there are", ["escape", "?"], "The trials, best reward first")
    screens.step("The end", ["escape"], "FINISHED")
    screens.press("q")
    screens.ended()


def frames(cast: str) -> Iterator[tuple[str, list[str]]]:
    """Each step of a cast with the lines of its screen."""
    head, *lines = cast.splitlines()
    size = json.loads(head)
    screen = pyte.Screen(size["width"], size["height"])
    stream = pyte.Stream(screen)
    for line in lines:
        _, kind, text = json.loads(line)
        if kind == "o":
            stream.feed(text)
        else:
            yield text, [shown.rstrip() for shown in screen.display]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", choices=SIZES, action="append", help="all by default")
    parser.add_argument("--show", type=Path, metavar="FILE", help="print the screens of a recording")
    chosen = parser.parse_args()
    if chosen.show is not None:
        for title, lines in frames(chosen.show.read_text(encoding="utf-8")):
            print(f"=== {title}", *lines, sep="\n")
        return
    for size in chosen.size or SIZES:
        path = FOLDER / f"five-minutes.{size}.cast"
        path.write_text(small(film(size).text()), encoding="utf-8")
        print(path)


if __name__ == "__main__":
    main()
