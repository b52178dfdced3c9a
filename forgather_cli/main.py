"""`forgather`: the root command. Only this module turns expected errors into one line and an exit code."""

from __future__ import annotations

import atexit
import errno
import gc
import importlib
import importlib.metadata
import os
import sys
from collections.abc import Iterable
from typing import Annotated, Any

import typer
import typer.main

from forgather_core.errors import ForgatherError, access_hint
from forgather_core.filesystem.paths import project_directory
from forgather_core.filesystem.printable import one_line
from forgather_core.options.scope import MODEL_COMMANDS, no_effect
from forgather_core.options.shared import OutputOptions
from forgather_core.options.spec import did_you_mean

from . import model
from .bridge.plain import PlainGroup, given, with_options
from .completion import SHELLS, templates
from .messages import prepare_warnings
from .output import Output
from .program import INTERRUPTED
from .streams import discard_unwritten, output_problem, prepare_streams, print_stderr

# Imported only if requested, for the speed of help pages: commands by the module that defines them.
LAZY = {"verify": "directories", "sample": "directories", "eval": "directories"}
LAZY |= {name: name for name in ("checkpoint", "dataset", "tokenizer", "plugin")}
ORDER = ("ls", "verify", "sample", "eval", "plugins", "model", "checkpoint", "dataset", "tokenizer", "plugin")


_COMPLETION = {
    "install_completion": f"Install shell completion (default: the current shell): {', '.join(SHELLS)}",
    "show_completion": "Print the completion script of a shell (default: the current shell)",
}


def _complete_shell(ctx: Any, flag: str, shell: str) -> None:
    """Install or print completion for a shell, and exit."""
    from typer.completion import install_callback, show_callback

    if shell not in SHELLS:
        problem = f"must be one of {', '.join(SHELLS)}; got '{shell}'"
        raise ForgatherError(problem, option=flag, hint=did_you_mean(shell, SHELLS))
    (install_callback if flag == "--install-completion" else show_callback)(ctx, None, shell)  # type: ignore[arg-type]


class RootGroup(PlainGroup):
    """`forgather`, with commands that are imported on demand."""

    epilog_text = "A first model: forgather -t llama/4M model --device cpu --save-checkpoint construct"

    def get_command(self, ctx: Any, name: str) -> Any:
        """Return the command `name`."""
        if name not in self.commands:
            self._add([name] if name in LAZY else LAZY)  # a misspelt name is compared with all commands
        return super().get_command(ctx, name)

    def list_commands(self, ctx: Any) -> list[str]:
        """Return the names of all commands."""
        self._add(LAZY)
        return sorted(super().list_commands(ctx), key=ORDER.index)

    def get_params(self, ctx: Any) -> list[Any]:
        """Return the options of the root; the help of the completion options states that they accept a shell."""
        parameters = super().get_params(ctx)
        for parameter in parameters:
            if parameter.name in _COMPLETION:
                parameter.metavar, parameter.help = "[SHELL]", _COMPLETION[parameter.name]
        return parameters

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the arguments. The completion options accept a shell, which Typer would read as a command."""
        flag, equals, shell = args[0].partition("=") if args else ("", "", "")
        name = flag[2:].replace("-", "_")
        if flag[:2] == "--" and name in _COMPLETION and not ctx.resilient_parsing and (equals or len(args) > 1):
            _complete_shell(ctx, flag, shell if equals else args[1])
        return super().parse_args(ctx, args)

    def _add(self, names: Iterable[str]) -> None:
        for name in names:
            if name not in self.commands:
                group = typer.main.get_group(importlib.import_module(f".{LAZY[name]}", __package__).app)
                self.commands[name] = group.commands.get(name, group)


app = typer.Typer(
    cls=RootGroup,
    no_args_is_help=True,
    rich_markup_mode=None,
    context_settings=model.CONTEXT_SETTINGS,
    help="Turn a model definition into a model directory that any Hugging Face tool loads.",
)
app.add_typer(model.app, name="model")


def _version(requested: bool | None) -> None:
    if requested:
        typer.echo(f"forgather {importlib.metadata.version('forgather')}")
        raise typer.Exit()


# The commands that use each option of the root.
ROOT_SCOPES = {"-t": ("model",), "-p": ("model", "ls")}


@app.callback()
def root(
    ctx: typer.Context,
    template: Annotated[
        str | None,
        typer.Option(
            "-t", "--template", metavar="NAME", help="Model: llama/4M, llama, or a YAML file", autocompletion=templates
        ),
    ] = None,
    project: Annotated[
        str | None,
        typer.Option("-p", "--project", metavar="DIR", help="Project directory (default: current directory)"),
    ] = None,
    version: Annotated[
        bool | None, typer.Option("--version", callback=_version, is_eager=True, help="Print the version")
    ] = None,
) -> None:
    """Turn a model definition into a model directory that any Hugging Face tool loads."""
    for flag, value in (("-t", template), ("-p", project)):
        if value is not None and ctx.invoked_subcommand not in ROOT_SCOPES[flag]:
            command = str(ctx.invoked_subcommand)
            in_model = f"model {command}" if command in MODEL_COMMANDS else "model"
            raise no_effect(flag, command, (in_model, *ROOT_SCOPES[flag][1:]))
    if project is not None:
        ctx.params["project"] = str(project_directory(project, "-p"))


@app.command(cls=with_options(OutputOptions), context_settings=model.CONTEXT_SETTINGS)
def ls(ctx: typer.Context) -> None:
    """List all model definitions with their presets, and the configurations of this project."""
    from .views import listing

    output = Output(listing.models, given(ctx, OutputOptions))
    import forgather

    output.emit(forgather.list_models(ctx.find_root().params.get("project") or "."))


@app.command(cls=with_options(OutputOptions), context_settings=model.CONTEXT_SETTINGS)
def plugins(ctx: typer.Context) -> None:
    """List the plugins that provide definitions; exit code 1 if one is broken."""
    from .views import listing

    output = Output(listing.plugins, given(ctx, OutputOptions))
    import forgather

    result = forgather.list_plugins()
    output.emit(result)
    raise typer.Exit(1 if result.broken else 0)


# Typer vendors Click, and exports only subclasses of this base class of all usage errors.
_UsageError: Any = next(cls for cls in typer.BadParameter.__mro__ if cls.__name__ == "ClickException")


# Errors of the system that have a cause outside the program: a full disk, a long path, no permission.
_EXTERNAL_ERRORS = {
    errno.ENAMETOOLONG,
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EACCES,
    errno.EPERM,
    errno.EROFS,
    errno.ELOOP,
    errno.ENOMEM,
}


def main() -> None:
    """Run the program. Exit codes: 0, 1 if a model fails, 2 for invalid input, 130 if interrupted."""
    # Freeing every object at exit would take 17 of the 107 ms of a help page. The system reclaims the memory anyway.
    atexit.register(gc.freeze)
    prepare_warnings()
    prepare_streams()
    try:
        code = app(standalone_mode=False)
        sys.stdout.flush()
    except ForgatherError as error:
        code = _print_error(error, error.exit_code)
    except _UsageError as error:
        code = _print_error(error, error.exit_code)
    except (KeyboardInterrupt, typer.Abort):
        code = INTERRUPTED
    except BrokenPipeError:
        code = 1
    except OSError as error:
        problem = output_problem(error)
        if problem is None and error.errno not in _EXTERNAL_ERRORS:
            raise
        code = _print_error(ForgatherError(problem) if problem is not None else error, 2)
    except UnicodeEncodeError as error:
        if error.reason != "surrogates not allowed":
            raise
        invalid = ForgatherError(f"'{error.object}' is not UTF-8", hint="rename it, or choose another name")
        code = _print_error(invalid, 2)
    except Exception as error:
        from forgather_core.runtime.out_of_memory import out_of_memory

        text = out_of_memory(error)
        if text is None:
            raise
        code = _print_error(ForgatherError(text), 2)
    if code == INTERRUPTED:  # newer releases of Typer return this code
        print_stderr("forgather: interrupted")
    discard_unwritten()
    sys.exit(code if isinstance(code, int) else 0)


def _print_error(error: Any, code: int) -> int:
    if type(error).__name__ == "NoArgsIsHelpError":  # a group without a command: the message is the help page
        print_stderr(error.format_message())
        return code
    if os.environ.get("FORGATHER_TRACEBACK"):
        raise error
    if isinstance(error, OSError):
        prefix = f"{error.filename}: " if error.filename else ""
        text = f"{prefix}{error.strerror}: {access_hint(error)}"
    elif isinstance(error, _UsageError):
        from .bridge.usage_errors import usage_text

        text = usage_text(error)
    else:
        text = str(error.with_flags)
    print_stderr("forgather: error: " + one_line(text))
    return code


if __name__ == "__main__":
    main()
