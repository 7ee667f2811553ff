"""Which tokens a masked-language perplexity asks for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModel, AutoModelForCausalLM, AutoTokenizer, GPT2Config

from kdnas.models.recurrent import RecurrentConfig
from kdnas.scores.perplexity import PerplexityProtocol, _masked, perplexity
from kdnas.scores.score_folder import Wanted, score
from kdnas.study.spec import DataSpec
from kdnas.system.errors import UsageError
from tests.encoders import texts, tiny_encoder

MASK, SPECIAL = 4, torch.tensor([0, 1, 2, 3, 4])


@pytest.mark.parametrize("share", [0.15, 0.5])
def test_the_stated_share_of_tokens_is_masked_and_no_special_one(share: float) -> None:
    rows = np.random.default_rng(0).integers(5, 100, (200, 128))
    rows[:, 0], rows[:, -1] = 1, 2
    ids, hidden, wanted = _masked(rows, SPECIAL, MASK, np.random.default_rng(1), PerplexityProtocol(masked=share))
    inner = hidden[:, 1:-1]
    assert not hidden[:, 0].any() and not hidden[:, -1].any()
    # 25,200 draws: a standard deviation of at most 0.0032.
    assert abs(float(inner.double().mean()) - share) < 0.015
    assert (ids[hidden] == MASK).all() and torch.equal(ids[~hidden], torch.from_numpy(rows)[~hidden])
    assert torch.equal(wanted, torch.from_numpy(rows)[hidden])


def test_an_adapter_is_scored_as_the_body_that_it_makes_of_its_base(tmp_path: Path, own_cache: None) -> None:
    base = tiny_encoder(tmp_path / "base")
    made = get_peft_model(AutoModel.from_pretrained(base), LoraConfig(r=2, target_modules=["query"]))
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            if "lora_B" in name:
                parameter.normal_(0, 0.3)
    made.save_pretrained(tmp_path / "adapter")
    made.merge_and_unload().save_pretrained(tmp_path / "merged")
    AutoTokenizer.from_pretrained(base).save_pretrained(tmp_path / "merged")
    (tmp_path / "t.txt").write_text("\n\n".join(texts(12, 60)))
    data = DataSpec.model_validate({"source": str(tmp_path / "t.txt"), "held_out": 0.3})
    protocol = PerplexityProtocol(length=16, steps=3, batch_size=4, chunks=6)
    losses = [
        perplexity(tmp_path / name, None, data, torch.device("cpu"), lambda *_: None, protocol)["student"]["loss"]
        for name in ("adapter", "merged", "base")
    ]
    assert losses[0] == pytest.approx(losses[1], abs=1e-4) and losses[0] != losses[2]


def test_an_adapter_on_a_causal_model_is_refused_with_the_way_out(tmp_path: Path) -> None:
    base = tiny_encoder(tmp_path / "base")
    config = GPT2Config(vocab_size=80, n_positions=32, n_embd=16, n_layer=1, n_head=2)
    model = AutoModelForCausalLM.from_config(config)
    model.save_pretrained(base)
    made = get_peft_model(model, LoraConfig(r=2, target_modules=["c_attn"], fan_in_fan_out=True))
    made.peft_config["default"].base_model_name_or_path = str(base)
    made.save_pretrained(tmp_path / "adapter")
    with pytest.raises(UsageError, match=r"an adapter on a causal model.*Merge it into its base"):
        perplexity(tmp_path / "adapter", None, DataSpec(), torch.device("cpu"), lambda *_: None)


def test_a_recurrent_classifier_has_no_perplexity_and_says_so(tmp_path: Path) -> None:
    RecurrentConfig().save_pretrained(tmp_path)
    with pytest.raises(UsageError, match="predicts no tokens"):
        perplexity(tmp_path, None, DataSpec(), torch.device("cpu"), lambda *_: None)


def test_no_task_at_all_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="No task is named"):
        score(tiny_encoder(tmp_path / "m"), Wanted(tasks=()), lambda *_: None)
