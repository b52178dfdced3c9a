"""Compare a definition with transformers' own class, for `--native` and for `--from-config`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from ..definitions.definition import ModelDefinition, import_object
from ..errors import ConfigurationError, first_line
from ..model.twin import TOLERANCE, logits_difference, shrunk_values
from ..runtime.quiet import quiet_transformers
from ..settings.native_config import WITHOUT_EFFECT, native_config, read_source
from ..settings.resolve import Settings

if TYPE_CHECKING:
    from ..settings.source_config import SourceConfig


DEPTH = ("num_hidden_layers", "layer_types", "max_window_layers")
SIZES = (
    *DEPTH,
    "head_dim",
    "hidden_size",
    "num_attention_heads",
    "num_key_value_heads",
    "pad_token_id",
    "sliding_window",
)
# Errors of a model whose configuration does not fit; torch asserts that padding is within the vocabulary.
_FAULTS = (ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)
MOST_KEYS = 30  # that are tried, one left out at a time, to name what is read differently


def check_native(settings: Settings, values: Mapping[str, Any]) -> None:
    """See that transformers' own class computes the same from the same weights, on a small copy with the same options.

    Args:
        settings: The settled options.
        values: What the configuration class is called with.

    Raises:
        ConfigurationError: There is no such class, or it is another model; the text says why.
    """
    if (problem := native_refusal(settings, values)) is not None:
        raise ConfigurationError(f"--native: {problem}")


def native_refusal(settings: Settings, values: Mapping[str, Any], *, remembered: bool = False) -> str | None:
    """Return why transformers' own class cannot stand for the model, or None.

    Args:
        settings: The settled options.
        values: What the configuration class is called with.
        remembered: Compare the logits of each small copy once in a process.
    """
    from huggingface_hub.errors import StrictDataclassError

    definition = settings.configuration.definition
    for problem in definition.native_problems(settings.options):
        return problem
    import transformers

    config_class, native = (
        import_object(definition.config, definition),
        getattr(transformers, str(definition.native), None),
    )
    if native is None:
        return f"transformers {transformers.__version__} has no class {definition.native}"
    try:
        whole = config_class(**values, native=True).to_dict()
        native.config_class(**whole)  # it has rules of its own for sizes
        small = config_class(**{**values, **shrunk_values(values)}, native=True)
        content = json.dumps(small.to_dict(), sort_keys=True, default=str)
        compare = _remembered_difference if remembered else _difference
        difference = compare(import_object(definition.model, definition), native, config_class, content)
    except (StrictDataclassError, TypeError, ValueError, RuntimeError) as error:
        cause = error.__cause__ or error  # of a rule of the class, the sentence without its frame
        reason = next(iter(str(cause).splitlines()), type(cause).__name__)
        return f"transformers' {definition.native} refuses it: {reason}"
    if not difference <= TOLERANCE:  # NaN is no agreement
        return (
            f"with these options transformers' {definition.native} is another model: the logits of a small copy "
            f"differ by {difference:.1e} of their size"
        )
    return None


def _difference(model_class: Any, native: Any, config_class: Any, content: str) -> float:
    """The difference of the logits of two small models, made of the text of a configuration."""
    values = json.loads(content)
    return logits_difference(model_class(config_class(**values)), native(native.config_class(**values)))


_remembered_difference = lru_cache(maxsize=64)(_difference)  # most directories of a process differ in sizes alone


def check_source(definition: ModelDefinition, source_config: SourceConfig) -> None:
    """Hold what was read of a config.json to transformers' class for it: parameters, and logits of a small copy.

    Args:
        definition: The definition that reads it.
        likeness: The directory. One that the definition itself has written has no other class to compare with.

    Raises:
        ConfigurationError: transformers' class cannot compute the file, or computes something else; the text names the
            keys.
    """
    if not source_config.native:
        return
    content, where = source_config.content, f"--from-config: {source_config.directory / 'config.json'}"
    with quiet_transformers():
        problem = _source_problem(definition, content)
        if problem is None:
            return
        name = _native_class_of(native_config(content)).__name__
        keys = [key for key in content if key not in WITHOUT_EFFECT][:MOST_KEYS]
        others = {key: {name: value for name, value in content.items() if name != key} for key in keys}
        guilty = [key for key in keys if _source_problem(definition, others[key]) is None]
    named = f"without {' or '.join(guilty)} they agree" if guilty else f"no single key of {', '.join(keys)} explains it"
    raise ConfigurationError(
        f"{where}: '{definition.name}' does not compute what transformers' {name} computes with this file: {problem} "
        f"({named}); remove the key from a copy of the file, or set the options without --from-config"
    )


def _source_problem(definition: ModelDefinition, content: Mapping[str, Any]) -> str | None:
    """What differs between the definition's model and transformers' for this config.json, or None."""
    import torch
    from huggingface_hub.errors import StrictDataclassError

    try:
        small = {**content, **shrunk_values(_sizes(content))}
        depth = {name: small[name] for name in DEPTH if name in small}
        with torch.device("meta"):
            ours, theirs = (_parameters(model) for model in _pair(definition, {**content, **depth}))
        if other := sorted(dict(ours.items() ^ theirs.items())):
            return f"{', '.join(other[:3])} differ in shape or exist in one of them only"
        difference = logits_difference(*_pair(definition, small))
    except ConfigurationError as error:
        return str(error)
    except (StrictDataclassError, *_FAULTS) as error:
        cause = error.__cause__ or error  # of a rule of the class, the sentence without its frame
        return f"a small copy fails with {type(cause).__name__}: {first_line(cause)}"
    if difference <= TOLERANCE:
        return None
    return f"the logits of a small copy differ by {difference:.1e} of their size"


def _pair(definition: ModelDefinition, content: Mapping[str, Any]) -> tuple[Any, Any]:
    """The model of the definition and that of transformers, both made of one config.json, in float32."""
    import torch

    source = read_source(definition, content)
    source.config.dtype = source.native.dtype = torch.float32
    source.config._attn_implementation = source.native._attn_implementation = None  # transformers' choice
    source.config.return_dict = source.native.return_dict = True  # without effect on the logits
    return import_object(definition.model, definition)(source.config), _native_class_of(source.native)(source.native)


def _parameters(model: Any) -> dict[str, tuple[int, ...]]:
    return {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}


def _sizes(content: Mapping[str, Any]) -> dict[str, Any]:
    """The sizes of transformers' class for a config.json, those that the file leaves out included."""
    native = native_config(content)
    return {name: getattr(native, name) for name in SIZES if hasattr(native, name)}


def _native_class_of(config: Any) -> Any:
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING

    return MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]
