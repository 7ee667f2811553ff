"""The model folder: written whole or not at all, with `kdnas.json` for programs and a model card for people.

Trains nothing and loads no model; the recipe writes weights and tokenizer into the folder that is opened here.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from kdnas import __version__
from kdnas.atomic import umask, write_atomically
from kdnas.errors import KdnasError, UsageError

FACTS = "kdnas.json"
CARD = "README.md"
RESULTS = "results.json"
FORMAT = "kdnas-model"
VERSION = 1
MOST_COLUMNS = 20  # of a confusion table that a card shows
LIBRARIES = ("kdnas", "torch", "transformers", "datasets", "optuna", "peft", "safetensors", "numpy")


def partial_of(output: Path) -> Path:
    """Where the checkpoints of an unfinished folder lie: beside it, on the same file system."""
    return output.with_name(output.name + ".partial")


def run_key(facts: Mapping[str, Any]) -> str:
    """A fingerprint of everything that decides a model; equal keys, equal weights on one machine."""
    text = json.dumps(facts, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def finished(output: Path, key: str | None = None) -> bool:
    """Whether the folder stands complete (from this very run, where a key is given).

    Raises UsageError where something else is under its name, or where a folder could not be made there.
    """
    if output.is_dir():
        if (output / FACTS).is_file():
            if key is None or read_facts(output).get("run") == key:
                return True
            raise UsageError(
                f"{output} already holds another model that kdnas wrote.", "Name another folder, or remove that one."
            )
        if any(output.iterdir()):
            raise UsageError(f"The folder {output} is not empty.", "Name a folder that does not exist yet.")
    elif output.exists() or output.is_symlink():
        raise UsageError(f"{output} is a file.", "Name a folder that does not exist yet.")
    parent = output.parent
    if not parent.is_dir():
        raise UsageError(f"The folder {parent} does not exist.", "Make it first, or name another.")
    if not os.access(parent, os.W_OK | os.X_OK):
        raise UsageError(f"You may not write in {parent}.", "Name a place in a folder of your own.")
    return False


@contextlib.contextmanager
def explained(place: Path) -> Iterator[None]:
    """What a disk can complain of while something is written below `place` becomes a UsageError with the mend."""
    try:
        yield
    except KdnasError:
        raise
    except OSError as error:
        raise _explain(place, error.errno, error.strerror or str(error)) from None
    except Exception as error:
        # safetensors raises an exception type of its own that carries the system's message only as text.
        if type(error).__name__ != "SafetensorError" or "os error" not in str(error):
            raise
        number = int(str(error).rsplit("os error", 1)[1].strip(" )")[:4].split(")")[0])
        raise _explain(place, number, os.strerror(number)) from None


def _explain(place: Path, number: int | None, said: str) -> UsageError:
    if number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return UsageError(
            f"{place} could not be written: the disk is full.",
            "Make room there and run the same command again; finished epochs are kept.",
        )
    if number in (errno.EACCES, errno.EPERM, errno.EROFS):
        return UsageError(f"{place} may not be written: {said}.", "Name a place in a folder of your own.")
    return UsageError(f"{place} could not be written: {said}.", "Name another place.")


@contextlib.contextmanager
def whole(output: Path) -> Iterator[Path]:
    """A folder to fill, beside the checkpoints; it gets its final name when the block ends well, and only then."""
    partial = partial_of(output)
    work = partial / "folder"
    with explained(output):
        partial.mkdir(exist_ok=True)
        shutil.rmtree(work, ignore_errors=True)  # what a killed attempt left
        work.mkdir()
        try:
            yield work
            for path in [*work.rglob("*"), work]:
                # Some writers make files for their owner alone; a model folder is for whom the umask says.
                path.chmod((0o777 if path.is_dir() else 0o666) & ~umask())
                _sync(path)
            work.rename(output)
            _sync(output.parent)
        except BaseException:
            shutil.rmtree(work, ignore_errors=True)
            raise


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


# ------------------------------------------------------------------------------------------------- kdnas.json


def versions() -> dict[str, str]:
    """Versions of the libraries that decide figures."""
    found = {}
    for name in LIBRARIES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


def stamp(facts: Mapping[str, Any]) -> dict[str, Any]:
    """The facts of a folder with format, version and time in front."""
    return {
        "format": FORMAT,
        "version": VERSION,
        "kdnas": __version__,
        "written": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        **facts,
    }


def write_facts(folder: Path, facts: Mapping[str, Any]) -> None:
    """`kdnas.json` and the model card, which say the same."""
    write_atomically(folder / FACTS, json.dumps(facts, indent=2, ensure_ascii=False, allow_nan=False) + "\n")
    write_card(folder)


def read_facts(folder: Path) -> dict[str, Any]:
    """What `kdnas.json` of a folder says. Raises UsageError for one that is missing, broken or of a newer version."""
    path = folder / FACTS
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UsageError(f"{folder} holds no {FACTS}.", "Give a folder that kdnas finalize or distill wrote.") from None
    except (OSError, ValueError) as error:
        raise UsageError(f"{path} cannot be read: {error}.", "Write the folder again with kdnas finalize.") from None
    if not isinstance(facts, dict) or facts.get("format") != FORMAT:
        raise UsageError(f"{path} is not from kdnas.", "Give a folder that kdnas finalize or distill wrote.")
    if int(facts.get("version", 0)) > VERSION:
        raise UsageError(f"{path} was written by a newer kdnas.", "Update kdnas to read it.")
    return facts


def require_model(folder: Path) -> None:
    """Raise UsageError for a path that holds no Hugging Face model."""
    if not folder.is_dir():
        raise UsageError(f"There is no folder {folder}.", "Give a model folder.")
    if not (folder / "config.json").is_file():
        raise UsageError(
            f"The folder {folder} is not a model: it has no config.json.",
            "Give the folder that kdnas finalize wrote, or one of save_pretrained.",
        )
    if not any(path.suffix in (".safetensors", ".bin") for path in folder.iterdir()):
        raise UsageError(
            f"The folder {folder} is not a model: it has no weights.", "Give a folder with model.safetensors in it."
        )


# ------------------------------------------------------------------------------------------------ model card


def write_card(folder: Path) -> None:
    """The model card from `kdnas.json` and, where the folder was evaluated, `results.json`."""
    results: dict[str, Any] | None = None
    with contextlib.suppress(OSError, ValueError):
        results = json.loads((folder / RESULTS).read_text(encoding="utf-8"))
    write_atomically(folder / CARD, card(read_facts(folder), results))


def card(facts: Mapping[str, Any], results: Mapping[str, Any] | None = None) -> str:
    """A model card in Markdown with the hub's front matter."""
    spec, metrics, latency = facts["spec"], facts["metrics"], facts["latency"]
    teacher, data, config = spec["teacher"], spec["data"], facts["config"]
    protocol = spec["latency"]
    library = "peft" if facts.get("opens_with") == "PeftModel" else "transformers"
    front = ["---", f"library_name: {library}", "tags:", "- kdnas", "- knowledge-distillation"]
    if "/" in teacher["model"] and not teacher["model"].startswith((".", "/", "~")):
        front += [f"base_model: {json.dumps(teacher['model'])}"]
    front += ["---"]
    kind = str(config.get("model_type", spec["recipe"]["name"]))
    shape = ", ".join(f"{name} {value}" for name, value in facts["candidate"].items())
    came = (
        f"trial {facts['trial']} of the study `{facts['study']}`"
        if facts.get("trial") is not None
        else "a configuration given by hand"
    )
    early = ", stopped early" if metrics["stopped_early"] else ""
    lines = [
        *front,
        "",
        f"# A student of {teacher['model']}",
        "",
        f"A {kind} model of {facts['parameters']:,} parameters ({shape}), distilled from `{teacher['model']}` on "
        f"`{data['source']}` by kdnas {facts['kdnas']} with the recipe `{spec['recipe']['name']}`; {came}.",
        "",
        "| | student | teacher |",
        "| --- | ---: | ---: |",
        f"| parameters of the body | {facts['parameters']:,} | {_count(facts['teacher'].get('parameters'))} |",
        f"| latency, median ms | {latency['student_ms']:.3g} | {latency['teacher_ms']:.3g} |",
        f"| held-out loss (0 matches the teacher, 1 is a constant prediction) | {metrics['loss']:.4f} | 0 |",
        f"| held-out loss, raw | {metrics['raw_loss']:.6g} | |",
        "",
        f"{latency['speedup']:.2f} times as fast as its teacher: one forward pass of the body, batch "
        f"{protocol['batch_size']}, {protocol['length']} tokens, {protocol['threads']} thread(s), on "
        f"{latency['device']}, student and teacher timed in turn."
        + (f" The figure is doubtful: {latency['flag']}." if latency.get("flag") else ""),
        "",
        "## Use",
        "",
        "```python",
        *_usage(kind, facts),
        "```",
        "",
        *_classification(facts.get("classification")),
        *_forms(facts.get("forms")),
        *_scores(results),
        "## How it was made",
        "",
        f"- {metrics['epochs']} of at most {spec['full']['epochs']} epochs{early}, the best one "
        f"({metrics['best_epoch']}) kept; {metrics['tokens']:,} tokens; seed {facts['seed']}.",
        f"- AdamW, learning rate {spec['training']['learning_rate']:g}, warm-up {spec['training']['warmup']:g} of the "
        f"steps, batches of {data['batch_size']} × {data['length']} tokens.",
        *_head(facts.get("head")),
        f"- Weights are stored as {facts['dtype']}; nothing that only the distillation needed is among them.",
        *(
            [f"- `{facts['onnx']['file']}`: the same model as ONNX, outputs within {facts['onnx']['difference']:.1e}."]
            if facts.get("onnx")
            else []
        ),
        "- " + ", ".join(f"{name} {version}" for name, version in facts["versions"].items()) + ".",
        f"- Fingerprints: teacher {facts['teacher'].get('fingerprint', 'unknown')}, "
        f"data {facts['data'].get('fingerprint', 'unknown')}.",
        "",
        f"All of this is in `{FACTS}`. The student inherits its teacher's and its text's biases and terms.",
        "",
    ]
    return "\n".join(lines)


def _head(head: Mapping[str, Any] | None) -> list[str]:
    """How a student that was not trained to classify does."""
    if head is None:
        return []
    return [
        f"- Its head tells {', '.join(head['labels'])} apart: the teacher's, not trained any further, but its last "
        "layer solved for this student's states. It says what the teacher says of "
        f"{head['agreement']:.1%} of the held-out text's chunks."
    ]


def _count(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) else "–"


def _usage(kind: str, facts: Mapping[str, Any]) -> list[str]:
    opener = str(facts.get("opens_with", "AutoModel"))
    if opener == "PeftModel":
        return _adapter_usage(facts)
    code = ", trust_remote_code=True" if facts.get("own_code") else ""  # the folder holds the model's class itself
    return [
        f"from transformers import {opener}, AutoTokenizer",
        "",
        f'tokenizer = AutoTokenizer.from_pretrained("FOLDER"{code})',
        f'model = {opener}.from_pretrained("FOLDER"{code})',
        'outputs = model(**tokenizer(["Knowledge, distilled."], return_tensors="pt"))',
    ]


def _adapter_usage(facts: Mapping[str, Any]) -> list[str]:
    """An adapter goes over its base, which lies in the folder where it was cut."""
    cut = facts["base"] == "base"
    named = '"FOLDER/base"' if cut else f'{json.dumps(facts["base"])}, config=AutoConfig.from_pretrained("FOLDER")'
    return [
        "from peft import PeftModel",
        "from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer",
        "",
        'tokenizer = AutoTokenizer.from_pretrained("FOLDER")',
        f"base = AutoModelForSequenceClassification.from_pretrained({named})",
        'model = PeftModel.from_pretrained(base, "FOLDER").eval()',
        'outputs = model(**tokenizer(["Knowledge, distilled."], return_tensors="pt"))',
    ]


def _forms(forms: Sequence[Mapping[str, Any]] | None) -> list[str]:
    """The same student made smaller, each form as it was measured."""
    if not forms:
        return []
    part = "test" if "test" in forms[0] else "held_out"
    lines = [
        "## Smaller forms",
        "",
        "| form | parameters | zeros | MiB | median ms | × teacher | accuracy | macro F1 |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for form in forms:
        scores = form[part]
        lines.append(
            f"| {form['form']} | {form['parameters']:,} | {form['zeros']:.0%} | {form['mib']:.2f} | "
            f"{form['latency_ms']:.3g} | {form['speedup']:.1f} | {scores['accuracy']:.4f} | {scores['macro_f1']:.4f} |"
        )
    where = "the test part" if part == "test" else "the held-out part"
    return [*lines, "", f"Scores on {where}; int8 is torch's dynamic quantisation, done on loading.", ""]


def _classification(found: Mapping[str, Any] | None) -> list[str]:
    """Scores of a classifier and its teacher, what their weights take, and the student's confusion table."""
    if not found:
        return []
    lines = ["## Classification", "", "| | student | teacher |", "| --- | ---: | ---: |"]
    for part, words in (("held_out", "held-out"), ("test", "test")):
        if part in found:
            own, taught, of = found[part]["student"], found[part]["teacher"], f"{found[part]['examples']:,} {words}"
            lines += [
                f"| accuracy, {of} examples | {own['accuracy']:.4f} | {taught['accuracy']:.4f} |",
                f"| macro F1, {words} | {own['macro_f1']:.4f} | {taught['macro_f1']:.4f} |",
            ]
    own, taught = found["size"]["student"], found["size"]["teacher"]
    for name, words in (("parameters", "parameters"), ("trainable", "of them learned"), ("non_zero", "not zero")):
        lines.append(f"| {words} | {own[name]:,} | {taught[name]:,} |")
    lines.append(f"| weights, MiB | {own['mib']:.1f} | {taught['mib']:.1f} |")
    part = "test" if "test" in found else "held_out"
    names = [str(name).replace("|", "\\|") for name in found["classes"]]
    if len(names) <= MOST_COLUMNS:
        lines += ["", f"The student on the {part.replace('_', '-')} part, a row for each true class:", ""]
        lines += [f"| | {' | '.join(names)} |", f"| --- |{' ---: |' * len(names)}"]
        rows = zip(names, found[part]["student"]["confusion"], strict=True)
        lines += [f"| {name} | {' | '.join(map(str, row))} |" for name, row in rows]
    return [*lines, ""]


def _scores(results: Mapping[str, Any] | None) -> list[str]:
    return ["## Scores", "", str(results["markdown"]).strip(), ""] if results else []
