"""Compare a definition with the native transformers class, for `--native` and `--from-config`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from ..definitions.definition import ModelDefinition
from ..errors import ConfigurationError, first_line
from ..model.logits_difference import KEPT, TOLERANCE, logits_difference
from ..model.shrink import shrunk
from ..runtime.quiet import quiet_transformers
from ..settings.native_config import WITHOUT_EFFECT, native_config, read_source
from ..settings.resolved_model import ResolvedModel

if TYPE_CHECKING:
    from ..settings.source_config import SourceConfig


DEPTH = ("num_hidden_layers", "layer_types", "max_window_layers")
SIZES = (
    *DEPTH,
    "bos_token_id",
    "eos_token_id",
    "head_dim",
    "hidden_size",
    "intermediate_size",
    "num_attention_heads",
    "num_key_value_heads",
    "pad_token_id",
    "sliding_window",
    "vocab_size",
)
# Errors of a model with an unsuitable configuration; torch asserts that padding is within the vocabulary.
_MODEL_ERRORS = (ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)
MAX_KEYS = 30  # keys that are removed one at a time, to find the key that the classes read differently


def check_native(resolved: ResolvedModel) -> None:
    """Check that the native transformers class computes the same logits, on a small copy of the model.

    Args:
        resolved: The resolved model.

    Raises:
        ConfigurationError: There is no native class, or it computes a different model. The message gives the reason.
    """
    if (problem := native_problem(resolved)) is not None:
        hint = "change the options, or remove --native"
        raise ConfigurationError(problem, option="--native", hint=hint)


def native_problem(resolved: ResolvedModel, *, cached: bool = False) -> str | None:
    """Return the reason why the native transformers class does not compute the model, or None if it does.

    Args:
        resolved: The resolved model.
        cached: Cache the comparison of each small copy in this process.
    """
    from huggingface_hub.errors import StrictDataclassError

    definition, values = resolved.definition, resolved.config
    for problem in definition.native_problems(resolved.options):
        return problem
    import transformers

    config_class, native = (
        definition.config_class(),
        getattr(transformers, str(definition.native), None),
    )
    if native is None:
        return f"transformers {transformers.__version__} has no class {definition.native}"
    try:
        full = config_class(**values, native=True).to_dict()
        native.config_class(**full)  # it validates sizes
        small = config_class(**{**values, **shrunk(values, config_class.attribute_map, keep=KEPT)}, native=True)
        content = json.dumps(small.to_dict(), sort_keys=True, default=str)
        compare = _cached_difference if cached else _difference
        difference = compare(definition.model_class(), native, config_class, content)
    except (StrictDataclassError, TypeError, ValueError, RuntimeError) as error:
        cause = error.__cause__ or error  # the cause of a validation error is the message without its context
        reason = next(iter(str(cause).splitlines()), type(cause).__name__)
        return f"transformers' {definition.native} rejects these options: {reason}"
    if not difference <= TOLERANCE:  # also true for NaN
        return (
            f"with these options transformers' {definition.native} computes a different model: the logits of a small "
            f"copy have a relative difference of {difference:.1e}"
        )
    return None


def _difference(model_class: Any, native: Any, config_class: Any, content: str) -> float:
    """Return the difference of the logits of two small models, built from a configuration in JSON."""
    values = json.loads(content)
    return logits_difference(model_class(config_class(**values)), native(native.config_class(**values)))


_cached_difference = lru_cache(maxsize=64)(_difference)  # most directories of a process differ only in sizes


def check_source(definition: ModelDefinition, source_config: SourceConfig) -> None:
    """Compare a definition with transformers' class for a config.json: parameters, and logits of a small copy.

    Args:
        definition: The definition that reads the file.
        source_config: The source config. If the definition itself wrote it, there is no other class to compare with.

    Raises:
        ConfigurationError: transformers' class cannot use the file, or computes a different model. The message names
            the keys.
    """
    if not source_config.native:
        return
    content = source_config.content
    with quiet_transformers():
        problem = _source_problem(definition, content)
        if problem is None:
            return
        name = _native_class_of(native_config(content)).__name__
        keys = [key for key in content if key not in WITHOUT_EFFECT][:MAX_KEYS]
        others = {key: {name: value for name, value in content.items() if name != key} for key in keys}
        responsible = [key for key in keys if _source_problem(definition, others[key]) is None]
    cause, hint = f"no single key of {', '.join(keys)} is the cause", "set the options without --from-config"
    if responsible:
        cause = f"without {' or '.join(responsible)} they agree"
        hint = f"remove the key from a copy of the file, or {hint}"
    raise ConfigurationError(
        f"'{definition.name}' and transformers' {name} compute different models from this file: {problem} ({cause})",
        option="--from-config",
        file=source_config.directory / "config.json",
        hint=hint,
    )


def _source_problem(definition: ModelDefinition, content: Mapping[str, Any]) -> str | None:
    """Return the difference between the definition's model and transformers' for this config.json, or None."""
    import torch
    from huggingface_hub.errors import StrictDataclassError

    try:
        small = {**content, **shrunk(_sizes(content), {}, keep=KEPT)}
        depth = {name: small[name] for name in DEPTH if name in small}
        with torch.device("meta"):
            own, native = (_parameters(model) for model in _pair(definition, {**content, **depth}))
        if other := sorted(dict(own.items() ^ native.items())):
            return f"{', '.join(other[:3])} differ in shape or exist in one of them only"
        difference = logits_difference(*_pair(definition, small))
    except ConfigurationError as error:
        return str(error)
    except (StrictDataclassError, *_MODEL_ERRORS) as error:
        cause = error.__cause__ or error  # the cause of a validation error is the message without its context
        return f"a small copy fails with {type(cause).__name__}: {first_line(cause)}"
    if difference <= TOLERANCE:
        return None
    return f"the logits of a small copy have a relative difference of {difference:.1e}"


def _pair(definition: ModelDefinition, content: Mapping[str, Any]) -> tuple[Any, Any]:
    """Return the definition's model and transformers', both built from one config.json, in float32."""
    import torch

    source = read_source(definition, content)
    source.config.dtype = source.native.dtype = torch.float32
    source.config._attn_implementation = source.native._attn_implementation = None  # transformers' choice
    source.config.return_dict = source.native.return_dict = True  # without effect on the logits
    return definition.model_class()(source.config), _native_class_of(source.native)(source.native)


def _parameters(model: Any) -> dict[str, tuple[int, ...]]:
    return {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}


def _sizes(content: Mapping[str, Any]) -> dict[str, Any]:
    """Return the sizes that transformers' class reads from a config.json, including defaults."""
    native = native_config(content)
    return {name: getattr(native, name) for name in SIZES if hasattr(native, name)}


def _native_class_of(config: Any) -> Any:
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING

    return MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]
