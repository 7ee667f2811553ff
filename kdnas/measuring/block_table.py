"""The latency of a model as a sum over its parts: a table of blocks and of what is not in a block, and its predictions.

A pass of a model of n blocks takes what stands around them (embeddings, masks, a head where the pass has one) and n
times one block. So a few whole models of each block, measured by the protocol, tell both by least squares. A part that
is measured alone has overheads that it has not within a model. What such sums are worth is not assumed: a `Check`
compares them with models measured whole. Pure figures: it builds, times and stores nothing.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil

import numpy as np

from kdnas.study.rows import PREDICTED
from kdnas.system.errors import KdnasError, UsageError


class NoiseError(KdnasError):
    """The readings say that a part of a model takes no time."""


@dataclass(frozen=True, order=True)
class Block:
    """What decides how long one layer takes: its width, which all layers of a model share, and its other sizes."""

    width: int
    sizes: str  # as a recipe writes them: "12 heads, 1536 neurons, gelu"

    def __str__(self) -> str:
        return f"width {self.width}, {self.sizes}"


@dataclass(frozen=True)
class Reading:
    """A model measured whole: its blocks from below, milliseconds of one pass, half of their 95 % interval, and why
    they are doubtful where they are."""

    blocks: tuple[Block, ...]
    ms: float
    half: float = 0.0
    flag: str | None = None


@dataclass(frozen=True)
class Predicted:
    """Milliseconds that a table gives, never measured ones. `low` and `high` bound them as far as the readings' own
    intervals tell, taken as independent; how wrong such sums are besides, a `Check` says."""

    ms: float
    low: float
    high: float
    doubtful: bool  # whether a reading behind them is

    @property
    def flag(self) -> str:
        """What stands beside the figure wherever it is shown."""
        return f"{PREDICTED} by the table of blocks{', from doubtful readings' if self.doubtful else ''}"


@dataclass(frozen=True)
class BlockTable:
    """Milliseconds of each block, and for each width of all that is not in a block."""

    blocks: Mapping[Block, float]
    around: Mapping[int, float]
    readings: tuple[Reading, ...]

    @classmethod
    def of(cls, readings: Sequence[Reading]) -> BlockTable:
        """From models measured whole, by least squares of relative errors over each width.

        Raises UsageError where they do not tell a block from what is around it, NoiseError where a part comes out as no
        time at all.
        """
        blocks: dict[Block, float] = {}
        around: dict[int, float] = {}
        for width, of_width in _by_width(readings).items():
            shapes = sorted({block for reading in of_width for block in reading.blocks})
            rows, wanted = _equations(of_width, shapes)
            found, _, rank, _ = np.linalg.lstsq(rows, wanted, rcond=None)
            if rank < len(shapes) + 1:
                raise UsageError(
                    f"The models of width {width} do not tell a block's latency from what is around it.",
                    "Measure each block in models of two depths.",
                )
            if (found <= 0).any():
                raise NoiseError(
                    f"A part of the models of width {width} comes out at {found.min():.3g} ms, which is noise.",
                    "Measure again while nothing else runs, or more precisely (latency.precision).",
                )
            around[width] = float(found[0])
            blocks |= {shape: float(ms) for shape, ms in zip(shapes, found[1:], strict=True)}
        return cls(blocks, around, tuple(readings))

    def predict(self, blocks: Sequence[Block]) -> Predicted:
        """The sum for a model of these blocks from below. Raises UsageError for a block that was never measured, and
        for blocks of several widths."""
        widths = {block.width for block in blocks}
        if len(widths) != 1:
            raise UsageError(f"A model of blocks of {len(widths)} widths has no latency.", "Give blocks of one width.")
        (width,) = widths
        missing = [block for block in dict.fromkeys(blocks) if block not in self.blocks]
        if missing:
            raise UsageError(f"The table of blocks has none of {missing[0]}.", "Measure models of it first.")
        ms = self.around[width] + sum(self.blocks[block] for block in blocks)
        half = self._half(width, blocks)
        doubtful = any(reading.flag for reading in self.readings if set(reading.blocks) & set(blocks))
        return Predicted(ms, ms - half, ms + half, doubtful)

    def _half(self, width: int, blocks: Sequence[Block]) -> float:
        """The readings' halves, carried through the least squares to the sum: each reading has a weight in it."""
        of_width = _by_width(self.readings)[width]
        shapes = sorted({block for reading in of_width for block in reading.blocks})
        rows, _ = _equations(of_width, shapes)
        wanted = np.array([1.0, *(blocks.count(shape) for shape in shapes)])
        weights = wanted @ np.linalg.pinv(rows)  # of each reading's relative figure
        relative = np.array([reading.half / reading.ms for reading in of_width])
        return float(np.sqrt(((weights * relative) ** 2).sum()))


def _by_width(readings: Sequence[Reading]) -> dict[int, list[Reading]]:
    found: dict[int, list[Reading]] = {}
    for reading in readings:
        if not reading.blocks or reading.ms <= 0:
            raise UsageError("A reading needs blocks and a time.", "Measure models of at least one block.")
        found.setdefault(reading.blocks[0].width, []).append(reading)
    return found


def _equations(readings: Sequence[Reading], shapes: Sequence[Block]) -> tuple[np.ndarray, np.ndarray]:
    """Rows [readings, 1 + shapes] and sides [readings] of `around + Σ count · block = ms`, each over its ms."""
    rows = np.array([[1.0, *(reading.blocks.count(shape) for shape in shapes)] for reading in readings])
    ms = np.array([reading.ms for reading in readings])
    return rows / ms[:, None], np.ones(len(readings))


def uniform(layers: int, block: Block) -> tuple[Block, ...]:
    """The blocks of a model whose layers are all alike."""
    return (block,) * layers


# ---------------------------------------------------------------- how good the sums are


@dataclass(frozen=True)
class Check:
    """Relative errors (predicted over measured, less 1) of sums for models that were measured whole."""

    errors: tuple[float, ...]
    own: int  # of these models, how many the table was made from

    @property
    def median(self) -> float:
        """The middle absolute error: half of the models are off by no more."""
        return statistics.median(map(abs, self.errors))

    @property
    def most(self) -> float:
        """95 % of the models are off by no more (the next larger one)."""
        ordered = sorted(map(abs, self.errors))
        return ordered[ceil(0.95 * len(ordered)) - 1]

    @property
    def bias(self) -> float:
        """The mean signed error: above 0 the table says slower than it is."""
        return statistics.fmean(self.errors)

    def __str__(self) -> str:
        seen = f" ({self.own} of them are in the table)" if self.own else ""
        return (
            f"{len(self.errors)} models measured whole{seen}: the table is off by {self.median:.1%} in the middle, "
            f"by at most {self.most:.1%} for 95 % of them, by {self.bias:+.1%} on average"
        )


def check(table: BlockTable, measured: Sequence[Reading]) -> Check:
    """How far the table's sums are from models measured whole. Raises UsageError for none, and as `predict` does."""
    if not measured:
        raise UsageError("No model measured whole is there to check the table of blocks by.", "Measure some.")
    known = set(table.readings)
    errors = tuple(table.predict(reading.blocks).ms / reading.ms - 1 for reading in measured)
    return Check(errors, sum(reading in known for reading in measured))
