"""Scores of a model folder from its name to its files: teacher found, tasks run, results written, store told.

What a task is and how it is scored is in data/glue.py, finetuned_tasks.py, perplexity.py, labels.py and embeddings.py.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from kdnas.data import retrieval
from kdnas.data.glue import OWN, TASKS, chosen
from kdnas.measuring.devices import as_studies, resolve_device
from kdnas.models.static_encoder import is_static
from kdnas.scores import finetuned_tasks, results
from kdnas.scores.finetuning import FineTuning
from kdnas.scores.perplexity import perplexity
from kdnas.search.heartbeat import at_work
from kdnas.store import jobs, queries
from kdnas.store.database import open_store
from kdnas.students import model_folder as folders
from kdnas.study.spec import DataSpec, TeacherSpec, from_values
from kdnas.study.spec_recipes import ClassifierRecipe
from kdnas.study.states import WorkerState
from kdnas.system.errors import KdnasError, UsageError, nearest
from kdnas.system.progress import Note, Progress

PERPLEXITY, LABELS, EMBEDDINGS = AS_IT_IS = "perplexity", "labels", "embeddings"


@dataclass(frozen=True)
class Wanted:
    """What is asked of a folder. `teacher` None takes the one that `kdnas.json` names, "" none at all."""

    tasks: tuple[str, ...] = (OWN,)
    protocol: FineTuning = field(default_factory=FineTuning)
    data_dir: Path | None = None
    teacher: str | None = None
    text: str | None = None  # for the perplexity and the labels; None takes the study's own data; and for embeddings
    text_column: str | None = None  # of that text, where not the study's
    label_column: str | None = None
    data: Path | None = None  # a folder in the layout of MTEB, for embeddings
    dimensions: tuple[int, ...] = ()  # of embeddings, scored besides all of them
    device: str = "auto"
    output: Path | None = None


@as_studies()
def score(model: Path, wanted: Wanted, on_progress: Progress, storage: str | None = None) -> dict[str, Any]:
    """Score a folder beside its teacher; what `results.json` holds.

    Writes it, its Markdown table and the folder's model card. Where the folder comes from a study of `storage`, the
    store hears of it. Raises UsageError before anything runs for what is not there or not known.
    """
    static = wanted.tasks == (EMBEDDINGS,) and is_static(model)
    if not static:
        folders.require_model(model)
    if not wanted.tasks:
        known = ", ".join(("glue", *TASKS, *AS_IT_IS))
        raise UsageError("No task is named.", f"Known: {known}.")
    _check_embeddings(wanted)
    names = [name for name in wanted.tasks if name not in AS_IT_IS]
    for name in names:
        if name != "glue" and name not in TASKS:
            raise UsageError(f"There is no task {name!r}.", nearest(name, ("glue", *TASKS, *AS_IT_IS)))
    tasks = chosen(names)
    facts = folders.read_facts(model) if (model / folders.FACTS).is_file() else None
    output = wanted.output or results.default_output(model)
    if not output.parent.is_dir():
        raise UsageError(f"The folder {output.parent} does not exist.", "Make it first, or name another --output.")
    device = resolve_device(wanted.device)
    teacher = None if wanted.tasks == (LABELS,) else teacher_of(wanted.teacher, facts, device, on_progress)
    asks_perplexity = PERPLEXITY in wanted.tasks
    own_share = 1.0 if not asks_perplexity else 0.85 if tasks else 0.0

    with _told(model, facts, storage, on_progress) as (tell, finished):
        result = finetuned_tasks.evaluate(
            model,
            teacher,
            tasks,
            wanted.protocol,
            device,
            lambda words, share: tell(words, None if share is None else own_share * share),
            wanted.data_dir,
        )
        if asks_perplexity:
            data = _text(wanted.text, facts)
            found = perplexity(
                model,
                teacher,
                data,
                device,
                lambda words, share: tell(words, None if share is None else own_share + (1 - own_share) * share),
            )
            result["perplexity"] = found
        if LABELS in wanted.tasks:
            from kdnas.scores.labels import label_scores

            rows = _rows(wanted, facts)
            result["labels"] = label_scores(model, facts, rows, device, tell, beside=wanted.teacher != "")
        if EMBEDDINGS in wanted.tasks:
            from kdnas.scores.embeddings import Asked, embedding_scores

            columns = (wanted.text_column, wanted.label_column)
            asked = Asked(wanted.text or retrieval.OWN, *columns, wanted.data, wanted.dimensions)
            result["embeddings"] = embedding_scores(model, teacher, asked, device, tell)
        result = results.merged(result, output)
        results.write(result, output)
        if facts is not None and not static and output == results.default_output(model):
            folders.write_card(model)
        finished(result)
    return result


def _check_embeddings(wanted: Wanted) -> None:
    """Raise UsageError for what is given for embeddings and would not be looked at."""
    given = {"--data": wanted.data is not None, "--dimensions": bool(wanted.dimensions)}
    for flag in (flag for flag, there in given.items() if there and EMBEDDINGS not in wanted.tasks):
        raise UsageError(f"{flag} is for embeddings, which are not among the tasks.", "Give --tasks embeddings.")
    if wanted.data is not None and wanted.tasks == (EMBEDDINGS,):
        own = {"--text": wanted.text, "--text-column": wanted.text_column, "--label-column": wanted.label_column}
        for flag in (flag for flag, value in own.items() if value is not None):
            raise UsageError(f"{flag} and --data both say what embeddings are scored on.", "Give one of them.")


def teacher_of(
    asked: str | None, facts: dict[str, Any] | None, device: torch.device, on_progress: Progress
) -> Path | None:
    """The folder to stand beside: the one asked for, else what taught the student: the study's checkpoint, or the
    classifier that the study taught; None where there is none."""
    from kdnas.teachers.causal import model_folder

    if asked == "" or (asked is None and facts is None):
        return None
    if asked:
        return model_folder(TeacherSpec(model=asked), on_progress)  # type: ignore[call-arg]
    spec = from_values((facts or {})["spec"])
    if not isinstance(spec.recipe, ClassifierRecipe):
        return model_folder(spec.teacher, on_progress)
    from kdnas.recipes import recipe
    from kdnas.recipes.classifiers import ClassifierBench

    bench = recipe(spec.recipe.name).prepare(spec, device, on_progress)
    assert isinstance(bench, ClassifierBench)
    bench.close()
    return bench.teacher_folder


def taught_by(model: Path) -> list[Path]:
    """The folder that the teacher of a finished student lies in, for what it says of its own training; none where it is
    no folder on this machine."""
    if not (model / folders.FACTS).is_file():
        return []
    place = Path(folders.read_facts(model)["spec"]["teacher"]["model"]).expanduser()
    return [place] if place.is_dir() else []


def _rows(wanted: Wanted, facts: dict[str, Any] | None) -> DataSpec | None:
    """The labelled rows that were asked for; None for the study's own test part."""
    if wanted.text is None:
        return None
    own = from_values(facts["spec"]).data if facts is not None else DataSpec()  # type: ignore[call-arg]
    given = {"source": wanted.text, "text_column": wanted.text_column, "label_column": wanted.label_column}
    asked = {name: value for name, value in given.items() if value is not None}
    return own.model_copy(update={"limit": None, "group_column": None, **asked})


def _text(asked: str | None, facts: dict[str, Any] | None) -> DataSpec:
    if asked is not None:
        return DataSpec(source=asked)  # type: ignore[call-arg]
    if facts is not None:
        return from_values(facts["spec"]).data
    return DataSpec()  # type: ignore[call-arg]


@contextlib.contextmanager
def _told(
    model: Path, facts: dict[str, Any] | None, storage: str | None, on_progress: Progress
) -> Iterator[tuple[Progress, Callable[[dict[str, Any]], None]]]:
    """Who hears of it: the caller, and the store where it holds the study that the folder came from."""
    with contextlib.ExitStack() as stack:
        store = study_id = None
        if facts is not None and facts.get("study") is not None and storage is not None:
            # A folder is scored wherever it is; the store of its study need not be there.
            with contextlib.suppress(UsageError):
                store = stack.enter_context(open_store(storage))
                row = queries.study_row(store, facts["study"])
                if row.spec["teacher"] == facts["spec"]["teacher"] and row.spec["seed"] == facts["spec"]["seed"]:
                    study_id = row.study_id
        if store is None or study_id is None or facts is None:
            yield on_progress, lambda _: None
            return
        alive = stack.enter_context(at_work(store, study_id, "evaluate"))
        alive.state = WorkerState.RUNNING
        place = str(model.resolve())
        run_id = jobs.begin(store, study_id, "evaluate", place, number=facts.get("trial"), worker_id=alive.worker_id)
        said = {"words": ""}

        def tell(words: str, share: float | None) -> None:
            on_progress(words, share)
            if isinstance(words, Note):
                return
            alive.doing = words
            if words != said["words"]:
                said["words"] = words
                jobs.progress(store, run_id, share or 0.0, words)

        try:
            yield tell, lambda result: jobs.end(store, run_id, _short(result))
        except BaseException as error:
            why = str(error) if isinstance(error, KdnasError) else type(error).__name__
            stopped = "Stopped; the same command goes on."
            jobs.fail(store, run_id, stopped if isinstance(error, KeyboardInterrupt) else why)
            raise


def _short(result: dict[str, Any]) -> dict[str, Any]:
    """Results without the single seeds, for the store."""
    tasks = {
        name: {
            who: {k: v for k, v in entry[who].items() if k != "seeds"} for who in ("student", "teacher") if who in entry
        }
        | {"kept": entry["kept"]}
        for name, entry in result["tasks"].items()
    }
    return {"tasks": tasks, "average": result["average"], **{n: result.get(n) for n in AS_IT_IS}}
