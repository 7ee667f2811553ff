"""A teacher's cache that is built in parts: what an interrupt, a death and a full disk leave, and how long it stays."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch

from kdnas.study.spec import TeacherSpec
from kdnas.system import disk_cache
from kdnas.system.errors import KdnasError
from kdnas.teachers import cache_folder, decoder_states, encoder, hidden_state_cache, logit_cache
from kdnas.teachers.causal import load
from tests.encoders import VOCABULARY, tiny_encoder
from tests.recipes import tiny_causal

CPU = torch.device("cpu")
KEY, FACTS = "0123abcd", {"teacher": "t"}


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("KDNAS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(hidden_state_cache, "_cold_read", lambda states: 0.0)
    return tmp_path / "cache"


def built(rows: range, stop: BaseException | None = None) -> int:
    """Write rows of four bytes, each its own number, from where an attempt was left; how many were there."""
    with cache_folder.building(KEY), cache_folder.written(KEY, FACTS) as build:
        there = build.done
        files = [build.file("one", 4), build.file("two", 4)]
        for number in rows[there:]:
            for file in files:
                file.write(number.to_bytes(4, "little"))
            build.wrote(1)
        if stop is not None:
            files[0].write(b"half")  # of a row
            raise stop
    return there


def left() -> list[Path]:
    return list(cache_folder.root().glob(".build-*"))


def test_rows_that_an_interrupt_leaves_are_taken_up(own_cache: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        built(range(5), KeyboardInterrupt())
    assert not cache_folder.finished(KEY) and len(left()) == 1
    disk_cache.sweep()
    assert built(range(9)) == 5 and not left()
    whole = b"".join(number.to_bytes(4, "little") for number in range(9))
    entry = own_cache / "teacher" / KEY
    assert [(entry / name).read_bytes() for name in ("one", "two")] == [whole] * 2
    assert sorted(path.name for path in entry.iterdir()) == ["manifest.json", "one", "two"]


def test_a_death_costs_the_rows_since_the_last_mark(monkeypatch: pytest.MonkeyPatch) -> None:
    child = os.fork()
    if not child:
        with cache_folder.building(KEY), cache_folder.written(KEY, FACTS) as build:
            files = [build.file("one", 4), build.file("two", 4)]
            for letter in (b"a", b"b"):
                for file in files:
                    file.write(letter * 12)
                    file.flush()
                build.wrote(3)
                if letter == b"a":
                    build.mark()
            os._exit(9)
    os.waitpid(child, 0)
    monkeypatch.setattr(cache_folder, "KEPT_S", 0.0)  # each row is marked
    assert built(range(4)) == 3 and not left()
    assert (cache_folder.root() / KEY / "two").read_bytes() == b"a" * 12 + bytes([3, 0, 0, 0])


def test_nothing_stays_of_no_rows_or_of_a_full_disk_and_what_nobody_goes_on_with_goes(own_cache: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        built(range(0), KeyboardInterrupt())
    assert not left()
    with pytest.raises(KdnasError, match="No space left on device"):
        built(range(5), OSError(28, "No space left on device"))
    assert not left()
    with pytest.raises(KeyboardInterrupt):
        built(range(5), KeyboardInterrupt())
    (folder,) = left()
    with cache_folder.building(KEY):
        disk_cache.clear()
        assert left()  # somebody is at it
    long_ago = (folder / disk_cache.MARK).stat().st_mtime - disk_cache.GIVEN_UP_S
    os.utime(folder / disk_cache.MARK, (long_ago, long_ago))
    disk_cache.sweep()
    assert not left()
    with pytest.raises(KeyboardInterrupt):
        built(range(5), KeyboardInterrupt())
    disk_cache.clear()
    assert not left() and built(range(5)) == 0


def test_a_file_that_lost_rows_is_built_again_from_the_beginning() -> None:
    with pytest.raises(KeyboardInterrupt):
        built(range(5), KeyboardInterrupt())
    (left()[0] / "one").write_bytes(b"00")
    with pytest.raises(KdnasError, match="one lost what was written"):
        built(range(5))
    assert not left() and built(range(5)) == 0


class Stopping:
    """Progress that interrupts once at a share of the whole, and counts what is told."""

    def __init__(self, share: float) -> None:
        self._share: float | None = share
        self.told: list[float] = []

    def __call__(self, words: str, share: float | None) -> None:
        if share is None or "caching" not in words:
            return
        self.told.append(share)
        if self._share is not None and share >= self._share:
            self._share = None
            raise KeyboardInterrupt


def entry_bytes(own_cache: Path) -> dict[str, bytes]:
    (entry,) = cache_folder.entries()
    return {path.name: path.read_bytes() for path in entry.folder.iterdir() if path.name != "manifest.json"}


def both_ways(own_cache: Path, build: Any) -> tuple[dict[str, bytes], dict[str, bytes], list[float]]:
    """An entry built at once, the same interrupted in the middle, and the shares that the second attempt told."""
    build(lambda words, share: None)
    straight = entry_bytes(own_cache)
    disk_cache.clear()
    stopping = Stopping(0.5)
    with pytest.raises(KeyboardInterrupt):
        build(stopping)
    stopping.told.clear()
    build(stopping)
    return straight, entry_bytes(own_cache), stopping.told


def test_hidden_states_and_their_statistics_are_the_same_bits(own_cache: Path, tmp_path: Path) -> None:
    teacher = encoder.load(TeacherSpec(model=str(tiny_encoder(tmp_path / "m"))), CPU)
    ids = torch.randint(5, len(VOCABULARY), (150, 16), generator=torch.Generator().manual_seed(0))

    def build(on_progress: Any) -> None:
        hidden_state_cache.hidden_states(teacher, ids, [1, 3], passes=9, on_progress=on_progress).close()

    straight, again, told = both_ways(own_cache, build)
    assert set(straight) == {"layer-01.bf16", "layer-03.bf16", "statistics.safetensors"} and straight == again
    assert told == [128 / 150, 1.0]


def test_a_causal_teachers_states_and_predictions_are_the_same_bits(own_cache: Path, tmp_path: Path) -> None:
    teacher = load(TeacherSpec(model=str(tiny_causal.folder(tmp_path / "m", "llama"))), CPU, lambda *_: None)
    ids = torch.randint(int(teacher.config.vocab_size), (80, 16), generator=torch.Generator().manual_seed(0))

    def states(on_progress: Any) -> None:
        decoder_states.states_of(teacher, ids, on_progress, "the text").close()

    straight, again, told = both_ways(own_cache, states)
    assert len(straight) > 2 and straight == again and told == [0.8, 1.0]
    disk_cache.clear()
    wanted = logit_cache.Predictions("m", teacher.fingerprint, teacher.next_logits, CPU, ids, "the text", 4, 1.0)

    def predictions(on_progress: Any) -> None:
        cache = logit_cache.open_or_build(wanted, on_progress)
        assert cache is not None
        cache.close()

    straight, again, told = both_ways(own_cache, predictions)
    assert len(straight) == 2 and straight == again and told == [1.0]
