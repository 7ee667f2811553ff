"""A campaign as people read it: lines and cells that the command line, reports and files share. Reads no store."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from kdnas import __version__
from kdnas.study.campaign_rows import CampaignRow
from kdnas.study.export import unspreadsheet
from kdnas.system.errors import UsageError
from kdnas.system.text import escaped, markdown

FORMAT = "kdnas-campaign"
VERSION = 1

MEMBER_COLUMNS = ("member", "state", "teacher", "recipe", "share", "held-out score", "why")


def head(row: CampaignRow) -> list[str]:
    """What it is and where it stands."""
    asked = row.spec
    unit = "hours" if row.timed else "trials"
    where = f"stage {row.stage + 1} of {max(row.stage, row.rounds) + 1}" + (f", {row.doing}" if row.doing else "")
    return [
        f"{row.name}: {row.status}" + ("" if row.finished is not None else f", {where}"),
        f"task {asked['task']['source']}, {row.budget:g} {unit} for {len(row.members)} members, models in {row.folder}",
    ]


def member_cells(row: CampaignRow) -> tuple[Sequence[str], list[list[object]]]:
    """Columns and rows of its members."""
    return MEMBER_COLUMNS, [
        [
            member.name,
            str(member.state),
            member.teacher,
            member.recipe,
            f"{member.granted:g}",
            None if member.best is None else f"{member.best:.4f}",
            member.reason or None,
        ]
        for member in row.members
    ]


def columns(row: CampaignRow) -> list[str]:
    """Of the final table; those that nobody has a figure for are left out."""
    more = {"own_head": "own head", "finetuned": "fine-tuned"}
    used = [words for key, words in more.items() if any(r[key] is not None for r in row.result["rows"])]
    return ["rank", "model", "trial", "score", *used, "ms", "×", "parameters", "MiB", "front", "remark"]


def cells(row: CampaignRow) -> list[list[object]]:
    """Rows of the final table, as `columns` names them."""
    rows = row.result["rows"]
    used = [key for key in ("own_head", "finetuned") if any(r[key] is not None for r in rows)]
    return [
        [
            one["rank"],
            one["name"] if one["kind"] == "student" else f"teacher {one['name']}",
            one["trial"],
            _number(one["score"], "{:.4f}"),
            *(_number(one[key], "{:.4f}") for key in used),
            _number(one["latency_ms"], "{:.3g}"),
            _number(one["speedup"], "{:.2f}"),
            _number(one["parameters"], "{:,}"),
            _number(one["size_mib"], "{:.1f}"),
            "*" if one["front"] else None,
            _remark(one),
        ]
        for one in rows
    ]


def _remark(one: Mapping[str, Any]) -> str | None:
    said = one["reason"] or one["misses"]
    out = "out after a round" if one["state"] == "out" and one["kind"] == "student" else ""
    flag = f"latency: {one['flag']}" if one["flag"] else ""
    return "; ".join(part for part in (said, out, flag) if part) or None


def _number(value: Any, form: str) -> str | None:
    return None if value is None else form.format(value)


def values(row: CampaignRow) -> dict[str, Any]:
    """A campaign as plain values."""
    told = asdict(row)
    return {name: told[name] for name in told if name not in ("campaign_id", "revision")}


def rendered(row: CampaignRow, style: str) -> str:
    """The final table as a file: JSON with all that is known, CSV, or Markdown. Raises UsageError before its end."""
    if not row.result:
        raise UsageError(f"The campaign {row.name} has no table yet.", f"Let it end: kdnas campaign {row.name}")
    rows = row.result["rows"]
    if style == "json":
        body = {"format": FORMAT, "version": VERSION, "kdnas": __version__, "campaign": values(row)}
        return escaped(json.dumps(body, indent=2, ensure_ascii=False, allow_nan=False)) + "\n"
    if style == "csv":
        out = io.StringIO()
        lines = csv.DictWriter(out, list(rows[0]), lineterminator="\n")
        lines.writeheader()
        lines.writerows({key: unspreadsheet(value) for key, value in one.items()} for one in rows)
        return out.getvalue()
    names = columns(row)
    lines_of: list[list[object]] = [[*names], ["---"] * len(names), *cells(row)]
    shown = [["–" if cell is None else str(cell) for cell in line] for line in lines_of]
    marked = [line if nth < 2 else [markdown(cell) for cell in line] for nth, line in enumerate(shown)]
    table = "".join(f"| {' | '.join(line)} |\n" for line in marked)
    said = [row.result["verdict"], row.result.get("timed")]
    return f"{table}\n{markdown(' '.join(str(words) for words in said if words))}\n"
