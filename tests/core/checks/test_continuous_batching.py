"""continuous-batching compares each request of `generate_batch()` with the request alone."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import transformers
from packaging.version import Version

from forgather_core.checks.continuous_batching import continuous_batching
from forgather_core.checks.try_check import FAILED, PASSED, SKIPPED
from forgather_core.definitions.check import failure_text
from tests.support.settings import Resolve, small

from .planted import edited_row, gpt2_row

__all__ = ["small"]

UPDATE = "return cache.update(key, value, layer_idx, kwargs=kwargs)"
COUNTED = (
    "if position_ids is None:",
    "if position_ids is None or position_ids.shape[0] == 1:",
)
pytestmark = pytest.mark.skipif(Version(transformers.__version__) < Version("5.20"), reason="the check is skipped")


@pytest.mark.parametrize("options", [{}, {"sliding_window": 4}])
def test_a_correct_model_passes(options: dict[str, Any], small: Resolve, tmp_path: Path) -> None:
    found = edited_row(continuous_batching, small, tmp_path, **options)
    assert found["result"] == PASSED, [one for one in found["measured"] if not one["holds"]]
    assert len(found["measured"]) == 8


def test_transformers_own_model_passes(tmp_path: Path) -> None:
    assert gpt2_row(continuous_batching, tmp_path)["result"] == PASSED


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (("caches.py", UPDATE, "return cache.update(key, value, layer_idx)"), "missing 1 required positional argument"),
        (("layer_inputs.py", *COUNTED), "new token 0"),
    ],
    ids=["the paged cache gets no indices", "positions are counted"],
)
def test_mistakes_are_found(
    edit: tuple[str, str, str], words: str, small: Resolve, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    found = edited_row(continuous_batching, small, tmp_path, edit)
    assert found["result"] == FAILED
    assert words in " ".join(failure_text(one) for one in found["measured"] if not one["holds"])
    assert not caplog.records
    assert logging.getLogger("ContinuousBatchingLogger").level < logging.CRITICAL


def test_it_is_skipped_with_an_older_release(small: Resolve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transformers, "__version__", "5.4.0")
    found = edited_row(continuous_batching, small, tmp_path)
    assert (found["result"], found["reason"]) == (SKIPPED, "it requires transformers 5.20")
