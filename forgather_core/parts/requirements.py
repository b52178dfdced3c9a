"""Requirements of layers: a token mixer declares what it needs for a call, and the decoder provides each need once.

A mixer is a module with a method `needs()`. The decoder knows nothing else about its layers.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Protocol, TypeGuard

from torch import nn


@dataclass(frozen=True)
class MaskKind:
    """Kind of attention mask: the earlier keys of its document that a query attends to.

    Args:
        layer_type: transformers' name of such layers in `config.layer_types`.
        size: Number of visible keys of a sliding window, the query's own included; None for all keys.
    """

    layer_type: str
    size: int | None = None


CAUSAL = MaskKind("full_attention")
ATTENTION = ("full_attention", "sliding_attention")  # layer types with a mask
RECURRENT = MaskKind("linear_attention")  # a state in place of keys: such layers ask for `padding_mask` instead


def sliding(window: int) -> MaskKind:
    """Return the mask kind of a window: query i attends to keys i - window + 1 to i (arXiv:2004.05150, sec. 3.1)."""
    return MaskKind("sliding_attention", window)


# What the decoder provides to layers that ask for it, besides `position_ids`, which every layer gets.
PROVIDED = {
    "input_ids": "Token ids [B, T]",
    "inputs_embeds": "Input of the first layer [B, T, D]",
    "padding_mask": "[B, T] of bool, True on real tokens; None for no padding",
    "document_starts": (
        "[B, T], index within the call at which the document of each token begins, negative if it began before the "
        "call; None if all rows continue one document"
    ),
}


@dataclass(frozen=True)
class Needs:
    """Needs of a layer for a call. Equal needs of several layers are computed once.

    Args:
        mask: Kind of the attention mask; None for no mask.
        rope: Name of the rotary embedding: "default" is the decoder's `rotary_emb`, any other name NAME its
            `rotary_emb_NAME`; None for no rotation. A decoder without that embedding passes none.
        cache: transformers' name of the cache of this layer in `config.layer_types`; None for no cache.
        bias: Class whose static method `arguments` returns further arguments of attention, such as `Alibi`.
        inputs: Names of further arguments: of `PROVIDED`, or of values that an earlier layer returns.
        returns: Names of the values that the layer returns after its hidden states. Later layers may ask for them, and
            the language model gets them all.
    """

    mask: MaskKind | None = None
    rope: str | None = None
    cache: str | None = None
    bias: Any = None
    inputs: tuple[str, ...] = ()
    returns: tuple[str, ...] = ()


class HasNeeds(Protocol):
    """A module that declares what it needs: a token mixer, or a layer."""

    def needs(self) -> Needs:
        """Return the needs of the module."""


def merged_needs(layer: nn.Module) -> Needs:
    """Return the needs of the modules within a layer, as those of the layer.

    A module that declares its needs answers for those within it.

    Raises:
        ValueError: Two modules have different masks, caches, rotary embeddings or biases: the layer must be split, or
            its class must override `needs`.
    """
    single: dict[str, Any] = {}
    inputs: dict[str, None] = {}  # an ordered set
    returns: list[str] = []
    for declared in (module.needs() for module in _outermost(layer)):
        inputs |= dict.fromkeys(declared.inputs)
        returns += declared.returns
        for name in ("mask", "rope", "cache", "bias"):
            value = getattr(declared, name)
            if value is not None and single.setdefault(name, value) != value:
                raise ValueError(f"the mixers of one layer need different values of {name}: {single[name]}, {value}")
    return Needs(**single, inputs=tuple(inputs), returns=tuple(returns))


def needs_of(layer: nn.Module, default: Needs) -> Needs:
    """Return the needs of a layer, also within a wrapper.

    Args:
        layer: The layer.
        default: Mask, rotary embedding and cache of a layer whose mixer declares none, such as one of another model.
    """
    declared = layer.needs() if _declares_needs(layer) else next((m.needs() for m in _outermost(layer)), default)
    if declared.mask is None and declared.cache is None:
        return replace(declared, mask=default.mask, rope=default.rope, cache=default.cache)
    return declared


def _outermost(module: nn.Module) -> Iterator[HasNeeds]:
    for child in module.children():
        if _declares_needs(child):
            yield child
        else:
            yield from _outermost(child)


def _declares_needs(module: nn.Module) -> TypeGuard[HasNeeds]:
    return callable(getattr(type(module), "needs", None))


def configured_mask(config: Any, layer: int) -> MaskKind:
    """Return the mask kind of a layer by `config.layer_types`, from which transformers creates caches and masks.

    Without `layer_types`, all layers are alike, and have a window if `config.sliding_window` is set.
    """
    window = getattr(config, "sliding_window", None)
    kinds = getattr(config, "layer_types", None)
    if kinds is None:
        return CAUSAL if window is None else sliding(window)
    kind = kinds[layer] if layer < len(kinds) else CAUSAL.layer_type
    return MaskKind(kind, window if kind == "sliding_attention" else None)


def configured_needs(config: Any, layer: int) -> Needs:
    """Return the needs of a layer of another model, which declares none: those of rotary attention."""
    mask = configured_mask(config, layer)
    return Needs(mask=mask if mask.layer_type in ATTENTION else None, rope="default", cache=mask.layer_type)


def check_layer_types(config: Any, needs: list[Needs]) -> None:
    """Check that the configuration describes the layers.

    Raises:
        ValueError: The cache or the mask of a layer differs; the message names the option.
    """
    for i, need in enumerate(needs):
        expected = configured_mask(config, i)
        if need.cache is not None and need.cache != expected.layer_type:
            kind = expected.layer_type
            raise ValueError(
                f"layer_types: layer {i} is {need.cache!r} in the model, but {kind!r} in the configuration"
            )
        if need.mask is not None and need.mask.layer_type == expected.layer_type and need.mask != expected:
            size, window = need.mask.size, expected.size
            raise ValueError(f"sliding_window: layer {i} has {size} in the model, but {window} in the configuration")


def check_inputs(needs: list[Needs]) -> None:
    """Check that each input of a layer is provided by the decoder or returned by an earlier layer.

    Raises:
        ValueError: An input is not available; the message names layer and input.
    """
    known = set(PROVIDED)
    for i, need in enumerate(needs):
        if missing := sorted(set(need.inputs) - known):
            expected = f"expected a value that an earlier layer returns, or one of {', '.join(PROVIDED)}"
            raise ValueError(f"layer {i} needs {', '.join(missing)}: {expected}")
        known |= set(need.returns)
