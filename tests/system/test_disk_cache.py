"""One limit for all that is cached: every kind counts, the longest unused goes first, what is in use stays."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from kdnas.system import disk_cache
from kdnas.system.tensor_files import computed_once

MIB = 2**20
KINDS = (
    "teacher/aa/manifest.json",
    "classifiers/bb/finetune.json",
    "tokens/cc/ends.npy",
    "gguf/dd/kdnas-gguf.json",
    "teacher/importance/ee.safetensors",
    "teacher/moments/ff.safetensors",
    "classifiers/logits/gg.safetensors",
    "classifiers/word2vec/hh.safetensors",
    "causal/ii.json",
    "scores/jj.json",
)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("KDNAS_CACHE", str(tmp_path))
    monkeypatch.setattr(disk_cache, "_held", {})
    return tmp_path


def put(cache: Path, name: str, used: int) -> Path:
    """An entry of one MiB, a folder's with a further file, last used then."""
    path = cache / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"0" * MIB)
    os.utime(path, (used, used))
    return path


def limit(monkeypatch: pytest.MonkeyPatch, mib: float) -> None:
    monkeypatch.setenv("KDNAS_CACHE_GIB", str(mib / 1024))


@pytest.mark.parametrize("name", KINDS)
def test_every_kind_counts_and_goes_when_it_is_the_longest_unused(
    name: str, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit(monkeypatch, len(KINDS) - 0.5)
    made = [put(cache, other, 2000 + at) for at, other in enumerate(KINDS) if other != name]
    oldest = put(cache, name, 1000)
    assert len(disk_cache.items()) == len(KINDS)
    disk_cache.trim()
    assert not oldest.exists() and all(path.exists() for path in made)
    if name.count("/") == 2 and name.endswith((".npy", ".json")) and "causal" not in name:
        assert not oldest.parent.exists()


def test_nothing_goes_that_fits_and_fetched_models_never_do(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    limit(monkeypatch, 2.5)
    fetched = put(cache, "assets/all-minilm/model.safetensors", 1)
    unfinished = put(cache, "classifiers/zz.partial/state-00001.safetensors", 1)
    two = [put(cache, name, 1000) for name in KINDS[:2]]
    disk_cache.trim()
    assert all(path.exists() for path in (fetched, unfinished, *two))
    limit(monkeypatch, 0)
    disk_cache.trim()
    assert fetched.exists() and unfinished.exists() and not any(path.exists() for path in two)


USER = """
import sys
from pathlib import Path
from kdnas.system import disk_cache
disk_cache.kept_while_used(Path(sys.argv[1]), lambda: None)
print("using", flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize("name", KINDS[1:4])
def test_what_another_process_uses_stays_until_that_process_ends(
    name: str, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit(monkeypatch, 0)
    entry = put(cache, name, 1000)
    other = subprocess.Popen(
        [sys.executable, "-c", USER, str(entry.parent)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert other.stdout is not None and other.stdout.readline() == "using\n"
    assert entry.stat().st_mtime > 1000
    disk_cache.trim()
    assert entry.exists()
    other.communicate("")
    disk_cache.trim()
    assert not entry.exists()


def test_an_entry_thrown_out_before_it_is_locked_is_made_again(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []
    folder = cache / "tokens" / "cc"

    def make() -> None:
        put(cache, "tokens/cc/ends.npy", 1000)
        made.append(len(made))
        if len(made) == 1:  # another process, whose limit is full
            [item] = disk_cache.items()
            assert disk_cache.remove(item)

    disk_cache.kept_while_used(folder, make)
    assert made == [0, 1] and folder.exists()
    [item] = disk_cache.items()
    assert not disk_cache.remove(item)


def test_a_file_thrown_out_while_it_is_asked_for_is_computed_again(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = cache / "teacher" / "importance" / "key.safetensors"
    assert computed_once(path, lambda: {"a": torch.ones(2)})["a"].tolist() == [1, 1]
    assert computed_once(path, lambda: {"a": torch.zeros(2)})["a"].tolist() == [1, 1]  # cached
    is_file = Path.is_file

    def gone_after(self: Path) -> bool:
        there = is_file(self)
        if self == path:
            path.unlink(missing_ok=True)
        return there

    monkeypatch.setattr(Path, "is_file", gone_after)
    assert computed_once(path, lambda: {"a": torch.zeros(2)})["a"].tolist() == [0, 0]


def test_what_is_made_under_a_full_limit_is_given_out_all_the_same(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit(monkeypatch, 0)
    path = cache / "classifiers" / "logits" / "key.safetensors"
    assert computed_once(path, lambda: {"a": torch.ones(2)})["a"].tolist() == [1, 1]
    assert not path.exists()
