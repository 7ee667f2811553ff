"""Static students: whether the folder is what the teacher's vectors and the text make it, and opens as it should."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file
from tokenizers import Tokenizer

from kdnas.cli.static import static
from kdnas.models import sentence_layout, static_encoder
from kdnas.models.sentence_encoder import open_encoder
from kdnas.models.sentence_layout import Layout
from kdnas.models.static_encoder import Lesson, TokenMeans, bags, corrected, mapped, solved
from kdnas.recipes import static_students
from kdnas.scores.score_folder import Wanted, score
from kdnas.students.static import make
from kdnas.study.spec import StudySpec, from_values
from kdnas.system.errors import UsageError
from kdnas.teachers import encoder
from tests.encoders import WORDS, text_folder, texts, tiny_encoder
from tests.sentence_folders import laid_out, module


def quiet(words: str, share: float | None) -> None:
    return None


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    place = tmp_path_factory.mktemp("static")
    teacher = laid_out(tiny_encoder(place / "teacher"), {"pooling_mode_mean_tokens": True})
    module(teacher, "2_Normalize", "Normalize")
    text_folder(place / "text", documents=40)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KDNAS_CACHE", str(place / "cache"))
        patch.setenv("KDNAS_STATE", str(place / "state"))
        make(spec_of(place), place / "student", quiet)
        yield place


def spec_of(shelf: Path, teacher: str = "teacher") -> StudySpec:
    data = {"source": str(shelf / "text"), "length": 16, "held_out": 0.2}
    return from_values({"device": "cpu", "teacher": {"model": str(shelf / teacher)}, "data": data})


# ------------------------------------------------------------------------------------------------- arithmetic


def test_means_are_of_a_tokens_own_states_and_unseen_tokens_follow_the_input_embeddings() -> None:
    generator = torch.Generator().manual_seed(0)
    embeddings = torch.randn(12, 2, generator=generator)
    ids = torch.arange(10).repeat(3, 1)
    states = (embeddings @ torch.tensor([[1.0, 2.0], [0.5, -1.0]]) + 3)[ids]
    means = TokenMeans(12, 2)
    means.add(ids, states)
    found = means.vectors(embeddings)
    assert torch.allclose(found[:10], states[0], atol=1e-5)
    # Affine but for the ridge.
    assert torch.allclose(found[10:], embeddings[10:] @ torch.tensor([[1.0, 2.0], [0.5, -1.0]]) + 3, atol=0.05)
    assert means.weights(1e-3)[10] == 1 and means.weights(1e-3)[0] < 0.1


def test_a_map_and_corrections_find_the_table_that_made_the_vectors() -> None:
    generator = torch.Generator().manual_seed(1)
    rows = torch.randint(0, 20, (400, 12), generator=generator).tolist()
    seen = bags(rows, 20)
    truth, start = torch.randn(20, 3, generator=generator), torch.randn(20, 3, generator=generator)
    lesson = Lesson(seen, seen @ truth)
    begun = mapped(start, seen, lesson.wanted, 1e-3)
    made = corrected(begun, seen, lesson.wanted, 1e-3)
    assert lesson.cosine(made) > 0.999 > lesson.cosine(begun)
    # The map of the mean is the mean of the maps.
    scale = 2 * (seen @ start) + 1
    assert torch.allclose(seen @ mapped(start, seen, scale, 1e-3), scale, atol=0.02)


def test_the_ridges_are_those_that_are_best_where_nothing_was_solved() -> None:
    generator = torch.Generator().manual_seed(2)
    rows = [torch.randint(0, 60, (8,), generator=generator).tolist() for _ in range(90)]
    truth, seen = torch.randn(60, 4, generator=generator), bags(rows, 60)
    wanted = seen @ truth + 0.3 * torch.randn(90, 4, generator=generator)
    most, rest = Lesson(bags(rows[:60], 60), wanted[:60]), Lesson(bags(rows[60:], 60), wanted[60:])
    plain = torch.randn(60, 4, generator=generator)
    shares = torch.rand(60, generator=generator) * 1e-2

    def weighted(sif: float) -> torch.Tensor:
        return plain * (sif / (sif + shares))[:, None]

    _, ridges = solved(plain, lambda sif: sif / (sif + shares), most, rest)
    sifs = {
        s: rest.cosine(mapped(weighted(s), most.texts, most.wanted, static_encoder.MIDDLE)) for s in static_encoder.SIFS
    }
    assert sifs[ridges["sif"]] == max(sifs.values()) and len(set(sifs.values())) > 1
    start = weighted(ridges["sif"])
    maps = {r: rest.cosine(mapped(start, most.texts, most.wanted, r)) for r in static_encoder.MAP_RIDGES}
    assert maps[ridges["map"]] == max(maps.values()) and len(set(maps.values())) > 1
    begun = mapped(start, most.texts, most.wanted, ridges["map"])
    cosines = {r: rest.cosine(corrected(begun, most.texts, most.wanted, r)) for r in static_encoder.RIDGES}
    assert cosines[ridges["tokens"]] == max(cosines.values()) and len(set(cosines.values())) > 1


# ------------------------------------------------------------------------------------------------- the folder


def test_the_vectors_are_those_that_the_files_mean(shelf: Path) -> None:
    folder = shelf / "student"
    types = [one["type"].rpartition(".")[2] for one in json.loads((folder / "modules.json").read_text())]
    assert types == ["StaticEmbedding", "Normalize"]
    table = load_file(folder / "model.safetensors")["embedding.weight"]
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    assert tokenizer.truncation is None and tokenizer.padding is None
    told = [" ".join(WORDS[:9]), "", " ".join(WORDS * 5)]
    given = static_encoder.opened(folder, "student").encode(told)
    for text, vector in zip(told, given, strict=True):
        ids = tokenizer.encode(text, add_special_tokens=False).ids
        wanted = table[ids].mean(0) if ids else torch.zeros(table.shape[1])
        assert torch.allclose(vector, torch.nn.functional.normalize(wanted, dim=0), atol=1e-6)
    assert not given[1].any()


def test_an_unknown_word_counts_where_a_table_is_solved_as_it_does_where_it_is_used(shelf: Path) -> None:
    teacher = encoder.load(spec_of(shelf).teacher, torch.device("cpu"), quiet)
    text = f"{WORDS[0]} ☃☃ {WORDS[1]}"
    rows = torch.tensor([teacher.tokenizer(text)["input_ids"]])
    used = Tokenizer.from_file(str(shelf / "student" / "tokenizer.json")).encode(text, add_special_tokens=False).ids
    assert teacher.tokenizer.unk_token_id in used
    assert static_students.without_special(teacher, rows) == [used]


def test_another_pooling_and_asymmetric_prompts_are_the_teachers(shelf: Path) -> None:
    teacher = laid_out(tiny_encoder(shelf / "first"), {"pooling_mode_cls_token": True})
    prompts = {"query": f"{WORDS[1]} ", "passage": f"{WORDS[2]} "}
    (teacher / sentence_layout.SETTINGS).write_text(json.dumps({"prompts": prompts}))
    make(spec_of(shelf, "first"), shelf / "of-first", quiet)
    student = static_encoder.opened(shelf / "of-first", "student")
    assert student.layout.prompts == prompts and not student.layout.normalised
    told = [" ".join(text.split()[:14]) for text in texts(30, seed=9)]
    asked = student.encode(told, prompts["query"])
    assert torch.allclose(asked, student.encode([prompts["query"] + text for text in told]))
    first, mean = (
        replace(open_encoder(teacher, "first", torch.device("cpu")), layout=Layout((how,), ())).encode(told)
        for how in ("cls", "mean")
    )
    near, other = (float((student.encode(told) - wanted).norm(dim=1).mean()) for wanted in (first, mean))
    assert near < 0.9 * other


def test_it_is_nearer_to_the_teacher_on_held_out_text_than_where_it_began(shelf: Path) -> None:
    facts = json.loads((shelf / "student" / "kdnas.json").read_text())
    assert facts["embedding"]["cosine"] > 0.9 and facts["embedding"]["width"] == 32
    assert "SentenceTransformer" in (shelf / "student" / "README.md").read_text()
    assert str(shelf) not in (shelf / "student" / "README.md").read_text()


def test_the_same_again_is_found_finished_and_other_text_is_refused(shelf: Path) -> None:
    said: list[str] = []
    make(spec_of(shelf), shelf / "student", lambda words, share: said.append(words))
    assert said == [f"{shelf / 'student'} is finished already"]
    other: Any = spec_of(shelf).model_copy(update={"data": spec_of(shelf).data.model_copy(update={"length": 12})})
    with pytest.raises(UsageError):
        make(other, shelf / "student", quiet)


def test_it_is_scored_beside_its_teacher_on_text_it_has_not_seen(shelf: Path, tmp_path: Path) -> None:
    pairs = [(f"{text[:40]}", text) for text in texts(40)]
    file = tmp_path / "p.jsonl"
    file.write_text("\n".join(json.dumps({"query": query, "document": text}) for query, text in pairs))
    asked = Wanted(tasks=("embeddings",), text=str(file), device="cpu")
    entry = score(shelf / "student", asked, quiet)["embeddings"]
    assert 25 <= entry["left_out"]["trained_on"] < 40
    assert entry["student"]["spearman"] <= 1 and "aligned_recall@10" in entry["kept"]
    assert "static student" in (shelf / "student" / "README.md").read_text()


def test_a_plain_encoder_has_no_static_student(shelf: Path, tmp_path: Path) -> None:
    tiny_encoder(shelf / "plain")
    asked = ["--teacher", str(shelf / "plain"), "--dataset", str(shelf / "text"), "-o", str(tmp_path / "x")]
    done = CliRunner().invoke(static, [*asked, "--device", "cpu"])
    assert isinstance(done.exception, UsageError) and "no sentence encoder" in str(done.exception)
    assert not (tmp_path / "x").exists()
