"""Source files are exported byte for byte except for imports; unsupported imports are refused with their line."""

from __future__ import annotations

import ast
import itertools
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers.dynamic_module_utils import get_relative_import_files

from forgather_core.errors import ExportError
from forgather_core.export.sources import Sources, collect_sources

LLAMA = ["forgather_llama.configuration_llama", "forgather_llama.modeling_llama"]
LLAMA_FILES = [
    "arguments",
    "attention",
    "auto_classes",
    "block",
    "blocks",
    "caches",
    "computed_buffers",
    "configuration_llama",
    "decoder",
    "decoder_config",
    "documents",
    "feed_forward",
    "initial_weights",
    "language_model",
    "layer_inputs",
    "layer_values",
    "linear_cross_entropy",
    "llama_weights",
    "masks",
    "modeling_llama",
    "norms",
    "option",
    "option_groups",
    "options",
    "outputs",
    "parallel_plans",
    "positions",
    "pretrained",
    "requirements",
    "rope",
    "rope_options",
    "rotation",
    "self_attention",
    "table_init",
    "weight_pieces",
]
COUNT = itertools.count()
Collect = Callable[..., tuple[Sources, str]]


@pytest.fixture
def collect(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Collect:
    """Return a function that writes a package of modules and collects the sources of its module `model`."""

    def run(**modules: str) -> tuple[Sources, str]:
        package = f"made_up_package_{next(COUNT)}"
        folder = tmp_path / f"site_{package}" / package
        for name, text in {"__init__": "", **modules}.items():
            path = (
                folder.joinpath(*name.split("__", 1)).with_suffix(".py") if "__" in name[2:] else folder / f"{name}.py"
            )
            path.parent.mkdir(parents=True, exist_ok=True)
            (path.parent / "__init__.py").touch()
            path.write_bytes(textwrap.dedent(text).replace("PACKAGE", package).encode())
        monkeypatch.syspath_prepend(str(folder.parent))
        return collect_sources([f"{package}.model"]), package

    return run


def texts(sources: Sources) -> dict[str, str]:
    return {file.name: file.text.decode() for file in sources.files}


def test_collects_the_files_of_llama() -> None:
    assert [file.name for file in collect_sources(LLAMA).files] == [f"{name}.py" for name in LLAMA_FILES]


def test_only_import_lines_of_llama_differ() -> None:
    for file in collect_sources(LLAMA).files:
        here = file.path.read_text().splitlines()
        there = [line for line in file.text.decode().splitlines() if not _added(line, here)]
        assert len(here) == len(there), file.name
        for a, b in zip(here, there, strict=True):
            assert a == b or (a.strip().startswith("from forgather_core") and b.strip().startswith("from ."))


def _added(line: str, here: list[str]) -> bool:
    return line.startswith("    ") and line not in here and ("# noqa: F401" in line or "older releases" in line)


def test_the_loader_finds_the_same_files(tmp_path: Path) -> None:
    for file in collect_sources(LLAMA).files:
        (tmp_path / file.name).write_bytes(file.text)
    for entry in ("configuration_llama", "modeling_llama"):
        found = {Path(path).stem for path in get_relative_import_files(str(tmp_path / f"{entry}.py"))}
        assert found | {entry} == set(LLAMA_FILES)


def test_closure_through_packages_and_functions(collect: Collect) -> None:
    found, package = collect(
        model="from PACKAGE import tools\nfrom PACKAGE.tools import help\nimport numpy as np\nX = np\n"
        "def f():\n    from PACKAGE.deep import deep\n    from .other import other\n",
        tools="from .other import other\ndef help(): ...\n",
        deep="import json, torch\ndeep = 1\n",
        other="other = 2\n",
    )
    assert texts(found).keys() == {"model.py", "tools.py", "deep.py", "other.py"}
    assert "from . import tools" in texts(found)["model.py"]
    assert "    from .deep import deep" in texts(found)["model.py"]
    assert found.requires == ("numpy",)
    assert package not in "".join(texts(found).values())


def test_imports_within_try_are_not_required(collect: Collect) -> None:
    found, _ = collect(
        model="try:\n    from fast_lm import fast\n    import faster_lm\nexcept ImportError:\n    import slow_lm\n"
        "from needed import x\n"
    )
    assert found.requires == ("needed", "slow_lm")


REFUSED = {
    "plain import": ("import PACKAGE.other\n", 1),
    "star": ("x = 1\nfrom PACKAGE.other import *\n", 2),
    "backslash": ("from PACKAGE.other \\\n    import other\n", 1),
    "only as a module": ("from . import other\n", 1),
    "import at run time": ("import importlib\nimportlib.import_module('PACKAGE.other')\n", 2),
    "a name computed at run time": ("import importlib\n\nimportlib.import_module(__name__ + '.x')\n", 3),
    "data of the package": ("from importlib import resources\nresources.files(__package__)\n", 2),
    "a missing module": ("from PACKAGE.nowhere import x\n", 1),
    "a name that is no module": ("from PACKAGE import nothing\n", 1),
    "out of the package": ("from ...other import other\n", 1),
    "the core": ("from forgather_core.model.build import build\n", 1),
    "the command line": ("from forgather_cli.main import main\n", 1),
    "a docstring like an import": ('"""Write\n    from .other import x\n"""\n', 2),
    "syntax": ("x = = 1\n", 1),
}


@pytest.mark.parametrize(("text", "line"), REFUSED.values(), ids=REFUSED)
def test_refuses_unsupported_imports_with_their_line(collect: Collect, text: str, line: int) -> None:
    with pytest.raises(ExportError, match=rf"model\.py:{line}: "):
        collect(model=text, other="other = 2\n")


def test_refuses_two_modules_with_one_file_name(collect: Collect) -> None:
    with pytest.raises(ExportError, match=r"would both be other\.py"):
        collect(
            model="from .other import a\nfrom PACKAGE.deep.other import b\n", other="a = 1\n", deep__other="b = 1\n"
        )


IMPORTS = [
    "from PACKAGE.other import other",
    "from .other import (\n    other,  # why\n    other as another,\n)",
    "from   .  other   import other as ö",
    "if True: from .other import other; y = 1",
    "def f():\n\tfrom PACKAGE.other import other\n\treturn other",
]
NOISE = [
    "# from .nowhere import x",
    "x = 'from .nowhere import x'",
    "ä = 'ß' + '''\nfoo '''",
    "",
    "import math",
    "\x0c",
]


@given(st.lists(st.sampled_from(IMPORTS + NOISE), max_size=8), st.sampled_from(["\n", "\r\n"]), st.booleans())
@settings(max_examples=60)
def test_only_module_names_change(
    tmp_path_factory: pytest.TempPathFactory, lines: list[str], end: str, bom: bool
) -> None:
    package = f"made_up_package_{next(COUNT)}"
    folder = tmp_path_factory.mktemp("site") / package
    folder.mkdir()
    source = "\n".join(["from .other import other", *lines, ""]).replace("PACKAGE", package).replace("\n", end)
    data = (b"\xef\xbb\xbf" if bom else b"") + source.encode()
    (folder / "__init__.py").touch()
    (folder / "model.py").write_bytes(data)
    (folder / "other.py").write_bytes(b"other = 2\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder.parent))
        found = {file.name: file.text for file in collect_sources([f"{package}.model"]).files}
    assert found["other.py"] == b"other = 2\n"
    assert found["model.py"].replace(b".other", b"?") == (
        data.replace(f"{package}.other".encode(), b"?").replace(b".  other", b"?").replace(b".other", b"?")
    )
    ast.parse(found["model.py"])
