"""`forgather`: the root command, and the one place where expected errors become a line and an exit code."""

from __future__ import annotations

import atexit
import errno
import gc
import importlib
import importlib.metadata
import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

import typer
import typer.main

from forgather_core.errors import ForgatherError
from forgather_core.option_scope import listed
from forgather_core.option_spec import did_you_mean
from forgather_core.out_of_memory import out_of_memory
from forgather_core.printable import one_line
from forgather_core.registry import registry

from . import model
from .dynamic import PlainCommand, PlainGroup
from .messages import make_warnings_printable
from .program import INTERRUPTED

# Made where they may be meant: Typer makes all options of a group at once.
LATE_GROUPS = ("checkpoint", "dataset", "tokenizer", "plugin")


class RootGroup(PlainGroup):
    """`forgather`, with groups that are made late."""

    epilog_text = "A first model: forgather -t llama/4M model --device cpu --save-checkpoint construct"

    def get_command(self, ctx: Any, name: str) -> Any:
        """The command of that name."""
        if name not in self.commands:
            self._add([name] if name in LATE_GROUPS else LATE_GROUPS)  # a misspelt name is compared with all
        return super().get_command(ctx, name)

    def list_commands(self, ctx: Any) -> list[str]:
        """The names of all commands."""
        self._add(LATE_GROUPS)
        return super().list_commands(ctx)

    def _add(self, names: Iterable[str]) -> None:
        for name in names:
            if name not in self.commands:
                group = importlib.import_module(f".{name}", __package__)
                self.commands[name] = typer.main.get_group(group.app)


app = typer.Typer(
    cls=RootGroup,
    no_args_is_help=True,
    rich_markup_mode=None,
    context_settings=model.HELP,
    help="Turn a model definition into a model directory that any Hugging Face tool loads.",
)
app.add_typer(model.app, name="model")


def _templates(project: Path) -> Iterator[tuple[str, str]]:
    """Everything that `-t` takes, with a word on it."""
    from forgather_core.configurations import project_files

    for definition in registry().definitions():
        yield definition.name, definition.summary
        yield from ((f"{definition.name}/{preset}", definition.summary) for preset in definition.preset_names())
    yield from ((name, str(path)) for name, path in project_files(project).items())


def _complete(ctx: typer.Context, incomplete: str) -> list[tuple[str, str]]:
    project = Path(ctx.params.get("project") or ".")
    return [(name, about) for name, about in _templates(project) if name.startswith(incomplete)]


def _version(wanted: bool | None) -> None:
    if wanted:
        typer.echo(f"forgather {importlib.metadata.version('forgather')}")
        raise typer.Exit()


# The commands that use an option of the root.
ROOT_SCOPES = {"-t": ("model",), "-p": ("model", "ls")}


@app.callback()
def root(
    ctx: typer.Context,
    template: Annotated[
        str | None,
        typer.Option(
            "-t", "--template", metavar="NAME", help="Model: llama/4M, llama, or a YAML file", autocompletion=_complete
        ),
    ] = None,
    project: Annotated[
        str | None, typer.Option("-p", "--project", metavar="DIR", help="Project directory (default: this one)")
    ] = None,
    version: Annotated[
        bool | None, typer.Option("--version", callback=_version, is_eager=True, help="Print the version")
    ] = None,
) -> None:
    """Turn a model definition into a model directory that any Hugging Face tool loads."""
    for flag, value in (("-t", template), ("-p", project)):
        if value is not None and ctx.invoked_subcommand not in ROOT_SCOPES[flag]:
            owners = listed(repr(name) for name in ROOT_SCOPES[flag])
            raise ForgatherError(f"{flag} has no effect on '{ctx.invoked_subcommand}'; it belongs to {owners}")
    if project is not None and not Path(project).is_dir():
        raise ForgatherError(f"-p: there is no directory '{project}'")


@app.command(cls=PlainCommand, context_settings=model.HELP)
def ls(ctx: typer.Context, json: Annotated[bool, typer.Option("--json", help="Print as JSON")] = False) -> None:
    """List every model definition with its presets, and this project's configurations."""
    from forgather_core.listing import list_models

    from . import drawings
    from .render import show

    report = list_models(registry(), Path(ctx.find_root().params.get("project") or "."))
    show(report, drawings.models(report), as_json=json)


@app.command(cls=PlainCommand, context_settings=model.HELP)
def verify(
    directory: Annotated[
        str, typer.Argument(metavar="DIR", help="Model directory: an exported one, or any causal LM's of Hugging Face")
    ],
    check: Annotated[
        str | None, typer.Option("--check", metavar="NAMES", help="Checks to try, joined by commas (default: all)")
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Leave out checks that take long")] = False,
    full: Annotated[
        bool, typer.Option("--full", help="Check the model as it is, not a small one with the same features")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Go on even if there seems to be too little memory")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print as JSON")] = False,
) -> None:
    """Verify that a model directory keeps the promises of a causal language model; exit code 1 where it does not."""
    from forgather_core.checks import asked_for
    from forgather_core.checks import verify as run
    from forgather_core.paths import expanded
    from forgather_core.shared_options import VerifyOptions

    from . import progress, verify_drawings
    from .render import show

    if force and not full:
        raise ForgatherError("--force requires --full")
    chosen = asked_for(VerifyOptions(check=check, quick=quick), progress.note)
    kept: list[Any] = []
    try:
        with progress.spinner() as tell:
            report = run(expanded(directory), chosen, full=full, force=force, on_check=tell, on_partial=kept.append)
    except BaseException:
        for part in kept:
            show(part, verify_drawings.verification(part), as_json=json)
        raise
    show(report, verify_drawings.verification(report), as_json=json)
    raise typer.Exit(1 if report["failed"] else 0)


@app.command(cls=PlainCommand, context_settings=model.HELP)
def plugins(json: Annotated[bool, typer.Option("--json", help="Print as JSON")] = False) -> None:
    """List the plugins that bring definitions; exit code 1 if one is broken."""
    from forgather_core.listing import list_plugins

    from . import drawings
    from .render import show

    rows = list_plugins(registry())
    show({"plugins": rows}, drawings.plugins(rows), as_json=json)
    if any(row["state"] == "broken" for row in rows):
        raise typer.Exit(1)


# Typer vendors the library of which this is the base of every usage error, and exports only its children.
_UsageError: Any = next(cls for cls in typer.BadParameter.__mro__ if cls.__name__ == "ClickException")


# What the system refuses for reasons of the user's: a full disk, a path too long, no permission.
_NO_BUGS = {
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
    """Run the program; exit with 0, with 1 where a model failed, with 2 for wrong input, with 130 when interrupted."""
    # At the end the system takes all memory back at once; Python would free every object first: 17 of a page's 107 ms.
    atexit.register(gc.freeze)
    make_warnings_printable()
    for stream in (sys.stdout, sys.stderr):
        with suppress(AttributeError):  # a terminal of another encoding shows escapes, and no traceback
            stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    try:
        code = app(standalone_mode=False)
        sys.stdout.flush()
    except ForgatherError as error:
        code = _complain(error, error.exit_code)
    except _UsageError as error:
        code = _complain(error, error.exit_code)
    except (KeyboardInterrupt, typer.Abort):
        code = INTERRUPTED
    except BrokenPipeError:
        _discard_output()
        code = 1
    except OSError as error:
        if error.errno not in _NO_BUGS:
            raise
        code = _complain(error, 2)
    except Exception as error:
        text = out_of_memory(error)
        if text is None:
            raise
        code = _complain(ForgatherError(text), 2)
    if code == INTERRUPTED:  # newer releases of Typer return it
        print("forgather: interrupted", file=sys.stderr)
    sys.exit(code if isinstance(code, int) else 0)


def _discard_output() -> None:
    """Nobody reads what is still to be written: do not fail of it again at the end."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _complain(error: Any, code: int) -> int:
    if type(error).__name__ == "NoArgsIsHelpError":  # a group without a command: its text is the help page
        print(error.format_message(), file=sys.stderr)
        return code
    if os.environ.get("FORGATHER_TRACEBACK"):
        raise error
    # Typer puts "Invalid value for '--x':" before a text of ours, which names the flag itself.
    if isinstance(error, typer.BadParameter):
        text = error.message
    elif hasattr(error, "possibilities"):  # an option that is misspelt
        from .owners import other_commands

        elsewhere = other_commands(error.ctx, error.option_name) if error.ctx is not None else None
        hint = did_you_mean(error.option_name, error.possibilities or [], "{}")
        text = elsewhere or f"No such option: {error.option_name}{hint}"
    elif isinstance(error, OSError):
        text = f"{error.filename}: {error.strerror}" if error.filename else str(error.strerror)
        _discard_output()
    else:
        text = error.format_message() if hasattr(error, "format_message") else str(error)
    print("forgather: error: " + one_line(text), file=sys.stderr)
    return code


if __name__ == "__main__":
    main()
