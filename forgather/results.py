"""The base class of results: typed values, plain data, and a page in notebooks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from forgather_core.filesystem.printable import plain_copy

from .public import one_call

__all__ = ["Result"]


class Result:
    """A report. `to_dict()` returns all of it; properties return the values that are used most.

    Args:
        report: The report as plain data.
    """

    kind: ClassVar[str] = ""  # selects the HTML page that shows the report

    def __init__(self, report: Mapping[str, Any]) -> None:
        self._report = report

    def to_dict(self) -> dict[str, Any]:
        """Return a copy of the report as plain data, with the same keys as the output of `--json`."""
        copied: dict[str, Any] = plain_copy(self._report)
        return copied

    @property
    def notes(self) -> tuple[str, ...]:
        """Remarks on the results, one sentence each."""
        return tuple(self._report.get("notes") or ())

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._summary()}>"

    def _summary(self) -> str:
        raise NotImplementedError

    def _repr_html_(self) -> str:
        from forgather_core.pages import fragment

        with one_call():  # matplotlib's settings are global to the process
            return fragment(self.kind, self.to_dict())
