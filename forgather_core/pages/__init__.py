"""Pages of reports: HTML with tables and charts, in one file, without scripts and without network.

`page` returns a complete file, `fragment` an element for a notebook. Both take the kind of a report and its plain data,
as `--json` prints it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["fragment", "page"]


def page(kind: str, report: Mapping[str, Any]) -> str:
    """Return a report as a complete HTML file of less than 1 MB.

    Args:
        kind: The kind of report, such as `estimate`. Unknown kinds are shown as plain data.
        report: The report as plain data.
    """
    from .document import complete  # imported here, because commands without pages use the units of this package
    from .kinds import content

    return complete(content(kind, report))


def fragment(kind: str, report: Mapping[str, Any]) -> str:
    """Return a report as HTML for a page of another program: one element, whose styles apply to it alone.

    Args:
        kind: The kind of report, as for `page`.
        report: The report as plain data.
    """
    from .document import embedded
    from .kinds import content

    return embedded(content(kind, report))
