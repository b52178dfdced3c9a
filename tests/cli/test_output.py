"""Where a report goes: the screen, JSON, a file by its suffix, the editor; a reader that leaves early."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from .conftest import LLAMA, SCRIPT, Cli, start


def test_json_is_what_the_page_draws(cli: Cli) -> None:
    report = cli(*LLAMA, "--hidden-size", "512", "show", "--json").json
    assert report["options"]["hidden_size"] == {"value": 512, "origin": "--hidden-size"}
    assert report["options"]["vocab_size"] == {"value": 2000, "origin": "tokenizer"}
    page = cli(*LLAMA, "--hidden-size", "512", "show").out
    for name, item in report["options"].items():
        (line,) = [line for line in page.splitlines() if f"| {name} " in line]
        assert item["origin"] in line


@pytest.mark.parametrize(
    ("suffix", "begins"), [("txt", "llama_4m"), ("json", "{"), ("html", "<!DOCTYPE html>"), ("svg", "<svg")]
)
def test_a_file_by_its_suffix(cli: Cli, suffix: str, begins: str) -> None:
    done = cli(*LLAMA, "show", "-o", f"report.{suffix}")
    assert (done.code, done.out, done.err) == (0, "", f"wrote report.{suffix}\n")
    text = Path(f"report.{suffix}").read_text()
    assert text.startswith(begins)
    assert "rope_parameters" in text
    assert "\x1b" not in text
    if suffix == "json":
        assert json.loads(text)["model_name"] == "llama_4m"


def test_the_editor_opens_the_report(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("editor").write_text('#!/bin/sh\ncp "$2" seen.txt; echo "$1" > flags.txt\n')
    Path("editor").chmod(0o755)
    monkeypatch.setenv("EDITOR", "nobody-has-this")
    monkeypatch.setenv("VISUAL", f"{Path('editor').resolve()} --wait")
    done = start(*LLAMA, "show", "-e")
    assert (done.returncode, done.stdout) == (0, "")
    assert "hidden_size" in Path("seen.txt").read_text()
    assert Path("flags.txt").read_text() == "--wait\n"


def test_a_reader_that_leaves_early_sees_no_traceback() -> None:
    command = f'{sys.executable} -c "{SCRIPT}" -t llama/4M model --help | head -1'
    done = subprocess.run(command, shell=True, capture_output=True, text=True, check=False, timeout=60)
    assert done.stdout.startswith("Usage: forgather")
    assert done.stderr == ""


def test_a_pipe_gets_no_colours(cli: Cli) -> None:
    assert "\x1b" not in cli(*LLAMA, "show").out
    assert "\x1b" not in cli("--help").out
