"""The frame of every benchmark: `python -m benchmarks.NAME [--quick] [--json FILE]`.

Prints tables for people and the figures by name on standard output, and writes the figures with their provenance to
FILE. Measures nothing itself.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table as RichTable

LIBRARIES = ("torch", "transformers", "datasets", "optuna", "sqlalchemy", "textual", "numpy")


@dataclass(frozen=True)
class Table:
    """Rows for people; numbers are printed with three significant digits, text as it is."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[object]]
    notes: Sequence[str] = ()


@dataclass(frozen=True)
class Result:
    """What a benchmark found: tables for people, `figures` (name → number) and what they rest on for programs."""

    tables: Sequence[Table]
    figures: Mapping[str, float]
    provenance: Mapping[str, Any] = field(default_factory=dict)


def run(
    subject: str,
    measure: Callable[[argparse.Namespace], Result],
    options: Callable[[argparse.ArgumentParser], None] | None = None,
) -> Result:
    """Read the command line, measure, print, write; what was measured. `subject` is one sentence; `options` adds a
    benchmark's own flags.

    `measure` gets the parsed flags, `quick` among them; it narrates on standard error only (see `say`).
    """
    parser = argparse.ArgumentParser(prog=f"python -m benchmarks.{Path(sys.argv[0]).stem}", description=subject)
    parser.add_argument("--quick", action="store_true", help="a smaller run that ends within a minute on two cores")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write figures and provenance to FILE")
    if options is not None:
        options(parser)
    chosen = parser.parse_args()
    if chosen.json is not None and not chosen.json.resolve().parent.is_dir():
        parser.error(f"The folder of {chosen.json} does not exist; make it first.")
    began = time.time()
    result = measure(chosen)
    show(result)
    if chosen.json is not None:
        chosen.json.write_text(
            json.dumps(
                {
                    "figures": {name: float(value) for name, value in result.figures.items()},
                    "provenance": {**provenance(chosen.quick, began), **result.provenance},
                },
                indent=2,
                allow_nan=False,
            )
            + "\n",
            encoding="utf-8",
        )
    return result


def say(line: str) -> None:
    """One line of narration on standard error."""
    print(line, file=sys.stderr, flush=True)


def show(result: Result) -> None:
    # Piped or redirected, a table keeps its columns rather than being folded to 80.
    console = Console(width=None if sys.stdout.isatty() else 160, markup=False, highlight=False)
    for table in result.tables:
        rich = RichTable(title=table.title, title_justify="left", title_style="bold")
        for position, column in enumerate(table.columns):
            numeric = all(isinstance(row[position], int | float) or row[position] is None for row in table.rows)
            rich.add_column(column, justify="right" if numeric else "left")
        for row in table.rows:
            rich.add_row(*(_cell(value) for value in row))
        console.print(rich)
        for note in table.notes:
            console.print(note)
    for name, value in result.figures.items():
        console.print(f"{name} = {_cell(float(value))}")


def _cell(value: object) -> str:
    if value is None:
        return "–"
    if isinstance(value, float):
        return f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"
    return str(value)


def provenance(quick: bool, began: float) -> dict[str, Any]:
    """Where a figure comes from: machine in words (never its name), versions, commit, load, when, how long."""
    return {
        "quick": quick,
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(began)),
        "seconds": round(time.time() - began, 1),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "load_1min": round(os.getloadavg()[0], 2),
        "versions": {name: metadata.version(name) for name in ("kdnas", *LIBRARIES)},
        "commit": _commit(),
    }


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _commit() -> str | None:
    """The checked-out commit, with `+` where tracked files differ from it."""
    root = Path(__file__).resolve().parent.parent
    try:
        head = subprocess.run(
            ["git", "rev-parse", "--short=12", "HEAD"], cwd=root, capture_output=True, text=True, check=True
        )
        dirty = subprocess.run(["git", "diff", "--quiet", "HEAD"], cwd=root, check=False).returncode != 0
    except (OSError, subprocess.CalledProcessError):
        return None
    return head.stdout.strip() + ("+" if dirty else "")
