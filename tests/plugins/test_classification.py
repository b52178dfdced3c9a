"""Classification heads on every definition, and the configuration fields that tools read."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoModelForTokenClassification

from .tiny import DEFINITIONS, config_of, difference, tiny, tokens


@pytest.mark.regression("E12")
@pytest.mark.parametrize("auto_class", [AutoModelForSequenceClassification, AutoModelForTokenClassification])
@pytest.mark.parametrize("definition", DEFINITIONS)
def test_a_classifier_loads_the_decoder_and_trains_its_head(definition: str, auto_class: type, tmp_path: Path) -> None:
    ids, tokens_too = tokens(2, 9), auto_class is AutoModelForTokenClassification
    whole = tiny(definition)
    whole.save_pretrained(tmp_path / "whole")
    config = config_of(definition, num_labels=3)
    torch.manual_seed(1)
    model = auto_class.from_config(config)
    result = model.model.load_state_dict(whole.model.state_dict())
    assert not result.missing_keys
    labels = torch.randint(3, (2, 9) if tokens_too else (2,))
    out = model.eval()(ids, labels=labels)
    assert out.logits.shape == ((2, 9, 3) if tokens_too else (2, 3))
    states = whole.model(ids).last_hidden_state
    expected = model.score(states if tokens_too else states[:, -1])
    assert difference(out.logits, expected) <= 1e-5
    out.loss.backward()
    assert model.score.weight.grad.abs().sum() > 0
    model.save_pretrained(tmp_path / "classifier")
    again = type(model).from_pretrained(tmp_path / "classifier").eval()
    assert difference(again(ids).logits, out.logits) == 0


@pytest.mark.regression("E12")
def test_single_head_writes_its_number_of_heads() -> None:
    content = config_of("single_head").to_dict()
    assert (content["num_attention_heads"], content["num_key_value_heads"]) == (1, 1)
    assert type(config_of("single_head")).from_dict(content).num_attention_heads == 1
