"""A study as one page: pictures of the search, the best candidates, what was traded for what, and where it comes from.

`report.html` needs nothing beside it and no network; `report.md` has its pictures as PNG files in a folder beside it,
for a pull request. Reads the store, writes nothing into it.
"""

from __future__ import annotations

import html
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from kdnas import __version__
from kdnas.reports import pictures
from kdnas.store import queries, tables
from kdnas.store.database import Store
from kdnas.study.ranked_rows import rank
from kdnas.study.ranking import Scored
from kdnas.study.reward import exchange
from kdnas.study.rows import EpisodeRow, EventRow, RunRow, StudyRow
from kdnas.study.space import SearchSpace
from kdnas.study.spec import StudySpec, from_values
from kdnas.study.spec_differences import flatten
from kdnas.system.errors import UsageError
from kdnas.system.files import write_atomically

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SUFFIXES = (".html", ".htm", ".md", ".markdown")
BEST = 25


@dataclass(frozen=True)
class Picture:
    """One drawing with what it shows."""

    name: str
    title: str
    words: str
    figure: Figure


@dataclass(frozen=True)
class Content:
    """Everything that a report says, however it is written."""

    study: StudyRow
    spec: StudySpec
    scored: Sequence[Scored]
    pictures: Sequence[Picture]
    episodes: Sequence[EpisodeRow]
    events: Sequence[EventRow]
    runs: Sequence[RunRow]
    provenance: Mapping[str, Any]


def gather(store: Store, name: str) -> Content:
    """What the store says of a study. Raises UsageError where there is none, or no finished trial."""
    pictures.require()
    study = queries.study_row(store, name)
    spec = from_values(study.spec)
    scored = rank(queries.trial_rows(store, study.study_id), study.alpha, study.beta, spec.reward.loss)
    if not any(s.rank is not None for s in scored):
        raise UsageError(f"Study {name} has no finished trial to report.", f"Let it finish one: kdnas search {name}")
    with store.connect() as connection:
        text = connection.execute(
            sa.select(tables.study.c.space).where(tables.study.c.study_id == study.study_id)
        ).scalar_one_or_none()
    episodes = queries.episodes(store, study.study_id)
    return Content(
        study,
        spec,
        scored,
        _pictures(study, spec, scored, episodes, SearchSpace.from_json(text) if text else None),
        episodes,
        queries.events(store, study.study_id),
        queries.runs(store, study.study_id),
        queries.provenance(store, study.study_id),
    )


def _pictures(
    study: StudyRow,
    spec: StudySpec,
    scored: Sequence[Scored],
    episodes: Sequence[EpisodeRow],
    space: SearchSpace | None,
) -> list[Picture]:
    from kdnas.reports.parameter_importance import importance

    found = [
        Picture(
            "pareto",
            "Loss and latency",
            "Each dot is a finished trial; no other trial is better in both than those on the front.",
            pictures.pareto(scored),
        ),
        Picture(
            "history",
            "The search",
            f"Rewards at α = {study.alpha:g} and β = {study.beta:g}, and the best so far.",
            pictures.history(scored),
        ),
    ]
    foreseen = pictures.controller(scored, episodes)
    if foreseen is not None:
        words = "On the dotted line the controller foresaw the reward to the point."
        found.append(Picture("controller", "The controller's predictions", words, foreseen))
    if space is not None:
        try:
            matters = importance([s.row for s in scored], space, study.alpha, study.beta, spec.reward.loss)
        except UsageError:
            pass  # too few trials, or all alike
        else:
            words = f"By Optuna's {matters.evaluator} on {matters.trials} trials."
            found.append(Picture("importance", "What matters", words, pictures.importance(matters.shares)))
    return found


def write(content: Content, output: Path) -> list[Path]:
    """Write the report in the format of the file's suffix; the files written. Raises UsageError."""
    suffix = output.suffix.lower()
    if suffix not in SUFFIXES:
        raise UsageError(f"The name {output.name} does not say which format to write.", "End it in .html or .md.")
    if not output.parent.is_dir():
        raise UsageError(f"The folder {output.parent} does not exist.", "Make it first, or name another.")
    if suffix.startswith(".htm"):
        write_atomically(output, as_html(content))
        return [output]
    files = output.with_name(f"{output.stem}-pictures")
    if files.exists() and not files.is_dir():
        raise UsageError(f"{files} is a file; the pictures go into a folder of that name.", "Move it away.")
    files.mkdir(exist_ok=True)
    written = []
    for picture in content.pictures:
        path = files / f"{picture.name}.png"
        write_atomically(path, pictures.png(picture.figure))
        written.append(path)
    write_atomically(output, as_markdown(content, files.name))
    return [output, *written]


# ------------------------------------------------------------------------------------------------- what it says


def _facts(content: Content) -> list[tuple[str, str]]:
    study, spec = content.study, content.spec
    counts = [f"{study.done} of {study.trials} trials"]
    counts += [f"{getattr(study, word)} {word}" for word in ("pruned", "failed", "reused") if getattr(study, word)]
    teacher_ms = "" if study.teacher_latency_ms is None else f" ({study.teacher_latency_ms:.3g} ms)"
    size = "" if study.space_size is None else f" of a space of {study.space_size:,} candidates"
    return [
        ("Status", f"{study.status}, {', '.join(counts)}{size}"),
        ("Teacher", f"{spec.teacher.model}{teacher_ms}"),
        ("Data", spec.data.source),
        ("Recipe", spec.recipe.name),
        ("Strategy", spec.strategy.name),
        ("Seed", str(spec.seed)),
        ("Reward", f"(1 − loss) · (latency / (β · teacher's latency))^α, α = {study.alpha:g}, β = {study.beta:g}"),
        ("Exchange", str(exchange(study.alpha))),
    ]


def _protocol(content: Content) -> list[tuple[str, str]]:
    spec = content.spec
    latency, budget = spec.latency, spec.budget
    normalised = spec.reward.loss == "normalised"
    kind = "normalised (0 matches the teacher, 1 is a constant prediction)" if normalised else "raw"
    return [
        (
            "Evaluation",
            f"{budget.epochs} epochs on {budget.proxy_fraction:.0%} of the training data, scored on at most "
            f"{spec.data.max_held_out} held-out chunks; pruner {budget.pruner}",
        ),
        ("Loss", kind),
        (
            "Latency",
            f"median of one forward pass of the body, batch {latency.batch_size}, {latency.length} tokens, "
            f"{latency.threads} thread(s); student and teacher in turn; until the 95 % interval of the median is "
            f"within ±{latency.precision:.0%}, at most {latency.max_seconds:g} s",
        ),
        ("Ties", "`~` marks a reward that noise cannot tell from a better one; `*` a trial on the Pareto front"),
    ]


def _columns(content: Content) -> tuple[list[str], list[list[Any]]]:
    """The table of the best: names, and rows of plain values."""
    best = [s for s in content.scored if s.rank is not None][:BEST]
    dimensions = list(dict.fromkeys(name for s in best for name in s.row.candidate))
    names = ["rank", "trial", "reward", "loss", "raw loss", "latency ms", "p90 ms", "× teacher", "parameters"]
    rows: list[list[Any]] = []
    for s in best:
        row = s.row
        figures = [row.raw_loss, row.latency_ms, row.latency_p90_ms, row.speedup, row.parameters]
        values = [row.candidate.get(name) for name in dimensions]
        rows.append([s.rank, row.number, s.reward, s.loss_used, *figures, *values])
    return [*names, *dimensions], rows


def _shown(name: str, value: Any, scored: Scored) -> str:
    if value is None:
        return "–"
    if name == "rank":
        return f"{value}{' ~' if scored.tie else ''}"
    if name == "trial":
        return f"{value}{'*' if scored.front else ''}"
    if name == "parameters":
        return f"{value:,}"
    if name in ("reward", "loss"):
        return f"{value:.4f}"
    if isinstance(value, float):
        return f"{value:.3g}"
    return str(value)


def _runs(content: Content) -> list[list[str]]:
    """What became of candidates: finalized folders and their scores."""
    rows = []
    for run in content.runs:
        said = []
        metrics, latency = run.result.get("metrics"), run.result.get("latency")
        if metrics:
            said.append(f"held-out loss {metrics['loss']:.4f} after {metrics['epochs']} epochs")
        if latency:
            said.append(f"{latency['student_ms']:.3g} ms, {latency['speedup']:.2f} × the teacher's speed")
        for name, entry in (run.result.get("tasks") or {}).items():
            kept = "" if entry["kept"] is None else f" ({entry['kept']:.1f} % of the teacher's)"
            said.append(f"{name} {100 * entry['student']['score']:.1f}{kept}")
        if run.error:
            said.append(run.error)
        number = "–" if run.number is None else str(run.number)
        rows.append([run.kind, number, Path(run.folder).name, run.state, "; ".join(said)])
    return rows


RUN_COLUMNS = ["what", "trial", "folder", "state", "result"]


def _history(content: Content) -> list[str]:
    return [f"{_moment(event.time)}: {event.kind} {json.dumps(dict(event.detail))}" for event in content.events]


def _moment(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(seconds))


# ------------------------------------------------------------------------------------------------------- Markdown


def as_markdown(content: Content, folder: str) -> str:
    """The report as Markdown; pictures are taken from `folder`, beside the file."""
    lines = [f"# {_cell(content.study.name)}", "", "| | |", "| --- | --- |"]
    lines += [f"| {name} | {_cell(value)} |" for name, value in _facts(content)]
    for picture in content.pictures:
        lines += ["", f"## {picture.title}", "", f"![{picture.title}]({folder}/{picture.name}.png)", "", picture.words]
    names, rows = _columns(content)
    lines += ["", "## The best", "", f"| {' | '.join(map(_cell, names))} |", "|" + " ---: |" * len(names)]
    for scored, row in zip(content.scored, rows, strict=False):
        cells = [_cell(_shown(name, value, scored)) for name, value in zip(names, row, strict=True)]
        lines.append(f"| {' | '.join(cells)} |")
    if content.runs:
        lines += ["", "## Models made from it", "", f"| {' | '.join(RUN_COLUMNS)} |", "|" + " --- |" * len(RUN_COLUMNS)]
        lines += [f"| {' | '.join(map(_cell, row))} |" for row in _runs(content)]
    lines += ["", "## Protocol", "", "| | |", "| --- | --- |"]
    lines += [f"| {name} | {_cell(value)} |" for name, value in _protocol(content)]
    lines += ["", "<details><summary>Provenance</summary>", "", "```json"]
    lines += [json.dumps(dict(content.provenance), indent=1, ensure_ascii=False).replace("```", "` ` `")]
    lines += ["```", "", "</details>", "", "<details><summary>Every setting</summary>", "", "| setting | value |"]
    lines += ["| --- | --- |"]
    lines += [f"| {_cell(name)} | {_cell(json.dumps(value))} |" for name, value in flatten(content.spec).items()]
    lines += ["", "</details>", "", f"Written by kdnas {__version__}, {_moment(time.time())}.", ""]
    return "\n".join(lines)


def _cell(value: Any) -> str:
    text = str(value).replace("\\", "\\\\").replace("|", "\\|").replace("\n", " ")
    return text.replace("<", "&lt;")


# ----------------------------------------------------------------------------------------------------------- HTML

STYLE = """
:root { color-scheme: light dark; --ink: #1f2933; --quiet: #616e7c; --line: #d9e0e7; --paper: #fff; --card: #f7f9fb; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e4e9ee; --quiet: #9aa5b1; --line: #37424d; --paper: #15191e; --card: #1d232a; }
}
body { font: 16px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); max-width: 68rem;
  margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.8rem; } h2 { font-size: 1.2rem; margin: 2.2rem 0 .6rem; }
figure { margin: 0; background: #fff; border: 1px solid var(--line); border-radius: 6px; padding: .6rem; }
figure svg { width: 100%; height: auto; display: block; }
figcaption { color: #616e7c; font-size: .85rem; }
.pictures { display: grid; grid-template-columns: repeat(auto-fit, minmax(24rem, 1fr)); gap: 1rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: .88rem; font-variant-numeric: tabular-nums; }
th, td { border-bottom: 1px solid var(--line); padding: .25rem .7rem; text-align: left; vertical-align: top; }
td.n, th.n { text-align: right; }
th button { all: unset; cursor: pointer; font-weight: 600; }
th button:focus-visible { outline: 2px solid #0b6e99; }
th[aria-sort=ascending] button::after { content: " ▲"; } th[aria-sort=descending] button::after { content: " ▼"; }
pre { background: var(--card); padding: .8rem; overflow-x: auto; font-size: .8rem; }
.quiet { color: var(--quiet); font-size: .85rem; }
"""

SCRIPT = """
for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, place) => head.querySelector("button").addEventListener("click", () => {
    const up = head.getAttribute("aria-sort") !== "ascending";
    heads.forEach(other => other.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", up ? "ascending" : "descending");
    const key = row => row.cells[place].dataset.value;
    const rows = [...table.tBodies[0].rows].sort((a, b) => {
      const [x, y] = [key(a), key(b)], [n, m] = [Number(x), Number(y)];
      if (x === "" || y === "") return (x === "") - (y === "");
      const order = Number.isNaN(n) || Number.isNaN(m) ? x.localeCompare(y) : n - m;
      return up ? order : -order;
    });
    table.tBodies[0].append(...rows);
  }));
}
"""

POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:"


def as_html(content: Content) -> str:
    """The report as one page that needs nothing beside it."""
    title = f"{content.study.name}: a kdnas study"
    parts = [
        "<!doctype html>",
        '<html lang="en"><head><meta charset="utf-8">',
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{_escape(title)}</title><style>{STYLE}</style></head><body>",
        f"<h1>{_escape(content.study.name)}</h1>",
        _pairs(_facts(content)),
        '<h2>Pictures</h2><div class="pictures">',
    ]
    for picture in content.pictures:
        drawing = pictures.svg(picture.figure, picture.name, picture.title)
        parts.append(
            f'<figure id="{picture.name}"><strong>{_escape(picture.title)}</strong>{drawing}'
            f"<figcaption>{_escape(picture.words)}</figcaption></figure>"
        )
    parts += ["</div>", "<h2>The best</h2>", _best_table(content)]
    if content.runs:
        parts += ["<h2>Models made from it</h2>", _plain_table(RUN_COLUMNS, _runs(content))]
    parts += ["<h2>Protocol</h2>", _pairs(_protocol(content))]
    if content.events:
        items = "".join(f"<li>{_escape(line)}</li>" for line in _history(content))
        parts += [f"<details><summary>History</summary><ul>{items}</ul></details>"]
    provenance = json.dumps(dict(content.provenance), indent=1, ensure_ascii=False)
    settings = [[name, json.dumps(value, ensure_ascii=False)] for name, value in flatten(content.spec).items()]
    parts += [
        f"<details open><summary>Provenance</summary><pre>{_escape(provenance)}</pre></details>",
        f"<details><summary>Every setting</summary>{_plain_table(['setting', 'value'], settings)}</details>",
        f'<p class="quiet">Written by kdnas {__version__}, {_moment(time.time())}.</p>',
        f"<script>{SCRIPT}</script></body></html>",
    ]
    return "\n".join(parts) + "\n"


def _escape(value: Any) -> str:
    return html.escape(str(value))


def _pairs(pairs: Sequence[tuple[str, str]]) -> str:
    rows = "".join(f'<tr><th scope="row">{_escape(name)}</th><td>{_escape(value)}</td></tr>' for name, value in pairs)
    return f"<table>{rows}</table>"


def _plain_table(names: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    head = "".join(f'<th scope="col">{_escape(name)}</th>' for name in names)
    body = "".join("<tr>" + "".join(f"<td>{_escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _best_table(content: Content) -> str:
    names, rows = _columns(content)
    numeric = [all(isinstance(row[i], int | float) or row[i] is None for row in rows) for i in range(len(names))]
    head = "".join(
        f'<th scope="col"{_align(n)}><button type="button">{_escape(name)}</button></th>'
        for name, n in zip(names, numeric, strict=True)
    )
    body = []
    for scored, row in zip(content.scored, rows, strict=False):
        cells = "".join(
            f'<td{_align(n)} data-value="{_escape("" if value is None else value)}">'
            f"{_escape(_shown(name, value, scored))}</td>"
            for name, value, n in zip(names, row, numeric, strict=True)
        )
        body.append(f"<tr>{cells}</tr>")
    return (
        f'<div class="scroll"><table class="sortable" id="best"><thead><tr>{head}</tr></thead>'
        f"<tbody>{''.join(body)}</tbody></table></div>"
    )


def _align(numeric: bool) -> str:
    return ' class="n"' if numeric else ""
