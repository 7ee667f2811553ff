"""The plain method of hidden-state distillation, written from its description: the yardstick of benchmarks.evaluator.

For each candidate and batch the whole teacher with its vocabulary head, then the whole student with its head, on text
padded to the full length; default AdamW, nothing cached, everything fresh for each candidate. Uses nothing of
kdnas but the tokenised text that it is given.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from transformers import AutoModel, BertConfig, BertForMaskedLM, PreTrainedModel

from kdnas.system import seeds

States = Sequence[torch.Tensor] | Mapping[int, torch.Tensor]  # the teacher's block outputs by layer


def with_head(body: PreTrainedModel, config: BertConfig) -> BertForMaskedLM:
    """A masked-language model of this configuration; with the weights of `body`, and a head tied to its embeddings.

    The sentence encoder that ships as the teacher has no vocabulary head of its own: one of the usual form costs what
    any would.
    """
    model = BertForMaskedLM(config)
    if body is not None:
        model.bert.load_state_dict(body.state_dict(), strict=False)
    model.tie_weights()
    return model


class PlainKD:
    """One candidate's distillation. `step` is one batch; nothing is shared between candidates."""

    def __init__(self, teacher_folder: str, student: Mapping[str, Any], learning_rate: float = 5e-5) -> None:
        body = AutoModel.from_pretrained(teacher_folder, dtype=torch.float32, add_pooling_layer=False)
        self.teacher = with_head(body, body.config).eval()
        keys = {k: v for k, v in student.items() if k != "model_type"}
        self.student = BertForMaskedLM(BertConfig(**keys)).train()
        self.layers = int(student["num_hidden_layers"])
        self.depth = int(body.config.num_hidden_layers)
        wide, narrow = int(body.config.hidden_size), int(student["hidden_size"])
        self.projections = torch.nn.ModuleList(torch.nn.Linear(narrow, 2 * wide) for _ in range(self.layers))
        trained = [*self.student.parameters(), *self.projections.parameters()]
        self.optimiser = torch.optim.AdamW(trained, lr=learning_rate)

    def step(self, ids: torch.Tensor, mask: torch.Tensor) -> float:
        """One step on `ids` [batch, length], of which `mask` says which are real tokens; the loss."""
        with torch.no_grad():
            theirs = self.teacher(input_ids=ids, attention_mask=mask, output_hidden_states=True).hidden_states[1:]
        ours = self.student(input_ids=ids, attention_mask=mask, output_hidden_states=True).hidden_states[1:]
        return self._learn(ours, theirs, mask)

    def same_step(self, ids: torch.Tensor, mask: torch.Tensor, theirs: Mapping[int, torch.Tensor]) -> float:
        """What `step` learns, at less cost: without the heads, which its loss does not see, and with the teacher's
        block outputs given by layer. Not to be timed."""
        ours = self.student.bert(input_ids=ids, attention_mask=mask, output_hidden_states=True).hidden_states[1:]
        return self._learn(ours, theirs, mask)

    def sources(self, layer: int) -> tuple[int, int]:
        """The teacher's layers that a student's layer learns from: uniform and last."""
        return layer * self.depth // self.layers, self.depth - self.layers + layer

    def _learn(self, ours: Sequence[torch.Tensor], theirs: States, mask: torch.Tensor) -> float:
        real = mask.bool()
        loss = torch.zeros(())
        for i, (state, projection) in enumerate(zip(ours, self.projections, strict=True)):
            target = torch.cat([theirs[source] for source in self.sources(i)], dim=-1)
            loss = loss + torch.nn.functional.mse_loss(projection(state)[real], target[real])
        loss = loss / self.layers
        self.optimiser.zero_grad()
        loss.backward()
        self.optimiser.step()
        return float(loss.detach())


def padded(texts: list[str], tokenizer: Any, length: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Every text cut at `length` and padded to it, as a data set of texts is when nothing joins them."""
    coded = tokenizer(texts, truncation=True, max_length=length, padding="max_length", return_tensors="pt")
    return coded["input_ids"], coded["attention_mask"]


def batches(ids: torch.Tensor, mask: torch.Tensor, size: int, seed: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Endless shuffled batches."""
    rng = seeds.generator(seed, seeds.Benchmark.SAMPLE)
    while True:
        for rows in torch.from_numpy(rng.permutation(len(ids))).split(size):
            if len(rows) == size:
                yield ids[rows], mask[rows]
