"""Warnings and log messages in printable form: they may quote files that contain control characters."""

from __future__ import annotations

import os
import sys
import warnings
from typing import Any

from forgather_core.errors import ForgatherError
from forgather_core.filesystem.printable import one_line, printable, shortened
from forgather_core.options.aliases import RenamedOptionWarning

from .completion import IS_COMPLETING

# These commands load no library that logs; importing `logging` would take 3 % of their time.
WITHOUT_LOGS = frozenset({"ls", "plugins", "show"})


def prepare_warnings() -> None:
    """Print each warning on one line without control characters, and always show warnings about former option names."""

    def formatted(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        line: str | None = None,
    ) -> str:
        if issubclass(category, RenamedOptionWarning):
            return f"forgather: note: {one_line(str(message))}\n"
        return f"{filename}:{lineno}: {category.__name__}: {one_line(str(message))}\n"

    warnings.formatwarning = formatted
    if not IS_COMPLETING and not sys.warnoptions:
        warnings.simplefilter("always", RenamedOptionWarning)


def make_logs_printable() -> None:
    """Escape control characters in log messages."""
    import logging

    class PrintableRecord(logging.LogRecord):
        """A log message without control characters."""

        def getMessage(self) -> str:  # noqa: N802 - overrides a method of the standard library
            return printable(shortened(super().getMessage()), keep="\n\t")

    logging.setLogRecordFactory(PrintableRecord)


class PrintableLogs:
    """Mix-in before TyperCommand: make the log messages of the command printable."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command.

        Raises:
            ForgatherError: The working directory does not exist: libraries loaded there would end the process.
        """
        if self.name not in WITHOUT_LOGS:  # type: ignore[attr-defined]
            try:
                os.getcwd()  # noqa: PTH109
            except FileNotFoundError:
                hint = "change to another directory"
                raise ForgatherError("the working directory has been removed", hint=hint) from None
            make_logs_printable()
        return super().invoke(ctx)  # type: ignore[misc]
