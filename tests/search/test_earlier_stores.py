"""A store that an earlier version wrote opens and goes on.

`earlier/half-finished-lstm.db.gz` was written before the engine was cut into rooms: an `lstm` study of sixteen fake
trials whose worker was killed in the ninth. The JSON beside it holds what that version then did when it went on.
"""

from __future__ import annotations

import gzip
import json
from pathlib import Path

from kdnas.search import joining
from kdnas.search.worker import run_worker
from kdnas.store import queries
from kdnas.store.database import open_reader, open_store
from tests import fakes

EARLIER = Path(__file__).parent / "earlier"


def on_any_device(place: str | Path) -> None:
    """It was written on another processor than that of whoever tests."""
    with open_store(place) as store:
        joining.allow_unlike(store, 1, "mix")


def test_a_half_finished_controller_study_goes_on_to_the_same_sequence(tmp_path: Path) -> None:
    path = tmp_path / "kdnas.db"
    path.write_bytes(gzip.decompress((EARLIER / "half-finished-lstm.db.gz").read_bytes()))
    path.chmod(0o600)
    on_any_device(path)
    with open_reader(path) as store:
        assert [row.state for row in queries.trial_rows(store, 1)].count("done") == 8
    assert run_worker(str(path), "fake", prepare=fakes.prepare, measure=fakes.measure) == 0
    with open_reader(path) as store:
        done = [row for row in queries.trial_rows(store, 1) if row.state == "done"]
    found = [{"slot": r.slot, "candidate": dict(r.candidate), "loss": r.loss, "reward": r.reward} for r in done]
    assert found == json.loads((EARLIER / "half-finished-lstm.json").read_text())
