"""A study in bf16 from its plan to its folder: wherever a latency is shown, its dtype is, or it is refused."""

from __future__ import annotations

import json

import pytest
import torch

from kdnas.cli.spec_options import base_values, spec_from
from kdnas.measuring import latency
from kdnas.measuring.latency import Measured
from kdnas.measuring.passes import Once
from kdnas.search.begin import begin
from kdnas.store import queries
from kdnas.store import tables as t
from kdnas.store.database import open_store
from kdnas.study.spec_latency import LatencySpec
from tests.cli.conftest import Place, Quick

HALF = "latency.dtype=bfloat16"


def test_a_dtype_that_is_not_there_is_refused_by_the_plan_and_another_is_told(quick: Quick, place: Place) -> None:
    said = quick("plan", "--spec", str(place.spec), "--set", "latency.dtype=float16")
    assert said.code == 2 and "latency.dtype is float16, which is for GPUs" in said.line
    said = quick("plan", "--spec", str(place.spec), "--set", "latency.dtype=float16", "--device", "auto")
    assert said.code == 2 and "A CPU serves no float16" in said.line
    told = quick("plan", "--spec", str(place.spec), "--set", HALF, "--json").data
    assert any(
        note.startswith("Teacher and students are timed in bfloat16; a copy of the teacher") for note in told["notes"]
    )
    assert "latency.dtype=bfloat16" in told["command"]
    assert not any("timed in" in note for note in quick("plan", "--spec", str(place.spec), "--json").data["notes"])


def timed(student: Once, teacher: Once | None, settings: LatencySpec, device: torch.device) -> Measured:
    """Whatever the machine does besides: without a flag."""
    assert teacher is not None
    student(), teacher()
    return Measured(2.0, 2.2, 1.9, 2.1, 0.05, 20, None, 10.0, 1.0, 0.0, 0.1)


def test_two_dtypes_share_no_figure_and_every_figure_says_its_own(
    quick: Quick, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(latency, "_measure", timed)
    for name, dtype in (("plain", "auto"), ("half", "bfloat16")):
        fields = {"name": name, "budget.trials": 2, "full.epochs": 1, "latency.dtype": dtype}
        begin(spec_from(base_values(None, place.spec, None), fields), place.store)
        assert quick("worker", name).code == 0
    with open_store(place.store) as store:
        with store.connect() as connection:
            protocols = {row.protocol for row in connection.execute(t.latency.select())}
        logged = [line.line for line in queries.logs(store, queries.study_row(store, "half").study_id)]
    assert len(protocols) == 2
    assert any("timed in bfloat16; the teacher's copy takes" in line for line in logged)
    assert "teacher and students are timed in bfloat16\n" in quick("show", "half").out
    assert "timed in" not in quick("show", "plain").out
    compared = quick("compare", "plain", "half")
    assert "plain and half were timed with different dtypes: float32, bfloat16." in compared.out + compared.err
    for name, dtype in (("plain", "float32"), ("half", "bfloat16")):
        folder = place.folder / name
        done = quick("finalize", name, "--output", str(folder))
        assert done.code == 0 and f" ms, in {dtype}, " in done.err
        assert json.loads((folder / "kdnas.json").read_text())["latency"]["dtype"] == dtype
        assert f"32 tokens, in {dtype}, 1 thread(s)" in (folder / "README.md").read_text()
    exported = json.loads(quick("export", "half").out)
    assert exported["latency"]["protocol"]["dtype"] == "bfloat16"
