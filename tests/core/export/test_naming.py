"""Every file is named by the configuration file: older loaders copy nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest

from forgather_core.errors import ExportError
from forgather_core.export.imports import SourceText, loader_finds
from forgather_core.export.naming import name_all_files
from forgather_core.export.sources import collect_sources

CONFIGURATION = '''"""Configuration."""
from typing import TYPE_CHECKING
from .options import Options

if TYPE_CHECKING:
    from .modeling_x import X  # comment

class Config(Options): ...
'''
OTHERS = {
    "options": "class Options: ...\n",
    "modeling_x": "from .part import Part\n\nclass X: ...\n",
    "part": "import torch\n\ndef _hidden(): ...\n\nclass Part: ...\n",
    "numbers": "TEN = 10\n",
}


def sources(configuration: str) -> dict[str, SourceText]:
    texts = {"configuration_x": configuration, **OTHERS}
    return {name: SourceText(Path(f"{name}.py"), text.encode()) for name, text in texts.items()}


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_what_is_missing_is_added_to_the_block_for_readers(end: str) -> None:
    text = CONFIGURATION.replace("\n", end)
    named = name_all_files("configuration_x", sources(text)).decode()
    assert {module for module, _ in loader_finds(named)} == OTHERS.keys()
    added = [line for line in named.split(end) if line not in text.split(end)]
    assert [line.split("#")[0].rstrip() for line in added[1:]] == [
        "    from .numbers import __name__",
        "    from .part import Part",
    ]
    assert named.replace("".join(line + end for line in added), "") == text  # and nothing else


def test_a_file_that_names_all_is_left_alone() -> None:
    text = "from .modeling_x import X\nfrom .options import Options\nfrom .part import Part\nfrom .numbers import TEN\n"
    assert name_all_files("configuration_x", sources(text)) == text.encode()


def test_without_such_a_block_the_author_is_told() -> None:
    with pytest.raises(ExportError, match=r"configuration_x\.py:1: .*TYPE_CHECKING"):
        name_all_files("configuration_x", sources("from .modeling_x import X\n"))


def test_llama_names_its_files_and_runs_none_of_the_added_lines() -> None:
    found = collect_sources(["forgather_llama.configuration_llama", "forgather_llama.modeling_llama"])
    by_name = {file.name.removesuffix(".py"): file.text.decode() for file in found.files}
    named = {module for module, _ in loader_finds(by_name["configuration_llama"])}
    assert named == by_name.keys() - {"configuration_llama"}
