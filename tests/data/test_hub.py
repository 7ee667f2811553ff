"""The hub's libraries in somebody else's program: asked as kdnas asks, and left as they were."""

from __future__ import annotations

from typing import Any

import datasets
import pytest

from kdnas.data import documents, hub
from kdnas.system.errors import UsageError


@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize(("reachable", "offline"), [(False, False), (True, False), (True, True)])
def test_what_is_set_while_a_data_set_is_loaded_is_taken_back(
    monkeypatch: pytest.MonkeyPatch, fails: bool, reachable: bool, offline: bool
) -> None:
    seen: list[Any] = []

    def load(*given: Any, **named: Any) -> str:
        seen.append((datasets.config.HF_HUB_OFFLINE, datasets.are_progress_bars_disabled()))
        if fails:
            raise FileNotFoundError("no such data set")
        return "rows"

    monkeypatch.setattr(datasets, "load_dataset", load)
    monkeypatch.setattr(hub, "reachable", lambda: reachable)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", offline)
    datasets.enable_progress_bars()
    given = ("owner/data", None, "train", "The data", "Connect.", "Check.")
    if fails:
        with pytest.raises(UsageError):
            documents.load_from_hub(*given)
    else:
        assert documents.load_from_hub(*given) == "rows"
    assert seen == [(offline or not reachable, True)]
    assert datasets.config.HF_HUB_OFFLINE is offline and not datasets.are_progress_bars_disabled()
