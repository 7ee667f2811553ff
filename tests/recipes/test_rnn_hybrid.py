"""Recurrent students: padding counts for nothing, vectors for every row, pruned as asked, opened without kdnas."""

from __future__ import annotations

import json
from collections.abc import Iterator
from math import exp, log
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForSequenceClassification

from kdnas.data.labelled import Examples
from kdnas.models import compression, word_vectors
from kdnas.models.recurrent import CELLS, AdditiveAttention, RecurrentConfig, RecurrentForSequenceClassification
from kdnas.recipes import rnn_hybrid
from kdnas.recipes.rnn_hybrid import MODULE, RnnBench, RnnHybrid, space_of
from kdnas.scores import model_latency
from kdnas.search.begin import begin
from kdnas.search.plan import plan
from kdnas.search.worker import run_worker
from kdnas.store import queries
from kdnas.store.database import open_store
from kdnas.students import finalize, from_config
from kdnas.students.distil import Job, Telling, distil
from kdnas.students.extras import Extras
from kdnas.study.space import Candidate
from kdnas.study.spec import SpaceSpec, StudySpec, from_values
from kdnas.study.spec_flags import command
from kdnas.system.errors import UsageError
from kdnas.training import checkpoints
from kdnas.training.contract import Epoch, Score, Student, Training
from kdnas.training.losses import soft_labels
from tests.outside import Outside
from tests.recipes.taken_up import assert_same_within_an_epoch
from tests.recipes.tiny_labelled import examples, rnn_spec
from tests.tiny import tiny_folder

QUIET = Telling(lambda words, share: None)
CPU = torch.device("cpu")
CANDIDATE: Candidate = {
    "cell": "lstm",
    "num_hidden_layers": 2,
    "hidden_size": 16,
    "embedding_size": 8,
    "bidirectional": True,
    "dropout": 0.1,
    "pruned": 0.5,
}


@pytest.fixture(autouse=True)
def _short_profile(monkeypatch: pytest.MonkeyPatch) -> None:
    """A second of each finished student is torch's profiler, which reads every operation of each pass."""
    monkeypatch.setattr(rnn_hybrid, "PROFILED", 2)


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A tiny teacher and labelled text, with a cache that the tests of this file share."""
    place = tmp_path_factory.mktemp("rnn")
    tiny_folder(place / "teacher")
    examples(place / "data.jsonl")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KDNAS_CACHE", str(place / "cache"))
        patch.setenv("KDNAS_STATE", str(place / "state"))
        yield place


def spec_of(shelf: Path, **parts: Any) -> StudySpec:
    return rnn_spec(shelf / "teacher", shelf / "data.jsonl", **parts)


@pytest.fixture(scope="module")
def bench(shelf: Path) -> RnnBench:
    return RnnHybrid().prepare(spec_of(shelf), CPU, lambda words, share: None)


def network(cell: str, **sizes: Any) -> RecurrentForSequenceClassification:
    given = {"hidden_size": 32, "embedding_size": 8, "vocab_size": 20, "rows": 20, "dropout": 0.0, **sizes}
    torch.manual_seed(0)
    made = RecurrentForSequenceClassification(RecurrentConfig(cell=cell, num_labels=3, **given))
    made.row_of.copy_(torch.arange(20))
    return made.eval()


# ---------------------------------------------------------------------------- the network


def test_padding_has_a_weight_of_exactly_zero() -> None:
    torch.manual_seed(0)
    attention = AdditiveAttention(6, 4)
    mask = torch.arange(9) < torch.tensor([[9], [5], [1]])
    _, weights = attention(100 * torch.randn(3, 9, 6), mask)
    assert (weights[~mask] == 0).all() and (weights[mask] >= 0).all()
    torch.testing.assert_close(weights.sum(1), torch.ones(3))


@pytest.mark.parametrize("cell", CELLS)
def test_paddings_amount_and_content_change_nothing(cell: str) -> None:
    made = network(cell)
    ids = torch.randint(1, 20, (2, 7))
    bare = made(input_ids=ids[:1, :4]).logits
    mask = torch.tensor([[1, 1, 1, 1, 0, 0, 0], [1] * 7])
    for filler in (0, 13):
        padded = ids.masked_fill(mask == 0, filler)
        torch.testing.assert_close(made(input_ids=padded, attention_mask=mask).logits[:1], bare, atol=1e-6, rtol=1e-5)


def test_the_layer_that_reads_backwards_begins_at_the_last_real_token() -> None:
    """Against torch's own bidirectional LSTM over a packed sequence."""
    made = network("lstm", num_hidden_layers=1)
    layer = made.layers[0]
    torch.manual_seed(1)
    whole = torch.nn.LSTM(8, 32, batch_first=True, bidirectional=True)
    weights = dict(layer.ahead.state_dict())
    weights |= {f"{name}_reverse": t for name, t in layer.back.state_dict().items()}
    whole.load_state_dict(weights)
    ids, lengths = torch.randint(0, 20, (3, 6)), torch.tensor([6, 4, 2])
    mask = torch.arange(6) < lengths[:, None]
    packed = torch.nn.utils.rnn.pack_padded_sequence(
        made.embeddings(ids), lengths, batch_first=True, enforce_sorted=False
    )
    wanted, _ = torch.nn.utils.rnn.pad_packed_sequence(whole(packed)[0], batch_first=True)
    torch.testing.assert_close(made.states(ids, mask)[mask], wanted[mask])


@pytest.mark.parametrize("cell", CELLS)
def test_units_that_say_nothing_are_the_ones_taken_out(cell: str) -> None:
    """Half of the units of every layer are silenced; without them the answers are the same."""
    made = network(cell)
    silent = torch.arange(0, 32, 2)
    with torch.no_grad():
        for layer in made.layers:
            for cut in [getattr(layer, name, None) for name in ("ahead", "back")]:
                if cut is not None:
                    rows = torch.cat([silent + gate * 32 for gate in range(len(cut.bias_ih_l0) // 32)])
                    for name, weight in cut.named_parameters():
                        weight[rows] = 0
                        if name == "weight_hh_l0":
                            weight[:, silent] = 0
            if cell == "convolution":
                layer.convolution.weight[silent] = 0
                layer.convolution.bias[silent] = 0
            if cell == "transformer":
                inner = torch.arange(0, 64, 2)
                layer.up.weight[inner] = 0
                layer.up.bias[inner] = 0
        made.attention.project.weight[silent] = 0
        made.attention.project.bias[silent] = 0
    less = compression.narrowed(made, 0.5)
    assert sum(p.numel() for p in less.parameters()) < 0.9 * sum(p.numel() for p in made.parameters())
    ids, mask = torch.randint(0, 20, (3, 6)), torch.arange(6) < torch.tensor([[6], [4], [2]])
    with torch.no_grad():
        one, two = (m(input_ids=ids, attention_mask=mask).logits for m in (made, less))
    torch.testing.assert_close(one, two, atol=1e-6, rtol=1e-5)


# ---------------------------------------------------------------------------- loss


def test_the_hybrid_loss_on_a_worked_example() -> None:
    """Teacher logits (2, 0), student (1, 1), label 1, T = 3, by hand: softened teacher p = 1 / (1 + e^(−2/3))."""
    p = 1 / (1 + exp(-2 / 3))
    soft = 9 * (p * log(p / 0.5) + (1 - p) * log((1 - p) / 0.5))
    hard = sequence = log(2)
    found = soft_labels.hybrid(
        torch.tensor([[1.0, 1.0]]),
        torch.tensor([1]),
        torch.tensor([[2.0, 0.0]]),
        weights=(0.4, 0.4, 0.2),
        temperature=3.0,
    )
    assert found.tolist() == pytest.approx([0.4 * soft + 0.4 * hard + 0.2 * sequence], rel=1e-6)
    assert soft == pytest.approx(0.4738, abs=1e-3)


def test_each_part_of_the_loss_is_what_its_name_says() -> None:
    logits, taught = torch.tensor([[0.5, -1.0, 2.0]]), torch.tensor([[3.0, 0.0, -1.0]])
    label = torch.tensor([2])
    part = lambda *weights: float(  # noqa: E731
        soft_labels.hybrid(logits, label, taught, weights=weights, temperature=2.0)
    )
    cross = torch.nn.functional.cross_entropy
    assert part(0, 1, 0) == pytest.approx(float(cross(logits, label)))
    assert part(0, 0, 1) == pytest.approx(float(cross(logits, torch.tensor([0]))))
    assert float(soft_labels.soft(taught, taught, 2.0)) == pytest.approx(0, abs=1e-7)
    assert soft_labels.hybrid(logits, label, None, weights=(0, 1, 0), temperature=2.0).shape == (1,)
    assert soft_labels.soft(logits.half(), taught.half(), 2.0).dtype == torch.float32


# ---------------------------------------------------------------------------- vectors


def test_word2vec_finds_the_used_rows(bench: RnnBench) -> None:
    found = word_vectors.word2vec(bench.text.train, bench.rows, 8, lambda *_: None)
    assert found.found >= 0.99
    used = np.unique(np.concatenate(bench.text.train.ids))
    assert bench.rows.used.tolist() == used.tolist()
    student = cast(RecurrentForSequenceClassification, bench.build(CANDIDATE, 0).body)
    assert torch.equal(student.embeddings.weight.detach(), found.table)
    assert student.row_of[torch.from_numpy(used)].tolist() == list(range(len(used)))
    strange = next(i for i in range(len(student.row_of)) if i not in used)
    assert int(student.row_of[strange]) == len(used)


def test_the_teachers_embeddings_keep_their_distances_on_their_main_axes() -> None:
    rng = torch.Generator().manual_seed(0)
    table = torch.randn(12, 3, generator=rng) @ torch.randn(3, 7, generator=rng)  # of rank 3
    rows = word_vectors.rows_of(Examples((np.arange(2, 9),), np.zeros(1, dtype=np.int64)), 12)
    made = word_vectors.inherited(table, rows, 3).table[:-1]
    own, kept = torch.cdist(table[2:9], table[2:9]), torch.cdist(made, made)
    torch.testing.assert_close(kept / kept.max(), own / own.max(), atol=1e-4, rtol=1e-3)


# ---------------------------------------------------------------------------- search, training, saving


@pytest.mark.parametrize("cell", CELLS)
def test_the_share_pruned_is_as_asked_after_saving_and_loading(bench: RnnBench, tmp_path: Path, cell: str) -> None:
    student = bench.build({**CANDIDATE, "cell": cell, "hidden_size": 32, "pruned": 0.7}, 0)
    training = bench.training(student, epochs=2, seed=0)
    training.run_epoch()
    assert compression.zeros(student.body) == pytest.approx(0.7, abs=0.01)  # any epoch's student may become the best
    epoch = training.run_epoch()
    bench.save(student, tmp_path / "out")
    opened = AutoModelForSequenceClassification.from_pretrained(tmp_path / "out")
    assert compression.zeros(opened) == pytest.approx(0.7, abs=0.01)
    assert compression.nonzero(opened) == epoch.score.extra["nonzero"]
    assert not any("mask" in name.lower() for name in load_file(tmp_path / "out" / "model.safetensors"))
    logits = bench.student_logits(opened, bench.text.held_out)
    torch.testing.assert_close(logits, bench.student_logits(student.body, bench.text.held_out))


def test_a_training_taken_up_again_is_the_same_training(bench: RnnBench) -> None:
    straight = bench.build(CANDIDATE, 0)
    whole = bench.training(straight, epochs=3, seed=1)
    for _ in range(3):
        last = whole.run_epoch()
    broken = bench.build(CANDIDATE, 0)
    first = bench.training(broken, epochs=3, seed=1)
    first.run_epoch()
    kept = first.state()
    resumed = bench.build(CANDIDATE, 5)
    second = bench.training(resumed, epochs=3, seed=1)
    second.restore(*kept)
    for _ in range(2):
        again = second.run_epoch()
    assert again.score == last.score
    ours, theirs = straight.body.state_dict(), resumed.body.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours if name != "row_of")


def test_a_training_left_within_an_epoch_is_the_same_training(bench: RnnBench, tmp_path: Path) -> None:
    def begin() -> tuple[Student, Training]:
        student = bench.build(CANDIDATE, 0)
        return student, bench.training(student, epochs=2, seed=1)

    assert_same_within_an_epoch(begin, tmp_path / "kept")


def test_the_loss_is_0_at_the_teacher_and_1_at_a_constant(bench: RnnBench, monkeypatch: pytest.MonkeyPatch) -> None:
    student = bench.build(CANDIDATE, 0)
    monkeypatch.setattr(bench, "student_logits", lambda *_: bench.held_logits)
    assert bench.score(student).loss == pytest.approx(0, abs=1e-6)
    mean = torch.softmax(bench.proxy_logits, -1).mean(0).log()
    monkeypatch.setattr(bench, "student_logits", lambda *_: mean.expand(len(bench.held_logits), -1))
    assert bench.score(student).loss == pytest.approx(1, abs=1e-5)


def test_labels_alone_ask_no_teacher(shelf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = {"soft": 0, "hard": 1, "sequence": 0}
    made = RnnHybrid().prepare(spec_of(shelf, recipe=recipe), CPU, lambda *_: None)
    training = made.training(made.build(CANDIDATE, 0), epochs=1, seed=0)
    assert training._teacher is None
    training.run_epoch()


def test_the_best_epochs_weights_are_the_ones_saved(shelf: Path, tmp_path: Path) -> None:
    """The second of four epochs is made the best one; its weights are in the folder."""
    scores = iter([0.9, 0.2, 0.5, 0.6])
    seen: list[dict[str, torch.Tensor]] = []

    class Watched(RnnBench):
        def score(self, student: Student) -> Score:
            found = super().score(student)
            loss = next(scores, None)
            if loss is None:
                return found
            seen.append({name: t.clone() for name, t in student.body.state_dict().items()})
            return Score(loss, found.raw_loss, found.extra)

    spec = spec_of(shelf, full={"epochs": 6, "patience": 2}, recipe={"remove": 0.25})
    facts = distil(
        Job(spec, CANDIDATE | {"cell": "convolution", "bidirectional": False}),
        tmp_path / "out",
        QUIET,
        device="cpu",
        prepare=lambda spec, device, on_progress: Watched(spec, device, on_progress),
    )
    assert facts["metrics"]["best_epoch"] == 2 and facts["metrics"]["epochs"] == 4
    kept = load_file(tmp_path / "out" / "model.safetensors")
    assert all(torch.equal(kept[name], seen[1][name]) for name in kept)
    assert not all(torch.equal(kept[name], seen[3][name]) for name in kept)


def test_a_search_ends_in_a_student_that_opens_without_kdnas(shelf: Path, tmp_path: Path, outside: Outside) -> None:
    storage = f"sqlite:///{tmp_path}/s.db"
    spec = spec_of(shelf)
    begin(spec, storage)
    assert run_worker(storage, spec.name) == 0
    with open_store(storage) as store:
        rows = queries.trial_rows(store, queries.study_row(store, spec.name).study_id)
    assert [row.state for row in rows] == ["done", "done"]
    assert {"accuracy", "macro_f1", "teacher_accuracy", "nonzero"} <= set(rows[0].extra)
    told: list[Epoch] = []
    facts = finalize.finalize(
        storage, spec.name, tmp_path / "out", Telling(lambda *_: None, told.append), extras=Extras()
    )
    assert len(told) == facts["metrics"]["epochs"]
    assert facts["opens_with"] == "AutoModelForSequenceClassification"
    assert {form["form"] for form in facts["forms"]} == {
        "as trained",
        "int8",
        "fewer units, as cut",
        "fewer units, learned on",
        "fewer units, in int8",
    }
    sizes = {form["form"]: form["mib"] for form in facts["forms"]}
    assert sizes["fewer units, learned on"] < sizes["as trained"]
    assert facts["classification"]["test"]["examples"] == 20
    assert facts["efficiency"]["student"]["nonzero"] <= facts["efficiency"]["student"]["parameters"]
    script = (
        "import sys\n"
        "from transformers import AutoModelForSequenceClassification, AutoTokenizer\n"
        "for folder in sys.argv[1:]:\n"
        "    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=True)\n"
        "    model = AutoModelForSequenceClassification.from_pretrained(folder, trust_remote_code=True)\n"
        "    logits = model(**tokenizer(['a fine film', 'a dull plot'], padding=True, return_tensors='pt')).logits\n"
        "    print([model.config.id2label[i] for i in logits.argmax(-1).tolist()], 'kdnas' in sys.modules)\n"
    )
    folders = [str(tmp_path / "out"), str(tmp_path / "out" / "smaller")]
    done = outside.run(script, tmp_path, *folders)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.strip().splitlines()
    assert len(lines) == 2 and all(line.endswith("False") for line in lines)
    _, parameters = model_latency.measure_model(str(tmp_path / "out"), spec.latency, CPU)
    assert parameters == facts["parameters"]
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert (tmp_path / "out" / MODULE).is_file() and config["model_type"] == "kdnas-recurrent"
    again = from_config.given(spec, config | {"pruned": facts["candidate"]["pruned"]})
    assert {**again.candidate, "bidirectional": 0} == {**facts["candidate"], "bidirectional": 0}
    assert checkpoints.last(tmp_path) is None


def test_the_recipes_own_defaults_need_no_flag_and_give_way() -> None:
    spec = from_values({"recipe": {"name": "rnn-hybrid"}})
    assert (spec.full.patience, spec.data.source) == (5, "rotten-tomatoes")
    assert command(spec) == "kdnas search study --recipe rnn-hybrid"
    given = from_values({"recipe": {"name": "rnn-hybrid"}, "full": {"patience": 2}})
    assert given.full.patience == 2 and given.full.epochs == spec.full.epochs
    assert "--set full.patience=2" in command(given)
    with pytest.raises(UsageError, match="give at least one of them a weight"):
        from_values({"recipe": {"name": "rnn-hybrid", "soft": 0, "hard": 0, "sequence": 0}})


def test_the_plan_counts_the_candidates(shelf: Path) -> None:
    made = plan(spec_of(shelf))
    assert made.space_size == 2 * 2 * 2 + 2 * 2  # directions count for the LSTM alone
    assert "--recipe rnn-hybrid" in made.command and made.seconds_per_trial


@pytest.mark.parametrize(
    ("choices", "words"),
    [
        ({"cells": ["lstm"]}, "has no dimension 'cells'. Did you mean 'cell'"),
        ({"cell": ["lsmt"]}, "cell = 'lsmt' is not known. Did you mean 'lstm'"),
        ({"hidden_size": [40]}, "hidden_size = 40 is no multiple of 32"),
        ({"hidden_size": [0]}, "hidden_size = 0 is out of range"),
        ({"hidden_size": [16.5]}, "Give whole numbers from 1 to 4096"),
        ({"dropout": [1.0]}, "dropout = 1.0 is out of range"),
        ({"pruned": ["half"]}, "pruned = 'half' is out of range. Give a number"),
        ({"bidirectional": [2]}, "neither true nor false"),
    ],
)
def test_a_space_that_cannot_be_is_one_line(choices: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError) as caught:
        space_of(SpaceSpec.model_validate({"choices": choices}))
    assert words in str(caught.value) and caught.value.hint


def test_text_without_labels_is_refused_before_anything_is_loaded(shelf: Path) -> None:
    with pytest.raises(UsageError, match="has no labels"):
        RnnHybrid().describe(spec_of(shelf, data={"source": "sotu"}))
    with pytest.raises(UsageError, match="needs labels"):
        RnnHybrid().describe(spec_of(shelf, data={"label_column": None}))
