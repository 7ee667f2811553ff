"""Commands for models beside the search: generate (write and score), finetune (ordinary training)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kdnas.cli import frame
from kdnas.system.errors import UsageError
from kdnas.system.time_left import duration

if TYPE_CHECKING:
    from kdnas.study.spec import StudySpec
    from kdnas.training.finetune import Task


device_option = click.option("--device", default="auto", metavar="VALUE", help="auto, cpu, cuda, cuda:N or mps.")
data_option = click.option(
    "--data", "source", required=True, metavar="FILE", help="CSV, JSONL, Parquet or text file, shipped name, or hub id."
)


@click.command()
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@data_option
@click.option("--output", "-o", required=True, type=click.Path(path_type=Path), help="JSON file to write.")
@click.option("--prompt-column", default="text", show_default=True, help="Column of the texts to go on from.")
@click.option("--reference-column", help="Column of what a person wrote there, for ROUGE.")
@click.option("--config", "config", help="Configuration of a hub data set.")
@click.option("--split", default="train", show_default=True, help="Split of a hub data set.")
@click.option("--separator", help="Text between prompt and continuation.  [default: TL;DR: where there are references]")
@click.option("--limit", type=click.IntRange(min=1), help="Only the first this many examples.")
@click.option("--max-new-tokens", type=int, default=100, show_default=True, help="Tokens to write, at most.")
@click.option("--batch-size", type=int, default=8, show_default=True, help="Examples in one batch.")
@click.option("--beams", type=int, default=1, show_default=True, help="Beams of a beam search.")
@click.option("--sample", is_flag=True, help="Draw tokens instead of taking the likeliest.")
@click.option("--temperature", type=float, default=1.0, show_default=True, help="Softens what --sample draws from.")
@click.option("--top-p", type=float, default=1.0, show_default=True, help="--sample draws from so much of the mass.")
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of --sample.")
@device_option
@frame.as_json
def generate(
    folder: Path,
    source: str,
    output: Path,
    prompt_column: str,
    reference_column: str | None,
    config: str | None,
    split: str,
    separator: str | None,
    limit: int | None,
    max_new_tokens: int,
    batch_size: int,
    beams: int,
    sample: bool,
    temperature: float,
    top_p: float,
    seed: int,
    device: str,
    as_json: bool,
) -> None:
    """Let the causal model in DIR go on from every text of a file, and score it against references with ROUGE.

    Greedy unless --beams or --sample is given. Writes a list of prompt, reference and prediction.
    """
    import json

    from kdnas.cli.progress import Told
    from kdnas.cli.spec_options import data_part
    from kdnas.data.causal_text import SEPARATOR
    from kdnas.measuring.devices import resolve_device
    from kdnas.students import generate as writing
    from kdnas.system.files import write_atomically

    settings = writing.Settings(
        max_new_tokens=max_new_tokens,
        batch_size=batch_size,
        beams=beams,
        sample=sample,
        temperature=temperature,
        top_p=top_p,
        seed=seed,
        separator=separator if separator is not None else SEPARATOR if reference_column else "",
    )
    data = data_part(source, config, split, prompt_column, label_column=reference_column)
    with Told("generating") as told:
        model, tokenizer = writing.open_model(folder, resolve_device(device))
        given = writing.prompts(data, told.on_progress)[:limit]
        records = writing.generate(model, tokenizer, given, settings, told.on_progress)
        scores = writing.rouge(records)
    write_atomically(output, json.dumps(writing.as_json(records), indent=2, ensure_ascii=False) + "\n")
    if as_json:
        frame.print_json({"examples": len(records), **scores})
    else:
        for name, score in scores.items():
            frame.line(f"{name:<7} {score:.4f}")
        frame.say(f"Wrote {len(records)} prediction(s) to {output}.")


@click.command()
@click.argument("model", metavar="MODEL")
@data_option
@click.option("--output", "-o", required=True, type=click.Path(path_type=Path), metavar="DIR", help="Folder to write.")
@click.option(
    "--task",
    type=click.Choice(["language", "classification"]),
    default="language",
    show_default=True,
    help="What the model is to learn.",
)
@click.option("--text-column", default="text", show_default=True, help="Column of the texts.")
@click.option("--summary-column", help="Column of the summaries: only they are learned, after their text.")
@click.option("--label-column", help="Column of the classes (classification).")
@click.option("--group-column", help="Rows that share this value are not split (classification).")
@click.option("--config", help="Configuration of a hub data set.")
@click.option("--split", default="train", show_default=True, help="Split of a hub data set.")
@click.option("--limit", type=click.IntRange(min=2), help="At most this many chunks (or pairs).")
@click.option("--held-out", type=float, default=0.05, show_default=True, help="Share kept for scoring.")
@click.option(
    "--max-held-out",
    type=int,
    help="Most of it that decides when to stop; classification tests on the rest.  [default: 256]",
)
@click.option("--length", type=int, default=128, show_default=True, help="Tokens in one chunk (or example, at most).")
@click.option("--epochs", type=int, default=3, show_default=True, help="At most this many epochs.")
@click.option("--patience", type=int, default=2, show_default=True, help="Epochs without a better score to stop.")
@click.option("--batch-size", type=int, default=8, show_default=True, help="Examples in one batch.")
@click.option("--accumulate", type=int, default=1, show_default=True, help="Batches in one step.")
@click.option("--learning-rate", type=float, default=5e-5, show_default=True, help="Peak step size.")
@click.option("--head-rate", type=float, default=1e-3, show_default=True, help="Peak step size of a fresh head.")
@click.option("--warmup", type=float, default=0.06, show_default=True, help="Share of the steps in which it rises.")
@click.option("--seed", type=int, default=0, show_default=True, help="Every random number comes from it.")
@device_option
@frame.as_json
def finetune(
    model: str,
    source: str,
    output: Path,
    task: str,
    text_column: str,
    summary_column: str | None,
    label_column: str | None,
    group_column: str | None,
    config: str | None,
    split: str,
    limit: int | None,
    held_out: float,
    max_held_out: int | None,
    length: int,
    epochs: int,
    patience: int,
    batch_size: int,
    accumulate: int,
    learning_rate: float,
    head_rate: float,
    warmup: float,
    seed: int,
    device: str,
    as_json: bool,
) -> None:
    """Train MODEL (a shipped name, hub id or folder), teacher or student: on text, on pairs of text and summary, or on
    labelled examples.

    The best epoch's weights are kept. Killed or interrupted, the same command goes on from the last finished epoch, to
    the same result.
    """
    from kdnas.cli.progress import Told
    from kdnas.measuring.devices import as_studies, resolve_device
    from kdnas.study.spec import from_values
    from kdnas.system.interrupts import interruptible
    from kdnas.training import finetune as training

    classify = task == "classification"
    labels = {"--label-column": label_column, "--group-column": group_column}
    foreign = {"--summary-column": summary_column} if classify else labels
    wrong = next((flag for flag, value in foreign.items() if value is not None), None)
    if wrong is not None:
        raise UsageError(f"{wrong} is not for --task {task}.", "Leave it out, or choose the other task.")
    settings = training.Settings(
        epochs=epochs,
        batch_size=batch_size,
        accumulate=accumulate,
        learning_rate=learning_rate,
        head_rate=head_rate,
        warmup=warmup,
        patience=patience,
        seed=seed,
    )
    asked: dict[str, object] = {"source": source, "config": config, "split": split, "text_column": text_column}
    asked |= {"label_column": label_column if classify else summary_column, "group_column": group_column}
    asked |= {"limit": limit, "held_out": held_out, "length": length}
    asked |= {} if max_held_out is None else {"max_held_out": max_held_out}
    spec = from_values({"teacher": {"model": model}, "data": asked})
    with Told("finetuning") as told, interruptible(), as_studies():
        make = _classification if classify else _language
        learned = make(spec, resolve_device(device), told.on_progress, seed)

        def epoch(done: training.Epoch) -> None:
            told.line(
                f"epoch {done.epoch} of {epochs}: held-out {_figures(done.scores)}, "
                f"training loss {done.train_loss:.4f}, in {duration(done.seconds)}"
            )

        about = {"model": model, "data": spec.data.model_dump(mode="json")}
        facts = training.run(learned, settings, output, training.Told(told.on_progress, epoch), about)
    if as_json:
        frame.print_json(facts)
        return
    frame.data(f"{output}\n")
    frame.say(f"Best after epoch {facts['best_epoch']}: {_figures(facts['scores'])}.")
    if "test" in facts:
        frame.say(f"On {facts['task']['test_examples']:,} examples that decided nothing: {_figures(facts['test'])}.")


def _figures(scores: Mapping[str, float]) -> str:
    return ", ".join(f"{name.replace('_', ' ')} {value:.4f}" for name, value in scores.items())


def _language(spec: StudySpec, device: Any, on_progress: Any, seed: int) -> Task:
    from kdnas.teachers.causal import load
    from kdnas.teachers.finetune_text import language

    return language(load(spec.teacher, device, on_progress), spec.data, on_progress)


def _classification(spec: StudySpec, device: Any, on_progress: Any, seed: int) -> Task:
    from kdnas.data import labelled
    from kdnas.teachers import classifier as classifiers

    where = classifiers.source(spec.teacher, on_progress)
    classifiers.check_length(spec.data, classifiers.config_of(where.base, where.name))
    text = labelled.read(spec.data, 1.0, where.tokenizer, on_progress)
    return classifiers.task(where, text, device, seed)
