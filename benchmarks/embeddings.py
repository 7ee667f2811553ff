"""Sentence-embedding students beside their teacher: `python -m benchmarks.embeddings [--quick] [--json FILE]`.

Encoders are fitted to all-minilm-l6-v2 without a step, with the linear layer that `finalize` solves; static students
have a table that is solved. All learn from the training documents of BBC news alone. They are asked held-out headlines
of it, and sentences of presidents' addresses, of which none has seen a word.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from benchmarks.report import Result, Table, run, say
from kdnas.data import documents, retrieval
from kdnas.data.splits import by_tokens
from kdnas.data.tokens import tokenise
from kdnas.models import static_encoder
from kdnas.models.sentence_encoder import SentenceEncoder, open_encoder
from kdnas.models.sentence_layout import Layout
from kdnas.models.static_encoder import StaticEncoder, TokenMeans
from kdnas.recipes import recipe
from kdnas.recipes.hidden_state import HiddenStateBench
from kdnas.recipes.static_students import lesson
from kdnas.recipes.teacher_space import LEFT, TeacherSpace, lessons
from kdnas.scores.embeddings import compared
from kdnas.study.spec import StudySpec, from_values

SOURCES = ("bbc-news", "sotu")
LENGTH = 128
UNIT = Layout()
CPU = torch.device("cpu")
ENCODERS = ((3, 384, 1536), (3, 320, 768), (2, 256, 384), (1, 192, 384))
COLUMNS = ("spearman", "recall@10", "ndcg@10", "aligned_recall@10", "aligned_ndcg@10")


def quiet(words: str, share: float | None) -> None:
    return None


def same(folder: Path) -> Result:
    """`difference`: the largest between the vectors of a folder by kdnas and by sentence-transformers, on short, long
    and empty texts."""
    from sentence_transformers import SentenceTransformer  # type: ignore[import-not-found, unused-ignore]

    long = " ".join(f"word{number}" for number in range(600))
    texts = ["A short one.", "", long, "Größe, ПРИВЕТ 12345, 漢字かな", "  blanks  around  "]
    opened = static_encoder.opened if static_encoder.is_static(folder) else partial(open_encoder, device=CPU)
    ours = opened(folder, str(folder)).encode(texts)
    theirs = torch.from_numpy(SentenceTransformer(str(folder), device="cpu").encode(texts))
    difference = float((ours - theirs).abs().max())
    return Result([Table(f"{folder}", ["texts", "difference"], [(len(texts), difference)])], {"difference": difference})


def measure(asked: argparse.Namespace) -> Result:
    torch.set_num_threads(1)
    if asked.same is not None:
        return same(asked.same)
    chunks, queries, index = (200, 60, 150) if asked.quick else (asked.chunks, asked.queries, asked.documents)
    spec = from_values(
        {
            "device": "cpu",
            "teacher": {"model": "all-minilm-l6-v2"},
            "data": {"source": SOURCES[0], "length": LENGTH, "held_out": 0.2, "limit": chunks, "max_held_out": 32},
            "budget": {"epochs": 0, "trials": 8, "proxy_fraction": 1.0},
        }
    )
    bench = recipe("hidden-state").prepare(spec, torch.device("cpu"), quiet)
    assert isinstance(bench, HiddenStateBench)
    layout = bench.sentence_layout()
    assert layout is not None
    teacher = SentenceEncoder(bench.teacher.body, bench.teacher.tokenizer, layout).shortened(LENGTH)
    trained = _trained(spec, bench)
    corpora = {
        source: retrieval.read(source, None, None, trained, queries, index, quiet)
        for source in (SOURCES[:1] if asked.first else SOURCES)
    }
    theirs, seconds = {}, {}
    for source, corpus in corpora.items():
        say(f"the teacher on {len(corpus.documents)} documents of {source}")
        begin = time.process_time()
        documents_of = _unit(teacher.encode(corpus.documents))
        seconds[source] = time.process_time() - begin
        theirs[source] = _unit(teacher.encode(corpus.queries)), documents_of
    rows: list[tuple[Any, ...]] = []
    figures: dict[str, float] = {}

    def score(name: str, encode: Callable[[Any], Tensor]) -> None:
        for source, corpus in corpora.items():
            begin = time.process_time()
            vectors = _unit(encode(corpus.documents))
            faster = seconds[source] / max(time.process_time() - begin, 1e-9)
            found = compared((_unit(encode(corpus.queries)), vectors), theirs[source], corpus.answers)
            student, kept = found["student"], found["kept"]
            rows.append((source, name, f"{faster:.3g}", *(f"{student[c]:.3f}" for c in COLUMNS),
                         f"{kept['aligned_recall@10']:.1f} %"))  # fmt: skip
            figures.update({f"{source}/{name}/{c}": student[c] for c in COLUMNS})
            figures[f"{source}/{name}/kept"] = kept["aligned_recall@10"]
            figures[f"{source}/{name}/faster"] = faster
            say(" ".join(map(str, rows[-1])))

    for source in corpora:
        found = compared(theirs[source], theirs[source], corpora[source].answers)
        figures[f"{source}/teacher/recall@10"] = found["teacher"]["recall@10"]
        say(f"{source}: the teacher's recall@10 is {found['teacher']['recall@10']:.3f}")
    for name, tokens in _static(bench).items():
        score(name, StaticEncoder(tokens, bench.teacher.tokenizer.backend_tokenizer, UNIT, LENGTH).encode)
    for layers, width, inner in ENCODERS[-1:] if asked.quick else ENCODERS:
        score(f"{layers} × {width} × {inner}", _encoder(bench, teacher, layers, width, inner).encode)
    counts = ", ".join(f"{len(c.queries)} of {len(c.documents)} ({s})" for s, c in corpora.items())
    table = Table(
        "Students of all-minilm-l6-v2",
        ["text", "student", "× teacher", *COLUMNS, "of the teacher's"],
        rows,
        [f"queries and documents: {counts}; {len(bench.chunks.train)} training chunks; × is of CPU seconds."],
    )
    return Result([table], figures, {"embeddings": bench.provenance()})


def _trained(spec: StudySpec, bench: HiddenStateBench) -> frozenset[str]:
    """Keys of the documents on the training side, whether or not the chunks that are taken reach them."""
    texts = documents.read(spec.data)
    lengths = tokenise(texts, bench.teacher.tokenizer, quiet).lengths
    _, train = by_tokens(lengths, texts, spec.data.held_out)
    return frozenset(texts.keys[int(row)] for row in train)


def _encoder(bench: HiddenStateBench, teacher: SentenceEncoder, layers: int, width: int, inner: int) -> SentenceEncoder:
    sizes = {"num_hidden_layers": layers, "hidden_size": width, "head_size": 32, "intermediate_size": inner}
    wanted: dict[str, Any] = {**sizes, "hidden_act": "gelu"}
    body = bench.build({d.name: wanted[d.name] for d in bench.space.dimensions}, 0).body.eval()
    layout = bench.sentence_layout()
    assert layout is not None
    taught = lessons(layout, bench.teacher.body, bench.proxy.ids, partial(bench.last, bench.proxy))
    made = TeacherSpace(layout, body).solved(taught)
    return SentenceEncoder(body, teacher.tokenizer, made).shortened(LENGTH)


def _static(bench: HiddenStateBench) -> dict[str, Tensor]:
    """Tables of one step more each: means over text, weighted, mapped, and with each token's own correction."""
    vocabulary, layout, ids = bench.teacher.config.vocab_size, bench.sentence_layout(), bench.proxy.ids
    assert layout is not None
    means = TokenMeans(vocabulary, bench.own.width)
    fewer = len(ids) - len(ids) // LEFT
    most, rest = (lesson(bench.teacher, layout, part, means, quiet, 0.0) for part in (ids[:fewer], ids[fewer:]))
    whole = most.and_(rest)
    plain = means.vectors(bench.teacher.body.get_input_embeddings().weight.detach())  # type: ignore[operator]
    weighted = plain * means.weights()[:, None]
    made, ridges = static_encoder.solved(weighted, most, rest)
    say(f"ridges {ridges}")
    return {
        "static: means": plain,
        "static: means, SIF": weighted,
        "static: means, SIF, map": static_encoder.mapped(weighted, whole.texts, whole.wanted, ridges["map"]),
        "static: means, SIF, map, corrections": made,
    }


def _unit(vectors: Tensor) -> Tensor:
    return functional.normalize(vectors, dim=1)


def _options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--chunks", type=int, default=2500, help="chunks of 128 tokens, a fifth of them held out")
    parser.add_argument("--queries", type=int, default=445)
    parser.add_argument("--documents", type=int, default=2225, help="that each query is asked against")
    parser.add_argument(
        "--same",
        type=Path,
        metavar="DIR",
        help="a folder's vectors by both libraries",
    )
    parser.add_argument("--first", action="store_true", help=f"{SOURCES[0]} alone")


if __name__ == "__main__":
    run("Sentence-embedding students beside their teacher.", measure, _options)
