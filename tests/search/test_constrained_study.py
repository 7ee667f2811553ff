"""A real study of tiny models under a constraint: what is counted beforehand is what its trials have."""

from __future__ import annotations

from pathlib import Path

import pytest

from kdnas.recipes import recipe_of
from kdnas.search.begin import begin
from kdnas.search.plan import plan
from kdnas.search.worker import run_worker
from kdnas.store import queries
from kdnas.store.database import open_reader
from kdnas.study.spec import from_values
from kdnas.system.errors import UsageError
from tests.encoders import text_folder, tiny_encoder, tiny_spec


def test_no_trial_of_a_real_study_is_too_large(tmp_path: Path) -> None:
    spec = tiny_spec(tiny_encoder(tmp_path / "model"), text_folder(tmp_path / "text"), latency={"max_seconds": 0.1})
    described = recipe_of(spec).describe(spec)
    assert described.parameters is not None
    counts = sorted(described.parameters(candidate) for candidate in described.space.candidates())
    bound = counts[len(counts) // 8]
    values = {
        **spec.model_dump(mode="json"),
        "strategy": {"name": "random"},
        "budget": {"trials": 3, "epochs": 1},
        "constraints": {"max_parameters": bound},
    }
    allowed = sum(count <= bound for count in counts)
    words = f"{allowed:,} of {len(counts):,} candidates keep to max_parameters {bound:,}; no other is proposed."
    assert words in plan(from_values(values)).notes
    begin(from_values(values), tmp_path / "s.db")
    assert run_worker(str(tmp_path / "s.db"), spec.name, device="cpu") == 0
    with open_reader(tmp_path / "s.db") as store:
        rows = queries.trial_rows(store, 1)
    assert [row.parameters for row in rows] == [described.parameters(row.candidate) for row in rows]
    assert len(rows) == 3 and all((row.parameters or 0) <= bound for row in rows)
    with pytest.raises(UsageError, match=f"the nearest has {counts[0]:,} parameters for at most {counts[0] - 1:,}"):
        plan(from_values({**values, "constraints": {"max_parameters": counts[0] - 1}}))
