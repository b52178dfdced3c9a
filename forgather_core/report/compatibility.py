"""Report who loads a model directory: transformers, its own class, vLLM, llama.cpp; yes, or why not."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..settings.resolve import Settings
from ..tokenizers.llama_cpp import tokenizer_conversion
from ..tokenizers.lookup import shipped_tokenizers

# Claims need positive evidence: whatever is not listed here is not claimed.
KNOWN_CLASSES = frozenset({"LlamaForCausalLM", "MistralForCausalLM", "Qwen3ForCausalLM"})
SERVED_LAYERS = frozenset({"full_attention", "sliding_attention"})
CONVERTED_ROPE = frozenset({"default", "linear", "llama3"})


@dataclass(frozen=True)
class ToolSupport:
    """One way to load a directory.

    Args:
        name: Who loads it.
        loads: Whether it can.
        how: What it takes, or why not.
    """

    name: str
    loads: bool
    how: str


def compatibility(
    settings: Settings, model: Any, native: str | None, tokenizer: str, directory: Path | None = None
) -> list[dict[str, Any]]:
    """The ways to load a directory, as plain data.

    Args:
        settings: What it was built from.
        model: Its model.
        native: The class of transformers that it claims to be, after `check_native`.
        tokenizer: Name of its tokenizer.
        directory: The directory with the tokenizer's files; without it, only a shipped tokenizer is known.
    """
    files = directory or shipped_tokenizers().get(tokenizer)
    rows = (
        _transformers(),
        _natively(settings, native),
        _vllm(model, native),
        _llama_cpp(model, native, tokenizer, files),
    )
    return [asdict(row) for row in rows]


def _transformers() -> ToolSupport:
    return ToolSupport("transformers", True, "with trust_remote_code=True")


def _natively(settings: Settings, native: str | None) -> ToolSupport:
    name = "transformers, natively"
    if native is not None:
        return ToolSupport(name, True, f"as {native}, without trust_remote_code")
    problems = settings.configuration.definition.native_problems(settings.options)
    return ToolSupport(name, False, problems[0] if problems else "build it with --native")


def _vllm(model: Any, native: str | None) -> ToolSupport:
    """vLLM's transformers backend puts its own attention in the place of each layer's; native classes it has itself."""
    name = "vLLM, transformers backend"
    if native is not None:
        if native not in KNOWN_CLASSES:
            return ToolSupport(
                name, False, f"it is not known whether vLLM has a {native}; try it with --model-impl auto"
            )
        return ToolSupport(name, True, f"and its own {native}, at full speed")
    problem = next(_vllm_problems(model), None)
    return ToolSupport(name, problem is None, problem or "with --trust-remote-code --model-impl transformers")


def _vllm_problems(model: Any) -> Iterator[str]:
    """What speaks against it, the most telling first. Only what is known to work is served."""
    base, config = getattr(model, "base_model", model), model.config
    if (problem := getattr(base, "backend_problem", lambda: None)()) is not None:
        yield problem
    if others := sorted(set(getattr(config, "layer_types", None) or ()) - SERVED_LAYERS):
        yield f"layers of the type {', '.join(others)} keep a state that its attention does not have"
    layers = list(getattr(base, "layers", ()))
    for index, layer in enumerate(layers):
        if state := next((type(module).__name__ for module in layer.modules() if _keeps_a_state(module)), None):
            yield f"layer {index} ({type(layer).__name__}) has a {state}, which keeps a state that vLLM does not have"
        attentions = [module for module in layer.modules() if _is_self_attention(module)]
        if len(attentions) != 1 or attentions[0].layer_idx != index:
            found = f"has {len(attentions)}" if len(attentions) != 1 else f"is number {attentions[0].layer_idx}"
            yield (
                f"layer {index} ({type(layer).__name__}) needs one SelfAttention of its own, number {index}, which "
                f"vLLM's attention replaces; it {found}"
            )
    within = {id(module) for layer in layers for module in layer.modules()}
    for name, module in model.named_modules():
        if id(module) not in within and (_keeps_a_state(module) or _is_self_attention(module)):
            yield f"{name} ({type(module).__name__}) stands outside the layers, where vLLM has no state for it"
    if not layers:
        yield "the model has no list of layers in which vLLM's attention could be put"
    if not getattr(model, "_supports_attention_backend", False):
        yield "the model does not hand attention on (_supports_attention_backend)"
    if "AutoModel" not in (getattr(config, "auto_map", None) or {}):
        yield "there is no model without a head (auto_map has no AutoModel)"


def _keeps_a_state(module: Any) -> bool:
    """A convolution over time or a recurrent network needs earlier inputs."""
    return any(kind.__name__ in ("_ConvNd", "RNNBase", "RNNCellBase") for kind in type(module).__mro__)


def _is_self_attention(module: Any) -> bool:
    """By name: the class is that of the directory's own copy of the part."""
    return any(kind.__name__ == "SelfAttention" for kind in type(module).__mro__)


def _llama_cpp(model: Any, native: str | None, tokenizer: str, files: Path | None) -> ToolSupport:
    name = "llama.cpp"
    if native is None:
        return ToolSupport(name, False, "it converts transformers' own classes only (--native)")
    if native not in KNOWN_CLASSES:
        return ToolSupport(name, False, f"it is not known whether its converter has a {native}")
    config = model.config
    if getattr(config, "sliding_window", None) is not None:
        return ToolSupport(name, False, f"its {native} attends to everything, and this model has a sliding_window")
    rope = (getattr(config, "rope_parameters", None) or {}).get("rope_type", "default")
    if rope not in CONVERTED_ROPE:
        return ToolSupport(name, False, f"its converter is not known to keep RoPE of the type '{rope}'")
    converts, how = tokenizer_conversion(files, tokenizer)
    return ToolSupport(
        name, converts, f"as {native}; {how}" if converts else f"its converter knows {native}, but {how}"
    )
