"""Pages in a browser: they render, in light and in dark, without errors on the console."""

from __future__ import annotations

import shutil
import struct
import subprocess
import zlib
from pathlib import Path

import pytest

from forgather_core.pages import fragment, page
from forgather_core.pages.kinds import KINDS

from .conftest import Reports, failed

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
    "--enable-logging=stderr",
    "--v=0",
)
DARK = "--blink-settings=preferredColorScheme=0"

pytestmark = [pytest.mark.slow, pytest.mark.skipif(BROWSER is None, reason="needs Chromium")]


def _screenshot(text: str, place: Path, *flags: str) -> tuple[list[bytes], str]:
    """Return the rows of pixels of a page, and what was written to the console."""
    file, image = place / "page.html", place / "page.png"
    file.write_text(text)
    image.unlink(missing_ok=True)
    size = "--window-size=1100,1400"
    command = [
        str(BROWSER),
        *FLAGS,
        *flags,
        f"--user-data-dir={place / 'user'}",
        size,
        f"--screenshot={image}",
        file.as_uri(),
    ]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    return _pixels(image.read_bytes()), "\n".join(line for line in ran.stderr.splitlines() if "CONSOLE" in line)


def _pixels(png: bytes) -> list[bytes]:
    """Return the filtered rows of a PNG file: equal rows of one colour are equal bytes."""
    data, at = b"", 8
    while at < len(png):
        (length,), kind = struct.unpack(">I", png[at : at + 4]), png[at + 4 : at + 8]
        data += png[at + 8 : at + 8 + length] if kind == b"IDAT" else b""
        at += 12 + length
    rows = zlib.decompress(data)
    height = struct.unpack(">I", png[20:24])[0]
    width = len(rows) // height
    return [rows[start : start + width] for start in range(0, len(rows), width)]


@pytest.mark.parametrize("kind", [*sorted(KINDS), "unknown"])
def test_a_page_renders_without_errors(kind: str, reports: Reports, tmp_path: Path) -> None:
    text = page(kind, reports[kind])
    light, errors = _screenshot(text, tmp_path)
    assert errors == ""
    assert len(set(light)) > 60
    dark, errors = _screenshot(text, tmp_path, DARK)
    assert errors == ""
    assert len(set(dark)) > 60 and light != dark


def test_a_failed_verification_and_a_fragment_render(reports: Reports, tmp_path: Path) -> None:
    for text in (page("verify", failed(reports["verify"])), fragment("estimate", reports["estimate"])):
        rows, errors = _screenshot(text, tmp_path)
        assert errors == "" and len(set(rows)) > 60


def test_the_console_is_read(tmp_path: Path) -> None:
    _, errors = _screenshot("<!doctype html><script>console.error('found')</script>", tmp_path)
    assert "found" in errors
