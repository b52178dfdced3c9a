"""Choose checks, and refuse what cannot be checked."""

from __future__ import annotations

from pathlib import Path

import pytest

from forgather_core.checks import CHECKS
from forgather_core.checks.choose import choose
from forgather_core.checks.run import verify
from forgather_core.errors import CheckError


def test_the_page_lists_every_check() -> None:
    page = (Path(__file__).parents[3] / "docs" / "verify.md").read_text(encoding="utf-8")
    rows = [f"| `{check.name}` | {check.promise} | {check.cause} |" for check in CHECKS]
    listed = [line for line in page.splitlines() if line.startswith("| `") and line.count("|") == 4]
    own = {check.name for check in CHECKS}
    assert [line for line in listed if line.split("`")[1] in own] == rows


def test_an_unknown_check_has_option_and_hint() -> None:
    with pytest.raises(CheckError) as caught:
        choose(CHECKS, ["kv-cash"])
    assert (caught.value.option, caught.value.hint) == ("--checks", "Did you mean 'kv-cache'?")


def test_a_directory_without_a_model_is_the_file_of_the_error(tmp_path: Path) -> None:
    with pytest.raises(CheckError) as caught:
        verify(tmp_path, CHECKS)
    assert caught.value.file == str(tmp_path)
    assert str(caught.value) == f"{tmp_path} is not a model directory: it has no config.json: name a model directory"
