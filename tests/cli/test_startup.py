"""Interactive commands import no slow packages."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from .conftest import LLAMA, SCRIPT, Cli, start

HEAVY = ("torch", "transformers", "datasets", "tokenizers", "safetensors", "numpy", "matplotlib")
RESOLVING = ("omegaconf", "pydantic", "antlr4")
DRAWING = ("rich.table", "rich.console")
PRINT_MODULES = "import atexit, sys; atexit.register(lambda: print('IMPORTED', *sys.modules, file=sys.stderr)); "


def imported(*arguments: str, **env: str) -> set[str]:
    """Return the modules that a run has imported."""
    import os
    import subprocess

    done = subprocess.run(
        [sys.executable, "-c", PRINT_MODULES + SCRIPT, *arguments],
        env=os.environ | env,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.stderr.startswith("IMPORTED"), done.stderr
    return set(done.stderr.split())


@pytest.mark.parametrize(
    ("arguments", "env"),
    [
        (("--help",), {}),
        (("--version",), {}),
        (("model", "--help"), {}),
        ((*LLAMA, "--help"), {}),
        ((*LLAMA, "construct", "--help"), {}),
        ((*LLAMA, "test", "--help"), {}),
        (("dataset", "show", "--help"), {}),
        (("tokenizer", "train", "--help"), {}),
        (("plugin", "new", "--help"), {}),
        ((), {"_FORGATHER_COMPLETE": "complete_bash", "COMP_WORDS": "forgather -t llama/", "COMP_CWORD": "2"}),
        ((), {"_FORGATHER_COMPLETE": "complete_bash", "COMP_WORDS": "forgather -t llama model --h", "COMP_CWORD": "4"}),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else value.get("COMP_WORDS", ""),
)
def test_help_and_completion_import_nothing_heavy(arguments: tuple[str, ...], env: dict[str, str]) -> None:
    modules = imported(*arguments, **env)
    assert "typer" in modules
    assert not modules & {*HEAVY, *RESOLVING, *DRAWING}


@pytest.mark.parametrize(
    "arguments", [("ls",), ("plugins",), ("dataset", "ls"), (*LLAMA, "show"), (*LLAMA, "show", "--json")]
)
def test_listing_and_showing_import_no_torch(arguments: tuple[str, ...]) -> None:
    assert not imported(*arguments) & set(HEAVY)


def test_the_page_of_model_creates_no_other_group() -> None:
    late = {f"forgather_cli.{group}" for group in ("checkpoint", "dataset", "tokenizer", "plugin")}
    assert not late & imported(*LLAMA, "--help")
    assert late & imported("checkpoint", "--help") == {"forgather_cli.checkpoint"}


@pytest.mark.parametrize("words", [("--help",), ("-h",), ("test", "--help"), ("show",), ("show", "extra"), ("shw",)])
def test_arguments_without_options_need_no_parameters(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...]
) -> None:
    expected = cli(*LLAMA, *words)

    def refuse(_: object) -> None:
        pytest.fail("Typer's parameters were made")

    monkeypatch.setattr("forgather_cli.bridge.session.typer_parameters", refuse)
    assert cli(*LLAMA, *words) == expected


def test_the_help_of_a_file_needs_no_omegaconf_either() -> None:
    Path("exp.yaml").write_text("extends: llama/4M\nhidden_size: ${vocab_size}\n")
    assert not imported("-t", "exp", "model", "--help") & {*HEAVY, *RESOLVING}


def test_one_definition_imports_one_plugin(site: object) -> None:
    site("other", "other_lm", "raise SystemExit('imported')", other="other_lm")  # type: ignore[operator]
    assert "other_lm" not in imported(*LLAMA, "--help")
    assert start(*LLAMA, "show").returncode == 0
