"""Makes a model of a candidate: full distillation and task scores, started as processes of their own and watched here.

What runs is `kdnas finalize` and `kdnas evaluate`; the screen reads their rows in the store and loads no model.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
from pathlib import Path
from typing import Any

from rich.text import Text
from textual.app import ComposeResult
from textual.containers import Horizontal, VerticalScroll
from textual.widgets import Input, Static

from kdnas.students import best_epoch, unfinished
from kdnas.students import model_folder as folders
from kdnas.students.unfinished import Unfinished
from kdnas.study import layer_words, timed_words
from kdnas.study.full_time import NONE, UNKNOWN, full_time
from kdnas.study.layer_words import is_static
from kdnas.study.ranking import Scored
from kdnas.study.rows import RunRow, WorkerRow
from kdnas.study.spec import from_store
from kdnas.study.spec_recipes import CausalRecipe, RecipeSpec, scored_as_built
from kdnas.system.errors import KdnasError, UsageError
from kdnas.system.folders import partial_of
from kdnas.system.liveness import this_host
from kdnas_tui import words, workers
from kdnas_tui.desk import Desk
from kdnas_tui.feed import News
from kdnas_tui.screens.frame import Frame, bindings, writes
from kdnas_tui.watched import Watched
from kdnas_tui.widgets.act_button import ActButton
from kdnas_tui.widgets.field import Field
from kdnas_tui.widgets.key_bar import KeyBar
from kdnas_tui.widgets.tick import Tick

BAR = 20  # cells of a progress bar


class FinalizeScreen(Frame):
    NAME = "finalize"
    BINDINGS = bindings("finalize")
    PANES = {
        "": "The candidate learns on the whole training data, not only on the proxy set, and is written as a folder "
        "that AutoModel.from_pretrained opens. It runs as a process of its own: close the screen, and it goes on; kill "
        "it, and starting it again goes on from its last checkpoint, which is written every five minutes. Scores "
        "fine-tune the model and its teacher on labelled film sentences and compare them."
    }
    DEFAULT_CSS = """
    FinalizeScreen #finalize { height: 1fr; padding: 1 2; }
    FinalizeScreen .row { height: 1; width: 100%; max-width: 100; }
    FinalizeScreen .gap { margin: 1 0 0 0; }
    FinalizeScreen .label { width: 12; color: $foreground 65%; }
    FinalizeScreen Input { width: 1fr; }
    FinalizeScreen #hint { margin: 1 0 0 12; }
    FinalizeScreen #facts { margin: 0 0 0 12; height: auto; }
    FinalizeScreen #runs { margin: 1 0 0 0; height: auto; }
    """

    def __init__(self, watched: Watched, desk: Desk, trial: int) -> None:
        super().__init__(desk)
        self._watched = watched
        self._trial = trial
        self._named = False  # the folder's name was typed, so it no longer follows the trial
        self._counted = False  # the epochs were typed, so they no longer follow what is kept
        self._epochs = ""  # as they stand there otherwise
        self._started: dict[str, str] = {}  # folders whose process is on its way → what it is for

    def compose(self) -> ComposeResult:
        yield Static(Text.assemble((f"{self._watched.name}  ", "dim"), ("finalize", "bold")), classes="head")
        with VerticalScroll(id="finalize", can_focus=False):
            with Horizontal(classes="row"):
                yield Static("trial", classes="label")
                yield Field(str(self._trial), id="trial")
            with Horizontal(classes="row"):
                yield Static("folder", classes="label")
                yield Field(self._default_folder(self._trial), id="folder")
            with Horizontal(classes="row"):
                yield Static("epochs", classes="label")
                self._epochs = str(self._full("epochs", 20))
                yield Field(self._epochs, id="epochs")
            with Horizontal(classes="row"):
                yield Static("", classes="label")
                yield Tick("ONNX too", id="onnx")
            if isinstance(self._recipe(), CausalRecipe):
                with Horizontal(classes="row"):
                    yield Static("", classes="label")
                    yield Tick("GGUF too", id="gguf")
            with Horizontal(classes="row gap"):
                yield Static("", classes="label")
                yield ActButton("Distil", "finalize.start", id="start")
            yield Static("", id="hint", classes="hint")
            yield Static("", id="facts")
            yield Static("", id="runs")
        yield KeyBar("finalize")

    def on_mount(self) -> None:
        self.query_one(ActButton).focus()
        self._check()
        self._draw()

    def hear(self, news: News) -> None:
        if news.runs is not None:
            here = {run.folder for run in news.runs if run.state == "running"}
            self._started = {place: kind for place, kind in self._started.items() if place not in here}
        if news.curves and self.is_mounted:
            self._check()  # which tells the time by them
        self._draw()

    def on_resize(self) -> None:
        self._draw()

    # ------------------------------------------------------------------ the form

    def _default_folder(self, trial: int) -> str:
        return f"{self._watched.name}-{trial}"

    def _full(self, name: str, usual: int) -> int:
        """A figure of the study's `full` part."""
        spec: Any = self._watched.study.spec if self._watched.study is not None else {}
        return int(spec.get("full", {}).get(name, usual))

    def _know_something(self) -> bool:
        """Whether the study's students do before they learn, so that no epoch is a number of epochs, too."""
        recipe = self._recipe()
        return recipe is not None and scored_as_built(recipe)

    def _recipe(self) -> RecipeSpec | None:
        """The study's, where this version knows it."""
        with contextlib.suppress(UsageError):
            return None if self._watched.study is None else from_store(self._watched.study.spec).recipe
        return None

    def _take_up(self) -> None:
        """The epochs of a run that was left in the folder, in place of the study's: it goes on with those only."""
        if self._counted:
            return
        name, trial = (self.query_one(f"#{field}", Input).value.strip() for field in ("folder", "trial"))
        kept = unfinished.read(Path(name).expanduser().absolute()) if name else None
        mine = kept is not None and str(kept.trial) == trial.removeprefix("#")
        self._epochs = str(kept.epochs if kept is not None and mine else self._full("epochs", 20))
        with self.prevent(Input.Changed):
            self.query_one("#epochs", Input).value = self._epochs

    def _wanted(self) -> tuple[int, Path, int]:
        """Trial, folder, epochs. Raises UsageError that says the hint."""
        text = self.query_one("#trial", Input).value.strip().removeprefix("#")
        board = self._watched.trials
        scored = board.scored(int(text)) if board is not None and text.isdigit() else None
        if scored is None:
            raise UsageError(f"There is no trial {text or '(none)'}.", "Give the number of one in the table.")
        epochs = self.query_one("#epochs", Input).value.strip()
        least = 0 if self._know_something() else 1
        if not epochs.isdigit() or not least <= int(epochs) <= 10_000:
            raise UsageError(f"{epochs!r} is no number of epochs.", f"Give {least} to 10000.")
        name = self.query_one("#folder", Input).value.strip()
        if not name:
            raise UsageError("The folder has no name.", "Name one that does not exist yet.")
        place = Path(name).expanduser().absolute()
        if folders.finished(place):
            raise UsageError(f"{name} already holds a model.", "Name another folder.")
        kept = unfinished.read(place)
        if kept is not None and kept.study == self._watched.name and kept.trial != int(text):
            raise UsageError(f"{name} holds what is done of trial {kept.trial}.", "Name another folder.")
        if kept is not None and kept.epochs != int(epochs):
            raise UsageError(
                f"What is done there is of a run over {kept.epochs} epochs.", "Give as many, or name another folder."
            )
        return int(text), place, int(epochs)

    def _check(self) -> None:
        fault, facts = "", Text()
        self._take_up()
        try:
            trial, place, epochs = self._wanted()
            self.desk.feed.want_curves(frozenset({trial}))
            facts = self._facts(trial, place, epochs)
        except KdnasError as error:
            fault = str(error)
        self.query_one("#hint", Static).update(Text(fault))
        self.query_one("#facts", Static).update(facts)

    def _facts(self, trial: int, place: Path, epochs: int) -> Text:
        """Which candidate it is, where its model will lie, how long that takes, what is done of it already, and the
        command."""
        text = Text()
        scored = self._watched.trials.scored(trial) if self._watched.trials is not None else None
        if scored is not None:
            text.append(f"{in_words(scored)}\n")
        text.append("into ", style="dim").append(f"{place}\n")
        kept = unfinished.read(place)
        learned = 0 if scored is not None and is_static(scored.row.candidate) else epochs
        text.append(f"{self._time(trial, learned, kept)}\n")
        if kept is not None and (kept.done or kept.step):
            text.append("done already ", style="dim").append(f"{kept.words()}, from where it goes on\n")
        elif kept is None and partial_of(place).exists():
            text.append("done already ", style="dim").append("what its checkpoints hold, from where it goes on\n")
        text.append("$ ", style="dim").append(shlex.join(["kdnas", *self._asked()]))
        return text

    def _time(self, trial: int, epochs: int, kept: Unfinished | None) -> str:
        """How long the training may take, by the candidate's epochs in the search."""
        if not epochs:
            return NONE
        left = epochs if kept is None else epochs - kept.done
        found = full_time(self._watched.curves.get(trial, []), self._watched.provenance, left)
        if found is None:
            return UNKNOWN
        device = self._watched.provenance.get("device", "the search's device")
        return (
            f"{words.plural(left, 'epoch')} in {words.span(*found)} at its speed in the search, on {device}; "
            "fewer where the loss no longer falls"
        )

    def _asked(self) -> list[str]:
        """The words of the command. Raises UsageError as `_wanted` does."""
        trial, place, epochs = self._wanted()
        name = self._watched.name
        asked = ["finalize", name, "--trial", str(trial), "--output", str(place), "--epochs", str(epochs)]
        kept = unfinished.read(place)
        if kept is not None and kept.patience != self._full("patience", 3):
            asked += ["--patience", str(kept.patience)]
        return [*asked, *(f"--{tick.id}" for tick in self.query(Tick) if tick.value)]

    def on_checkbox_changed(self) -> None:
        self._check()

    def on_input_changed(self, event: Input.Changed) -> None:
        if event.input.id == "trial" and not self._named:
            text = event.value.strip().removeprefix("#")
            if text.isdigit():
                with self.prevent(Input.Changed):
                    self.query_one("#folder", Input).value = self._default_folder(int(text))
        elif event.input.id == "folder" and event.input.has_focus:
            self._named = True
        elif event.input.id == "epochs" and event.value != self._epochs:
            self._counted = True
        self._check()

    def on_input_submitted(self) -> None:
        self.focus_next()

    def on_button_pressed(self) -> None:
        self.action_start()

    # ------------------------------------------------------------------ actions

    @writes
    def action_start(self) -> None:
        try:
            _, place, _ = self._wanted()
            asked = self._asked()
        except KdnasError as error:
            self.query_one("#hint", Static).update(Text(str(error)))
            return
        self._begin(asked, str(place), "finalize")

    @writes
    def action_score(self) -> None:
        """Task scores of the model that was made last."""
        made = [run for run in self._watched.runs if run.kind == "finalize" and run.state == "done"]
        if not made:
            self.desk.fault(UsageError("No model has been made yet.", "Distil a candidate first."))
            return
        self._begin(["evaluate", made[-1].folder], made[-1].folder, "evaluate")

    @writes
    def action_stop(self) -> None:
        """The processes on this machine that are at it; what is finished is kept."""
        mine = [w for w in self._watched.crew if w.alive and w.task in ("finalize", "evaluate")]
        here = [w for w in mine if w.host == this_host()]
        for worker in here:
            try:
                os.kill(worker.pid, signal.SIGTERM)
            except OSError as error:
                self.desk.fault(KdnasError(f"Process {worker.pid} cannot be stopped: {error.strerror}."))
        if not here:
            where = f"They run on {mine[0].host}." if mine else "Nothing runs."
            self.desk.fault(UsageError("There is nothing to stop on this machine.", where))

    def _begin(self, asked: list[str], place: str, kind: str) -> None:
        self._started[place] = kind
        self._draw()
        storage = self.desk.storage

        def begin() -> None:
            try:
                workers.launch([*asked, "--storage", storage], self._watched.name)
            finally:
                self._started.pop(place, None)

        self.desk.command(begin, "", self._draw)

    # ------------------------------------------------------------------ what runs and ran

    def _draw(self) -> None:
        if not self.is_mounted:
            return
        said = Text()
        for place, kind in self._started.items():
            said.append(f"{kind}  {Path(place).name}  starting …\n")
        for run in reversed(self._watched.runs):
            said.append_text(run_text(run, self._watched.crew))
        if not said:
            said.append("No candidate of this study has become a model yet.", style="dim")
        self.query_one("#runs", Static).update(said)


def in_words(scored: Scored) -> str:
    """A candidate's sizes and figures on a line."""
    row = scored.told
    sizes = ", ".join(
        f"{key.removeprefix('num_').replace('_', ' ')} {value}"
        for key, value in layer_words.shown(row.candidate).items()
    )
    parts = [f"rank {scored.rank}"] if scored.rank is not None else [row.state]
    if row.rung is not None:
        parts.append(f"rung {row.rung}, scored {row.scored_after}")
    parts.append(f"loss {words.figure(scored.loss_used)}")
    if row.latency_ms is not None:
        parts.append(f"{words.milliseconds(row.latency_ms)} ms{' predicted' if row.latency_predicted else ''}")
    if scored.speedup is not None:
        parts.append(f"{scored.speedup:.1f} × the teacher")
    if row.parameters is not None:
        parts.append(f"{words.count(row.parameters)} parameters")
    return f"{sizes}: {', '.join(parts)}"


def run_text(run: RunRow, crew: list[WorkerRow]) -> Text:
    """One job in a line, and what came of it in those below."""
    number = "" if run.number is None else f"#{run.number}  "
    text = Text.assemble((f"{run.kind}  ", "bold"), f"{number}{Path(run.folder).name}  ")
    if run.state == "running":
        if any(worker.alive and worker.task == run.kind for worker in crew):
            full = round(run.progress * BAR)
            text.append(f"{'▰' * full}{'▱' * (BAR - full)} {run.progress:.0%}  {run.doing or ''}\n")
        else:
            text.append("its process is gone; start it again, and it goes on\n")
    elif run.state == "failed":
        text.append(f"{run.error}\n")
    else:
        text.append("done\n")
    for line in outcome(run):
        text.append(f"    {line}\n", style="dim")
    return text


def outcome(run: RunRow) -> list[str]:
    """The figures that a job has found so far."""
    lines = []
    curve, metrics, latency = run.result.get("curve"), run.result.get("metrics"), run.result.get("latency")
    if curve and not metrics:
        after = f"after epoch {curve[-1]['epoch']}" if curve[-1]["epoch"] else "before any step"
        lines.append(f"held-out loss {curve[-1]['loss']:.4f} {after}")
    if metrics and latency:
        timed = f"{words.milliseconds(latency['student_ms'])} ms{timed_words.in_dtype(latency)}"
        found = f"loss {metrics['loss']:.4f} {best_epoch.words(metrics)}"
        lines.append(f"{found}, {timed}, {latency['speedup']:.2f} × the teacher")
    if run.state == "done" and run.kind == "finalize":
        lines.append(run.folder)
    for name, entry in (run.result.get("tasks") or {}).items():
        teacher = f", teacher {100 * entry['teacher']['score']:.1f}" if entry.get("teacher") else ""
        kept = "" if entry["kept"] is None else f", {entry['kept']:.1f} % kept"
        lines.append(f"{name} {100 * entry['student']['score']:.1f}{teacher}{kept}")
    perplexity = run.result.get("perplexity")
    if perplexity:
        lines.append(f"masked-language perplexity {perplexity['student']['perplexity']:.1f}")
    return lines
