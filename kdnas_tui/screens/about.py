"""What a study was begun with, what its workers found, and what people changed on it since."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from rich.text import Text
from textual.app import ComposeResult
from textual.containers import VerticalScroll
from textual.widgets import Static

from kdnas.spec import flatten, from_values, to_toml
from kdnas.store.rows import EventRow, WorkerRow
from kdnas_tui import words
from kdnas_tui.feed import News
from kdnas_tui.screens.candidate import Pairs, columns
from kdnas_tui.screens.frame import Frame, bindings
from kdnas_tui.widgets.key_bar import KeyBar

if TYPE_CHECKING:
    from kdnas_tui.screens.study import StudyScreen


class AboutScreen(Frame):
    NAME = "about"
    BINDINGS = bindings("about")
    PANES = {
        "": "The study's spec as it was begun, its workers, what they found (versions, fingerprints, the latency's "
        "protocol), and the history of what people changed: α/β, budget, pauses."
    }

    def __init__(self, study: StudyScreen) -> None:
        super().__init__()
        self._study = study

    def compose(self) -> ComposeResult:
        yield Static(id="head", classes="head")
        with VerticalScroll(id="page"):
            yield Static(id="facts")
        yield KeyBar("about")

    def on_mount(self) -> None:
        self._draw()
        self.query_one("#page").focus()

    def on_resize(self) -> None:
        self._draw()

    def tell(self, news: News) -> None:
        self._draw()

    def _draw(self) -> None:
        study = self._study.study
        if study is None or not self.is_mounted:
            return
        head = Text.assemble((f"{study.name}  ", "bold"), "about the study")
        self.query_one("#head", Static).update(head)
        now = self.kdnas.now()
        spec = flatten(from_values(study.spec))
        space = f"{study.space_size:,} candidates" if study.space_size else "not known yet"
        parts: list[tuple[str, Pairs]] = [
            (
                "now",
                [
                    ("status", str(study.status)),
                    ("trials", f"{study.done} of {study.trials}"),
                    ("reward", f"α {words.signed(study.alpha)}, β {study.beta:g}"),
                    ("teacher's latency", f"{words.milliseconds(study.teacher_latency_ms)} ms"),
                    ("space", space),
                ],
            ),
            ("workers", [worker_line(w, now) for w in self._study.crew[-8:]]),
            ("history", [event_line(e) for e in self._study.events[-20:]]),
            ("found by the workers", flat_pairs(self._study.provenance)),
            ("spec", [(name, str(value)) for name, value in spec.items() if value is not None]),
        ]
        self.query_one("#facts", Static).update(columns(parts, self.app.size.width - 6))

    def action_copy(self) -> None:
        study = self._study.study
        if study is not None:
            self.kdnas.copy(to_toml(from_values(study.spec)), f"{study.name}.toml")


def worker_line(worker: WorkerRow, now: float) -> tuple[str, str]:
    says = f"{worker.state}, {worker.task}, pid {worker.pid} on {worker.host}"
    if worker.device:
        says += f", {worker.device}"
    says += f", heard {words.ago(now, worker.heartbeat)} ago"
    if worker.error:
        says += f": {worker.error}"
    return f"worker {worker.worker_id}", says


def event_line(event: EventRow) -> tuple[str, str]:
    """When, and what was changed, in words."""
    when = time.strftime("%d %b %H:%M", time.localtime(event.time))
    detail: dict[str, Any] = dict(event.detail)
    old, new = detail.get("from"), detail.get("to")
    if event.kind == "reward" and isinstance(old, dict) and isinstance(new, dict):
        says = (
            f"α {words.signed(old['alpha'])} → {words.signed(new['alpha'])}, β {old['beta']:g} → {new['beta']:g}"
        )
    elif "to" in detail:
        says = f"{event.kind}: {old} → {new}"
    else:
        plain = [f"{key} {value}" for key, value in detail.items() if not isinstance(value, dict | list)]
        says = ", ".join([event.kind, *plain])
    return when, says


def flat_pairs(values: Any, prefix: str = "") -> Pairs:
    """Nested values as dotted names."""
    pairs: Pairs = []
    for key, value in values.items():
        if isinstance(value, dict):
            pairs += flat_pairs(value, f"{prefix}{key}.")
        else:
            pairs.append((f"{prefix}{key}", str(value)))
    return pairs
