"""newmodel keeps the promises of a causal language model, and its presets have the sizes that they tell."""

import pytest

from forgather_core.testing import DefinitionTests, count_parameters, presets, stated_parameters


class TestNewModel(DefinitionTests):
    """Every check of `forgather -t newmodel model verify` is a test here."""

    definition = "newmodel"


@pytest.mark.parametrize("preset", presets("newmodel"))
def test_a_preset_has_as_many_parameters_as_it_tells(preset: str) -> None:
    """The count, of the model on meta."""
    assert count_parameters(preset) == stated_parameters(preset)
