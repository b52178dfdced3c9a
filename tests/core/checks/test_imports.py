"""Missing modules, files and names are found without executing the code that imports them."""

from __future__ import annotations

import ast
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from transformers import GPT2Config

from forgather_core.checks.imports import imports
from forgather_core.checks.shared.imported_names import imports_of, names_of
from forgather_core.checks.try_check import PASSED, SKIPPED, try_check

from .planted import edited, failures, written


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory of Forgather with two files."""
    path = tmp_path_factory.mktemp("few") / "few"
    path.mkdir()
    (path / "forgather.json").touch()
    (path / "norms.py").write_text("class RMSNorm: ...\n")
    (path / "blocks.py").write_text("from .norms import RMSNorm\n\n\nclass Block(RMSNorm): ...\n")
    return path


def row_of(directory: Path) -> dict[str, Any]:
    """Run the check without loading the configuration, which would fail in some directories."""
    made = (directory / "forgather.json").is_file()
    return try_check(
        imports,
        cast(Any, SimpleNamespace(definition=None, workdir=directory, directory=directory, made_by_forgather=made)),
    )


def lazily(line: str) -> str:
    return f"def _lazily():\n    {line}\n\n\nclass Block("


def test_a_correct_directory_passes(tmp_path: Path) -> None:
    row = row_of(written("llama", tmp_path))
    assert row["result"] == PASSED and len(row["measured"]) > 10


def test_a_directory_without_code_has_nothing_to_check(tmp_path: Path) -> None:
    GPT2Config(n_embd=16, n_layer=1, n_head=2).save_pretrained(tmp_path / "gpt2")
    row = row_of(tmp_path / "gpt2")
    assert (row["result"], row["reason"]) == (SKIPPED, "the directory has no Python files")


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("import no_such_package", "no_such_package is not installed"),
        ("import os.no_such_module", "there is no module os.no_such_module of the package os"),
        ("from transformers.no_such import x", "there is no module transformers.no_such of the package transformers"),
        ("from .no_such_file import x", "the directory has no file for .no_such_file"),
        ("from . import no_such_file", ". does not define no_such_file"),
        ("from .norms import RMSNorms", ".norms does not define RMSNorms"),
        ("from ..norms import RMSNorm", "..norms is outside of the directory"),
        ("import norms", "norms is a file of this directory: import it as .norms"),
        ("from forgather_core.parts import norms", "requires forgather_core, which a model directory must not require"),
        ('importlib.import_module("no_such_package")', "no_such_package is not installed"),
        ('importlib.import_module(".no_such_file", package=__package__)', "no file for .no_such_file"),
        ('importlib.import_module(".no_such", "torch")', "there is no module torch.no_such of the package torch"),
        ("if flag: import no_such_package", "no_such_package is not installed"),
    ],
)
def test_a_missing_import_is_found(line: str, expected: str, few: Path, tmp_path: Path) -> None:
    planted = edited(few, tmp_path, "blocks.py", "class Block(", lazily(line))
    (found,) = failures(row_of(planted))
    assert expected in found and ", at blocks.py:" in found


@pytest.mark.parametrize(
    "line",
    [
        "import os.path, xml.etree.ElementTree, torch.nn.functional as F",
        "from .norms import RMSNorm, __name__",
        "from . import norms",
        "if TYPE_CHECKING: import no_such_package",
        "if is_flash_attn_2_available(): import no_such_package",
        "if sys.version_info >= (3, 99): import no_such_package",
        "with contextlib.suppress(ImportError): import no_such_package",
        "import_module(name)",
        'importlib.import_module(".nn", "torch")',
    ],
)
def test_optional_and_existing_imports_pass(line: str, few: Path, tmp_path: Path) -> None:
    planted = edited(few, tmp_path, "blocks.py", "class Block(", lazily(line))
    row = row_of(planted)
    assert row["result"] == PASSED, failures(row)


def test_a_file_that_is_not_python_is_named(few: Path, tmp_path: Path) -> None:
    planted = edited(few, tmp_path, "blocks.py", "class Block(", "class Block((")
    assert any("blocks.py is not valid Python" in text for text in failures(row_of(planted)))


@pytest.mark.parametrize(
    "code",
    [
        "try:\n    import x\nexcept (ImportError, OSError):\n    import y\n",
        "if not is_x_available():\n    raise ValueError\nimport x\n",
        "if a and module.is_x_available():\n    import x\n",
    ],
)
def test_guards_are_recognized(code: str) -> None:
    assert all(one.optional for one in imports_of(ast.parse(code)))


@pytest.mark.parametrize("code", ["try:\n    import x\nexcept KeyError:\n    pass\n", "if a:\n    import x\n"])
def test_other_blocks_are_no_guards(code: str) -> None:
    assert not any(one.optional for one in imports_of(ast.parse(code)))


def test_names_are_those_that_exist_at_run_time() -> None:
    code = """
        a, (b, *c) = 1, (2, 3); d: int = 4; absent: int
        import e.f; from g import h as i; from .star import *
        if TYPE_CHECKING:
            from j import absent_too
        else:
            k = 1
        with open() as m: pass
        def n(): local = 1; global o
        class P: inside = 1
    """
    lines = "\n".join(line.removeprefix(" " * 8) for line in code.splitlines())
    found = names_of(ast.parse(lines))
    assert found.defined == {"a", "b", "c", "d", "e", "i", "k", "m", "n", "o", "P"}
    assert found.stars == {".star"} and not found.unknown
    assert names_of(ast.parse("globals()['x'] = 1")).unknown
