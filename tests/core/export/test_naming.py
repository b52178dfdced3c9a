"""The configuration file imports every file: older loaders copy no others."""

from __future__ import annotations

from pathlib import Path

import pytest

from forgather_core.errors import ExportError
from forgather_core.export.imports import SourceText, loader_imports
from forgather_core.export.naming import import_all_files
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
def test_adds_missing_imports_to_the_type_checking_block(end: str) -> None:
    text = CONFIGURATION.replace("\n", end)
    named = import_all_files("configuration_x", sources(text)).decode()
    assert {module for module, _ in loader_imports(named)} == OTHERS.keys()
    added = [line for line in named.split(end) if line not in text.split(end)]
    assert [line.split("#")[0].rstrip() for line in added[1:]] == [
        "    from .numbers import __name__",
        "    from .part import Part",
    ]
    assert named.replace("".join(line + end for line in added), "") == text  # nothing else changed


def test_keeps_a_file_with_all_imports() -> None:
    text = "from .modeling_x import X\nfrom .options import Options\nfrom .part import Part\nfrom .numbers import TEN\n"
    assert import_all_files("configuration_x", sources(text)) == text.encode()


def test_requires_a_type_checking_block() -> None:
    with pytest.raises(ExportError, match=r"configuration_x\.py:1: .*TYPE_CHECKING"):
        import_all_files("configuration_x", sources("from .modeling_x import X\n"))


def test_llama_imports_all_its_files() -> None:
    found = collect_sources(["forgather_llama.configuration_llama", "forgather_llama.modeling_llama"])
    by_name = {file.name.removesuffix(".py"): file.text.decode() for file in found.files}
    named = {module for module, _ in loader_imports(by_name["configuration_llama"])}
    assert named == by_name.keys() - {"configuration_llama"}
