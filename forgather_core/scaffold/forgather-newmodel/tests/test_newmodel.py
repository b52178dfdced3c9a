"""newmodel passes every check of a causal language model, and its presets state their parameter counts."""

import pytest

from forgather_core.testing import DefinitionTests, count_parameters, presets, stated_parameters


class TestNewModel(DefinitionTests):
    """Run every check of `forgather -t newmodel model verify` as a test."""

    definition = "newmodel"


@pytest.mark.parametrize("preset", presets("newmodel"))
def test_preset_states_its_parameter_count(preset: str) -> None:
    """Count the parameters of the model on the meta device."""
    assert count_parameters(preset) == stated_parameters(preset)
