"""Several and graded answers, dimensions cut off and probes: whether the figures are the usual ones."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from scipy.optimize import minimize
from scipy.stats import spearmanr
from sklearn.metrics import ndcg_score

from kdnas.cli.evaluate import evaluate
from kdnas.models import sentence_layout
from kdnas.models.sentence_encoder import open_encoder
from kdnas.scores.embeddings import ranked
from kdnas.scores.linear_probe import probed
from tests.data.test_retrieval_folder import labelled, written
from tests.encoders import WORDS, tiny_encoder
from tests.sentence_folders import laid_out, module

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Two sentence encoders of one width, and a folder of graded answers with labelled texts beside them."""
    place = tmp_path_factory.mktemp("graded")
    for seed, name in enumerate(("student", "teacher")):
        folder = laid_out(tiny_encoder(place / name, seed=seed), {"pooling_mode_mean_tokens": True})
        module(folder, "2_Normalize", "Normalize")
    rng = np.random.default_rng(0)
    texts = [" ".join(rng.choice(WORDS, 8)) for _ in range(30)]
    corpus = [{"_id": f"d{i}", "title": "", "text": text} for i, text in enumerate(texts)]
    queries = [{"_id": f"q{i}", "text": " ".join(text.split()[:4])} for i, text in enumerate(texts[:12])]
    qrels = [(f"q{i}", f"d{(i + k) % 30}", str(3 - k)) for i in range(12) for k in range(3)]
    written(place / "data", corpus, queries, qrels)
    rows = [(" ".join(rng.choice(WORDS[32 * c :][:32], 6)), ["left", "right"][c]) for c in [0, 1] * 20]
    labelled(place / "data", rows[:24], rows[24:])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KDNAS_CACHE", str(place / "cache"))
        patch.setenv("KDNAS_STATE", str(place / "state"))
        yield place


def test_graded_recall_and_ndcg_are_scikit_learns_and_a_plain_loops() -> None:
    rng = np.random.default_rng(1)
    queries, documents = rng.normal(size=(25, 4)), rng.normal(size=(40, 4))
    relevant = [
        {int(at): int(rng.integers(1, 4)) for at in rng.choice(40, size=int(rng.integers(1, 14)), replace=False)}
        for _ in range(25)
    ]
    truth = np.zeros((25, 40))
    recalls = []
    for row, own in enumerate(relevant):
        for at, grade in own.items():
            truth[row, at] = grade
        recalls.append(len(set(np.argsort(-(documents @ queries[row]))[:10].tolist()) & set(own)) / len(own))
    found = ranked(torch.from_numpy(queries), torch.from_numpy(documents), relevant)
    assert found["ndcg@10"] == pytest.approx(ndcg_score(truth, queries @ documents.T, k=10))
    assert found["recall@10"] == pytest.approx(np.mean(recalls)) and 0 < found["recall@10"] < 1


def test_of_equal_documents_the_worse_come_first() -> None:
    same = torch.ones(3, 2)
    assert ranked(torch.ones(1, 2), same, [{0: 2, 1: 1}], best=1) == {"recall@1": 0.0, "ndcg@1": 0.0}
    found = ranked(torch.ones(1, 2), same, [{0: 2, 1: 1}], best=3)
    assert found["ndcg@3"] == pytest.approx((1 / np.log2(3) + 2 / np.log2(4)) / (2 + 1 / np.log2(3)))


def test_the_probe_is_the_logistic_regression_that_a_minimiser_finds() -> None:
    rng = np.random.default_rng(2)
    labels = rng.integers(0, 2, 60)
    vectors = rng.normal(size=(60, 3)) + labels[:, None] * 0.8
    train, test = vectors[:40], vectors[40:]
    signs = 2 * labels[:40] - 1

    def loss(w: np.ndarray) -> float:
        return float(0.5 * w[:3] @ w[:3] + np.logaddexp(0, -signs * (train @ w[:3] + w[3])).sum())

    best = minimize(loss, np.zeros(4)).x
    wanted = ((test @ best[:3] + best[3] > 0).astype(int) == labels[40:]).mean()
    words = ["no", "yes"]
    found = probed(
        torch.from_numpy(train),
        [words[i] for i in labels[:40]],
        torch.from_numpy(test),
        [words[i] for i in labels[40:]],
    )
    assert found["probe_accuracy"] == pytest.approx(wanted) and 0.5 < wanted < 1


def test_the_command_scores_a_folder_of_files_and_its_first_dimensions(shelf: Path, tmp_path: Path) -> None:
    asked = [str(shelf / "student"), "--tasks", "embeddings", "--teacher", str(shelf / "teacher")]
    more = ["--data", str(shelf / "data"), "--dimensions", "8,16", "--output", str(tmp_path / "r.json")]
    done = CliRunner().invoke(evaluate, [*asked, *more])
    assert done.exit_code == 0, done.output
    entry = json.loads((tmp_path / "r.json").read_text())["embeddings"]
    assert (entry["queries"], entry["documents"], entry["width"]) == (12, 30, 32)
    assert entry["probe"] == {"train": 24, "test": 16} and 0 <= entry["student"]["probe_accuracy"] <= 1
    assert list(entry["dimensions"]) == ["16", "8"]
    rows = [json.loads(line) for line in (shelf / "data" / "corpus.jsonl").read_text().splitlines()]
    ours, theirs = (
        open_encoder(shelf / name, name, CPU).encode([row["text"] for row in rows]) for name in ("student", "teacher")
    )
    cut = [torch.nn.functional.normalize(vectors[:14, :8], dim=1).numpy() for vectors in (ours, theirs)]
    above = np.triu_indices(14, 1)
    whole = (theirs[:14] @ theirs[:14].t()).numpy()[above]
    for who, vectors in zip(("student", "teacher"), cut, strict=True):
        wanted = spearmanr((vectors @ vectors.T)[above], whole).statistic
        assert entry["dimensions"]["8"][who]["spearman"] == pytest.approx(wanted, abs=2e-3)
    part = entry["dimensions"]["8"]
    kept = 100 * part["student"]["recall@10"] / entry["teacher"]["recall@10"]
    assert part["kept_of_whole"]["recall@10"] == pytest.approx(kept)
    table = (tmp_path / "r.md").read_text()
    assert "| retrieval, recall@10: dimensions | student | teacher | kept | of the whole teacher |" in table
    assert "\n| 8 | " in table and "classes by a linear probe, accuracy" in table and "12 queries" in table


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--dimensions", "64"], "64 dimensions cannot be scored: the student's vectors have 32. Give 1 to 32."),
        (["--dimensions", "0"], "0 dimensions cannot be scored"),
        (["--dimensions", "8,x"], "--dimensions '8,x' holds 'x', no number"),
        (["--dimensions", ""], "holds '', no number"),
        (["--text", "sotu"], "--text and --data both say what embeddings are scored on"),
        (["--tasks", "perplexity"], "--data is for embeddings, which are not among the tasks"),
    ],
)
def test_what_cannot_be_scored_is_said(shelf: Path, more: list[str], said: str) -> None:
    asked = [str(shelf / "student"), "--tasks", "embeddings", "--no-teacher", "--data", str(shelf / "data")]
    done = CliRunner().invoke(evaluate, [*asked, *more])
    assert done.exit_code != 0 and said in str(done.exception), done.exception


def test_odd_texts_and_prompts_are_embedded_as_they_are(shelf: Path, tmp_path: Path) -> None:
    """Empty strings, texts beyond the maximum, and prompts for queries alone."""
    folder = laid_out(tiny_encoder(tmp_path / "cls"), {"pooling_mode_cls_token": True})
    (folder / sentence_layout.SETTINGS).write_text(json.dumps({"prompts": {"query": f"{WORDS[0]} "}}))
    (folder / sentence_layout.LENGTH).write_text(json.dumps({"max_seq_length": 8}))
    encoder = open_encoder(folder, "m", CPU)
    long, cut = " ".join(WORDS[:30]), " ".join(WORDS[:6])
    made = encoder.encode(["", long, cut])
    assert torch.allclose(made[1], made[2], atol=1e-6) and bool(made[0].isfinite().all()) and made[0].any()
    asked = encoder.encode([" ".join(WORDS[1:6])], prompt=encoder.layout.prompts["query"])
    assert torch.allclose(asked[0], made[2], atol=1e-6)
