"""Shell completion, asked as the scripts that Typer installs ask."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from .conftest import start

PRESETS = ["llama/4M", "llama/30M", "llama/117M", "llama/llama3.2-1B", "llama/llama2-7B"]


def complete(line: str) -> list[str]:
    """What bash is offered for the last word of a line."""
    words = line.split(" ")
    env = {"_FORGATHER_COMPLETE": "complete_bash", "COMP_WORDS": line, "COMP_CWORD": str(len(words) - 1)}
    done = start(env=env)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.split()


@pytest.mark.few(12)
@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("forgather ", ["ls", "verify", "plugins", "model", "checkpoint", "dataset", "tokenizer", "plugin"]),
        ("forgather dataset ", ["ls", "show"]),
        ("forgather plugin ", ["new"]),
        ("forgather dataset show s", ["stdlib"]),
        ("forgather dataset show stdlib --tokenizer bpe", ["bpe-2k", "bpe-8k"]),
        ("forgather tokenizer train --dataset-project ", ["stdlib"]),
        ("forgather -t llama/", PRESETS),
        ("forgather -t llama/4", ["llama/4M"]),
        ("forgather --template ll", ["llama", *PRESETS]),
        ("forgather -t zzz", []),
        ("forgather -t llama/zzz", []),
        ("forgather -t llama mo", ["model"]),
        ("forgather -t llama model ", ["construct", "test", "verify", "show", "estimate", "compare"]),
        ("forgather -t llama model --hid", ["--hidden-size"]),
        ("forgather -t llama model --hidden-size 3 --num-h", ["--num-hidden-layers"]),
        ("forgather -t llama model --hidden-size nonsense --num-h", ["--num-hidden-layers"]),
        ("forgather -t zzz model --hid", []),
        ("forgather model --dev", ["--device"]),
        ("forgather -t llama model show --seq", ["--sequence-length"]),
        (
            "forgather -t llama model --attn-implementation ",
            ["eager", "sdpa", "flash_attention_2", "flex_attention"],
        ),
        ("forgather -t llama model --attn-implementation f", ["flash_attention_2", "flex_attention"]),
        ("forgather -t llama model show --attn-implementation e", ["eager"]),
    ],
)
def test_what_is_offered(line: str, offered: list[str]) -> None:
    assert complete(line) == offered


def test_configurations_of_the_project_are_offered() -> None:
    Path("configs").mkdir()
    Path("configs/first_try.yaml").write_text("extends: llama/4M\n")
    Path("final.yaml").write_text("extends: llama/4M\n")
    assert complete("forgather -t fi") == ["final", "first_try"]


def test_configurations_of_another_project_are_offered() -> None:
    Path("there").mkdir()
    Path("there/first_try.yaml").write_text("extends: llama/4M\n")
    assert complete("forgather -p there -t fi") == ["first_try"]


PACK = """
from dataclasses import dataclass
from forgather_core import ModelDefinition, hookimpl

@dataclass(kw_only=True)
class Options:
    pass

@hookimpl
def forgather_models():
    yield ModelDefinition(name="alpha", summary="One of a pack", options=Options, config="x:C", model="x:M")
"""


def test_a_definition_is_offered_that_is_not_called_like_its_plugin(site: object) -> None:
    site("pack", "pack_lm", PACK, pack="pack_lm")  # type: ignore[operator]
    assert complete("forgather -t alp") == ["alpha"]


def test_a_broken_plugin_breaks_no_completion(site: object) -> None:
    site("bad", "bad_lm", "import no_such_module", bad="bad_lm", llamb="bad_lm")  # type: ignore[operator]
    assert complete("forgather -t llam") == ["llama", *PRESETS]
    assert complete("forgather -t bad") == []


@pytest.mark.parametrize(
    ("shell", "more"), [("zsh", {}), ("fish", {"_TYPER_COMPLETE_FISH_ACTION": "get-args"}), ("powershell", {})]
)
def test_other_shells(shell: str, more: dict[str, str]) -> None:
    words = "forgather -t llama/4"
    env = {"_FORGATHER_COMPLETE": f"complete_{shell}", "_TYPER_COMPLETE_ARGS": words}
    done = start(env=env | {"_TYPER_COMPLETE_WORD_TO_COMPLETE": "llama/4"} | more)
    assert (done.returncode, done.stderr) == (0, "")
    assert "llama/4M" in done.stdout
    assert "grouped-query attention" in done.stdout or shell == "powershell"


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_the_script_for_bash_is_shown() -> None:
    done = start("--show-completion", "bash")
    assert done.returncode == 0
    assert "_FORGATHER_COMPLETE=complete_bash" in done.stdout
    assert "-F _forgather_completion forgather" in done.stdout
