"""Every test has places of its own, so that none meets the user's studies, settings or locks."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def own_places(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path_factory.mktemp("places")
    monkeypatch.setenv("KDNAS_STATE", str(folder / "state"))
    monkeypatch.setenv("KDNAS_CONFIG", str(folder / "config"))
    monkeypatch.delenv("KDNAS_STORAGE", raising=False)
    return folder


def pytest_configure() -> None:
    """A shell that starts us in the background ignores Ctrl-C, and children would inherit that."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
