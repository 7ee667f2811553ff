"""One candidate in full: what it is, what was measured of it, how it learnt, and where the figures come from."""

from __future__ import annotations

import json
import textwrap
from typing import TYPE_CHECKING, Any

from rich.text import Text
from textual.app import ComposeResult
from textual.containers import VerticalScroll
from textual.widgets import Static

from kdnas.ranking import Scored
from kdnas.store.rows import CurvePoint
from kdnas_tui import words
from kdnas_tui.feed import News
from kdnas_tui.screens.frame import Frame, bindings
from kdnas_tui.widgets.key_bar import KeyBar

if TYPE_CHECKING:
    from kdnas_tui.screens.study import StudyScreen

Pairs = list[tuple[str, str]]


class CandidateScreen(Frame):
    NAME = "candidate"
    BINDINGS = bindings("candidate")
    PANES = {
        "": "Everything that the store knows of one candidate. The normalised loss is 0 where the student matches its "
        "teacher and 1 where it does no better than a constant; the raw one is what the recipe minimised."
    }

    def __init__(self, study: StudyScreen) -> None:
        super().__init__()
        self._study = study

    def compose(self) -> ComposeResult:
        yield Static(id="head", classes="head")
        with VerticalScroll(id="page"):
            yield Static(id="facts")
        yield KeyBar("candidate")

    def on_mount(self) -> None:
        self._draw()
        self.query_one("#page").focus()

    def on_resize(self) -> None:
        self._draw()

    def tell(self, news: News) -> None:
        self._draw()

    def _draw(self) -> None:
        scored = self._study.current()
        if scored is None or not self.is_mounted:
            return
        study = self._study.study
        head = Text(no_wrap=True, overflow="ellipsis")
        head.append(f"{self._study.study_name}  ", style="dim")
        head.append(f"candidate {scored.number}", style="bold")
        if scored.rank is not None:
            head.append(f"   rank {scored.rank}" + (", a tie with a better one" if scored.tie else ""))
        if scored.front:
            head.append("   on the front")
        if scored.row.marked:
            head.append("   ● marked")
        self.query_one("#head", Static).update(head)
        parts = facts(scored, self._study.curves.get(scored.number, []), self.kdnas.now())
        if study is not None:
            parts.append(("provenance", provenance(study.spec, self._study.provenance, scored)))
        self.query_one("#facts", Static).update(columns(parts, self.app.size.width - 6))

    def action_copy(self) -> None:
        self._study.action_copy()

    def action_mark(self) -> None:
        self._study.action_mark()

    def action_next(self) -> None:
        self._step(1)

    def action_previous(self) -> None:
        self._step(-1)

    def _step(self, by: int) -> None:
        from kdnas_tui.widgets.trials_table import TrialsTable

        table = self._study.query_one(TrialsTable)
        table.action_move(by)
        if table.cursor is not None:
            self._study.cursor_to(table.cursor)
        self._draw()


def as_json(scored: Scored) -> str:
    """A candidate as an export writes it."""
    from kdnas.export import candidate

    return json.dumps(candidate(scored), indent=2, ensure_ascii=False) + "\n"


def facts(scored: Scored, curve: list[CurvePoint], now: float) -> list[tuple[str, Pairs]]:
    """Titled pairs of what is known of a candidate."""
    row = scored.row
    spread = "" if row.loss_spread is None else f" ± {row.loss_spread:.4f} over {row.repeats + 1} seeds"
    result: Pairs = [
        ("state", row.state + (f", {row.phase}" if row.phase and row.state == "running" else "")),
        ("reward", words.figure(scored.reward, 4)),
        ("loss, normalised", words.figure(row.loss, 4) + spread),
        ("loss, raw", words.figure(row.raw_loss, 5)),
        *((name, f"{value:.4g}") for name, value in row.extra.items()),
    ]
    if row.predicted is not None:
        result.append(("reward foreseen", words.figure(row.predicted, 4)))
    if row.error:
        result.append(("error", row.error))
    low, high = row.latency_low_ms, row.latency_high_ms
    latency: Pairs = [
        ("median", f"{words.milliseconds(row.latency_ms)} ms" if row.latency_ms else "–"),
        ("95 % of the median", f"{low:.3g} to {high:.3g} ms" if low is not None and high is not None else "–"),
        ("90th percentile", f"{words.milliseconds(row.latency_p90_ms)} ms" if row.latency_p90_ms else "–"),
        ("passes timed", str(row.latency_count or "–")),
        ("teacher, beside it", f"{words.milliseconds(row.teacher_latency_ms)} ms" if row.teacher_latency_ms else "–"),
        ("faster than the teacher", f"{scored.speedup:.2f} times" if scored.speedup else "–"),
    ]
    if row.latency_flag:
        latency.append(("doubtful", row.latency_flag))
    size: Pairs = [
        ("parameters", f"{row.parameters:,}" if row.parameters is not None else "–"),
        ("peak memory", words.mib(row.memory_mib)),
    ]
    spent = (row.ended or now) - row.started
    run: Pairs = [
        ("epochs", f"{row.epoch} of {row.epochs}"),
        ("time", words.duration(spent)),
        ("origin", row.origin or "–"),
        ("seed", str(row.seed) if row.seed is not None else "–"),
        ("slot", str(row.slot)),
    ]
    if row.reused_from is not None:
        run.append(("result of", f"trial {row.reused_from}"))
    if row.tags:
        run.append(("tags", " ".join(row.tags)))
    if row.note:
        run.append(("note", row.note))
    parts = [
        ("result", result),
        ("latency", latency),
        ("size", size),
        ("candidate", [(name, str(value)) for name, value in row.candidate.items()]),
        ("configuration", [(name, str(value)) for name, value in row.config.items()]),
        ("run", run),
    ]
    if curve:
        learnt = [
            (f"epoch {p.epoch}", f"loss {p.loss:.4f}, training {p.train_loss:.4g}, {words.duration(p.seconds)}")
            for p in curve
        ]
        parts.append(("learning", learnt))
    return parts


def provenance(spec: Any, found: dict[str, Any], scored: Scored) -> Pairs:
    """Where the figures come from: constants, protocol, versions, fingerprints."""
    row = scored.row
    latency, data = spec["latency"], spec["data"]
    pairs: Pairs = [
        ("teacher", str(spec["teacher"]["model"])),
        ("data", str(data["source"])),
        ("recipe", str(spec["recipe"]["name"])),
        ("told with", f"α {words.signed(row.alpha)}, β {row.beta:g}" if row.alpha is not None and row.beta else "–"),
        (
            "timed with",
            f"batch {latency['batch_size']}, length {latency['length']}, {words.plural(latency['threads'], 'thread')}",
        ),
    ]
    if found.get("device"):
        pairs.append(("device", str(found["device"])))
    for part in ("teacher", "data", "versions"):
        inner = found.get(part)
        if isinstance(inner, dict):
            pairs += [(f"{part}: {key}" if part != "versions" else key, str(value)) for key, value in inner.items()]
    return pairs


def columns(parts: list[tuple[str, Pairs]], width: int) -> Text:
    """Titled pairs one under another, in two columns where there is room."""
    blocks = [_block(title, pairs, (width - 4) // 2 if width >= 100 else width) for title, pairs in parts if pairs]
    text = Text()
    if width < 100:
        for block in blocks:
            text.append_text(_lines(block))
            text.append("\n")
        return text
    left: list[Text] = []
    right: list[Text] = []
    for block in blocks:
        shorter = left if len(left) <= len(right) else right
        shorter += [*block, Text("")]
    half = (width - 4) // 2
    for i in range(max(len(left), len(right))):
        one = left[i].copy() if i < len(left) else Text("")
        one.truncate(half, pad=True)
        text.append_text(one)
        text.append("    ")
        if i < len(right):
            text.append_text(right[i])
        text.append("\n")
    return text


def _block(title: str, pairs: Pairs, width: int) -> list[Text]:
    label = min(26, max((len(name) for name, _ in pairs), default=0) + 2)
    lines = [Text(title, style="bold")]
    for name, value in pairs:
        room = max(8, width - label - 2)
        for i, shown in enumerate(textwrap.wrap(value, room) or ["–"]):
            line = Text("  ")
            line.append(("" if i else name)[: label - 1].ljust(label), style="dim")
            line.append(shown)
            lines.append(line)
    return lines


def _lines(block: list[Text]) -> Text:
    return Text("\n").join(block).append("\n")
