"""How far latencies that a table of blocks adds up are from measured ones: one part of benchmarks.evaluator."""

from __future__ import annotations

from typing import Any

import torch

from benchmarks.kept_rows import spread_over
from benchmarks.report import Result, Table, say
from kdnas.measuring import devices, latency
from kdnas.measuring.block_table import Check, Reading, check
from kdnas.recipes import recipe
from kdnas.recipes.contract import Workbench
from kdnas.search.block_latency import DEPTH, table_of, timed_reading
from kdnas.study.space import Candidate
from kdnas.study.spec_toml import read_toml
from kdnas.system import paths
from kdnas.training.contract import Student

CPU = torch.device("cpu")
BLOCKS = 25  # of the quickstart's space, each measured in students of every depth between the table's two


def blocks(quick: bool) -> Result:
    """`block_sum_median`, `block_sum_most`, `block_sum_bias`: the middle absolute error of the predicted ratio to the
    teacher, what 95 % of the students do not exceed, and the mean signed error; of students that are not in the table.
    """
    spec = read_toml(paths.presets()["quickstart"])
    bench = recipe("hidden-state").prepare(spec, CPU, lambda what, share: None)
    chosen = spread_over(bench.space, 2 if quick else BLOCKS, spec.seed)
    table = table_of(bench, _ratio, chosen, lambda what, share: say(what))
    depths = next(d.choices for d in bench.space.dimensions if d.name == DEPTH)
    between = [depth for depth in depths if 1 < int(depth) < max(map(int, depths))]
    students = {bench.shape_key(c): c for c in ({**one, DEPTH: depth} for one in chosen for depth in between)}
    say(f"measuring {len(students)} students whole")
    measured = [timed_reading(bench, _ratio, student)[0] for student in students.values()]
    found = check(table, measured)
    rows = [
        _row(student, reading, error)
        for student, reading, error in zip(students.values(), measured, found.errors, strict=True)
    ]
    bench.close()
    return Result([_table(rows, found)], _figures(found), {"device": devices.device_name(CPU)})


def _ratio(bench: Workbench, student: Student, candidate: Candidate) -> latency.Measured:
    """By the protocol, as a share of the teacher's: a machine that drifts between two students changes no error."""
    return latency.measure(bench.timed(student), bench.timed(None), bench.spec.latency, CPU).scaled(1.0)


def _row(student: Candidate, reading: Reading, error: float) -> tuple[Any, ...]:
    return "/".join(map(str, student.values())), reading.ms * (1 + error), reading.ms, error, reading.flag or ""


def _figures(found: Check) -> dict[str, float]:
    return {"block_sum_median": found.median, "block_sum_most": found.most, "block_sum_bias": found.bias}


def _table(rows: list[tuple[Any, ...]], found: Check) -> Table:
    names = ["student", "predicted", "measured", "error", "flag"]
    return Table("Latency as a sum of blocks, as a share of the teacher's", names, rows, [str(found)])
