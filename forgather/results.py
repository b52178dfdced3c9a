"""The base class of results: typed values, plain data, and a page in notebooks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from forgather_core.filesystem.printable import plain_copy

from .public import one_call

__all__ = ["Result"]


class Result:
    """A report. `to_dict()` has everything in it; properties have what is read most.

    Args:
        report: The report as plain data.
    """

    kind: ClassVar[str] = ""  # of the page that shows the report

    def __init__(self, report: Mapping[str, Any]) -> None:
        self._report = report

    def to_dict(self) -> dict[str, Any]:
        """Return the report as plain data: what `--json` prints. It is a copy, which the caller may change."""
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

        with one_call():  # matplotlib's settings are those of the process, too
            return fragment(self.kind, self.to_dict())
