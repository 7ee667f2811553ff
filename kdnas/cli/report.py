"""The command that writes a study down for people: report."""

from __future__ import annotations

from pathlib import Path

import click

from kdnas.cli import frame


@click.command()
@frame.study
@click.option(
    "--output",
    "-o",
    required=True,
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="report.html is one page with everything in it; report.md has its pictures in a folder beside it.",
)
@frame.storage
def report(study: str, output: Path, storage: str | None) -> None:
    """Write STUDY as a page: the picture of the search, the best candidates, the protocol, the provenance."""
    from kdnas.reports import report as pages
    from kdnas.store.database import open_reader

    with open_reader(frame.place(storage)) as store:
        content = pages.gather(store, study)
    for path in pages.write(content, output):
        frame.data(f"{path}\n")
