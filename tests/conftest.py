"""Every test has places of its own, so that none meets the user's studies, settings or locks."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(autouse=True)
def own_places(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path_factory.mktemp("places")
    monkeypatch.setenv("KDNAS_STATE", str(folder / "state"))
    monkeypatch.setenv("KDNAS_CONFIG", str(folder / "config"))
    monkeypatch.delenv("KDNAS_STORAGE", raising=False)
    return folder


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty cache, and no hub."""
    monkeypatch.setenv("KDNAS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Of the tiny encoder."""
    from transformers import AutoTokenizer

    from tests.encoders import tiny_encoder

    return AutoTokenizer.from_pretrained(tiny_encoder(tmp_path_factory.mktemp("model")))


def pytest_configure() -> None:
    """A shell that starts us in the background ignores Ctrl-C, and children would inherit that."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
