"""`ls` and `plugins`: what is there, what is broken, and what this project has."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from .conftest import Cli, start

Site = Callable[..., Path]


def test_definitions_with_their_presets(cli: Cli) -> None:
    (llama,) = [d for d in cli("ls", "--json").json["definitions"] if d["name"] == "llama"]
    rows = {row["name"]: row for row in llama["presets"]}
    assert rows["llama/4M"] == {
        "name": "llama/4M",
        "definition": "llama",
        "extends": None,
        "parameters": 4434176,
        "num_hidden_layers": 4,
        "hidden_size": 256,
        "vocab_size": 2000,
        "tokenizer": "bpe-2k",
        "source": "https://arxiv.org/abs/2302.13971",
    }
    page = cli("ls").out
    assert all(name in page for name in rows)
    assert "6,738,415,616" in page


def test_configurations_of_the_project_good_and_bad(cli: Cli) -> None:
    Path("there/configs").mkdir(parents=True)
    Path("there/good.yaml").write_text("extends: llama/4M\nhidden_size: 512\n")
    Path("there/configs/bad.yaml").write_text("extends: llama/4M\nhiden_size: 512\n")
    Path("there/compose.yaml").write_text("services: {}\n")  # not one of ours
    rows = {Path(row["name"]).name: row for row in cli("-p", "there", "ls", "--json").json["configurations"]}
    assert rows.keys() == {"good.yaml", "bad.yaml"}
    assert (rows["good.yaml"]["hidden_size"], rows["good.yaml"]["extends"]) == (512, "llama/4M")
    assert "Did you mean 'hidden_size'" in rows["bad.yaml"]["error"]
    page = cli("-p", "there", "ls").out
    assert "extends llama/4M" in page
    assert cli("ls", "--json").json["configurations"] == []


def test_plugins(cli: Cli) -> None:
    (llama,) = [p for p in cli("plugins", "--json").json["plugins"] if p["name"] == "llama"]
    assert (llama["distribution"], llama["state"], llama["definitions"]) == ("forgather", "ok", ["llama"])
    assert llama["file"].endswith("forgather_llama/plugin.py")
    assert llama["error"] is None
    assert "forgather_llama/plugin.py" in cli("plugins").out.replace("\n", "")


def test_a_broken_plugin_is_named_and_changes_the_exit_code(site: Site) -> None:
    site("bad-dist", "bad_lm", "raise RuntimeError('no luck')", bad="bad_lm")
    done = start("plugins", "--json")
    assert done.returncode == 1
    rows = {p["name"]: p for p in json.loads(done.stdout)["plugins"]}
    assert (rows["bad"]["state"], rows["bad"]["error"]) == ("broken", "RuntimeError: no luck")
    assert (rows["bad"]["distribution"], rows["bad"]["version"]) == ("bad-dist", "1.2")
    assert rows["llama"]["state"] == "ok"
    assert "bad: RuntimeError: no luck" in start("plugins").stdout
    assert "broken plugins: bad" in start("ls").stdout
    off = start("plugins", "--json", env={"FORGATHER_DISABLE_PLUGINS": "bad"})
    assert off.returncode == 0
    assert {p["name"]: p["state"] for p in json.loads(off.stdout)["plugins"]}["bad"] == "disabled"
    asked = start("-t", "bad", "model", "show")
    assert asked.returncode == 2
    assert "RuntimeError: no luck" in asked.stderr
