"""The one table of keys: it drives dispatch, the footer, the palette, the help and docs/keys.md.

A key of a screen is a line here and an `action_…` method there; nothing else names keys. `python -m kdnas_tui.keys`
prints the page for the docs. What a person has chosen instead (`own_keys`) is laid over the table by `use`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

from textual.binding import Binding
from textual.keys import format_key

SCREENS = {
    "everywhere": "Everywhere",
    "studies": "Studies",
    "studies-compare": "Compare studies",
    "campaign": "Campaign",
    "new-campaign": "New campaign",
    "new": "New study",
    "study": "Study",
    "reward": "α and β",
    "candidate": "Candidate",
    "compare": "Compare",
    "about": "About a study",
    "export": "Export",
    "finalize": "Finalize",
    "dialog": "A question",
    "help": "Help",
}


@dataclass(frozen=True)
class Key:
    keys: str  # Textual's names, separated by commas
    shown: str  # as people call it
    action: str
    label: str  # in the footer, a word or two
    explains: str  # in help, palette and docs
    footer: int = 0  # place in the footer, 0 for not there; the highest go first where it is narrow
    writes: bool = False  # changes the store or starts something, which a store that is only looked at refuses
    priority: bool = False  # before the focused widget sees it, so that what is typed next goes where it leads


KEYS: dict[str, tuple[Key, ...]] = {
    "everywhere": (
        Key("question_mark", "?", "help", "help", "Explain the focused pane and list the keys", 90),
        Key("f1", "F1", "help", "help", "The same from within a field", priority=True),
        Key("ctrl+p", "^p", "app.command_palette", "palette", "Find any action by its name", 30, priority=True),
        Key("ctrl+t", "^t", "app.next_theme", "theme", "Switch between dark and light", priority=True),
        Key("q", "q", "app.leave", "quit", "Close the screens; searches that run go on", 99),
        Key("ctrl+q", "^q", "app.leave", "quit", "The same from within a field", priority=True),
    ),
    "studies": (
        Key("enter", "enter", "open", "open", "Open the study or the campaign under the cursor", 1),
        Key("right", "→", "unfold", "unfold", "Show the members of the campaign under the cursor", 12),
        Key("left", "←", "fold", "fold", "Hide the members of the campaign again"),
        Key("n", "n", "new", "new", "Begin a new study", 2),
        Key("C", "C", "new_campaign", "campaign", "Begin a campaign, of several teachers and recipes on one task", 9),
        Key("slash", "/", "filter", "filter", "Show only studies with these words", 3, priority=True),
        Key("d", "d", "duplicate", "duplicate", "Begin a new study from the settings of this one", 4),
        Key("e", "e", "rename", "rename", "Give the study another name", 5, writes=True),
        Key(
            "delete,backspace", "del", "delete", "delete", "Delete the study and its trials, after a question", 6, True
        ),
        Key("t", "t", "tags", "tags", "Tag the study under the cursor", 10, True),
        Key("N", "N", "note", "note", "Write a note to the study under the cursor", 11, True),
        Key("space", "space", "mark", "mark", "Mark or unmark the study under the cursor", 7),
        Key("c", "c", "compare", "compare", "Compare the marked studies, two to six", 8),
        Key("y", "y", "copy_as", "copy", "Copy its command, or its best candidate in a format", 9),
        Key("greater_than_sign", ">", "sort(1)", "sort", "Sort by the column to the right", 7),
        Key("less_than_sign", "<", "sort(-1)", "sort", "Sort by the column to the left"),
        Key("equals_sign", "=", "sort(0)", "turn order", "Turn the order round"),
        Key("escape", "esc", "back", "all", "Clear the filter"),
    ),
    "studies-compare": (
        Key("right_square_bracket", "]", "turn(1)", "next part", "Go to the next part: settings, fronts, histories", 1),
        Key("left_square_bracket", "[", "turn(-1)", "part before", "Go to the part before"),
        Key("enter", "enter", "whole", "whole, fold", "Show the values under the cursor whole; fold a section", 2),
        Key("left", "←", "across(-1)", "left", "Go to the study to the left"),
        Key("right", "→", "across(1)", "right", "Go to the study to the right"),
        Key("l", "l", "log", "log", "Make the fronts' lower axis logarithmic, or linear again", 3),
        Key("y", "y", "copy", "copy JSON", "Copy the comparison as JSON", 4),
        Key("escape", "esc", "back", "back", "Go back to the studies", 5),
    ),
    "campaign": (
        Key("enter", "enter", "open", "open", "Open the study of the member under the cursor", 1),
        Key("r", "r", "resume", "go on", "Go on with the campaign, in a process of its own", 2, True),
        Key("s", "s", "stop", "stop", "Stop the campaign: its workers end, and what is finished is kept", 3, True),
        Key("m", "m", "measure", "scores", "Show the scores of the rounds, or those of the final table", 4),
        Key("l", "l", "log", "log axis", "Make the axis of latencies logarithmic, or linear again", 7),
        Key("y", "y", "copy", "copy command", "Copy the command that goes on with the campaign", 5),
        Key("R", "R", "report", "report", "Write the campaign's report as a page beside its models", 6),
        Key("right_square_bracket", "]", "turn(1)", "next part", "Go to the next part of the screen", 8),
        Key("left_square_bracket", "[", "turn(-1)", "part before", "Go to the part before"),
        Key("escape", "esc", "back", "studies", "Go back to the studies", 9),
    ),
    "new-campaign": (
        Key("ctrl+s", "^s", "start", "start", "Begin the campaign", 1, True, priority=True),
        Key("enter", "enter", "plan", "plan", "Say what the campaign needs; nothing is begun", 2),
        Key("f2", "F2", "choose", "choices", "List the campaigns that ship", 3),
        Key("f3", "F3", "copy_command", "copy command", "Copy the same campaign as one kdnas command", 4),
        Key("escape", "esc", "back", "studies", "Go back to the studies", 5),
    ),
    "new": (
        Key("ctrl+s", "^s", "start", "start", "Begin the study and open it", 1, True, priority=True),
        Key("f2", "F2", "choose", "choices", "List what ships for the field under the cursor", 2),
        Key("f3", "F3", "copy_command", "copy command", "Copy the same study as one kdnas command", 3),
        Key("f5", "F5", "command", "command", "Show the whole command", 6),
        Key(
            "f4",
            "F4",
            "preset",
            "presets",
            "Fill the form from a spec that ships, after a question where something was written",
            4,
        ),
        Key(
            "escape",
            "esc",
            "back",
            "studies",
            "Go back to the studies, after a question where something was written",
            5,
        ),
        Key("tab", "tab", "app.focus_next", "next field", "Go to the next field", priority=True),
        Key("shift+tab", "⇧tab", "app.focus_previous", "previous field", "Go to the previous field", priority=True),
    ),
    "study": (
        Key("p", "p", "pause", "pause", "Pause after the running epoch, or go on", 1, True),
        Key("s", "s", "stop", "stop", "Stop: finish or abandon the running trial, as you choose", 2, True),
        Key("r", "r", "resume", "resume", "Go on with a paused, stopped or dead study", 1, True),
        Key("a", "a", "reward", "α/β", "Try another α and β on all finished trials", 3),
        Key("slash", "/", "filter", "filter", "Filter table and plots", 4, priority=True),
        Key("space", "space", "mark", "mark", "Mark or unmark the trial under the cursor", 5),
        Key("t", "t", "tags", "tags", "Tag the trial under the cursor", 22, True),
        Key("n", "n", "note", "note", "Write a note to the trial under the cursor", 23, True),
        Key("c", "c", "compare", "compare", "Compare the marked trials, two to twelve", 6),
        Key("f", "f", "finalize", "finalize", "Make a model of the candidate, and score it", 7),
        Key("x", "x", "export", "export", "Write the best, the marked or the front to a file", 8),
        Key("y", "y", "copy", "copy", "Copy the candidate under the cursor as JSON", 9),
        Key("Y", "Y", "copy_as", "copy as", "Copy it as TOML or a table's row, or the study's command", 29),
        Key("plus", "+", "budget", "budget", "Give the study another number of trials", 20, True),
        Key("B", "B", "constraints", "constraints", "Set the study's constraints: most ms, MiB, loss, …", 30, True),
        Key("w", "w", "worker", "worker", "Start one more worker", 21, True),
        Key("i,enter", "i", "candidate", "candidate", "Show all about the trial under the cursor (also Enter)", 10),
        Key("v", "v", "about", "about", "Show the study's settings, provenance and history", 24),
        Key("down,j", "↓", "step(1)", "next", "Go to the next trial in the table's order, in a plot too"),
        Key("up,k", "↑", "step(-1)", "previous", "Go to the trial before"),
        Key("colon", ":", "jump", "go to", "Go to a trial by its number, or to a pane by its letter", 11),
        Key("e", "e", "closer(1)", "closer", "Double a plot's axes around the cursor's trial", 31),
        Key("E", "E", "closer(-1)", "farther", "Halve them again"),
        Key("W", "W", "wider", "wider axis", "Double only the axis across, or that of time"),
        Key("T", "T", "taller", "taller axis", "Double only the upright axis"),
        Key("0", "0", "whole_plot", "whole plot", "Show the whole plot again"),
        Key("m", "m", "measure", "quantity", "Show another quantity in History and Slice", 32),
        Key("greater_than_sign", ">", "sort(1)", "sort", "Sort by the column to the right"),
        Key("less_than_sign", "<", "sort(-1)", "sort", "Sort by the column to the left"),
        Key("equals_sign", "=", "sort(0)", "turn order", "Turn the order round"),
        Key("right", "→", "sideways(1)", "right", "Go right: to what has no room, or along the front"),
        Key("left", "←", "sideways(-1)", "left", "Go left: to what was before, or along the front"),
        Key("l", "l", "log_axis", "log axis", "Show latencies on a logarithmic axis in the Pareto plot, or back", 2),
        Key("h", "h", "hours", "hours", "Show the history over hours instead of trials, or back", 2),
        Key("L", "L", "level", "levels", "Leave out the log's lower levels, one by one, or show all again", 2),
        Key("full_stop", ".", "match(1)", "next match", "Go to the next line that the search in the log found", 2),
        Key("comma", ",", "match(-1)", "match before", "Go to the line before that the search in the log found", 2),
        Key("C", "C", "columns", "columns", "Choose the columns of the table", 27),
        Key("z", "z", "zoom", "zoom", "Give the focused pane the whole screen, or all of them again", 28),
        Key("right_curly_bracket", "}", "share(1)", "wider", "Move the border to the right: a wider table"),
        Key("left_curly_bracket", "{", "share(-1)", "narrower", "Move the border to the left: wider plots"),
        Key("tab", "tab", "next_pane", "next pane", "Go to the next pane"),
        Key("shift+tab", "⇧tab", "previous_pane", "previous pane", "Go to the previous pane"),
        Key("right_square_bracket", "]", "next_tab", "next tab", "Show the next tab", 25),
        Key("left_square_bracket", "[", "previous_tab", "previous tab", "Show the previous tab"),
        Key("escape", "esc", "back", "studies", "Clear the filter or the zoom, then go back to the studies", 26),
    ),
    "reward": (
        Key("left", "←", "step(-1)", "less", "Lower the value by a step", 1, priority=True),
        Key("right", "→", "step(1)", "more", "Raise the value by a step", 2, priority=True),
        Key("tab,down,up,enter", "tab", "other", "α or β", "Go to the other value", 3, priority=True),
        Key("ctrl+s", "^s", "use", "use it", "Reward new trials like this from now on", 4, True, priority=True),
        Key("escape", "esc", "back", "back", "Go back; nothing is changed", 5),
    ),
    "candidate": (
        Key("y", "y", "copy", "copy JSON", "Copy the candidate as JSON", 1),
        Key("Y", "Y", "copy_as", "copy as", "Copy it as TOML or a table's row, or the study's command", 6),
        Key("left_square_bracket", "[", "previous", "better", "Show the candidate one rank better", 2),
        Key("right_square_bracket", "]", "next", "worse", "Show the candidate one rank worse", 3),
        Key("space", "space", "mark", "mark", "Mark or unmark it", 4),
        Key("escape", "esc", "back", "back", "Go back to the study", 5),
    ),
    "compare": (
        Key("enter", "enter", "whole", "whole, fold", "Show the values under the cursor whole; fold a section", 1),
        Key("left", "←", "across(-1)", "left", "Go to the candidate to the left", 2),
        Key("right", "→", "across(1)", "right", "Go to the candidate to the right", 3),
        Key("y", "y", "copy", "copy JSON", "Copy the compared candidates as JSON", 4),
        Key("escape", "esc", "back", "back", "Go back to the study", 5),
    ),
    "about": (
        Key("y", "y", "copy", "copy spec", "Copy the study's spec as TOML", 1),
        Key("escape", "esc", "back", "back", "Go back to the study", 2),
    ),
    "export": (
        Key("ctrl+s", "^s", "write", "write", "Write the file", 1, priority=True),
        Key("escape", "esc", "back", "back", "Go back; nothing is written", 2),
        Key("tab", "tab", "app.focus_next", "next field", "Go to the next field", priority=True),
        Key("shift+tab", "⇧tab", "app.focus_previous", "previous field", "Go to the previous field", priority=True),
    ),
    "finalize": (
        Key("ctrl+s", "^s", "start", "distil", "Distil the candidate on the whole data", 1, True, priority=True),
        Key("ctrl+e", "^e", "score", "score", "Score the model made last, beside its teacher", 2, True, priority=True),
        Key("ctrl+k", "^k", "stop", "stop", "Stop what runs here; its last checkpoint is kept", 3, True, priority=True),
        Key("escape", "esc", "back", "back", "Go back; what runs goes on", 4),
        Key("tab", "tab", "app.focus_next", "next field", "Go to the next field", priority=True),
        Key("shift+tab", "⇧tab", "app.focus_previous", "previous field", "Go to the previous field", priority=True),
    ),
    "dialog": (Key("escape", "esc", "back", "back", "Go back; nothing is changed", 1),),
    "help": (
        Key("escape,question_mark,f1,q,enter", "esc", "help", "close", "Close the help (also ?, F1, q and Enter)"),
    ),
}

# Keys of a part of several screens, which act on the part that has the focus: they mean the same in every one.
PARTS: dict[str, tuple[str, tuple[Key, ...]]] = {
    "lines": (
        "In a list, a table, the log or a page",
        (
            Key("up,k", "↑ k", "focused.move(-1)", "up", "Go up a line"),
            Key("down,j", "↓ j", "focused.move(1)", "down", "Go down a line"),
            Key("pageup", "PgUp", "focused.page(-1)", "page up", "Go up a page"),
            Key("pagedown", "PgDn", "focused.page(1)", "page down", "Go down a page"),
            Key("home,g", "Home g", "focused.edge(0)", "first", "Go to the first line"),
            Key("end,G", "End G", "focused.edge(-1)", "last", "Go to the last line; the log follows it from then on"),
        ),
    ),
    "filter": (
        "While a filter is written",
        (
            Key("up", "↑", "focused.remember(1)", "earlier", "Take the filter written before"),
            Key("down", "↓", "focused.remember(-1)", "later", "Take the filter written after"),
            Key("tab", "tab", "focused.complete_word", "complete", "Write out the word (also → at its end)"),
        ),
    ),
}
PARTS_OF = {  # screen → its parts that have keys of their own
    "studies": ("lines",),
    "study": ("lines", "filter"),
    "candidate": ("lines",),
    "compare": ("lines",),
    "about": ("lines",),
    "help": ("lines",),
}


Own = Mapping[str, Mapping[str, tuple[str, ...]]]
"""Screen → what a key does, by its name → Textual's names of the keys for it."""

_STEPS = {"(1)": "_next", "(-1)": "_previous", "(0)": "_turn"}
_own: dict[tuple[str, str], tuple[str, ...]] = {}  # what `use` was given, for the one app of this process


def named(screen: str) -> dict[str, Key]:
    """The keys of a table by the names under which a person may choose others: their actions in plain words."""
    found: dict[str, Key] = {}
    for key in KEYS[screen]:
        name = re.sub(r"\(-?\d\)$", lambda step: _STEPS[step[0]], key.action.removeprefix("app."))
        found[f"{name}_in_fields" if name in found else name] = key
    return found


def use(own: Own) -> None:
    """Show these keys instead of the table's from now on; `keymap` has the app listen to them."""
    _own.clear()
    _own.update({(screen, name): those for screen, table in own.items() for name, those in table.items()})


def keymap() -> dict[str, str]:
    """The chosen keys as Textual takes them: id of a binding → names of keys."""
    return {f"{screen}.{name}": ",".join(those) for (screen, name), those in _own.items()}


def table(screen: str) -> tuple[Key, ...]:
    """The keys of one table, with those that a person has chosen."""
    return tuple(
        replace(key, keys=",".join(own), shown="/".join(map(shown, own))) if own else key
        for name, key in named(screen).items()
        for own in [_own.get((screen, name))]
    )


def worded(text: str) -> str:
    """A sentence in which `<screen.name>` stands for the key that does a thing there, as it is now."""
    return re.sub(r"<([a-z-]+)\.(\w+)>", lambda place: table_named(place[1])[place[2]].shown, text)


def table_named(screen: str) -> dict[str, Key]:
    """The keys of one table by their names, with those that a person has chosen."""
    return dict(zip(named(screen), table(screen), strict=True))


def shown(key: str) -> str:
    """A key as people call it: `ctrl+s` as `^s`, `question_mark` as `?`."""
    *modifiers, last = key.split("+")
    if re.fullmatch(r"f\d+", last):
        last = last.upper()
    elif last != "enter":
        last = {"escape": "esc", "delete": "del"}.get(last) or format_key(last)
    return "".join({"ctrl": "^", "shift": "⇧"}.get(one, f"{one}+") for one in modifiers) + last


def keys(screen: str) -> tuple[Key, ...]:
    """The keys of a screen, its own first, and those of everywhere that it does not use itself."""
    own = {name for key in table(screen) for name in key.keys.split(",")}
    others = () if screen == "everywhere" else table("everywhere")
    return (*table(screen), *(key for key in others if not own & set(key.keys.split(","))))


Bindings = list[Binding | tuple[str, str] | tuple[str, str, str]]  # as Textual takes them


def binding(key: Key, id: str | None = None) -> Binding:
    action = key.action.removeprefix("focused.")  # the part binds it itself
    return Binding(key.keys, action, key.label, show=False, priority=key.priority, tooltip=key.explains, id=id)


def _bindings(screen: str) -> list[Binding]:
    return [binding(key, f"{screen}.{name}") for name, key in named(screen).items()]


def bindings(screen: str) -> Bindings:
    return [*_bindings(screen), *_bindings("everywhere")]


def dialog_bindings() -> Bindings:
    """A dialog's own keys only: a letter that ends the app has no place in a question."""
    return [*_bindings("dialog")]


def help_bindings() -> Bindings:
    """Help closes by the key that opened it."""
    return [*_bindings("help")]


def app_bindings() -> Bindings:
    """The keys that work everywhere, also in fields, dialogs and the palette."""
    here = [(name, key) for name, key in named("everywhere").items() if key.priority]
    return [binding(replace(key, action=key.action.removeprefix("app.")), f"everywhere.{name}") for name, key in here]


def part_bindings(part: str) -> Bindings:
    return [binding(key) for key in PARTS[part][1]]


MOVES = part_bindings("lines")  # in anything that has lines


# Letters are written on these: the footer names other keys.
FORMS = frozenset({"new", "new-campaign", "export", "finalize", "reward", "dialog", "help"})


def footer(screen: str) -> list[Key]:
    """The keys that the footer shows, in its order."""
    shown = sorted((key for key in keys(screen) if key.footer), key=lambda key: key.footer)
    if screen not in FORMS:
        return shown
    twins = {key.action: key for key in table("everywhere") if key.priority}
    return [replace(twins[key.action], footer=key.footer) if key.action in twins else key for key in shown]


def page() -> str:
    """docs/keys.md."""
    lines = ["# Keys", "", "Printed by `python -m kdnas_tui.keys`; `?` shows the same inside the app.", ""]
    lines += ["The third column is for those who want other keys: [custom.md](custom.md).", ""]
    for screen, title in SCREENS.items():
        lines += [f"## {title}", "", f"| key | what it does | name in `keys.{screen}` |", "| --- | --- | --- |"]
        lines += [f"| `{key.shown}` | {key.explains} | `{name}` |" for name, key in named(screen).items()]
        lines.append("")
    for title, part in PARTS.values():
        lines += [f"## {title}", "", "| key | what it does |", "| --- | --- |"]
        lines += [f"| `{key.shown}` | {key.explains} |" for key in part]
        lines.append("")
    return "\n".join(lines).rstrip() + "\n"


if __name__ == "__main__":
    print(page(), end="")
