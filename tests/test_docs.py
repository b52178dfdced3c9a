"""README and the pages under docs/: every code block is run or marked as a listing, every local link leads somewhere.

`.ci/run` builds the site, which fails at a broken link too; these tests take a second and read the pages as a code host
does, README and the READMEs of definitions included.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from urllib.parse import unquote

import pytest
from markdown_it import MarkdownIt
from markdown_it.token import Token

import forgather

from .e2e.pages import LISTINGS, RUN, Block, parts
from .e2e.test_pages import READ

ROOT = Path(__file__).parent.parent
PAGES = [
    "README.md",
    "CHANGELOG.md",
    *sorted(str(page.relative_to(ROOT)) for page in ROOT.glob("docs/**/*.md")),
    *sorted(str(page.relative_to(ROOT)) for page in ROOT.glob("plugins/*/README.md")),
]
GENERATED = {"docs/cli.md"}  # `tools/cli_reference.py --check` compares it with the program
MAXIMUM_SCREEN = 75  # lines of README
markdown = MarkdownIt("commonmark").enable("table")


def text_of(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def tokens(page: str) -> Iterator[Token]:
    for token in markdown.parse(text_of(page)):
        yield token
        yield from token.children or ()


def blocks(page: str) -> list[Block]:
    return [part for part in parts(text_of(page)) if isinstance(part, Block)]


def anchors(page: str) -> set[str]:
    """Return the anchors of the headings of a page, as code hosts and MyST make them."""
    headings = [token for token in markdown.parse(text_of(page)) if token.type in ("heading_open", "inline")]
    titles = [after.content for token, after in pairwise(headings) if token.type == "heading_open"]
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES)
def test_every_code_block_is_run_or_marked(page: str) -> None:
    found = [token for token in tokens(page) if token.type in ("fence", "code_block")]
    unmarked = [f"{page}:{token.map[0] + 1}" for token in found if token.map and token.type == "code_block"]
    assert not unmarked, "an indented block has no language: use a fence"
    assert len(found) == len(blocks(page)), "a block within a list or a quotation is not run"
    for block in blocks(page):
        assert block.is_known, f"{page}:{block.line}: '{block.language}' is none of {sorted(RUN | LISTINGS)}"
        assert (block.language == "console") == block.text.startswith("$ "), f"{page}:{block.line}"


@pytest.mark.parametrize("page", PAGES)
def test_a_block_that_is_not_run_has_a_reason(page: str) -> None:
    reasons = [block.directive[1] for block in blocks(page) if block.directive[0] == "not run"]
    assert all(len(reason.split()) > 2 for reason in reasons)


def test_every_page_with_blocks_that_are_run_is_read() -> None:
    read = [page for reading in READ.values() for page in reading.pages]
    assert len(read) == len(set(read))
    assert set(read) == {page for page in PAGES if any(block.is_run for block in blocks(page))} - GENERATED


@pytest.mark.parametrize("page", PAGES)
def test_every_local_link_leads_somewhere(page: str) -> None:
    for token in tokens(page):
        target = str(token.attrs.get("href") or token.attrs.get("src") or "")
        if not target or re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = unquote(target).partition("#")
        file = ((ROOT / page).parent / path).resolve() if path else ROOT / page
        assert file.is_file(), f"{page}: {target}"
        assert file.is_relative_to(ROOT), f"{page}: {target} is outside the project"
        assert not anchor or anchor in anchors(str(file.relative_to(ROOT))), f"{page}: {target} has no such heading"


def test_every_included_file_exists() -> None:
    for page in PAGES:
        for name in re.findall(r"^```\{include\} (.*)$", text_of(page), re.MULTILINE):
            assert ((ROOT / page).parent / name).is_file(), f"{page}: {name}"


def test_every_definition_has_a_page() -> None:
    definitions = {plugin.name.removeprefix("forgather_") for plugin in (ROOT / "plugins").glob("forgather_*")}
    assert definitions == {page.stem for page in (ROOT / "docs/definitions").glob("*.md")} - {"index"}


def test_the_api_reference_lists_every_name() -> None:
    assert set(getattr(forgather, "__all__", ())) <= set(dir(forgather)), "autodoc and completion list what dir() has"


def test_readme_leads_to_the_pages_and_fits_on_a_screen() -> None:
    targets = {str(token.attrs["href"]).partition("#")[0] for token in tokens("README.md") if "href" in token.attrs}
    missing = {f"docs/{page.name}" for page in (ROOT / "docs").glob("*.md")} - targets
    # CHANGELOG.md is linked; the page of verify links the last two.
    assert missing <= {"docs/changes.md", "docs/mutants.md", "docs/scoreboard.md"}
    assert len(text_of("README.md").splitlines()) <= MAXIMUM_SCREEN
