"""The wheel contains every file of the packages, and the installed program runs."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent.parent
PACKAGES = ("forgather", "forgather_core", "forgather_cli", "plugins")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the wheel from a copy of the tracked files, since a build writes into its tree."""
    place = tmp_path_factory.mktemp("wheel")
    for name in tracked():
        copy = place / "tree" / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes((ROOT / name).read_bytes())
    pip = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*pip, "-w", str(place), str(place / "tree")], check=True, capture_output=True)
    (made,) = place.glob("*.whl")
    return made


def tracked() -> list[str]:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True, text=True)
    return [name for name in listed.stdout.split("\0") if name and (ROOT / name).is_file()]


def test_every_file_of_the_packages_is_in_it(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        packed = set(archive.namelist())
    sources = {name.removeprefix("plugins/") for name in tracked() if name.startswith(tuple(f"{p}/" for p in PACKAGES))}
    assert sources - packed == set()


def test_it_runs_where_it_is_installed(wheel: Path, tmp_path: Path, environment: dict[str, str]) -> None:
    site = tmp_path / "site"
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-index"]
    subprocess.run([*pip, "--target", str(site), str(wheel)], check=True, capture_output=True)

    def forgather(*arguments: str) -> str:
        return subprocess.run(
            [sys.executable, "-m", "forgather", *arguments],
            cwd=tmp_path, env=environment | {"PYTHONPATH": str(site)}, check=True, capture_output=True, text=True,
        ).stdout  # fmt: skip

    listed = json.loads(forgather("ls", "--json"))
    presets = {preset["name"] for each in listed["definitions"] for preset in each["presets"]}
    files = [Path(name) for name in tracked() if name.startswith("plugins/") and "/presets/" in name]
    assert presets == {f"{file.parent.parent.name.removeprefix('forgather_')}/{file.stem}" for file in files}
    forgather("-t", "qwen3/4M", "model", "--chat-template", "chatml", "construct")
    forgather("plugin", "new", "my_model")
    where = "import forgather_core, forgather_llama; print(forgather_core.__file__, forgather_llama.__file__)"
    printed = subprocess.run(
        [sys.executable, "-c", where], cwd=tmp_path, env=environment | {"PYTHONPATH": str(site)},
        check=True, capture_output=True, text=True,
    ).stdout  # fmt: skip
    assert printed.count(str(site)) == 2


@pytest.mark.regression("E12")
def test_python_m(environment: dict[str, str], tmp_path: Path) -> None:
    run = [sys.executable, "-m", "forgather", "ls"]
    done = subprocess.run(run, cwd=tmp_path, env=environment, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "llama" in done.stdout
