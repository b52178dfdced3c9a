"""Make a Hugging Face configuration (`config.json`, `generation_config.json`) from options and tokenizer facts."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any

from ..definitions.definition import ModelDefinition, import_object
from ..errors import ConfigurationError
from ..options.spec import specs_of
from ..settings.resolve import DERIVED, Origin, Settings, derived_values
from ..tokenizers.lookup import TokenizerFacts

TOKENIZER = "tokenizer"
TOKEN_IDS = ("bos_token_id", "eos_token_id", "pad_token_id")
NOT_GENERATION = ("_from_model_config", "transformers_version")


@dataclasses.dataclass(frozen=True)
class ResolvedValue:
    """A value of the configuration, and its origin."""

    value: Any
    origin: Origin


def option_values(settings: Settings, facts: TokenizerFacts | None) -> dict[str, ResolvedValue]:
    """Return the values of a definition's own options: as set, from the tokenizer, or derived from other options.

    Args:
        settings: The resolved options.
        facts: Facts of the tokenizer. If None, values that come from the tokenizer stay None.

    Raises:
        ConfigurationError: `vocab_size` is smaller than the tokenizer's vocabulary.
    """
    options = settings.options
    names = [spec.name for spec in specs_of(type(options))]  # type: ignore[arg-type]
    values = {name: ResolvedValue(getattr(options, name), settings.origins[name]) for name in names}
    for name, value in derived_values(options).items():
        values[name] = ResolvedValue(value, Origin(DERIVED, DERIVED))
    if facts is None:
        return values
    found = {"vocab_size": facts.vocab_size, "max_position_embeddings": facts.model_max_length}
    for name, value in found.items():
        if name in values and values[name].value is None and value is not None:
            values[name] = ResolvedValue(value, Origin(TOKENIZER, TOKENIZER))
    vocab = values.get("vocab_size")
    if vocab is not None and vocab.value < facts.vocab_size:
        chosen = settings.origins["tokenizer"]
        if chosen.rank > vocab.origin.rank:
            raise ConfigurationError(
                f"{chosen.of('tokenizer')}: '{facts.name}' has {facts.vocab_size} entries, more than the vocab_size "
                f"({vocab.value}) of {vocab.origin.label}: raise vocab_size, or choose another tokenizer"
            )
        raise ConfigurationError(
            f"{vocab.origin.of('vocab_size')}: {vocab.value} is smaller than the {facts.vocab_size} entries of the "
            f"tokenizer '{facts.name}': raise it, or choose another tokenizer"
        )
    return values


def token_ids(settings: Settings, facts: TokenizerFacts | None) -> dict[str, Any]:
    """Return the ids of the BOS, EOS and padding tokens, from the source config if there is one, else the tokenizer."""
    found = {name: getattr(facts, name, None) for name in TOKEN_IDS}
    return found | dict(settings.source_config.token_ids if settings.source_config is not None else {})


def config_values(
    definition: ModelDefinition,
    values: Mapping[str, ResolvedValue],
    facts: TokenizerFacts | None,
    ids: Mapping[str, Any],
) -> dict[str, Any]:
    """Return the arguments of the configuration class: options that have a value, vocabulary, positions, token ids.

    Without the tokenizer's facts, the options must contain the values that it would provide.
    """
    fields = {f.name for f in dataclasses.fields(import_object(definition.config, definition))}
    known = {name: item.value for name, item in values.items() if item.value is not None or name in fields}
    known = {name: value for name, value in known.items() if value is not None or not _comes_from_tokenizer(name)}
    if facts is not None:
        known.setdefault("vocab_size", facts.vocab_size)
    if facts is not None and "max_position_embeddings" in fields and facts.model_max_length is not None:
        known.setdefault("max_position_embeddings", facts.model_max_length)
    return known | dict(ids)


def _comes_from_tokenizer(name: str) -> bool:
    return name in {"vocab_size", "max_position_embeddings"}


def make_config(definition: ModelDefinition, values: Mapping[str, Any]) -> Any:
    """Return the configuration of a definition with these values.

    Raises:
        ConfigurationError: The configuration class rejects a value.
    """
    try:
        return import_object(definition.config, definition)(**values)
    except (TypeError, ValueError) as error:
        raise ConfigurationError(f"{definition.name}: {str(error).splitlines()[0]}") from None


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
    config_class = import_object(definition.config, definition)
    model_class = import_object(definition.model, definition)
    config = make_config(definition, dict(values) | ({"native": True} if native else {}))
    config.architectures = [(names or {}).get(model_class.__name__, model_class.__name__)]
    config.auto_map = _auto_map(config_class, model_class, names or {})
    content = config.to_diff_dict() | {name: getattr(config, name) for name in values}
    content = {"model_type": config_class.model_type} | {k: v for k, v in content.items() if k != "dtype"}
    return json.dumps(_head_first(content), indent=2, ensure_ascii=False) + "\n"


def _head_first(content: dict[str, Any]) -> dict[str, Any]:
    """Return the content sorted by key, with the identifying keys first."""
    head = ("model_type", "architectures", "auto_map")
    return {k: content[k] for k in head} | {k: content[k] for k in sorted(content) if k not in head}


def _auto_map(config_class: type, model_class: type, names: Mapping[str, str]) -> dict[str, str]:
    def target(cls: type) -> str:
        return f"{cls.__module__.rsplit('.', 1)[-1]}.{names.get(cls.__name__, cls.__name__)}"

    base = getattr(model_class, "decoder_class", None)  # the headless model, which vLLM and AutoModel require
    found = {"AutoConfig": target(config_class)}
    if base is not None:
        found["AutoModel"] = target(base)
    return found | {"AutoModelForCausalLM": target(model_class)}


def generation_config_json(
    ids: Mapping[str, Any], given: Mapping[str, Any] | None = None, turn_ends: Sequence[int] = ()
) -> str:
    """Return the content of `generation_config.json`: the start, stop and padding token ids of `generate`.

    It contains `use_cache` even if that is transformers' default: tools that export a model to another runtime require
    it.

    Args:
        ids: Token ids by name; None if the tokenizer lacks the token.
        given: Content of another model's file, which may contain more and takes precedence.
        turn_ends: Token ids that end a turn in the chat templates; `generate` stops at these too.
    """
    from transformers import GenerationConfig

    content = {name: value for name, value in ids.items() if value is not None}
    content |= {name: value for name, value in (given or {}).items() if name not in NOT_GENERATION}
    content |= stops_at(content.get("eos_token_id"), turn_ends)
    written = {"use_cache": True} | json.loads(GenerationConfig(**content).to_json_string(use_diff=True))
    return json.dumps(written, indent=2, sort_keys=True) + "\n"


def stops_at(eos: Any, turn_ends: Sequence[int]) -> dict[str, Any]:
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
