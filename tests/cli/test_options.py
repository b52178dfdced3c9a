"""Every documented option exists and is accepted before and after the command; the last value wins."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from forgather_core.definitions.registry import SHARED_OPTIONS, registry
from forgather_core.options.spec import specs_of

from .conftest import LLAMA, Cli

Resolved = Callable[..., dict[str, Any]]
DEFAULT_ROPE = {"rope_type": "default", "rope_theta": 10000.0}

# reference: README of the model collection, `forgather model --help`
RESOLVED = [
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
    # options that the seed document does not list
    ("--head-dim", "32", 32),
    ("--vocab-size", "4096", 4096),
    ("--max-position-embeddings", "128", 128),
    ("--native", None, True),
    ("--tokenizer", "bytes", "bytes"),
    ("--chat-template", "chatml", "chatml"),
    ("--seed", "7", 7),
    ("--max-shard-size", "1MB", "1MB"),
    ("--parallel", "fsdp=2,tp=2", "fsdp=2,tp=2"),
]
# Options of a single run, not of configurations; the second line is for `test` only.
OF_A_RUN = ["--refresh-model", "-r", "--keep", "--output-file x.txt", "-o x.txt", "--edit", "-e", "--json"]
OF_A_RUN += ["--force", "--nproc-per-node 2"]
OF_A_TEST = ["--batch-size 3", "--sequence-length 64", "--steps 5", "--dataset-project d", "--dataset-config c"]
OF_A_TEST += ["--packed", "--packing best-fit", "--lr 0.1", "--fuse-optim-with-backward", "--full-logits", "--compile"]
OF_AN_ESTIMATE = ["--optimizer sgd", "--precision bf16", "--context-length 128", "--cache static", "--mfu 0.3"]
OF_AN_ESTIMATE += ["--hardware d.yaml"]
OF_A_SHOW = ["--init"]
OF_A_TRAINING = [
    *("--tokens 9", "--eval-fraction 0.1", "--eval-tokens 9", "--gradient-accumulation-steps 2"),
    *("--mixed-precision no", "--weight-decay 0", "--max-grad-norm 0", "--schedule wsd", "--warmup 0"),
    *(
        "--eval-every 3",
        "--save-every 3",
        "--save-total-limit 1",
        "--log-every 3",
        "--report-to tensorboard",
        "--resume",
    ),
]
OF_A_VERIFICATION = [
    "--checks padding",
    "--quick",
    "--full",
    "--strength 3",
    "--case plain",
    "--against llama",
    "--trust-remote-code",
    "--junit r.xml",
    "--list",
]
OF_A_DIRECTORY = ["--from-config d"]  # its values are the directory's: tests/core/settings/test_source_config.py
ALL_OTHERS = [*OF_A_RUN, *OF_A_TEST, *OF_A_TRAINING, *OF_AN_ESTIMATE, *OF_A_SHOW, *OF_A_VERIFICATION, *OF_A_DIRECTORY]


def name_of(flag: str) -> str:
    return flag[2:].replace("-", "_")


@pytest.mark.few(16)
@pytest.mark.parametrize(("flag", "text", "value"), RESOLVED)
def test_an_option_means_the_same_before_and_after_the_command(
    resolved: Resolved, flag: str, text: str | None, value: Any
) -> None:
    words = [flag] if text is None else [flag, text]
    if flag == "--rope-parameters":
        value = {"rope_type": "linear", "rope_theta": 100000.0, "factor": 2}
    before, after = resolved(*words), resolved("show", *words)
    assert before == after
    assert before[name_of(flag)] == value
    assert resolved()[name_of(flag)] != value
    if text is not None:
        assert resolved(f"{flag}={text}") == before


@pytest.mark.few(20, slow=60)
@pytest.mark.parametrize("words", ALL_OTHERS)
@pytest.mark.parametrize("command", ["construct", "test", "show", "estimate"])
def test_every_command_takes_every_option_on_both_sides(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, words: str, command: str
) -> None:
    parsed: list[Any] = []

    class ParsedError(Exception):
        pass

    def stop(ctx: Any, *_: Any) -> None:
        from forgather_cli.bridge.session import Session

        parsed.append(Session.of(ctx).given)
        raise ParsedError

    monkeypatch.setattr("forgather_cli.model.ModelCommand", stop)
    for arguments in ([*words.split(), command], [command, *words.split()]):
        with pytest.raises(ParsedError):
            cli(*LLAMA, *arguments)
    assert parsed[0] == parsed[1]
    assert len(parsed[0]) == 1


def test_these_tests_cover_every_option() -> None:
    named = {flag for flag, *_ in RESOLVED} | {words.split()[0] for words in ALL_OTHERS}
    groups = (registry().definition("llama").options, *SHARED_OPTIONS)
    assert {spec.flag for group in groups for spec in specs_of(group)} == {n for n in named if n.startswith("--")}


def test_the_last_value_wins(resolved: Resolved) -> None:
    assert resolved("--hidden-size", "128", "--hidden-size", "64")["hidden_size"] == 64
    assert resolved("--hidden-size", "128", "show", "--hidden-size", "64")["hidden_size"] == 64
    assert resolved("--sliding-window", "8", "show", "--sliding-window", "null")["sliding_window"] is None
    assert resolved("--tie-word-embeddings", "show", "--no-tie-word-embeddings")["tie_word_embeddings"] is False


@pytest.mark.parametrize("flag", ["tie-word-embeddings", "gradient-checkpointing"])
def test_a_pair_of_flags_has_three_states(resolved: Resolved, flag: str) -> None:
    name = flag.replace("-", "_")
    Path("tied.yaml").write_text(f"extends: llama/4M\n{name}: true\n")
    assert resolved(template="tied.yaml")[name] is True
    assert resolved(f"--no-{flag}", template="tied.yaml")[name] is False
    assert resolved(f"--{flag}", template="tied.yaml")[name] is True
    assert resolved()[name] is False


@pytest.mark.parametrize(
    ("words", "name", "value"),
    [
        (("--hidden-size", "1e3"), "hidden_size", 1000),
        (("--hidden-size", "0x100"), "hidden_size", 256),
        (("--rms-norm-eps", "1"), "rms_norm_eps", 1.0),
        (("--num-key-value-heads", "null"), "num_key_value_heads", 4),  # null: as many as query heads
        (("--sliding-window", "None"), "sliding_window", None),
        (("--chat-template", "~"), "chat_template", None),
        (("--dtype", "null"), "dtype", None),
        (("--rope-parameters", '{"rope_type": "default", "rope_theta": 5e5}'), "rope_parameters", "json"),
        (("--model-name", "llama_${hidden_size}"), "model_name", "llama_256"),
        (("--model-name", "3"), "model_name", "3"),
    ],
)
def test_values_are_read_as_yaml_reads_them(resolved: Resolved, words: tuple[str, ...], name: str, value: Any) -> None:
    value = {"rope_type": "default", "rope_theta": 500000.0} if value == "json" else value
    assert resolved(*words)[name] == value


def test_a_flag_of_null_overrules_a_file(resolved: Resolved) -> None:
    Path("exp.yaml").write_text("extends: llama/4M\nsliding_window: 32\n")
    assert resolved(template="exp.yaml")["sliding_window"] == 32
    assert resolved("--sliding-window", "null", template="exp.yaml")["sliding_window"] is None


def test_output_dir_and_model_name_set_the_directory(cli: Cli) -> None:
    def directory(*words: str) -> str:
        return str(cli(*LLAMA, "show", "--json", *words).json["directory"])

    assert directory() == "output_models/llama_4m"
    assert directory("--model-name", "mine") == "output_models/mine"
    assert directory("--output-dir", "a/b", "--model-name", "mine") == "a/b"
