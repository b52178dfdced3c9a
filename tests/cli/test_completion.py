"""Shell completion, invoked like the scripts that Typer installs."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from .conftest import start

PRESETS = ["llama/4M", "llama/30M", "llama/117M", "llama/llama3.2-1B", "llama/llama2-7B"]


def complete(line: str) -> list[str]:
    """Return the completions of bash for the last word of a line."""
    words = line.split(" ")
    env = {"_FORGATHER_COMPLETE": "complete_bash", "COMP_WORDS": line, "COMP_CWORD": str(len(words) - 1)}
    done = start(env=env)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.split()


@pytest.mark.few(6)
@pytest.mark.parametrize(
    ("line", "offered"),
    [
        (
            "forgather ",
            ["ls", "verify", "sample", "eval", "plugins", "model", "checkpoint", "dataset", "tokenizer", "plugin"],
        ),
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
        ("forgather -t llama model ", ["construct", "test", "train", "verify", "show", "estimate", "compare"]),
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
def test_completions(line: str, offered: list[str]) -> None:
    assert complete(line) == offered


def test_configurations_of_the_project_are_completed() -> None:
    Path("configs").mkdir()
    Path("configs/first_try.yaml").write_text("extends: llama/4M\n")
    Path("final.yaml").write_text("extends: llama/4M\n")
    assert complete("forgather -t fi") == ["final", "first_try"]


def test_configurations_of_another_project_are_completed() -> None:
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


def test_a_definition_with_another_name_than_its_plugin_is_completed(site: object) -> None:
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


def test_choices_are_those_of_the_command() -> None:
    assert complete("forgather -t llama model test --optimizer ") == ["sgd", "adamw"]


@pytest.mark.regression("E10")
@pytest.mark.few(4)
@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("forgather -t llama model --tokenizer bpe", ["bpe-2k", "bpe-8k"]),
        ("forgather -t llama model construct --chat-template c", ["chatml"]),
        ("forgather -t llama model --device ", ["meta", "cpu", "cuda", "mps"]),
        ("forgather -t llama model test --dtype b", ["bfloat16"]),
        ("forgather -t llama model test --dataset-project s", ["stdlib"]),
        ("forgather -t llama model test --dataset-project stdlib --dataset-config ", ["default", "docstrings"]),
        ("forgather -t llama model verify --checks torch", ["torch-compile"]),
        ("forgather verify somewhere --checks causality,torch", ["causality,torch-compile"]),
        ("forgather -t llama model estimate --precision f", ["fp32"]),
        ("forgather -t llama model estimate --optimizer adam", ["adamw", "adamw_fused", "adam8bit"]),
        ("forgather model compare llama/4M llama/3", ["llama/30M"]),
        ("forgather checkpoint convert a b --format s", ["safetensors"]),
        ("forgather checkpoint convert a b --dtype fl", ["float32", "float16", "float64"]),
        ("forgather dataset show stdlib --config d", ["default", "docstrings"]),
        ("forgather dataset show stdlib --chat-template c", ["chatml"]),
        ("forgather tokenizer train --dataset-project stdlib --dataset-config do", ["docstrings"]),
    ],
)
def test_values_are_completed(line: str, offered: list[str]) -> None:
    assert complete(line) == offered


def test_completed_values_equal_the_valid_ones() -> None:
    from forgather_cli import completion
    from forgather_core.checks import CHECKS
    from forgather_core.options.torch_names import DEVICE_TYPES, DTYPE_NAMES

    assert completion.DEVICES == DEVICE_TYPES
    assert completion.DTYPES == DTYPE_NAMES
    assert tuple(check.name for check in CHECKS) == completion.CHECK_NAMES


def test_completion_is_free_of_torch() -> None:
    code = (
        "import sys; sys.argv[0] = 'forgather'; import atexit\n"
        "atexit.register(lambda: print('torch' in sys.modules, 'datasets' in sys.modules, file=sys.stderr))\n"
        "from forgather_cli.main import main; main()"
    )
    line = "forgather -t llama model verify --checks rou"
    env = os.environ | {"_FORGATHER_COMPLETE": "complete_bash", "COMP_WORDS": line, "COMP_CWORD": "6"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.stdout.strip(), done.stderr.strip()) == ("round-trip", "False False")


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_bash_completes_files_for_paths() -> None:
    Path("weights").mkdir()
    script = start("--show-completion", "bash").stdout
    assert "-o default" in script  # the fallback of bash without completions
    assert complete("forgather -t llama model --load-from-checkpoint ") == []
    assert complete("forgather -t llama model --tokenizer ./we") == []


@pytest.mark.regression("E10")
@pytest.mark.parametrize("shell", ["zsh", "fish", "bash"])
@pytest.mark.parametrize("form", ["{} {}", "{}={}"])
def test_completion_is_for_the_given_shell(tmp_path: Path, shell: str, form: str) -> None:
    env = {"HOME": str(tmp_path)}
    shown = start(*form.format("--show-completion", shell).split(), env=env)
    assert f"complete_{shell}" in shown.stdout or f"_FORGATHER_COMPLETE={shell}" in shown.stdout
    done = start(*form.format("--install-completion", shell).split(), env=env)
    assert (done.returncode, done.stderr) == (0, "")
    assert f"{shell} completion installed" in done.stdout
    places = {"zsh": ".zfunc/_forgather", "fish": ".config/fish/completions/forgather.fish", "bash": ".bashrc"}
    assert (tmp_path / places[shell]).is_file()
    assert [name for name in places if (tmp_path / places[name]).exists()] == [shell]


@pytest.mark.regression("E10")
def test_an_unknown_shell(tmp_path: Path) -> None:
    done = start("--install-completion", "zhs", env={"HOME": str(tmp_path)})
    assert done.returncode == 2
    assert done.stderr.startswith("forgather: error: --install-completion must be one of bash, zsh, fish")
    assert "; got 'zhs'" in done.stderr
    assert not list(tmp_path.glob(".*rc"))
