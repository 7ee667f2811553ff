"""Pictures of a search, for reports: drawn by matplotlib, as SVG for a page and as PNG for a pull request.

Knows rows, not databases. Needs the extra `report`. The screens draw their own.
"""

from __future__ import annotations

import importlib.util
import io
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from kdnas.study.ranking import Scored
from kdnas.study.rows import EpisodeRow
from kdnas.system.errors import UsageError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

INK, QUIET, STRONG, WARM = "#1f2933", "#9aa5b1", "#0b6e99", "#c2410c"
WIDTH, HEIGHT = 6.4, 3.8  # inches
LONGEST = 40  # characters of a name beside its dot


def require() -> None:
    """Raise UsageError where matplotlib is missing."""
    if importlib.util.find_spec("matplotlib") is None:
        raise UsageError("Pictures need the package matplotlib.", "Install it: pip install 'kdnas[report]'.")


@contextmanager
def _figure(x: str, y: str) -> Iterator[tuple[Figure, Any]]:
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    style: Any = {
        "font.size": 10,
        "axes.edgecolor": QUIET,
        "axes.labelcolor": INK,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "xtick.color": INK,
        "ytick.color": INK,
        "text.color": INK,
        "legend.frameon": False,
        "text.parse_math": False,  # a $ in a name is a $
    }
    with rc_context(style):
        figure = Figure(figsize=(WIDTH, HEIGHT), layout="constrained")
        axes = figure.add_subplot()
        axes.set_xlabel(x)
        axes.set_ylabel(y)
        yield figure, axes


def pareto(scored: Sequence[Scored]) -> Figure:
    """Loss against latency of every finished trial, the front drawn and named, the teacher's latency as a line."""
    done = [s for s in scored if s.rank is not None and s.row.latency_ms and s.loss_used is not None]
    predicted = "predicted " if any(s.row.latency_predicted for s in done) else ""
    with _figure(f"{predicted}latency, ms (log)", "held-out loss") as (figure, axes):
        latency = np.array([s.told.latency_ms for s in done], dtype=float)
        loss = np.array([s.loss_used for s in done], dtype=float)
        front = np.array([s.front for s in done], dtype=bool)
        missing = np.array([s.infeasible for s in done], dtype=bool) & ~front
        others = ~front & ~missing
        axes.scatter(latency[others], loss[others], s=18, color=QUIET, linewidths=0, label="other trials")
        if missing.any():
            axes.scatter(
                latency[missing],
                loss[missing],
                s=18,
                marker="x",
                color=QUIET,
                linewidths=1,
                label="misses a constraint",
            )
        order = np.argsort(latency[front], kind="stable")
        axes.plot(latency[front][order], loss[front][order], color=STRONG, linewidth=1.2, drawstyle="steps-post")
        axes.scatter(latency[front], loss[front], s=30, color=STRONG, linewidths=0, label="Pareto front")
        span = float(np.ptp(np.log(latency))) or 1.0
        named = -np.inf
        for s in sorted((s for s in done if s.front), key=lambda s: s.told.latency_ms or 0.0):
            at = (float(s.told.latency_ms or 0), float(s.loss_used or 0))
            if np.log(at[0]) - named > 0.09 * span:  # a name where the one before leaves room for it
                named = float(np.log(at[0]))
                axes.annotate(f"#{s.number}", at, xytext=(4, 4), textcoords="offset points", fontsize=8)
        best = next((s for s in done if s.rank == 1 and not s.infeasible), None)
        if best is not None:
            at_best = ([best.told.latency_ms], [best.loss_used])
            axes.scatter(*at_best, s=90, facecolors="none", edgecolors=WARM, label="best reward")
        teacher = [s.told.teacher_latency_ms for s in done if s.told.teacher_latency_ms]
        if teacher:
            axes.axvline(float(np.median(teacher)), color=WARM, linestyle=":", linewidth=1, label="teacher")
        axes.set_xscale("log")
        _plain_log_ticks(axes)
        axes.legend(fontsize=8)
    return figure


def _plain_log_ticks(axes: Any) -> None:
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())


def history(scored: Sequence[Scored]) -> Figure:
    """The reward of every trial in the order in which they were begun, and the best so far."""
    done = sorted((s for s in scored if s.rank is not None), key=lambda s: s.number)
    with _figure("trial", "reward") as (figure, axes):
        number = np.array([s.number for s in done])
        reward = np.array([s.reward for s in done], dtype=float)
        axes.scatter(number, reward, s=14, color=QUIET, linewidths=0, label="trials")
        if len(done):
            best = np.maximum.accumulate(reward)
            axes.plot(number, best, color=STRONG, drawstyle="steps-post", label="best so far")
            low = float(np.quantile(reward, 0.05))
            axes.set_ylim(bottom=low - 0.08 * (float(reward.max()) - low + 1e-9))
        axes.legend(fontsize=8, loc="lower right")
    return figure


def controller(scored: Sequence[Scored], episodes: Sequence[EpisodeRow]) -> Figure | None:
    """Predicted against actual reward, later episodes darker, and ε beside them; None where nothing was predicted."""
    known = [s for s in scored if s.row.predicted is not None and s.row.reward is not None]
    if not known:
        return None
    from matplotlib.colors import LinearSegmentedColormap

    with _figure("reward that the controller predicted", "reward") as (figure, axes):
        predicted = np.array([s.row.predicted for s in known], dtype=float)
        came = np.array([s.row.reward for s in known], dtype=float)
        ends = [float(min(predicted.min(), came.min())), float(max(predicted.max(), came.max()))]
        axes.plot(ends, ends, color=QUIET, linewidth=1, linestyle=":")
        age = np.array([s.number for s in known])
        shades = LinearSegmentedColormap.from_list("age", ["#b9cfdc", "#0b3c5d"])
        dots = axes.scatter(predicted, came, c=age, cmap=shades, s=18, linewidths=0)
        figure.colorbar(dots, ax=axes, label="trial")
        if episodes:
            first, last = episodes[0].epsilon, episodes[-1].epsilon
            axes.set_title(f"{len(episodes)} episodes, ε {first:g} → {last:g}", fontsize=10)
    return figure


def importance(shares: Sequence[tuple[str, float]]) -> Figure:
    """Shares of the reward's variance by dimension."""
    with _figure("share of the reward's variance", "") as (figure, axes):
        names = [name for name, _ in reversed(shares)]
        axes.barh(names, [share for _, share in reversed(shares)], color=STRONG, height=0.6)
        axes.set_xlim(0, 1)
    return figure


def campaign(rows: Sequence[Mapping[str, Any]]) -> Figure:
    """Task score against latency of a campaign's final table, the larger the model the larger its dot; the front over
    all members is drawn. Names that are too long for the picture are cut in the middle."""
    there = [row for row in rows if row["score"] is not None and row["latency_ms"] is not None]
    most = max((row["size_mib"] for row in there), default=1.0) or 1.0
    with _figure("latency, ms (log)", "task score") as (figure, axes):
        for kind, colour, label in (("student", STRONG, "students"), ("teacher", WARM, "teachers")):
            of = [row for row in there if row["kind"] == kind]
            if of:
                sizes = [24 + 160 * row["size_mib"] / most for row in of]
                at = [row["latency_ms"] for row in of], [row["score"] for row in of]
                axes.scatter(*at, s=sizes, color=colour, alpha=0.75, linewidths=0, label=label)
        front = sorted((row["latency_ms"], row["score"]) for row in there if row["front"])
        if front:
            axes.plot(*zip(*front, strict=True), color=QUIET, linewidth=1.2, drawstyle="steps-post", label="front")
        times = [row["latency_ms"] for row in there] or [1.0]
        middle = math.sqrt(min(times) * max(times))  # of a logarithmic axis
        for row in there:
            at_row, left = (row["latency_ms"], row["score"]), row["latency_ms"] > middle
            place = {"xytext": (-6, 5) if left else (6, 5), "ha": "right" if left else "left"}
            name = axes.annotate(_short(row["name"]), at_row, textcoords="offset points", fontsize=8, **place)
            name.set_in_layout(False)  # the axes keep their room; the table has the whole name
        if there:
            axes.set_xscale("log")
            _plain_log_ticks(axes)
            axes.legend(fontsize=8)
    return figure


def _short(name: str) -> str:
    return name if len(name) <= LONGEST else f"{name[: LONGEST // 2 - 1]}…{name[-(LONGEST // 2) :]}"


# ------------------------------------------------------------------------------------------------------- as files


def svg(figure: Figure, name: str, title: str) -> str:
    """One `<svg>` element with real text, to stand in a page; `name` keeps its ids apart from other pictures'."""
    from matplotlib import rc_context
    from matplotlib.backends.backend_svg import FigureCanvasSVG

    out = io.StringIO()
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": name, "font.family": "sans-serif"}):
        FigureCanvasSVG(figure).print_svg(out, metadata={"Date": None, "Creator": None, "Title": title})
    text = out.getvalue()
    text = text[text.index("<svg") :]
    # The page scales it; ids stay unique on a page with several pictures.
    text = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", text, count=1)
    text = re.sub(r'(<svg[^>]*?) width="[^"]*"', r'\1 role="img"', text, count=1)
    text = re.sub(r'\bid="([^"]+)"', rf'id="{name}-\1"', text)
    text = re.sub(r"url\(#([^)]+)\)", rf"url(#{name}-\1)", text)
    return re.sub(r'href="#([^"]+)"', rf'href="#{name}-\1"', text)


def png(figure: Figure, dpi: int = 150) -> bytes:
    """The picture on white."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    out = io.BytesIO()
    FigureCanvasAgg(figure)
    figure.savefig(out, format="png", dpi=dpi, facecolor="white", metadata={"Software": None})
    return out.getvalue()
