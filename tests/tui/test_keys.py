"""One table of keys drives everything: each key has an action, and the page in the docs is the table."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

import pytest

from kdnas_tui import keys
from kdnas_tui.app import KdnasApp
from kdnas_tui.screens.ask import Dialog
from kdnas_tui.screens.frame import Frame
from tests.tui.test_import_hygiene import modules


def frames() -> dict[str, type[Frame | Dialog]]:
    for name in modules():
        import_module(name)
    kinds, found = set(), [Frame]
    while found:
        kind = found.pop()
        kinds.add(kind)
        found += kind.__subclasses__()
    return {kind.NAME: kind for kind in (*kinds, Dialog) if "NAME" in vars(kind)}


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
