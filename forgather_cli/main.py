"""`forgather`: the root command. Only this module turns expected errors into one line and an exit code."""

from __future__ import annotations

import atexit
import errno
import gc
import importlib.metadata
import os
import sys
from typing import Annotated, Any

import typer

from forgather_core.errors import ForgatherError, access_hint
from forgather_core.filesystem.paths import project_directory
from forgather_core.filesystem.printable import one_line
from forgather_core.options.scope import MODEL_COMMANDS, no_effect
from forgather_core.options.shared import OutputOptions
from forgather_core.parallel.launched import launched

from . import model
from .bridge.lazy_group import LazyGroup
from .bridge.plain import given, with_options
from .bridge.usage_errors import UsageError, is_help, usage_text
from .completion import templates
from .messages import prepare_warnings
from .output import Output
from .program import INTERRUPTED
from .streams import discard_unwritten, output_problem, prepare_streams, print_stderr
from .workers import worker

# Imported only if requested, for the speed of help pages: commands by the module that defines them.
LAZY = {"verify": "directories", "sample": "directories", "eval": "directories"}
LAZY |= {name: name for name in ("checkpoint", "dataset", "tokenizer", "plugin")}
ORDER = ("ls", "verify", "sample", "eval", "plugins", "model", "checkpoint", "dataset", "tokenizer", "plugin")


class RootGroup(LazyGroup):
    """`forgather`, with commands that are imported on demand."""

    epilog_text = "A first model: forgather -t llama/4M model --device cpu --save-checkpoint construct"
    package = __package__
    lazy = LAZY
    order = ORDER


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
    # Importing torch and transformers makes a million objects, none of which is garbage: a seventh of the time.
    gc.set_threshold(100_000)
    prepare_warnings()
    prepare_streams()
    try:
        with worker():
            code = app(standalone_mode=False)
            sys.stdout.flush()
    except ForgatherError as error:
        code = _print_error(error, error.exit_code)
    except UsageError as error:
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
    # Newer releases of Typer return this code. Of several processes, the program that started them reports.
    if code == INTERRUPTED and launched() is None:
        print_stderr("forgather: interrupted")
    discard_unwritten()
    sys.exit(code if isinstance(code, int) else 0)


def _print_error(error: Any, code: int) -> int:
    if is_help(error):
        print_stderr(error.format_message())
        return code
    if os.environ.get("FORGATHER_TRACEBACK"):
        raise error
    if isinstance(error, OSError):
        prefix = f"{error.filename}: " if error.filename else ""
        text = f"{prefix}{error.strerror}: {access_hint(error)}"
    elif isinstance(error, UsageError):
        text = usage_text(error)
    else:
        text = str(error.with_flags)
    print_stderr("forgather: error: " + one_line(text))
    return code


if __name__ == "__main__":
    main()
