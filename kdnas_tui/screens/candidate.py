"""One candidate in full: what it is, what was measured of it, how it learnt, and where the figures come from."""

from __future__ import annotations

from typing import Any

from rich.text import Text

from kdnas.study import layer_words, timed_words
from kdnas.study.constraints import of_study
from kdnas.study.ranked_rows import missed
from kdnas.study.ranking import Scored
from kdnas.study.rows import RUNG, CurvePoint, TrialRow
from kdnas.study.states import WAITS, TrialState
from kdnas_tui import words
from kdnas_tui.screens import steering
from kdnas_tui.screens.frame import bindings
from kdnas_tui.screens.page import Contents, Page, Pairs


class CandidateScreen(Page):
    NAME = "candidate"
    BINDINGS = bindings("candidate")
    PANES = {
        "": "Everything that the store knows of one candidate. The normalised loss is 0 where the student matches its "
        "teacher and 1 where it does no better than a constant; the raw one is what the recipe minimised."
    }

    def contents(self) -> Contents | None:
        scored = self.watched.current()
        if scored is None:
            return None
        head = Text(no_wrap=True, overflow="ellipsis")
        head.append(f"{self.watched.name}  ", style="dim")
        head.append(f"candidate {scored.number}", style="bold")
        if scored.rank is not None:
            head.append(f"   rank {scored.rank}" + (", a tie with a better one" if scored.tie else ""))
        if scored.behind:
            head.append(f"   no rank: it stayed on rung {scored.row.rung}")
        if scored.front:
            head.append("   on the front")
        if scored.infeasible:
            head.append("   ^ misses a constraint")
        if scored.row.marked:
            head.append("   ● marked")
        parts = facts(scored, self.watched.curves.get(scored.number, []), self.desk.clock())
        study = self.watched.study
        if study is not None and scored.miss is not None and (limits := of_study(study)):
            parts.insert(1, ("constraints", [("asked", str(limits)), ("missed", missed(scored, limits) or "none")]))
        if study is not None:
            parts.append(("provenance", provenance(study.spec, self.watched.provenance, scored)))
        if (remarks := self.watched.remarks) is not None:
            said = (("strategy", remarks.strategy), ("next", remarks.advice))
            parts.append(("study", [(name, str(told)) for name, told in said if told is not None]))
        return head, parts

    def action_copy(self) -> None:
        steering.copy_candidate(self.watched, self.desk)

    def action_copy_as(self) -> None:
        steering.copy_as(self, self.watched)

    def action_mark(self) -> None:
        if self.watched.cursor is not None:
            steering.mark(self.watched, self.desk, self.watched.cursor)
            self.draw()

    def action_next(self) -> None:
        self._step(1)

    def action_previous(self) -> None:
        self._step(-1)

    def _step(self, by: int) -> None:
        self.watched.step(by)  # the table behind follows
        self.draw()


def _state(row: TrialRow) -> str:
    if row.state == TrialState.WAITING:
        return row.phase or WAITS
    return f"{row.state}, {row.phase}" if row.phase and row.state == TrialState.RUNNING else row.state


def facts(scored: Scored, curve: list[CurvePoint], now: float) -> list[tuple[str, Pairs]]:
    """Titled pairs of what is known of a candidate."""
    row = scored.row
    spread = "" if row.loss_spread is None else f" ± {row.loss_spread:.4f} over {row.repeats + 1} seeds"
    result: Pairs = [
        ("state", _state(row)),
        ("reward", words.figure(scored.reward, 4)),
        ("loss, normalised", words.figure(row.loss, 4) + spread),
        ("loss, raw", words.figure(row.raw_loss, 5)),
        *((name, f"{value:.4g}") for name, value in row.extra.items() if name != RUNG),
    ]
    if row.predicted is not None:
        result.append(("reward foreseen", words.figure(row.predicted, 4)))
    if row.error:
        result.append(("error", row.error))
    told = scored.told
    low, high = told.latency_low_ms, told.latency_high_ms
    latency: Pairs = [
        ("median", f"{words.milliseconds(told.latency_ms)} ms" if told.latency_ms else "–"),
        ("95 % of the median", f"{low:.3g} to {high:.3g} ms" if low is not None and high is not None else "–"),
        ("90th percentile", f"{words.milliseconds(told.latency_p90_ms)} ms" if told.latency_p90_ms else "–"),
        ("for a teacher of", f"{words.milliseconds(told.teacher_latency_ms)} ms" if told.teacher_latency_ms else "–"),
        ("passes timed", str(row.latency_count or "–")),
        ("as timed", _as_timed(row)),
        ("faster than the teacher", f"{scored.speedup:.2f} times" if scored.speedup else "–"),
    ]
    if row.latency_flag:
        latency.append(("not measured" if row.latency_predicted else "doubtful", row.latency_flag))
    size: Pairs = [
        ("parameters", f"{row.parameters:,}" if row.parameters is not None else "–"),
        ("peak memory", words.mib(row.memory_mib)),
    ]
    spent = (row.ended or now) - row.started
    run: Pairs = [
        *([] if row.rung is None else [("rung", f"{row.rung}: scored {row.scored_after}")]),
        ("epochs", f"{row.epoch} of {row.epochs}" if row.epochs else "none: scored as built"),
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
        ("candidate", [(name, str(value)) for name, value in layer_words.shown(row.candidate).items()]),
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


def _as_timed(row: TrialRow) -> str:
    """What the clock said of both: longer on a busy machine, for the student and the teacher alike."""
    if not row.latency_ms or not row.teacher_latency_ms:
        return "–"
    return f"{words.milliseconds(row.latency_ms)} ms, teacher {words.milliseconds(row.teacher_latency_ms)} ms"


def provenance(spec: Any, found: dict[str, Any], scored: Scored) -> Pairs:
    """Where the figures come from: constants, protocol, versions, fingerprints."""
    row = scored.row
    latency, data = spec["latency"], spec["data"]
    pairs: Pairs = [
        ("teacher", str(spec["teacher"]["model"])),
        ("data", str(data["source"])),
        ("recipe", str(spec["recipe"]["name"])),
        (
            "rewarded with",
            f"α {words.signed(row.alpha)}, β {row.beta:g}" if row.alpha is not None and row.beta else "–",
        ),
        (
            "timed with",
            f"batch {latency['batch_size']}, length {latency['length']}, {words.plural(latency['threads'], 'thread')}"
            f"{timed_words.in_dtype(latency)}",
        ),
    ]
    if found.get("device"):
        pairs.append(("device", str(found["device"])))
    for part in ("teacher", "data", "versions"):
        inner = found.get(part)
        if isinstance(inner, dict):
            pairs += [(f"{part}: {key}" if part != "versions" else key, str(value)) for key, value in inner.items()]
    return pairs
