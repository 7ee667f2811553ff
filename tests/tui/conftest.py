from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from textual.css.stylesheet import Stylesheet

from kdnas.system import liveness
from tests.tui import evening as evenings
from tests.tui.filled import demo, new_store, study


@pytest.fixture(autouse=True)
def _own_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Settings, logs and copies of a test stay in its folder."""
    for name in ("KDNAS_STATE", "KDNAS_CONFIG"):
        monkeypatch.setenv(name, str(tmp_path / name.lower()))
    monkeypatch.setattr(liveness, "heard", liveness.Heard())  # stores of one name: whom they hold is no one known
    monkeypatch.delenv("KDNAS_STORAGE", raising=False)
    monkeypatch.delenv("NO_COLOR", raising=False)


@pytest.fixture(autouse=True, scope="session")
def _styles_parsed_once() -> Iterator[None]:
    """Each app parses the same style sheets, which takes a fifth of a test's time; parsed rules never change."""
    known: dict[Any, Any] = {}
    parse = Stylesheet._parse_rules

    def remembered(sheet: Any, *given: Any, **named: Any) -> Any:
        key = (given, tuple(sorted(named.items())), tuple(sorted(sheet._variables.items())))
        if key not in known:
            known[key] = parse(sheet, *given, **named)
        return known[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Stylesheet, "_parse_rules", remembered)
        yield


@pytest.fixture(scope="session")
def three_studies(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with a running, a stopped and a failed study. Copy it before it is written to."""
    folder = tmp_path_factory.mktemp("three")
    _, store = new_store(folder)
    with store:
        study(store, "minilm", worker="running")
        study(store, "kdnas-paper", rows=40, strategy="lstm", worker="ended")
        study(store, "roberta-imdb", rows=12, trials=100, worker="failed")
    return folder / "kdnas.db"


@pytest.fixture(scope="session")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with the recorded study that ships. Copy it before it is written to."""
    return demo(tmp_path_factory.mktemp("recorded"))


@pytest.fixture(scope="session")
def evening(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with a search of 471 real configurations and others. Copy it before it is written to."""
    return evenings.evening(tmp_path_factory.mktemp("evening"))
