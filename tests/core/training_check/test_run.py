"""A training check, from settings to report."""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from forgather_core.commands.construct import construct
from forgather_core.definitions.registry import registry
from forgather_core.errors import ForgatherError, TrainingCheckError
from forgather_core.estimate import estimate, memory_of
from forgather_core.options.command_options import EstimateOptions, TestOptions
from forgather_core.settings.layers import find_configuration
from forgather_core.settings.resolve import resolve
from forgather_core.training_check import Step, check_test_options, run_training_check
from tests.support.settings import Resolve


def run_check(resolve: Resolve, project: Path, flags: dict[str, Any] | None = None, **options: Any) -> dict[str, Any]:
    made = construct(resolve(device="cpu", num_hidden_layers=1, **flags or {}), project=project)
    return run_training_check(made, TestOptions(**{"sequence_length": 32} | options))


def test_the_report(small: Resolve, tmp_path: Path) -> None:
    seen: list[Step] = []
    made = construct(small(device="cpu", attn_implementation="eager", gradient_checkpointing=True), project=tmp_path)
    options = TestOptions(steps=3, sequence_length=16, batch_size=3, packed=True, fuse_optim_with_backward=True)
    report = run_training_check(made, options, on_step=seen.append)
    assert report["steps"] == [step.as_dict() for step in seen]
    assert [step.tokens for step in seen] == [48] * 3
    setup = report["setup"]
    assert (setup["attention"], setup["gradient_checkpointing"]) == ("eager", True)
    assert (setup["batch"], setup["data"]) == ("3 x 16, packed greedy", "random tokens")
    assert (setup["loss"], setup["compiled"]) == ("chunked, without full logits", False)
    assert setup["optimizer"] == "SGD, lr 0.01, fused with backward"
    assert report["notes"] == []
    losses = [step.loss for step in seen]
    after = report["loss"]["first_batch_after"]
    assert after < losses[0]
    assert report["loss"] == {
        "first_batch_after": after,
        "first_batch_decrease": losses[0] - after,
        "first": losses[0],
        "last": losses[-1],
        "change": losses[-1] - losses[0],
        "uniform": pytest.approx(math.log(262)),
    }
    assert report["parameters"]["total"] == sum(p.numel() for p in made.model.parameters())


@pytest.mark.parametrize(
    "compiled", [False, pytest.param(True, marks=pytest.mark.exhaustive)], ids=["plain", "compiled"]
)
def test_reports_the_loss_on_the_first_batch_before_and_after(
    small: Resolve, tmp_path: Path, compiled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Dropout is that of the first step: if no weight changes, the loss is the same to the last bit."""
    torch._dynamo.reset()  # another test compiles the same code
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))  # without the C++ compiler
    report = run_check(small, tmp_path, {"attention_dropout": 0.3}, steps=3, lr=1e-30, compile=compiled)
    assert report["loss"]["first_batch_decrease"] == 0
    assert report["loss"]["change"] != 0, "the last step has another batch"
    (note,) = [note for note in report["notes"] if note.startswith("the loss on the first batch did not change")]
    assert "updates with --lr 1e-30 are rounded away in float32, or no gradient reaches the weights" in note


@pytest.mark.parametrize(("lr", "why"), [(100.0, "--lr 100 is too large for these batches"), (0.01, "")], ids=str)
def test_a_loss_that_does_not_fall_is_noted(lr: float, why: str, small: Resolve, tmp_path: Path) -> None:
    notes = [
        note for note in run_check(small, tmp_path, steps=2, lr=lr)["notes"] if "the loss on the first batch" in note
    ]
    assert bool(notes) == bool(why)
    assert all(why in note for note in notes)


def test_a_learning_rate_of_zero_is_not_noted(small: Resolve, tmp_path: Path) -> None:
    report = run_check(small, tmp_path, steps=1, lr=0.0)
    assert (report["loss"]["first_batch_decrease"], report["notes"]) == (0, [])


def test_a_last_step_that_breaks_the_model_fails(small: Resolve, tmp_path: Path) -> None:
    with pytest.raises(
        TrainingCheckError, match=r"after the last step the loss on the first batch is nan: .* try a smaller --lr"
    ):
        run_check(small, tmp_path, steps=1, lr=1e30)


def test_speed_and_memory_beside_the_estimate(small: Resolve, tmp_path: Path) -> None:
    report = run_check(small, tmp_path, steps=3)
    resolved = small(device="cpu", num_hidden_layers=1)
    estimated = estimate(resolved, EstimateOptions(optimizer="sgd", sequence_length=32))
    assert report["memory"]["estimated"] == estimated["training"]["peak"]
    assert report["memory"]["parts"] == estimated["training"]["parts"]
    assert report["memory"]["host_peak"] >= report["memory"]["host_before"] > 0
    assert report["memory"]["device_peak"] is None
    speed, flops = report["speed"], estimated["flops"]["training"]
    assert speed["flops_per_token"] == flops
    steady = sorted(step["tokens_per_second"] for step in report["steps"][1:])
    assert speed["tokens_per_second"] == pytest.approx(sum(steady) / 2)
    assert speed["flops_per_second"] == pytest.approx(flops * sum(steady) / 2)
    assert speed["mfu"] is None, "the peak of this processor is not known"


@pytest.mark.slow
def test_what_each_switch_saves_is_the_difference_of_two_estimates(
    small: Resolve,
    tmp_path: Path,
) -> None:
    size: dict[str, Any] = {"sequence_length": 32}
    flags = {"gradient_checkpointing": True, "vocab_size": 5000}
    report = run_check(small, tmp_path, flags, fuse_optim_with_backward=True, **size)

    def peak(checkpointing: bool = True, fused: bool = True, keep: bool = False) -> int:
        resolved = small(device="cpu", num_hidden_layers=1, **flags | {"gradient_checkpointing": checkpointing})
        options = EstimateOptions(optimizer="sgd", fuse_optim_with_backward=fused, full_logits=keep, **size)
        return memory_of(resolved, options)[0].training(2, 32).peak.bytes

    assert report["memory"]["saved"] == {
        "gradient_checkpointing": peak(checkpointing=False) - peak(),
        "fuse_optim_with_backward": peak(fused=False) - peak(),
        "chunked_loss": peak(keep=True) - peak(),
    }
    report = run_check(small, tmp_path, flags | {"gradient_checkpointing": False}, full_logits=True)
    assert report["memory"]["saved"] == {}


def test_on_meta_a_step_is_estimated(small: Resolve, tmp_path: Path) -> None:
    made = construct(small(num_hidden_layers=1), project=tmp_path)
    report = run_training_check(made, TestOptions(sequence_length=32))
    real = run_check(small, tmp_path)
    assert (report["steps"], report["loss"]) == ([], None)
    assert report["speed"]["flops_per_token"] == real["speed"]["flops_per_token"]
    assert report["parameters"] == real["parameters"]
    assert any("nothing is trained on meta" in note for note in report["notes"])


def test_a_broken_model_fails_on_meta_too(small: Resolve, tmp_path: Path) -> None:
    made = construct(small(), project=tmp_path)
    file = made.directory.path / "modeling_llama.py"
    file.write_text(
        file.read_text().replace("self.norm = RMSNorm(c.hidden_size", "self.norm = RMSNorm(c.hidden_size + 1")
    )
    made = construct(small(), project=tmp_path, keep=True)
    with pytest.raises(RuntimeError, match="broadcast"):
        run_training_check(made, TestOptions(sequence_length=32))


@pytest.mark.slow
def test_a_compiled_model_has_the_same_losses(small: Resolve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))  # without the C++ compiler
    torch._dynamo.reset()  # it treats equal source text as the same code, and other tests compile it too
    plain, compiled = (
        run_check(small, tmp_path, steps=3, packed=True, lr=0.3, dataset_project="stdlib", compile=c)["steps"]
        for c in (False, True)
    )
    assert [step["loss"] for step in compiled] == pytest.approx([step["loss"] for step in plain], rel=1e-4)


@pytest.mark.few(1)
@pytest.mark.parametrize("packing", [None, "greedy", "first-fit", "best-fit"])
def test_packing_fills_rows(small: Resolve, tmp_path: Path, packing: Any) -> None:
    options: dict[str, Any] = {"dataset_project": "stdlib", "dataset_config": "docstrings", "steps": 2}
    report = run_check(small, tmp_path, packed=packing is not None, packing=packing, sequence_length=256, **options)
    used = report["speed"]["batch_utilization"]
    assert used == 1 if packing == "greedy" else used > 0.95 if packing else 0.2 < used < 0.9
    assert report["setup"]["batch"] == "2 x 256" + (f", packed {packing}" if packing else "")


@pytest.mark.slow
def test_equal_seeds_give_equal_losses_and_options_have_an_effect(small: Resolve, tmp_path: Path) -> None:
    def losses(flags: dict[str, Any] | None = None, **options: Any) -> list[float]:
        return [step["loss"] for step in run_check(small, tmp_path, flags, steps=2, **options)["steps"]]

    base = losses()
    assert losses() == base
    for flags in ({"seed": 1}, {"dtype": "bfloat16"}):
        assert losses(flags) != base
    for change in ({"packed": True}, {"batch_size": 3}, {"sequence_length": 16}, {"dataset_project": "stdlib"}):
        assert losses(None, **change) != base
    faster = losses(lr=0.5)
    assert faster[0] == base[0]
    assert faster[1] != base[1]


def test_notes_a_sequence_that_is_too_long(small: Resolve, tmp_path: Path) -> None:
    report = run_check(small, tmp_path, {"save_checkpoint": True, "max_position_embeddings": 16})
    assert any(
        "--sequence-length 32 exceeds the model's max_position_embeddings (16)" in note for note in report["notes"]
    )


@pytest.mark.regression("P17")
def test_reports_what_happens_to_the_trained_weights(small: Resolve, tmp_path: Path) -> None:
    saved = run_check(small, tmp_path, {"save_checkpoint": True}, sequence_length=8)
    directory = saved["setup"]["directory"]
    assert saved["trained_weights"] == f"discarded; {directory} holds the weights from before the test"
    loaded = run_check(small, tmp_path, {"load_from_checkpoint": directory}, sequence_length=8)
    assert loaded["trained_weights"] == f"discarded; {directory} is unchanged"
    assert run_check(small, tmp_path, sequence_length=8)["trained_weights"] == "discarded; test does not save them"


def test_a_first_loss_far_from_uniform_is_explained(small: Resolve, tmp_path: Path) -> None:
    made = construct(small(device="cpu"), project=tmp_path)
    made.model.lm_head.weight.data *= 50
    report = run_training_check(made, TestOptions(sequence_length=32))
    assert any("should be near ln(vocabulary) = 5.57" in note for note in report["notes"])
    made.model.model.layers[0].mlp.up_proj.weight.data *= 1000
    report = run_training_check(made, TestOptions(sequence_length=32))
    assert any("model.layers.0.mlp.up_proj multiplies its input" in note for note in report["notes"])


@pytest.mark.parametrize(
    ("flags", "options", "message"),
    [
        ({"device": "cpu"}, {"packing": "first-fit"}, "--packing requires --packed"),
        (
            {"device": "cpu", "no_init_weights": True},
            {},
            "--no-init-weights requires --load-from-checkpoint",
        ),
        ({"device": "cpu", "attn_implementation": "flex_attention"}, {}, "no backward pass on the CPU"),
        ({"device": "cpu"}, {"dataset_config": "x"}, "--dataset-config requires --dataset-project"),
        (
            {"device": "cpu"},
            {"dataset_project": "nowhere"},
            "--dataset-project: 'nowhere' is neither a file, a directory nor a built-in project",
        ),
    ],
)
def test_refuses_options_that_cannot_train(
    small: Resolve,
    flags: dict[str, Any],
    options: dict[str, Any],
    message: str,
) -> None:
    with pytest.raises(ForgatherError, match=message):
        check_test_options(small(**flags), TestOptions(**options))


@pytest.mark.parametrize(
    ("flags", "options", "fields"),
    [
        ({}, {"packing": "first-fit"}, ("--packing", "requires --packed", None)),
        ({}, {"dataset_config": "x"}, ("--dataset-config", "requires --dataset-project", None)),
        (
            {"attn_implementation": "flex_attention"},
            {},
            ("--attn-implementation", "flex_attention has no backward pass on the CPU", "use sdpa or eager"),
        ),
        (
            {},
            {"dataset_project": "stdlib", "dataset_config": "docstring"},
            (
                "--dataset-config",
                "'stdlib' has no configuration 'docstring'",
                "Did you mean 'docstrings'?",
            ),
        ),
    ],
)
def test_refused_options_have_fields(
    small: Resolve, flags: dict[str, Any], options: dict[str, Any], fields: tuple[str, str, str | None]
) -> None:
    with pytest.raises(ForgatherError) as caught:
        check_test_options(small(device="cpu", **flags), TestOptions(**options))
    assert (caught.value.option, caught.value.problem, caught.value.hint) == fields


def test_a_mistake_in_a_dataset_configuration_keeps_its_place(small: Resolve, tmp_path: Path) -> None:
    (tmp_path / "default.yaml").write_text("source: text\nfile: x\n")
    with pytest.raises(ForgatherError) as caught:
        check_test_options(small(device="cpu"), TestOptions(dataset_project=str(tmp_path)))
    assert (caught.value.option, caught.value.file) == ("file", str(tmp_path / "default.yaml"))
    assert (caught.value.line, caught.value.hint) == (2, "Did you mean 'files'?")


@pytest.mark.few(0, slow=1)
@pytest.mark.parametrize("definition", ["single_head", "causal_lm", "llama", "deepone", "mistral", "qwen3"])
def test_every_default_preset_trains_on_real_text(tmp_path: Path, definition: str) -> None:
    resolved = resolve(find_configuration(definition, registry(), tmp_path), {"device": "cpu"})
    made = construct(resolved, project=tmp_path)
    options = TestOptions(steps=20, lr=0.1, sequence_length=256, packed=True, dataset_project="stdlib")
    losses = [step["loss"] for step in run_training_check(made, options)["steps"]]
    assert sum(losses[-5:]) / 5 < sum(losses[:5]) / 5 - 0.02
