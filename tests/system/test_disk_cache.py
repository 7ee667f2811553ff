"""One limit for all that is cached: every kind counts, the longest unused goes first, what is in use stays."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from kdnas.system import disk_cache
from kdnas.system.tensor_files import computed_once
from kdnas.training import checkpoints

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
    "teacher/repeats/kk.safetensors",
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
    unfinished = put(cache, "classifiers/zz.partial/state-00001.safetensors", int(time.time()))
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


def test_every_place_that_the_source_caches_in_is_bounded() -> None:
    source = "\n".join(path.read_text(encoding="utf-8") for path in Path(disk_cache.__file__).parents[1].rglob("*.py"))
    named = re.findall(r'paths\.cache_folder\(\) / "(\w+)"(?: / "(\w+)")?', source)
    named += [("teacher", place) for place in re.findall(r'cache_folder\.root\(\) / "(\w+)"', source)]
    places = {"/".join(filter(None, parts)) for parts in named}
    known = {*disk_cache.FOLDERS, *(str(Path(pattern).parent) for pattern in disk_cache.FILES)}
    assert places - known == {"assets", "teacher/locks"} and len(places) >= 12


# ---------------------------------------------------------------- what deaths leave


def old(path: Path, seconds: float) -> Path:
    then = time.time() - seconds
    os.utime(path, (then, then))
    return path


def test_scratch_folders_of_killed_processes_are_swept_and_those_of_living_ones_are_not(cache: Path) -> None:
    for kind in ("tokens", "gguf"):
        entry = cache / kind / "key"
        with disk_cache.filled(entry) as made:
            (made / disk_cache.FOLDERS[kind]).write_text("x")
            old(made.parent, 1000)
            killed, young = cache / kind / f".{kind}-killed", cache / kind / f".{kind}-young"
            for folder in (killed, young):
                (folder / "made").mkdir(parents=True)
            old(killed, 1000)
            disk_cache.sweep()
            assert made.exists() and young.exists() and not killed.exists()
        assert (entry / disk_cache.FOLDERS[kind]).is_file() and not made.parent.exists()
    for kind in disk_cache.FOLDERS:
        gone = cache / kind / ".gone-key-1"
        gone.mkdir(parents=True)
        disk_cache.trim()
        assert not gone.exists()


def test_of_two_that_fill_an_entry_at_once_the_first_ones_stays(cache: Path) -> None:
    entry = cache / "tokens" / "key"
    with disk_cache.filled(entry) as slow:
        (slow / "ends.npy").write_text("slow")
        with disk_cache.filled(entry) as quick:
            (quick / "ends.npy").write_text("quick")
    assert (entry / "ends.npy").read_text() == "quick" and len(list((cache / "tokens").iterdir())) == 1


def test_half_written_files_are_swept_once_they_are_old(cache: Path) -> None:
    halves = [put(cache, name, 1) for name in ("scores/.a.json.x1.part", "teacher/moments/key.4711")]
    fresh = put(cache, "causal/.b.json.x2.part", int(time.time()))
    disk_cache.sweep()
    assert fresh.exists() and not any(half.exists() for half in halves)


def test_a_training_that_nobody_goes_on_with_is_given_up_after_a_week_or_when_all_is_cleared(cache: Path) -> None:
    days = 86_400
    state = "state-00001.safetensors"
    for name, age in (("old", 8), ("recent", 6), ("alone", 8)):
        put(cache, f"classifiers/{name}.partial/{state}", int(time.time()) - age * days)
        old(cache / "classifiers" / f"{name}.partial", age * days)
    alone = cache / "classifiers/alone.partial"
    with checkpoints.alone(alone, "it"):
        old(alone / "lock", 8 * days)
        disk_cache.trim()
        assert {path.name for path in (cache / "classifiers").iterdir()} == {"recent.partial", "alone.partial"}
        disk_cache.clear()
        assert [path.name for path in (cache / "classifiers").iterdir()] == ["alone.partial"]
    disk_cache.clear()
    assert not list((cache / "classifiers").iterdir())


def test_clearing_deletes_every_kind_that_nobody_uses(cache: Path) -> None:
    for name in KINDS:
        put(cache, name, 1000)
    kinds = {item.kind for item in disk_cache.items()}
    assert kinds == {str(Path(name).parents[1 if name.count("/") == 2 and "safe" not in name else 0]) for name in KINDS}
    disk_cache.kept_while_used(cache / "tokens" / "cc", lambda: None)
    assert [item.in_use for item in disk_cache.items() if item.kind == "tokens"] == [True]
    assert disk_cache.clear() == (len(KINDS) - 1, (len(KINDS) - 1) * MIB)
    assert [item.kind for item in disk_cache.items()] == ["tokens"]
