"""The command that runs and shows campaigns: campaign."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from kdnas.cli import frame
from kdnas.system.errors import UsageError

if TYPE_CHECKING:
    from kdnas.study.campaign_rows import CampaignRow


@click.command()
@click.argument("campaign", metavar="FILE.toml|NAME")
@click.option("--status", is_flag=True, help="Only show where it stands.")
@click.option("--plan", "only_plan", is_flag=True, help="Only say what it would need, and begin nothing.")
@click.option("--workers", type=click.IntRange(1, 64), default=1, help="Workers of the member whose turn it is.")
@click.option(
    "--output",
    "-o",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Folder of the models, when it begins.  [default: campaigns/NAME]",
)
@frame.storage
@frame.as_json
def campaign(
    campaign: str,
    status: bool,
    only_plan: bool,
    workers: int,
    output: Path | None,
    storage: str | None,
    as_json: bool,
) -> int:
    """Compare several teachers and recipes on one task, with one budget; the best students stand in one table.

    Begins the campaign of FILE.toml, or goes on with one by its name or the same file. Members are ordinary studies,
    CAMPAIGN-MEMBER. Ctrl-C ends its workers; what is finished is kept, and the same command goes on.
    """
    where = frame.place(storage)
    campaign = _shipped(where, campaign)
    if status:
        show(_known(where, _name(campaign)), as_json)
        return 0
    row = _begun(where, campaign, output, only_plan)
    if only_plan:
        return 0
    return _run(where, row, workers, as_json)


def _shipped(where: str, given: str) -> str:
    """The file of a campaign that ships, where one is named that the store has not."""
    from kdnas.system import paths

    path = paths.shipped_campaigns().get(given)
    return given if path is None or _found(where, given) is not None else str(path)


def _found(where: str, name: str) -> CampaignRow | None:
    """A campaign of the store; None where it has none of that name, or there is no store yet."""
    from kdnas.store import campaigns
    from kdnas.store.database import reader_if_there

    there = reader_if_there(where)
    if there is None:
        return None
    with there as store:
        return campaigns.find_campaign(store, name)


def _name(given: str) -> str:
    """Of a file its campaign's name."""
    if not given.endswith(".toml"):
        return given
    from kdnas.study.campaign_spec import read_campaign

    return read_campaign(Path(given)).name


def _known(where: str, name: str) -> CampaignRow:
    from kdnas.store import campaigns
    from kdnas.store.database import open_reader

    with open_reader(where) as store:
        return campaigns.campaign_row(store, name)


def _begun(where: str, given: str, output: Path | None, only_plan: bool) -> CampaignRow:
    """The campaign in the store; what it needs is told before."""
    from kdnas.campaigns import needs
    from kdnas.store import campaigns
    from kdnas.store.database import open_store
    from kdnas.study.campaign_rows import CampaignStatus

    if not given.endswith(".toml"):
        row = _known(where, given)
        _same_folder(row, output)
        return row
    from kdnas.study.campaign_spec import read_campaign

    spec = read_campaign(Path(given))
    known = _found(where, spec.name)
    if known is not None:
        campaigns.require_same(known, spec)
        _same_folder(known, output)
        if not only_plan:
            return known
    folder = (output or Path("campaigns") / spec.name).absolute()
    if known is None and folder.exists() and any(folder.iterdir()):
        raise UsageError(f"The folder {folder} is not empty.", "Name another one with --output.")
    row = known or campaigns.draft(spec, str(folder))
    for line in needs.of(row, frame.say).lines(row):
        frame.say(line)
    if only_plan:
        return row
    with open_store(where, create=True) as store:  # not before: what is refused leaves no store behind
        row = campaigns.begin_campaign(store, spec, str(folder))
    assert row.status is CampaignStatus.NEW
    return row


def _same_folder(row: CampaignRow, output: Path | None) -> None:
    if output is not None and str(output.absolute()) != row.folder:
        raise UsageError(f"The models of {row.name} lie in {row.folder}.", "Leave --output off.")


def _run(where: str, row: CampaignRow, workers: int, as_json: bool) -> int:
    from kdnas.study.campaign_rows import CampaignStatus

    if row.status is not CampaignStatus.FINISHED:
        from kdnas.campaigns import coordinator
        from kdnas.campaigns.hands import here

        try:
            row = coordinator.run(where, row.name, here(where, workers), frame.say)
        except KeyboardInterrupt:
            frame.say(f"Stopped; what was finished is kept. Go on with: kdnas campaign {row.name}")
            return frame.INTERRUPTED
    show(row, as_json)
    return 0 if row.result.get("winner") else 1  # a table, and nobody in it that keeps the constraints


def show(row: CampaignRow, as_json: bool) -> None:
    """A campaign as data or as tables."""
    from kdnas.study.campaign_words import cells, columns, head, member_cells, values

    if as_json:
        frame.print_json(values(row))
        return
    for line in head(row):
        frame.line(line)
    frame.line()
    frame.table(*member_cells(row))
    if row.result:
        frame.line()
        frame.table(columns(row), cells(row))
        frame.line()
        frame.line(str(row.result["verdict"]))
        frame.line(str(row.result.get("timed", "")))
    if row.ending and not row.result:
        frame.say(row.ending)
