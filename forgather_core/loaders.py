"""Who loads a model directory: transformers, its own class, vLLM, llama.cpp; yes, or why not."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from .export.native import native_problems
from .export.tokenizer import shipped_tokenizers
from .settings import Settings


@dataclass(frozen=True)
class Loader:
    """One way to load a directory.

    Args:
        name: Who loads it.
        loads: Whether it can.
        how: What it takes, or why not.
    """

    name: str
    loads: bool
    how: str


def loaders(settings: Settings, model: Any, native: str | None, tokenizer: str) -> list[dict[str, Any]]:
    """The ways to load a directory, as plain data.

    Args:
        settings: What it was built from.
        model: Its model.
        native: The class of transformers that it claims to be, after `check_native`.
        tokenizer: Name of its tokenizer.
    """
    rows = (_transformers(), _natively(settings, native), _vllm(model, native), _llama_cpp(native, tokenizer))
    return [asdict(row) for row in rows]


def _transformers() -> Loader:
    return Loader("transformers", True, "with trust_remote_code=True")


def _natively(settings: Settings, native: str | None) -> Loader:
    name = "transformers, natively"
    if native is not None:
        return Loader(name, True, f"as {native}, without trust_remote_code")
    problems = native_problems(settings.configuration.definition, settings.options)
    return Loader(name, False, problems[0] if problems else "build it with --native")


def _vllm(model: Any, native: str | None) -> Loader:
    """What vLLM asks of a model for its transformers backend; where transformers has the class, it serves its own."""
    name = "vLLM, transformers backend"
    if native is not None:
        return Loader(name, True, f"and its own {native}, at full speed")
    base = getattr(model, "base_model", model)
    problem = getattr(base, "backend_problem", lambda: None)()
    if problem is None and not getattr(model, "_supports_attention_backend", False):
        problem = "the model does not hand attention on (_supports_attention_backend)"
    if problem is None and "AutoModel" not in (getattr(model.config, "auto_map", None) or {}):
        problem = "there is no model without a head (auto_map has no AutoModel)"
    return Loader(name, problem is None, problem or "with --trust-remote-code --model-impl transformers")


def _llama_cpp(native: str | None, tokenizer: str) -> Loader:
    name = "llama.cpp"
    if native is None:
        return Loader(name, False, "it converts transformers' own classes only (--native)")
    if tokenizer in shipped_tokenizers():
        return Loader(
            name, False, f"its converter knows {native}, but tokenizers by a list, and '{tokenizer}' is not in it"
        )
    return Loader(name, True, f"as {native}, if its converter knows the tokenizer")
