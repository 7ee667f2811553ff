"""Adapters: how many parameters learn, what a folder opens as, what cutting changes, and adapters as teachers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModel, AutoModelForSequenceClassification, AutoTokenizer

from kdnas.data import hub
from kdnas.models import lora_adapters, merged_adapters
from kdnas.models.lora_adapters import Adapters
from kdnas.students import predict
from kdnas.study.spec import TeacherSpec
from kdnas.system.errors import UsageError
from kdnas.teachers import classifier as classifiers
from kdnas.teachers import encoder
from tests.encoders import FAMILIES, tiny_encoder

CPU = torch.device("cpu")
LABELS = ("bad", "good", "odd")
TAKEN = [family for family in FAMILIES if family != "albert"]
IDS = torch.tensor([[2, 9, 17, 31, 3], [2, 40, 8, 3, 0]])
MASK = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 1, 0]])


def logits(model: Any) -> torch.Tensor:
    with torch.inference_mode():
        found: torch.Tensor = model(input_ids=IDS, attention_mask=MASK).logits
    return found


def learned(base: lora_adapters.Base, depth: int, own: Adapters) -> Any:
    """A student whose adapters and head have moved from where they begin."""
    model = lora_adapters.adapted(base, depth, own, seed=7)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)
    return model


@pytest.mark.parametrize("family", TAKEN)
def test_a_saved_student_opens_with_peft_and_predicts_the_same(tmp_path: Path, family: str) -> None:
    place = tiny_encoder(tmp_path / "base", family)
    base = lora_adapters.open_base(place, family, LABELS, CPU)
    words = AutoTokenizer.from_pretrained(place)
    for parts in lora_adapters.PARTS:
        own = Adapters(4, 8.0, (0, 2), parts, 0.1)
        count = base.head_size + 4 * 2 * lora_adapters.cost(base.sizes, parts)
        assert lora_adapters.trainable(lora_adapters.adapted(base, 4, own, seed=0)) == count
    assert base.head_size == lora_adapters.head_size(base.config)
    whole = learned(base, 4, Adapters(4, 8.0, (0, 2), "all", 0.1))
    cut = learned(base, 2, Adapters(4, 8.0, (0, 1), "all", 0.1))
    lora_adapters.save(whole, tmp_path / "whole", words, str(place), truncated=False)
    lora_adapters.save(cut, tmp_path / "cut", words, str(place), truncated=True)
    config = AutoConfig.from_pretrained(tmp_path / "whole")
    assert [config.id2label[i] for i in range(3)] == list(LABELS)
    opened: Any = AutoModelForSequenceClassification.from_pretrained(place, config=config, dtype=torch.float32)
    again = PeftModel.from_pretrained(opened, str(tmp_path / "whole")).eval()
    assert torch.equal(logits(again), logits(whole))
    opened = AutoModelForSequenceClassification.from_pretrained(tmp_path / "cut" / "base", dtype=torch.float32)
    again = PeftModel.from_pretrained(opened, str(tmp_path / "cut")).eval()
    assert torch.equal(logits(again), logits(cut))
    served, _ = predict.open_model(tmp_path / "cut", CPU)
    torch.testing.assert_close(logits(served), logits(cut), rtol=1e-4, atol=1e-4)
    assert AutoConfig.from_pretrained(tmp_path / "cut" / "base").to_dict()[base.family.layers] == 2


def test_cutting_changes_nothing_below_the_cut_and_nothing_at_all_where_nothing_is_cut(tmp_path: Path) -> None:
    base = lora_adapters.open_base(tiny_encoder(tmp_path / "base"), "base", LABELS, CPU)
    own = Adapters(4, 8.0, (0, 1), "attention", 0.1)
    whole, cut = learned(base, 4, own), learned(base, 2, own)
    with torch.inference_mode():
        states = [m(input_ids=IDS, attention_mask=MASK, output_hidden_states=True).hidden_states for m in (whole, cut)]
    assert len(states[0]) == 5 and len(states[1]) == 3
    real = MASK.bool()
    for all_of, kept in zip(states[0], states[1], strict=False):
        assert torch.equal(all_of[real], kept[real])
    top = Adapters(4, 8.0, (2, 3), "attention", 0.1)
    assert torch.equal(logits(learned(base, 4, top)), logits(learned(base, 4, top)))
    assert not torch.equal(logits(whole), logits(cut))


def test_students_share_the_frozen_base_and_none_changes_it(tmp_path: Path) -> None:
    base = lora_adapters.open_base(tiny_encoder(tmp_path / "base"), "base", LABELS, CPU)
    before = {name: tensor.clone() for name, tensor in base.model.state_dict().items()}
    one = lora_adapters.adapted(base, 4, Adapters(2, 4.0, (0,), "query-value", 0.0), seed=0)
    shared = one.get_base_model().get_input_embeddings().weight
    assert shared.data_ptr() == base.model.get_input_embeddings().weight.data_ptr()
    optimiser = torch.optim.SGD([p for p in one.parameters() if p.requires_grad], lr=1.0)
    one.train()
    one(input_ids=IDS, attention_mask=MASK).logits.square().sum().backward()
    optimiser.step()
    assert all(torch.equal(tensor, before[name]) for name, tensor in base.model.state_dict().items())


def test_an_adapter_is_an_encoder_teacher(tmp_path: Path) -> None:
    place = tiny_encoder(tmp_path / "base")
    plain: Any = AutoModel.from_pretrained(place, dtype=torch.float32)
    config = LoraConfig(r=2, lora_alpha=8, target_modules=["query"], init_lora_weights=False)
    body = get_peft_model(plain, config)
    body.save_pretrained(str(tmp_path / "body"))
    base = lora_adapters.open_base(place, "base", LABELS, CPU)
    classifier = learned(base, 4, Adapters(2, 4.0, (1,), "attention", 0.0))
    classifier.save_pretrained(str(tmp_path / "classifier"))
    for folder, model in ((tmp_path / "body", body), (tmp_path / "classifier", classifier.get_base_model().base_model)):
        found = encoder.load(TeacherSpec(model=str(place), checkpoint=str(folder)), CPU)
        with torch.inference_mode():
            wanted = model.eval()(input_ids=IDS, attention_mask=MASK).last_hidden_state
            given = found.body(input_ids=IDS, attention_mask=MASK).last_hidden_state
        torch.testing.assert_close(given, wanted, rtol=1e-4, atol=1e-4)
        assert not any("lora" in name for name, _ in found.body.named_parameters())
        assert found.fingerprint != encoder.load(TeacherSpec(model=str(place)), CPU).fingerprint
    where = classifiers.source(TeacherSpec(model=str(place), checkpoint=str(tmp_path / "classifier")))
    opened = classifiers.open_classifier(where, tmp_path / "classifier", LABELS, CPU)
    torch.testing.assert_close(logits(opened.model), logits(classifier), rtol=1e-4, atol=1e-4)
    with pytest.raises(UsageError, match="tells 3 classes apart; the data has 2"):
        classifiers.open_classifier(where, tmp_path / "classifier", LABELS[:2], CPU)


def test_what_is_wrong_with_an_adapter_is_one_line_with_the_hint(tmp_path: Path) -> None:
    place = tiny_encoder(tmp_path / "base")
    base = lora_adapters.open_base(place, "base", LABELS, CPU)
    model = learned(base, 4, Adapters(2, 4.0, (0, 3), "query-value", 0.0))
    lora_adapters.save(model, tmp_path / "a", AutoTokenizer.from_pretrained(place), str(place), truncated=False)
    with pytest.raises(UsageError, match="does not fit its base"):
        lora_adapters.open_classifier(tmp_path / "a", CPU, tiny_encoder(tmp_path / "wide", hidden_size=64))
    weights = load_file(tmp_path / "a" / lora_adapters.WEIGHTS)
    first = min(weights)
    save_file({n: t for n, t in weights.items() if n != first}, tmp_path / "a" / lora_adapters.WEIGHTS)
    with pytest.raises(UsageError, match="does not fit its base"):
        lora_adapters.open_classifier(tmp_path / "a", CPU)
    (tmp_path / "a" / lora_adapters.WEIGHTS).write_bytes(b"no tensors")
    with pytest.raises(UsageError, match="is damaged"):
        lora_adapters.open_classifier(tmp_path / "a", CPU)
    facts = json.loads((tmp_path / "a" / lora_adapters.CONFIG).read_text())
    (tmp_path / "a" / lora_adapters.CONFIG).write_text(json.dumps({**facts, "base_model_name_or_path": "/gone"}))
    with pytest.raises(UsageError, match="'/gone', is not there"):
        lora_adapters.base_of(tmp_path / "a")
    (tmp_path / "a" / lora_adapters.WEIGHTS).unlink()
    with pytest.raises(UsageError, match=r"has no adapter_model\.safetensors"):
        lora_adapters.read(tmp_path / "a")
    with pytest.raises(UsageError, match="share their weights"):
        lora_adapters.open_base(tiny_encoder(tmp_path / "albert", "albert"), "albert", LABELS, CPU)


# ---------------------------------------------------------------------------- merged folders


@pytest.mark.parametrize("family", ["bert", "distilbert"])
def test_a_merged_folder_is_a_plain_model_with_its_adapter_beside_it(
    tmp_path: Path, family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from peft import AutoPeftModelForSequenceClassification

    place = tiny_encoder(tmp_path / "base", family)
    base = lora_adapters.open_base(place, family, LABELS, CPU)
    words = AutoTokenizer.from_pretrained(place)
    for name, depth in (("cut", 2), ("whole", 4)):
        model, output = learned(base, depth, Adapters(4, 8.0, (0, 1), "all", 0.1)), tmp_path / name
        lora_adapters.save(model, output, words, str(place), truncated=depth < 4)
        assert merged_adapters.cut(output) == (name == "cut")
        merged_adapters.merge(output)
        opened, loading = AutoModelForSequenceClassification.from_pretrained(output, output_loading_info=True)
        assert not any(loading.values()) and tuple(opened.config.id2label.values()) == LABELS
        torch.testing.assert_close(logits(opened.eval()), logits(model), atol=1e-5, rtol=1e-4)
        assert AutoTokenizer.from_pretrained(output).get_vocab() == words.get_vocab()
        named = json.loads((output / "adapter" / "adapter_config.json").read_text())["base_model_name_or_path"]
        assert not hub.is_id(named)  # nothing that anybody could publish
        again = lora_adapters.open_classifier(output / "adapter", CPU)  # from the test's own working folder
        torch.testing.assert_close(logits(again), logits(model), atol=1e-5, rtol=1e-4)
        monkeypatch.chdir(output / "adapter")
        with_peft = AutoPeftModelForSequenceClassification.from_pretrained(".", num_labels=3).eval()
        torch.testing.assert_close(logits(with_peft), logits(model), atol=1e-5, rtol=1e-4)
        monkeypatch.undo()


def test_a_base_named_by_a_relative_path_is_found_from_any_folder(tmp_path: Path) -> None:
    place = tiny_encoder(tmp_path / "base", "bert")
    base = lora_adapters.open_base(place, "bert", LABELS, CPU)
    lora_adapters.save(
        learned(base, 4, Adapters(2, 4.0, (0,), "query-value", 0.0)),
        tmp_path / "student",
        AutoTokenizer.from_pretrained(place),
        "../base",
        truncated=False,
    )
    assert lora_adapters.base_of(tmp_path / "student").resolve() == place
