"""Which commands an option belongs to, and what it requires to have an effect there.

Only options that are typed on the command line are refused. A value in a YAML file may serve several commands.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from ..errors import ConfigurationError
from ..option import METADATA_KEY, OptionInfo
from ..option import option as plain_option
from .spec import OptionSpec

MODEL_COMMANDS = ("construct", "test", "verify", "show", "estimate", "compare")
WRITING = ("construct", "test", "verify")  # they write the model directory
BUILDING = ("construct", "test")  # they build the model from it as the options say
STEPPING = ("test", "estimate", "compare")  # they run or estimate a training step
ESTIMATING = ("estimate", "compare")
# Options that a YAML file may set are also shown by `show`.
WRITTEN, BUILT, COMPUTED = (*WRITING, "show"), (*BUILDING, "show"), (*BUILDING, "show", *ESTIMATING)

Values = Mapping[str, Any]


class Need:
    """A condition without which an option has no effect. No dataclass: help pages wait for those to be made.

    Args:
        text: What the option requires, the end of a sentence.
        holds: Whether the resolved values meet it.
        commands: The commands in which it matters.
    """

    def __init__(self, text: str, holds: Callable[[Values], bool], commands: tuple[str, ...] = BUILDING) -> None:
        self.text, self.holds, self.commands = text, holds, commands


SAVING = Need("--save-checkpoint", lambda values: bool(values["save_checkpoint"]))
LOADING = Need("--load-from-checkpoint", lambda values: values["load_from_checkpoint"] is not None)
REAL_DEVICE = Need("a real device: add --device cpu", lambda values: values["device"] != "meta")
TRAINING = Need("a real device: add --device cpu", lambda values: values["device"] != "meta", ("test",))
INITIALIZING = Need(
    "initial weights: drop --no-init-weights", lambda values: not values["no_init_weights"], ("construct",)
)
DATASET = Need("--dataset-project", lambda values: values["dataset_project"] is not None, ("test",))
PACKED = Need("--packed", lambda values: bool(values["packed"]), ("test",))
WHOLE = Need("--full", lambda values: bool(values["full"]) or bool(values["list"]), ("verify",))
LISTING = Need("a run of the checks: drop --list", lambda values: not values["list"], ("verify",))


@dataclass(frozen=True, kw_only=True)
class SharedOptionInfo(OptionInfo):
    """An option of `forgather model`.

    Args:
        commands: The commands that use it.
        needs: What it requires to have an effect.
    """

    commands: tuple[str, ...] = MODEL_COMMANDS
    needs: tuple[Need, ...] = ()


def shared_option(
    default: Any, *, commands: tuple[str, ...] = MODEL_COMMANDS, needs: tuple[Need, ...] = (), **info: Any
) -> Any:
    """Declare a shared option. The arguments are those of `option`, `commands` and `needs` those of its class."""
    field = plain_option(default, **info)
    given: OptionInfo = field.metadata[METADATA_KEY]
    values = {item.name: getattr(given, item.name) for item in dataclasses.fields(given)}
    scoped = SharedOptionInfo(**values, commands=commands, needs=needs)
    return dataclasses.field(default=default, metadata={METADATA_KEY: scoped})


def commands_of(spec: OptionSpec) -> tuple[str, ...]:
    """The commands that use an option; those of a definition belong to all."""
    return spec.info.commands if isinstance(spec.info, SharedOptionInfo) else MODEL_COMMANDS


def belongs_to(spec: OptionSpec) -> str:
    """The commands of an option, for a message."""
    return listed(repr(name) for name in commands_of(spec))


def listed(words: Iterable[str]) -> str:
    """Join words: a, b and c."""
    *most, last = words
    return f"{', '.join(most)} and {last}" if most else last


def refuse_other_commands(command: str, typed: Iterable[OptionSpec]) -> None:
    """Refuse options that `command` does not use.

    Raises:
        ConfigurationError: One of them belongs to other commands only.
    """
    for spec in typed:
        if command not in commands_of(spec):
            raise ConfigurationError(f"{spec.flag} has no effect on '{command}'; it belongs to {belongs_to(spec)}")


def refuse_without_effect(command: str, typed: Iterable[OptionSpec], values: Values) -> None:
    """Refuse options of `command` that have no effect together with the other values.

    Args:
        command: The command.
        typed: The options that were typed.
        values: The resolved values of all options by name, those of YAML files included.

    Raises:
        ConfigurationError: An option requires another one.
    """
    for spec in typed:
        for need in spec.info.needs if isinstance(spec.info, SharedOptionInfo) else ():
            if command in need.commands and values[spec.name] is not None and not need.holds(values):
                raise ConfigurationError(f"{spec.flag} requires {need.text}")
