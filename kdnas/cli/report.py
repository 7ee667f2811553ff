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
    """Write STUDY as a page: the picture of the search, the best candidates, the protocol, the provenance.

    The name of a campaign gives its page: every model's score against its latency, and each decision.
    """
    from kdnas.reports import campaign_report
    from kdnas.reports import report as pages
    from kdnas.store import campaigns, queries
    from kdnas.store.database import open_reader

    with open_reader(frame.place(storage)) as store:
        campaign = None if queries.find_study(store, study) else campaigns.find_campaign(store, study)
        if campaign is None:
            written = pages.write(pages.gather(store, study), output)
        else:
            written = campaign_report.write(campaign, output)
    for path in written:
        frame.data(f"{path}\n")
