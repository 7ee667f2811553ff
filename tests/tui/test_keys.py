"""One table of keys drives everything: each key has an action, and the page in the docs is the table."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

import pytest

from kdnas_tui import keys
from kdnas_tui.app import KdnasApp
from kdnas_tui.screens.ask import Dialog
from kdnas_tui.screens.frame import Frame
from kdnas_tui.screens.help import HelpScreen
from kdnas_tui.widgets.compare_table import CompareTable
from kdnas_tui.widgets.filter_field import FilterField
from kdnas_tui.widgets.list_table import ListTable
from kdnas_tui.widgets.log_tail import LogTail
from kdnas_tui.widgets.sheet import Sheet
from kdnas_tui.widgets.trials_table import TrialsTable
from tests.tui.test_import_hygiene import modules


def frames() -> dict[str, type[Frame | Dialog | HelpScreen]]:
    for name in modules():
        import_module(name)
    kinds, found = set(), [Frame]
    while found:
        kind = found.pop()
        kinds.add(kind)
        found += kind.__subclasses__()
    return {kind.NAME: kind for kind in (*kinds, Dialog, HelpScreen) if "NAME" in vars(kind)}


@pytest.mark.parametrize("screen", keys.KEYS)
def test_every_key_has_its_action(screen: str) -> None:
    kinds = list(frames().values()) if screen == "everywhere" else [frames()[screen]]
    for key in keys.KEYS[screen]:
        name = key.action.partition("(")[0]
        for kind in kinds:
            owner, action = (KdnasApp, name.removeprefix("app.")) if name.startswith("app.") else (kind, name)
            assert hasattr(owner, f"action_{action}"), f"{screen}: {key.shown} has no {action}"


@pytest.mark.parametrize("screen", keys.KEYS)
def test_no_key_stands_twice_on_a_screen(screen: str) -> None:
    every = [name for key in keys.keys(screen) for name in key.keys.split(",")]
    if screen != "everywhere":
        assert len(every) == len(set(every)), screen


def test_the_page_in_the_docs_is_the_table() -> None:
    page = Path(__file__).parents[2] / "docs" / "keys.md"
    assert page.read_text() == keys.page(), "write it anew: python -m kdnas_tui.keys > docs/keys.md"


@pytest.mark.parametrize("part", keys.PARTS)
def test_every_key_of_a_part_has_its_action_there(part: str) -> None:
    lines = (CompareTable, ListTable, LogTail, Sheet, TrialsTable)
    for kind in {"lines": lines, "filter": (FilterField,)}[part]:
        for key in keys.PARTS[part][1]:
            name = key.action.removeprefix("focused.").partition("(")[0]
            assert hasattr(kind, f"action_{name}"), f"{kind.__name__} has no {name}"


def test_no_file_but_the_table_names_a_letter_as_a_key() -> None:
    """A key that a widget binds by itself would be in no footer, palette or docs."""
    root = Path(keys.__file__).parent
    own = {"act_button.py", "tick.py"}  # Enter on them, as their labels say
    for path in root.rglob("*.py"):
        text = path.read_text()
        assert path.name in own | {"keys.py"} or "Binding(" not in text, path


def test_a_key_means_one_thing_on_a_screen_and_in_its_parts() -> None:
    for screen, parts in keys.PARTS_OF.items():
        # Up and down lead from trial to trial in panes without lines, too: the same way.
        own = [key for key in keys.keys(screen) if not (screen == "study" and key.action in ("step(1)", "step(-1)"))]
        taken = [name for key in own for name in key.keys.split(",")]
        for part in parts:
            if part != "filter":  # a field takes its keys before the screen sees them
                moves = [name for key in keys.PARTS[part][1] for name in key.keys.split(",")]
                assert not set(taken) & set(moves), screen
