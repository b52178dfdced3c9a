"""Run the program in this process or a separate one, in an empty directory, with a width of 80 columns."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from forgather_cli.main import main
from forgather_core.definitions.registry import registry

from .remedies import wrong_remedy

LLAMA = ("-t", "llama/4M", "model")
# Like the installed script: `python -m` would change the name of the program.
SCRIPT = "import sys; sys.argv[0] = 'forgather'; from forgather_cli.main import main; main()"
UNSET = ("VISUAL", "EDITOR", "NO_COLOR", "FORCE_COLOR", "FORGATHER_TRACEBACK", "FORGATHER_DISABLE_PLUGINS")


@dataclass(frozen=True)
class Ran:
    """The result of one run: exit code and output."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        assert self.code == 0, self.err
        return json.loads(self.out)

    @property
    def error(self) -> str:
        """The one-line error message for invalid input."""
        assert self.code == 2, (self.code, self.out, self.err)
        assert self.out == ""
        assert self.err.startswith("forgather: error: "), self.err
        assert self.err.count("\n") == 1, self.err
        assert self.err.endswith("\n")
        return self.err.removeprefix("forgather: error: ").rstrip()


Cli = Callable[..., Ran]


@pytest.fixture(autouse=True)
def _empty_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty working directory and a clean environment."""
    place = tmp_path / "here"
    place.mkdir()
    monkeypatch.chdir(place)
    for name in UNSET:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(sys.modules["__main__"], "__package__", None, raising=False)  # the program's name for Typer


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Cli:
    """Run `forgather` with arguments in this process."""

    def run(*arguments: str) -> Ran:
        registry.cache_clear()
        monkeypatch.setattr(sys, "argv", ["forgather", *arguments])
        capsys.readouterr()
        with pytest.raises(SystemExit) as left:
            main()
        printed = capsys.readouterr()
        assert isinstance(left.value.code, int)
        if left.value.code == 2:
            assert (flag := wrong_remedy(arguments, printed.err)) is None, f"no option of the command: {flag}"
        return Ran(left.value.code, printed.out, printed.err)

    return run


def start(*arguments: str, **more: Any) -> subprocess.CompletedProcess[str]:
    """Run `forgather` with arguments in a separate process; `env` adds to the environment."""
    env = os.environ | more.pop("env", {})
    more = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | more
    return subprocess.run(
        [sys.executable, "-c", SCRIPT, *arguments], env=env, text=True, timeout=60, check=False, **more
    )


@pytest.fixture
def resolved(cli: Cli) -> Callable[..., dict[str, Any]]:
    """Return the values of all options from `show --json`, for arguments after `model`."""

    def run(*arguments: str, template: str = "llama/4M") -> dict[str, Any]:
        words = arguments if "show" in arguments else (*arguments, "show")
        report = cli("-t", template, "model", *words, "--json").json
        return {name: item["value"] for part in ("options", "shared_options") for name, item in report[part].items()}

    return run


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Install a distribution as pip does, visible to processes started later."""
    place = tmp_path / "site"
    path = os.pathsep.join([str(place), *filter(None, [os.environ.get("PYTHONPATH")])])

    def add(distribution: str, module: str, text: str, **entry_points: str) -> Path:
        info = place / f"{distribution.replace('-', '_')}-1.2.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.2\n")
        points = entry_points or {module: module}
        lines = "".join(f"{name} = {target}\n" for name, target in points.items())
        (info / "entry_points.txt").write_text(f"[forgather.models]\n{lines}")
        (place / f"{module}.py").write_text(text)
        monkeypatch.setenv("PYTHONPATH", path)
        return place

    return add


def nothing_on_disk() -> bool:
    """Return whether the working directory is empty."""
    return not list(Path().iterdir())
