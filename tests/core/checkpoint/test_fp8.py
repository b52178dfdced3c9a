"""FP8 weights are multiplied by their scales in any layout, and other quantized formats are refused."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import Tensor, nn

from forgather_core.checkpoint import convert_checkpoint, inspect_checkpoint, load_checkpoint, save_checkpoint
from forgather_core.errors import CheckpointError

FP8 = torch.float8_e4m3fn
ROWS, COLUMNS = 200, 150  # neither is a multiple of 128
FORMATS = pytest.mark.parametrize("form", ["safetensors", "bin"])
DEEPSEEK = {"quant_method": "fp8", "fmt": "e4m3", "weight_block_size": [128, 128]}
Model = Any


class Net(nn.Module):
    """A matrix, a stack of experts, and a norm that is not quantized."""

    def __init__(self, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.q_proj = nn.Linear(COLUMNS, ROWS, bias=False, dtype=dtype)
        self.experts = nn.ParameterDict({"up": nn.Parameter(torch.zeros(3, 20, 30, dtype=dtype))})
        self.norm = nn.LayerNorm(ROWS, dtype=dtype)


def expanded(scale: Tensor, shape: tuple[int, ...], blocks: tuple[int, ...]) -> Tensor:
    """Return the factor of every element, in float64."""
    factors = scale.double()
    for dim, (block, size) in enumerate(zip(blocks, shape, strict=True)):
        factors = factors.repeat_interleave(block, dim).narrow(dim, 0, size)
    return factors


def write(
    path: Path, tensors: dict[str, Tensor], form: str = "safetensors", config: dict[str, Any] | None = None
) -> Path:
    path.mkdir(exist_ok=True)
    if form == "safetensors":
        save_file(tensors, path / "model.safetensors")
    else:
        torch.save(tensors, path / "pytorch_model.bin")
    if config is not None:
        (path / "config.json").write_text(json.dumps({"dtype": "bfloat16", "quantization_config": config}))
    return path


def stored(
    scale: Tensor, *, name: str = "q_proj.weight_scale_inv", dtype: torch.dtype = FP8
) -> tuple[dict[str, Tensor], Tensor]:
    """Return a checkpoint of Net with an FP8 matrix, and the dequantized matrix."""
    torch.manual_seed(0)
    weight = (torch.randn(ROWS, COLUMNS) * 50).to(dtype)
    others = {"experts.up": torch.randn(3, 20, 30), "norm.weight": torch.ones(ROWS), "norm.bias": torch.zeros(ROWS)}
    return {"q_proj.weight": weight, name: scale, **others}, weight


def check(model: Net, weight: Tensor, factors: Tensor, *, rtol: float = 1e-6) -> None:
    torch.testing.assert_close(model.q_proj.weight.detach().double(), weight.double() * factors, rtol=rtol, atol=0)


@pytest.mark.regression("R7")
@FORMATS
@pytest.mark.parametrize(
    ("shape", "blocks"),
    [
        ((2, 2), (128, 128)), ((), (ROWS, COLUMNS)), ((1,), (ROWS, COLUMNS)), ((ROWS,), (1, COLUMNS)),
        ((ROWS, 1), (1, COLUMNS)),
    ],
    ids=["block", "scalar", "one", "row", "column of rows"],
)  # fmt: skip
@pytest.mark.parametrize("name", ["q_proj.weight_scale_inv", "q_proj.weight_scale"])
def test_weights_are_multiplied_by_their_scales(
    tmp_path: Path, form: str, shape: tuple[int, ...], blocks: tuple[int, int], name: str
) -> None:
    scale = torch.rand(shape) * 1e-3 + 1e-4
    tensors, weight = stored(scale, name=name)
    model = Net()
    report = load_checkpoint(write(tmp_path, tensors, form, DEEPSEEK), model)
    grid = scale.reshape(shape + (1,) * (2 - len(shape)) if scale.numel() > 1 else (1, 1))
    check(model, weight, expanded(grid, (ROWS, COLUMNS), blocks))
    assert report.complete
    assert report.notes == ("quantized (fp8): dequantized 1 tensor",)


@pytest.mark.parametrize("scale_dtype", [torch.float32, torch.bfloat16, torch.float8_e8m0fnu, torch.uint8])
@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2])
@pytest.mark.parametrize("target", [torch.float64, torch.float32, torch.bfloat16])
def test_dtypes_of_weights_scales_and_model(
    tmp_path: Path, dtype: torch.dtype, scale_dtype: torch.dtype, target: torch.dtype
) -> None:
    powers = torch.tensor([[2.0**-10, 2.0**-7], [2.0**-4, 2.0**-12]])
    scale = powers.log2().add(127).to(torch.uint8) if scale_dtype is torch.uint8 else powers.to(scale_dtype)
    tensors, weight = stored(scale, dtype=dtype)
    model = Net(target)
    load_checkpoint(write(tmp_path, tensors), model)
    assert torch.equal(  # a power of two is exact in every dtype
        model.q_proj.weight.double(), weight.double() * expanded(powers, (ROWS, COLUMNS), (128, 128))
    )


@given(
    st.lists(st.integers(1, 12), min_size=2, max_size=3).map(tuple),
    st.tuples(st.integers(1, 5), st.integers(1, 5)),
    st.integers(1, 40),
    st.integers(0, 2**30),
)
def test_blocks_of_any_size_in_any_pieces(
    shape: tuple[int, ...], blocks: tuple[int, int], piece: int, seed: int
) -> None:
    from forgather_core.checkpoint.formats import fp8
    from forgather_core.checkpoint.formats.stored import LiveTensor, memory_of

    generator = torch.Generator().manual_seed(seed)
    grid = (*shape[:-2], *(math.ceil(n / b) for n, b in zip(shape[-2:], blocks, strict=True)))
    weight = torch.randn(shape, generator=generator).to(FP8)
    scale = torch.rand(grid, generator=generator) + 0.1
    expected = weight.double() * expanded(scale, shape, (*[1] * (len(shape) - 2), *blocks))
    scaled = fp8.ScaledTensor("w", LiveTensor(weight), LiveTensor(scale), blocks=blocks)
    torch.testing.assert_close(scaled.tensor().double(), expected, rtol=1e-6, atol=0)
    pieces = torch.empty(shape).view(-1)
    for at in range(0, len(pieces), piece):
        part = pieces[at : at + piece]
        scaled.read(memory_of(part), 4 * at)
    assert torch.equal(pieces.view(shape), scaled.tensor())


@pytest.mark.parametrize(
    ("shape", "blocks"),
    [
        ((), (3, 20, 30)), ((3,), (1, 20, 30)), ((3, 1, 1), (1, 20, 30)), ((3, 20), (1, 1, 30)),
        ((3, 20, 1), (1, 1, 30)), ((3, 1, 30), (1, 20, 1)), ((3, 3, 4), (1, 8, 8)),
    ],
)  # fmt: skip
@pytest.mark.parametrize("name", ["experts.up_scale", "experts.up_scale_inv"])
def test_stacks_of_experts(tmp_path: Path, shape: tuple[int, ...], blocks: tuple[int, ...], name: str) -> None:
    tensors, _ = stored(torch.ones(()))
    scale = torch.rand(shape) + 0.1
    tensors |= {"experts.up": torch.randn(3, 20, 30).to(FP8), name: scale}
    model = Net()
    load_checkpoint(write(tmp_path, tensors), model)
    grid = scale.reshape(shape + (1,) * (3 - len(shape)))
    expected = tensors["experts.up"].double() * expanded(grid, (3, 20, 30), blocks)
    torch.testing.assert_close(model.experts["up"].detach().double(), expected, rtol=1e-6, atol=0)


def test_the_scale_may_be_in_another_shard(tmp_path: Path) -> None:
    scale = torch.rand(2, 2) + 0.1
    tensors, weight = stored(scale)
    names = {name: f"model-0000{n % 2 + 1}-of-00002.safetensors" for n, name in enumerate(tensors)}
    for file in set(names.values()):
        save_file({name: tensor for name, tensor in tensors.items() if names[name] == file}, tmp_path / file)
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": names}))
    assert names["q_proj.weight"] != names["q_proj.weight_scale_inv"]
    model = Net()
    load_checkpoint(tmp_path, model)
    check(model, weight, expanded(scale, (ROWS, COLUMNS), (128, 128)))


@FORMATS
@pytest.mark.parametrize("meta", [False, True])
def test_assign_dequantizes_too(tmp_path: Path, form: str, meta: bool) -> None:
    scale = torch.rand(2, 2) + 0.1
    tensors, weight = stored(scale)
    if meta:
        with torch.device("meta"):
            model = Net(torch.bfloat16)
    else:
        model = Net(torch.bfloat16)
    report = load_checkpoint(write(tmp_path, tensors, form), model, assign=True)
    check(model, weight, expanded(scale, (ROWS, COLUMNS), (128, 128)), rtol=2**-8)
    assert model.q_proj.weight.dtype is torch.bfloat16
    assert report.non_finite is None


def test_activation_scales_are_not_unexpected(tmp_path: Path) -> None:
    tensors, _ = stored(torch.ones(()))
    extra = {"q_proj.input_scale": torch.ones(()), "q_proj.activation_scale": torch.ones(1), "k_scale": torch.ones(())}
    report = load_checkpoint(write(tmp_path, tensors | extra), Net())
    assert (report.unexpected, set(report.unused)) == ((), set(extra))
    assert any("activation scales not used" in note for note in report.notes)


@pytest.mark.parametrize("value", [torch.nan, torch.inf, 0.0, -1.0])
@pytest.mark.regression("R7")
def test_invalid_scale_factors_are_refused(tmp_path: Path, value: float) -> None:
    scale = torch.ones(2, 2)
    scale[1, 0] = value
    with pytest.raises(
        CheckpointError, match=r"the scale of 'q_proj.weight' contains .*; expected finite numbers above 0"
    ):
        load_checkpoint(write(tmp_path, stored(scale)[0]), Net())


@pytest.mark.parametrize("shape", [(2,), (3, 2), (2, 3), (COLUMNS,), (1, COLUMNS), (2, 2, 1), (0,), (ROWS // 2, 1)])
def test_a_scale_of_a_wrong_shape_is_refused(tmp_path: Path, shape: tuple[int, ...]) -> None:
    with pytest.raises(CheckpointError, match=r"the scale of 'q_proj.weight' has shape .* does not match"):
        load_checkpoint(write(tmp_path, stored(torch.ones(shape))[0], config=DEEPSEEK), Net())


def test_missing_scale_is_refused(tmp_path: Path) -> None:
    tensors, _ = stored(torch.ones(()))
    tensors["experts.up"] = tensors["experts.up"].to(FP8)
    with pytest.raises(CheckpointError, match=r"has no scale .* for experts\.up"):
        load_checkpoint(write(tmp_path, tensors), Net())
    del tensors["q_proj.weight_scale_inv"]
    with pytest.raises(CheckpointError, match=r"has no scale .* for experts\.up, q_proj\.weight"):
        load_checkpoint(write(tmp_path, tensors, config=DEEPSEEK), Net())


def test_two_scales_are_refused(tmp_path: Path) -> None:
    tensors, _ = stored(torch.ones(()))
    with pytest.raises(CheckpointError, match="has two scales"):
        load_checkpoint(write(tmp_path, tensors | {"q_proj.weight_scale": torch.ones(())}), Net())


def test_plain_cast_is_converted_without_scaling_and_reported(tmp_path: Path) -> None:
    tensors, weight = stored(torch.ones(()))
    del tensors["q_proj.weight_scale_inv"]
    model = Net()
    with pytest.warns(
        UserWarning, match="1 tensor of .* in float8 without scales, converted without scaling: q_proj.weight"
    ):
        load_checkpoint(write(tmp_path, tensors), model)
    check(model, weight, torch.ones(1))


@FORMATS
def test_a_model_of_float8_round_trips(tmp_path: Path, form: str) -> None:
    model, other = Net().to(FP8), Net().to(FP8)
    save_checkpoint(tmp_path, model, safetensors=form == "safetensors")
    report = load_checkpoint(tmp_path, other)
    assert report.notes == ()
    assert torch.equal(model.q_proj.weight.view(torch.uint8), other.q_proj.weight.view(torch.uint8))


def test_model_with_scales_gets_weights_and_scales_unchanged(tmp_path: Path) -> None:
    scale = torch.rand(2, 2) + 0.1
    tensors, weight = stored(scale)
    model = Net()
    model.q_proj.weight = nn.Parameter(torch.zeros(ROWS, COLUMNS, dtype=FP8), requires_grad=False)
    model.q_proj.register_buffer("weight_scale_inv", torch.zeros(2, 2))
    assert load_checkpoint(write(tmp_path, tensors, config=DEEPSEEK), model).complete
    assert torch.equal(model.q_proj.weight.float(), weight.float())
    assert torch.equal(model.q_proj.get_buffer("weight_scale_inv"), scale)


# --- inspect and convert ---------------------------------------------------------------------------------------------


@FORMATS
def test_convert_dequantizes_with_a_dtype(tmp_path: Path, form: str) -> None:
    scale = torch.rand(2, 2) * 1e-2 + 1e-3
    tensors, weight = stored(scale)
    source = write(tmp_path / "source", tensors | {"q_proj.input_scale": torch.ones(())}, form, DEEPSEEK)
    assert inspect_checkpoint(source)["quantized"] == "fp8"
    made = convert_checkpoint(source, tmp_path / "plain", dtype="bf16", format="safetensors")
    assert "quantized (fp8): dequantized 1 tensor" in made.notes
    assert inspect_checkpoint(tmp_path / "plain")["quantized"] is None
    config = json.loads((tmp_path / "plain" / "config.json").read_text())
    assert config == {"dtype": "bfloat16"}
    model = Net()
    assert load_checkpoint(tmp_path / "plain", model).complete
    check(model, weight, expanded(scale, (ROWS, COLUMNS), (128, 128)), rtol=2**-8)


def test_convert_without_a_dtype_keeps_weights_scales_and_configuration(tmp_path: Path) -> None:
    tensors, _ = stored(torch.rand(2, 2) + 0.1)
    source = write(tmp_path / "source", tensors | {"norm.weight": torch.ones(ROWS).bfloat16()}, config=DEEPSEEK)
    before = json.loads((source / "config.json").read_text())
    for target in (tmp_path / "bin", source):
        convert_checkpoint(source, target, format="bin")
        assert json.loads((target / "config.json").read_text())["quantization_config"] == before["quantization_config"]
        assert inspect_checkpoint(target)["quantized"] == "fp8"
        found, expected = Net(), Net()
        load_checkpoint(target, found)
        load_checkpoint(write(tmp_path / "again", tensors), expected)
        assert torch.equal(found.q_proj.weight, expected.q_proj.weight)


def test_convert_refuses_to_lose_scales(tmp_path: Path) -> None:
    source = write(tmp_path / "source", stored(torch.ones(2, 2))[0], config=DEEPSEEK)
    with pytest.raises(CheckpointError, match=r"--dtype: .* is quantized .* choose a new target directory"):
        convert_checkpoint(source, source, dtype="bf16")
    with pytest.raises(CheckpointError, match=r"--keep: .* q_proj\.weight would be kept without a scale"):
        convert_checkpoint(source, tmp_path / "other", dtype="bf16", keep="q_proj")
    assert not (tmp_path / "other").exists()


# --- other formats ---------------------------------------------------------------------------------------------------

BYTES = torch.ones(8, 4, dtype=torch.uint8)
WORDS = torch.ones(8, 4, dtype=torch.int32)
REAL = torch.ones(8)
OTHERS: dict[str, dict[str, Tensor]] = {
    "GPTQ": {"q_proj.qweight": WORDS, "q_proj.qzeros": WORDS, "q_proj.scales": REAL, "q_proj.g_idx": WORDS},
    "AWQ": {"q_proj.qweight": WORDS, "q_proj.qzeros": WORDS, "q_proj.scales": REAL},
    "bitsandbytes": {"q_proj.weight": BYTES, "q_proj.weight.absmax": REAL},
    "bitsandbytes (8)": {"q_proj.weight": BYTES.to(torch.int8), "q_proj.SCB": REAL},
    "compressed-tensors": {"q_proj.weight_packed": WORDS, "q_proj.weight_scale": REAL, "q_proj.weight_shape": WORDS},
    "NVFP4": {"q_proj.weight": BYTES, "q_proj.weight_scale": REAL.to(FP8), "q_proj.weight_scale_2": REAL},
    "HQQ": {"q_proj.W_q": BYTES, "q_proj.scale": REAL, "q_proj.zero": REAL},
    "quanto": {"q_proj.weight._data": BYTES, "q_proj.weight._scale": REAL},
    "torchao": {"q_proj._weight_qdata": BYTES, "q_proj._weight_scale": REAL},
    "MXFP4": {"experts.up_blocks": BYTES, "experts.up_scales": BYTES},
    "EETQ": {"q_proj.weight": BYTES.to(torch.int8), "q_proj.weight_scales": REAL},
    "AQLM": {"q_proj.codes": BYTES, "q_proj.codebooks": REAL},
    "EXL2": {"q_proj.q_weight": WORDS, "q_proj.q_scale": WORDS},
    "8-bit": {"q_proj.weight": BYTES.to(torch.int8), "q_proj.weight_scale": REAL},
}


@pytest.mark.regression("R7")
@pytest.mark.parametrize("method", OTHERS)
def test_other_formats_are_refused_by_name(tmp_path: Path, method: str) -> None:
    tensors = stored(torch.ones(()))[0] | OTHERS[method]
    if "q_proj.weight" not in OTHERS[method]:
        del tensors["q_proj.weight"]
    del tensors["q_proj.weight_scale_inv"]
    source = write(tmp_path / "source", {name: tensor.clone() for name, tensor in tensors.items()})
    name = method.split(" ", maxsplit=1)[0]
    with pytest.raises(CheckpointError, match=rf"is quantized \({name}"):
        load_checkpoint(source, Net())
    with pytest.raises(CheckpointError, match=rf"is quantized \({name}"):
        convert_checkpoint(source, tmp_path / "other", dtype="bf16")
    assert inspect_checkpoint(source)["quantized"].startswith(name)


@pytest.mark.parametrize(
    "config", [{"quant_method": "gptq", "bits": 4}, {"quant_method": "new-one"}, {"load_in_4bit": True}]
)
def test_format_is_recognized_by_the_configuration_alone(tmp_path: Path, config: dict[str, Any]) -> None:
    save_checkpoint(tmp_path, Net())
    (tmp_path / "config.json").write_text(json.dumps({"quantization_config": config}))
    with pytest.raises(CheckpointError, match=rf"is quantized \({config.get('quant_method', 'bitsandbytes')}\)"):
        load_checkpoint(tmp_path, Net())


@pytest.mark.parametrize(
    "text", ["{", "[]", '{"quantization_config": 3}', '{"quantization_config": {"quant_method": []}}']
)
def test_configuration_without_quantization_is_accepted(tmp_path: Path, text: str) -> None:
    save_checkpoint(tmp_path, Net())
    (tmp_path / "config.json").write_text(text)
    assert load_checkpoint(tmp_path, Net()).complete


def test_model_tensors_with_such_names_are_loaded(tmp_path: Path) -> None:
    class Codes(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("codes", torch.arange(4))
            self.register_buffer("codebooks", torch.rand(4))

    model, other = nn.Sequential(Codes()), nn.Sequential(Codes())
    save_checkpoint(tmp_path, model)
    assert load_checkpoint(tmp_path, other).complete
    assert torch.equal(model.state_dict()["0.codebooks"], other.state_dict()["0.codebooks"])
