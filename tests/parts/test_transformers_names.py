"""docs/compatibility.md lists every name of transformers outside its public ones that exported code relies on."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

from torch import nn

ROOT = Path(__file__).parent.parent.parent
# Modules of transformers that read attributes of models and configurations.
READERS = "configuration_utils modeling_layers modeling_utils initialization generation.utils cache_utils masking_utils"
OURS = {"_prefix"}  # a name that both use for themselves


def exported() -> Iterator[Path]:
    yield from (ROOT / "forgather_core" / "parts").glob("*.py")
    for name in ("modeling", "configuration"):
        yield from (ROOT / "plugins").glob(f"*/{name}_*.py")
    yield from (ROOT / "plugins").glob("*/*_weights.py")


def private_names() -> dict[str, set[str]]:
    """Return the names of transformers that are not in its documented namespace, and the files that use each."""
    found: dict[str, set[str]] = {}
    attributes = attributes_read_by_transformers()
    for path in exported():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            for name in (*imported(node), *({attribute(node)} & attributes)):
                found.setdefault(name, set()).add(path.name)
    return found


def imported(node: ast.AST) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names if alias.name.startswith("transformers.")]
    if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("transformers."):
        return [f"{node.module}.{alias.name}".removeprefix("transformers.") for alias in node.names]
    return []


def attribute(node: ast.AST) -> str:
    """Return the name that a node reads, sets or defines as an attribute, or ""."""
    if isinstance(node, ast.Attribute):
        return node.attr
    if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
        return node.id
    if isinstance(node, ast.FunctionDef):
        return node.name
    return str(node.value) if isinstance(node, ast.Constant) and isinstance(node.value, str) else ""


def attributes_read_by_transformers() -> set[str]:
    names: set[str] = set()
    for reader in READERS.split():
        file = import_module(f"transformers.{reader}").__file__
        assert file is not None
        names |= set(re.findall(r"\b_[a-z]\w*", Path(file).read_text(encoding="utf-8")))
    return {name for name in names if not hasattr(nn.Module(), name)} - OURS


def listed() -> dict[str, set[str]]:
    """Return the names in the tables of the page, and their files."""
    page = (ROOT / "docs" / "compatibility.md").read_text(encoding="utf-8")
    section = page.partition("## Names of transformers")[2].partition("\n## ")[0]
    found: dict[str, set[str]] = {}
    for names, files in re.findall(r"^\| (`.*?) \| (.*?) \|", section, flags=re.MULTILINE):
        module = ""
        for name in re.findall(r"`([^`]+)`", names):
            module = name.rpartition(".")[0] or module
            full = f"{module}.{name.rpartition('.')[2]}".removeprefix(".")
            found[full] = set(files.split(", "))
    return found


def test_the_page_lists_every_private_name_and_no_other() -> None:
    used, page = private_names(), listed()
    assert used.keys() == page.keys()
    # Names of one row share its files.
    assert {name: files - page[name] for name, files in used.items() if files - page[name]} == {}
