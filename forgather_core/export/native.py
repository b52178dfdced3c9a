"""Whether a directory may claim to be a model of transformers' own: granted only after their logits agree."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ..definition import ModelDefinition, import_object
from ..errors import ConfigurationError
from ..settings import Settings

if TYPE_CHECKING:
    from torch import nn

TOLERANCE = 1e-4  # float32, of the logits' own size
LENGTH = 24


def check_native(settings: Settings, values: Mapping[str, Any]) -> None:
    """See that transformers' own class computes the same from the same weights, on a small copy with the same options.

    Args:
        settings: The settled options.
        values: What the configuration class is called with.

    Raises:
        ConfigurationError: There is no such class, or it is another model; the text says why.
    """
    from huggingface_hub.errors import StrictDataclassError

    definition = settings.configuration.definition
    for problem in native_problems(definition, settings.options):
        raise ConfigurationError(f"--native: {problem}")
    config_class, native = import_object(definition.config, definition), _native_class(definition)
    try:
        whole = config_class(**values, native=True).to_dict()
        native.config_class(**whole)  # it has rules of its own for sizes
        small = config_class(**_small(values), native=True)
        difference = _difference(import_object(definition.model, definition)(small), native, small.to_dict())
    except (StrictDataclassError, TypeError, ValueError, RuntimeError) as error:
        cause = error.__cause__ or error  # of a rule of the class, the sentence without its frame
        reason = next(iter(str(cause).splitlines()), type(cause).__name__)
        raise ConfigurationError(f"--native: transformers' {definition.native} refuses it: {reason}") from None
    if difference > TOLERANCE:
        raise ConfigurationError(
            f"--native: with these options transformers' {definition.native} is another model: the logits of a small "
            f"copy differ by {difference:.1e} of their size"
        )


def native_problems(definition: ModelDefinition, options: Any) -> list[str]:
    """Why transformers' own class cannot stand for this model, where definition and options alone tell. No torch."""
    if definition.native is None:
        return [f"transformers has no class with the mathematics of '{definition.name}'"]
    return list(getattr(options, "native_problems", tuple)())


def _native_class(definition: ModelDefinition) -> Any:
    import transformers

    found = getattr(transformers, str(definition.native), None)
    if found is None:
        raise ConfigurationError(f"--native: transformers {transformers.__version__} has no class {definition.native}")
    return found


def _small(values: Mapping[str, Any]) -> dict[str, Any]:
    """The same options in a small size: what is not a size (RoPE, head_dim, ties, eps) stays as it is."""
    heads = values["num_attention_heads"]
    shared = heads // (values.get("num_key_value_heads") or heads)  # query heads to a key/value head
    groups = min(heads // shared, 2)
    small: dict[str, Any] = dict(values) | {
        "num_attention_heads": groups * shared,
        "num_key_value_heads": groups,
        "head_dim": values.get("head_dim") or values["hidden_size"] // heads,
        "hidden_size": 8 * groups * shared,
        "intermediate_size": 40,
        "num_hidden_layers": min(values["num_hidden_layers"], 3),
        "vocab_size": 64,
        "bos_token_id": None,
        "eos_token_id": None,
        "pad_token_id": None if values.get("pad_token_id") is None else 1,
    }
    if values.get("sliding_window") is not None:
        small["sliding_window"] = min(values["sliding_window"], 7)
    if values.get("max_window_layers"):
        small["max_window_layers"] = 1 if values["max_window_layers"] < values["num_hidden_layers"] else 3
    return small


def _difference(ours: nn.Module, native: Any, config: Mapping[str, Any]) -> float:
    """The largest difference of logits, in units of their root mean square: plain, padded, and at far positions."""
    import torch

    theirs = native(native.config_class(**config))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in ours.parameters():  # far from any initial weights, so that nothing is lost in symmetry
            drawn = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(1 + 0.2 * drawn if parameter.dim() == 1 else drawn * 1.5 * parameter.shape[-1] ** -0.5)
        theirs.load_state_dict(ours.state_dict())
        ids = torch.randint(2, 64, (2, LENGTH), generator=generator)
        padded = torch.ones_like(ids)
        padded[0, :5] = 0
        last: int = config["max_position_embeddings"]
        far = torch.arange(LENGTH).expand(2, -1) + max(last - LENGTH // 2, 0)
        worst = 0.0
        for more in ({}, {"attention_mask": padded}, {"position_ids": far}):
            a, b = (model.eval()(ids, use_cache=False, **more).logits[:, 5:] for model in (ours, theirs))
            worst = max(worst, ((a - b).abs().max() / b.square().mean().sqrt()).item())
    return worst
