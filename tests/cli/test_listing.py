"""`ls` and `plugins`."""

from __future__ import annotations

import json
import re
import sys
import types
from pathlib import Path
from typing import Any

import pytest

from .conftest import Cli, start

GOOD = """
from dataclasses import dataclass
from forgather_core import ModelDefinition, hookimpl, option

@dataclass(kw_only=True)
class Options:
    hidden_size: int = option(8, help="Width", ge=1)

@hookimpl
def forgather_models():
    yield ModelDefinition(name="good", summary="A good one", options=Options, config="x:C", model="x:M")
"""
BAD = "import no_such_module\n"


def definitions(done: dict[str, Any]) -> dict[str, Any]:
    return {definition["name"]: definition for definition in done["definitions"]}


def test_ls_lists_every_preset_with_its_sizes(cli: Cli) -> None:
    llama = definitions(cli("ls", "--json").json)["llama"]
    rows = {row["name"]: row for row in llama["presets"]}
    assert list(rows) == ["llama/4M", "llama/30M", "llama/117M", "llama/llama3.2-1B", "llama/llama2-7B"]
    assert (llama["default_preset"], llama["summary"].split(":")[0]) == ("4M", "Llama")
    small = rows["llama/4M"]
    assert (small["parameters"], small["num_hidden_layers"], small["hidden_size"], small["vocab_size"]) == (
        4434176, 4, 256, 2000,
    )  # fmt: skip
    assert all(row["source"].startswith("https://") and "error" not in row for row in rows.values())


def test_ls_as_text(cli: Cli) -> None:
    done = cli("ls")
    assert (done.code, done.err) == (0, "")
    assert "llama/4M (default)" in done.out
    assert "4,434,176" in done.out
    assert "https://huggingface.co/meta-llama/Llama-3.2-1B" in done.out
    assert "\x1b" not in done.out
    assert "Configurations of this project" not in done.out


def test_ls_lists_the_configurations_of_the_project(cli: Cli, tmp_path: Path) -> None:
    project = tmp_path / "project"
    (project / "configs").mkdir(parents=True)
    (project / "wide.yaml").write_text("extends: llama/4M\nhidden_size: 512\n")
    (project / "configs" / "wrong.yaml").write_text("extends: llama/4M\nhiden_size: 512\n")
    (project / "configs" / "torn.yaml").write_text("extends: [\n")
    (project / "docker-compose.yaml").write_text("services: {}\n")
    (project / "notes.txt").write_text("extends: llama/4M\n")
    rows = {Path(row["name"]).name: row for row in cli("-p", str(project), "ls", "--json").json["configurations"]}
    assert sorted(rows) == ["torn.yaml", "wide.yaml", "wrong.yaml"]
    assert (rows["wide.yaml"]["hidden_size"], rows["wide.yaml"]["extends"]) == (512, "llama/4M")
    assert "Did you mean 'hidden_size'?" in rows["wrong.yaml"]["error"]
    assert "torn.yaml:" in rows["torn.yaml"]["error"]
    text = cli("-p", str(project), "ls")
    assert text.code == 0
    assert "Did you mean 'hidden_size'?" in " ".join(text.out.split())
    assert cli("ls", "--json").json["configurations"] == []


def test_plugins_shows_the_source_of_each(cli: Cli) -> None:
    rows = {row["name"]: row for row in cli("plugins", "--json").json["plugins"]}
    llama = rows["llama"]
    assert (llama["distribution"], llama["state"], llama["definitions"]) == ("forgather", "ok", ["llama"])
    assert llama["file"].endswith("forgather_llama/plugin.py")
    text = cli("plugins")
    assert (text.code, text.err) == (0, "")
    assert "forgather_llama/plugin.py" in text.out


def test_a_third_party_plugin_is_fully_supported(site: Any) -> None:
    site("good-dist", "good_lm", GOOD, good="good_lm")
    rows = {row["name"]: row for row in json.loads(start("plugins", "--json").stdout)["plugins"]}
    assert (rows["good"]["version"], rows["good"]["distribution"], rows["good"]["state"]) == ("1.2", "good-dist", "ok")
    assert definitions(json.loads(start("ls", "--json").stdout))["good"]["presets"] == []
    shown = start("-t", "good", "model", "show", "--hidden-size", "16", "--json")
    assert json.loads(shown.stdout)["options"]["hidden_size"]["value"] == 16
    assert "--hidden-size INT" in start("-t", "good", "model", "--help").stdout
    assert "'good' has no preset 'x': use good" in start("-t", "good/x", "model", "show").stderr


@pytest.mark.few(1)
@pytest.mark.parametrize(
    ("text", "error"),
    [
        (BAD, "ModuleNotFoundError: No module named 'no_such_module'"),
        ("raise SystemExit(3)", "SystemExit: 3"),
        ("def broken(:", "SyntaxError"),
        (GOOD.replace("hidden_size", "device"), "the option 'device' of 'good' conflicts with a shared option"),
        (GOOD.replace("def forgather_models", "def forgather_model"), "forgather_model"),
        (GOOD.replace('name="good"', 'name="llama"'), "the plugin 'llama' already provides the definition 'llama'"),
    ],
)
def test_a_broken_plugin_does_not_affect_others(site: Any, text: str, error: str) -> None:
    site("bad-dist", "other_lm", text, zbad="other_lm")
    done = start("plugins", "--json")
    rows = {row["name"]: row for row in json.loads(done.stdout)["plugins"]}
    assert done.returncode == 1
    assert (rows["zbad"]["state"], rows["llama"]["state"]) == ("broken", "ok")
    assert error in rows["zbad"]["error"]
    listed = start("ls", "--json")
    assert listed.returncode == 0
    assert json.loads(listed.stdout)["broken"] == ["zbad"]
    done = start("-t", "zbad", "model", "show")
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "the plugin 'zbad' (bad-dist 1.2, other_lm) cannot be loaded" in done.stderr
    assert start("-t", "llama/4M", "model", "show").returncode == 0


def test_a_broken_plugin_in_the_text(site: Any) -> None:
    site("bad-dist", "bad_lm", BAD, bad="bad_lm")
    done = start("plugins")
    assert done.returncode == 1
    assert "bad: ModuleNotFoundError: No module named 'no_such_module'" in done.stdout
    assert "broken plugins: bad (details: forgather plugins)" in start("ls").stdout


def test_two_distributions_of_one_name(site: Any) -> None:
    site("one", "one_lm", GOOD, good="one_lm")
    site("two", "two_lm", GOOD, good="two_lm")
    done = start("plugins", "--json")
    assert done.returncode == 1
    (row,) = [row for row in json.loads(done.stdout)["plugins"] if row["name"] == "good"]
    assert "'one' and 'two'" in row["error"]


@pytest.mark.few(1)
@pytest.mark.parametrize("names", ["bad", " bad , missing", "bad,,"])
def test_plugins_are_disabled(site: Any, names: str) -> None:
    site("bad-dist", "bad_lm", BAD, bad="bad_lm")
    off = {"FORGATHER_DISABLE_PLUGINS": names}
    done = start("plugins", "--json", env=off)
    assert done.returncode == 0
    assert {row["name"]: row["state"] for row in json.loads(done.stdout)["plugins"]}["bad"] == "disabled"
    assert json.loads(start("ls", "--json", env=off).stdout)["broken"] == []
    assert "disabled by FORGATHER_DISABLE_PLUGINS" in start("-t", "bad", "model", "show", env=off).stderr


def test_a_shipped_plugin_is_disabled(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORGATHER_DISABLE_PLUGINS", "llama")
    assert "llama" not in definitions(cli("ls", "--json").json)
    assert "is disabled" in cli("-t", "llama/4M", "model", "show").error


HEAVY = """
from dataclasses import dataclass
from forgather_core import ModelDefinition, hookimpl
from heavy.options import Options

@hookimpl
def forgather_models():
    yield ModelDefinition(name="heavy", summary="Slow", options=Options, config="x:C", model="x:M")
"""
OPTIONS = """
from dataclasses import dataclass
{line}

@dataclass(kw_only=True)
class Options:
    pass
"""


@pytest.mark.few(1)
@pytest.mark.regression("P14")
@pytest.mark.parametrize("line", ["import torch", "from torch import nn", "import slow_lib"])
def test_plugins_names_slow_imports(site: Any, line: str) -> None:
    place = site("heavy", "heavy", "")
    (place / "heavy.py").unlink()
    (place / "heavy").mkdir()
    (place / "heavy/__init__.py").write_text(HEAVY)
    (place / "heavy/options.py").write_text(OPTIONS.format(line=line))
    (place / "slow_lib.py").write_text("import time\ntime.sleep(0.6)\n")
    # A small package replaces the slow one of that name.
    (place / "torch").mkdir()
    (place / "torch/__init__.py").write_text("import time\nfrom . import nn\ntime.sleep(0.1)\n")
    (place / "torch/nn.py").write_text("")
    listed = start("plugins", "--json")
    assert listed.returncode == 0, listed.stderr
    rows = {row["name"]: row.get("slow") for row in json.loads(listed.stdout)["plugins"]}
    assert {name for name, slow in rows.items() if slow} == {"heavy"}
    package = "slow_lib" if "slow_lib" in line else "torch"
    assert re.match(rf"heavy\.options imports {package}, which takes \d\.\d s in every command", rows["heavy"])
    assert f"imports {package}" in " ".join(start("plugins").stdout.split())


def test_the_second_plugin_that_imports_a_heavy_package_is_named_too(monkeypatch: pytest.MonkeyPatch) -> None:
    from forgather_core.definitions.import_cost import measure_imports

    heavy, own = types.ModuleType("pandas"), types.ModuleType("second_lm")
    own.pd = heavy  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "pandas", heavy)
    monkeypatch.setitem(sys.modules, "second_lm", own)
    with measure_imports() as measured:
        pass
    found = measured.cost("second_lm")
    assert found is not None
    assert (found.module, found.package, found.seconds) == ("second_lm", "pandas", None)


def test_home_of_a_project_is_expanded(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "mine.yaml").write_text("extends: llama/4M\n")
    assert "mine.yaml" in cli("-p", "~/there", "ls").out
    assert cli("-p", "~/there", "-t", "mine", "model", "show", "--json").json["model_name"] == "mine"
