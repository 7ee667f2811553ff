"""Commands that make a model folder: finalize (a candidate of a study), distill (a configuration given by hand)."""

from __future__ import annotations

import contextlib
import shlex
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kdnas.cli import frame
from kdnas.cli.spec_options import base_values, given_fields, spec_from, training_flags
from kdnas.study import layer_words
from kdnas.study.full_time import NONE, UNKNOWN
from kdnas.study.timed_words import in_dtype
from kdnas.system.errors import UsageError
from kdnas.system.time_left import duration, words

if TYPE_CHECKING:
    from kdnas.cli.progress import Told
    from kdnas.students.distil import Telling
    from kdnas.students.finalize import Chosen

output_option = click.option(
    "--output",
    "-o",
    required=True,
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Folder to write; it must not exist yet. Checkpoints lie beside it, in DIR.partial.",
)
patience_option = click.option(
    "--patience", type=int, help="Epochs without a better held-out loss before stopping.  [default: the spec's]"
)
onnx_option = click.option(
    "--onnx", is_flag=True, help="Write model.onnx too, checked and timed in onnxruntime; also into a finished folder."
)
merge_option = click.option(
    "--merge/--no-merge",
    default=None,
    help="A LoRA student as a plain model, its adapter beside it, or as the adapter alone.  "
    "[default: merged where its base was cut]",
)
library_option = click.option(
    "--for",
    "library",
    type=click.Choice(["transformers", "sentence-transformers"]),
    help="The library that the folder is laid out for; AutoModel opens either.  "
    "[default: sentence-transformers where the teacher is of that]",
)
gguf_option = click.option(
    "--gguf",
    is_flag=True,
    help="Write model.gguf too, for llama.cpp, checked and timed in it where installed; also into a finished folder.",
)
push_option = click.option("--push", metavar="USER/NAME", help="Upload the folder to the Hugging Face hub.")


@click.command()
@frame.study
@click.option("--rank", "rank_wanted", type=click.IntRange(min=1), help="The candidate at this rank.  [default: 1]")
@click.option("--filter", "only", metavar="FILTER", help="Count ranks among these trials, as in 'speedup>=3'.")
@click.option("--trial", type=click.IntRange(min=0), help="The candidate of this trial.")
@output_option
@click.option("--epochs", type=int, help="At most this many epochs; 0: as fitted.  [default: the study's full.epochs]")
@patience_option
@click.option("--device", metavar="VALUE", help="Where it runs.  [default: the study's own]")
@merge_option
@library_option
@onnx_option
@gguf_option
@push_option
@frame.storage
@frame.as_json
def finalize(
    study: str,
    rank_wanted: int | None,
    only: str | None,
    trial: int | None,
    output: Path,
    epochs: int | None,
    patience: int | None,
    device: str | None,
    merge: bool | None,
    library: str | None,
    onnx: bool,
    gguf: bool,
    push: str | None,
    storage: str | None,
    as_json: bool,
) -> None:
    """Distil a candidate of STUDY on its whole data and write it as a model folder.

    Checkpoints are written after each epoch and every five minutes. Killed or interrupted, the same command goes on
    from the last one, to the same result.
    """
    if trial is not None and (rank_wanted is not None or only is not None):
        other = "--rank" if rank_wanted is not None else "--filter"
        raise UsageError(f"{other} and --trial both choose the candidate.", "Give one of them.")
    from kdnas.cli.progress import Told
    from kdnas.students.extras import Extras
    from kdnas.students.finalize import finalize as run

    asked = {"--epochs": epochs, "--patience": patience, "--device": device, "--for": library, "--push": push}
    flags = [word for flag, value in asked.items() if value is not None for word in (flag, str(value))]
    flags += [] if merge is None else ["--merge" if merge else "--no-merge"]
    flags += ["--onnx"] if onnx else []
    flags += ["--gguf"] if gguf else []
    flags += ["--storage", frame.shown(storage)] if storage else []
    chosen: list[Chosen] = []

    def again() -> list[str]:
        """Of the trial, since others may have its rank by then."""
        which = ["--trial", str(chosen[0].job.trial)] if chosen else _which(rank_wanted, only, trial)
        return ["finalize", study, *which, "--output", str(output.absolute()), *flags]

    def begins(what: Chosen) -> None:
        chosen.append(what)
        for line in _beginning(what):
            told.line(line)

    with _explained(output, again), Told(f"finalizing {study}") as told:
        facts = run(
            frame.place(storage),
            study,
            output,
            _telling(told),
            rank_wanted=rank_wanted or 1,
            trial=trial,
            only=only,
            full={"epochs": epochs, "patience": patience},
            device=device,
            extras=Extras(onnx, push, merge, library, gguf=gguf),
            begins=begins,
        )
    _show(facts, output, as_json)


@click.command()
@training_flags
@click.option(
    "--config",
    "config_file",
    required=True,
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="The student: a config.json, a candidate's keys and values (JSON, TOML), or an exported file (its best).",
)
@output_option
@patience_option
@merge_option
@library_option
@onnx_option
@gguf_option
@push_option
@frame.as_json
def distill(
    spec_file: Path | None,
    preset: str | None,
    config_file: Path,
    output: Path,
    patience: int | None,
    merge: bool | None,
    library: str | None,
    onnx: bool,
    gguf: bool,
    push: str | None,
    as_json: bool,
    **flags: Any,
) -> None:
    """Distil a student of a given configuration on the whole data, without a search; --epochs says how long."""
    from kdnas.cli.progress import Told
    from kdnas.students.distil import distil
    from kdnas.students.extras import Extras
    from kdnas.students.from_config import given, read_config
    from kdnas.system.interrupts import interruptible

    fields = given_fields(flags)
    # Without a search there is no mini-KD: --epochs can only mean the one training that there is.
    if "budget.epochs" in fields:
        fields["full.epochs"] = fields.pop("budget.epochs")
    if patience is not None:
        fields["full.patience"] = patience
    spec = spec_from(base_values(None, spec_file, preset), fields)
    job = given(spec, read_config(config_file))
    with _explained(output, frame.asked), Told("distilling") as told, interruptible():
        wanted = Extras(onnx, push, merge, library, gguf=gguf)
        facts = distil(job, output, _telling(told), device=spec.device, extras=wanted)
    _show(facts, output, as_json)


def _which(rank_wanted: int | None, only: str | None, trial: int | None) -> list[str]:
    """The candidate as it was asked for."""
    asked = {"--rank": rank_wanted, "--filter": only, "--trial": trial}
    return [word for flag, value in asked.items() if value is not None for word in (flag, str(value))]


def _beginning(chosen: Chosen) -> Iterator[str]:
    """Which candidate it is, where its folder will lie, and how long that may take."""
    job, epochs = chosen.job, chosen.job.epochs
    sizes = ", ".join(f"{name} {value}" for name, value in layer_words.shown(job.candidate).items())
    yield f"trial {job.trial} of {job.study} ({sizes}) into {chosen.output}"
    if chosen.kept is not None:
        yield f"It goes on: {chosen.kept.words()} are kept."
    if not epochs:
        yield NONE
    elif chosen.expected is not None:
        yield (
            f"{epochs} epochs take {words(chosen.expected)} at the speed of its epochs in the search; fewer are done "
            "where the loss no longer falls."
        )
    elif chosen.kept is None:
        yield UNKNOWN


@contextlib.contextmanager
def _explained(output: Path, again: Callable[[], list[str]]) -> Iterator[None]:
    """An interrupt inside says what is kept, where, and the command that goes on."""
    try:
        yield
    except KeyboardInterrupt:
        from kdnas.students import unfinished
        from kdnas.system.folders import partial_of

        kept, command = unfinished.read(output.absolute()), shlex.join(["kdnas", *again()])
        if kept is not None and (kept.done or kept.step):
            said = f"{kept.words()} are kept in {partial_of(output.absolute())}. Go on with: {command}"
        else:
            said = f"Nothing was learned yet; what is cached of the teacher stays. Begin again with: {command}"
        raise frame.Interrupted("Stopped.", said) from None


def _telling(told: Told) -> Telling:
    from kdnas.students.distil import Telling
    from kdnas.training.contract import Epoch

    def epoch(done: Epoch) -> None:
        if not done.epoch:
            told.line(f"before any step: held-out loss {done.score.loss:.4f}")
            return
        told.line(
            f"epoch {done.epoch} of {done.epochs}: held-out loss {done.score.loss:.4f}, "
            f"raw training loss {done.train_loss:.4g}, {duration(done.seconds)} so far"
        )

    return Telling(told.on_progress, epoch)


def _of_gguf(gguf: Mapping[str, Any]) -> str:
    said = f"{gguf['file']}: the same weights for llama.cpp, {gguf['mib']:.3g} MiB."
    there = gguf.get("llama_cpp")
    if there is None:
        return said
    wrote = f"{said} In llama.cpp {gguf['same']} tokens were written, the same as in PyTorch"
    if there["first_ms"] is None:
        return f"{wrote}; {there['flag']}."
    doubt = f" ({there['flag']})" if there["flag"] else ""
    later = "" if there["token_ms"] is None else f", {there['token_ms']:.3g} ms for each later one"
    times = f"{there['first_ms']:.3g} ms to the first token{later}{doubt}"
    return f"{wrote}; {times}."


def _show(facts: Mapping[str, Any], output: Path, as_json: bool) -> None:
    if as_json:
        frame.print_json(facts)
        return
    from kdnas.students import best_epoch

    metrics, latency = facts["metrics"], facts["latency"]
    frame.data(f"{output}\n")
    frame.say(
        f"{facts['parameters']:,} parameters, held-out loss {metrics['loss']:.4f} {best_epoch.words(metrics)}, "
        f"{latency['student_ms']:.3g} ms{in_dtype(latency)}, {latency['speedup']:.2f} × as fast as the teacher."
    )
    if facts.get("onnx"):
        onnx = facts["onnx"]
        same = f"outputs within {onnx['difference']:.1e}"
        doubt = f" ({onnx['flag']})" if onnx["flag"] else ""
        timed = f"{onnx['latency_ms']:.3g} ms in onnxruntime{doubt}" if onnx["latency_ms"] else onnx["flag"]
        frame.say(f"{onnx['file']}: {same}, {timed}.")
    if facts.get("gguf"):
        frame.say(_of_gguf(facts["gguf"]))
    if facts.get("pushed"):
        frame.say(f"Uploaded to {facts['pushed']}.")
