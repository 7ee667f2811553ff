"""Sentence-embedding students beside their teacher: `python -m benchmarks.embeddings [--quick] [--json FILE]`.

Encoders are students of the recipe sentence-embedding, as they are solved and, with `--epochs`, trained. Static
students have one step more from row to row (`static_steps.py`). With `--only public` both stand beside public small
encoders (`public_encoders.py`), where encoders are run by onnxruntime. All students learn from the training documents
of one corpus, `--text`. They are asked held-out queries of it, and queries of the other, of which none has seen a word.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from benchmarks import public_encoders, static_steps
from benchmarks.embedding_board import Board
from benchmarks.public_encoders import MIB, OnnxEncoder
from benchmarks.report import Result, run, say
from kdnas.data import documents, retrieval
from kdnas.data.splits import by_tokens
from kdnas.data.tokens import tokenise
from kdnas.models.sentence_encoder import SentenceEncoder
from kdnas.models.sentence_layout import Dense, Layout
from kdnas.models.static_encoder import StaticEncoder
from kdnas.recipes import recipe
from kdnas.recipes.sentence_embedding import SentenceEmbeddingBench
from kdnas.study.spec import StudySpec, from_values
from kdnas.training.contract import Student

SOURCES = ("bbc-news", "sotu")
LENGTH = 128
UNIT = Layout()
ENCODERS = ((3, 384, 1536), (3, 384, 384), (2, 256, 384), (1, 192, 384))
PARTS = ENCODER, STATIC, PUBLIC = ("encoders", "static", "public")


def quiet(words: str, share: float | None) -> None:
    return None


def measure(asked: argparse.Namespace) -> Result:
    torch.set_num_threads(1)
    parts = asked.only or [ENCODER, STATIC]
    if PUBLIC in parts:
        public_encoders.require()
    spec = _spec(asked)
    bench = recipe("sentence-embedding").prepare(spec, torch.device("cpu"), quiet)
    assert isinstance(bench, SentenceEmbeddingBench)
    teacher = SentenceEncoder(bench.teacher.body, bench.teacher.tokenizer, bench.layout).shortened(LENGTH)
    board = Board(_corpora(asked, spec, bench), teacher.encode)
    with tempfile.TemporaryDirectory() as work:
        if PUBLIC in parts:
            _public(board, bench, _sizes(asked), asked.epochs, Path(work))
        if STATIC in parts:
            for name, table in static_steps.tables(bench, asked.quick).items():
                static = StaticEncoder(table, bench.teacher.tokenizer.backend_tokenizer, UNIT, LENGTH)
                board.score(name, static.encode, _static_size(static))
        if ENCODER in parts:
            for sizes in _sizes(asked):
                for name, student in _students(bench, sizes, asked.epochs):
                    layout = bench.layout_of(student)
                    encoder = SentenceEncoder(student.body.eval(), teacher.tokenizer, layout).shortened(LENGTH)
                    board.score(name, encoder.encode, _size(student, layout))
    note = f"{len(bench.chunks.train)} training chunks of {LENGTH} tokens of {asked.text}"
    return board.result("Students of all-minilm-l6-v2", {"embeddings": bench.provenance()}, note)


def _spec(asked: argparse.Namespace) -> StudySpec:
    limit = 200 if asked.quick else asked.chunks
    return from_values(
        {
            "device": "cpu",
            "teacher": {"model": "all-minilm-l6-v2"},
            "data": {"source": asked.text, "length": LENGTH, "held_out": 0.2, "limit": limit, "max_held_out": 64},
            "recipe": {"name": "sentence-embedding", "hidden": asked.hidden},
            "budget": {"epochs": asked.epochs, "trials": 8, "proxy_fraction": 1.0, "short_text": "train"},
            "training": {"learning_rate": asked.rate},
        }
    )


def _corpora(
    asked: argparse.Namespace, spec: StudySpec, bench: SentenceEmbeddingBench
) -> Mapping[str, retrieval.Retrieval]:
    """Queries of the training text's own corpus that no student has seen, and, unless `--first`, of the other."""
    queries, index = (60, 150) if asked.quick else (asked.queries, asked.documents)
    trained = _trained(spec, bench)
    sources = [asked.text] if asked.first else [asked.text, *(one for one in SOURCES if one != asked.text)]
    return {source: retrieval.read(source, None, None, trained, queries, index, quiet) for source in sources}


def _trained(spec: StudySpec, bench: SentenceEmbeddingBench) -> frozenset[str]:
    """Keys of the documents on the training side, whether or not the chunks that are taken reach them."""
    texts = documents.read(spec.data)
    lengths = tokenise(texts, bench.teacher.tokenizer, quiet).lengths
    _, train = by_tokens(lengths, texts, spec.data.held_out)
    return frozenset(texts.keys[int(row)] for row in train)


def _sizes(asked: argparse.Namespace) -> tuple[tuple[int, int, int], ...]:
    return tuple(asked.encoder or (ENCODERS[-1:] if asked.quick else ENCODERS))


def _given_sizes(given: str) -> tuple[int, int, int]:
    layers, width, inner = map(int, given.split("x"))
    return layers, width, inner


def _students(bench: SentenceEmbeddingBench, sizes: tuple[int, int, int], epochs: int) -> Iterator[tuple[str, Student]]:
    """A student of so many layers, width and neurons as it is solved, and after each of its epochs."""
    layers, width, inner = sizes
    wanted: dict[str, Any] = {
        "num_hidden_layers": layers,
        "hidden_size": width,
        "head_size": 32,
        "intermediate_size": inner,
        "hidden_act": "gelu",
    }
    student = bench.build({d.name: wanted[d.name] for d in bench.space.dimensions}, 0)
    training = bench.training(student, epochs=epochs, seed=0)
    name = f"{layers} × {width} × {inner}"
    for epoch in range(epochs + 1):
        found = training.run_epoch() if epoch else training.begin()
        say(f"{name}, {epoch} epochs, {found.seconds:.0f} s: held-out {found.score}")
        yield (f"{name}, {epoch} epoch(s)" if epoch else name), student


def _public(
    board: Board, bench: SentenceEmbeddingBench, chosen: tuple[tuple[int, int, int], ...], epochs: int, work: Path
) -> None:
    """Public encoders, and beside them encoders as onnxruntime runs them, the teacher among these, and the static
    student with all of its steps."""
    shutil.copytree(bench.teacher.folder, work / "teacher")
    teacher = _as_onnx(work / "teacher", bench, bench.layout)
    board.score("the teacher", teacher, _file_size(work / "teacher"), beside=teacher)
    for name, encode, size in public_encoders.encoders(bench.teacher.folder, LENGTH):
        board.score(name, encode, size, beside=teacher)
    for place, sizes in enumerate(chosen):
        for turn, (name, student) in enumerate(_students(bench, sizes, epochs)):
            if turn not in (0, epochs):
                continue
            folder = work / f"{place}-{turn}"
            folder.mkdir()
            bench.save(student, folder)
            encoder = _as_onnx(folder, bench, bench.layout_of(student))
            board.score(name, encoder, _file_size(folder), beside=teacher)
    *_, (name, table) = static_steps.tables(bench, quick=True).items()
    static = StaticEncoder(table, bench.teacher.tokenizer.backend_tokenizer, UNIT, LENGTH)
    board.score(name, static.encode, _static_size(static), beside=teacher)


def _as_onnx(folder: Path, bench: SentenceEmbeddingBench, layout: Layout) -> OnnxEncoder:
    """The encoder in a folder, which gets the file."""
    from kdnas.models.onnx import export

    export(folder, bench.spec.latency)
    return public_encoders.onnx_encoder(folder / "model.onnx", folder / "tokenizer.json", layout, LENGTH)


def _file_size(folder: Path) -> float:
    return (folder / "model.onnx").stat().st_size / MIB


def _static_size(static: StaticEncoder) -> float:
    return static.table.nbytes / MIB


def _size(student: Student, layout: Layout) -> float:
    layers = [step for step in layout.steps if isinstance(step, Dense)]
    own = sum(one.weight.numel() + (0 if one.bias is None else one.bias.numel()) for one in layers)
    return (student.size + own) * 4 / MIB


def _options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--only", action="append", choices=PARTS, help="this part; may be given more than once")
    parser.add_argument("--text", choices=SOURCES, default=SOURCES[0], help="the corpus that students learn from")
    parser.add_argument("--chunks", type=int, default=2500, help="chunks of 128 tokens, some of them held out")
    parser.add_argument("--queries", type=int, default=445)
    parser.add_argument("--documents", type=int, default=2225, help="that each query is asked against")
    parser.add_argument("--epochs", type=int, default=0, help="in which encoders are trained, scored after each")
    parser.add_argument("--rate", type=float, default=2e-4, help="step size of these")
    parser.add_argument("--hidden", type=float, default=1.0, help="weight of the tokens' last states in these")
    parser.add_argument(
        "--encoder",
        action="append",
        type=_given_sizes,
        metavar="LxWxN",
        help="this encoder; may be given more than once",
    )
    parser.add_argument("--first", action="store_true", help="the corpus that students learn from alone")


if __name__ == "__main__":
    run("Sentence-embedding students beside their teacher.", measure, _options)
