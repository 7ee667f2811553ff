"""The command that puts several studies beside each other: compare."""

from __future__ import annotations

import click

from kdnas.cli import frame


@click.command()
@click.argument("studies", nargs=-1, required=True, type=frame.StudyName(), metavar="STUDY STUDY...")
@frame.storage
@frame.as_json
def compare(studies: tuple[str, ...], storage: str | None, as_json: bool) -> None:
    """Compare two to six STUDIES: what was found and in which settings they differ.

    Losses are compared only of one teacher, one kind of loss and the same data; latencies only of one device and one
    protocol. What is not compared is said, with the reason. All are ranked at the α and β of the first one.
    """
    from kdnas.reports import study_comparison as comparison
    from kdnas.store import queries
    from kdnas.store.database import open_reader

    with open_reader(frame.place(storage)) as store:
        found = comparison.compare(store, [queries.study_row(store, name).study_id for name in studies])
    if as_json:
        frame.print_json(comparison.values(found))
        return
    rows: list[list[object]] = []
    for name, cells, better in comparison.figures(found):
        best = comparison.best_places(cells, better)
        rows.append([name, *(f"{cell} ▲" if place in best else cell for place, cell in enumerate(cells))])
    rows += [[field, *("–" if value is None else value for value in those)] for field, those in found.differing]
    frame.table(["", *found.names], rows)
    frame.line()
    frame.line(f"{len(found.shared)} settings are the same.")
    if not found.verdict.reward:
        frame.line(f"All are ranked at α {found.alpha:g}, β {found.beta:g}, those of {found.names[0]}.")
    if found.reference_ms is not None:
        frame.line(f"Latencies are told for a teacher of {found.reference_ms:.3g} ms, that of {found.names[0]}.")
    for line in comparison.refusals(found):
        frame.line(line)
