"""Draws docs/screen.svg from the running app: `python docs/picture.py [--storage URL STUDY]`, the recorded study else.

The picture is whatever the app shows of a real study at 120×36, so that the README stays true.
"""

from __future__ import annotations

import argparse
import asyncio
import re
from pathlib import Path

from kdnas.store import recording
from kdnas_tui.app import KdnasApp

PICTURE = Path(__file__).resolve().parent / "screen.svg"
REMOTE_FONTS = re.compile(r"@font-face \{.*?\}\s*", re.DOTALL)  # a picture fetches nothing


async def draw(storage: str, study: str) -> str:
    """The study's screen as SVG, once its table has its trials."""
    from kdnas_tui.widgets.trials_table import TrialsTable

    app = KdnasApp(storage, study=study)
    async with app.run_test(size=(120, 36)) as pilot:
        for _ in range(200):
            await pilot.pause(0.05)
            tables = app.screen.query(TrialsTable)
            if tables and tables.first().virtual_size.height > 1:
                break
        await pilot.pause(2.0)  # plots are drawn at most once a second
        return REMOTE_FONTS.sub("", app.export_screenshot(title=f"kdnas-tui {study}"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("study", nargs="?")
    parser.add_argument("--storage")
    chosen = parser.parse_args()
    if chosen.study and chosen.storage:
        svg = asyncio.run(draw(chosen.storage, chosen.study))
    else:
        with recording.opened(recording.shipped()) as (url, study):
            svg = asyncio.run(draw(url, study))
    PICTURE.write_text(svg, encoding="utf-8")
    print(PICTURE)


if __name__ == "__main__":
    main()
