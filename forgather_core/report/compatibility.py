"""Report the tools that load a model directory: transformers, its native class, vLLM and llama.cpp."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..definitions import contracts
from ..settings.resolved_model import ResolvedModel
from ..tokenizers.llama_cpp import tokenizer_conversion
from ..tokenizers.lookup import shipped_tokenizers

# Support is reported only for the values listed here, which are known to work.
KNOWN_CLASSES = frozenset({"LlamaForCausalLM", "MistralForCausalLM", "Qwen3ForCausalLM"})
SERVED_LAYERS = frozenset({"full_attention", "sliding_attention"})
CONVERTED_ROPE = frozenset({"default", "linear", "llama3"})


@dataclass(frozen=True)
class ToolSupport:
    """Support of a tool for a model directory.

    Args:
        name: The tool.
        loads: Whether it loads the directory.
        how: The required arguments, or the reason why it does not.
    """

    name: str
    loads: bool
    how: str


def compatibility(
    resolved: ResolvedModel, model: Any, native: str | None, tokenizer: str, directory: Path | None = None
) -> list[dict[str, Any]]:
    """Return the support of each tool for a model directory, as plain data.

    Args:
        resolved: The resolved model.
        model: The model.
        native: The native transformers class of the directory, after `check_native`; None without `--native`.
        tokenizer: The name of the tokenizer.
        directory: The directory with the tokenizer files. None supports shipped tokenizers only.
    """
    files = directory or shipped_tokenizers().get(tokenizer)
    rows = (
        _transformers(),
        _native_transformers(resolved, native),
        _vllm(model, native),
        _llama_cpp(model, native, tokenizer, files),
    )
    return [asdict(row) for row in rows]


def _transformers() -> ToolSupport:
    return ToolSupport("transformers", True, "with trust_remote_code=True")


def _native_transformers(resolved: ResolvedModel, native: str | None) -> ToolSupport:
    name = "transformers, natively"
    if native is not None:
        return ToolSupport(name, True, f"as {native}, without trust_remote_code")
    problems = resolved.definition.native_problems(resolved.options)
    return ToolSupport(name, False, problems[0] if problems else "build it with --native")


def _vllm(model: Any, native: str | None) -> ToolSupport:
    """Return the support of vLLM: its transformers backend, or its own implementation of a native class."""
    name = "vLLM, transformers backend"
    if native is not None:
        if native not in KNOWN_CLASSES:
            return ToolSupport(name, False, f"support for {native} is unknown; try --model-impl auto")
        return ToolSupport(name, True, f"also with its own {native}, at full speed")
    problem = next(_vllm_problems(model), None)
    return ToolSupport(name, problem is None, problem or "with --trust-remote-code --model-impl transformers")


def _vllm_problems(model: Any) -> Iterator[str]:
    """Yield the reasons why vLLM does not support the model, most specific first."""
    base, config = getattr(model, "base_model", model), model.config
    if (problem := contracts.backend_problem(base)) is not None:
        yield problem
    if others := sorted(set(getattr(config, "layer_types", None) or ()) - SERVED_LAYERS):
        yield f"layers of type {', '.join(others)} have a state that vLLM does not support"
    layers = list(getattr(base, "layers", ()))
    for index, layer in enumerate(layers):
        if state := next((type(module).__name__ for module in layer.modules() if _is_stateful(module)), None):
            yield f"layer {index} ({type(layer).__name__}) has a {state}, whose state vLLM does not support"
        attentions = [module for module in layer.modules() if _is_self_attention(module)]
        if len(attentions) != 1 or attentions[0].layer_idx != index:
            found = f"{len(attentions)}" if len(attentions) != 1 else f"one with layer_idx {attentions[0].layer_idx}"
            yield (
                f"layer {index} ({type(layer).__name__}) requires one SelfAttention with layer_idx {index}, which vLLM "
                f"replaces; got {found}"
            )
    within = {id(module) for layer in layers for module in layer.modules()}
    for name, module in model.named_modules():
        if id(module) not in within and (_is_stateful(module) or _is_self_attention(module)):
            yield f"{name} ({type(module).__name__}) is outside the layers, where vLLM has no state for it"
    if not layers:
        yield "the model has no list of layers in which vLLM could replace the attention"
    if not getattr(model, "_supports_attention_backend", False):
        yield "the model does not support attention backends (_supports_attention_backend)"
    if "AutoModel" not in (getattr(config, "auto_map", None) or {}):
        yield "there is no base model (auto_map has no AutoModel)"


def _is_stateful(module: Any) -> bool:
    """Return whether a module needs earlier inputs: a convolution over time or a recurrent network."""
    return any(kind.__name__ in ("_ConvNd", "RNNBase", "RNNCellBase") for kind in type(module).__mro__)


def _is_self_attention(module: Any) -> bool:
    """Return whether a module is a SelfAttention, by name: the class belongs to the exported copy of the part."""
    return any(kind.__name__ == "SelfAttention" for kind in type(module).__mro__)


def _llama_cpp(model: Any, native: str | None, tokenizer: str, files: Path | None) -> ToolSupport:
    name = "llama.cpp"
    if native is None:
        return ToolSupport(name, False, "it converts native transformers classes only (--native)")
    if native not in KNOWN_CLASSES:
        return ToolSupport(name, False, f"support for {native} in its converter is unknown")
    config = model.config
    if getattr(config, "sliding_window", None) is not None:
        return ToolSupport(name, False, f"its {native} does not support sliding_window")
    rope = (getattr(config, "rope_parameters", None) or {}).get("rope_type", "default")
    if rope not in CONVERTED_ROPE:
        return ToolSupport(name, False, f"support for RoPE of type '{rope}' in its converter is unknown")
    converts, how = tokenizer_conversion(files, tokenizer)
    return ToolSupport(
        name, converts, f"as {native}; {how}" if converts else f"its converter supports {native}, but {how}"
    )
