"""Commands that write and read exported files: export, import."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from kdnas.cli import frame
from kdnas.cli.filtering import parsed
from kdnas.cli.tables import ranked
from kdnas.system.errors import UsageError

if TYPE_CHECKING:
    from kdnas.study.campaign_rows import CampaignRow


@click.command()
@frame.study
@click.option("--top", type=click.IntRange(min=1), help="Only the best this many.")
@click.option("--filter", "text", metavar="FILTER", help="Only these trials, as in 'latency<8 layers>=4'.")
@click.option("--pareto", is_flag=True, help="Only trials on the Pareto front of loss and latency.")
@click.option("--output", "-o", type=click.Path(path_type=Path), help="File to write.  [default: standard output]")
@click.option("--format", "style", metavar="FORMAT", help="json, csv or markdown.  [default: by the file's suffix]")
@frame.storage
def export(
    study: str,
    top: int | None,
    text: str | None,
    pareto: bool,
    output: Path | None,
    style: str | None,
    storage: str | None,
) -> None:
    """Write the best candidates of STUDY, ranked by its present α and β; of a campaign its final table."""
    from kdnas.store import campaigns, queries
    from kdnas.store.database import open_reader
    from kdnas.study import export as files
    from kdnas.system.files import write_atomically

    chosen_style = files.style_of(output, style)
    with open_reader(frame.place(storage)) as store:
        campaign = None if queries.find_study(store, study) else campaigns.find_campaign(store, study)
        if campaign is not None:
            if top is not None or text is not None or pareto:
                raise UsageError("--top, --filter and --pareto are for trials.", "Name a member's study.")
            _write_campaign(campaign, chosen_style, output)
            return
        row = queries.study_row(store, study)
        scored = ranked(store, row)
        chosen = files.select(scored, top=top, pareto=pareto, only=parsed(text, scored))
        provenance = queries.provenance(store, row.study_id)
    body = files.document(row, chosen, alpha=row.alpha, beta=row.beta, provenance=provenance)
    rendered = files.render(body, chosen_style)
    if output is None:
        frame.data(rendered)
        return
    write_atomically(output, rendered)
    lower = sum(s.behind for s in scored)
    more = f" {lower} more stayed on lower rungs and have no rank." if lower else ""
    frame.say(f"Wrote {len(chosen)} candidate(s) of {row.name} to {output}.{more}")


def _write_campaign(campaign: CampaignRow, style: str, output: Path | None) -> None:
    from kdnas.study.campaign_words import rendered
    from kdnas.system.files import write_atomically

    text = rendered(campaign, style)
    if output is None:
        frame.data(text)
        return
    write_atomically(output, text)
    frame.say(f"Wrote the table of the campaign {campaign.name} to {output}.")


@click.command("import")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--name", help="Name of the new study.  [default: the exported study's name with -again]")
@click.option("--trials", type=int, help="Its budget.  [default: the exported study's]")
@frame.storage
def import_(file: Path, name: str | None, trials: int | None, storage: str | None) -> None:
    """Begin a study from an exported JSON FILE, with its candidates evaluated first; `kdnas search` runs it."""
    from kdnas.store import campaign_studies
    from kdnas.store.database import open_store
    from kdnas.store.studies import create_study
    from kdnas.study import export as files
    from kdnas.study.spec import from_values
    from kdnas.study.spec_flags import overlay

    body = files.read(file)
    spec = files.spec_of(body)
    given: list[tuple[str, object]] = [("name", name or f"{spec.name}-again")]
    count = len(body["candidates"])
    budget = trials or (body["study"]["trials"] if spec.budget.open else spec.budget.trials)
    if trials is not None and trials < count:
        raise UsageError(f"{count} candidates do not fit into {trials} trials.", f"Give --trials {count} or more.")
    given.append(("budget.trials", max(budget, count)))
    if spec.budget.timed:  # a moment that is over, or a part of somebody else's night
        given += [("budget.hours", None), ("budget.until", None)]
        frame.say(f"The time of {spec.name} is left behind; give --hours or --until to the search to have one.")
    wanted = from_values(overlay(spec.model_dump(mode="json"), given))
    with open_store(frame.place(storage), create=True) as store:
        with store.begin() as connection:
            campaign_studies.require_free(connection, wanted.name)
        create_study(store, wanted, enqueue=[entry["candidate"] for entry in body["candidates"]])
    frame.say(f"Began {wanted.name} with {count} candidate(s) first. Run it with: kdnas search {wanted.name}")
