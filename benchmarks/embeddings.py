"""Sentence-embedding students beside their teacher: `python -m benchmarks.embeddings [--quick] [--json FILE]`.

Encoders are students of the recipe sentence-embedding, as they are solved and, with `--epochs`, trained. Static
students have one step more from row to row: from Model2Vec's recipe, written from its description, to a table that is
solved. All learn from the training documents of BBC news alone. They are asked held-out headlines of it, and sentences
of presidents' addresses, of which none has seen a word.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from benchmarks.report import Result, Table, run, say
from kdnas.data import documents, retrieval
from kdnas.data.splits import by_tokens
from kdnas.data.tokens import special_tokens, tokenise
from kdnas.models import static_encoder
from kdnas.models.sentence_encoder import SentenceEncoder, open_encoder
from kdnas.models.sentence_layout import Layout
from kdnas.models.static_encoder import StaticEncoder, TokenMeans
from kdnas.recipes import recipe
from kdnas.recipes.sentence_embedding import SentenceEmbeddingBench
from kdnas.recipes.static_students import lesson
from kdnas.recipes.teacher_space import LEFT, whole_pooled
from kdnas.scores.embeddings import compared
from kdnas.study.spec import StudySpec, from_values

SOURCES = ("bbc-news", "sotu")
LENGTH = 128
UNIT = Layout()
CPU = torch.device("cpu")
ENCODERS = ((3, 384, 1536), (3, 320, 768), (2, 256, 384), (1, 192, 384))
PRINCIPAL, ZIPF = 256, 1e-4  # Model2Vec's defaults
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
            "recipe": {"name": "sentence-embedding"},
            "budget": {"epochs": asked.epochs, "trials": 8, "proxy_fraction": 1.0, "short_text": "train"},
            "training": {"learning_rate": asked.rate},
        }
    )
    bench = recipe("sentence-embedding").prepare(spec, torch.device("cpu"), quiet)
    assert isinstance(bench, SentenceEmbeddingBench)
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
            shown = [f"{student[c]:.3f}" if c in student else "–" for c in COLUMNS]  # no index of another width
            share = kept.get("aligned_recall@10", kept["recall@10"])
            rows.append((source, name, f"{faster:.3g}", *shown, f"{share:.1f} %"))
            figures.update({f"{source}/{name}/{c}": student[c] for c in COLUMNS if c in student})
            figures[f"{source}/{name}/kept"] = share
            figures[f"{source}/{name}/faster"] = faster
            say(" ".join(map(str, rows[-1])))

    for source in corpora:
        found = compared(theirs[source], theirs[source], corpora[source].answers)
        figures[f"{source}/teacher/recall@10"] = found["teacher"]["recall@10"]
        say(f"{source}: the teacher's recall@10 is {found['teacher']['recall@10']:.3f}")
    for name, tokens in _static(bench, asked.quick).items():
        score(name, StaticEncoder(tokens, bench.teacher.tokenizer.backend_tokenizer, UNIT, LENGTH).encode)
    chosen = ENCODERS[-1:] if asked.quick else ENCODERS
    for layers, width, inner in chosen if asked.encoders is None else ENCODERS[: asked.encoders]:
        name = f"{layers} × {width} × {inner}"
        for epoch, encoder in _encoders(bench, teacher, layers, width, inner, asked.epochs):
            score(f"{name}, {epoch} epoch(s)" if epoch else name, encoder.encode)
    counts = ", ".join(f"{len(c.queries)} of {len(c.documents)} ({s})" for s, c in corpora.items())
    table = Table(
        "Students of all-minilm-l6-v2",
        ["text", "student", "× teacher", *COLUMNS, "of the teacher's"],
        rows,
        [f"queries and documents: {counts}; {len(bench.chunks.train)} training chunks; × is of CPU seconds."],
    )
    return Result([table], figures, {"embeddings": bench.provenance()})


def _trained(spec: StudySpec, bench: SentenceEmbeddingBench) -> frozenset[str]:
    """Keys of the documents on the training side, whether or not the chunks that are taken reach them."""
    texts = documents.read(spec.data)
    lengths = tokenise(texts, bench.teacher.tokenizer, quiet).lengths
    _, train = by_tokens(lengths, texts, spec.data.held_out)
    return frozenset(texts.keys[int(row)] for row in train)


def _encoders(
    bench: SentenceEmbeddingBench, teacher: SentenceEncoder, layers: int, width: int, inner: int, epochs: int
) -> Iterator[tuple[int, SentenceEncoder]]:
    """A student as it is solved, and after each of its epochs."""
    sizes = {"num_hidden_layers": layers, "hidden_size": width, "head_size": 32, "intermediate_size": inner}
    wanted: dict[str, Any] = {**sizes, "hidden_act": "gelu"}
    student = bench.build({d.name: wanted[d.name] for d in bench.space.dimensions}, 0)
    training = bench.training(student, epochs=epochs, seed=0)
    for epoch in range(epochs + 1):
        found = training.run_epoch() if epoch else training.begin()
        say(f"{layers} × {width} × {inner}, {epoch} epochs: held-out {found.score}")
        yield epoch, SentenceEncoder(student.body.eval(), teacher.tokenizer, bench.layout_of(student)).shortened(LENGTH)


def _static(bench: SentenceEmbeddingBench, quick: bool) -> dict[str, Tensor]:
    """Tables of one step more each: of tokens alone or of means over text, cut by PCA, weighted, mapped, and with each
    token's own correction."""
    vocabulary, layout, ids = bench.teacher.config.vocab_size, bench.layout, bench.proxy.ids
    means = TokenMeans(vocabulary, bench.own.width)
    fewer = len(ids) - len(ids) // LEFT
    most, rest = (lesson(bench.teacher, layout, part, means, quiet, 0.0) for part in (ids[:fewer], ids[fewer:]))
    whole = most.and_(rest)
    plain = means.vectors(bench.teacher.body.get_input_embeddings().weight.detach())  # type: ignore[operator]
    weighted = plain * means.weights()[:, None]
    made, ridges = static_encoder.solved(weighted, most, rest)
    say(f"ridges {ridges}")

    def mapped(table: Tensor) -> Tensor:
        return static_encoder.mapped(table, whole.texts, whole.wanted, ridges["map"])

    found: dict[str, Tensor] = {}
    if not quick:
        alone = _alone(bench)
        short = _principal(alone, PRINCIPAL)
        found = {
            "tokens alone": alone,
            f"tokens alone, PCA {PRINCIPAL}": short,
            f"tokens alone, PCA {PRINCIPAL}, Zipf": short * _zipf(vocabulary),
            "tokens alone, Zipf, map": mapped(alone * _zipf(vocabulary)),
        }
    return {f"static: {name}": table for name, table in found.items()} | {
        "static: means": plain,
        f"static: means, PCA {PRINCIPAL}": _principal(plain, PRINCIPAL),
        "static: means, Zipf": plain * _zipf(vocabulary),
        "static: means, SIF": weighted,
        "static: means, SIF, map": mapped(weighted),
        "static: means, SIF, map, corrections": made,
    }


@torch.inference_mode()
def _alone(bench: SentenceEmbeddingBench) -> Tensor:
    """The teacher's pooled states of each token between the special ones."""
    first, last = special_tokens(bench.teacher.tokenizer)
    parts = []
    for tokens in torch.arange(int(bench.teacher.config.vocab_size)).split(512):
        rows = torch.stack([torch.full_like(tokens, first), tokens, torch.full_like(tokens, last)], 1)
        parts.append(whole_pooled(bench.teacher.body(input_ids=rows).last_hidden_state, bench.layout))
    return torch.cat(parts)


def _principal(table: Tensor, width: int) -> Tensor:
    """The rows' first principal components."""
    middle = (table - table.mean(0)).double()
    return (middle @ torch.linalg.eigh(middle.t() @ middle).eigenvectors[:, -width:]).float()


def _zipf(vocabulary: int) -> Tensor:
    """Model2Vec's weights [vocabulary, 1]: SIF of the shares that Zipf's law gives to places in the vocabulary."""
    share = 1 / torch.arange(2.0, vocabulary + 2)
    return (ZIPF / (ZIPF + share / share.sum()))[:, None]


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
    parser.add_argument("--epochs", type=int, default=0, help="in which encoders are trained, scored after each")
    parser.add_argument("--rate", type=float, default=1e-4, help="step size of these")
    parser.add_argument("--encoders", type=int, metavar="N", help="only the first so many of the encoders")
    parser.add_argument("--first", action="store_true", help=f"{SOURCES[0]} alone")


if __name__ == "__main__":
    run("Sentence-embedding students beside their teacher.", measure, _options)
