"""The command that scores a model folder: evaluate."""

from __future__ import annotations

from pathlib import Path

import click

from kdnas.cli import frame
from kdnas.system.errors import UsageError


@click.command()
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@click.option(
    "--tasks",
    default="rotten-tomatoes",
    metavar="LIST",
    help="Names with commas: sst2, mrpc, …; glue for all nine; rotten-tomatoes (carried by a package); perplexity; "
    "labels (a classifier as it is, on its study's test part or on --text); embeddings (a sentence encoder as it is)."
    "  [default: rotten-tomatoes]",
)
@click.option("--seeds", type=click.IntRange(1, 100), default=3, help="Fine-tunings of each task.  [default: 3]")
@click.option("--no-finetune", is_flag=True, help="Score the model's own head as it is.")
@click.option(
    "--data-dir", type=click.Path(path_type=Path), metavar="DIR", help="Local files: DIR/TASK/train.jsonl and so on."
)
@click.option("--teacher", metavar="NAME|ID|FOLDER", help="Beside which model.  [default: the folder's own teacher]")
@click.option("--no-teacher", is_flag=True, help="Score the folder alone.")
@click.option(
    "--text",
    metavar="NAME|ID|FILE",
    help="For perplexity, labels and embeddings.  [default: what it was distilled on; bbc-news for embeddings]",
)
@click.option(
    "--text-column", metavar="COLUMN", help="Column of the texts in it.  [default: the study's; query for embeddings]"
)
@click.option(
    "--label-column",
    metavar="COLUMN",
    help="Column of the labels in it.  [default: the study's; document for embeddings]",
)
@click.option(
    "--data",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="For embeddings: corpus.jsonl, queries.jsonl and qrels/test.tsv, or train.jsonl and test.jsonl with labels.",
)
@click.option(
    "--dimensions", metavar="LIST", help="For embeddings: also the first so many dimensions alone, as in 64,128,256."
)
@click.option("--limit", type=click.IntRange(min=2), help="Only so many examples of each split, to try things out.")
@click.option("--device", default="auto", metavar="VALUE", help="auto, cpu, cuda, cuda:N or mps.  [default: auto]")
@click.option(
    "--output", "-o", type=click.Path(path_type=Path), metavar="FILE", help="JSON file.  [default: DIR/results.json]"
)
@frame.storage
@frame.as_json
def evaluate(
    folder: Path,
    tasks: str,
    seeds: int,
    no_finetune: bool,
    data_dir: Path | None,
    teacher: str | None,
    no_teacher: bool,
    text: str | None,
    text_column: str | None,
    label_column: str | None,
    data: Path | None,
    dimensions: str | None,
    limit: int | None,
    device: str,
    output: Path | None,
    storage: str | None,
    as_json: bool,
) -> None:
    """Fine-tune and score the model in DIR, and its teacher beside it, by one fixed protocol.

    What is finished is kept: an interrupted evaluation goes on with the same command, and a teacher is fine-tuned
    once for all its students. Writes results.json and results.md.
    """
    from kdnas.cli.progress import Told
    from kdnas.scores.finetuning import FineTuning
    from kdnas.scores.score_folder import Wanted, score
    from kdnas.system.interrupts import interruptible

    wanted = Wanted(
        tasks=tuple(name.strip() for name in tasks.split(",") if name.strip()),
        protocol=FineTuning(seeds=tuple(range(seeds)), finetune=not no_finetune, limit=limit),
        data_dir=data_dir,
        teacher="" if no_teacher else teacher,
        text=text,
        text_column=text_column,
        label_column=label_column,
        data=data,
        dimensions=_numbers(dimensions),
        device=device,
        output=output,
    )
    with Told(f"scoring {folder}") as told, interruptible():
        result = score(folder, wanted, told.on_progress, frame.place(storage))
    if as_json:
        frame.print_json(result)
    else:
        frame.data(result["markdown"])


def _numbers(text: str | None) -> tuple[int, ...]:
    """Numbers of dimensions with commas between them. Raises UsageError."""
    found = []
    for word in (text or "").split(","):
        if not word.strip().isdecimal() and text is not None:
            raise UsageError(f"--dimensions {text!r} holds {word.strip()!r}, no number.", "Give some as in 64,128,256.")
        found += [int(word)] if word.strip() else []
    return tuple(found)
