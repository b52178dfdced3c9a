"""Invalid input gets one line that says what to do and exit code 2, and leaves nothing on disk."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from forgather_core.errors import TrainingCheckError

from .conftest import LLAMA, Cli, nothing_on_disk, start

LONG = "a" * 300
OF_LLAMA = [
    # options
    ("--hidden-sze 3 show", r"--hidden-sze does not exist\. Did you mean --hidden-size\?"),
    ("show --hidden-sze 3", r"--hidden-sze does not exist\. Did you mean --hidden-size\?"),
    ("--hidden 3 show", r"--hidden does not exist\."),  # abbreviations are not accepted: their meaning may change
    ("--no-no-init-weights show", r"--no-no-init-weights does not exist\. Did you mean --no-init-weights\?"),
    ("--zzz show", "--zzz does not exist"),
    ("-t llama show", "-t must come before 'model'"),
    ("show -t llama", "-t must come before 'model': forgather -t NAME model"),
    ("show -p x", "-p must come before 'model': forgather -p DIR model"),
    ("show extra", "unexpected argument 'extra': remove it"),
    ("shw", r"No such command 'shw'\. Did you mean 'show'\?"),
    ("show --hidden-size", "--hidden-size requires a value"),
    ("show --json=yes", "'--json' does not take a value"),
    # values
    ("--hidden-size many show", "--hidden-size: expected an integer, got 'many'"),
    ("--hidden-size 1.5 show", "expected an integer, got '1.5'"),
    ("--hidden-size 1e400 show", "expected an integer, got '1e400'"),
    ("--hidden-size null show", "expected an integer, got 'null'"),
    ("--sliding-window x show", "expected an integer or null, got 'x'"),
    ("--hidden-size 0 show", "must be at least 1, got 0"),
    ("--attention-dropout 1 show", "must be below 1, got 1.0"),
    ("--rms-norm-eps 0 show", "must be above 0, got 0.0"),
    ("test --lr nan", "--lr: expected a finite number, got 'nan'"),
    ("--lr nan test", "--lr: expected a finite number or null, got 'nan'"),  # train has a default by optimizer
    ("--steps 0 test", "--steps must be at least 1, got 0"),
    ("--attn-implementation sdpaa show", r"must be one of eager, sdpa, .*; got 'sdpaa'\. Did you mean 'sdpa'\?"),
    ("--rope-parameters {a show", "not valid YAML at column 3"),
    ("--rope-parameters [1] show", "expected a YAML mapping"),
    ("--output-dir= show", "the path is empty"),
    ("--model-name a/b show", "'a/b' is not a valid directory name: use a name without .* path with --output-dir"),
    ("--model-name ${nope} show", "--model-name: Interpolation key 'nope' not found"),
    ("--tokenizer nope show", r"--tokenizer: 'nope' does not exist: use a shipped one \(bpe-2k"),
    ("--chat-template nope show", "--chat-template: 'nope' is neither a file, a shipped template nor a template of"),
    ("--dtype float99 show", r"--dtype must be one of float32, .*; got 'float99'\. Did you mean 'float64'\?"),
    ("--device gpu9 show", "--device must be meta, cpu, cuda, cuda:N or mps; got 'gpu9'"),
    ("--device gpu9 estimate", "--device must be meta, cpu, cuda, cuda:N or mps; got 'gpu9'"),
    # rules between options
    ("--num-attention-heads 3 show", r"--num-attention-heads must divide hidden_size \(256\), got 3"),
    ("--num-key-value-heads 3 show", r"--num-key-value-heads must divide num_attention_heads \(4\), got 3"),
    ("--head-dim 3 show", "must be even for RoPE, got 3"),
    ("--rope-parameters {rope_type:\u00a0x} show", "expected a YAML mapping|rope_type"),
    ("--rope-parameters {} show", "requires rope_theta"),
    # output
    ("-o x.pdf show", "suffix of 'x.pdf' must be one of .txt, .json, .html, .svg"),
    ("-o no/x.txt show", "the directory no does not exist"),
    ("-o .. show", "is a directory: add a file name"),
    ("-e show", "set VISUAL or EDITOR, for example"),
]
OF_CONSTRUCTION = [
    ("--save-checkpoint construct", "--save-checkpoint requires a real device.*add --device cpu"),
    ("--load-from-checkpoint x construct", "--load-from-checkpoint requires a real device.*add --device cpu"),
    ("--device cpu --load-from-checkpoint x construct", "x does not exist: name a model directory"),
    ("--device cpu --safetensors construct", "--safetensors requires --save-checkpoint"),
    ("--device cpu --no-init-weights --save-checkpoint construct", "--save-checkpoint would save the memory that"),
    ("--device cpuu construct", r"--device must be meta, cpu, cuda, cuda:N or mps; got 'cpuu'\. Did you mean 'cpu'\?"),
    ("--device cuda:x construct", "--device must be meta, cpu, cuda, cuda:N or mps; got 'cuda:x'"),
    ("--device cuda:99 construct", "--device: 'cuda:99': "),
    ("--dtype float33 construct", r"--dtype must be one of float32, .*; got 'float33'.*Did you mean 'float32'\?"),
    ("--dtype int8 construct", "--dtype must be one of float32, .*; got 'int8'"),
    (
        "--device cpu --save-checkpoint --max-shard-size big construct",
        "--max-shard-size must be a positive size; got 'big': use for example 500MB",
    ),
    ("--attn-implementation flash_attention_2 --device cpu construct", "--attn-implementation: flash_attention_2"),
    ("--tokenizer nope construct", "'nope' does not exist"),
    ("--chat-template nope construct", "'nope' is neither a file, a shipped template nor a template of the tokenizer"),
    ("--vocab-size 10 construct", "10 is smaller than the 2000 entries of the tokenizer"),
    ("-o x.pdf construct", "suffix of 'x.pdf' must be one of"),
    ("--device cpu test --packing best-fit", "--packing requires --packed"),
    ("--device cpu --no-init-weights test", "--no-init-weights requires --load-from-checkpoint"),
    ("--device cpu --attn-implementation flex_attention test", "has no backward pass on the CPU"),
    ("--device cpu test --dataset-project nope", "--dataset-project: 'nope' is neither a file"),
    ("--device cpu test --dataset-project stdlb", "Did you mean 'stdlib'"),
    (
        "--device cpu test --dataset-project stdlib --dataset-config x",
        "--dataset-config: 'stdlib' has no configuration 'x': choose one of default",
    ),
    ("--device cpu test --dataset-config x", "--dataset-config requires --dataset-project"),
]
OF_THE_ROOT = [
    ("-t llama/4m model show", r"'llama' has no preset '4m'\. Did you mean 'llama/4M'\?"),
    ("-t llama/zzz model show", r"'llama' has no preset 'zzz': use one of llama/4M, "),
    ("-t lama model show", r"no model definition named 'lama'\. Did you mean 'llama'\?"),
    ("-t zzz model show", r"no model definition named 'zzz': use one of .*llama"),
    ("-t zzz model --help", "no model definition named 'zzz'"),
    ("-t zzz.yaml model show", "there is no configuration file 'zzz.yaml'"),
    ("-t / model show", "no model definition named ''"),
    ("-t", "-t requires a value"),
    ("-t llama", "Missing command"),
    ("model show", "choose a model definition, for example: forgather -t llama/4M"),
    ("model construct", "choose a model definition"),
    ("modle show", r"No such command 'modle'\. Did you mean 'model'\?"),
    ("chekpoint", r"No such command 'chekpoint'\. Did you mean 'checkpoint'\?"),
    ("zzz", "No such command 'zzz'"),
    ("--zzz ls", "--zzz does not exist"),
    ("ls extra", "unexpected argument 'extra': remove it"),
    ("-p nowhere ls", "the directory 'nowhere' does not exist"),
    ("-p /dev/null ls", "-p: '/dev/null' is a file: choose another"),
]
FILES = [
    ("hiden_size: 3", r"exp\.yaml:2:1: hiden_size: 'llama' has no such option\. Did you mean 'hidden_size'\?"),
    ("hidden-size: 3", r"exp\.yaml:2:1: hidden-size: 'llama' has no such option.*Did you mean 'hidden_size'\?"),
    ("steps: 3", r"exp\.yaml:2:1: steps: 'llama' has no such option"),
    ("3: 4", r"exp\.yaml:2:1: 3: 'llama' has no such option"),
    ("model_name: x\n  hidden_size: [3", r"exp\.yaml:3:"),
    ("hidden_size: [3", r"exp\.yaml:\d:\d+: expected ',' or ']'"),
    ("hidden_size: 3\nhidden_size: 4", r"exp\.yaml:3:1: duplicate key 'hidden_size'"),
    ("hidden_size: big", r"exp\.yaml:2:1: hidden_size: expected an integer, got 'big'"),
    ("hidden_size: 0", r"exp\.yaml:2:1: hidden_size must be at least 1, got 0"),
    ("hidden_size: true", r"exp\.yaml:2:1: hidden_size: expected an integer, got 'True'"),
    ("hidden_size:", r"exp\.yaml:2:1: hidden_size: null is not allowed"),
    ("attn_implementation: fast", r"exp\.yaml:2:1: attn_implementation must be one of eager, .*; got 'fast'"),
    ("rope_parameters: 3", r"exp\.yaml:2:1: rope_parameters: expected a YAML mapping"),
    ("num_attention_heads: 3", r"exp\.yaml:2:1: num_attention_heads must divide hidden_size \(256\), got 3"),
    ("hidden_size: ${nope}", r"exp\.yaml:2:1: hidden_size: Interpolation key 'nope' not found"),
    ("hidden_size: ${oops", r"exp\.yaml:2:1: hidden_size: "),
    ("hidden_size: ${zzz:1}", r"exp\.yaml:2:1: hidden_size: Unsupported interpolation type zzz"),
    ("seed: ${hidden_size}\nhidden_size: ${seed}", r"exp\.yaml:\d:1: \w+: .*[Rr]ecursive"),
    ("hidden_size: ${oc.env:NO_SUCH_VARIABLE}", r"exp\.yaml:2:1: hidden_size: .*NO_SUCH_VARIABLE"),
    ("hidden_size: !!python/object:os.system {}", r"exp\.yaml:2:14: .*python/object"),
]


@pytest.mark.parametrize(("words", "message"), OF_LLAMA + OF_CONSTRUCTION)
def test_errors_of_model_commands(cli: Cli, words: str, message: str) -> None:
    assert re.search(message, cli(*LLAMA, *words.split(" ")).error)
    assert nothing_on_disk()


@pytest.mark.parametrize(("words", "message"), OF_THE_ROOT)
def test_errors_of_other_commands(cli: Cli, words: str, message: str) -> None:
    assert re.search(message, cli(*words.split()).error)
    assert nothing_on_disk()


@pytest.mark.parametrize("command", ["show", "construct"])
@pytest.mark.parametrize(("text", "message"), FILES)
def test_errors_of_a_file(cli: Cli, text: str, message: str, command: str) -> None:
    Path("exp.yaml").write_text(f"extends: llama/4M\n{text}\n")
    assert re.match(message, cli("-t", "exp.yaml", "model", command).error)
    assert [path.name for path in Path().iterdir()] == ["exp.yaml"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"hidden_size: 3\n", r"exp\.yaml:1:1: extends is missing"),
        (b"", "extends is missing"),
        (b"extends: [a]\n", r"extends: expected a name, got \['a'\]"),
        (b"- 3\n", r"exp\.yaml:1:1: expected a mapping"),
        (b"extends: exp\n", r"exp\.yaml:1:1: extends: 'exp' extends this file"),
        (b"extends: llama/5M\n", r"exp\.yaml:1:1: extends: 'llama' has no preset '5M': use one of llama/4M, "),
        (b"extends: nowhere.yaml\n", r"exp\.yaml:1:1: extends: there is no configuration file 'nowhere\.yaml'"),
        (b"extends: llama/4M\nmodel_name: \xe9\n", r"exp\.yaml is not UTF-8 text: save it as UTF-8"),
    ],
)
def test_errors_of_a_whole_file(cli: Cli, text: bytes, message: str) -> None:
    Path("exp.yaml").write_bytes(text)
    assert re.search(message, cli("-t", "exp", "model", "show").error)


def test_files_that_extend_each_other(cli: Cli) -> None:
    for name, parent in (("a", "b.yaml"), ("b", "c"), ("c", "a")):
        Path(f"{name}.yaml").write_text(f"# one line above\nextends: {parent}\n")
    assert cli("-t", "a", "model", "show").error == "c.yaml:2:1: extends: 'a' extends this file: remove the cycle"


def test_an_option_of_another_definition_names_its_owner(site: object, monkeypatch: pytest.MonkeyPatch) -> None:
    site("other", "other_lm", OTHER, other="other_lm")  # type: ignore[operator]
    done = start("-t", "other", "model", "--rope-parameters", "{}", "show")
    assert done.returncode == 2
    assert (
        "--rope-parameters is not an option of 'other': remove it, or use it with llama, mistral, qwen3 or smollm3"
        in done.stderr
    )


OTHER = """
from dataclasses import dataclass
from forgather_core import ModelDefinition, hookimpl, option

@dataclass(kw_only=True)
class Options:
    width: int = option(8, help="Width")

@hookimpl
def forgather_models():
    yield ModelDefinition(name="other", summary="Another", options=Options, config="x:C", model="x:M")
"""


def test_a_file_that_cannot_be_written(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("forgather_core.filesystem.output_file.replace_file", refuse)
    error = cli(*LLAMA, "show", "-o", "x.txt").error
    problem = "--output-file: x.txt cannot be written: Permission denied"
    assert error == f"{problem}: check the path and its permissions"


def test_the_environment_requests_a_traceback() -> None:
    done = start(*LLAMA, "--hidden-size", "0", "show", env={"FORGATHER_TRACEBACK": "1"})
    assert done.returncode == 1
    assert "Traceback" in done.stderr
    assert "must be at least 1, got 0" in done.stderr


def test_a_bug_keeps_its_traceback(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise ValueError("a bug")

    monkeypatch.setattr("forgather.show", fail)
    with pytest.raises(ValueError, match="a bug"):
        cli(*LLAMA, "show")


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (TrainingCheckError("the loss is nan"), 1, "forgather: error: the loss is nan\n"),
        (KeyboardInterrupt(), 130, None),
    ],
)
def test_exit_codes(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, error: BaseException, code: int, text: str | None
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("forgather.show", fail)
    done = cli(*LLAMA, "show")
    assert (done.code, done.err) == (code, text or "forgather: interrupted\n")
    assert done.out == ""


def test_a_flag_is_named_once(cli: Cli) -> None:
    assert cli(*LLAMA, "--hidden-size", "0", "show").error.count("--hidden-size") == 1


@pytest.mark.parametrize("words", ["-t llama model --zzz show", "model show", "model -t llama show"])
def test_errors_do_not_call_a_flag_a_value(cli: Cli, words: str) -> None:
    assert "Invalid value" not in cli(*words.split()).error


def test_an_option_without_a_definition_requires_one(cli: Cli) -> None:
    error = cli("model", "--hidden-size", "3", "show").error
    assert "choose a model definition" in error or "is an option of " in error
    assert "Did you mean --batch-size" not in error


@pytest.mark.parametrize(("words", "name"), [("--tempalte llama ls", "--template"), ("ls --jsno", "--json")])
def test_every_misspelt_option_gets_the_same_hint(cli: Cli, words: str, name: str) -> None:
    assert f"Did you mean {name}?" in cli(*words.split()).error


@pytest.mark.parametrize("words", ["", "model", "-t llama model"])
def test_a_group_without_a_command_prints_its_page(cli: Cli, words: str) -> None:
    done = cli(*words.split())
    page = done.out + done.err
    assert done.code == 2
    assert "forgather: error" not in page
    assert page.startswith("Usage: forgather")
    assert "\n\nCommands:\n" in page


@pytest.mark.parametrize(
    "words",
    [
        f"{' '.join(LLAMA)} show -o {LONG}.txt",
        f"{' '.join(LLAMA)} show --tokenizer {LONG}",
        f"{' '.join(LLAMA)} construct --model-name {LONG}",
        f"{' '.join(LLAMA)} --device cpu construct --load-from-checkpoint {LONG}",
        f"{' '.join(LLAMA)} --device cpu test --dataset-project {LONG}",
        f"-t {LONG} model show",
        f"-p {LONG} ls",
    ],
)
def test_a_path_that_is_too_long(cli: Cli, words: str) -> None:
    assert "too long" in cli(*words.split()).error


def test_a_rope_type_of_the_wrong_kind(cli: Cli) -> None:
    assert "rope_type" in cli(*LLAMA, "--rope-parameters", "{rope_theta: 1.0, rope_type: [x]}", "show").error


@pytest.mark.parametrize("words", ["-t exp model show", "ls"])
def test_notes_of_the_wrong_kind(cli: Cli, words: str) -> None:
    Path("exp.yaml").write_text("extends: llama/4M\nparameters: many\n")
    done = cli(*words.split())
    assert "exp.yaml:2:1: parameters" in done.out + done.err


def test_an_editor_with_an_open_quote(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDITOR", 'vi "')
    assert "EDITOR" in cli(*LLAMA, "show", "-e").error


def test_a_path_with_a_nul(cli: Cli) -> None:
    Path("exp.yaml").write_text('extends: llama/4M\noutput_dir: "a\\0b"\n')
    assert "output_dir" in cli("-t", "exp", "model", "construct").error


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="Linux has it")  # noqa: PTH110
def test_standard_output_that_is_full() -> None:
    with Path("/dev/full").open("w") as full:
        done = start("--version", stdout=full)
    assert done.returncode != 0
    assert "Traceback" not in done.stderr


ATTENTION = {
    "-t deepone model --attn-implementation flash_attention_2": "no gradient for the slopes of ALiBi; use sdpa",
    "-t single_head model --attn-implementation flash_attention_2": "no gradient for the slopes of ALiBi; use sdpa",
    "-t llama model --head-dim 320 --attn-implementation flash_attention_2": "head_dim must be at most 256, got 320",
    "-t single_head model --attn-implementation flex_attention --device cpu test": "no backward pass on the CPU",
}


@pytest.mark.parametrize("words", ATTENTION)
def test_unsupported_attention_is_refused_before_any_work(cli: Cli, words: str) -> None:
    command = words.split()
    error = cli(*command, *(() if "test" in command else ("construct",))).error
    assert error.startswith("--attn-implementation: ")
    assert ATTENTION[words] in error
    assert re.search(r"use (sdpa|eager)", error)
    assert nothing_on_disk()


def test_flex_attention_with_dropout_is_refused_in_training(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    words = "--attention-dropout 0.1 --attn-implementation flex_attention --device cuda test"
    assert "does not support dropout" in cli("-t", "llama", "model", *words.split()).error
    assert nothing_on_disk()


DIRECTORY_ERRORS = {
    "--from-config nowhere": "--from-config: nowhere/config.json does not exist: use a model directory, or download "
    "one: hf download OWNER/NAME --local-dir nowhere",
    "--from-config an/owner": "--from-config: an/owner/config.json does not exist: use a model directory, or download "
    "one: hf download an/owner --local-dir owner, then use --from-config owner",
    "--native --sliding-window 8": "--native: transformers' Llama does not support sliding_window",
}


@pytest.mark.parametrize("words", DIRECTORY_ERRORS)
def test_from_config_and_native_errors_give_the_reason(cli: Cli, words: str) -> None:
    assert cli(*LLAMA, *words.split(), "construct").error.startswith(DIRECTORY_ERRORS[words])
    assert nothing_on_disk()
