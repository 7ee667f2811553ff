"""Scores of sentence encoders: what is asked for, what is left out, and whether the figures are right."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from scipy.stats import spearmanr

from kdnas.cli.evaluate import evaluate
from kdnas.data import retrieval
from kdnas.data.documents import same_text
from kdnas.models import sentence_layout
from kdnas.scores import embeddings, results
from kdnas.scores.embeddings import Asked, EmbeddingProtocol, compared, embedding_scores, ranked
from kdnas.scores.score_folder import Wanted, score
from kdnas.students.distil import Telling, distil
from kdnas.students.from_config import given
from kdnas.system.errors import UsageError
from tests.encoders import WORDS, texts, tiny_encoder, tiny_spec
from tests.sentence_folders import laid_out, module

CPU = torch.device("cpu")
SMALL = {"num_hidden_layers": 2, "hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 32}


def quiet(words: str, share: float | None) -> None:
    return None


def pairs_of(count: int, seed: int = 3) -> list[tuple[str, str]]:
    rng = np.random.default_rng(seed)
    drawn = [rng.choice(WORDS, size=14) for _ in range(count)]
    return [(" ".join(words[:4]), " ".join(words[2:])) for words in drawn]


def file_of(path: Path, pairs: list[tuple[str, str]], header: tuple[str, str] = ("query", "document")) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *pairs])
    return path


def read(path: Path, trained: frozenset[str] = frozenset(), queries: int = 100, documents: int = 100):  # type: ignore[no-untyped-def]
    return retrieval.read(str(path), None, None, trained, queries, documents, quiet)


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A sentence encoder and its student, whose training text is a file."""
    place = tmp_path_factory.mktemp("embeddings")
    teacher = laid_out(tiny_encoder(place / "teacher"), {"pooling_mode_mean_tokens": True})
    module(teacher, "2_Normalize", "Normalize")
    (place / "text.txt").write_text("\n\n".join(texts(40)), encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KDNAS_CACHE", str(place / "cache"))
        patch.setenv("KDNAS_STATE", str(place / "state"))
        spec = tiny_spec(teacher, place / "text.txt", full={"epochs": 1})
        distil(given(spec, {**SMALL, "hidden_act": "gelu"}), place / "student", Telling(quiet), device="cpu")
        yield place


# ------------------------------------------------------------------------------------------------- figures


def test_recall_and_ndcg_are_those_of_a_plain_loop() -> None:
    rng = np.random.default_rng(0)
    queries, documents = rng.normal(size=(40, 5)), rng.normal(size=(60, 5))
    answers = rng.integers(0, 60, 40)
    recalls, gains = [], []
    for query, answer in zip(queries, answers, strict=True):
        order = np.argsort(-(documents @ query)).tolist()
        rank = order.index(answer) + 1
        recalls.append(rank <= 10)
        gains.append(1 / np.log2(1 + rank) if rank <= 10 else 0.0)
    found = ranked(torch.from_numpy(queries), torch.from_numpy(documents), answers.tolist())
    assert found["recall@10"] == pytest.approx(np.mean(recalls)) and found["ndcg@10"] == pytest.approx(np.mean(gains))
    assert 0 < found["recall@10"] < 1


def test_equal_vectors_earn_no_rank() -> None:
    found = ranked(torch.ones(3, 2), torch.ones(30, 2), [0, 1, 2])
    assert found == {"recall@10": 0.0, "ndcg@10": 0.0}


def test_texts_without_a_vector_earn_no_rank_and_leave_the_others_theirs() -> None:
    vectors = torch.nn.functional.normalize(torch.randn(40, 8, generator=torch.Generator().manual_seed(1)), dim=1)
    own = vectors.clone()
    own[:4] = 0
    found = compared((own, own), (vectors, vectors), list(range(40)))["student"]
    assert found["recall@10"] == found["aligned_recall@10"] == 0.9
    assert 0.5 < found["spearman"] < 1


def test_a_turned_space_keeps_its_similarities_and_loses_the_teachers_index() -> None:
    generator = torch.Generator().manual_seed(0)
    vectors = torch.nn.functional.normalize(torch.randn(50, 8, generator=generator), dim=1)
    turn = torch.linalg.qr(torch.randn(8, 8, generator=generator))[0]
    found = compared((vectors @ turn, vectors @ turn), (vectors, vectors), list(range(50)))
    assert found["student"]["spearman"] == pytest.approx(1) and found["student"]["recall@10"] == 1
    assert found["student"]["aligned_recall@10"] < 0.5 and found["teacher"]["aligned_recall@10"] == 1
    assert found["kept"]["aligned_recall@10"] == pytest.approx(100 * found["student"]["aligned_recall@10"])


def test_another_width_has_no_score_in_the_teachers_index() -> None:
    vectors = torch.nn.functional.normalize(torch.randn(20, 8), dim=1)
    found = compared((vectors[:, :4], vectors[:, :4]), (vectors, vectors), list(range(20)))
    assert not [name for name in found["student"] if name.startswith("aligned")]


# ------------------------------------------------------------------------------------------------- what is asked


def test_no_query_is_asked_whose_text_was_trained_on(tmp_path: Path) -> None:
    pairs = pairs_of(30)
    trained = frozenset({same_text(pairs[0][0]), same_text(pairs[1][1]), same_text(" ".join(pairs[2]))})
    found = read(file_of(tmp_path / "p.csv", pairs), trained)
    assert found.trained == 3 and len(found.queries) == 27
    assert not {pairs[0][0], pairs[1][0], pairs[2][0]} & set(found.queries)
    assert set(found.documents) == {document for _, document in pairs}  # which stay in the index


def test_every_query_is_answered_by_its_own_document_though_fewer_are_taken(tmp_path: Path) -> None:
    pairs = pairs_of(40)
    pairs[5] = (pairs[5][0], pairs[6][1].upper())  # the same document but for case
    own = {query: same_text(document) for query, document in pairs}
    found = read(file_of(tmp_path / "p.csv", pairs), queries=10, documents=15)
    assert (len(found.queries), len(found.documents), found.more_queries) == (10, 15, 30)
    assert found.more_documents == 39 - 15
    for query, answer in zip(found.queries, found.answers, strict=True):
        assert same_text(found.documents[answer]) == own[query]
    again = read(tmp_path / "p.csv", queries=10, documents=15)
    assert again == found


def test_a_text_that_a_model_knows_whole_gives_no_query(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    articles = [f"{query}\n\n{document}" for query, document in pairs_of(6)]
    folder = tmp_path / "assets" / "bbc-news"
    (folder / "tech").mkdir(parents=True)
    for place, text in enumerate(articles):
        (folder / "tech" / f"{place}.txt").write_text(text)
    (folder / "kdnas-asset.json").write_text("{}")
    monkeypatch.setenv("KDNAS_CACHE", str(tmp_path))
    found = retrieval.read("bbc-news", None, None, frozenset({same_text(articles[2])}), 9, 9, quiet)
    assert sorted(found.queries) == sorted(text.split("\n")[0] for place, text in enumerate(articles) if place != 2)
    assert len(found.documents) == 6 and all("\n" not in text for text in found.queries)


@pytest.mark.parametrize("source", ["rotten-tomatoes", "all-minilm-l6-v2"])
def test_text_without_queries_is_refused(source: str) -> None:
    with pytest.raises(UsageError, match="No queries can be made"):
        retrieval.read(source, None, None, frozenset(), 5, 5, quiet)


def test_a_file_without_the_columns_and_one_that_is_all_known_are_refused(tmp_path: Path) -> None:
    pairs = pairs_of(4)
    with pytest.raises(UsageError, match="'query'"):
        read(file_of(tmp_path / "odd.csv", pairs, ("a", "b")))
    known = frozenset(same_text(query) for query, _ in pairs)
    with pytest.raises(UsageError, match="trained on all 4"):
        read(file_of(tmp_path / "known.csv", pairs), known)


# ------------------------------------------------------------------------------------------------- folders


def test_student_and_teacher_stand_side_by_side_and_what_was_trained_on_is_left_out(
    shelf: Path, tmp_path: Path
) -> None:
    known = texts(40)[0]
    held = "\n\n".join(texts(40))
    file = file_of(tmp_path / "p.csv", [*pairs_of(25), *((f"w {i}", text) for i, text in enumerate(texts(40)))])
    assert known in held
    found = score(shelf / "student", Wanted(tasks=("embeddings",), text=str(file), device="cpu"), quiet)
    entry = found["embeddings"]
    # Of the forty texts nine tenths were trained on.
    assert 30 <= entry["left_out"]["trained_on"] < 40 and entry["queries"] + entry["left_out"]["trained_on"] == 65
    scores = {name for name in results.EMBEDDING_WORDS if not name.startswith("probe")}  # the file has no labels
    assert set(entry["student"]) == set(entry["teacher"]) == scores
    student = embeddings._opened(shelf / "student", CPU, EmbeddingProtocol())
    teacher = embeddings._opened(shelf / "teacher", CPU, EmbeddingProtocol())
    asked = retrieval.read(
        str(file), None, None, embeddings.seen_by([shelf / "student"], quiet).trained, 500, 2500, quiet
    )
    places = sorted(set(asked.answers))
    ours, theirs = (encoder.encode(asked.documents)[places].numpy() for encoder in (student, teacher))
    above = np.triu_indices(len(places), 1)
    wanted = spearmanr((ours @ ours.T)[above], (theirs @ theirs.T)[above]).statistic
    assert entry["student"]["spearman"] == pytest.approx(wanted, abs=1e-3)
    table = (shelf / "student" / "results.md").read_text()
    assert "| similarities, Spearman with the teacher's |" in table and "are not asked" in table
    assert "similarities, Spearman" in (shelf / "student" / "README.md").read_text()


def test_the_command_scores_a_folder_alone(shelf: Path, tmp_path: Path) -> None:
    file = file_of(tmp_path / "p.csv", pairs_of(12), ("ask", "found"))
    asked = [str(shelf / "teacher"), "--tasks", "embeddings", "--no-teacher", "--text", str(file)]
    columns = ["--text-column", "ask", "--label-column", "found", "--output", str(tmp_path / "r.json"), "--json"]
    done = CliRunner().invoke(evaluate, [*asked, *columns])
    assert done.exit_code == 0, done.output
    entry = json.loads((tmp_path / "r.json").read_text())["embeddings"]
    assert set(entry["student"]) == {"recall@10", "ndcg@10"} and entry["queries"] == 12


def test_prompts_go_before_queries_and_documents(shelf: Path, tmp_path: Path) -> None:
    teacher = laid_out(tiny_encoder(tmp_path / "asymmetric"), {"pooling_mode_mean_tokens": True})
    prompts = {"query": f"{WORDS[0]} {WORDS[1]} ", "passage": f"{WORDS[2]} "}
    (teacher / sentence_layout.SETTINGS).write_text(json.dumps({"prompts": prompts}))
    encoder = embeddings._opened(teacher, CPU, EmbeddingProtocol())
    asked = retrieval.Retrieval("x", [WORDS[5]], [0], [WORDS[6]])
    vectors = embeddings._vectors(encoder, asked, None)
    queries, documents = (torch.nn.functional.normalize(part, dim=1) for part in (vectors.queries, vectors.documents))
    wanted = encoder.encode([prompts["query"] + WORDS[5], prompts["passage"] + WORDS[6]])
    wanted = torch.nn.functional.normalize(wanted, dim=1)
    assert torch.allclose(torch.cat([queries, documents]), wanted, atol=1e-6)


def test_a_plain_encoder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no sentence encoder"):
        embedding_scores(tiny_encoder(tmp_path / "m"), None, Asked(), CPU, quiet)
