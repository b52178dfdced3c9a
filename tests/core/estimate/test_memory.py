"""Estimates of memory and FLOPs equal independent counts where such a count exists."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from forgather_core.commands.construct import construct
from forgather_core.estimate import Memory
from forgather_core.estimate.timeline import ACTIVATIONS, BUFFERS, CACHE, GRADIENTS, LOGITS, OPTIMIZER, WEIGHTS
from forgather_core.model.build import build

from .conftest import DEFINITIONS, Resolve

SMALL = {"num_hidden_layers": 2}


@pytest.mark.few(2, slow=3)
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("definition", DEFINITIONS)
def test_weights_and_buffers_are_those_of_the_real_model(
    resolved: Resolve, tmp_path: Path, definition: str, precision: str
) -> None:
    dtype = {"fp32": "float32", "bf16": "bfloat16"}[precision]
    settings = resolved(definition, **SMALL, device="cpu", dtype=dtype, output_dir=tmp_path / "model")
    made = construct(settings)
    model: Any = build(made.directory.path, settings.build)
    held = Memory(settings, precision=precision).training(2, 8).held
    assert held[WEIGHTS] == sum(p.numel() * p.element_size() for p in model.parameters())
    assert held.get(BUFFERS, 0) == sum(b.numel() * b.element_size() for b in model.buffers())
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters)
    model(input_ids=torch.ones(1, 4, dtype=torch.int64), labels=torch.ones(1, 4, dtype=torch.int64)).loss.backward()
    optimizer.step()
    state = [v for s in optimizer.state.values() for v in s.values() if isinstance(v, torch.Tensor)]
    assert held[OPTIMIZER] == sum(v.numel() * v.element_size() for v in state)


def cache_of(model: Any, rows: int, length: int, kind: str) -> int:
    """Return the bytes of the storages of a real generation cache."""
    from transformers import DynamicCache, StaticCache

    cache = DynamicCache(config=model.config)
    if kind == "static":
        cache = StaticCache(config=model.config, max_cache_len=length)
    model.generate(
        torch.ones(rows, length - 1, dtype=torch.int64), past_key_values=cache, max_new_tokens=2, do_sample=False,
        eos_token_id=None, attention_mask=torch.ones(rows, length - 1, dtype=torch.int64),
    )  # fmt: skip
    tensors = [v for layer in cache.layers for v in vars(layer).values() if isinstance(v, torch.Tensor)]
    return sum({x.untyped_storage()._cdata: x.untyped_storage().nbytes() for x in tensors}.values())


@pytest.mark.few(3, slow=5)
@pytest.mark.parametrize("length", [7, 40])
@pytest.mark.parametrize("kind", ["dynamic", "static"])
@pytest.mark.parametrize("definition", DEFINITIONS)
def test_the_cache_is_the_real_one_to_the_byte(
    resolved: Resolve, tmp_path: Path, definition: str, kind: str, length: int
) -> None:
    more = {"sliding_window": 16} if definition in ("llama", "deepone", "mistral", "qwen3") else {}
    settings = resolved(definition, **SMALL, **more, device="cpu", output_dir=tmp_path / "model")
    model = construct(settings).model.eval()
    estimated = Memory(settings).generation(3, length, kind).after("decode")[CACHE]
    assert estimated == cache_of(model, 3, length, kind)


def test_the_cache_of_grouped_heads_by_hand(resolved: Resolve) -> None:
    memory = Memory(
        resolved("llama", num_attention_heads=4, num_key_value_heads=2, num_hidden_layers=3), precision="bf16"
    )
    per_token = 2 * 3 * 2 * 64 * 2  # keys and values, layers, heads, head_dim, bytes
    assert memory.cache_per_token() == per_token
    assert memory.generation(5, 33).after("decode")[CACHE] == 5 * 33 * per_token


@pytest.mark.few(3, slow=3)
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("definition", DEFINITIONS)
def test_flops_equal_the_formula(resolved: Resolve, definition: str, attention: str) -> None:
    rows, length = 2, 24
    memory = Memory(resolved(definition, **SMALL), attention=attention)
    forward, model = memory.forward(rows, length), memory.model()
    config = model.config
    matrices = sum(p.numel() for n, p in model.named_parameters() if p.dim() == 2 and "embed_tokens" not in n)
    if config.tie_word_embeddings:
        matrices += model.get_output_embeddings().weight.numel()
    tokens, layers = rows * length, config.num_hidden_layers
    assert forward.total_flops("forward", "weights") == 2 * matrices * tokens
    heads = getattr(config, "num_attention_heads", 1)
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // heads
    assert forward.total_flops("forward", "attention") == layers * 4 * rows * heads * length**2 * head_dim
    for full_logits in (False, True):  # no product is computed twice, wherever the loss computes its gradients
        step = Memory(resolved(definition, **SMALL), attention=attention, full_logits=full_logits).training(
            rows, length
        )
        spent = sum(step.total_flops(phase, "weights") for phase in ("forward", "backward"))
        assert spent == 3 * forward.total_flops("forward", "weights")


CHANGES: tuple[dict[str, Any], ...] = (
    {}, {"full_logits": True}, {"checkpointing": True}, {"fused": True}, {"precision": "mixed"}, {"attention": "eager"},
    {"precision": "bf16"},
)  # fmt: skip
# Every pair of definition and change is slow: a fast run takes one.
PAIRS = [pytest.param(name, change, id=f"{name}-{change}") for name in DEFINITIONS for change in CHANGES]


@pytest.mark.few(1, slow=7)
@pytest.mark.parametrize(("definition", "change"), PAIRS)
def test_extrapolated_peaks_equal_direct_traces(resolved: Resolve, definition: str, change: dict[str, Any]) -> None:
    memory = Memory(resolved(definition, **SMALL), device_type="cpu", **change)
    batches = memory.batches(64)
    assert batches.is_linear
    for more in (0, 1, 37):
        rows = batches.least_rows + more
        assert batches.peak(rows) == memory.training(rows, 64).peak.bytes


@pytest.mark.parametrize(("attention", "copies"), [("eager", 0), ("sdpa", 1)])
def test_packed_rows_have_a_mask(resolved: Resolve, attention: str, copies: int) -> None:
    settings = resolved("llama/4M", num_hidden_layers=2)
    plain, packed = (
        Memory(settings, device_type="cpu", optimizer="sgd", attention=attention, packed=packed).training(2, 512)
        for packed in (False, True)
    )
    assert packed.flops[("forward", "weights")] == plain.flops[("forward", "weights")]
    assert packed.peak.bytes >= plain.peak.bytes + copies * 2 * 512**2  # one boolean per pair of tokens


def test_a_chunked_loss_saves_the_logits(resolved: Resolve) -> None:
    settings = resolved("llama/4M", vocab_size=50000, num_hidden_layers=2)
    full, chunked = (
        Memory(settings, device_type="cpu", optimizer="sgd", full_logits=full_logits).training(8, 512)
        for full_logits in (True, False)
    )
    logits = 8 * 512 * 50000 * 4
    assert full.peak_of(LOGITS) == pytest.approx(3 * logits, rel=0.01)
    assert chunked.peak_of(LOGITS) < logits / 6 + settings.options.hidden_size * 50000 * 4
    assert chunked.peak.bytes < 0.27 * full.peak.bytes


@pytest.mark.slow
def test_each_memory_option_reduces_the_peak(resolved: Resolve) -> None:
    settings = resolved("llama/4M", num_hidden_layers=3)

    def peak(**how: Any) -> int:
        return Memory(settings, device_type="cpu", **how).training(4, 128).peak.bytes

    plain = peak()
    assert peak(checkpointing=True) < 0.8 * plain
    assert peak(optimizer="sgd", checkpointing=True, fused=True) < peak(optimizer="sgd", checkpointing=True)
    assert peak(precision="bf16") < 0.7 * plain
    assert peak(attention="eager") > plain
    states = {name: Memory(settings, optimizer=name).training(1, 16).held.get(OPTIMIZER, 0) for name in OPTIMIZERS}
    weights = Memory(settings).training(1, 16).held[WEIGHTS]
    assert states["sgd"] == states["none"] == 0
    assert states["adamw"] == pytest.approx(2 * weights, rel=1e-3)
    assert states["adamw_fused"] == states["adamw"]
    assert states["adam8bit"] == pytest.approx(0.5 * weights, rel=0.05)


OPTIMIZERS = ("sgd", "adamw", "adamw_fused", "adam8bit", "none")


def test_a_step_is_split_by_kind(resolved: Resolve) -> None:
    settings = resolved("llama/4M")
    rows, length, vocab = 2, 32, 2000
    step = Memory(settings, device_type="cpu").training(rows, length)
    weights = step.held[WEIGHTS]
    assert step.peak_of(GRADIENTS) == weights
    # Logits (in float32 without a copy), log-probabilities, and the gradients of both.
    assert 2 * rows * length * vocab * 4 <= step.peak_of(LOGITS) <= 5 * rows * length * vocab * 4
    assert step.after("backward")[ACTIVATIONS] < 1000  # the norms of the gradients
    assert step.after("update")[GRADIENTS] == 0
    assert list(step.phases) == ["forward", "backward", "update"]


def test_on_cuda_torch_updates_all_parameters_at_once(resolved: Resolve) -> None:
    settings = resolved("llama/4M")
    peaks = {
        name: Memory(settings, optimizer=name, device_type="cuda").training(1, 2) for name in ("adamw", "adamw_fused")
    }
    weights = peaks["adamw"].held[WEIGHTS]
    assert peaks["adamw"].peak.phase == "update"
    assert peaks["adamw"].peak.bytes == pytest.approx(5 * weights, rel=0.01)
    assert peaks["adamw_fused"].peak.bytes == pytest.approx(4 * weights, rel=0.01)


@pytest.mark.parametrize("rope", ["dynamic", "longrope"])
def test_traces_a_model_that_reads_the_value_of_a_tensor(resolved: Resolve, rope: str) -> None:
    from tests.plugins.tiny import ROPE

    parameters = ROPE[rope]
    if rope == "longrope":
        parameters = parameters | {"short_factor": [1.0] * 32, "long_factor": [2.0] * 32}
    memory = Memory(resolved("llama/4M", rope_parameters=parameters))
    assert memory.training(2, 16).peak.bytes > 0
    assert memory.generation(2, 16).peak.bytes > 0


def test_gives_the_same_result_under_no_grad(resolved: Resolve) -> None:
    settings = resolved("llama/4M", num_hidden_layers=1)
    with torch.no_grad():
        inner = Memory(settings).training(2, 16).peak
    assert inner == Memory(settings).training(2, 16).peak
