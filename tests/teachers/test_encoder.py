"""The teacher and its cache: what it refuses, whether cached values are the teacher's, what a crash leaves behind."""

from __future__ import annotations

import json
import multiprocessing
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from kdnas.measuring import device_lock, devices
from kdnas.study.spec import TeacherSpec
from kdnas.system import disk_cache
from kdnas.system.errors import KdnasError, UsageError
from kdnas.teachers import cache_folder, encoder, hidden_state_cache, logit_cache, moments_cache
from tests.encoders import FAMILIES, VOCABULARY, tiny_encoder
from tests.tiny import tiny_folder

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KDNAS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


def say(_what: str, _share: float | None) -> None:
    return None


def load(folder: Path) -> encoder.Teacher:
    return encoder.load(TeacherSpec(model=str(folder)), CPU)


def some_ids(chunks: int = 20, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(5, len(VOCABULARY), (chunks, 16), generator=generator)


def states_of(
    model: encoder.Teacher, ids: torch.Tensor, layers: list[int], passes: int = 100
) -> hidden_state_cache.HiddenStates:
    return hidden_state_cache.hidden_states(model, ids, layers, passes=passes, on_progress=say)


@pytest.fixture
def cheap_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tiny teachers are quicker than any disk: the timing would always say to compute again."""
    monkeypatch.setattr(hidden_state_cache, "_cold_read", lambda states: 0.0)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_loads_frozen_and_gives_its_block_outputs(tmp_path: Path, family: str) -> None:
    model = load(tiny_encoder(tmp_path / "m", family))
    assert not any(p.requires_grad for p in model.body.parameters()) and not model.body.training
    assert model.hidden == 32 and (model.pooler != {}) == (family not in ("distilbert", "electra"))
    assert all(p.dtype == torch.float32 for p in model.body.parameters())
    with torch.inference_mode():
        states = hidden_state_cache.run(model, some_ids(2))
        whole = model.body(input_ids=some_ids(2)).last_hidden_state
    assert len(states) == 4
    torch.testing.assert_close(states[-1], whole)


def test_the_fingerprint_follows_weights_and_tokenizer_and_nothing_else(tmp_path: Path) -> None:
    one = load(tiny_encoder(tmp_path / "a")).fingerprint
    assert load(tiny_encoder(tmp_path / "b")).fingerprint == one
    weights = load_file(tmp_path / "b" / "model.safetensors")
    name = next(n for n in weights if n.endswith("query.weight"))
    weights[name][0, 0] += 1e-3
    save_file(weights, tmp_path / "b" / "model.safetensors", metadata={"format": "pt"})
    assert load(tmp_path / "b").fingerprint != one
    facts = json.loads((tmp_path / "a" / "tokenizer.json").read_text())
    facts["truncation"] = {"direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0}
    (tmp_path / "a" / "tokenizer.json").write_text(json.dumps(facts))
    assert load(tmp_path / "a").fingerprint == one


@pytest.mark.usefixtures("cheap_reads")
def test_cached_states_are_the_live_teachers_to_bf16_rounding(tmp_path: Path) -> None:
    model, ids = load(tiny_encoder(tmp_path / "m")), some_ids(70)
    kept = states_of(model, ids, [1, 3])
    assert kept.decision.place == "memory"
    rows = torch.tensor([69, 0, 33])
    with torch.inference_mode():
        live = hidden_state_cache.run(model, ids[rows])
    for layer, state in zip((3, 1), kept.batch(rows, [3, 1]), strict=True):
        assert state.dtype == torch.bfloat16
        # Sums of another batch size differ in the last bits of fp32, which may tip a rounding: one step of bf16.
        torch.testing.assert_close(state.float(), live[layer], rtol=2**-7, atol=1e-5)
    part = kept.batch(rows, [1], slice(1, None, 4))[0]
    assert torch.equal(part, kept.batch(rows, [1])[0][:, 1::4])
    whole = torch.stack([kept.batch(torch.arange(70), [1])[0]]).double().flatten(0, 2)
    torch.testing.assert_close(kept.statistics.mean[1], whole.mean(0))
    torch.testing.assert_close(kept.statistics.variance[1], whole.var(0, correction=0))


def test_recomputed_states_and_statistics_equal_the_cached_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, ids = load(tiny_encoder(tmp_path / "m")), some_ids(8)
    live = states_of(model, ids, [0, 2], passes=1)
    assert live.decision.place == "recompute" and not cache_folder.entries()
    monkeypatch.setattr(hidden_state_cache, "_cold_read", lambda states: 0.0)
    kept = states_of(model, ids, [0, 2])
    rows = torch.arange(8)
    for one, two in zip(live.batch(rows, [0, 2]), kept.batch(rows, [0, 2]), strict=True):
        assert torch.equal(one, two)
    assert torch.equal(live.statistics.variance[2], kept.statistics.variance[2])
    loss = live.batch(rows, [0])[0].float().requires_grad_().sum()
    loss.backward()  # what the live teacher gives must not be an inference tensor


def test_what_is_slower_to_read_than_to_compute_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hidden_state_cache, "_cold_read", lambda states: 1e9)
    made = states_of(load(tiny_encoder(tmp_path / "m")), some_ids(), [1])
    assert made.decision.place == "recompute" and "reading takes" in made.decision.reason
    assert made.decision.facts()["read_ms_per_chunk"] > 0


@pytest.mark.usefixtures("cheap_reads")
def test_other_weights_text_or_layers_never_meet_the_same_entry(tmp_path: Path) -> None:
    model = load(tiny_encoder(tmp_path / "a"))
    other = load(tiny_encoder(tmp_path / "b", seed=1))
    keys = {
        hidden_state_cache.entry_key(model, some_ids(), [1]),
        hidden_state_cache.entry_key(other, some_ids(), [1]),
        hidden_state_cache.entry_key(model, some_ids(seed=1), [1]),
        hidden_state_cache.entry_key(model, some_ids(), [1, 2]),
        hidden_state_cache.entry_key(model, some_ids().view(10, 32), [1]),
    }
    assert len(keys) == 5


def test_states_computed_in_half_precision_never_serve_a_study_in_fp32(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, ids = load(tiny_encoder(tmp_path / "m")), some_ids()
    keys = [hidden_state_cache.entry_key(model, ids, [1]), logit_cache.entry_key("m", ids, 4, 1.0, CPU)]
    monkeypatch.setattr(devices, "autocasts", lambda device: True)
    others = [hidden_state_cache.entry_key(model, ids, [1]), logit_cache.entry_key("m", ids, 4, 1.0, CPU)]
    assert not set(keys) & set(others)


@pytest.mark.usefixtures("cheap_reads")
def test_an_entry_thrown_out_between_its_building_and_its_opening_is_built_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, ids = load(tiny_encoder(tmp_path / "m")), some_ids(8)
    opened, thrown_out = cache_folder.opened, []

    def too_late(key: str) -> Any:
        if cache_folder.finished(key) and not thrown_out:  # another process makes room, just before we lock
            [entry] = cache_folder.entries()
            thrown_out.append(cache_folder.remove(entry))
        return opened(key)

    monkeypatch.setattr(cache_folder, "opened", too_late)
    made = states_of(model, ids, [1])
    assert thrown_out == [True] and made.decision.place == "memory"
    assert made.batch(torch.arange(8), [1])[0].shape == (8, 16, 32)
    [entry] = cache_folder.entries()
    assert entry.in_use and not cache_folder.remove(entry)


@pytest.mark.usefixtures("cheap_reads")
def test_a_teacher_that_fits_only_a_few_chunks_is_cached_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, ids = load(tiny_encoder(tmp_path / "m")), some_ids(70)
    run = hidden_state_cache.run

    def small(teacher: Any, part: torch.Tensor) -> Any:
        if len(part) > 5:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return run(teacher, part)

    monkeypatch.setattr(hidden_state_cache, "run", small)
    made = states_of(model, ids, [1])
    with torch.inference_mode():
        live = run(model, ids)[1]
    torch.testing.assert_close(made.batch(torch.arange(70), [1])[0].float(), live, rtol=2**-7, atol=1e-5)

    def none(teacher: Any, part: torch.Tensor) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(hidden_state_cache, "run", none)
    with pytest.raises(KdnasError, match="The memory of cpu ran out") as caught:
        states_of(model, some_ids(seed=9), [1])
    assert caught.value.hint and not list(cache_folder.root().glob(".build-*"))


@pytest.mark.usefixtures("cheap_reads")
def test_other_workers_may_measure_between_the_batches_of_a_build(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load(tiny_encoder(tmp_path / "m"))
    seen: list[bool] = []
    steps: list[int] = []
    run = hidden_state_cache.run

    def watched(teacher: Any, part: torch.Tensor) -> Any:
        seen.append(bool(device_lock._places()))
        return run(teacher, part)

    monkeypatch.setattr(hidden_state_cache, "run", watched)
    monkeypatch.setattr(device_lock._Place, "step", lambda self: steps.append(1))
    states_of(model, some_ids(70), [1])
    assert all(seen) and len(steps) == 3 and not device_lock._places()
    for make in (hidden_state_cache.importance_of, moments_cache.moments_of):
        inside: list[bool] = []
        hook = model.body.register_forward_pre_hook(lambda *_, i=inside: i.append(bool(device_lock._places())))
        make(model, some_ids(70))
        hook.remove()
        assert inside and all(inside)


@pytest.mark.usefixtures("cheap_reads")
def test_a_killed_build_leaves_nothing_that_looks_finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, ids = load(tiny_encoder(tmp_path / "m")), some_ids(70)

    def die(key: str, *_: Any) -> None:
        work = cache_folder.root() / f".build-{key}-{os.getpid()}"
        work.mkdir(parents=True)
        (work / "layer-01.bf16").write_bytes(b"half")
        raise KeyboardInterrupt

    build = hidden_state_cache._build
    monkeypatch.setattr(hidden_state_cache, "_build", die)
    with pytest.raises(KeyboardInterrupt):
        states_of(model, ids, [1])
    assert not cache_folder.entries() and list(cache_folder.root().glob(".build-*"))
    monkeypatch.setattr(hidden_state_cache, "_build", build)
    assert states_of(model, ids, [1]).decision.place == "memory"
    assert len(cache_folder.entries()) == 1 and not list(cache_folder.root().glob(".build-*"))


@pytest.mark.usefixtures("cheap_reads")
def test_a_full_disk_is_a_clear_line_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = load(tiny_encoder(tmp_path / "m"))

    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(hidden_state_cache, "save_file", full)
    with pytest.raises(KdnasError, match="No space left on device") as caught:
        states_of(model, some_ids(), [1])
    assert "KDNAS_CACHE" in caught.value.hint
    assert not cache_folder.entries() and not list(cache_folder.root().glob(".build-*"))


def _open_and_tell(model: str, queue: Any) -> None:
    hidden_state_cache._cold_read = lambda states: 0.0  # type: ignore[assignment]
    built = []
    states_of_ = hidden_state_cache.hidden_states(
        load(Path(model)), some_ids(64), [0, 1, 2, 3], passes=100, on_progress=lambda what, _: built.append(what)
    )
    queue.put(("caching the teacher on the text" in built, states_of_.statistics.mean[3].sum().item()))


def test_two_workers_at_once_build_it_once(tmp_path: Path) -> None:
    folder = tiny_encoder(tmp_path / "m")
    context = multiprocessing.get_context("fork")  # with torch loaded already
    queue = context.Queue()
    workers = [context.Process(target=_open_and_tell, args=(str(folder), queue)) for _ in range(2)]
    for worker in workers:
        worker.start()
    told = [queue.get(timeout=300) for _ in workers]
    for worker in workers:
        worker.join()
    assert sorted(built for built, _ in told) == [False, True]
    assert told[0][1] == told[1][1]
    assert len(cache_folder.entries()) == 1


@pytest.mark.usefixtures("cheap_reads")
def test_the_longest_unused_entry_makes_room_and_one_in_use_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load(tiny_encoder(tmp_path / "m"))
    old, used, new = (some_ids(seed=s) for s in range(3))
    states_of(model, old, [1]).close()
    held = states_of(model, used, [1])
    size = cache_folder.entries()[0].bytes
    for age, entry in enumerate(sorted(cache_folder.entries(), key=lambda e: e.in_use)):
        os.utime(entry.folder / cache_folder.MANIFEST, (1000 - age, 1000 - age))  # the one in use is the older
    monkeypatch.setenv("KDNAS_CACHE_GIB", str(2.5 * size / cache_folder.GIB))
    fresh = states_of(model, new, [1])
    assert fresh.decision.place == "memory"
    assert {e.key for e in cache_folder.entries()} == {
        hidden_state_cache.entry_key(model, ids, [1]) for ids in (used, new)
    }
    assert disk_cache.clear() == (0, 0)
    held.close()
    fresh.close()
    count, freed = disk_cache.clear()
    assert count == 2 and freed >= 2 * 20 * 16 * 32 * 2 and not cache_folder.entries()


def test_a_cache_of_no_size_recomputes_and_a_senseless_size_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load(tiny_encoder(tmp_path / "m"))
    monkeypatch.setenv("KDNAS_CACHE_GIB", "0")
    assert "do not fit" in states_of(model, some_ids(), [1]).decision.reason
    monkeypatch.setenv("KDNAS_CACHE_GIB", "lots")
    with pytest.raises(UsageError, match="KDNAS_CACHE_GIB = 'lots' is no size"):
        states_of(model, some_ids(seed=5), [1])


def causal(folder: Path) -> Path:
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"model_type": "gpt2", "n_layer": 1, "n_embd": 8, "n_head": 1}))
    return folder


def test_what_cannot_be_a_teacher_is_one_line(tmp_path: Path) -> None:
    tiny_encoder(tmp_path / "damaged")
    (tmp_path / "damaged" / "model.safetensors").write_bytes(b"not a model")
    tiny_encoder(tmp_path / "partial")
    weights = load_file(tmp_path / "partial" / "model.safetensors")
    kept = {n: t for n, t in weights.items() if "layer.2" not in n}
    save_file(kept, tmp_path / "partial" / "model.safetensors", metadata={"format": "pt"})
    tiny_encoder(tmp_path / "wordless")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / "wordless" / name).unlink()
    tiny_encoder(tmp_path / "narrow", vocab_size=20)
    (tmp_path / "empty").mkdir()
    (tmp_path / "odd").mkdir()
    (tmp_path / "odd" / "config.json").write_text('{"model_type": "zzz"}')
    for model, words in {
        str(causal(tmp_path / "causal")): "of the family 'gpt2'",
        str(tmp_path / "damaged"): "the file is damaged",
        str(tmp_path / "partial"): "do not fit its configuration",
        str(tmp_path / "wordless"): "has no words",
        str(tmp_path / "narrow"): "its model only 20",
        str(tmp_path / "empty"): "holds no config.json",
        str(tmp_path / "odd"): "model_type 'zzz'",
        str(tmp_path / "nothing"): "There is no model at",
        "sotu": "is a data set, no teacher",
        "nobody/bert-of-mine": "cannot be reached",
        "all-minilm l6": "There is no model at",
    }.items():
        with pytest.raises(UsageError) as caught:
            encoder.load(TeacherSpec(model=model), CPU)
        assert words in str(caught.value) and caught.value.hint and "\n" not in str(caught.value), model


def test_a_fine_tuned_checkpoint_takes_the_place_of_the_weights(tmp_path: Path) -> None:
    base = tiny_encoder(tmp_path / "a")
    tuned = tiny_encoder(tmp_path / "b", seed=1)
    loaded = encoder.load(TeacherSpec(model=str(base), checkpoint=str(tuned)), CPU)
    assert loaded.fingerprint == load(tuned).fingerprint != load(base).fingerprint
    headed = tiny_folder(tmp_path / "c", labels=2)
    assert load(headed).hidden == 16  # a classifier's body, its head left out
    with pytest.raises(UsageError, match="There is no checkpoint"):
        encoder.load(TeacherSpec(model=str(base), checkpoint=str(tmp_path / "no")), CPU)
