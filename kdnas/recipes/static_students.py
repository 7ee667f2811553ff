"""Static students of sentence encoders: a table of token vectors solved on text, as a point of a search and alone.

The arithmetic is in kdnas/models/static_encoder.py; here it meets a teacher. No student here learns by steps.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from kdnas.measuring.device_lock import Turn
from kdnas.models import static_encoder
from kdnas.models.sentence_encoder import pooled
from kdnas.models.sentence_layout import Layout, Normalise
from kdnas.models.static_encoder import Lesson, StaticEncoder, TokenMeans
from kdnas.recipes import teacher_space
from kdnas.recipes.teacher_space import Texts
from kdnas.system.errors import UsageError
from kdnas.system.progress import Progress
from kdnas.teachers.encoder import Teacher
from kdnas.training.contract import Bench, Epoch, OnStep, Student, Training

CHUNKS = 2048  # most of them that a table is solved on, besides as many parts


class Table(nn.Module):
    """One vector for each token; a text's is their mean. It is timed on the ids that encoders are timed on."""

    def __init__(self, vocabulary: int, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(vocabulary, width), requires_grad=False)

    def forward(self, input_ids: Tensor) -> Tensor:
        """Token ids [rows, length] → [rows, width]."""
        return functional.embedding_bag(input_ids, self.weight, mode="mean")


def table_of(student: Student) -> Table:
    assert isinstance(student.body, Table)
    return student.body


@torch.inference_mode()
def lesson(
    teacher: Teacher,
    layout: Layout,
    asked: Texts,
    means: TokenMeans | None,
    on_progress: Progress,
    share: float | None,
) -> Lesson:
    """What is asked without its special tokens, and the teacher's vectors of it; `means` sums up its states."""
    texts: list[list[int]] = []
    wanted: list[Tensor] = []
    with Turn(teacher.device) as turn:
        for rows, _ in asked.batches(teacher_space.BATCH):
            states = teacher.body(input_ids=rows.to(teacher.device)).last_hidden_state.float()
            mask = torch.ones(states.shape[:2], dtype=torch.long, device=states.device)
            wanted.append(layout.finished(pooled(states, mask, layout.pooling)).cpu())
            texts += without_special(teacher, rows)
            if means is not None:
                means.add(rows, states.cpu())
            turn.step()
            on_progress(f"asking the teacher for {len(texts):,} vectors", share)
    full = [place for place, row in enumerate(texts) if row]
    bags = static_encoder.bags([texts[place] for place in full], int(teacher.config.vocab_size))
    return Lesson(bags, torch.cat(wanted)[full])


def without_special(teacher: Teacher, rows: Tensor) -> list[list[int]]:
    """What of each row of ids is text: unknown words, too, since a static student embeds them."""
    tokenizer = teacher.tokenizer
    framing = {tokenizer.cls_token_id, tokenizer.sep_token_id}
    special = set(tokenizer.all_special_ids) - {tokenizer.unk_token_id} | framing
    return [[token for token in row if token not in special] for row in rows.tolist()]


def solved_on(chunks: np.ndarray) -> Tensor:
    """Those of the chunks [chunks, length] that a table is solved on."""
    return torch.from_numpy(chunks[:CHUNKS])


def solved(
    teacher: Teacher, layout: Layout, ids: Tensor, begun: Sequence[np.ndarray], source: str, on_progress: Progress
) -> tuple[Tensor, dict[str, float]]:
    """The table [vocabulary, width] of a teacher, from chunks `ids` [chunks, length] of training text (`solved_on`) and
    from beginnings of its documents; and what was chosen on a fifth of them: the weighting (`sif`) and the ridges.
    Raises UsageError for too few chunks; `source` is for the message."""
    parts = teacher_space.parted(ids, begun)
    if len(parts) == 1:
        raise UsageError(
            f"{source!r} has {len(ids)} chunk(s) of {ids.shape[1]} tokens to learn from.",
            "Give more text, or a smaller data.length.",
        )
    means = TokenMeans(int(teacher.config.vocab_size), teacher.hidden)
    lessons = [
        lesson(teacher, layout, part, means, on_progress, share) for part, share in zip(parts, (0.0, 0.7), strict=True)
    ]
    on_progress("solving the table", 0.95)
    embeddings = teacher.body.get_input_embeddings().weight.detach().cpu()  # type: ignore[operator]
    return static_encoder.solved(means.vectors(embeddings), means.weights, lessons[0], lessons[1])


def own_layout(layout: Layout) -> Layout:
    """A static student's, of its teacher's."""
    return Layout(
        steps=(Normalise(),) if layout.normalised else (),
        prompts=layout.prompts,
        default_prompt_name=layout.default_prompt_name,
        similarity=layout.similarity,
    )


def write(table: Tensor, teacher: Teacher, layout: Layout, folder: Path) -> None:
    """The folder of a static student, which sentence-transformers opens."""
    folder.mkdir(parents=True, exist_ok=True)
    StaticEncoder(table, teacher.tokenizer.backend_tokenizer, own_layout(layout)).write(folder)
    teacher.tokenizer.save_pretrained(folder)
    _without_truncation(folder / "tokenizer.json")


def _without_truncation(path: Path) -> None:
    """sentence-transformers takes the file as it is, and a static encoder reads texts whole."""
    values = json.loads(path.read_text(encoding="utf-8"))
    values["truncation"] = values["padding"] = None
    path.write_text(json.dumps(values, ensure_ascii=False), encoding="utf-8")


class SolvedOnce(Training):
    """The training of a student that is solved and learns nothing by steps: each epoch leaves it as it is."""

    def __init__(
        self, bench: Bench, student: Student, tokens: int, epochs: int, solve: Callable[[Student], None]
    ) -> None:
        self.bench, self.student, self.epochs = bench, student, epochs
        self.done, self._tokens, self._solve = 0, tokens, solve
        self._solved, self._seconds = False, 0.0

    def begin(self) -> Epoch:
        return self._scored()

    def run_epoch(self, on_step: OnStep | None = None) -> Epoch:
        self.done += 1
        return self._scored()

    def _scored(self) -> Epoch:
        began = time.perf_counter()
        if not self._solved:
            self._solve(self.student)
            self._solved = True
        score = self.bench.score(self.student)
        self._seconds += time.perf_counter() - began
        return Epoch(self.done, self.epochs, score, score.raw_loss, self._seconds, self._tokens)

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        tensors = {name: tensor.detach().clone() for name, tensor in self.student.body.state_dict().items()}
        return tensors, {"done": self.done, "epochs": self.epochs, "seconds": self._seconds, "solved": self._solved}

    def restore(self, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
        self.student.body.load_state_dict(dict(tensors))
        self.done, self._seconds, self._solved = int(facts["done"]), float(facts["seconds"]), bool(facts["solved"])
