"""Shell completion of the values of options and arguments, without importing torch.

Shells offer files where there are no completions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import typer

from forgather_core.definitions.registry import registry
from forgather_core.options.spec import OptionSpec

from .bridge.shell import first_argument

SHELLS = ("bash", "zsh", "fish", "powershell", "pwsh")
DEVICES = ("meta", "cpu", "cuda", "mps")
# The names in `forgather_core.checks.CHECKS`, which imports torch; a test compares both.
CHECK_NAMES = (
    "causality", "sliding-window", "packing-isolation", "padding", "batch-invariance", "positions",
    "attention-backends", "call-agreement", "call-state", "kv-cache", "cache-size", "attention-cost", "generation",
    "continuous-batching", "inputs-embeds", "hidden-states", "adapters", "loss", "gradients", "gradient-checkpointing",
    "dropout", "precision",
    "torch-compile", "initial-weights", "signal-propagation", "same-seed", "buffers", "state-dict", "round-trip",
    "config-fields", "tokenizer", "imports", "standalone", "manifest", "parallel-plans", "parallel-agreement",
    "no-dead-options", "other-options", "native-parity", "reference-parity", "other-implementation", "init-std",
    "estimates",
)  # fmt: skip
DTYPES = ("float32", "bfloat16", "float16", "float64")

Complete = Callable[..., list[Any]]


def starting_with(values: Iterable[str], incomplete: str) -> list[str]:
    """Return the values that start with `incomplete`."""
    return [value for value in values if value.startswith(incomplete)]


def templates(ctx: typer.Context, incomplete: str) -> list[tuple[str, str]]:
    """Complete `-t` and the models of `compare`: definitions, presets and configurations, with a summary."""
    project = Path(ctx.find_root().params.get("project") or ".")
    return [(name, about) for name, about in _templates(project) if name.startswith(incomplete)]


def _templates(project: Path) -> Iterator[tuple[str, str]]:
    from forgather_core.settings.layers import project_files

    for definition in registry().definitions():
        yield definition.name, definition.summary
        yield from ((f"{definition.name}/{preset}", definition.summary) for preset in definition.preset_names())
    yield from ((name, str(path)) for name, path in project_files(project).items())


def tokenizers(incomplete: str) -> list[str]:
    """Complete shipped tokenizers; the shell completes directories."""
    from forgather_core.tokenizers.lookup import shipped_tokenizers

    return starting_with(shipped_tokenizers(), incomplete)


def chat_templates(incomplete: str) -> list[str]:
    """Complete shipped chat templates; the shell completes files."""
    from forgather_core.tokenizers.lookup import shipped_chat_templates

    return starting_with(shipped_chat_templates(), incomplete)


def projects(incomplete: str) -> list[str]:
    """Complete built-in dataset projects; the shell completes directories."""
    from forgather_core.data.built_in import BUILT_IN

    return starting_with(BUILT_IN, incomplete)


def project_configurations(ctx: typer.Context, incomplete: str) -> list[str]:
    """Complete the configurations of the dataset project given earlier on the line."""
    from forgather_core.data.built_in import BUILT_IN
    from forgather_core.data.projects import configuration_files
    from forgather_core.errors import DataError

    session = ctx.find_root().meta.get("forgather")  # only the commands of models have one
    given = session.given.get("dataset_project") if session is not None else None
    project = ctx.params.get("project") or getattr(ctx.params.get("dataset_project"), "value", None) or given
    project = project or ctx.params.get("dataset_project") or first_argument(ctx)
    try:
        return starting_with(BUILT_IN.get(project) or (configuration_files(project) if project else ()), incomplete)
    except (DataError, OSError):
        return []


def devices(incomplete: str) -> list[str]:
    """Complete device types."""
    return starting_with(DEVICES, incomplete)


def dtypes(incomplete: str) -> list[str]:
    """Complete dtypes."""
    return starting_with(DTYPES, incomplete)


def formats(incomplete: str) -> list[str]:
    """Complete checkpoint formats."""
    return starting_with(("safetensors", "bin"), incomplete)


def checks(incomplete: str) -> list[str]:
    """Complete the last name in a comma-separated list of Forgather's checks."""
    before, comma, last = incomplete.rpartition(",")
    used = before.split(",")
    return [before + comma + name for name in starting_with(CHECK_NAMES, last) if name not in used]


# Completion functions of shared options. Options of definitions are completed only if they have choices.
_OF_OPTION: dict[str, Complete] = {
    "tokenizer": tokenizers,
    "chat_template": chat_templates,
    "device": devices,
    "dtype": dtypes,
    "dataset_project": projects,
    "dataset_config": project_configurations,
    "checks": checks,
    "format": formats,
}


def completion_of(spec: OptionSpec) -> Complete | None:
    """Return the completion function of an option, or None to let the shell complete files."""
    if isinstance(spec.kind, tuple):
        choices = [*map(str, spec.kind)]
        return lambda incomplete: starting_with(choices, incomplete)
    return _OF_OPTION.get(spec.name) if spec.info.group is not None else None
