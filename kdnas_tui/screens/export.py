"""Writes candidates to a file: the best, the marked ones or the front, as JSON, CSV or Markdown."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from rich.text import Text
from textual.app import ComposeResult
from textual.containers import Horizontal, VerticalScroll
from textual.widgets import Input, OptionList, Static
from textual.widgets.option_list import Option

from kdnas.study.filter import parse
from kdnas.system.errors import KdnasError, UsageError
from kdnas_tui import words
from kdnas_tui.desk import Desk
from kdnas_tui.screens.frame import Frame, bindings
from kdnas_tui.watched import Watched
from kdnas_tui.widgets.act_button import ActButton
from kdnas_tui.widgets.field import Field
from kdnas_tui.widgets.key_bar import KeyBar

WHICH = (
    ("top", "the best by reward"),
    ("marked", "the marked ones"),
    ("front", "the Pareto front"),
    ("filter", "all that pass the filter"),
)


class ExportScreen(Frame):
    NAME = "export"
    BINDINGS = bindings("export")
    PANES = {
        "": "The file is written whole or not at all. JSON (checked against its schema) holds everything; .csv and .md "
        "are for spreadsheets and reports. Each candidate carries its Hugging Face configuration."
    }

    def __init__(self, watched: Watched, desk: Desk) -> None:
        super().__init__(desk)
        self._watched = watched

    def compose(self) -> ComposeResult:
        yield Static(Text.assemble((f"{self._watched.name}  ", "dim"), ("export", "bold")), classes="head")
        with VerticalScroll(id="export", can_focus=False):
            yield OptionList(*(Option(_choice(label, False), name) for name, label in WHICH), id="which", compact=True)
            with Horizontal(classes="row gap"):
                yield Static("how many", classes="label")
                yield Field("10", id="top")
            with Horizontal(classes="row"):
                yield Static("file", classes="label")
                yield Field(f"{self._watched.name}.json", id="file")
            with Horizontal(classes="row gap"):
                yield Static("", classes="label")
                yield ActButton("Write", "export.write", id="write")
                yield Static("", id="count")
            yield Static("", id="hint", classes="hint")
        yield KeyBar("export")

    def on_mount(self) -> None:
        which = self.query_one(OptionList)
        which.highlighted = 1 if self._watched.marked() else 0
        which.focus()
        self._check()

    # ------------------------------------------------------------------ checking

    def _which(self) -> str:
        return WHICH[self.query_one(OptionList).highlighted or 0][0]

    def _chosen(self) -> np.ndarray:
        """Places of the board, best first, of what would be written. Raises UsageError where there is nothing."""
        board = self._watched.trials
        assert board is not None
        if not len(board):
            raise UsageError("No trial has finished yet.", "Wait for the first one.")
        which = self._which()
        places = board.standing.order
        if which == "top":
            text = self.query_one("#top", Input).value.strip()
            if not text.isdigit() or int(text) < 1:
                raise UsageError(f"{text!r} is no number of candidates.", "Give 1 or more.")
            places = places[: int(text)]
        elif which != "filter":
            places = places[board.mask(parse(f"is:{which}"))[places]]
        elif self._watched.mask is not None:
            places = places[self._watched.mask[places]]
        if not len(places):
            hint = {"marked": "Mark some with space in the table.", "filter": "Loosen the filter."}
            raise UsageError("There is no finished candidate to write.", hint.get(which, "Wait for the first trial."))
        return places

    def _path(self) -> Path:
        text = self.query_one("#file", Input).value.strip()
        if not text:
            raise UsageError("The file has no name.", "Name a .json, .csv or .md file.")
        path = Path(text).expanduser()
        if path.is_dir():
            raise UsageError(f"{path} is a folder.", "Name a file in it.")
        if not path.parent.is_dir():
            raise UsageError(f"The folder {path.parent} does not exist.", "Make it first, or name another.")
        from kdnas.study.export import style_of

        style_of(path)
        return path

    def _check(self) -> None:
        fault, count = "", ""
        try:
            count = words.plural(len(self._chosen()), "candidate")
            path = self._path()
            count += ", over the file that is there" if path.exists() else ""
        except KdnasError as error:
            fault = str(error)
        self.query_one("#hint", Static).update(Text(fault))
        self.query_one("#count", Static).update(Text(count))
        self.query_one("#top", Input).disabled = self._which() != "top"

    def on_input_changed(self) -> None:
        self._check()

    def on_option_list_option_highlighted(self) -> None:
        which = self.query_one(OptionList)
        for place, (_, label) in enumerate(WHICH):
            which.replace_option_prompt_at_index(place, _choice(label, place == which.highlighted))
        self._check()

    def on_option_list_option_selected(self) -> None:
        self.query_one("#file").focus()

    def on_input_submitted(self) -> None:
        self.focus_next()

    def on_button_pressed(self) -> None:
        self.action_write()

    # ------------------------------------------------------------------ writing

    def action_write(self) -> None:
        study, board = self._watched.study, self._watched.trials
        try:
            places, path = self._chosen().tolist(), self._path()
        except KdnasError as error:
            self.query_one("#hint", Static).update(Text(str(error)))
            return
        if study is None or board is None:
            return
        if len(places) > 1000:
            self.notify(f"Writing {len(places):,} candidates …", timeout=4, markup=False)
        provenance = self._watched.provenance

        def write() -> None:
            from kdnas.study import export
            from kdnas.system.files import write_atomically

            chosen = [board.at(place) for place in places]
            body = export.document(study, chosen, alpha=study.alpha, beta=study.beta, provenance=provenance)
            write_atomically(path, export.render(body, export.style_of(path)))

        done = f"{words.plural(len(places), 'candidate')} written to {path.resolve()}"
        self.desk.command(write, done, self._done)

    def _done(self) -> None:
        if self.is_current:
            self.dismiss()


def _choice(label: str, chosen: bool) -> Text:
    """A choice with its sign: a colour alone says nothing without colours."""
    return Text(f"({'•' if chosen else ' '}) {label}")
