"""The report of `construct` as plain data: options, tokenizer, parameters, weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from ..errors import first_line
from ..filesystem.printable import plain_copy
from ..model.meta_model import Template
from ..model.parameters import ParameterTable, parameter_table
from ..options.shared import BuildOptions
from ..runtime.partial_results import keep_partial
from ..settings.resolved_model import ResolvedModel
from ..tokenizers.lookup import TokenizerFacts, load_tokenizer, quick_facts
from .compatibility import compatibility

if TYPE_CHECKING:
    from ..commands.construct import ConstructedModel


def construction_report(
    made: ConstructedModel, on_partial: Callable[[dict[str, Any]], None] | None = None
) -> dict[str, Any]:
    """Return the report of `construct`: directory, options, tokenizer, parameters, loaded and saved weights.

    Args:
        made: The constructed model.
        on_partial: Called with a report without the memory of a training step, if that estimate is interrupted.
    """
    return with_memory(report_without_memory(made), made.resolved, Template.of(made.model), on_partial)


def with_memory(
    report: dict[str, Any],
    resolved: ResolvedModel,
    template: Template,
    on_partial: Callable[[dict[str, Any]], None] | None = None,
) -> dict[str, Any]:
    """Return the report with the memory of a training step, which takes about a second.

    Args:
        report: The report without it.
        resolved: The resolved model.
        template: Class and configuration of the model.
        on_partial: See `construction_report`.
    """

    def keep(reason: str) -> None:
        if on_partial is not None:
            on_partial(noted(None, f"the memory of a training step is unknown: {reason}"))

    def noted(memory: dict[str, Any] | None, *unknown: str) -> dict[str, Any]:
        return report | {"memory": memory, "notes": [*report["notes"], *unknown]}

    with keep_partial(keep):
        return noted(*_memory(resolved, template))


def report_without_memory(made: ConstructedModel) -> dict[str, Any]:
    """Return the report of a model and its directory as they are now, with `memory` null."""
    from ..model.build import is_checkpointing

    table = parameter_table(made.model)
    path = str(made.directory.path)
    facts = quick_facts(path) or load_tokenizer(path).facts
    manifest = made.directory.manifest
    first = next(made.model.parameters(), None)
    return {
        "configuration": manifest.configuration,
        "definition": dict(manifest.definition),
        "model_name": manifest.model_name,
        "directory": str(made.directory.path),
        "state": made.directory.state,
        "notes": [
            *made.directory.notes,
            *_source_notes(made.resolved),
            *_parameter_note(made.resolved, table),
        ],
        "options": _options(made),
        "tokenizer": _tokenizer(facts, manifest.tokenizer["name"]),
        "build": {
            "class": type(made.model).__name__,
            "device": str(first.device) if first is not None else None,
            "dtype": str(first.dtype).removeprefix("torch.") if first is not None else None,
            "attention": made.model.config._attn_implementation,  # type: ignore[union-attr]
            "gradient_checkpointing": is_checkpointing(made.model),
            "initial_weights": _initial_weights(made.resolved.build),
        },
        "parameters": asdict(table),
        "memory": None,
        "compatibility": compatibility(
            made.resolved, made.model, manifest.native, manifest.tokenizer["name"], made.directory.path
        ),
        "loaded": made.loaded.to_dict() if made.loaded is not None else None,
        "saved": made.saved.to_dict() if made.saved is not None else None,
    }


def _options(made: ConstructedModel) -> dict[str, Any]:
    """Return the options of the directory. The origin of options set by an earlier run is the directory."""
    manifest, now = made.directory.manifest, made.resolved.values
    if made.directory.state in ("created", "rebuilt"):
        return {name: asdict(item) for name, item in manifest.options.items()}
    return {
        name: {
            "value": item.value,
            "origin": now[name].origin.label
            if name in now and plain_copy(now[name].value) == item.value
            else "the directory",
        }
        for name, item in manifest.options.items()
    }


def _source_notes(resolved: ResolvedModel) -> tuple[str, ...]:
    return resolved.source_config.notes if resolved.source_config is not None else ()


def _memory(resolved: ResolvedModel, template: Template) -> tuple[dict[str, Any]] | tuple[None, str]:
    """Return the memory of a training step, or None and the reason. A model whose step fails is still constructed."""
    from ..estimate import memory_of_step

    try:
        return (memory_of_step(resolved, template),)
    except Exception as error:
        reason = f"{type(error).__name__}: {first_line(error)}"
        return None, f"the memory of a training step is unknown, because the step fails: {reason}"


def _tokenizer(facts: TokenizerFacts, name: str) -> dict[str, Any]:
    ids = {key: getattr(facts, key) for key in ("bos_token_id", "eos_token_id", "pad_token_id", "unk_token_id")}
    return {
        "name": name,
        "vocab_size": facts.vocab_size,
        "model_max_length": facts.model_max_length,
        **ids,
        "chat_template": bool(facts.chat_templates),
    }


def _initial_weights(options: BuildOptions) -> str:
    if options.device == "meta":
        return "none: meta tensors have no values"
    if options.no_init_weights:
        return "none: --no-init-weights leaves them uninitialized"
    if options.load_from_checkpoint is not None:
        return f"loaded from {options.load_from_checkpoint}"
    return f"initialization of the definition, seed {options.seed}"


def _parameter_note(resolved: ResolvedModel, table: ParameterTable) -> list[str]:
    """Compare the number of parameters with that of the preset."""
    expected = resolved.expected_parameters
    if expected is None or expected == table.total:
        return []
    return [f"expected {expected:,} parameters according to the configuration, got {table.total:,}"]
