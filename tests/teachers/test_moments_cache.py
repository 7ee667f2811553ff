"""What the passes for a teacher's moments give besides: the caches of its states are the same bytes as without them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from kdnas.models import least_squares_init
from kdnas.study.spec import TeacherSpec
from kdnas.teachers import cache_folder, encoder, hidden_state_cache, moments_cache
from kdnas.teachers.hidden_state_cache import Kind, Known
from tests.encoders import FAMILIES, VOCABULARY, tiny_encoder

IDS = torch.randint(5, len(VOCABULARY), (70, 16), generator=torch.Generator().manual_seed(0))
SEPARATE = [family for family in FAMILIES if family != "albert"]  # its layers are shared: nothing enters each norm


@pytest.fixture(autouse=True)
def _kept_states(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KDNAS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(hidden_state_cache, "_cold_read", lambda states: 0.0)  # worth keeping, tiny as they are


@pytest.fixture
def load(tmp_path: Path) -> Callable[[str], encoder.Teacher]:
    def loaded(family: str) -> encoder.Teacher:
        spec = TeacherSpec(model=str(tiny_encoder(tmp_path / "m", family)))  # type: ignore[call-arg]
        return encoder.load(spec, torch.device("cpu"))

    return loaded


def cached(teacher: encoder.Teacher, ids: torch.Tensor, kind: Kind, known: Known | None) -> dict[str, bytes]:
    """The files of a cache that is built anew, its manifest left out."""
    for entry in cache_folder.entries():
        cache_folder.remove(entry)
    states = hidden_state_cache.hidden_states(
        teacher, ids, [1, 3], passes=9, on_progress=lambda words, share: None, kind=kind, known=known
    )
    assert states.decision.place == "memory" and states.decision.teacher_ms_per_chunk > 0
    states.close()
    (entry,) = cache_folder.entries()
    return {file.name: file.read_bytes() for file in entry.folder.iterdir() if file.name != cache_folder.MANIFEST}


@pytest.mark.parametrize("family", SEPARATE)
@pytest.mark.parametrize("sampled", [32, 40, 70])
def test_states_that_the_moments_passes_gave_are_those_of_passes_of_their_own(
    load: Any, family: str, sampled: int
) -> None:
    teacher = load(family)
    beside: dict[Kind, Known] = {}
    moments_cache.moments_of(teacher, IDS[:sampled], beside)
    alone = least_squares_init.moments(teacher.body, teacher.family, IDS[:sampled]).tensors()
    for name, tensor in moments_cache.moments_of(teacher, IDS[:sampled]).tensors().items():
        assert torch.equal(tensor, alone[name])
    for kind, ids in (("entering", IDS[:sampled]), ("outputs", IDS)):
        assert cached(teacher, ids, kind, beside[kind]) == cached(teacher, ids, kind, None)


def test_no_pass_is_made_for_what_is_known(load: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    teacher, beside = load("bert"), {}
    moments_cache.moments_of(teacher, IDS, beside)
    cut = hidden_state_cache.SAMPLE_CHUNKS
    seen: list[int] = []
    hook = teacher.body.register_forward_pre_hook(
        lambda _module, _given, named: seen.append(len(named["input_ids"])), with_kwargs=True
    )
    for kind in ("entering", "outputs"):
        cached(teacher, IDS, kind, beside[kind])
    hook.remove()
    assert max(seen) == cut and sum(seen) < len(IDS)  # what is timed, to decide whether to keep the states at all


def test_moments_that_are_cached_and_memory_that_is_short_leave_nothing_besides(
    load: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    teacher, beside = load("bert"), {}
    with monkeypatch.context() as short:
        short.setattr(moments_cache.psutil, "virtual_memory", lambda: type("Memory", (), {"available": 1000}))
        found = moments_cache.moments_of(teacher, IDS, beside)
    assert not beside
    again = moments_cache.moments_of(teacher, IDS, beside)
    assert not beside and torch.equal(again.hidden, found.hidden)
    albert, other = load("albert"), {}
    moments_cache.moments_of(albert, IDS, other)
    assert not other
