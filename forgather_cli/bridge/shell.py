"""The environment variables in which a shell passes a command line to complete."""

from __future__ import annotations

import os

import typer

# True if the shell requests completions. Typer inspects each completion function, which would slow down help pages.
IS_COMPLETING = any(name.endswith("_COMPLETE") for name in os.environ)


def first_argument(ctx: typer.Context) -> str:
    """Return the first argument of the command, which Typer does not parse while an option value is incomplete."""
    line = os.environ.get("COMP_WORDS") or os.environ.get("_TYPER_COMPLETE_ARGS") or ""
    words = line.split()
    following = words[words.index(ctx.info_name) + 1 :] if ctx.info_name in words else []
    return next((word for word in following if not word.startswith("-")), "")
