"""A typed option has an effect, or is refused with the commands that use it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from forgather_cli.bridge.session import Session
from forgather_core.definitions.registry import registry
from forgather_core.errors import ForgatherError
from forgather_core.options.spec import OptionSpec
from forgather_core.settings.layers import find_configuration

from .conftest import LLAMA, Cli

CONSTRUCT, TEST, TRAIN, VERIFY = "construct", "test", "train", "verify"
SHOW, ESTIMATE, COMPARE = "show", "estimate", "compare"
COMMANDS = (CONSTRUCT, TEST, TRAIN, VERIFY, SHOW, ESTIMATE, COMPARE)
BUILT, WRITTEN = {CONSTRUCT, TEST, TRAIN, SHOW}, {CONSTRUCT, TEST, TRAIN, VERIFY, SHOW}
ON_REQUEST = {CONSTRUCT, TEST, SHOW}
COMPUTED, STEP = {CONSTRUCT, TEST, TRAIN, SHOW, ESTIMATE, COMPARE}, {TEST, TRAIN, ESTIMATE, COMPARE}
STEPS = {TEST, TRAIN}
# Each shared option and the commands that use it, independent of the declarations.
SCOPES: dict[str, set[str]] = {
    "--model-name m": set(COMMANDS), "--output-dir o": WRITTEN, "--from-config d": set(COMMANDS), "--native": WRITTEN,
    "--tokenizer bytes": set(COMMANDS), "--chat-template chatml": WRITTEN, "--device cpu": COMPUTED,
    "--dtype bfloat16": COMPUTED, "--no-init-weights": BUILT, "--seed 3": WRITTEN,
    "--attn-implementation eager": COMPUTED, "--gradient-checkpointing": COMPUTED, "--load-from-checkpoint c": BUILT,
    "--parallel fsdp=2": {*WRITTEN, ESTIMATE}, "--nproc-per-node 2": WRITTEN - {SHOW},
    "--verify-checksums": BUILT, "--ignore-mismatched-sizes": BUILT,
    "--save-checkpoint": ON_REQUEST, "--safetensors": ON_REQUEST, "--max-shard-size 1MB": ON_REQUEST,
    "--refresh-model": WRITTEN - {SHOW}, "--keep": WRITTEN - {SHOW}, "--force": WRITTEN - {SHOW},
    "--output-file x.txt": set(COMMANDS),
    "--edit": set(COMMANDS), "--json": set(COMMANDS), "--batch-size 3": STEP, "--sequence-length 64": STEP,
    "--fuse-optim-with-backward": STEP, "--full-logits": STEP, "--steps 5": {TEST}, "--optimizer sgd": STEP,
    "--lr 3": STEPS, "--dataset-project d": STEPS, "--dataset-config c": STEPS, "--packed": {TEST},
    "--packing greedy": STEPS, "--compile": STEPS, "--tokens 9": {TRAIN}, "--eval-fraction 0.1": {TRAIN},
    "--eval-tokens 9": {TRAIN}, "--gradient-accumulation-steps 2": {TRAIN}, "--mixed-precision no": {TRAIN},
    "--weight-decay 0": {TRAIN}, "--max-grad-norm 0": {TRAIN}, "--schedule wsd": {TRAIN}, "--warmup 0": {TRAIN},
    "--eval-every 3": {TRAIN}, "--save-every 3": {TRAIN}, "--save-total-limit 1": {TRAIN}, "--log-every 3": {TRAIN},
    "--report-to tensorboard": {TRAIN}, "--resume": {TRAIN}, "--precision bf16": {ESTIMATE, COMPARE},
    "--context-length 9": {ESTIMATE, COMPARE}, "--cache static": {ESTIMATE, COMPARE}, "--mfu 0.3": {ESTIMATE},
    "--hardware no.yaml": {ESTIMATE}, "--checks padding": {VERIFY}, "--quick": {VERIFY}, "--full": {VERIFY},
    "--strength 3": {VERIFY}, "--case plain": {VERIFY}, "--against llama": {VERIFY}, "--junit r.xml": {VERIFY},
    "--trust-remote-code": {VERIFY},
    "--list": {VERIFY}, "--init": {SHOW},
}  # fmt: skip


def test_every_shared_option_is_in_the_table() -> None:
    from forgather_core.definitions.registry import SHARED_OPTIONS
    from forgather_core.options.scope import commands_of
    from forgather_core.options.spec import specs_of

    table = {words.split()[0]: commands for words, commands in SCOPES.items()}
    assert {spec.flag: set(commands_of(spec)) for group in SHARED_OPTIONS for spec in specs_of(group)} == table


@pytest.mark.few(4)
@pytest.mark.regression("typed-options", "P1")
@pytest.mark.parametrize("before", [True, False], ids=["before", "after"])
@pytest.mark.parametrize("command", COMMANDS)
def test_an_option_of_other_commands_is_refused(cli: Cli, command: str, before: bool) -> None:
    for words, commands in SCOPES.items():
        if command in commands:
            continue
        model = ["llama/30M"] if command == COMPARE else []
        typed = [*words.split(), command, *model] if before else [command, *model, *words.split()]
        error = cli(*LLAMA, *typed).error
        flag, *owners = words.split()[0], *(name for name in COMMANDS if name in commands)
        assert error.startswith(f"{flag} has no effect on '{command}': remove it, or use "), error
        assert [name for name in COMMANDS if f"'{name}'" in error.partition("or use ")[2]] == owners
    assert not list(Path().iterdir())


@pytest.mark.regression("typed-options")
@pytest.mark.parametrize(
    ("words", "error"),
    [
        ("--device cpu --safetensors construct", "--safetensors requires --save-checkpoint"),
        ("--device cpu --max-shard-size 1MB construct", "--max-shard-size requires --save-checkpoint"),
        ("--device cpu construct --verify-checksums", "--verify-checksums requires --load-from-checkpoint"),
        ("construct --seed 3", "--seed requires a real device: add --device cpu"),
        ("--no-init-weights construct", "--no-init-weights requires a real device: add --device cpu"),
        ("--device cpu --no-init-weights --seed 1 construct", "--seed requires initial weights"),
        ("test --lr 0.1", "--lr requires a real device: add --device cpu"),
        ("test --steps 3", "--steps requires a real device: add --device cpu"),
        ("test --dataset-project stdlib", "--dataset-project requires a real device"),
        ("--device cpu test --dataset-config x", "--dataset-config requires --dataset-project"),
        ("--device cpu test --packing best-fit", "--packing requires --packed"),
        ("verify --list --full", "--full requires a run of the checks"),
        ("verify --list -r", "--refresh-model requires a run of the checks"),
        ("verify --list --seed 3", "--seed requires a run of the checks"),
    ],
)
def test_an_option_without_effect_is_refused(cli: Cli, words: str, error: str) -> None:
    assert cli(*LLAMA, *words.split()).error.startswith(error)
    assert not list(Path().iterdir())


@pytest.mark.regression("typed-options")
def test_values_of_a_file_are_not_refused(cli: Cli) -> None:
    text = "extends: llama/4M\nhidden_size: 32\nnum_hidden_layers: 1\ndevice: cpu\nsafetensors: true\n"
    Path("mine.yaml").write_text(text + "verify_checksums: true\nmax_shard_size: 1MB\nseed: 4\n")
    for command in (("construct",), ("show",), ("estimate", "--sequence-length", "8", "--context-length", "8")):
        assert cli("-t", "mine", "model", *command).code == 0


@pytest.mark.regression("typed-options")
@pytest.mark.parametrize(
    ("words", "error"),
    [
        ("ls --device cpu", "--device has no effect on 'ls': remove it, or use 'model construct', 'model test'"),
        ("dataset ls --examples 3", "--examples has no effect on 'dataset ls': remove it, or use 'dataset show'"),
        ("checkpoint inspect x --lr 3", "--lr has no effect on 'checkpoint inspect': remove it, or use 'model test'"),
        ("-t llama/4M verify x", "-t has no effect on 'verify': remove it, or use 'model verify'"),
        ("-t llama/4M ls", "-t has no effect on 'ls': remove it, or use 'model'"),
        ("-p . dataset ls", "-p has no effect on 'dataset': remove it, or use 'model' or 'ls'"),
        ("model verify --list --lr 3", "--lr has no effect on 'verify': remove it, or use 'test'"),
        ("model verify --list --full", "--full requires a run of the checks: remove --list"),
        ("model verify --list --model-name m", "--model-name requires -t: choose a model definition"),
        ("model verify --list --checks ,", "--checks contains no name: add one, or remove the option"),
        ("verify . --checks=", "--checks contains no name: add one, or remove the option"),
        (
            "-t llama/4M model show --format bin",
            "--format has no effect on 'model show': remove it, or use 'checkpoint",
        ),
    ],
)
def test_other_groups_name_the_command_too(cli: Cli, words: str, error: str) -> None:
    assert cli(*words.split()).error.startswith(error)


def choices() -> Iterator[tuple[str, OptionSpec]]:
    """Every option of every command of `model`; definitions have options of their own."""
    session = Session(find_configuration("llama", registry()))
    for command in COMMANDS:
        yield from ((command, spec) for spec in session.of_command(command).values() if isinstance(spec.kind, tuple))


@pytest.mark.parametrize(("command", "spec"), choices(), ids=lambda one: getattr(one, "name", one))
def test_every_choice_is_accepted_by_the_command_line_and_by_its_function(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, command: str, spec: OptionSpec
) -> None:
    def stop(command: str, typed: object, values: dict[str, object]) -> None:
        raise ForgatherError(f"{command} got {values[spec.name]}")

    monkeypatch.setattr("forgather.calls.refuse_without_effect", stop)  # the last step before the command runs
    for choice in spec.kind:
        for words in ((command, spec.flag, str(choice)), (spec.flag, str(choice), command)):
            models = ["llama/30M"] if command == COMPARE else []
            assert cli(*LLAMA, *words, *models).error == f"{command} got {choice}"


def test_options_before_a_command_accept_the_values_of_each_command() -> None:
    session = Session(find_configuration("llama", registry()))
    before = {spec.name: spec for spec in session.specs}
    for command in COMMANDS:
        for name, spec in session.of_command(command).items():
            given = before[name]
            assert spec.optional <= given.optional, (command, name)
            if isinstance(spec.kind, tuple):
                assert set(spec.kind) <= set(given.kind), (command, name)
            else:
                bounds = [(one.info.ge, one.info.gt, one.info.le, one.info.lt) for one in (spec, given)]
                assert (spec.kind, bounds[0]) == (given.kind, bounds[1]), (command, name)


SMALL = ("--hidden-size", "32", "--num-hidden-layers", "1", "--intermediate-size", "32", "--tokenizer", "bytes")
STEPS = ("--device", "cpu", "--steps", "2", "--sequence-length", "8", "--json")


@pytest.mark.slow
@pytest.mark.regression("test-optimizer")
@pytest.mark.regression("R12")
def test_the_optimizer_trains_and_is_counted(cli: Cli) -> None:
    def run(*words: str) -> dict:  # type: ignore[type-arg]
        return dict(json.loads(cli(*LLAMA, *SMALL, "test", *STEPS, *words).out))

    sgd, adamw, fused = run(), run("--optimizer", "adamw"), run("--optimizer", "adamw", "--fuse-optim-with-backward")
    assert sgd["steps"][1]["loss"] != adamw["steps"][1]["loss"] == fused["steps"][1]["loss"]
    assert adamw["setup"]["optimizer"] == "AdamW, lr 0.01"
    assert sgd["memory"]["estimated"] < adamw["memory"]["estimated"]
    assert sgd["setup"]["weights"] == "fresh, seed 0"
    assert "must be one of sgd, adamw; got 'adam8bit'" in cli(*LLAMA, "test", "--optimizer", "adam8bit").error


@pytest.mark.slow
@pytest.mark.regression("R12")
def test_the_report_names_the_weights(cli: Cli) -> None:
    assert cli(*LLAMA, *SMALL, "--device", "cpu", "--save-checkpoint", "--safetensors", "construct").code == 0
    words = (*LLAMA, *SMALL, "--device", "cpu", "test", "--sequence-length", "8")
    assert cli(*words, "--seed", "3", "--json").json["setup"].get("weights") == "fresh, seed 3"
    ran = cli(*words, "--load-from-checkpoint", "output_models/llama_4m").out
    assert "weights                 loaded from output_models/llama_4m" in ran
    file = Path("output_models/llama_4m")
    tensors = load_file(*file.glob("*.safetensors"))
    tensors.pop("model.norm.weight")
    save_file(tensors, "part.safetensors")
    part = cli(*words, "--load-from-checkpoint", "part.safetensors", "--json").json
    assert part["setup"]["weights"] == f"loaded from part.safetensors; 1 of {len(tensors) + 1} tensors fresh, seed 0"
    assert any("missing from part.safetensors: model.norm.weight" in note for note in part["notes"])


@pytest.mark.regression("compare-dtype")
def test_compare_states_the_precision_of_each_model(cli: Cli) -> None:
    for name, dtype in (("one", "float32"), ("two", "bfloat16")):
        Path(f"{name}.yaml").write_text(f"extends: llama/4M\nhidden_size: 32\nnum_hidden_layers: 1\ndtype: {dtype}\n")
    words = ("model", "compare", "one", "two", "--sequence-length", "8", "--context-length", "8")
    out = cli(*words).out
    head = next(line for line in out.splitlines() if line.startswith("Memory"))
    assert "fp32" not in head
    assert any(line.split() == ["|", "precision", "|", "fp32", "|", "bf16", "|"] for line in out.splitlines()), out
    same = cli("model", "compare", "two", "two", "--sequence-length", "8", "--context-length", "8").out
    assert "Memory: 2 x 8, bf16, adamw" in same
