"""Every command that reads a model directory with a broken file prints one line that names the file."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from .conftest import LLAMA, Cli

SMALL = ("--hidden-size", "16", "--num-attention-heads", "2", "--num-hidden-layers", "1", "--intermediate-size", "16")


def _change(**values: object) -> Callable[[Path], None]:
    def breaks(place: Path) -> None:
        file = place / "config.json"
        content = json.loads(file.read_text()) | values
        file.write_text(json.dumps({name: value for name, value in content.items() if value is not None}))

    return breaks


def _append(text: str) -> Callable[[Path], None]:
    def breaks(place: Path) -> None:
        with (place / "norms.py").open("a") as file:
            file.write(text)

    return breaks


def _folder(place: Path) -> None:
    (place / "config.json").unlink()
    (place / "config.json").mkdir()


def _utf16(place: Path) -> None:
    (place / "norms.py").write_bytes(b"\xff\xfe#\x00")


LINE = 1 + len((Path(__file__).parents[2] / "forgather_core/parts/norms.py").read_text().splitlines())
BREAKS: dict[str, tuple[Callable[[Path], None], str]] = {
    "not JSON": (lambda place: (place / "config.json").write_text("{") and None, "config.json cannot be read"),
    "unknown model_type": (_change(model_type="nope", auto_map=None), "no model_type 'nope'"),
    "no model_type": (_change(model_type=None, auto_map=None), "config.json has no model_type"),
    "wrong type": (_change(hidden_size="wide"), "config.json"),
    "odd head": (_change(head_dim=7), "config.json cannot be loaded"),
    "auto_map leads nowhere": (_change(auto_map={"AutoConfig": "gone.X"}), "gone.py"),
    "missing part": (lambda place: (place / "feed_forward.py").unlink(), "feed_forward.py is missing"),
    "syntax error": (_append("def (\n"), f"norms.py:{LINE}:5: invalid syntax"),
    "missing package": (_append("import no_such_package\n"), f"norms.py:{LINE}: No module named 'no_such_package'"),
    "error at import": (_append("1 / 0\n"), f"norms.py:{LINE}: ZeroDivisionError: division by zero"),
    "config.json is a folder": (_folder, "config.json is no regular file"),
    "not UTF-8": (_utf16, "norms.py is not UTF-8"),
    "exit at import": (_append("raise SystemExit(3)\n"), f"norms.py:{LINE}: SystemExit: 3"),
}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from forgather_core.definitions.registry import registry
    from forgather_core.export.directory import prepare_directory
    from forgather_core.settings.layers import find_configuration
    from forgather_core.settings.resolve import resolve

    flags = {flag[2:].replace("-", "_"): int(value) for flag, value in zip(SMALL[::2], SMALL[1::2], strict=True)}
    place = tmp_path_factory.mktemp("built") / "model"
    prepare_directory(resolve(find_configuration("llama/4M", registry()), flags), place)
    return place


@pytest.mark.regression("P3")
@pytest.mark.few(4)
@pytest.mark.parametrize("command", ["verify", "verify --full", "test", "construct"])
@pytest.mark.parametrize("name", BREAKS)
def test_one_line_names_the_broken_file(
    cli: Cli, built: Path, request: pytest.FixtureRequest, name: str, command: str
) -> None:
    breaks, text = BREAKS[name]
    place = Path(f"model_{abs(hash(request.node.name)) % 10**9}")  # transformers caches modules by directory name
    shutil.copytree(built, place)
    breaks(place)
    if command.startswith("verify"):
        words = [*command.split(), str(place), "--checks", "causality"]
    else:
        words = [*LLAMA, *SMALL, "--output-dir", str(place), "--keep", command]
    error = cli(*words).error
    assert str(place) in error
    assert text in error
