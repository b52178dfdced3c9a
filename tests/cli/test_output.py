"""Output to terminals, pipes, and closed pipes."""

from __future__ import annotations

import os
import pty
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from .conftest import LLAMA, SCRIPT, Cli, start

COMMANDS = [("ls",), ("plugins",), (*LLAMA, "show"), (*LLAMA, "show", "--json"), ("--help",), (*LLAMA, "--help")]
COLOUR = re.compile(r"\x1b\[[0-9;]*\b(3[0-7]|9[0-7]|38|48)[;m]")


def on_a_terminal(*arguments: str, **env: str) -> str:
    """Return the output of a run on a terminal of 100 columns."""
    outer, inner = pty.openpty()
    env = {"TERM": "xterm-256color", "COLUMNS": "100", **env}
    with subprocess.Popen(
        [sys.executable, "-c", SCRIPT, *arguments],
        env=os.environ | env, stdin=inner, stdout=inner, stderr=subprocess.STDOUT,
    ) as process:  # fmt: skip
        os.close(inner)
        printed = b""
        while True:
            try:
                some = os.read(outer, 65536)
            except OSError:  # Linux: the other end is closed
                break
            if not some:
                break
            printed += some
    os.close(outer)
    assert process.returncode in (0, 2), printed
    return printed.decode().replace("\r\n", "\n")


@pytest.mark.parametrize("arguments", COMMANDS, ids=" ".join)
def test_a_closed_pipe_gets_no_traceback(arguments: tuple[str, ...]) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    done = start(*arguments, stdout=writer)
    os.close(writer)
    assert done.stderr == ""
    assert done.returncode in (0, 1)


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_head_takes_one_line() -> None:
    pipeline = f'set -o pipefail; "{sys.executable}" -c "{SCRIPT}" ls | head -n 1'
    done = subprocess.run(["bash", "-c", pipeline], capture_output=True, text=True, check=False, timeout=60)
    assert done.stdout.count("\n") == 1
    assert done.stderr == ""


@pytest.mark.parametrize("arguments", COMMANDS, ids=" ".join)
def test_a_pipe_gets_plain_text(arguments: tuple[str, ...]) -> None:
    done = start(*arguments)
    assert done.stderr == ""
    assert "\x1b" not in done.stdout
    assert "\u2026" not in done.stdout


def test_a_terminal_gets_boxes() -> None:
    shown = on_a_terminal(*LLAMA, "show")
    assert "\x1b[1m" in shown
    assert "\u2500" in shown
    assert "\x1b[1m" in on_a_terminal(*LLAMA, "--help")


@pytest.mark.few(3)
@pytest.mark.parametrize("arguments", [("ls",), ("plugins",), (*LLAMA, "show"), ("--help",)], ids=" ".join)
@pytest.mark.parametrize("env", [{"NO_COLOR": "1"}, {"TERM": "dumb"}], ids=["NO_COLOR", "dumb"])
def test_no_colour_without_a_terminal_or_with_no_color(arguments: tuple[str, ...], env: dict[str, str]) -> None:
    shown = on_a_terminal(*arguments, **env)
    assert not COLOUR.search(shown)
    if "TERM" in env or arguments == ("--help",):
        assert "\x1b" not in shown


def test_colour_on_a_terminal() -> None:
    assert COLOUR.search(on_a_terminal("plugins"))


def test_an_error_on_a_terminal_is_one_plain_line() -> None:
    shown = on_a_terminal(*LLAMA, "--hidden-size", "0", "show")
    assert shown == "forgather: error: --hidden-size must be at least 1, got 0\n"


@pytest.mark.parametrize("columns", ["30", "60", "100"])
def test_a_narrow_terminal_folds_and_cuts_nothing(columns: str) -> None:
    printed = on_a_terminal(*LLAMA, "show", COLUMNS=columns)
    lines = re.sub(r"\x1b\[[0-9;]*m|\x1b\]8;[^\x1b]*\x1b\\", "", printed).splitlines()
    assert max(map(len, lines)) <= int(columns)
    assert "\u2026" not in "".join(line for line in lines if "https://" not in line)  # the link contains the full URL


@pytest.mark.few(1)
@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_any_encoding_is_supported(encoding: str) -> None:
    Path("é.yaml").write_text("extends: llama/4M\nmodel_name: modèle\n")
    for arguments in (("ls",), ("-t", "llama/4M", "model", "show"), ("--help",)):
        done = start(*arguments, env={"PYTHONIOENCODING": encoding}, encoding=encoding)
        assert (done.returncode, done.stderr) == (0, "")


def test_a_html_file_is_a_page_of_the_report(cli: Cli) -> None:
    assert cli("ls", "-o", "models.html").code == 0
    page = Path("models.html").read_text()
    assert page.startswith("<!DOCTYPE html>")
    assert "llama/4M" in page
    assert "<script" not in page
