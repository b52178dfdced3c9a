"""Every documented option exists, stands before or after the command, and the later one wins."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from forgather_core.definitions.registry import SHARED_OPTIONS, registry
from forgather_core.options.spec import specs_of

from .conftest import LLAMA, Cli

Settled = Callable[..., dict[str, Any]]
DEFAULT_ROPE = {"rope_type": "default", "rope_theta": 10000.0}

# reference: README of the model collection, `forgather model --help`
SETTLED = [
    ("--device", "cpu", "cpu"),
    ("--dtype", "bfloat16", "bfloat16"),
    ("--no-init-weights", None, True),
    ("--load-from-checkpoint", "some/where", "some/where"),
    ("--gradient-checkpointing", None, True),
    ("--ignore-mismatched-sizes", None, True),
    ("--verify-checksums", None, True),
    ("--save-checkpoint", None, True),
    ("--safetensors", None, True),
    ("--attn-implementation", "eager", "eager"),
    ("--attn-implementation", "sdpa", "sdpa"),
    ("--attn-implementation", "flash_attention_2", "flash_attention_2"),
    ("--attn-implementation", "flex_attention", "flex_attention"),
    ("--output-dir", "some/where", "some/where"),
    ("--model-name", "my_llama", "my_llama"),
    ("--tie-word-embeddings", None, True),
    ("--attention-dropout", "0.25", 0.25),
    ("--hidden-size", "512", 512),
    ("--num-attention-heads", "8", 8),
    ("--num-key-value-heads", "2", 2),
    ("--num-hidden-layers", "6", 6),
    ("--intermediate-size", "640", 640),
    ("--rope-parameters", "{rope_type: linear, rope_theta: 1e5, factor: 2}", DEFAULT_ROPE),
    ("--rms-norm-eps", "1e-6", 1e-6),
    ("--sliding-window", "64", 64),
    # and those of ours
    ("--head-dim", "32", 32),
    ("--vocab-size", "4096", 4096),
    ("--max-position-embeddings", "128", 128),
    ("--native", None, True),
    ("--tokenizer", "bytes", "bytes"),
    ("--chat-template", "chatml", "chatml"),
    ("--seed", "7", 7),
    ("--max-shard-size", "1MB", "1MB"),
]
# What one run takes and no configuration holds; `test` alone uses the second line.
OF_A_RUN = ["--refresh-model", "-r", "--keep", "--output-file x.txt", "-o x.txt", "--edit", "-e", "--json"]
OF_A_RUN += ["--force"]
OF_A_TEST = ["--batch-size 3", "--sequence-length 64", "--steps 5", "--dataset-project d", "--dataset-config c"]
OF_A_TEST += ["--packed", "--packing best-fit", "--lr 0.1", "--fuse-optim-with-backward", "--full-logits", "--compile"]
OF_AN_ESTIMATE = ["--optimizer sgd", "--precision bf16", "--context-length 128", "--cache static", "--mfu 0.3"]
OF_AN_ESTIMATE += ["--hardware d.yaml"]
OF_A_SHOW = ["--init"]
OF_A_VERIFICATION = ["--checks rows", "--quick", "--full", "--list"]
OF_A_DIRECTORY = ["--from-config d"]  # its values are the directory's: tests/core/settings/test_source_config.py
ALL_OTHERS = [*OF_A_RUN, *OF_A_TEST, *OF_AN_ESTIMATE, *OF_A_SHOW, *OF_A_VERIFICATION, *OF_A_DIRECTORY]


def name_of(flag: str) -> str:
    return flag[2:].replace("-", "_")


@pytest.mark.few(16)
@pytest.mark.parametrize(("flag", "text", "value"), SETTLED)
def test_an_option_means_the_same_before_and_after_the_command(
    settled: Settled, flag: str, text: str | None, value: Any
) -> None:
    words = [flag] if text is None else [flag, text]
    if flag == "--rope-parameters":
        value = {"rope_type": "linear", "rope_theta": 100000.0, "factor": 2}
    before, after = settled(*words), settled("show", *words)
    assert before == after
    assert before[name_of(flag)] == value
    assert settled()[name_of(flag)] != value
    if text is not None:
        assert settled(f"{flag}={text}") == before


@pytest.mark.few(20)
@pytest.mark.parametrize("words", ALL_OTHERS)
@pytest.mark.parametrize("command", ["construct", "test", "show", "estimate"])
def test_every_command_takes_every_option_on_both_sides(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, words: str, command: str
) -> None:
    asked: list[Any] = []

    def answer(ctx: Any) -> None:
        from forgather_cli.dynamic import Session

        asked.append(Session.of(ctx).given)

    monkeypatch.setattr("forgather_cli.model.ModelCommand", answer)
    for arguments in ([*words.split(), command], [command, *words.split()]):
        with pytest.raises(AttributeError):  # nothing was asked for after all: this is far enough
            cli(*LLAMA, *arguments)
    assert asked[0] == asked[1]
    assert len(asked[0]) == 1


def test_no_option_is_left_out_of_these_tests() -> None:
    named = {flag for flag, *_ in SETTLED} | {words.split()[0] for words in ALL_OTHERS}
    groups = (registry().definition("llama").options, *SHARED_OPTIONS)
    assert {spec.flag for group in groups for spec in specs_of(group)} == {n for n in named if n.startswith("--")}


def test_the_later_one_wins(settled: Settled) -> None:
    assert settled("--hidden-size", "128", "--hidden-size", "64")["hidden_size"] == 64
    assert settled("--hidden-size", "128", "show", "--hidden-size", "64")["hidden_size"] == 64
    assert settled("--sliding-window", "8", "show", "--sliding-window", "null")["sliding_window"] is None
    assert settled("--tie-word-embeddings", "show", "--no-tie-word-embeddings")["tie_word_embeddings"] is False


@pytest.mark.parametrize("flag", ["tie-word-embeddings", "gradient-checkpointing"])
def test_a_pair_of_flags_has_three_states(settled: Settled, flag: str) -> None:
    name = flag.replace("-", "_")
    Path("tied.yaml").write_text(f"extends: llama/4M\n{name}: true\n")
    assert settled(template="tied.yaml")[name] is True
    assert settled(f"--no-{flag}", template="tied.yaml")[name] is False
    assert settled(f"--{flag}", template="tied.yaml")[name] is True
    assert settled()[name] is False


@pytest.mark.parametrize(
    ("words", "name", "value"),
    [
        (("--hidden-size", "1e3"), "hidden_size", 1000),
        (("--hidden-size", "0x100"), "hidden_size", 256),
        (("--rms-norm-eps", "1"), "rms_norm_eps", 1.0),
        (("--num-key-value-heads", "null"), "num_key_value_heads", 4),  # what stands for null: as many as query heads
        (("--sliding-window", "None"), "sliding_window", None),
        (("--chat-template", "~"), "chat_template", None),
        (("--dtype", "null"), "dtype", None),
        (("--rope-parameters", '{"rope_type": "default", "rope_theta": 5e5}'), "rope_parameters", "json"),
        (("--model-name", "llama_${hidden_size}"), "model_name", "llama_256"),
        (("--model-name", "3"), "model_name", "3"),
    ],
)
def test_values_are_read_as_yaml_reads_them(settled: Settled, words: tuple[str, ...], name: str, value: Any) -> None:
    value = {"rope_type": "default", "rope_theta": 500000.0} if value == "json" else value
    assert settled(*words)[name] == value


def test_a_flag_of_null_overrules_a_file(settled: Settled) -> None:
    Path("exp.yaml").write_text("extends: llama/4M\nsliding_window: 32\n")
    assert settled(template="exp.yaml")["sliding_window"] == 32
    assert settled("--sliding-window", "null", template="exp.yaml")["sliding_window"] is None


def test_output_goes_where_the_options_say(cli: Cli) -> None:
    def directory(*words: str) -> str:
        return str(cli(*LLAMA, "show", "--json", *words).json["directory"])

    assert directory() == "output_models/llama_4m"
    assert directory("--model-name", "mine") == "output_models/mine"
    assert directory("--output-dir", "a/b", "--model-name", "mine") == "a/b"
