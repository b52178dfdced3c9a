"""Read the config.json of a model directory with its native class, and report the keys that have no effect.

The class is the native transformers class of the file's `model_type`. Keys that this class ignores must have no effect
here either. transformers keeps unknown keys as attributes, which the definition's class would read as its own options.
"""

from __future__ import annotations

import copy
import dataclasses
import json
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..definitions import contracts
from ..definitions.definition import ModelDefinition
from ..errors import ConfigurationError, first_line
from ..parts.rope_options import ROPE_TYPES

# Keys without effect on the logits: initialization, outputs, and records of how the file was created.
WITHOUT_EFFECT = frozenset(
    {
        "architectures",
        "attn_implementation",
        "dtype",
        "experts_implementation",
        "initializer_range",
        "model_type",
        "name_or_path",
        "output_attentions",
        "output_hidden_states",
        "pretraining_tp",
        "quantization_config",  # an error unless the weights can be dequantized
        "return_dict",
        "skip_logits",  # written by Forgather: whether training returns logits
        "torch_dtype",
        "transformers_version",
        "use_cache",
    }
)
# Values of quantization_config.quant_method for FP8 weights with scales, which are dequantized while loading.
FP8_METHODS = frozenset({"fp8", "fbgemm_fp8", "compressed-tensors", "modelopt", "quark", "mxfp8"})
ORIGINAL_LENGTH = "original_max_position_embeddings"
_ROPE_KEYS = ("rope_scaling", "rope_parameters")  # if both are present, transformers uses the first
_ZERO_IS_ABSENT = {"mscale", "mscale_all_dim", "beta_fast", "beta_slow"}
_SAME_ACTIVATION = {"swish": "silu"}


@dataclass(frozen=True)
class ConvertedConfig:
    """A config.json, converted to the configuration class of a definition.

    Args:
        config: An instance of the definition's configuration class.
        native: An instance of the native transformers class of the file; None if the file is the definition's own.
        unread: Keys of the file that have no effect, with the reason. Nested keys are written as `outer.inner`.
    """

    config: Any
    native: Any
    unread: Mapping[str, str]


def read_source(definition: ModelDefinition, content: Mapping[str, Any], *, own_code: bool = True) -> ConvertedConfig:
    """Read the content of a config.json whose model_type the definition supports.

    Args:
        definition: The definition.
        content: The content; it is not modified.
        own_code: Whether an auto_map refers to the code of the definition.

    Raises:
        ConfigurationError: One of the two classes rejects the content; the message names the key.
    """
    from huggingface_hub.errors import StrictDataclassError

    from ..runtime.quiet import quiet_transformers

    config_class = definition.config_class()
    with quiet_transformers():  # unread keys are reported here
        try:
            if content["model_type"] == config_class.model_type:
                native, config = None, config_class.from_dict(copy.deepcopy(dict(content)))
            else:
                native = native_config(content)
                config = config_class(**_native_values(native, config_class))
        # AttributeError: transformers looks up a dtype as an attribute of torch.
        except (
            StrictDataclassError,
            AttributeError,
            TypeError,
            ValueError,
            LookupError,
            OSError,
            ArithmeticError,
        ) as error:
            cause = error.__cause__ or error
            prefix = f"{type(cause).__name__}: " if isinstance(cause, (ArithmeticError, KeyError)) else ""
            raise ConfigurationError(f"{prefix}{first_line(cause)}", hint="correct the file") from None
    reader = config if native is None else native
    return ConvertedConfig(config, native, dict(_unread(content, reader, config, definition, own_code)))


def native_config(content: Mapping[str, Any]) -> Any:
    """Read the content of a config.json with AutoConfig, which may select the class by other keys than `model_type`.

    Raises:
        ValueError, TypeError, KeyError, OSError, StrictDataclassError: transformers rejects the content.
    """
    from transformers import AutoConfig

    plain = {name: value for name, value in content.items() if name != "auto_map"}  # code in the directory is never run
    with tempfile.TemporaryDirectory(prefix="forgather-config-") as directory:
        (Path(directory) / "config.json").write_text(json.dumps(plain), encoding="utf-8")
        try:
            return AutoConfig.from_pretrained(directory, trust_remote_code=False)
        except AttributeError as error:  # for example a dtype that torch does not have
            raise ValueError(f"transformers cannot read it: {first_line(error)}") from None


def _native_values(native: Any, config_class: Any) -> dict[str, Any]:
    """Return the values of the attributes that the native class declares. Other attributes come from ignored keys."""
    declared = _declared(native)
    values = {name: value for name, value in native.to_dict().items() if name in declared}
    if isinstance(values.get("rope_parameters"), dict):
        values["rope_parameters"] = _effective_rope(native)
    if (activation := values.get("hidden_act")) in _SAME_ACTIVATION:
        values["hidden_act"] = _SAME_ACTIVATION[activation]
    if "layer_types" not in {field.name for field in dataclasses.fields(config_class)}:
        kinds = set(values.pop("layer_types", None) or ())
        if len(kinds) > 1:
            mixed = ", ".join(sorted(kinds))
            raise ValueError(f"layer_types: all layers must have the same type in this model; got {mixed}")
        if kinds == {"full_attention"}:
            values["sliding_window"] = None
    if values.get("attention_dropout", 0.0) is None:
        values["attention_dropout"] = 0.0
    return values


def _declared(config: Any) -> set[str]:
    # Models of transformers read head_dim also if their configuration does not declare it.
    names = {field.name for field in dataclasses.fields(config)} | set(config.attribute_map)
    return names | {"head_dim"} if "head_dim" in vars(config) else names


def _effective_rope(native: Any) -> dict[str, Any]:
    """Return the RoPE parameters that the native model uses, in the form of the option `rope_parameters`."""
    # The native model's RoPE calls this, which applies a top-level original_max_position_embeddings.
    getattr(native, "standardize_rope_params", lambda: None)()
    given: dict[str, Any] = dict(native.rope_parameters)
    if nested := sorted(name for name, value in given.items() if isinstance(value, dict)):
        raise ValueError(f"rope_parameters: parameters for each layer type ({', '.join(nested)}) are not supported")
    kind = given.get("rope_type")
    if kind not in ROPE_TYPES:
        return given  # the option rejects it and lists the valid types
    head_dim = getattr(native, "head_dim", None) or native.hidden_size // native.num_attention_heads
    part = given.get("partial_rotary_factor", 1.0)
    if kind != "default" and int(head_dim * part) != head_dim:
        raise ValueError(f"partial_rotary_factor: must be 1 for rope_type '{kind}'; got {part}")
    required, allowed = ROPE_TYPES[kind]
    known = required | allowed | {"rope_type", "rope_theta"}
    if "truncate" in given and given["truncate"] is None:
        given["truncate"] = False  # as transformers reads it
    if "factor" in known and kind in ("yarn", "longrope") and given.get("factor") is None:
        given["factor"] = native.max_position_embeddings / given["original_max_position_embeddings"]
    return {
        name: value
        for name, value in given.items()
        if name in known and value is not None and not (name in _ZERO_IS_ABSENT and not value)
    }


def _unread(
    content: Mapping[str, Any], reader: Any, config: Any, definition: ModelDefinition, own_code: bool
) -> Iterator[tuple[str, str]]:
    owner = "" if reader is config else "transformers' "
    ignored = f"{owner}{type(reader).__name__} does not use it"
    declared = _declared(reader)
    supported = _declared(config) | set(contracts.built_in(config))
    rope = getattr(config, "rope_parameters", None)
    for key, value in content.items():
        if value is None or key in WITHOUT_EFFECT or key.startswith("_"):
            continue
        if reader is config and key in contracts.built_in(config):  # an error unless it has the only supported value
            continue
        if key == "auto_map":
            if not own_code:
                yield key, "code in the directory is never run"
        elif rope is not None and key in _ROPE_KEYS:
            yield from _unread_rope(content, key, rope, ignored)
        elif rope is not None and key in ("rope_theta", ORIGINAL_LENGTH):
            if rope.get(key) != value:
                yield key, ignored
        elif key == "partial_rotary_factor" and value == 1 and rope is not None:
            continue
        elif key not in declared:
            yield key, ignored
        elif key not in supported and key != "layer_types":  # an error unless sliding_window is consistent with it
            yield key, f"'{definition.name}' has no such option"


def _unread_rope(
    content: Mapping[str, Any], key: str, rope: Mapping[str, Any], ignored: str
) -> Iterator[tuple[str, str]]:
    given = content[key]
    if key == "rope_parameters" and content.get("rope_scaling"):
        yield key, "rope_scaling takes precedence"
        return
    for name, value in given.items() if isinstance(given, dict) else ():
        effective = rope.get("rope_type" if name == "type" else name)
        harmless = value is None or (name == "partial_rotary_factor" and value == 1)
        if effective != value and not harmless:
            yield f"{key}.{name}", ignored
