"""A model is built from its directory: on a device, in a dtype, with weights initialized once or left unset."""

from __future__ import annotations

import fcntl
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from forgather_core.checkpoint import save_checkpoint
from forgather_core.commands.construct import construct
from forgather_core.errors import BuildError, CheckpointError, ForgatherError
from forgather_core.filesystem.atomic import replace_directory
from forgather_core.model.build import build, is_checkpointing, parse_device
from forgather_core.model.dtypes import default_dtype, parse_dtype
from forgather_core.model.no_init import no_init_weights
from forgather_core.options.shared import BuildOptions
from forgather_core.report.construction import construction_report, parameter_table
from tests.support.settings import Resolve

ANGLES = 10000.0 ** -(torch.arange(0, 8, 2) / 8)


@pytest.fixture
def directory(small: Resolve, tmp_path: Path) -> Path:
    """Return the directory of a small tied llama."""
    return construct(small(tie_word_embeddings=True), project=tmp_path).directory.path


def options(**more: Any) -> BuildOptions:
    return BuildOptions(**{"device": "cpu"} | more)


def test_on_meta_nothing_is_allocated(directory: Path) -> None:
    model = build(directory, BuildOptions())
    assert all(parameter.is_meta for parameter in model.parameters())
    assert parameter_table(model).total == parameter_table(build(directory, options())).total


@pytest.mark.few(2)
@pytest.mark.parametrize("dtype", ["float32", "bf16", "torch.float16", "fp64"])
def test_weights_have_the_dtype_and_rope_is_float32(directory: Path, dtype: str) -> None:
    model = build(directory, options(dtype=dtype))
    assert {p.dtype for p in model.parameters()} == {parse_dtype(dtype)}
    assert model.model.rotary_emb.inv_freq.dtype == torch.float32
    assert torch.get_default_dtype() == torch.float32


def test_one_seed_gives_one_model_whatever_was_drawn_before(directory: Path) -> None:
    def weights(seed: int) -> torch.Tensor:
        torch.rand(int(torch.randint(1, 9, ())))
        return build(directory, options(seed=seed)).model.layers[1].mlp.up_proj.weight

    assert torch.equal(weights(3), weights(3))
    assert not torch.equal(weights(3), weights(4))


def test_every_weight_is_drawn_once(directory: Path) -> None:
    filled: list[int] = []

    class Counting(TorchFunctionMode):
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if func is torch.Tensor.normal_:
                filled.append(args[0].numel())
            return func(*args, **kwargs or {})

    with Counting():
        model = build(directory, options())
    matrices = [p.numel() for p in model.parameters() if p.dim() == 2]
    assert sorted(n for n in filled if n >= 32 * 32) == sorted(matrices)  # smaller ones redraw outliers


def test_no_init_weights_leaves_only_checkpoint_tensors_unset(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("a weight was drawn")

    for name in ("normal_", "uniform_"):
        monkeypatch.setattr(torch.Tensor, name, refuse)
    model = build(directory, options(no_init_weights=True))
    torch.testing.assert_close(model.model.rotary_emb.inv_freq, ANGLES)
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert all(torch.equal(m.weight, torch.ones(32)) for n, m in model.named_modules() if n.endswith("norm"))


def test_attention_and_checkpointing_options_apply(directory: Path) -> None:
    model = build(directory, options(attn_implementation="eager", gradient_checkpointing=True))
    assert model.config._attn_implementation == "eager"
    assert is_checkpointing(model)
    assert not is_checkpointing(build(directory, options()))


@pytest.mark.parametrize("name", ["gpu", "cuda:x", "cpu:a", "cuda:99", ""])
def test_invalid_devices(name: str) -> None:
    with pytest.raises(BuildError, match="--device"):
        parse_device(name)


@pytest.mark.parametrize("name", ["int8", "float", "bfloat17", ""])
def test_invalid_dtypes(name: str) -> None:
    if name == "float":
        assert parse_dtype(name) == torch.float32
        return
    with pytest.raises(BuildError, match="--dtype"):
        parse_dtype(name)


def test_the_default_dtype_comes_back_after_a_failure() -> None:
    with pytest.raises(KeyError), default_dtype(torch.bfloat16):
        assert torch.empty(1).dtype == torch.bfloat16
        raise KeyError
    assert torch.get_default_dtype() == torch.float32


class Everything(nn.Module):
    """Modules of every kind that torch initializes."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.norm, self.embed = nn.Linear(4, 4), nn.LayerNorm(4), nn.Embedding(9, 4, padding_idx=2)
        self.attention, self.lstm, self.conv = nn.MultiheadAttention(4, 2), nn.LSTM(4, 4), nn.Conv1d(4, 4, 2)
        self.register_buffer("angles", torch.arange(4.0))


def test_no_torch_module_draws_within_no_init_weights() -> None:
    state = torch.get_rng_state()
    before = nn.init.normal_
    with no_init_weights():
        with no_init_weights():
            Everything()
        module = Everything()
    assert torch.equal(torch.get_rng_state(), state)
    assert nn.init.normal_ is before
    assert torch.equal(module.norm.weight, torch.ones(4))
    assert torch.equal(module.angles, torch.arange(4.0))
    with pytest.raises(KeyError), no_init_weights():
        raise KeyError
    Everything()
    assert not torch.equal(torch.get_rng_state(), state)


# --- construct -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ({"save_checkpoint": True}, "--save-checkpoint requires a real device"),
        ({"load_from_checkpoint": "x"}, "--load-from-checkpoint requires a real device"),
        ({"device": "cpu", "save_checkpoint": True, "no_init_weights": True}, "leaves uninitialized"),
        ({"device": "cpu", "load_from_checkpoint": "nowhere"}, "nowhere does not exist"),
        ({"device": "cpu", "max_shard_size": "big"}, "must be a positive size"),
        ({"device": "cpux"}, "--device"),
        ({"dtype": "int8"}, "--dtype"),
        ({"attn_implementation": "flash_attention_2"}, "flash"),
    ],
)
def test_impossible_builds_are_refused_before_any_write(
    small: Resolve,
    tmp_path: Path,
    flags: dict[str, Any],
    said: str,
) -> None:
    with pytest.raises(ForgatherError, match=said):
        construct(small(**flags), project=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_old_weights_move_into_a_rebuilt_directory_of_the_same_name(small: Resolve, tmp_path: Path) -> None:
    first = construct(small(device="cpu", save_checkpoint=True, seed=5), project=tmp_path)
    where = str(first.directory.path)
    flags = {"device": "cpu", "no_init_weights": True, "load_from_checkpoint": where, "save_checkpoint": True}
    second = construct(small(**flags, safetensors=True, sliding_window=8), project=tmp_path, refresh=True)
    assert second.directory.state == "rebuilt"
    assert second.loaded is not None
    assert not second.loaded.missing
    for name, tensor in first.model.state_dict().items():
        assert torch.equal(tensor, second.model.state_dict()[name])


def test_incomplete_checkpoint_leaves_no_uninitialized_memory(
    small: Resolve,
    tmp_path: Path,
) -> None:
    first = construct(small(device="cpu", save_checkpoint=True, num_hidden_layers=1), project=tmp_path / "one")
    flags: dict[str, Any] = {"device": "cpu", "load_from_checkpoint": str(first.directory.path)}
    with pytest.raises(BuildError, match=r"does not contain model\.layers\.1.*remove --no-init-weights"):
        construct(small(**flags, no_init_weights=True), project=tmp_path / "two")
    found = construct(small(**flags), project=tmp_path / "two")
    assert found.loaded is not None
    assert {item.name.split(".")[2] for item in found.loaded.missing} == {"1"}


def test_directory_is_locked_while_it_is_built_and_saved(
    small: Resolve,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    held = []

    def build_and_look(directory: Path, options: BuildOptions, **more: Any) -> nn.Module:
        with (tmp_path / "output_models" / ".llama_4m.lock").open() as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                held.append(directory)
        return build(directory, options, **more)

    monkeypatch.setattr("forgather_core.model.build.build", build_and_look)
    for refresh in (False, False, True):
        construct(small(device="cpu", save_checkpoint=True), project=tmp_path, refresh=refresh)
    assert len(held) == 3


def test_a_model_that_cannot_be_built_leaves_the_old_directory(
    small: Resolve,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made = construct(small(device="cpu", save_checkpoint=True), project=tmp_path)
    before = {path.name: path.read_bytes() for path in made.directory.path.iterdir()}

    def fail(*_: object, **__: object) -> None:
        raise BuildError("there is not enough memory")

    monkeypatch.setattr("forgather_core.model.build.build", fail)
    with pytest.raises(BuildError, match="not enough memory"):
        construct(small(device="cpu", hidden_size=64), project=tmp_path, refresh=True)
    assert {path.name: path.read_bytes() for path in made.directory.path.iterdir()} == before
    assert [path.name for path in made.directory.path.parent.iterdir()] == ["llama_4m"]


def test_a_rebuild_with_weights_is_one_step(
    small: Resolve,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The new directory already contains its weights, and none of the old ones."""
    first = construct(small(device="cpu", save_checkpoint=True), project=tmp_path)
    seen: list[set[str]] = []

    def look(staging: Path, target: Path, **more: Any) -> None:
        seen.append({path.name for path in staging.iterdir()})
        replace_directory(staging, target, **more)

    monkeypatch.setattr("forgather_core.export.directory.replace_directory", look)
    flags: dict[str, Any] = {"device": "cpu", "save_checkpoint": True, "safetensors": True, "hidden_size": 64}
    second = construct(small(**flags), project=tmp_path, refresh=True)
    assert first.saved is not None
    assert second.saved is not None
    assert set(second.saved.files) < seen[0]
    assert not set(first.saved.files) & seen[0]
    assert {path.name for path in second.directory.path.iterdir()} == seen[0]


def test_a_checkpoint_of_another_size_is_refused(small: Resolve, tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "other", nn.Sequential(nn.Linear(2, 2)))
    flags = {"device": "cpu", "load_from_checkpoint": str(tmp_path / "other")}
    with pytest.raises(CheckpointError, match="load a checkpoint of this model"):
        construct(small(**flags), project=tmp_path)


def test_the_report_counts_shared_parameters_once(small: Resolve, tmp_path: Path) -> None:
    made = construct(small(tie_word_embeddings=True), project=tmp_path)
    report = construction_report(made)
    rows = {row["module"]: row for row in report["parameters"]["rows"]}
    total = sum(p.numel() for p in made.model.parameters())
    assert report["parameters"]["total"] == total == sum(row["total"] for row in rows.values())
    assert rows["lm_head"]["tied_to"] == "model.embed_tokens.weight"
    assert rows["lm_head"]["total"] == 0
    assert rows["model.layers.*.self_attn.q_proj"]["modules"] == 2
    assert report["tokenizer"]["vocab_size"] == 262
    assert report["options"]["hidden_size"] == {"value": 32, "origin": "--hidden-size"}


@pytest.mark.slow
def test_construct_imports_nothing_of_data_or_training(tmp_path: Path) -> None:
    program = f"""
import sys
from pathlib import Path
from forgather_core.settings.layers import find_configuration
from forgather_core.commands.construct import construct
from forgather_core.definitions.registry import registry
from forgather_core.report.construction import construction_report
from forgather_core.settings.resolve import resolve

settings = resolve(find_configuration("llama/4M", registry(), Path()), {{}})
construction_report(construct(settings, project=Path({str(tmp_path)!r})))
print(*sorted({{"datasets", "pandas", "sklearn", "scipy", "pyarrow", "omegaconf"}} & sys.modules.keys()))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_model_that_cannot_run_is_still_constructed(small: Resolve, tmp_path: Path) -> None:
    resolved = small(device="cpu")
    place = construct(resolved, project=tmp_path).directory.path
    part = place / "feed_forward.py"
    part.write_text(part.read_text().replace("self.down_proj(", "self.no_such_layer("))
    report = construction_report(construct(resolved, project=tmp_path, keep=True))
    assert report["memory"] is None
    assert any("the step fails: AttributeError" in note and "no_such_layer" in note for note in report["notes"])


def test_weight_without_a_rule_is_reported_on_every_device(directory: Path) -> None:
    file = directory / "llama_weights.py"
    text = file.read_text()
    try:
        file.write_text(text.replace('yield r"norm"', 'yield r"nrom"'))
        for device in ("meta", "cpu"):
            with pytest.raises(
                BuildError, match=r"no row of the initialization table .* 'model\.layers\.0\.input_layernorm\.weight'"
            ):
                build(directory, BuildOptions(device=device))
    finally:
        file.write_text(text)


@pytest.mark.regression("R11")
def test_a_rule_that_does_not_fit_a_weight_is_reported_on_every_device(directory: Path) -> None:
    file = directory / "llama_weights.py"
    text = file.read_text()
    try:
        right = 'yield r"norm", ones()'
        assert right in text
        file.write_text(
            text.replace("ones, truncated_normal", "truncated_normal, values").replace(
                right, 'yield r"norm", values([1, 2])'
            )
        )
        for device in ("meta", "cpu"):
            with pytest.raises(
                BuildError, match=r"rule of 'model\.layers\.0\.input_layernorm\.weight' .* 2 values for"
            ):
                build(directory, BuildOptions(device=device))
    finally:
        file.write_text(text)
