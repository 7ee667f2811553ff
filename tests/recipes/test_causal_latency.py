"""What is timed of causal students is what the spec says: a first token or a later one, each under a key of its own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from kdnas.measuring import latency
from kdnas.measuring.clocks import Pass
from kdnas.recipes import recipe
from kdnas.recipes.causal import CausalBench
from kdnas.search.timing import further_passes, latency_protocol
from kdnas.store.database import open_store
from kdnas.study.spec import from_values
from kdnas.study.spec_differences import differences
from kdnas.study.timed_words import in_words
from kdnas.system.errors import BadOptionError
from tests.recipes import tiny_causal
from tests.recipes.tiny_causal import SMALL_LLAMA


@pytest.fixture(scope="module")
def benches(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, CausalBench]]:
    """One bench for each figure."""
    place = tmp_path_factory.mktemp("figures")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KDNAS_CACHE", str(place / "cache"))
        tiny_causal.folder(place / "llama", "llama", steps=30)
        tiny_causal.text_file(place / "text.txt", 12)
        made = {}
        for what in ("first", "token"):
            spec = from_values(
                {
                    "teacher": {"model": str(place / "llama")},
                    "data": {"source": str(place / "text.txt"), "length": 16, "batch_size": 8, "held_out": 0.1},
                    "recipe": {"name": "causal-divergence", "weight": 0.0},
                    "latency": {"length": 16, "what": what, "max_seconds": 0.02, "precision": 0.5},
                }
            )
            bench = recipe(spec.recipe.name).prepare(spec, torch.device("cpu"), lambda *_: None)
            assert isinstance(bench, CausalBench)
            made[what] = bench
        yield made


def work(once: Any) -> int:
    with FlopCounterMode(display=False) as counter:
        once()
    return counter.get_total_flops()


class Flops:
    """A clock that counts arithmetic instead of time: a million operations are a millisecond."""

    def __call__(self, once: Any) -> Pass:
        return Pass(work(once) / 1e6, work(once) / 1e6)


def test_the_reward_sees_what_was_asked_for_and_the_other_stands_beside_it(
    benches: dict[str, CausalBench], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(latency, "clock_of", lambda device: Flops())
    seen: dict[str, tuple[float, float, dict[str, float]]] = {}
    with open_store(f"sqlite:///{tmp_path / 'one.db'}", create=True) as store:  # in which figures are remembered
        for what, bench in benches.items():
            student = bench.build(SMALL_LLAMA, 0)
            timed = latency_protocol(store)(bench, student, SMALL_LLAMA)
            seen[what] = timed.p50, timed.teacher_p50, dict(further_passes(store)(bench, student, SMALL_LLAMA))
            own = bench.timed_first if what == "first" else bench.timed_token
            assert timed.p50 == pytest.approx(work(own(student)) / 1e6)
            assert timed.teacher_p50 == pytest.approx(work(own(None)) / 1e6)
    first, token = seen["first"], seen["token"]
    assert first[0] > 3 * token[0]  # sixteen tokens against one
    assert first[2] == pytest.approx({"token_ms": token[0], "teacher_token_ms": token[1]})
    assert token[2] == pytest.approx({"first_ms": first[0], "teacher_first_ms": first[1]})


def test_keys_of_earlier_figures_stay(benches: dict[str, CausalBench]) -> None:
    one, other = (benches[what].shape_key(SMALL_LLAMA) for what in ("first", "token"))
    assert one != other and "what" not in one
    specs = [bench.spec.latency for bench in benches.values()]
    assert latency.protocol_key(specs[0]) == latency.protocol_key(specs[1])


def test_only_what_generates_has_a_later_token() -> None:
    with pytest.raises(BadOptionError, match="students of the recipe hidden-state generate none; leave it out"):
        from_values({"latency": {"what": "token"}})
    one, other = (
        from_values({"recipe": {"name": "causal-policy-gradient"}, "latency": {"what": what}})
        for what in ("first", "token")
    )
    assert list(differences(one, other)) == ["latency.what"]


def test_words_say_which_figure_it_is() -> None:
    given = {"batch_size": 1, "length": 128}
    assert in_words(given) == in_words({**given, "what": "first"})
    assert in_words(given) == "one forward pass of the body, batch 1, 128 tokens"
    assert in_words({**given, "what": "token"}) == "one token generated with the cache, batch 1, after 128 tokens"


@pytest.mark.parametrize("init", ["fitted", "inherit", "random"])
def test_another_model_is_timed_alone_than_the_one_that_is_trained(
    init: str, benches: dict[str, CausalBench], monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = benches["first"]
    spec = bench.spec.model_dump(mode="json")
    spec["recipe"]["init"] = init
    other = recipe("causal-divergence").prepare(from_values(spec), torch.device("cpu"), lambda *_: None)
    whole = other.build(SMALL_LLAMA, 0)
    monkeypatch.setattr(other, "build", None)
    alone = other.probe(SMALL_LLAMA)
    shapes = [{name: (p.shape, p.dtype) for name, p in one.body.state_dict().items()} for one in (whole, alone)]
    assert shapes[0] == shapes[1] and work(other.timed(whole)) == work(other.timed(alone))
