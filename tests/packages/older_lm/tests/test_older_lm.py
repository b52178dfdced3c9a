"""older_lm keeps the promises of a causal language model, and its presets have the sizes that they tell."""

import pytest

from forgather_core.testing import DefinitionTests, count_parameters, presets, stated_parameters


class TestOlderLm(DefinitionTests):
    """Every check of `forgather -t older_lm model verify` is a test here."""

    definition = "older_lm"


@pytest.mark.parametrize("preset", presets("older_lm"))
def test_a_preset_has_as_many_parameters_as_it_tells(preset: str) -> None:
    """The count, of the model on meta."""
    assert count_parameters(preset) == stated_parameters(preset)
