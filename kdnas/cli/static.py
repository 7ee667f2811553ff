"""The command that makes a static sentence encoder: static."""

from __future__ import annotations

from pathlib import Path

import click

from kdnas.cli import frame


@click.command()
@click.option("--teacher", default="all-minilm-l6-v2", show_default=True, metavar="NAME|ID|FOLDER",
              help="A sentence encoder.")  # fmt: skip
@click.option("--dataset", "source", default="bbc-news", show_default=True, metavar="NAME|ID|FILE",
              help="Text of the kind that will be embedded; labels are not needed.")  # fmt: skip
@click.option("--text-column", default="text", show_default=True, metavar="COLUMN", help="Column of the texts.")
@click.option("--device", default="auto", metavar="VALUE", help="auto, cpu, cuda, cuda:N or mps.  [default: auto]")
@click.option("--output", "-o", required=True, type=click.Path(path_type=Path), metavar="DIR", help="Folder to write.")
@frame.as_json
def static(teacher: str, source: str, text_column: str, device: str, output: Path, as_json: bool) -> None:
    """Make a static student of a sentence encoder: a vector for each token, solved for a text's mean vector to be the
    teacher's. SentenceTransformer opens the folder.

    There is no training and no network in the student: it is the fastest that there is, and reads no word order.
    """
    from kdnas.cli.progress import Told
    from kdnas.students.static import make
    from kdnas.study.spec import from_values
    from kdnas.system.interrupts import interruptible

    spec = from_values(
        {"teacher": {"model": teacher}, "data": {"source": source, "text_column": text_column}, "device": device}
    )
    with Told("solving a static student") as told, interruptible():
        facts = make(spec, output, told.on_progress)
    if as_json:
        frame.print_json(facts)
        return
    frame.data(f"{output}\n")
    embedding = facts["embedding"]
    frame.say(
        f"{facts['parameters']:,} parameters, {embedding['width']} dimensions, mean cosine with the teacher's vectors "
        f"{embedding['cosine']:.3f} on held-out text."
    )
