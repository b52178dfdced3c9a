"""The small configuration with another number of layers."""

from __future__ import annotations

from pathlib import Path

import pytest

from forgather_core.checks.shared.depth import of_depth
from forgather_core.checks.shared.layers import layers_of
from forgather_core.definitions.check import DoesNotApply
from tests.support.native_models import subject_of_type


@pytest.mark.parametrize("layers", [1, 5])
def test_lists_with_a_value_for_each_layer_are_repeated(layers: int, tmp_path: Path) -> None:
    subject = subject_of_type("gemma2", tmp_path)
    config = of_depth(subject, layers)
    assert config.layer_types == [subject.text_config.layer_types[i % 3] for i in range(layers)]
    assert len(layers_of(subject.fresh_model_of(config))) == layers


def test_a_class_whose_depth_is_another_option_is_left_out(tmp_path: Path) -> None:
    subject = subject_of_type("bart", tmp_path, is_decoder=True, is_encoder_decoder=False)
    with pytest.raises(DoesNotApply, match="num_hidden_layers 5 gives"):
        of_depth(subject, 5)
