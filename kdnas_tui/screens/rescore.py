"""α and β as a what-if: every finished trial ranked again at once, old and new side by side; nothing runs again."""

from __future__ import annotations

import numpy as np
from rich.text import Text
from textual import events
from textual.app import ComposeResult
from textual.containers import Horizontal, Vertical
from textual.widgets import Input, Static

from kdnas.study.ranking import Standing
from kdnas.study.reward import exchange
from kdnas.system.errors import BadOptionError, KdnasError
from kdnas.system.text import with_hyphen
from kdnas_tui import words
from kdnas_tui.desk import Desk
from kdnas_tui.feed import News
from kdnas_tui.later import later
from kdnas_tui.screens import steering
from kdnas_tui.screens.frame import BREATH_S, Frame, bindings, writes
from kdnas_tui.watched import Watched
from kdnas_tui.widgets.field import Field
from kdnas_tui.widgets.key_bar import KeyBar
from kdnas_tui.widgets.list_table import Column, Line, ListTable

TOP = 10
STEP = {"alpha": 0.01, "beta": 0.05}
COLUMNS = (
    Column("", "right"),
    Column("trial", "right"),
    Column("reward", "right"),
    Column("loss", "right"),
    Column("lat ms", "right"),
    Column("params", "right", leaves=2),
    Column("was", "right"),
)


class RescoreScreen(Frame):
    NAME = "reward"
    BINDINGS = bindings("reward")
    PANES = {
        "": "How much speed counts. α below 0 rewards faster students, the more the lower it is; β is the latency that "
        "counts as 1, as a share of the teacher's, and changes no order. Nothing is changed until <reward.use>: then "
        "new trials are rewarded like this, and the study's history says so."
    }

    def __init__(self, watched: Watched, desk: Desk) -> None:
        super().__init__(desk)
        self._watched = watched
        assert watched.study is not None
        self._alpha, self._beta = watched.study.alpha, watched.study.beta
        self._asked = False

    def compose(self) -> ComposeResult:
        yield Static(id="head", classes="head")
        with Horizontal(id="dials"):
            for name, letter, value in (("alpha", "α", self._alpha), ("beta", "β", self._beta)):
                yield Static(letter, classes="label")
                yield Field(words.signed(value), id=name, select_on_focus=False)
        yield Static(id="exchange")
        yield Static(id="hint", classes="hint")
        with Horizontal(id="tops"):
            with Vertical(id="old-part"):
                yield Static(id="old-title", classes="title")
                yield ListTable(COLUMNS[:-1], cursor=False, id="old")
            with Vertical():
                yield Static(id="new-title", classes="title")
                yield ListTable(COLUMNS, cursor=False, id="new")
        yield KeyBar("reward")

    def on_mount(self) -> None:
        self.query_one("#alpha").focus()
        self._draw_soon()

    def on_resize(self, event: events.Resize) -> None:
        self.set_class(event.size.width < 78, "narrow")

    def hear(self, news: News) -> None:
        if news.trials or news.board is not None or news.study is not None:
            self._draw_soon()

    # ------------------------------------------------------------------ values

    def _fault(self, name: str, text: str) -> str:
        """Takes a value that is in range; else what is wrong with it, and the hint."""
        try:
            value = float(with_hyphen(text))
            check(name, value)
        except ValueError:
            return f"{text!r} is not a number. Write it like {'−0.06' if name == 'alpha' else '0.6'}."
        except KdnasError as error:
            return str(error)
        if name == "alpha":
            self._alpha = value
        else:
            self._beta = value
        return ""

    def on_input_changed(self, event: Input.Changed) -> None:
        # What it holds now: further steps may have been taken since the message was sent.
        fault = self._fault(str(event.input.id), event.input.value)
        self.query_one("#hint", Static).update(Text(fault))
        event.input.set_class(bool(fault), "wrong")
        if not fault:
            self._draw_soon()

    def action_step(self, by: int) -> None:
        at = self.focused
        name = at.id if isinstance(at, Input) and at.id in STEP else "alpha"
        value = self._alpha if name == "alpha" else self._beta
        moved = round(value + by * STEP[str(name)], 4)
        try:
            check(str(name), moved)
        except KdnasError:
            return  # at the end of the range
        field = self.query_one(f"#{name}", Input)
        field.value = words.signed(moved)
        self._fault(str(name), field.value)  # the next step goes on from here, whenever the message arrives

    def action_other(self) -> None:
        at = self.focused
        self.query_one("#beta" if at is not None and at.id == "alpha" else "#alpha").focus()

    # ------------------------------------------------------------------ drawing

    def _draw_soon(self) -> None:
        """Once for all that is asked in one breath."""
        if not self._asked:
            self._asked = True
            later(self, BREATH_S, self._draw)

    def _draw(self) -> None:
        self._asked = False
        board, study = self._watched.trials, self._watched.study
        if board is None or study is None or not self.is_mounted:
            return
        head = Text(no_wrap=True, overflow="ellipsis")
        head.append(f"{study.name}  ", style="dim")
        head.append("α and β", style="bold")
        finished = int((board.standing.rank > 0).sum())
        head.append(f"   {words.plural(finished, 'finished trial')} ranked again", style="dim")
        if study.spec["latency"].get("by") == "blocks":
            head.append(", by predicted latencies", style="dim")
        self.query_one("#head", Static).update(head)
        self.query_one("#exchange", Static).update(Text(f"{exchange(self._alpha)}.".capitalize()))
        self._title("#old-title", "now", study.alpha, study.beta)
        self._title("#new-title", "with", self._alpha, self._beta)
        now = board.standing
        first = now.order[:TOP]
        self.query_one("#old", ListTable).fill(self._lines(first, now.reward[first], None))
        self.query_one("#new", ListTable).fill(self._lines(*board.best_for(self._alpha, self._beta, TOP), now))

    def _title(self, where: str, word: str, alpha: float, beta: float) -> None:
        text = Text.assemble((f"{word}  ", "dim"), (f"α {words.signed(alpha)}  β {beta:g}", "bold"))
        self.query_one(where, Static).update(text)

    def _lines(self, places: np.ndarray, rewards: np.ndarray, before: Standing | None) -> list[Line]:
        board = self._watched.trials
        assert board is not None
        lines = []
        missing = board.standing.miss > 0
        for rank, (place, reward) in enumerate(zip(places.tolist(), rewards.tolist(), strict=True), start=1):
            row = board.at(place).told
            loss = row.mean_loss if row.mean_loss is not None else row.loss
            cells = [
                f"{rank}{('^' if missing[place] else ' ') if missing.any() else ''}",
                f"{row.number}{'*' if board.standing.front[place] else ' '}",
                f"{reward:.3f}",
                words.figure(loss),
                words.milliseconds(row.latency_ms),
                words.count(row.parameters),
            ]
            looks = ["quiet", "", "strong", "", "", "quiet"]
            if before is not None:
                was = int(before.rank[place])
                up, down = was > rank, was < rank
                cells.append(f"{was} {'▲' if up else '▼' if down else ' '}")
                looks.append("good" if up else "warn" if down else "quiet")
            lines.append(Line(str(row.number), tuple(cells), tuple(looks)))
        return lines

    @writes
    def action_use(self) -> None:
        from kdnas.store import changes

        fault = self._fault("alpha", self.query_one("#alpha", Input).value) or self._fault(
            "beta", self.query_one("#beta", Input).value
        )
        if fault:
            self.query_one("#hint", Static).update(Text(fault))
            return
        alpha, beta = self._alpha, self._beta
        steering.change(
            self._watched,
            self.desk,
            lambda store, study: changes.set_reward(store, study, alpha, beta),
            f"From now on α {words.signed(alpha)}, β {beta:g}; the study's history says so.",
        )
        self.dismiss()


def check(name: str, value: float) -> None:
    """In the spec's range. Raises BadOptionError with the hint."""
    if name == "alpha" and not -2 <= value <= 0:
        raise BadOptionError("alpha", f"α = {words.signed(value)} is out of range.", "Give −2 to 0.")
    if name == "beta" and not 0 < value <= 10:
        raise BadOptionError("beta", f"β = {value:g} is out of range.", "Give more than 0 and at most 10.")
