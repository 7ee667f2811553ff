"""Bars of what the reward depends on. A short-lived process makes the estimate, because it needs Optuna."""

from __future__ import annotations

from dataclasses import dataclass

from textual import work
from textual.message import Message
from textual.strip import Strip
from textual.worker import get_current_worker

from kdnas.system.errors import KdnasError
from kdnas_tui import workers
from kdnas_tui.widgets.lines import Lines, clean, fitted, strip_of, wrapped


@dataclass(frozen=True)
class Asked:
    study: str
    storage: str
    finished: int  # trials, when it was asked
    rate: tuple[float, float]  # α and β


class Importance(Lines, can_focus=True):
    """`ask` starts an estimate where the last one is out of date; the bars appear when it comes."""

    PREFIX = "importance"
    COMPONENT_CLASSES = {"importance--bar", "importance--quiet"}
    DEFAULT_CSS = """
    Importance {
        background: $background;
        padding: 1 1;
        & > .importance--bar { color: $primary; }
        & > .importance--quiet { color: $foreground 50%; }
    }
    """

    class Answered(Message):
        """An estimate came, or the reason why there is none."""

        def __init__(self, shares: tuple[tuple[str, float], ...], says: str) -> None:
            super().__init__()
            self.shares, self.says = shares, says

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__(id=id)
        self.shares: tuple[tuple[str, float], ...] = ()
        self.says = "Not estimated yet."
        self._asked: Asked | None = None
        self._told: Asked | None = None  # the study as it was last heard of
        self._asking = False
        self._question: workers.Question | None = None

    def ask(self, study: str, storage: str, finished: int, rate: tuple[float, float]) -> None:
        """Estimate again if the pane is in sight, no estimate is under way, and a tenth more trials have finished."""
        self._told = Asked(study, storage, finished, rate)
        last = self._asked
        fresh = (
            last is not None
            and (last.study, last.storage, last.rate) == (study, storage, rate)
            and finished < last.finished + max(4, last.finished // 10)
        )
        if fresh or self._asking or not self.is_attached or not self.is_on_screen:
            return
        self._asked = self._told
        self._asking = True
        if not self.shares:
            self.says = "Estimating …"
            self.redraw()
        self._estimate(study, storage)

    def on_show(self) -> None:
        """It may have heard of the study before it came into sight."""
        if self._told is not None:
            self.ask(self._told.study, self._told.storage, self._told.finished, self._told.rate)

    @work(thread=True, exit_on_error=False)
    def _estimate(self, study: str, storage: str) -> None:
        worker = get_current_worker()
        self._question = question = workers.importance(study, storage)
        if worker.is_cancelled:  # the screen closed while the process began
            question.give_up()
        try:
            found = question.answer()
            shares = tuple((str(entry["name"]), float(entry["share"])) for entry in found["importance"])
            answer = self.Answered(shares, f"{found['evaluator']}, {found['trials']} trials")
        except KdnasError as error:
            answer = self.Answered((), str(error))
        if not worker.is_cancelled:
            self.post_message(answer)

    def on_unmount(self) -> None:
        if self._question is not None:
            self._question.give_up()

    def on_importance_answered(self, event: Answered) -> None:
        self._asking = False
        self.show(event.shares, event.says)

    def show(self, shares: tuple[tuple[str, float], ...], says: str) -> None:
        """Draw these shares, the largest first, and a line below them."""
        self.shares, self.says = shares, says
        self.redraw()

    def line(self, y: int, width: int) -> Strip:
        if y < len(self.shares):
            name, share = self.shares[y]
            names = min(max(len(clean(name)) for name, _ in self.shares), max(6, width - 20))
            room = max(1, width - names - 9)
            most = self.shares[0][1] or 1.0
            filled = round(room * max(0.0, share) / most)
            return strip_of(
                [
                    (fitted(clean(name), names) + "  ", self.base),
                    ("█" * filled + " " * (room - filled), self.look("bar")),
                    (f" {share:5.0%}", self.base),
                ]
            )
        said = wrapped(clean(self.says), max(8, width))
        place = y - len(self.shares) - (1 if self.shares else 0)
        if 0 <= place < len(said):
            return strip_of([(said[place], self.look("quiet"))])
        return Strip.blank(width, self.base)
