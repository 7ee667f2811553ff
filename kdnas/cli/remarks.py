"""Commands by which people say something of a study: tag, note."""

from __future__ import annotations

import click

from kdnas.cli import frame
from kdnas.store import changes, queries
from kdnas.store.database import open_reader, open_store
from kdnas.system.errors import UsageError


@click.command()
@frame.study
@click.argument("tags", nargs=-1, metavar="[TAG]...")
@click.option("--remove", is_flag=True, help="Take these tags away; without a TAG, all of them.")
@frame.storage
@frame.as_json
def tag(study: str, tags: tuple[str, ...], remove: bool, storage: str | None, as_json: bool) -> None:
    """Give STUDY tags, single words that `kdnas studies --filter tag:WORD` finds; without a TAG, print those it has."""
    if not tags and not remove:
        with open_reader(frame.place(storage)) as store:
            found = queries.study_row(store, study).tags
        if as_json:
            frame.print_json(list(found))
        elif found:
            for word in found:
                frame.line(word)
        else:
            frame.say(f"{study} has no tags.")
        return
    if as_json:
        raise UsageError("--json prints the tags, and this changes them.", "Leave it out.")
    with open_store(frame.place(storage)) as store:
        row = queries.study_row(store, study)
        gone = (tags or row.tags) if remove else ()
        after = changes.set_study_tags(store, row.study_id, add=() if remove else tags, remove=gone)
    frame.say(f"{study} has the tags: {' '.join(after)}." if after else f"{study} has no tags.")


@click.command()
@frame.study
@click.argument("text", required=False)
@click.option("--remove", is_flag=True, help="Take the note away.")
@frame.storage
@frame.as_json
def note(study: str, text: str | None, remove: bool, storage: str | None, as_json: bool) -> None:
    """Write a note to STUDY in place of the one it has; without a TEXT, print it."""
    if text is not None and remove:
        raise UsageError("A text and --remove were both given.", "Give one of them.")
    if text is None and not remove:
        with open_reader(frame.place(storage)) as store:
            found = queries.study_row(store, study).note
        if as_json:
            frame.print_json(found)
        elif found:
            frame.data(found + "\n")
        else:
            frame.say(f"{study} has no note.")
        return
    if as_json:
        raise UsageError("--json prints the note, and this changes it.", "Leave it out.")
    with open_store(frame.place(storage)) as store:
        changes.set_study_note(store, queries.study_row(store, study).study_id, (text or "").strip())
    frame.say(f"The note to {study} is kept." if (text or "").strip() else f"{study} has no note.")
