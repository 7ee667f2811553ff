"""What the outputs of a classification head mean: its classes by name, and their places in a data set's order.

Everything that reads, copies, cuts, adapts or fine-tunes a head asks here. Opens no model and trains nothing.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from kdnas.data.label_forms import look
from kdnas.system.errors import UsageError

NAMELESS = re.compile(r"label_\d+", re.IGNORECASE)


def class_names(config: Any) -> tuple[str, ...] | None:
    """The head's classes by place: from `id2label`, else from `label2id`; None where both only count (LABEL_0 …)."""
    count = int(config.num_labels)
    own = {int(place): str(label) for place, label in (config.id2label or {}).items()}
    back = {int(place): str(label) for label, place in (config.label2id or {}).items()}
    for table in (own, back):
        if sorted(table) == list(range(count)) and not all(NAMELESS.fullmatch(label) for label in table.values()):
            return tuple(table[place] for place in range(count))
    return None


def shown_names(config: Any) -> tuple[str, ...]:
    """The head's classes by place, for people; LABEL_0 and so on where it names none."""
    return class_names(config) or tuple(str(config.id2label[place]) for place in range(int(config.num_labels)))


def require_one_of_several(config: Any, name: str) -> None:
    """Raise UsageError for a head that does not choose exactly one of several labels, or does not say which."""
    kind = config.problem_type
    if config.num_labels >= 2 and kind not in ("regression", "multi_label_classification"):
        _require_sound_names(config, name)
        return
    why = f"problem_type is {kind}" if kind else f"it has {config.num_labels} label"
    raise UsageError(
        f"The head of {name!r} does not choose one of several labels: {why}.",
        "Give a classifier that does, or a model without a head, which is then taught.",
    )


def _require_sound_names(config: Any, name: str) -> None:
    """Raise UsageError for an id2label that leaves open which class an output stands for. A label2id that says
    otherwise is stale: transformers names outputs by id2label."""
    count, own = int(config.num_labels), config.id2label or {}

    def refuse(why: str) -> None:
        raise UsageError(
            f"The head of {name!r} does not say which class is which: {why}.",
            "Correct id2label in its config.json.",
        )

    if sorted(map(int, own)) != list(range(count)):
        refuse(f"id2label names the places {', '.join(map(str, sorted(map(int, own))[:8]))}, not 0 to {count - 1}")
    names = [own[place] for place in range(count)]
    nameless = next((place for place, label in enumerate(names) if label is None or not str(label).strip()), None)
    if nameless is not None:
        refuse(f"id2label has no name at place {nameless}")
    twice = next((label for place, label in enumerate(names) if label in names[:place]), None)
    if twice is not None:
        refuse(f"id2label names {twice!r} twice")


def places(own: Sequence[str], names: Sequence[str]) -> tuple[int, ...] | None:
    """The place in `own` of each of `names`, by their letters and else without regard to case and blanks; None where
    the two do not name the same classes. Names that are all numbers below their count, or LABEL_ and such a number,
    are places."""
    for fold in (str, same_name):
        table = {fold(label): place for place, label in enumerate(own)}
        wanted = [fold(name) for name in names]
        if len(table) == len(own) and set(wanted) == set(table) and len(set(wanted)) == len(names) == len(own):
            return tuple(table[name] for name in wanted)
    return _numbered(names) if len(own) == len(names) else None


def same_name(label: str) -> str:
    """Equal for names that differ in case, blanks and unseen characters alone."""
    return look(str(label)).casefold()


def _numbered(names: Sequence[str]) -> tuple[int, ...] | None:
    bare = [name[len("label_") :] if NAMELESS.fullmatch(name) else name for name in names]
    if sorted(bare) != sorted(map(str, range(len(names)))):
        return None
    return tuple(int(name) for name in bare)


def order_of(config: Any, names: Sequence[str]) -> tuple[int, ...] | None:
    """The head's place of each class of the data; None for a head without names meeting classes that have some.

    Raises UsageError for a head whose classes are others than the data's.
    """
    own = class_names(config)
    if own is None:
        return _numbered(names)
    found = places(own, names)
    if found is None:
        raise UsageError(
            f"The teacher's classes are {_listed(own)}; the data's are {_listed(names)}.",
            "Name them alike in the data, or give a teacher of this data.",
        )
    return found


def order_by_examples(logits: torch.Tensor, labels: np.ndarray) -> tuple[int, ...]:
    """The head's place of each class by which most of the examples, logits [n, classes] and labels [n], are right.

    The data's own order where no other is better.
    """
    classes = logits.shape[1]
    table = np.zeros((classes, classes))
    np.add.at(table, (labels, logits.argmax(-1).numpy()), 1.0)
    table += np.eye(classes) * 1e-6
    from scipy.optimize import linear_sum_assignment  # the half second that it takes to load is for those with a head

    return tuple(int(place) for place in linear_sum_assignment(table, maximize=True)[1])


def require_same_order(found: Sequence[int], names: Sequence[str], name: str) -> None:
    """Raise UsageError where the examples say that a head without names has another order than the data's classes."""
    if tuple(found) == tuple(range(len(names))):
        return
    place = next(i for i, other in enumerate(found) if i != other)
    raise UsageError(
        f"The head of {name!r} names no classes (LABEL_0 …), and by the held-out examples its order is not the data's: "
        f"LABEL_{found[place]} is {names[place]!r}.",
        "Write the classes' names into id2label of its config.json, each at its own place.",
    )


def rename(config: Any, names: Sequence[str]) -> None:
    """A configuration of a head that chooses one of `names`, in this order."""
    config.id2label = {place: str(name) for place, name in enumerate(names)}
    config.label2id = {str(name): place for place, name in enumerate(names)}
    config.problem_type = None


@torch.no_grad()
def reorder(model: Any, order: Sequence[int], names: Sequence[str]) -> None:
    """Put the rows of a classifier's last layer into the order `order[i]` = place of class i, and name them so."""
    layer = last_layer(model, len(order))
    for parameter in layer.parameters():
        parameter.copy_(parameter[list(order)])
    rename(model.config, names)


def last_layer(model: Any, classes: int) -> torch.nn.Linear:
    """The linear layer that gives a classifier's logits. Raises UsageError for a model in which it is not found."""
    # A model without a body of its own, such as a recurrent one, is its own base model.
    body = set() if model.base_model is model else {id(module) for module in model.base_model.modules()}
    found = [m for m in model.modules() if isinstance(m, torch.nn.Linear) and id(m) not in body]
    if not found or found[-1].out_features != classes:
        raise UsageError(
            f"The head of a {type(model).__name__} is of a kind whose classes cannot be put in order.",
            "Name the classes in the order of the data in id2label of its config.json.",
        )
    return found[-1]


def _listed(names: Sequence[str]) -> str:
    return ", ".join(map(repr, names[:8])) + (" …" if len(names) > 8 else "")
