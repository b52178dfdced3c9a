"""Escape control characters in what Python's warnings and any library's log print: they may quote a file."""

from __future__ import annotations

import os
import warnings
from typing import Any

from forgather_core.errors import ForgatherError
from forgather_core.filesystem.printable import one_line, printable, shortened

# They load no library that logs; `logging` by itself would be 3 % of their time.
WITHOUT_LOGS = frozenset({"ls", "plugins", "show"})


def make_warnings_printable() -> None:
    """Escape control characters in warnings, and print each as one line."""

    def formatted(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        line: str | None = None,
    ) -> str:
        return f"{filename}:{lineno}: {category.__name__}: {one_line(str(message))}\n"

    warnings.formatwarning = formatted


def make_logs_printable() -> None:
    """Escape control characters in log messages."""
    import logging

    class PrintableRecord(logging.LogRecord):
        """A log message without control characters."""

        def getMessage(self) -> str:  # noqa: N802 - a name of the standard library's
            return printable(shortened(super().getMessage()), keep="\n\t")

    logging.setLogRecordFactory(PrintableRecord)


class PrintableLogs:
    """Mix-in before TyperCommand: the command's log messages are printable."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command.

        Raises:
            ForgatherError: The working directory is gone: libraries that are loaded there end the process.
        """
        if self.name not in WITHOUT_LOGS:  # type: ignore[attr-defined]
            try:
                os.getcwd()  # noqa: PTH109
            except FileNotFoundError:
                raise ForgatherError("the working directory has been removed: change to another one") from None
            make_logs_printable()
        return super().invoke(ctx)  # type: ignore[misc]
