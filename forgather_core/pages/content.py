"""The content of a page, from top to bottom, before it is rendered as HTML."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from .html import Html


@dataclass(frozen=True)
class Figure:
    """A headline figure.

    Args:
        label: Its name.
        value: The figure, short and with its unit.
        detail: Further information in smaller type, such as the exact number or the setup of the measurement.
        tone: good, bad or warn; empty for the colour of text.
    """

    label: str
    value: str
    detail: str = ""
    tone: str = ""


@dataclass(frozen=True)
class Content:
    """The content of a page.

    Args:
        kind: The kind of report, as a heading above the title.
        title: The model, file or list that the report is about.
        subtitle: One line about it.
        figures: Headline figures.
        blocks: Cards and columns.
        notes: Important notes, one sentence each.
    """

    kind: str
    title: str
    subtitle: object = ""
    figures: Sequence[Figure] = ()
    blocks: Sequence[Html] = field(default_factory=tuple)
    notes: Sequence[str] = ()
