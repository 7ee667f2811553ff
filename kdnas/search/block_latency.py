"""Fills a table of blocks on a workbench: models of each block in two depths, measured whole by the studies' protocol.

Which models, and what a study's own trials say of the table; the table itself is `kdnas.measuring.block_table`. Their
figures are remembered like those of any candidate, so that no study measures them again. Evaluates no candidate.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from kdnas.measuring.block_table import Block, BlockTable, Reading
from kdnas.measuring.device_lock import Turn
from kdnas.recipes.contract import Workbench
from kdnas.search.candidate import Measure
from kdnas.study.rows import TrialRow
from kdnas.study.space import Candidate
from kdnas.system.errors import UsageError
from kdnas.system.progress import Progress

DEPTH = "num_hidden_layers"  # the dimension that says how often a block is repeated


def probes(bench: Workbench, candidates: Iterable[Candidate]) -> list[Candidate]:
    """The models that a table for these candidates needs: each of their blocks once, and as often as the deepest
    candidate of the space has it. The farther apart the two depths are, the less the noise of each matters.

    Raises UsageError for a space without depths.
    """
    depths = next((d.choices for d in bench.space.dimensions if d.name == DEPTH), None)
    if depths is None:
        raise UsageError("Candidates of this recipe have no blocks to add up.", "Measure each of them.")
    deepest = max(2, *(int(depth) for depth in depths))
    found: dict[str, Candidate] = {}
    for candidate in candidates:
        for depth in (1, deepest):
            probe = {**candidate, DEPTH: depth}
            found.setdefault(bench.shape_key(probe), probe)
    return list(found.values())


def measured(bench: Workbench, measure: Measure, probe: Candidate) -> Reading:
    """One such model, of whatever weights, by the protocol."""
    with Turn(bench.device):
        model = bench.probe(probe)
    timed = measure(bench, model, probe)
    return Reading(bench.blocks(probe), timed.p50, (timed.high - timed.low) / 2, timed.flag)


def table_of(
    bench: Workbench, measure: Measure, candidates: Sequence[Candidate], on_progress: Progress | None = None
) -> BlockTable:
    """The table that predicts every candidate of these blocks and depths. Raises UsageError, KdnasError."""
    wanted = probes(bench, candidates)
    readings = []
    for done, probe in enumerate(wanted):
        if on_progress is not None:
            on_progress(f"measuring blocks, {done + 1} of {len(wanted)}", done / len(wanted))
        readings.append(measured(bench, measure, probe))
    return BlockTable.of(readings)


def readings_of(bench: Workbench, rows: Iterable[TrialRow], known: Iterable[Block] | None = None) -> list[Reading]:
    """What trials that were measured whole say, to check a table by: those without a doubt, of `known` blocks."""
    allowed = None if known is None else set(known)
    found = []
    for row in rows:
        if row.latency_ms is None or row.latency_low_ms is None or row.latency_high_ms is None or row.latency_flag:
            continue
        blocks = bench.blocks(row.candidate)
        if allowed is None or allowed.issuperset(blocks):
            found.append(Reading(blocks, row.latency_ms, (row.latency_high_ms - row.latency_low_ms) / 2))
    return found
