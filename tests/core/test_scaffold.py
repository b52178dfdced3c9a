"""`new_plugin` writes a working package, or raises a one-line error and writes nothing."""

from __future__ import annotations

import ast
import importlib
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from forgather_core import scaffold
from forgather_core.definitions.registry import registry
from forgather_core.errors import DefinitionError, DirectoryError
from forgather_core.scaffold import new_plugin
from tests.support.fork_server import ForkServer
from tests.support.plugins import PLUGIN, MakeRegistry


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")


def texts(package: Path) -> dict[str, str]:
    return {str(file.relative_to(package)): file.read_text() for file in package.rglob("*") if file.is_file()}


@pytest.mark.parametrize(
    ("name", "camel", "distribution"),
    [("my_model", "MyModel", "forgather-my-model"), ("gpt9", "Gpt9", "forgather-gpt9"), ("x", "X", "forgather-x")],
)
def test_replaces_every_name(name: str, camel: str, distribution: str) -> None:
    report = new_plugin(name)
    package = Path(distribution)
    assert (report["distribution"], report["directory"], report["module"]) == (
        distribution,
        distribution,
        f"forgather_{name}",
    )
    written = texts(package)
    assert {file["path"] for file in report["files"]} == set(written)
    assert not re.search("new_?-?model", " ".join([*written, *written.values()]), re.IGNORECASE)
    project = tomllib.loads(written["pyproject.toml"])
    assert project["project"]["name"] == distribution
    assert project["project"]["entry-points"]["forgather.models"] == {name: f"forgather_{name}.plugin"}
    assert f"class {camel}ForCausalLM(CausalLM):" in written[f"forgather_{name}/modeling_{name}.py"]
    assert f"class Test{camel}(DefinitionTests):" in written[f"tests/test_{name}.py"]
    assert "output_models/" in written[".gitignore"]
    for path, text in written.items():
        if path.endswith(".py"):
            assert ast.get_docstring(ast.parse(text, path)), path
            assert max(map(len, text.splitlines())) <= 120
    assert list(Path().iterdir()) == [package]


def test_the_next_commands_name_the_directory(tmp_path: Path) -> None:
    assert new_plugin("my_model", "deep/er place")["next"] == [
        "pip install -e './deep/er place'",
        "forgather -t my_model model construct",
        "forgather -t my_model model --device cpu test",
        "forgather -t my_model model verify",
        "pip install pytest && pytest './deep/er place'",
    ]
    assert new_plugin("my_model", tmp_path / "there")["next"][0] == f"pip install -e {tmp_path / 'there'}"
    assert texts(Path("deep/er place")) == texts(tmp_path / "there")


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("", "use lower-case letters, digits and '_'"),
        ("My", "use lower-case letters, digits and '_'"),
        ("my-model", "use lower-case letters, digits and '_'"),
        ("9lives", "use lower-case letters, digits and '_'"),
        ("_x", "use lower-case letters, digits and '_'"),
        ("a__b", "use lower-case letters, digits and '_'"),
        ("../up", "use lower-case letters, digits and '_'"),
        ("grün", "use lower-case letters, digits and '_'"),
        ("x" * 33, "it has 33 characters: use at most 32"),
        ("lambda", "it is a Python keyword"),
        ("llama", "the plugin 'llama' of forgather uses it"),
        ("core", "the package 'forgather_core' already exists"),
        ("decoder", "its class 'DecoderOptions' would have the name of a class of Forgather"),
        ("grouped_head", "its class 'GroupedHeadOptions' would have the name of"),
    ],
)
def test_refuses_an_invalid_name(name: str, reason: str) -> None:
    with pytest.raises(DefinitionError, match=re.escape(f"'{name}' cannot be the name of a new definition: {reason}")):
        new_plugin(name)
    assert not list(Path().iterdir())


def test_refuses_the_names_of_definitions_and_of_broken_plugins(make_registry: MakeRegistry) -> None:
    plugins = make_registry(pack=PLUGIN.replace("NAME", "alpha"), beta="import no_such_module")
    for name, reason in (
        ("alpha", "the plugin 'pack' of dist-pack uses it"),
        ("beta", "the plugin 'beta' of dist-beta"),
    ):
        with pytest.raises(DefinitionError, match=reason):
            new_plugin(name, plugins=plugins)


def test_refuses_an_existing_path_and_keeps_it(tmp_path: Path) -> None:
    Path("forgather-mine").mkdir()
    Path("file").write_text("mine")
    Path("link").symlink_to("nowhere")
    for place in (None, "file", "link"):
        with pytest.raises(DirectoryError, match=r"exists: choose another --output-dir, or remove it"):
            new_plugin("mine", place)
    assert sorted(p.name for p in Path().iterdir()) == ["file", "forgather-mine", "link"]
    assert not list(Path("forgather-mine").iterdir())


def test_writes_the_whole_package_or_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    write, left = Path.write_text, [3]

    def full(path: Path, *arguments: Any, **more: Any) -> int:
        left[0] -= 1
        if left[0] < 0:
            raise OSError(28, "No space left on device", str(path))
        return write(path, *arguments, **more)

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(DirectoryError, match="No space left"):
        new_plugin("mine")
    assert not list(Path().iterdir())


@pytest.fixture
def imported(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Import the plugin module of a new package from its directory."""
    new_plugin("fresh")
    monkeypatch.syspath_prepend(str(Path("forgather-fresh").resolve()))
    yield importlib.import_module("forgather_fresh.plugin")
    for name in [name for name in sys.modules if name.startswith("forgather_fresh")]:
        del sys.modules[name]


def test_the_preset_states_its_parameter_count(imported: Any, make_registry: MakeRegistry) -> None:
    from forgather_core.model.meta_model import meta_model
    from forgather_core.settings.layers import find_configuration
    from forgather_core.settings.resolve import resolve

    source = Path(imported.__file__).read_text().replace("from .options", "from forgather_fresh.options")
    configuration = find_configuration("fresh", make_registry(fresh=source))
    model = meta_model(resolve(configuration))
    assert sum(p.numel() for p in model.parameters()) == configuration.notes["parameters"] == 4_172_032
    assert model.model.layers[0].scale == 8**-0.5  # derived from 4 layers
    assert meta_model(resolve(configuration, {"residual_scale": 0.5})).model.layers[0].scale == 0.5
    assert (
        type(meta_model(resolve(configuration, {"activation": "relu"})).model.layers[0].mlp.act_fn).__name__ == "ReLU"
    )


def test_its_model_type_differs_from_those_of_transformers(imported: Any) -> None:
    from transformers import CONFIG_MAPPING

    model_type = importlib.import_module("forgather_fresh.configuration_fresh").FreshConfig.model_type
    assert model_type == "forgather_fresh"
    assert not [name for name in CONFIG_MAPPING if name.startswith("forgather_")]
    assert scaffold.__name__ == "forgather_core.scaffold"


# Without the cases of the covering array, which call-agreement runs too.
@pytest.mark.parametrize(
    "tests",
    [
        pytest.param("not test_call and (causality or gradients or init-std)", id="some", marks=pytest.mark.slow),
        pytest.param("not test_call", id="all", marks=pytest.mark.exhaustive),
    ],
)
def test_the_package_works_unchanged(tests: str, tmp_path: Path) -> None:
    """Installed with pip, it is constructed, trained and verified, and its own tests pass."""
    new_plugin("my_model")
    package, site = Path("forgather-my-model").resolve(), tmp_path / "site"
    source = tmp_path / "source"  # a build leaves files in the source directory
    shutil.copytree(package, source)
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-build-isolation", "--no-index"]
    path = ":".join([str(site), *filter(None, [os.environ.get("PYTHONPATH")])])
    more = {"PYTHONPATH": path, "HF_HOME": str(tmp_path / "hf"), "HF_HUB_OFFLINE": "1"}

    subprocess.run([*pip, "--target", str(site), str(source)], check=True, capture_output=True)
    with ForkServer(os.environ | more) as server:

        def run(*arguments: str, place: Path = tmp_path) -> str:
            done = server.run(("-m", *arguments), cwd=place, seconds=900)
            assert done.returncode == 0, done.stdout + done.stderr
            return done.stdout

        forgather = ("forgather_cli.main", "-t", "my_model", "model")
        assert "4,172,032" in run(*forgather, "construct")
        run(*forgather, "--device", "cpu", "test", "--sequence-length", "32", "--packed")
        # its tests run all checks
        assert "0 failed" in run(*forgather, "verify", "--checks", "causality,no-dead-options")
        output = run("pytest", "-q", "-p", "no:cacheprovider", "-k", tests, place=package)
        assert " passed" in output
    assert "my_model" not in registry().plugins  # this environment is unchanged
