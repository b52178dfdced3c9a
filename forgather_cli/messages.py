"""Warnings and log messages in printable form: they may quote files that contain control characters."""

from __future__ import annotations

import sys
import warnings

from forgather_core.filesystem.printable import one_line, printable, shortened
from forgather_core.options.aliases import RenamedOptionWarning

from .bridge.shell import IS_COMPLETING


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
