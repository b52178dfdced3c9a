"""The layout of the sources: no file grows beyond what one can read at once."""

from __future__ import annotations

from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
MAXIMUM_LINES = 300
FOLDERS = ("forgather", "forgather_cli", "forgather_core", "plugins", "tools", "benchmarks")


@pytest.mark.parametrize("folder", FOLDERS)
def test_no_source_file_is_longer_than_the_maximum(folder: str) -> None:
    files = list((ROOT / folder).rglob("*.py"))
    assert files
    lengths = {str(file.relative_to(ROOT)): len(file.read_text(encoding="utf-8").splitlines()) for file in files}
    assert {name: lines for name, lines in lengths.items() if lines > MAXIMUM_LINES} == {}
