"""Libraries and the code of model directories log only errors within a block."""

from __future__ import annotations

import logging

import pytest

from forgather_core.runtime.quiet import quiet_transformers


@pytest.mark.parametrize("name", ["transformers.models.llama", "transformers_modules.mine.decoder"])
def test_warnings_are_not_logged_within_the_block(name: str, caplog: pytest.LogCaptureFixture) -> None:
    logger = logging.getLogger(name)
    before = logger.getEffectiveLevel()
    with quiet_transformers():
        assert logger.getEffectiveLevel() == logging.ERROR
        logger.warning("noise")
    assert logger.getEffectiveLevel() == before
    assert not caplog.records
