"""One long job's progress on standard error: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
from types import TracebackType

from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn
from rich.text import Text

from kdnas.cli.frame import narration
from kdnas.narration import Once


class Told:
    """Words and a share of the whole, as they come. Without a terminal only what stands gets a line."""

    def __init__(self, title: str) -> None:
        self.console = narration()
        self.live = self.console.is_terminal
        self.title = title
        self.share = 0.0
        self.said = Once()
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
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.bar.stop()

    def narrate(self, words: str, share: float | None) -> None:
        self.share = self.share if share is None else share
        if self.live:
            self.bar.update(self.task, description=words, completed=self.share)
            return
        if self.said.new(words):
            print(words, file=sys.stderr, flush=True)

    def line(self, text: str) -> None:
        """Something that stands, above the bar."""
        self.console.print(Text(text))
