"""`show`: resolved values, their sources, and output to files and editors."""

from __future__ import annotations

import json
import re
import stat
from pathlib import Path
from typing import Any

import pytest

from .conftest import LLAMA, Cli


def report(cli: Cli, *words: str, template: str = "llama/4M", before: tuple[str, ...] = ()) -> dict[str, Any]:
    return dict(cli(*before, "-t", template, "model", "show", "--json", *words).json)


def test_every_value_has_its_source(cli: Cli) -> None:
    Path("base.yaml").write_text("extends: llama/30M\n\nhidden_size: 256\nnum_hidden_layers: 2\n")
    Path("exp.yaml").write_text("extends: base\nnum_hidden_layers: 3\n")
    shown = report(cli, "--rms-norm-eps", "1e-6", template="exp")
    options = {name: (item["value"], item["origin"]) for name, item in shown["options"].items()}
    assert options["rms_norm_eps"] == (1e-6, "--rms-norm-eps")
    assert options["num_hidden_layers"] == (3, "exp.yaml:2")
    assert options["hidden_size"] == (256, "base.yaml:3")
    assert options["num_key_value_heads"] == (2, "llama/30M")
    assert options["attention_dropout"] == (0.0, "default")
    assert options["head_dim"] == (32, "derived")
    assert options["vocab_size"][1] == "tokenizer"
    assert shown["shared_options"]["tokenizer"] == {"value": "bpe-8k", "origin": "llama/30M"}


def test_text_and_json_show_the_same_values(cli: Cli) -> None:
    shown = report(cli)
    assert list(shown) == [
        "configuration", "definition", "model_name", "directory", "options", "shared_options", "source",
        "expected_parameters",
    ]  # fmt: skip
    text = cli(*LLAMA, "show").out
    for name, item in (shown["options"] | shown["shared_options"]).items():
        assert re.search(rf"\b{name} .*\b{re.escape(item['origin'])}\b", text), name
    assert "4,434,176" in text
    assert report(cli, "--hidden-size", "128")["expected_parameters"] is None  # the preset states its own number
    assert report(cli, "--tokenizer", "bpe-8k")["expected_parameters"] is None
    assert report(cli, "--dtype", "bfloat16")["expected_parameters"] is not None
    assert "\x1b" not in text
    assert max(map(len, text.splitlines())) <= 200
    assert not list(Path().iterdir())


def test_a_definition_without_a_preset_takes_its_default_one(cli: Cli) -> None:
    assert report(cli, template="llama") == report(cli, template="llama/4M")


@pytest.mark.parametrize("where", ["exp.yaml", "exp.yml", "configs/exp.yaml", "configs/exp.yml"])
def test_a_configuration_is_found_in_the_project(cli: Cli, tmp_path: Path, where: str) -> None:
    project = tmp_path / "project"
    (project / "configs").mkdir(parents=True)
    (project / where).write_text("extends: llama/4M\nhidden_size: 384\n")
    before = ("-p", str(project))
    for template in ("exp", Path(where).name):
        shown = report(cli, template=template, before=before)
        assert shown["options"]["hidden_size"]["value"] == 384
        assert (shown["model_name"], shown["directory"]) == ("exp", str(project / "output_models" / "exp"))
    error = cli("-t", "exp", "model", "show").error
    assert "no model definition named 'exp'" in error


def test_a_path_leads_to_a_configuration_from_anywhere(cli: Cli, tmp_path: Path) -> None:
    file = tmp_path / "Deep.Try.yaml"
    file.write_text("extends: llama/4M\n")
    assert report(cli, template=str(file))["model_name"] == "deep.try"


def test_paths_start_from_the_project_in_a_file_and_from_here_on_the_line(cli: Cli, tmp_path: Path) -> None:
    project = tmp_path / "project"
    project.mkdir()
    (project / "exp.yaml").write_text("extends: llama/4M\noutput_dir: made/here\n")
    before = ("-p", str(project))
    assert report(cli, template="exp", before=before)["directory"] == str(project / "made/here")
    assert report(cli, "--output-dir", "made", template="exp", before=before)["directory"] == "made"


def test_a_definition_takes_precedence_over_a_file_of_its_name(cli: Cli) -> None:
    Path("llama.yaml").write_text("extends: llama/30M\n")
    assert report(cli, template="llama")["configuration"] == "llama/4M"
    assert report(cli, template="llama.yaml")["options"]["hidden_size"]["value"] == 512


def test_interpolation(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAYERS", "3")
    Path("exp.yaml").write_text(
        "extends: llama/4M\nintermediate_size: ${hidden_size}\nnum_hidden_layers: ${oc.env:LAYERS}\n"
        "model_name: llama_${num_hidden_layers}\nrope_parameters: {rope_type: default, rope_theta: '${hidden_size}'}\n"
    )
    shown = report(cli, "--hidden-size", "128", template="exp")
    values = {name: item["value"] for name, item in shown["options"].items()}
    assert (values["intermediate_size"], values["num_hidden_layers"]) == (128, 3)
    assert values["rope_parameters"] == {"rope_type": "default", "rope_theta": 128}
    assert shown["model_name"] == "llama_3"


def test_a_mapping_replaces_the_one_below(cli: Cli) -> None:
    rope = report(cli, "--rope-parameters", "{rope_type: default, rope_theta: 5e5}", template="llama/llama3.2-1B")
    assert rope["options"]["rope_parameters"]["value"] == {"rope_type": "default", "rope_theta": 500000.0}


# --- where the answer goes -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("flag", ["-o", "--output-file"])
@pytest.mark.parametrize(
    ("name", "start"),
    [
        ("a.txt", "llama_4m\n"),
        ("a", "llama_4m\n"),
        ("a.json", "{\n"),
        ("a.HTML", "<!DOCTYPE html>"),
        ("a.svg", "<svg "),
    ],
)
def test_output_to_a_file(cli: Cli, flag: str, name: str, start: str) -> None:
    done = cli(*LLAMA, "show", flag, name)
    assert (done.code, done.out, done.err) == (0, "", f"wrote {name}\n")
    text = Path(name).read_text()
    assert text.startswith(start)
    assert "intermediate_size" in text
    assert "\x1b" not in text
    assert [path.name for path in Path().iterdir()] == [name]


def test_a_json_file_equals_the_output_of_json(cli: Cli) -> None:
    cli(*LLAMA, "show", "-o", "a.json")
    assert json.loads(Path("a.json").read_text()) == report(cli)


def test_a_file_is_overwritten(cli: Cli) -> None:
    Path("a.txt").write_text("old" * 10_000)
    assert cli(*LLAMA, "show", "-o", "a.txt").code == 0
    assert "old" not in Path("a.txt").read_text()


@pytest.mark.parametrize("name", ["a.txt", "a"])
def test_json_goes_into_a_file_of_text(cli: Cli, name: str) -> None:
    cli(*LLAMA, "show", "--json", "-o", name)
    assert json.loads(Path(name).read_text()) == report(cli)


@pytest.mark.parametrize("name", ["a.html", "a.SVG"])
@pytest.mark.parametrize("words", [(*LLAMA, "show"), (*LLAMA, "construct"), ("ls",), ("verify", "x")], ids=" ".join)
def test_json_does_not_go_into_a_page_or_an_image(cli: Cli, words: tuple[str, ...], name: str) -> None:
    error = cli(*words, "--json", "-o", name).error
    assert error == f"--json has no effect on '{name}': remove it, or write to a .json file"
    assert not list(Path().iterdir())


@pytest.fixture
def editor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An editor that records its arguments and the content of the file."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    program = tmp_path / "editor"
    program.write_text(
        f'#!/bin/sh\necho "$@" > {tmp_path}/arguments\nfor last; do :; done\ncat "$last" > {tmp_path}/seen\n'
    )
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    return program


@pytest.mark.parametrize("variable", ["EDITOR", "VISUAL"])
def test_output_in_the_editor(cli: Cli, editor: Path, monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    monkeypatch.setenv("EDITOR", "no-such-editor")
    monkeypatch.setenv(variable, f"{editor} --wait")
    for flag in ("-e", "--edit"):
        done = cli(*LLAMA, "show", flag)
        assert (done.code, done.out, done.err) == (0, "", "")
        assert (editor.parent / "seen").read_text() == cli(*LLAMA, "show", "-o", "a.txt").out + Path(
            "a.txt"
        ).read_text()
    arguments = (editor.parent / "arguments").read_text().split()
    assert arguments[0] == "--wait"
    assert arguments[1].endswith("/llama_4m.txt")


def test_a_named_file_in_the_editor(cli: Cli, editor: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDITOR", str(editor))
    assert cli(*LLAMA, "show", "-e", "-o", "a.json").code == 0
    assert json.loads((editor.parent / "seen").read_text())["model_name"] == "llama_4m"


def test_a_missing_editor(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDITOR", "no-such-editor -w")
    assert (
        cli(*LLAMA, "show", "-e").error
        == "--edit: the program 'no-such-editor' of EDITOR does not exist: set EDITOR to an installed editor"
    )


def test_the_table_of_initial_weights_is_shown_on_request(cli: Cli) -> None:
    assert "initial_weights" not in report(cli)
    shown = report(cli, "--init", template="deepone/4M")
    weights = {row["weight"]: row for row in shown["initial_weights"]}
    assert weights["model.layers.*.self_attn.v_proj.weight"]["rule"] == "Xavier normal, gain 0.4204"
    assert weights["model.layers.*.self_attn.v_proj.weight"]["count"] == 4
    text = cli("-t", "deepone/4M", "model", "show", "--init").out
    for name, row in weights.items():
        assert re.search(rf"{re.escape(name)} .*{row['std']:.4g}\b", text), name
    assert not list(Path().iterdir())
