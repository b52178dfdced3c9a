"""Help pages: frozen, complete, without cut names.

After an intended change, update the frozen pages and review the difference:

    FORGATHER_REFRESH=1 python -m pytest tests/cli/test_help.py && git diff tests/cli/frozen
"""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from forgather_cli.bridge.session import Session
from forgather_core.definitions.registry import SHARED_OPTIONS, registry
from forgather_core.options.command_options import EstimateOptions, TestOptions
from forgather_core.options.spec import OptionSpec, specs_of
from forgather_core.settings.layers import find_configuration

from .conftest import LLAMA, Cli, start

BUILT_IN = ("causal_lm", "deepone", "llama", "mistral", "qwen3", "single_head", "smollm3")
FROZEN = Path(__file__).parent / "frozen"
PAGES = {
    "root": (),
    "ls": ("ls",),
    "plugins": ("plugins",),
    "model_llama_4m": LLAMA,
    "model_without_definition": ("model",),
    "construct": ("model", "construct"),
    "test": ("model", "test"),
    "train": ("model", "train"),
    "sample": ("sample",),
    "eval": ("eval",),
    "verify_llama_4m": (*LLAMA, "verify"),
    "verify_directory": ("verify",),
    "show_llama_4m": (*LLAMA, "show"),
    "estimate_llama_4m": (*LLAMA, "estimate"),
    "compare": ("model", "compare"),
    "checkpoint": ("checkpoint",),
    "checkpoint_inspect": ("checkpoint", "inspect"),
    "checkpoint_convert": ("checkpoint", "convert"),
    "dataset": ("dataset",),
    "dataset_ls": ("dataset", "ls"),
    "dataset_show": ("dataset", "show"),
    "tokenizer": ("tokenizer",),
    "tokenizer_train": ("tokenizer", "train"),
    "plugin": ("plugin",),
    "plugin_new": ("plugin", "new"),
} | {f"model_{name}_4m": ("-t", f"{name}/4M", "model") for name in BUILT_IN if name != "llama"}


def shared() -> list[OptionSpec]:
    return list({spec.name: spec for group in SHARED_OPTIONS for spec in specs_of(group)}.values())


def of_llama() -> list[OptionSpec]:
    return Session(find_configuration("llama", registry())).specs


@pytest.fixture(autouse=True)
def _only_built_in(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hide plugins that are not part of the frozen pages, since a page lists the installed plugins."""
    points = [point for point in registry().plugins.values() if point.name in BUILT_IN]
    monkeypatch.setattr(
        "forgather_core.definitions.registry.entry_points", lambda group: [p.entry_point for p in points]
    )


@pytest.mark.parametrize("name", PAGES)
def test_the_page_is_the_frozen_one(cli: Cli, name: str) -> None:
    done = cli(*PAGES[name], "--help")
    assert (done.code, done.err) == (0, "")
    file = FROZEN / f"{name}.txt"
    if os.environ.get("FORGATHER_REFRESH"):
        file.write_text(done.out)
    assert done.out == file.read_text(), "to accept the change: FORGATHER_REFRESH=1"


@pytest.mark.parametrize("name", PAGES)
def test_h_is_help(cli: Cli, name: str) -> None:
    assert cli(*PAGES[name], "-h").out == cli(*PAGES[name], "--help").out


@pytest.mark.parametrize("columns", ["20", "40", "80", "81", "110", "300"])
def test_no_name_is_cut_at_any_width(cli: Cli, monkeypatch: pytest.MonkeyPatch, columns: str) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    page = cli(*LLAMA, "--help").out
    for spec in of_llama():
        negation = f", --no-{spec.flag[2:]}" if spec.kind is bool and spec.info.negatable else ""
        metavar = "" if spec.kind is bool else f" {spec.metavar}"
        names = ", ".join([*spec.info.flags, spec.flag]) + negation + metavar
        assert re.search(rf"^  {re.escape(names)}(  |$)", page, re.M), names
        assert spec.info.help.split()[-1] in page
    assert "…" not in page
    assert "..." not in page.replace("[ARGS]...", "")


@pytest.mark.parametrize("columns", ["40", "80", "110"])
def test_only_names_are_wider_than_the_page(cli: Cli, monkeypatch: pytest.MonkeyPatch, columns: str) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    usage, *lines = cli(*LLAMA, "--help").out.splitlines()
    assert usage == "Usage: forgather -t llama/4M model [OPTIONS] COMMAND [ARGS]..."
    # On a narrow page explanations keep a width of 20 columns.
    wide = [line for line in lines if len(line) > max(int(columns), 55)]
    assert all(line.startswith("  --") and "  " not in line[2:] for line in wide), wide
    assert not any(line != line.rstrip() for line in lines)


def test_a_pipe_shows_whole_names() -> None:
    page = start(*LLAMA, "--help", env={"COLUMNS": ""}).stdout
    assert re.search(r"--num-attention-heads INT .*\[4\]|--num-attention-heads INT", page)
    assert "\x1b" not in page


def default_of(page: str, flag: str) -> str | None:
    """Return the text in the last brackets of the explanation of an option."""
    entry = re.search(rf"^  {flag}\b(?:.*\n)(?:    .*\n)*", page, re.MULTILINE)
    assert entry is not None, flag
    found = re.search(r"\[([^\[]*)\]$", " ".join(entry[0].split()))
    return found[1] if found else None


DEFAULTS: dict[str, dict[str, str | None]] = {
    "llama/4M": {"--hidden-size": "256", "--tokenizer": "bpe-2k", "--lr": "0.01", "--sliding-window": None},
    "llama/30M": {"--hidden-size": "512", "--num-key-value-heads": "2", "--tie-word-embeddings": "true"},
    "llama/llama3.2-1B": {"--head-dim": "64", "--vocab-size": "128256"},
}


@pytest.mark.parametrize("template", DEFAULTS)
def test_the_defaults_are_those_of_the_preset(cli: Cli, template: str) -> None:
    page = cli("-t", template, "model", "--help").out
    assert {flag: default_of(page, flag) for flag in DEFAULTS[template]} == DEFAULTS[template]
    assert f"Options of {template}:" in page


def test_the_defaults_are_those_of_the_file(cli: Cli) -> None:
    Path("exp.yaml").write_text("extends: llama/4M\nhidden_size: 384\nsliding_window: null\ndevice: cpu\n")
    page = cli("-t", "exp", "model", "--help").out
    expected = {"--hidden-size": "384", "--sliding-window": "null", "--device": "cpu"}
    assert {flag: default_of(page, flag) for flag in expected} == expected


def test_without_a_definition_only_shared_options_are_listed(cli: Cli) -> None:
    page = cli("model", "--help").out
    assert all(spec.flag in page for spec in shared())
    assert "--hidden-size" not in page
    assert "forgather -t NAME model --help" in page


@pytest.mark.parametrize(
    ("command", "options"), [("test", TestOptions), ("estimate", EstimateOptions), ("compare", EstimateOptions)]
)
def test_the_page_of_a_command_shows_its_own_options(cli: Cli, command: str, options: type) -> None:
    from forgather_core.options.scope import commands_of

    page = cli(*LLAMA, command, "--help").out
    for spec in [*shared(), *specs_of(options)]:
        assert bool(re.search(rf" {spec.flag}\b(?!-)", page)) == (command in commands_of(spec)), spec.flag
    assert "--hidden-size" not in page


def test_the_page_of_a_command_does_not_run_it(cli: Cli) -> None:
    assert cli(*LLAMA, "construct", "--help").code == 0
    assert not list(Path().iterdir())
    assert cli(*LLAMA, "--hidden-size", "32", "--help").code == 0


def test_version(cli: Cli) -> None:
    assert re.fullmatch(r"forgather \d+\.\d+\S*\n", cli("--version").out)
