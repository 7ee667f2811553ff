"""One model fine-tuned on one task with one seed and scored, on transformers' Trainer.

Opens the folder, trains, predicts, computes the metrics; caches nothing and writes no file that stays.
"""

from __future__ import annotations

import contextlib
import gc
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from random import getstate, setstate
from typing import Any

import numpy as np
import torch

from kdnas.data import hub
from kdnas.data.glue import Split, Task
from kdnas.measuring.device_lock import Turn
from kdnas.measuring.metrics import METRICS
from kdnas.models import class_order, classifier_head
from kdnas.models import open as opening
from kdnas.models.open import longest
from kdnas.models.quiet_transformers import hushed
from kdnas.models.tokenizer import ends_no_text
from kdnas.scores.training_texts import tokenizer_of
from kdnas.system.errors import KdnasError, UsageError


@dataclass(frozen=True)
class FineTuning:
    """How every model is fine-tuned on every task: AdamW, linear decay after warm-up, the last weights scored on
    the validation split, the median over the seeds. Nothing is chosen by looking at the validation split."""

    learning_rate: float = 5e-5
    batch_size: int = 32
    length: int = 128
    warmup: float = 0.06
    weight_decay: float = 0.01
    seeds: tuple[int, ...] = (0, 1, 2)
    finetune: bool = True
    limit: int | None = None  # train and score on the first so many examples only; for trying things out

    def values(self) -> dict[str, Any]:
        """As plain values for JSON."""
        return {**asdict(self), "seeds": list(self.seeds)}


class Encoded(torch.utils.data.Dataset[dict[str, Any]]):
    """Tokenised examples of one split, unpadded."""

    def __init__(self, tokenizer: Any, split: Split, length: int) -> None:
        self.fields = dict(tokenizer(*split.texts, truncation=True, max_length=length))
        self.labels = split.labels.tolist()

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {name: values[index] for name, values in self.fields.items()} | {"labels": self.labels[index]}


def score_once(
    folder: Path,
    task: Task,
    splits: Mapping[str, Split],
    seed: int,
    protocol: FineTuning,
    device: torch.device,
    step: Callable[[float], None],
) -> dict[str, float]:
    """Metric → value on the validation splits after fine-tuning (or as the model is, where the protocol says so)."""
    _require()
    with hushed(), _drawing(seed, device):
        return _scored(folder, task, splits, seed, protocol, device, step)


def _scored(
    folder: Path,
    task: Task,
    splits: Mapping[str, Split],
    seed: int,
    protocol: FineTuning,
    device: torch.device,
    step: Callable[[float], None],
) -> dict[str, float]:
    tokenizer = tokenizer_of(folder)
    turn = Turn(device)  # others may measure between the steps
    model = _classifier(folder, task, protocol)
    _pad_alike(model, tokenizer)
    length = longest(model.config, protocol.length)
    data = {name: Encoded(tokenizer, split, length) for name, split in splits.items()}
    with tempfile.TemporaryDirectory(prefix="kdnas-scores-") as scratch:
        trainer = _trainer(model, tokenizer, data.get("train"), task, seed, protocol, device, step, turn, scratch)
        if protocol.finetune:
            with turn:
                trainer.train()
        order = None if protocol.finetune else _label_order(model, task)
        metrics: dict[str, float] = {}
        for name in task.splits:
            with turn:
                metrics |= _metrics(trainer, data[name], name, task, order)
    del trainer, model
    gc.collect()
    return metrics


@contextlib.contextmanager
def _drawing(seed: int, device: torch.device) -> Iterator[None]:
    """Inside, the Trainer draws from the seed, by every generator that it uses; afterwards they go on as before."""
    import transformers

    pythons, numpys = getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        transformers.set_seed(seed)
        try:
            yield
        finally:
            setstate(pythons)
            np.random.set_state(numpys)


def _require() -> None:
    """Raise UsageError where accelerate is missing."""
    hub.quiet()
    try:
        import accelerate  # noqa: F401, the Trainer asks for it late and at length
    except ImportError:
        raise UsageError("Task scores need the package accelerate.", "Install it: pip install 'kdnas[eval]'.") from None
    import kdnas.models.recurrent  # noqa: F401, registers its classes


def _trainer(
    model: Any,
    tokenizer: Any,
    train: Encoded | None,
    task: Task,
    seed: int,
    protocol: FineTuning,
    device: torch.device,
    step: Callable[[float], None],
    turn: Turn,
    scratch: str,
) -> Any:
    """transformers' Trainer under the protocol, silent but for `step`."""
    import transformers
    from transformers import DataCollatorWithPadding, Trainer, TrainerCallback, TrainingArguments

    class Progress(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            turn.step()
            step(state.global_step / max(1, state.max_steps))

        def on_prediction_step(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            turn.step()

    arguments = TrainingArguments(
        output_dir=scratch,
        per_device_train_batch_size=protocol.batch_size,
        per_device_eval_batch_size=protocol.batch_size * 2,
        num_train_epochs=task.epochs,
        learning_rate=protocol.learning_rate,
        weight_decay=protocol.weight_decay,
        warmup_steps=protocol.warmup,
        lr_scheduler_type="linear",
        optim="adamw_torch_fused",
        train_sampling_strategy="group_by_length",
        seed=seed,
        use_cpu=device.type == "cpu",
        save_strategy="no",
        logging_strategy="no",
        report_to="none",
        disable_tqdm=True,
        dataloader_pin_memory=device.type == "cuda",
    )
    if device.type == "cuda":
        _keep_on(arguments, device)
    trainer = Trainer(
        model=model,
        args=arguments,
        train_dataset=train,
        data_collator=DataCollatorWithPadding(tokenizer),
        processing_class=tokenizer,
        callbacks=[Progress()],
    )
    # The Trainer prints its own log lines through these.
    for callback in (transformers.trainer_callback.PrinterCallback, transformers.trainer_callback.ProgressCallback):
        trainer.remove_callback(callback)
    return trainer


def _keep_on(arguments: Any, device: torch.device) -> None:
    """Of itself the Trainer takes cuda:0, or spreads a batch over every GPU, and the protocol's batch is another."""
    arguments.__dict__["_setup_devices"], arguments._n_gpu = device, 1
    torch.cuda.set_device(device)


def _metrics(trainer: Any, data: Encoded, name: str, task: Task, order: list[int] | None) -> dict[str, float]:
    """The task's metrics on one split; `order` gives the head's place of each of the task's labels."""
    # Grouping by length holds for prediction too: the labels come back in the order of the predictions.
    output = trainer.predict(data, metric_key_prefix="test")
    logits, labels = _logits(output.predictions), np.asarray(output.label_ids)
    if not np.isfinite(logits).all():
        raise KdnasError(f"{task.name}: the model gives values that are not numbers.", "Check its weights.")
    predicted = logits[:, 0] if task.regression else (logits if order is None else logits[:, order]).argmax(-1)
    suffix = "" if len(task.splits) == 1 else "." + name.removeprefix("validation_")
    return {metric + suffix: METRICS[metric](predicted, labels) for metric in task.metrics}


def _logits(predictions: Any) -> np.ndarray:
    first = predictions[0] if isinstance(predictions, tuple) else predictions
    return np.asarray(first, dtype=np.float64)


def _classifier(folder: Path, task: Task, protocol: FineTuning) -> Any:
    from transformers import AutoModelForSequenceClassification

    from kdnas.models import lora_adapters

    if lora_adapters.is_adapter(folder):
        with tempfile.TemporaryDirectory(prefix="kdnas-merged-") as place:
            lora_adapters.merged(folder, torch.device("cpu")).save_pretrained(place)
            return _classifier(Path(place), task, protocol)
    count = 1 if task.regression else len(task.labels)
    config = opening.open_config(folder, str(folder))
    if not protocol.finetune:
        if not any("SequenceClassification" in name for name in config.architectures or ()):
            raise UsageError(
                f"{folder} has no classification head (it is a {', '.join(config.architectures or ('bare model',))}).",
                "Leave out --no-finetune, so that one is trained.",
            )
        if config.num_labels != count:
            raise UsageError(
                f"The head in {folder} tells {config.num_labels} labels apart; {task.name} has {count}.",
                "Leave out --no-finetune, or choose the task that the head was trained for.",
            )
        return opening.open_weights(AutoModelForSequenceClassification, folder, str(folder), config).model
    own = None if task.regression or not opening.classifies(config) else class_order.class_names(config)
    if own is not None and class_order.places(own, task.labels) is not None:
        return classifier_head.opened_for(folder, str(folder), config, task.labels)[0]
    config.num_labels, config.problem_type = count, None
    return opening.open_weights(AutoModelForSequenceClassification, folder, str(folder), config, other_head=True).model


def _pad_alike(model: Any, tokenizer: Any) -> None:
    """The tokenizer pads with the token that the model takes for padding."""
    opening.padded(model, tokenizer)
    wanted = opening.padding(model, opening.pad_id(tokenizer))
    if tokenizer.convert_ids_to_tokens(wanted) is None:  # a row of the embeddings that no text has
        wanted = model.config.pad_token_id = ends_no_text(tokenizer)
    tokenizer.pad_token = tokenizer.convert_ids_to_tokens(wanted)


def _label_order(model: Any, task: Task) -> list[int] | None:
    """Where the head names its labels as the task does, the head's place of each of them; else its own order."""
    own = None if task.regression else class_order.class_names(model.config)
    found = None if own is None else class_order.places(own, task.labels)
    return None if found is None else list(found)
