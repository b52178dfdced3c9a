"""A mix-in for commands: log messages without control characters."""

from __future__ import annotations

import os
from typing import Any

from forgather_core.errors import ForgatherError

from ..messages import make_logs_printable

# These commands load no library that logs; importing `logging` would take 3 % of their time.
WITHOUT_LOGS = frozenset({"ls", "plugins", "show"})


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
