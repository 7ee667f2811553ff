"""A static student of a sentence encoder: a table of token vectors, solved on text and written as a folder.

No training and no search; how a table is solved is in kdnas/recipes/static_students.py.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from kdnas.data import chunks as chunking
from kdnas.data.tokens import tokenizer_fingerprint
from kdnas.measuring.devices import as_studies, resolve_device
from kdnas.models import sentence_layout
from kdnas.recipes import static_students
from kdnas.recipes.teacher_space import Texts
from kdnas.students import model_folder
from kdnas.students.model_card import TEMPLATES
from kdnas.study.spec import StudySpec
from kdnas.system import fingerprint, folders, versions
from kdnas.system.files import write_atomically
from kdnas.system.progress import Progress
from kdnas.system.templates import render
from kdnas.teachers import encoder


@as_studies()
def make(spec: StudySpec, output: Path, on_progress: Progress) -> dict[str, Any]:
    """Solve a static student of the spec's teacher on the training part of its text; what `kdnas.json` says.

    The same spec finds its finished folder. Raises UsageError for a teacher that is no sentence encoder, for one with a
    tokenizer that the folder could not hold, and where something else is under the folder's name.
    """
    output = output.absolute()
    key = fingerprint.run_key({"static": 2, **{part: _values(spec)[part] for part in ("teacher", "data")}})
    if model_folder.finished(output, key):
        on_progress(f"{output} is finished already", 1.0)
        return model_folder.read_facts(output)
    device = resolve_device(spec.device)
    teacher = encoder.load(spec.teacher, device, on_progress)
    layout = sentence_layout.read(teacher.folder, teacher.name)
    if layout is None:
        raise sentence_layout.no_sentence_encoder(teacher.name)
    chunks = chunking.chunks(spec.data, 1.0, teacher.tokenizer, on_progress)
    train, held = static_students.solved_on(chunks.train), torch.from_numpy(chunks.held_out)
    encoder.require_finite(teacher, train[:8])
    table, chosen = static_students.solved(teacher, layout, train, chunks.beginnings, spec.data.source, on_progress)
    scored = static_students.lesson(teacher, layout, Texts(held), None, on_progress, 0.97)
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
                "sif": chosen["sif"],
                "ridges": {name: chosen[name] for name in ("map", "tokens")},
                "cosine": scored.cosine(table),
            },
            "versions": versions.versions(),
        }
    )
    with folders.whole(output) as work:
        static_students.write(table, teacher, layout, work)
        write_atomically(work / model_folder.FACTS, json.dumps(facts, indent=2, ensure_ascii=False) + "\n")
        write_atomically(work / model_folder.CARD, _card(facts))
    folders.partial_of(output).rmdir()
    on_progress("done", 1.0)
    return facts


def _values(spec: StudySpec) -> dict[str, Any]:
    return spec.model_dump(mode="json")


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
