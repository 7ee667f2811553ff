"""A static student of a sentence encoder: a table of token vectors, solved on text and written as a folder.

No training and no search; the arithmetic is in kdnas/models/static_encoder.py.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from kdnas.data import chunks as chunking
from kdnas.data.tokens import tokenizer_fingerprint
from kdnas.measuring.device_lock import Turn
from kdnas.measuring.devices import as_studies, resolve_device
from kdnas.models import sentence_layout, static_encoder
from kdnas.models.sentence_encoder import pooled
from kdnas.models.sentence_layout import Layout, Normalise
from kdnas.models.static_encoder import Lesson, StaticEncoder, TokenMeans
from kdnas.recipes import teacher_space
from kdnas.students import model_folder
from kdnas.students.model_card import TEMPLATES
from kdnas.study.spec import StudySpec
from kdnas.system import fingerprint, folders, versions
from kdnas.system.errors import UsageError
from kdnas.system.files import write_atomically
from kdnas.system.progress import Progress
from kdnas.system.templates import render
from kdnas.teachers import encoder

CHUNKS = 2048  # most of them that the table is solved on, besides as many parts


@as_studies()
def make(spec: StudySpec, output: Path, on_progress: Progress) -> dict[str, Any]:
    """Solve a static student of the spec's teacher on the training part of its text; what `kdnas.json` says.

    The same spec finds its finished folder. Raises UsageError for a teacher that is no sentence encoder, for one with a
    tokenizer that the folder could not hold, and where something else is under the folder's name.
    """
    output = output.absolute()
    key = fingerprint.run_key({"static": 1, **{part: _values(spec)[part] for part in ("teacher", "data")}})
    if model_folder.finished(output, key):
        on_progress(f"{output} is finished already", 1.0)
        return model_folder.read_facts(output)
    device = resolve_device(spec.device)
    teacher = encoder.load(spec.teacher, device, on_progress)
    layout = sentence_layout.read(teacher.folder, teacher.name)
    if layout is None:
        raise sentence_layout.no_sentence_encoder(teacher.name)
    chunks = chunking.chunks(spec.data, 1.0, teacher.tokenizer, on_progress)
    train, held = torch.from_numpy(chunks.train[:CHUNKS]), torch.from_numpy(chunks.held_out)
    encoder.require_finite(teacher, train[:8])
    fewer = max(1, len(train) - len(train) // teacher_space.LEFT)
    means = TokenMeans(int(teacher.config.vocab_size), teacher.hidden)
    lessons = [
        lesson(teacher, layout, part, means, on_progress, share)
        for part, share in ((train[:fewer], 0.0), (train[fewer:], 0.7))
        if len(part)
    ]
    if len(lessons) < 2:
        raise UsageError(
            f"{spec.data.source!r} has {len(train)} chunk(s) of {spec.data.length} tokens to learn from.",
            "Give more text, or a smaller data.length.",
        )
    scored = lesson(teacher, layout, held, None, on_progress, 0.9)
    on_progress("solving the table", 0.95)
    table = means.vectors(teacher.body.get_input_embeddings().weight.detach().cpu()) * means.weights()[:, None]  # type: ignore[operator]
    table, ridges = static_encoder.solved(table, *lessons)
    own = Layout(
        steps=(Normalise(),) if layout.normalised else (),
        prompts=layout.prompts,
        default_prompt_name=layout.default_prompt_name,
        similarity=layout.similarity,
    )
    facts = model_folder.stamp(
        {
            "run": key,
            "kind": "static",
            "spec": _values(spec),
            "parameters": table.numel(),
            "teacher": {"model": teacher.name, "fingerprint": teacher.fingerprint},
            "data": {"source": spec.data.source, "fingerprint": chunks.fingerprint},
            "provenance": {
                "data": spec.data.source,
                **chunks.record,
                "tokenizer_fingerprint": tokenizer_fingerprint(teacher.tokenizer),
                "chunks": len(train),
            },
            "embedding": {
                "library": "sentence-transformers",
                "width": table.shape[1],
                "normalised": layout.normalised,
                "ridges": ridges,
                "cosine": scored.cosine(table),
            },
            "versions": versions.versions(),
        }
    )
    with folders.whole(output) as work:
        StaticEncoder(table, teacher.tokenizer.backend_tokenizer, own).write(work)
        teacher.tokenizer.save_pretrained(work)
        _without_truncation(work / "tokenizer.json")
        write_atomically(work / model_folder.FACTS, json.dumps(facts, indent=2, ensure_ascii=False) + "\n")
        write_atomically(work / model_folder.CARD, _card(facts))
    folders.partial_of(output).rmdir()
    on_progress("done", 1.0)
    return facts


def _values(spec: StudySpec) -> dict[str, Any]:
    return spec.model_dump(mode="json")


@torch.inference_mode()
def lesson(
    teacher: encoder.Teacher,
    layout: Layout,
    ids: torch.Tensor,
    means: TokenMeans | None,
    on_progress: Progress,
    share: float,
) -> Lesson:
    """Whole chunks and parts of `ids` [chunks, length] without their special tokens, and the teacher's vectors of
    them; `means` sums up its states."""
    special = set(teacher.tokenizer.all_special_ids)
    texts: list[list[int]] = []
    wanted: list[torch.Tensor] = []
    with Turn(teacher.device) as turn:
        for rows, _ in teacher_space.texts_of(ids, teacher_space.BATCH):
            states = teacher.body(input_ids=rows.to(teacher.device)).last_hidden_state.float()
            mask = torch.ones(states.shape[:2], dtype=torch.long, device=states.device)
            wanted.append(layout.finished(pooled(states, mask, layout.pooling)).cpu())
            texts += [[token for token in row if token not in special] for row in rows.tolist()]
            if means is not None:
                means.add(rows, states.cpu())
            turn.step()
            on_progress(f"asking the teacher for {len(texts):,} vectors", share)
    full = [place for place, row in enumerate(texts) if row]
    bags = static_encoder.bags([texts[place] for place in full], int(teacher.config.vocab_size))
    return Lesson(bags, torch.cat(wanted)[full])


def _without_truncation(path: Path) -> None:
    """sentence-transformers takes the file as it is, and a static encoder reads texts whole."""
    values = json.loads(path.read_text(encoding="utf-8"))
    values["truncation"] = values["padding"] = None
    path.write_text(json.dumps(values, ensure_ascii=False), encoding="utf-8")


def _card(facts: Mapping[str, Any]) -> str:
    return render(
        TEMPLATES,
        "static.md",
        teacher=Path(str(facts["teacher"]["model"])).name,
        data=Path(str(facts["data"]["source"])).name,
        parameters=f"{facts['parameters']:,}",
        width=facts["embedding"]["width"],
        cosine=f"{facts['embedding']['cosine']:.3f}",
        chunks=facts["provenance"]["chunks"],
        kdnas=facts["kdnas"],
        teacher_fingerprint=facts["teacher"]["fingerprint"],
        data_fingerprint=facts["data"]["fingerprint"],
        facts_file=model_folder.FACTS,
    )
