"""Markup: elements with escaped text, and the blocks that pages are made of."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

from ..filesystem.printable import printable, shortened
from .units import text_of

LONGEST_TEXT = 500  # characters of a cell or a sentence
_CODE = re.compile("`([^`<>]+)`")
_MOST_FACTS = 60
_MOST_SENTENCES = 40


class Html(str):
    """Markup, in contrast to text that must be escaped."""

    __slots__ = ()


def escaped(value: object) -> Html:
    """Return a value as markup: text is escaped, and its control characters are made visible."""
    return value if isinstance(value, Html) else Html(escape(printable(str(value), keep="\n")))


def brief(value: object) -> Html:
    """Return a value of a report as markup, shortened if it is long."""
    return value if isinstance(value, Html) else escaped(shortened(text_of(value), LONGEST_TEXT))


def prose(text: object) -> Html:
    """Return a sentence as markup; text in backticks becomes code."""
    return text if isinstance(text, Html) else Html(_CODE.sub(r"<code>\1</code>", brief(text)))


def tag(name: str, *content: object, **attributes: object) -> Html:
    """Return an element.

    Args:
        name: The name of the element.
        content: Text and elements.
        attributes: `class_` and `aria_label` stand for `class` and `aria-label`; None leaves an attribute out.
    """
    given = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escaped(value)}"' for key, value in attributes.items() if value
    )
    return Html(f"<{name}{given}>{joined(content)}</{name}>")


def joined(content: Iterable[object]) -> Html:
    """Concatenate text and elements."""
    return Html("".join(map(escaped, content)))


def link(url: str | None, text: str | None = None) -> Html:
    """Return a link, or only the text if the URL has neither http nor https."""
    made = brief(text or (url or "").removeprefix("https://").removeprefix("http://"))
    if url is None or not url.startswith(("https://", "http://")):
        return brief(url or text or "")
    return tag("a", made, href=url, rel="noreferrer")


def badge(text: object, tone: str = "") -> Html:
    """Return a short coloured label; `tone` is good, bad or warn."""
    return tag("span", brief(text), class_=f"fg-badge fg-{tone}" if tone else "fg-badge")


def swatch(colour: int) -> Html:
    """Return a small square in a colour of the charts."""
    return tag("span", class_=f"fg-swatch fg-c{colour}", aria_hidden="true")


def card(title: str, *content: object, lead: object = None) -> Html:
    """Return a titled block of a page."""
    head = [tag("h2", brief(title))]
    head += [tag("p", brief(lead), class_="fg-lead")] if lead else []
    return tag("section", *head, *content, class_="fg-card")


def columns(*blocks: Html | None) -> Html:
    """Return blocks side by side where there is room."""
    made = [block for block in blocks if block]
    return tag("div", *made, class_="fg-columns") if made else Html()


def stack(*blocks: Html | None) -> Html:
    """Return blocks one below the other, as one of several columns."""
    return tag("div", *(block for block in blocks if block), class_="fg-stack")


def facts(values: Mapping[str, Any]) -> Html:
    """Return names with their values, without those that are None."""
    known = [(name, value) for name, value in values.items() if value is not None]
    made = [tag("div", tag("dt", brief(label(name))), tag("dd", brief(value))) for name, value in known[:_MOST_FACTS]]
    more = tag("p", f"and {len(known) - _MOST_FACTS:,} more", class_="fg-more") if len(known) > _MOST_FACTS else ""
    return joined([tag("dl", *made, class_="fg-facts"), more])


def sentences(items: Sequence[object]) -> Html:
    """Return a list of sentences; a long list is truncated."""
    made = [tag("li", prose(item)) for item in items[:_MOST_SENTENCES]]
    if len(items) > _MOST_SENTENCES:
        made.append(tag("li", f"and {len(items) - _MOST_SENTENCES:,} more; --json lists all", class_="fg-muted"))
    return tag("ul", *made, class_="fg-list")


def label(name: str) -> str:
    """Return the key of a report as a label: `grad_norm` is `grad norm`."""
    return str(name).replace("_", " ")
