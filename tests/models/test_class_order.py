"""What a head's outputs mean: by id2label, else label2id; names that only count say nothing; heads of other kinds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForSequenceClassification, BertConfig, BertForTokenClassification

from kdnas.models import class_order, classifier_head, lora_adapters
from kdnas.models import open as opening
from kdnas.system.errors import UsageError
from tests.encoders import FAMILIES, tiny_encoder
from tests.tiny import tiny_folder

CPU = torch.device("cpu")
IDS = torch.tensor([[2, 9, 17, 31, 3], [2, 40, 8, 3, 3]])
NAMES = ("glad", "mad", "sad")


def config(own: dict[int, str] | None = None, back: dict[str, int] | None = None, **more: Any) -> BertConfig:
    made = BertConfig(num_labels=3, **more)
    if own is not None:
        made.id2label = own
    if back is not None:
        made.label2id = back
    return made


def test_names_come_from_id2label_else_label2id_and_counting_names_say_nothing() -> None:
    named, turned = {0: "sad", 1: "glad", 2: "mad"}, {"mad": 0, "sad": 1, "glad": 2}
    assert class_order.class_names(config(named)) == ("sad", "glad", "mad")
    assert class_order.class_names(config(back=turned)) == ("mad", "sad", "glad")
    assert class_order.class_names(config(named, turned)) == ("sad", "glad", "mad")  # stale label2id
    assert class_order.class_names(config()) is None
    assert class_order.class_names(config({0: "label_0", 1: "Label_1", 2: "LABEL_2"})) is None


def test_the_heads_places_of_the_datas_classes() -> None:
    own = config({0: "Sad", 1: "GLAD", 2: "mad"})
    assert class_order.order_of(own, NAMES) == (1, 2, 0)
    assert class_order.order_of(own, ("0", "1", "2")) == (0, 1, 2)  # the data numbers what the head names
    assert class_order.order_of(config(), NAMES) is None
    assert class_order.order_of(config(), ("0", "1", "2")) == (0, 1, 2)
    assert class_order.order_of(config(), ("LABEL_2", "LABEL_0", "LABEL_1")) == (2, 0, 1)
    blank = config({0: "sad ", 1: " glad", 2: "m\u200bad"})
    assert class_order.order_of(blank, NAMES) == (1, 2, 0)
    with pytest.raises(UsageError, match="'Sad', 'GLAD', 'mad'; the data's are 'glad', 'mad', 'odd'"):
        class_order.order_of(own, ("glad", "mad", "odd"))


def test_classes_that_differ_in_case_alone_are_two() -> None:
    own = config({0: "us", 1: "US", 2: "them"})
    assert class_order.order_of(own, ("US", "them", "us")) == (1, 2, 0)
    with pytest.raises(UsageError, match="The teacher's classes are"):
        class_order.order_of(own, ("Us", "them", "us"))


@pytest.mark.parametrize("kind", ["regression", "multi_label_classification"])
def test_heads_that_do_not_choose_one_label_are_refused(kind: str) -> None:
    with pytest.raises(UsageError, match=f"does not choose one of several labels: problem_type is {kind}"):
        class_order.require_one_of_several(config(problem_type=kind), "m")
    with pytest.raises(UsageError, match="it has 1 label"):
        class_order.require_one_of_several(BertConfig(num_labels=1), "m")
    class_order.require_one_of_several(config(problem_type="single_label_classification"), "m")


@pytest.mark.parametrize(
    ("own", "said"),
    [
        ({0: "glad", 1: "glad", 2: "sad"}, "names 'glad' twice"),
        ({0: "glad", 1: "mad", 3: "sad"}, "names the places 0, 1, 3, not 0 to 2"),
        ({1: "glad", 2: "mad", 3: "sad"}, "names the places 1, 2, 3, not 0 to 2"),
        ({0: "glad", 1: None, 2: "sad"}, "no name at place 1"),
    ],
)
def test_tables_that_do_not_say_which_class_is_which_are_refused(own: Any, said: str) -> None:
    made = config()
    made.id2label = own
    with pytest.raises(UsageError, match=said):
        class_order.require_one_of_several(made, "m")


def test_tables_of_which_one_says_nothing_are_fine() -> None:
    for own, back in (({0: "sad", 1: "glad", 2: "mad"}, None), (None, {"mad": 0, "sad": 1, "glad": 2}), (None, None)):
        class_order.require_one_of_several(config(own, back), "m")
    assert class_order.shown_names(config(back={"mad": 0, "sad": 1, "glad": 2})) == ("mad", "sad", "glad")
    assert class_order.shown_names(config()) == ("LABEL_0", "LABEL_1", "LABEL_2")


def test_examples_show_the_order_of_a_head_without_names() -> None:
    labels = np.array([0, 1, 2] * 20)
    logits = torch.nn.functional.one_hot(torch.tensor([1, 0, 2] * 20), 3).float()
    assert class_order.order_by_examples(logits, labels) == (1, 0, 2)
    assert class_order.order_by_examples(torch.zeros(60, 3), labels) == (0, 1, 2)  # what says nothing changes nothing
    class_order.require_same_order((0, 1, 2), NAMES, "m")
    with pytest.raises(UsageError, match=r"LABEL_1 is 'glad'.*id2label"):
        class_order.require_same_order((1, 0, 2), NAMES, "m")


def headed(place: Path, family: str, order: tuple[str, ...] | None) -> Path:
    """A classifier of NAMES whose head has its own order, and says so where one is given."""
    base = tiny_encoder(place, family)
    tables = (
        {} if order is None else {"id2label": dict(enumerate(order)), "label2id": {n: i for i, n in enumerate(order)}}
    )
    torch.manual_seed(1)
    model: Any = AutoModelForSequenceClassification.from_pretrained(base, num_labels=3, **tables)
    with torch.no_grad():
        for parameter in class_order.last_layer(model, 3).parameters():
            parameter.normal_(0, 0.5)
    model.save_pretrained(base)
    return base


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model.eval()(input_ids=IDS).logits
    return found


@pytest.mark.parametrize("family", FAMILIES)
def test_a_head_opened_for_data_has_the_datas_order_in_every_family(family: str, tmp_path: Path) -> None:
    folder = headed(tmp_path, family, ("sad", "glad", "mad"))
    own = opening.open_config(folder, "m")
    model, fresh = classifier_head.opened_for(folder, "m", own, NAMES)
    assert not fresh and model.config.id2label == dict(enumerate(NAMES))
    wanted = logits(AutoModelForSequenceClassification.from_pretrained(folder))[:, [1, 2, 0]]
    torch.testing.assert_close(logits(model), wanted)
    if family != "albert":  # a student with adapters takes it over too
        base = lora_adapters.open_base(folder, "m", NAMES, CPU)
        student = lora_adapters.adapted(base, 4, lora_adapters.Adapters(2, 4.0, (0,), "query-value", 0.0), seed=3)
        torch.testing.assert_close(logits(student), wanted)
    assert dict(own.id2label) == {0: "sad", 1: "glad", 2: "mad"}  # what was asked with is not written into


def test_heads_of_other_classes_or_another_use_begin_fresh(tmp_path: Path) -> None:
    folder = headed(tmp_path / "other", "bert", ("yes", "no", "perhaps"))
    before = AutoModelForSequenceClassification.from_pretrained(folder).classifier.weight
    model, fresh = classifier_head.opened_for(folder, "m", opening.open_config(folder, "m"), NAMES)
    assert fresh == {"classifier.weight", "classifier.bias"} and not torch.equal(model.classifier.weight, before)
    tagger = tiny_folder(tmp_path / "tagger", labels=3)
    made = BertForTokenClassification(BertConfig.from_pretrained(tagger))
    made.save_pretrained(tagger)
    model, fresh = classifier_head.opened_for(tagger, "m", opening.open_config(tagger, "m"), NAMES)
    assert {"classifier.weight", "classifier.bias"} <= fresh
    assert not torch.equal(model.classifier.weight, made.classifier.weight)


def test_a_head_of_several_labels_at_once_that_is_fine_tuned_chooses_one_afterwards(tmp_path: Path) -> None:
    folder = headed(tmp_path, "bert", NAMES)
    own = opening.open_config(folder, "m")
    own.problem_type = "multi_label_classification"
    model, _ = classifier_head.opened_for(folder, "m", own, NAMES)
    class_order.require_one_of_several(model.config, "m")
