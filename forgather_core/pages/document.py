"""Rendering of a page as HTML: a complete file, or an element for another page."""

from __future__ import annotations

from pathlib import Path

from .content import Content, Figure
from .html import Html, brief, sentences, tag

_LARGEST = 900_000  # bytes of a page
_HEAD = (
    '<meta charset="utf-8">',
    '<meta name="viewport" content="width=device-width, initial-scale=1">',
    '<meta name="color-scheme" content="light dark">',
    '<meta name="referrer" content="no-referrer">',
    '<link rel="icon" href="data:,">',  # browsers request /favicon.ico otherwise
)


def complete(content: Content) -> str:
    """Return a complete HTML file."""
    title = tag("title", brief(f"{content.title} – {content.kind}"))
    head = tag("head", *map(Html, _HEAD), title, _style())
    body = tag("body", _main(content, "main"), class_="fg")
    return f'<!DOCTYPE html>\n<html lang="en">{head}\n{body}</html>\n'


def embedded(content: Content) -> str:
    """Return one element with its own styles."""
    return tag("div", _style(), _main(content, "div"), class_="fg fg-fragment")


def _style() -> Html:
    return Html(f"<style>{Path(__file__).with_name('style.css').read_text(encoding='utf-8')}</style>")


def _main(content: Content, element: str) -> Html:
    head = [tag("p", brief(content.kind), class_="fg-kind"), tag("h1", brief(content.title))]
    head += [tag("p", brief(content.subtitle), class_="fg-subtitle")] if content.subtitle else []
    blocks = [tag("header", *head)]
    if content.figures:
        blocks.append(tag("dl", *map(_figure, content.figures), class_="fg-figures"))
    if content.notes:
        blocks.append(tag("aside", sentences(content.notes), class_="fg-notes", aria_label="Notes"))
    size = sum(len(block.encode()) for block in blocks)
    for number, block in enumerate(content.blocks):
        size += len(block.encode())
        if size > _LARGEST:
            left = len(content.blocks) - number
            blocks.append(tag("p", f"and {left:,} more parts; --json has all", class_="fg-more"))
            break
        blocks.append(block)
    return tag(element, *blocks, class_="fg-main")


def _figure(figure: Figure) -> Html:
    classes = f"fg-value fg-{figure.tone}" if figure.tone else "fg-value"
    detail = [tag("dd", brief(figure.detail), class_="fg-detail")] if figure.detail else []
    return tag("div", tag("dt", brief(figure.label)), tag("dd", brief(figure.value), class_=classes), *detail)
