"""Pages of reports: HTML with tables and charts, in one file, without scripts and without network.

`page` returns a complete file, `fragment` what a notebook shows. Both take the kind of a report and its plain data, as
`--json` prints it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

__all__ = ["fragment", "page"]

_LARGEST = 900_000  # bytes of a page


def page(kind: str, report: Mapping[str, Any]) -> str:
    """Return a report as a complete HTML file of less than 1 MB.

    Args:
        kind: The kind of report, such as `estimate`. Other kinds than Forgather's are shown as plain data.
        report: The report as plain data.
    """
    from .html import Html, brief, tag
    from .kinds import content

    contents = content(kind, report)
    head = [
        Html('<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'),
        Html('<meta name="color-scheme" content="light dark"><meta name="referrer" content="no-referrer">'),
        Html('<link rel="icon" href="data:,">'),  # browsers would ask for /favicon.ico
        tag("title", brief(f"{contents.title} – {contents.kind}")),
        Html(f"<style>{_style()}</style>"),
    ]
    body = tag("body", _main(contents, "main"), class_="fg")
    return f'<!doctype html>\n<html lang="en">{tag("head", *head)}\n{body}</html>\n'


def fragment(kind: str, report: Mapping[str, Any]) -> str:
    """Return a report as HTML for a page of another program: one element, whose styles apply to it alone.

    Args:
        kind: The kind of report, as for `page`.
        report: The report as plain data.
    """
    from .html import Html, tag
    from .kinds import content

    style = Html(f"<style>{_style()}</style>")
    return tag("div", style, _main(content(kind, report), "div"), class_="fg fg-fragment")


def _style() -> str:
    return Path(__file__).with_name("style.css").read_text(encoding="utf-8")


def _main(contents: Any, element: str) -> Any:
    from .html import brief, sentences, tag

    head = tag(
        "header",
        tag("p", brief(contents.kind), class_="fg-kind"),
        tag("h1", brief(contents.title)),
        *([tag("p", brief(contents.subtitle), class_="fg-subtitle")] if contents.subtitle else []),
    )
    figures = [
        tag(
            "div",
            tag("dt", brief(figure.label)),
            tag("dd", brief(figure.value), class_=f"fg-value fg-{figure.tone}" if figure.tone else "fg-value"),
            *([tag("dd", brief(figure.detail), class_="fg-detail")] if figure.detail else []),
        )
        for figure in contents.figures
    ]
    blocks = [head, *([tag("dl", *figures, class_="fg-figures")] if figures else [])]
    blocks += [tag("aside", sentences(contents.notes), class_="fg-notes", aria_label="Notes")] if contents.notes else []
    size = sum(map(len, blocks))
    for number, block in enumerate(contents.blocks):
        size += len(block.encode())
        if size > _LARGEST:
            break
        blocks.append(block)
    return tag(element, *blocks, class_="fg-main")
