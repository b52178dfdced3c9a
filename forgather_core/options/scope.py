"""The commands that use each shared option, and the conditions without which an option has no effect.

Only options of the command line or of a Python call are refused: a YAML file may be used with several commands.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ..errors import ConfigurationError
from ..option import METADATA_KEY, OptionInfo
from ..option import option as plain_option
from .spec import OptionSpec

MODEL_COMMANDS = ("construct", "test", "train", "verify", "show", "estimate", "compare")
WRITING = ("construct", "test", "train", "verify")  # write the model directory
BUILDING = ("construct", "test", "train")  # build the model from the directory, according to the options
STEPPING = ("test", "train", "estimate", "compare")  # run or estimate a training step
RUNNING = ("test", "train")  # run training steps
ESTIMATING = ("estimate", "compare")
# `show` also takes the options that a YAML file may set.
ON_REQUEST = ("construct", "test", "show")  # save weights only on request
WRITING_AND_SHOW, BUILDING_AND_SHOW, BUILDING_SHOW_ESTIMATING = (
    (*WRITING, "show"),
    (*BUILDING, "show"),
    (*BUILDING, "show", *ESTIMATING),
)

Values = Mapping[str, Any]


class Requirement:
    """A condition without which an option has no effect. Not a dataclass: creating one slows down help pages.

    Args:
        text: The requirement, completing "--flag requires ...".
        holds: Returns whether the resolved values meet the requirement.
        commands: The commands to which the requirement applies.
    """

    def __init__(self, text: str, holds: Callable[[Values], bool], commands: tuple[str, ...] = BUILDING) -> None:
        self.text, self.holds, self.commands = text, holds, commands


SAVING = Requirement("--save-checkpoint", lambda values: bool(values["save_checkpoint"]))
LOADING = Requirement("--load-from-checkpoint", lambda values: values["load_from_checkpoint"] is not None)
REAL_DEVICE = Requirement(
    "a real device: add --device cpu", lambda values: values["device"] != "meta", ("construct", "test")
)
TRAINING = Requirement("a real device: add --device cpu", lambda values: values["device"] != "meta", ("test",))
INITIALIZING = Requirement(
    "initial weights: remove --no-init-weights", lambda values: not values["no_init_weights"], ("construct",)
)
DATASET = Requirement("--dataset-project", lambda values: values["dataset_project"] is not None, ("test", "train"))
PACKED = Requirement("--packed", lambda values: bool(values["packed"]), ("test",))
FULL = Requirement("--full", lambda values: bool(values["full"]) or bool(values["list"]), ("verify",))
NOT_LISTING = Requirement("a run of the checks: remove --list", lambda values: not values["list"], ("verify",))


@dataclass(frozen=True, kw_only=True)
class SharedOptionInfo(OptionInfo):
    """The declaration of a shared option.

    Args:
        commands: The commands that use it.
        requirements: Conditions without which it has no effect.
        aliases: Former names. They are accepted as flags and YAML keys, but not shown in help or completion.
        required: The command line must set it.
        comma_separated: The value is one or more names: "a,b" in one text, or a list or tuple of names.
        helps: Help texts of commands in which the option or its default differs; they state the default.
        check: Called with each value; raises ConfigurationError if it is invalid.
    """

    commands: tuple[str, ...] = MODEL_COMMANDS
    requirements: tuple[Requirement, ...] = ()
    aliases: tuple[str, ...] = ()
    required: bool = False
    comma_separated: bool = False
    helps: Mapping[str, str] = field(default_factory=dict)
    check: Callable[[Any], object] | None = None

    def complaint(self, value: Any) -> str | None:
        """Return the bound that `value` violates; raise ConfigurationError if `check` refuses it."""
        if self.check is not None and value is not None:
            self.check(value)
        return super().complaint(value)


def shared_option(
    default: Any,
    *,
    commands: tuple[str, ...] = MODEL_COMMANDS,
    requirements: tuple[Requirement, ...] = (),
    aliases: tuple[str, ...] = (),
    required: bool = False,
    comma_separated: bool = False,
    helps: Mapping[str, str] | None = None,
    check: Callable[[Any], object] | None = None,
    **info: Any,
) -> Any:
    """Declare a shared option.

    Args:
        default: The default value.
        commands: See `SharedOptionInfo`.
        requirements: See `SharedOptionInfo`.
        aliases: See `SharedOptionInfo`.
        required: See `SharedOptionInfo`.
        comma_separated: See `SharedOptionInfo`.
        helps: See `SharedOptionInfo`.
        check: See `SharedOptionInfo`.
        **info: The fields of `OptionInfo`.
    """
    declared: OptionInfo = plain_option(default, **info).metadata[METADATA_KEY]
    values = {item.name: getattr(declared, item.name) for item in dataclasses.fields(declared)}
    scoped = SharedOptionInfo(
        **values,
        commands=commands,
        requirements=requirements,
        aliases=aliases,
        required=required,
        comma_separated=comma_separated,
        helps=helps or {},
        check=check,
    )
    return dataclasses.field(default=default, metadata={METADATA_KEY: scoped})


def commands_of(spec: OptionSpec) -> tuple[str, ...]:
    """Return the commands that use an option. All commands use the options of a definition."""
    return spec.info.commands if isinstance(spec.info, SharedOptionInfo) else MODEL_COMMANDS


def help_of(spec: OptionSpec, command: str | None) -> str | None:
    """Return the help text of an option that a command replaces, default included; None if it does not."""
    return spec.info.helps.get(command or "") if isinstance(spec.info, SharedOptionInfo) else None


def requirements_of(spec: OptionSpec) -> tuple[Requirement, ...]:
    """Return the conditions without which an option has no effect."""
    return spec.info.requirements if isinstance(spec.info, SharedOptionInfo) else ()


def is_required(spec: OptionSpec) -> bool:
    """Return whether the command line must set an option."""
    return isinstance(spec.info, SharedOptionInfo) and spec.info.required


def no_effect(flag: str, command: str, commands: Iterable[str]) -> ConfigurationError:
    """Return the error about an option that a command does not use.

    Args:
        flag: The option.
        command: The command.
        commands: The commands that use the option.
    """
    hint = f"remove it, or use {joined(map(repr, commands), 'or')}"
    return ConfigurationError(f"has no effect on '{command}'", option=flag, hint=hint)


def joined(words: Iterable[str], conjunction: str = "and") -> str:
    """Join words as `a, b and c`."""
    *most, last = words
    return f"{', '.join(most)} {conjunction} {last}" if most else last


def refuse_other_commands(command: str, given: Iterable[OptionSpec]) -> None:
    """Refuse options that `command` does not use.

    Raises:
        ConfigurationError: An option belongs to other commands only.
    """
    for spec in given:
        if command not in commands_of(spec):
            raise no_effect(spec.flag, command, commands_of(spec))


def refuse_without_effect(command: str, given: Iterable[OptionSpec], values: Values) -> None:
    """Refuse options of `command` that have no effect in combination with the other values.

    Args:
        command: The command.
        given: The options set on the command line or in a Python call.
        values: The resolved values of all options by name, including those from YAML files.

    Raises:
        ConfigurationError: An option requires another one.
    """
    for spec in given:
        for requirement in requirements_of(spec):
            is_set = values[spec.name] is not None and values[spec.name] is not False
            if command in requirement.commands and is_set and not requirement.holds(values):
                raise ConfigurationError(f"requires {requirement.text}", option=spec.flag)
