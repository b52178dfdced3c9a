"""Former spellings of flags are accepted with a note on stderr, and are not shown in help or completion."""

from __future__ import annotations

from pathlib import Path

import pytest

from forgather_core.definitions.registry import SHARED_OPTIONS
from forgather_core.options.aliases import RenamedOptionWarning, former_names
from forgather_core.options.spec import flag_of, specs_of

from .conftest import LLAMA, Cli, start
from .test_completion import complete

SMALL = ("--num-hidden-layers", "1", "--hidden-size", "32", "--sequence-length", "8", "--json")
RENAMED = {
    "--like": "--from-config",
    "--utilization": "--mfu",
    "--context": "--context-length",
    "--keep-logits": "--full-logits",
    "--check": "--checks",
}


def test_these_are_all_renamed_flags() -> None:
    specs = (spec for group in SHARED_OPTIONS for spec in specs_of(group))
    assert {flag_of(old): spec.flag for old, spec in former_names(specs).items()} == RENAMED


def test_former_flags_are_equivalent(cli: Cli) -> None:
    new = cli(*LLAMA, "estimate", *SMALL, "--mfu", "0.5", "--context-length", "8", "--full-logits")
    with pytest.warns(RenamedOptionWarning) as warned:
        old = cli(*LLAMA, "--keep-logits", "estimate", *SMALL, "--utilization", "0.5", "--context", "8")
    assert old.json == new.json
    assert new.json["setup"]["mfu"] == 0.5
    assert new.json["generation"]["context_length"] == 8
    notes = {str(item.message) for item in warned if issubclass(item.category, RenamedOptionWarning)}
    assert notes == {f"{old} is now {RENAMED[old]}" for old in ("--keep-logits", "--utilization", "--context")}


def test_the_note_is_one_line_on_stderr() -> None:
    done = start(*LLAMA, "verify", "--check", "causality", "--list", "--json")
    assert done.stderr == "forgather: note: --check is now --checks\n"
    assert '"causality"' in done.stdout
    Path("exp.yaml").write_text("extends: llama\nlike: null\n")
    done = start("-t", "exp", "model", "show")
    assert (done.returncode, done.stderr) == (0, "forgather: note: exp.yaml:2:1: like is now from_config\n")
    assert start(*LLAMA, "model", "show", "--from-config", "d").stderr.count("note") == 0


@pytest.mark.parametrize("words", ["--like a show --from-config b", "show --like a --from-config b"])
def test_both_spellings_on_one_side_of_the_command_are_an_error(cli: Cli, words: str) -> None:
    error = cli(*LLAMA, *words.split()).error
    if words.startswith("show"):
        assert error == "--like is the former name of --from-config, which is also set: use one of them"
    else:
        assert error.startswith("--from-config: b/config.json does not exist")  # the later one wins


def test_verify_of_a_directory_has_the_alias_too(cli: Cli) -> None:
    assert "there is no check 'causalty'. Did you mean" in cli("verify", ".", "--check", "causalty").error
    assert cli("verify", ".", "--check", "a", "--checks", "b").error.startswith("--check is the former name of")


@pytest.mark.parametrize("old", RENAMED)
def test_former_flags_are_hidden(cli: Cli, old: str) -> None:
    pages = [cli(*LLAMA, *command, "--help").out for command in ((), ("estimate",), ("verify",), ("test",))]
    assert not any(f"{old} " in page or f"{old}," in page for page in [*pages, cli("verify", "--help").out])
    assert old not in complete(f"forgather -t llama model {old}")
    assert RENAMED[old] in complete(f"forgather -t llama model {RENAMED[old][:6]}")


def test_another_command_names_the_owners_of_a_former_flag(cli: Cli) -> None:
    assert cli("ls", "--utilization", "0.3").error.startswith("--utilization has no effect on 'ls': remove it, or use")
