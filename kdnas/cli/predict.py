"""The command that lets a classifier speak: predict."""

from __future__ import annotations

from pathlib import Path

import click

from kdnas.cli import frame
from kdnas.system.errors import UsageError


@click.command()
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@click.option("--text", "texts", multiple=True, metavar="TEXT", help="A text; may be repeated.")
@click.option("--data", "source", metavar="FILE", help="CSV, JSONL, Parquet or text file, shipped name, or hub id.")
@click.option("--text-column", default="text", show_default=True, help="Column of the texts.")
@click.option("--config", help="Configuration of a hub data set.")
@click.option("--split", default="train", show_default=True, help="Split of a hub data set.")
@click.option("--limit", type=click.IntRange(min=1), help="Only the first this many texts.")
@click.option("--batch-size", type=click.IntRange(min=1), default=32, show_default=True, help="Texts in one batch.")
@click.option("--device", default="auto", metavar="VALUE", help="auto, cpu, cuda, cuda:N or mps.  [default: auto]")
@click.option(
    "--output", "-o", type=click.Path(path_type=Path), metavar="FILE", help="File to write: .json a list, else JSONL."
)
@frame.as_json
def predict(
    folder: Path,
    texts: tuple[str, ...],
    source: str | None,
    text_column: str,
    config: str | None,
    split: str,
    limit: int | None,
    batch_size: int,
    device: str,
    output: Path | None,
    as_json: bool,
) -> None:
    """Print the label of each text, with the probability of every label, as the classifier in DIR sees them.

    DIR is any folder that classifies: a whole model, a PEFT adapter, or a recurrent student. One JSON object a line;
    with --json one list.
    """
    if bool(texts) == (source is not None):
        raise UsageError(
            "Give texts with --text or a file with --data, not both." if texts else "There is no text to predict.",
            "Write --text 'A fine film.' or --data reviews.csv.",
        )
    empty = next((place for place, text in enumerate(texts, 1) if not text.strip()), None)
    if empty is not None:
        raise UsageError(f"Text {empty} is empty.", "Give at least a word.")
    if output is not None and not output.absolute().parent.is_dir():
        raise UsageError(f"The folder {output.absolute().parent} does not exist.", "Make it first, or name another.")
    import json

    from kdnas.cli.progress import Told
    from kdnas.cli.spec_options import data_part
    from kdnas.data import documents as reading
    from kdnas.measuring.devices import resolve_device
    from kdnas.students import predict as predicting
    from kdnas.system.files import write_atomically
    from kdnas.system.text import escaped

    given = list(texts)
    with Told(f"predicting with {folder}") as told:
        if source is not None:
            asked = data_part(source, config, split, text_column)
            documents = reading.read(asked, on_progress=told.on_progress)
            given = predicting.every_row(documents)
        model, tokenizer = predicting.open_model(folder, resolve_device(device))
        found = predicting.predict(model, tokenizer, given[:limit], told.on_progress, batch_size=batch_size)
    listed = as_json or (output is not None and output.suffix == ".json")
    text = json.dumps(predicting.document(found), indent=2, ensure_ascii=False) + "\n" if listed else None
    text = predicting.lines(found) if text is None else text
    if output is None:
        frame.data(escaped(text) if listed else text)
        return
    write_atomically(output, text)
    frame.say(f"Wrote {len(found):,} prediction(s) to {output}.")
