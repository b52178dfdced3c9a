"""Create the Hugging Face configuration of a model: `config.json` and `generation_config.json`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from ..definitions.contracts import decoder_class
from ..definitions.definition import ModelDefinition
from ..errors import ConfigurationError, first_line

NOT_GENERATION = ("_from_model_config", "transformers_version")


def make_config(definition: ModelDefinition, values: Mapping[str, Any]) -> Any:
    """Return the configuration of a definition with these values.

    Raises:
        ConfigurationError: The configuration class rejects a value.
    """
    try:
        return definition.config_class()(**values)
    except (TypeError, ValueError) as error:
        problem = f"'{definition.name}' rejects these options: {first_line(error)}"
        raise ConfigurationError(problem, hint="correct these options") from None


def config_json(
    definition: ModelDefinition,
    values: Mapping[str, Any],
    *,
    native: bool = False,
    names: Mapping[str, str] | None = None,
) -> str:
    """Return the content of `config.json`, with the auto_map that makes the directory self-contained.

    Args:
        definition: The definition.
        values: Arguments of its configuration class.
        native: Write the model type of transformers' own class, so that transformers can load the directory too.
        names: New class names by old name; None keeps all names.
    """
    config_class = definition.config_class()
    model_class = definition.model_class()
    config = make_config(definition, dict(values) | ({"native": True} if native else {}))
    config.architectures = [(names or {}).get(model_class.__name__, model_class.__name__)]
    config.auto_map = _auto_map(config_class, model_class, names or {})
    content = config.to_diff_dict() | {name: getattr(config, name) for name in values}
    content = {"model_type": config_class.model_type} | {k: v for k, v in content.items() if k != "dtype"}
    return json.dumps(_identifying_keys_first(content), indent=2, ensure_ascii=False) + "\n"


def _identifying_keys_first(content: dict[str, Any]) -> dict[str, Any]:
    """Return the content sorted by key, with the identifying keys first."""
    head = ("model_type", "architectures", "auto_map")
    return {k: content[k] for k in head} | {k: content[k] for k in sorted(content) if k not in head}


def _auto_map(config_class: type, model_class: type, names: Mapping[str, str]) -> dict[str, str]:
    def target(cls: type) -> str:
        return f"{cls.__module__.rsplit('.', 1)[-1]}.{names.get(cls.__name__, cls.__name__)}"

    base = decoder_class(model_class)  # the headless model, which vLLM and AutoModel require
    found = {"AutoConfig": target(config_class)}
    if base is not None:
        found["AutoModel"] = target(base)
    return found | {"AutoModelForCausalLM": target(model_class)}


def generation_config_json(
    ids: Mapping[str, Any], source: Mapping[str, Any] | None = None, turn_ends: Sequence[int] = ()
) -> str:
    """Return the content of `generation_config.json`: the start, stop and padding token ids of `generate`.

    It contains `use_cache` even if that is transformers' default: tools that export a model to another runtime require
    it.

    Args:
        ids: Token ids by name; None if the tokenizer lacks the token.
        source: Content of the source config's generation_config.json. It takes precedence, and may have more keys.
        turn_ends: Token ids that end a turn in the chat templates; `generate` stops at these too.
    """
    from transformers import GenerationConfig

    content = {name: value for name, value in ids.items() if value is not None}
    content |= {name: value for name, value in (source or {}).items() if name not in NOT_GENERATION}
    content |= eos_entry(content.get("eos_token_id"), turn_ends)
    written = {"use_cache": True} | json.loads(GenerationConfig(**content).to_json_string(use_diff=True))
    return json.dumps(written, indent=2, sort_keys=True) + "\n"


def eos_entry(eos: Any, turn_ends: Sequence[int]) -> dict[str, Any]:
    """Return `eos_token_id` extended by the ends of turns: an int for one token, a list for several.

    Args:
        eos: A token id, a list of them, or None.
        turn_ends: Token ids that end a turn in the chat templates.

    Returns:
        The entry to write, or an empty dict if `eos` contains all of them.
    """
    known = [] if eos is None else list(eos) if isinstance(eos, list | tuple) else [eos]
    new = [token for token in turn_ends if token not in known]
    if not new:
        return {}
    return {"eos_token_id": [*known, *new] if len(known) + len(new) > 1 else new[0]}
