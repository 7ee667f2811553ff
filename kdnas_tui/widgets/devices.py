"""A line for each device of the machine: how busy it is and how full, as bars."""

from __future__ import annotations

from textual.strip import Strip

from kdnas_tui.machine import Reading, gib
from kdnas_tui.widgets.lines import Lines, fitted, strip_of


class Devices(Lines):
    """A line for each device: utilisation and memory as bars."""

    PREFIX = "devices"
    COMPONENT_CLASSES = {"devices--bar", "devices--rest", "devices--quiet"}
    DEFAULT_CSS = """
    Devices {
        height: 1;
        background: $background;
        & > .devices--bar { color: $primary; }
        & > .devices--rest { color: $foreground 20%; }
        & > .devices--quiet { color: $foreground 55%; }
    }
    """

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__(id=id)
        self.readings: tuple[Reading, ...] = ()

    def show(self, readings: tuple[Reading, ...]) -> None:
        if len(readings) != len(self.readings):
            self.styles.height = max(1, len(readings))
        self.readings = readings
        self.redraw()

    def line(self, y: int, width: int) -> Strip:
        if y >= len(self.readings):
            return Strip.blank(width, self.base)
        reading = self.readings[y]
        quiet, bar, rest = self.look("quiet"), self.look("bar"), self.look("rest")
        length = max(4, min(16, (width - 28) // 2))
        pieces = [(fitted(reading.name, 5), quiet)]
        figures = (
            (reading.busy, " –  " if reading.busy != reading.busy else f"{reading.busy:4.0%} "),
            (
                reading.used_gib / max(reading.total_gib, 1e-9),
                f" {gib(reading.used_gib, reading.total_gib)}/{reading.total_gib:.0f} GiB",
            ),
        )
        for share, text in figures:
            full = round(length * max(0.0, min(1.0, share))) if share == share else 0
            pieces += [("▰" * full, bar), ("▱" * (length - full), rest), (f" {text.strip():>5}  ", quiet)]
        return strip_of(pieces)
