"""A campaign as one page: score against latency of all members' students and the teachers, the table, every decision.

`.html` needs nothing beside it and no network; `.md` has its picture in a folder beside it. Reads the store, writes
nothing into it.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any
from urllib.parse import quote

from kdnas import __version__
from kdnas.reports import pictures
from kdnas.reports.report import SUFFIXES, TEMPLATES
from kdnas.study import campaign_words, timed_words
from kdnas.study.campaign_rows import CampaignRow
from kdnas.system.errors import UsageError
from kdnas.system.files import write_atomically
from kdnas.system.templates import render

TITLE = "Score and latency"


def write(row: CampaignRow, output: Path) -> list[Path]:
    """Write the page in the format of the file's suffix; the files written. Raises UsageError for another suffix, and
    for a campaign that has no table yet."""
    pictures.require()
    suffix = output.suffix.lower()
    if suffix not in SUFFIXES:
        raise UsageError(f"The name {output.name} does not say which format to write.", "End it in .html or .md.")
    if not output.parent.is_dir():
        raise UsageError(f"The folder {output.parent} does not exist.", "Make it first, or name another.")
    if not row.result:
        raise UsageError(f"The campaign {row.name} has no table yet.", f"Let it end: kdnas campaign {row.name}")
    figure = pictures.campaign(row.result["rows"])
    if suffix.startswith(".htm"):
        from markupsafe import Markup

        drawing = Markup(pictures.svg(figure, "campaign", TITLE))
        write_atomically(output, render(TEMPLATES, "campaign.html", drawing=drawing, **_values(row)))
        return [output]
    files = output.with_name(f"{output.stem}-pictures")
    files.mkdir(exist_ok=True)
    picture = files / "campaign.png"
    write_atomically(picture, pictures.png(figure))
    write_atomically(output, render(TEMPLATES, "campaign.md", folder=quote(files.name), **_values(row)))
    return [output, picture]


def _values(row: CampaignRow) -> dict[str, Any]:
    """What both templates say."""
    task = row.result["task"]
    counts = f"{task['train']:,} rows fit heads, {task['held_out']:,} decide, {task['test']:,} are reported"
    latency = row.spec["latency"]
    facts = [
        ("Verdict", row.result["verdict"]),
        ("Task", f"{task['source']}, {len(task['classes'])} classes: {counts}"),
        ("Budget", f"{row.budget:g} {'hours' if row.timed else 'trials'} for {len(row.members)} members"),
        ("Constraints", row.result["constraints"] or "none"),
        (
            "Latency",
            f"{latency['length']} tokens, batch {latency['batch_size']}, {latency['threads']} thread(s)"
            f"{timed_words.in_dtype(latency)}, on {row.result['device']}; all in one process, in turn with "
            f"{row.result['reference']}. "
            f"{row.result.get('timed', '')}",
        ),
        ("Score", "accuracy on the test part; a logistic regression on what the model gives, which stays as it is"),
        ("Seed", str(row.spec["seed"])),
    ]
    member_columns, members = campaign_words.member_cells(row)
    return {
        "name": row.name,
        "facts": facts,
        "title": TITLE,
        "words": "The line is the front over all members: no other model scores as high in less time.",
        "columns": campaign_words.columns(row),
        "rows": _shown(campaign_words.cells(row)),
        "member_columns": member_columns,
        "members": _shown(members),
        "decision_columns": ["round", "scores", "goes on", "out", "best of all", "best before"],
        "decisions": _shown([_decision(d.stage, d.facts) for d in row.decisions]),
        "rule": row.decisions[0].facts["rule"] if row.decisions else "",
        "spec": json.dumps(dict(row.spec), indent=1, ensure_ascii=False),
        "version": __version__,
        "now": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
    }


def _decision(stage: int, facts: Any) -> list[object]:
    def told(best: Any) -> str | None:
        return None if best is None else f"{best['member']}, trial {best['trial']}: {best['score']:.4f}"

    scores = "; ".join(f"{name} {'–' if s is None else f'{s:.4f}'}" for name, s in facts["scores"].items())
    out = "; ".join(f"{name}: {why}" for name, why in facts["out"].items())
    return [stage + 1, scores, ", ".join(facts["going"]), out, told(facts["global_best"]), told(facts["previous_best"])]


def _shown(rows: list[list[object]]) -> list[list[str]]:
    return [["–" if cell in (None, "") else str(cell) for cell in row] for row in rows]
