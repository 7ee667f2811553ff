"""One long job's progress on standard error: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import threading
import time
from types import TracebackType

from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn
from rich.text import Text

from kdnas.cli.frame import narration
from kdnas.measuring import device_waits
from kdnas.system.progress import Note, Once
from kdnas.system.text import clean

EVERY_S = 60.0  # a log hears how far one thing is at least as often as this
WAIT_S = 2.0  # how often it is looked whether the job waits for its device


class Told:
    """Words and a share of the whole, as they come. Without a terminal a line for each new thing, and one a minute."""

    def __init__(self, title: str) -> None:
        self.console = narration()
        self.live = self.console.is_terminal
        self.title = clean(title)
        self.share = 0.0
        self.said = Once()
        self.spoke = 0.0
        self.bar = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TaskProgressColumn(),
            TimeElapsedColumn(),
            console=self.console,
            disable=not self.live,
            transient=True,
        )

    def __enter__(self) -> Told:
        self.bar.start()
        self.task = self.bar.add_task(self.title, total=1.0)
        self._over = threading.Event()
        self._waits = threading.Thread(target=self._tell_waits, name="waits", daemon=True)
        self._waits.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._over.set()
        self._waits.join()
        self.bar.stop()

    def _tell_waits(self) -> None:
        """Beside the job, which says nothing while it waits for its device: for which process, once."""
        last = ""
        while not self._over.wait(WAIT_S):
            wait = device_waits.long_wait()
            if wait is not None and wait.advice != last:
                last = wait.advice
                self._stand(last)

    def on_progress(self, words: str, share: float | None) -> None:
        self.share = self.share if share is None else share
        if isinstance(words, Note):
            self._stand(words)
            return
        if self.live:
            self.bar.update(self.task, description=clean(words), completed=self.share)
            return
        if self.said.new(words) or time.monotonic() - self.spoke >= EVERY_S:
            self.spoke = time.monotonic()
            print(clean(words if share is None else f"{words} ({share:.0%})"), file=sys.stderr, flush=True)

    def _stand(self, words: str) -> None:
        if self.live:
            self.line(words)
        else:
            print(clean(words), file=sys.stderr, flush=True)

    def line(self, text: str) -> None:
        """Something that stands, above the bar."""
        self.console.print(Text(clean(text)), soft_wrap=True)
