"""The small configuration with another number of layers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from transformers import CONFIG_MAPPING, MODEL_FOR_CAUSAL_LM_MAPPING

from forgather_core.checks.shared.depth import of_depth
from forgather_core.checks.shared.layers import layers_of
from forgather_core.checks.shared.model_under_test import ModelUnderTest
from forgather_core.definitions.check import DoesNotApply


def subject_of(kind: str, place: Path, **values: Any) -> ModelUnderTest:
    config = CONFIG_MAPPING[kind](**values)
    config.architectures = [MODEL_FOR_CAUSAL_LM_MAPPING[type(config)].__name__]
    config.save_pretrained(place / "model")
    (place / "work").mkdir()
    return ModelUnderTest(place / "model", place / "work")


@pytest.mark.parametrize("layers", [1, 5])
def test_lists_with_a_value_for_each_layer_are_repeated(layers: int, tmp_path: Path) -> None:
    subject = subject_of("gemma2", tmp_path)
    config = of_depth(subject, layers)
    assert config.layer_types == [subject.text_config.layer_types[i % 3] for i in range(layers)]
    assert len(layers_of(subject.fresh_model_of(config))) == layers


def test_a_class_whose_depth_is_another_option_is_left_out(tmp_path: Path) -> None:
    subject = subject_of("bart", tmp_path, is_decoder=True, is_encoder_decoder=False)
    with pytest.raises(DoesNotApply, match="num_hidden_layers 5 gives"):
        of_depth(subject, 5)
