"""What a study was begun with, what its workers found, and what people changed on it since."""

from __future__ import annotations

from typing import Any

from rich.text import Text

from kdnas.study import constraints, time_budget
from kdnas.study.loan import EVENT as LENT
from kdnas.study.rows import EventRow, WorkerRow
from kdnas.study.spec import from_store
from kdnas.study.spec_differences import flatten
from kdnas.study.spec_toml import to_toml
from kdnas.system import moments
from kdnas_tui import words
from kdnas_tui.screens.frame import bindings
from kdnas_tui.screens.page import Contents, Page, Pairs


class AboutScreen(Page):
    NAME = "about"
    BINDINGS = bindings("about")
    PANES = {
        "": "The study's spec as it was begun, its workers, what they found (versions, fingerprints, the latency's "
        "protocol), and the history of what people changed: α/β, budget, pauses."
    }

    def contents(self) -> Contents | None:
        study = self.watched.study
        if study is None:
            return None
        now = self.desk.clock()
        spec = flatten(from_store(study.spec))
        space = f"{study.space_size:,} candidates" if study.space_size else "not known yet"
        return Text.assemble((f"{study.name}  ", "bold"), "about the study"), [
            (
                "now",
                [
                    ("status", str(study.status)),
                    ("trials", study.counted_words.removesuffix(" trials").removesuffix(" trial")),
                    ("reward", f"α {words.signed(study.alpha)}, β {study.beta:g}"),
                    ("teacher's latency", f"{words.milliseconds(study.teacher_latency_ms)} ms"),
                    ("space", space),
                    *([("warm start", f"{self.watched.lent} were lent")] if self.watched.lent else []),
                ],
            ),
            ("workers", [worker_line(w, now) for w in self.watched.crew[-8:]]),
            ("history", [event_line(e) for e in self.watched.events[-20:]]),
            ("found by the workers", flat_pairs(self.watched.provenance)),
            ("spec", [(name, str(value)) for name, value in spec.items() if value is not None]),
        ]

    def action_copy(self) -> None:
        study = self.watched.study
        if study is not None:
            self.desk.copy(to_toml(from_store(study.spec)), f"{study.name}.toml")


ASKED = {  # what people asked of the workers → as the history says it
    "run": "told to run",
    "pause": "told to pause",
    "stop": "told to stop after the running trial",
    "abandon": "told to stop at once",
}


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
    when = moments.written(event.time, "%d %b %H:%M")
    detail: dict[str, Any] = dict(event.detail)
    old, new = detail.get("from"), detail.get("to")
    if event.kind == "wanted":
        says = ASKED.get(str(new), str(new))
    elif event.kind == LENT:
        says = f"begun with {detail.get('by', '')}, lent"
    elif event.kind == "ended":
        says = f"ended: {detail.get('ending', '')}"
    elif event.kind == "reward" and isinstance(old, dict) and isinstance(new, dict):
        says = f"α {words.signed(old['alpha'])} → {words.signed(new['alpha'])}, β {old['beta']:g} → {new['beta']:g}"
    elif event.kind == constraints.EVENT:
        was, now = (str(constraints.limits_of(values, None)) or "none" for values in (old, new))
        says = f"constraints: {was} → {now}"
    elif event.kind == time_budget.EVENT and isinstance(new, str):
        says = f"to run until {moments.full_words(moments.of_utc_text(new))}"
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
