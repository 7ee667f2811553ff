"""benchmarks/gpu.py, the plan for a real GPU, walked on the CPU: complete without one, and failing where it should."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks import gpu
from tests.forks import Processes


@pytest.fixture(autouse=True)
def as_before(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What a run sets for its own process is taken back."""
    for name in ("KDNAS_CACHE", "HF_HUB_OFFLINE"):
        monkeypatch.setenv(name, "")
    with gpu.devices.as_studies():
        monkeypatch.setattr(gpu.devices, "set_up_torch", lambda: None)
        yield


@pytest.mark.heavy
def test_the_whole_plan_passes_on_a_cpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "subprocess", Processes)
    assert gpu.main(["--dry-run", "--json", str(tmp_path / "gpu.json")]) == 0
    body = json.loads((tmp_path / "gpu.json").read_text())
    assert [check["name"] for check in body["checks"]] == list(gpu.CHECKS) and body["failed"] == []
    found = {check["name"]: check["figures"] for check in body["checks"]}
    assert found["out-of-memory"]["batches"] == [16] * 4
    assert len(found["two-workers"]["losses"]) == gpu.TRIALS
    assert set(found["latency-graph"]) == {"hidden-state pass", "causal-divergence pass", "causal-divergence token_ms",
                                           "rnn-hybrid pass"}  # fmt: skip


def test_a_check_that_fails_hides_no_other_and_ends_with_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fault(_: gpu.Ground) -> gpu.Figures:
        raise ValueError("a fault\nof two lines")

    def refusal(_: gpu.Ground) -> gpu.Figures:
        gpu.require(False, "states differ by 0.5")
        return {}

    monkeypatch.setattr(gpu, "CHECKS", {"one": fault, "two": refusal, "three": lambda _: {"figure": 1}})
    assert gpu.main(["--dry-run", "--json", str(tmp_path / "gpu.json")]) == 1
    body = json.loads((tmp_path / "gpu.json").read_text())
    assert body["failed"] == ["one", "two"]
    assert [check["error"] for check in body["checks"]] == ["ValueError: a fault", "states differ by 0.5", None]
    assert "in fault" in body["checks"][0]["traceback"] and "1 of 3 checks passed" in capsys.readouterr().out


def test_what_would_begin_after_eight_minutes_is_said_to_be_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu, "LIMIT_S", -1.0)
    assert gpu.main(["--dry-run", "--only", "device", "--json", str(tmp_path / "gpu.json")]) == 1
    assert "not begun" in json.loads((tmp_path / "gpu.json").read_text())["checks"][0]["error"]


def test_without_a_gpu_the_real_run_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    if gpu.torch.cuda.is_available():
        pytest.skip("there is a GPU: the real run is for benchmarks, not for tests")
    with pytest.raises(SystemExit) as caught:
        gpu.main([])
    assert caught.value.code == 2 and "--dry-run" in capsys.readouterr().err
