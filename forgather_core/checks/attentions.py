"""The attention implementations that a model can be checked with on this machine."""

from __future__ import annotations

from .subject import Subject


def implementations(subject: Subject) -> list[str]:
    """eager and sdpa: those that the model does not refuse."""
    refused: dict[str, str] = getattr(subject.config(), "unsupported_attention", dict)()
    return [name for name in ("eager", "sdpa") if name not in refused]


def forward_implementations(subject: Subject) -> list[str]:
    """The same and flex_attention, of forward passes alone: what neither the model nor transformers refuses."""
    refused: dict[str, str] = getattr(subject.config(), "unsupported_attention", dict)()
    found = implementations(subject)
    if "flex_attention" in refused:
        return found
    try:
        subject.initial(attention="flex_attention")
    except (ValueError, ImportError):  # transformers' own refusal
        return found
    return [*found, "flex_attention"]
