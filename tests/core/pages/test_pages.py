"""Pages: their structure, what they load, and reports that quote hostile text."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

import forgather_core.pages
from forgather_core.filesystem.printable import to_json
from forgather_core.pages import fragment, page
from forgather_core.pages.kinds import KINDS

from .conftest import Reports, failed

ALL = (*sorted(KINDS), "unknown")
HOSTILE = (
    '<!-- --><script>alert(1)</script><img src=http://evil/x onerror=a()>"\'&\x1b[31m\u202e$x$\ud800 style="#fa0009"'
)
VOID = {"meta", "link", "br", "img"}
STYLE = Path(forgather_core.pages.__file__).with_name("style.css").read_text()


class Parsed(HTMLParser):
    """Elements of a page, which must be nested correctly."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self._open and self._open[-1] != "style":
            self.texts.append(data)

    @property
    def text(self) -> str:
        return " ".join(self.texts)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


def test_every_result_has_a_page() -> None:
    results = [kind for kind in _subclasses(forgather_results()) if kind.kind]
    assert {kind.kind for kind in results} | {"load", "save"} == set(KINDS)


def forgather_results() -> type[Any]:
    import forgather.listings
    import forgather.model_results

    return forgather.results.Result


def _subclasses(kind: type[Any]) -> list[type[Any]]:
    return [one for child in kind.__subclasses__() for one in (child, *_subclasses(child))]


@pytest.mark.parametrize("kind", ALL)
def test_a_page_is_one_well_formed_file(kind: str, reports: Reports) -> None:
    text = page(kind, reports[kind])
    parsed = Parsed(text)
    assert text.startswith("<!DOCTYPE html>")
    assert len(text.encode()) < 1_000_000
    assert len(parsed.all("h1")) == len(parsed.all("main")) == len(parsed.all("title")) - len(parsed.all("svg")) == 1
    ids = Counter(attributes["id"] for _, attributes in parsed.elements if "id" in attributes)
    assert all(count == 1 for count in ids.values())
    assert all(heading.get("scope") in {"col", "row"} for heading in parsed.all("th"))
    assert text == page(kind, reports[kind])


@pytest.mark.parametrize("kind", ALL)
def test_a_page_loads_nothing(kind: str, reports: Reports) -> None:
    text = page(kind, reports[kind])
    for tag, attributes in Parsed(text).elements:
        assert tag not in {"script", "img", "iframe", "object", "embed", "base", "form", "video", "audio"}
        assert "src" not in attributes and not any(name.startswith("on") for name in attributes)
        if tag == "link":
            assert attributes["href"] == "data:,"
        elif tag == "a":
            assert str(attributes["href"]).startswith(("https://", "http://"))
        else:
            assert str(attributes.get("xlink:href", "#")).startswith("#") and "href" not in attributes
    assert re.findall(r"url\((?!#)", text) == [] and "@import" not in text


@pytest.mark.parametrize("kind", ALL)
def test_a_fragment_is_one_element_with_styles_of_its_own(kind: str, reports: Reports) -> None:
    text = fragment(kind, reports[kind])
    parsed = Parsed(text)
    assert parsed.elements[0] == ("div", {"class": "fg fg-fragment"})
    assert not {"html", "head", "body", "main", "title"} & {tag for tag, _ in parsed.elements if tag != "title"}


def test_styles_apply_to_nothing_else() -> None:
    rules = re.sub(r"/\*.*?\*/", "", STYLE, flags=re.DOTALL)
    selectors = [one.strip() for found in re.findall(r"([^{}]+)\{", rules) for one in _split(found)]
    assert len(selectors) > 50
    assert [one for one in selectors if not re.match(r"(body)?\.fg\b|@media", one)] == []
    assert {"prefers-color-scheme: dark", "print"} <= set(re.findall(r"@media \(?([^){]+?)\)? \{", STYLE))


def _split(selectors: str) -> list[str]:
    return [selectors] if "@media" in selectors else selectors.split(",")


@pytest.mark.parametrize("kind", ["construct", "test", "verify", "estimate", "compare", "checkpoint"])
def test_charts_are_described_and_follow_the_colours_of_the_page(kind: str, reports: Reports) -> None:
    text = page(kind, reports[kind])
    charts = Parsed(text).all("svg")
    assert charts and all(chart["role"] == "img" and chart["aria-label"] for chart in charts)
    assert text.count("<svg") == text.count("</title>") - 1
    drawn = "".join(re.findall(r"<svg.*?</svg>", text, re.DOTALL))
    assert "var(--fg-" in drawn
    assert set(re.findall(r"#[0-9a-f]{6}\b", drawn)) <= {"#000000"}
    assert "<text" in drawn and not re.search(r"20\d\d-\d\d-\d\d", drawn)


@pytest.mark.parametrize("kind", ALL)
def test_hostile_text_is_escaped(kind: str, reports: Reports) -> None:
    for text in (page(kind, _hostile(reports[kind])), fragment(kind, _hostile(reports[kind]))):
        parsed = Parsed(text)
        assert not {"script", "img"} & {tag for tag, _ in parsed.elements}
        assert not {"\x1b", "\u202e", "\ud800"} & set(text)
        assert not any(name.startswith("on") for _, attributes in parsed.elements for name in attributes)
        assert "alert(1)" in parsed.text and r"\x1b[31m\u202e" in parsed.text


def _hostile(value: Any) -> Any:
    """Return a report with hostile text at the end of each of its texts, and in its names."""
    if isinstance(value, str):
        return value + HOSTILE
    if isinstance(value, dict):
        fixed = isinstance(next(iter(value.values()), None), (dict, int))  # names of options and tensors, not keys
        extra = {HOSTILE: next(iter(value.values()))} if fixed and "total" not in value and len(value) < 3 else {}
        return {name: _hostile(item) for name, item in value.items()} | extra
    if isinstance(value, (list, tuple)):
        return [_hostile(item) for item in value]
    return value


def test_links_lead_only_to_the_web(reports: Reports) -> None:
    report = reports["ls"]
    report["definitions"][0]["presets"][0]["source"] = "javascript:alert(1)"
    assert "javascript:alert(1)" not in [one["href"] for one in Parsed(page("ls", report)).all("a")]


def test_large_reports_are_cut_with_a_note(reports: Reports) -> None:
    tensor = reports["checkpoint"]["tensors"][0]
    reports["checkpoint"]["tensors"] = [tensor | {"name": f"layers.{n}.{'x' * 200}"} for n in range(20_000)]
    text = page("checkpoint", reports["checkpoint"])
    assert len(text.encode()) < 1_000_000
    assert re.search(r"and 19,\d{3} more rows; --json lists all", text)
    reports["ls"]["definitions"] *= 3000
    assert len(page("ls", reports["ls"]).encode()) < 1_000_000
    many = {f"group {n}": {f"name {m}": "x" * 5000 for m in range(100)} for n in range(1000)}
    text = page("unknown", many)
    assert len(text.encode()) < 1_000_000
    assert "more parts; --json has all" in text


def test_headline_figures_and_units(reports: Reports) -> None:
    report = reports["estimate"]
    parsed = Parsed(page("estimate", report))
    assert f"{report['parameters']['total']:,}" in parsed.text
    assert "MiB" in parsed.text and "FLOPs/token" in parsed.text
    cells = [attributes for attributes in parsed.all("td") if attributes.get("class") == "fg-number"]
    assert len(cells) > 50


def test_failed_checks_come_first_with_reason_and_cause(reports: Reports) -> None:
    text = page("verify", failed(reports["verify"]))
    assert "1 of 2 checks" in text and "Usual cause:" in text and "positions that ignore cached tokens" in text
    assert "one token at a time: off by 1.5, tolerance 1e-05, at row 0" in text
    assert "and 5 more cases" in text
    rows = re.findall(r'<th scope="row" class="fg-code">([^<]+)</th><td><span class="fg-badge', text)
    assert rows == ["kv-cache", "causality", "sliding-window"]


def test_results_that_are_not_finite(reports: Reports) -> None:
    report = failed(reports["verify"])
    for error in (float("nan"), float("inf"), "NaN"):
        report["checks"][-1]["measured"][0]["error"] = error
        assert str(error) in page("verify", report)
    check = reports["test"]
    for value in (float("nan"), float("inf"), "Infinity"):
        check["steps"][1]["loss"] = check["steps"][1]["grad_norm"] = check["loss"]["last"] = value
        assert str(value) in page("test", check)


def test_reports_with_missing_parts(reports: Reports) -> None:
    construct, check, estimate = (reports[kind] for kind in ("construct", "test", "estimate"))
    assert "Peak memory" not in page("construct", construct | {"memory": None})
    on_meta = {"steps": [], "loss": None}
    assert "meta tensors" in page("test", check | on_meta)
    assert "Loss curve" not in page("test", check | {"steps": check["steps"][:1]})
    assert "Devices" not in page("estimate", estimate | {"devices": []})
    assert "no check applied" in page("verify", reports["verify"] | {"checks": [], "passed": 0, "failed": 0})


def test_a_load_with_problems_lists_them(reports: Reports) -> None:
    problems = {
        "missing": [{"name": "lm_head.weight", "hint": "tied"}],
        "unexpected": ["head.weight"],
        "other_shape": [{"name": "model.norm.weight", "stored": [8], "model": [4]}],
        "non_finite": None,
        "problems": ["1 tensor of the model missing"],
    }
    for text in (page("load", reports["load"] | problems), page("construct", _loaded(reports, problems))):
        assert all(name in text for name in ("lm_head.weight", "head.weight", "8 in the checkpoint, 4 in the model"))
        assert "1 tensor of the model missing" in text


def _loaded(reports: Reports, problems: dict[str, Any]) -> dict[str, Any]:
    return reports["construct"] | {"loaded": reports["load"] | problems}


def test_pages_are_written_without_torch_and_without_global_state(reports: Reports, tmp_path: Path) -> None:
    file = tmp_path / "report.json"
    file.write_text(to_json(reports["estimate"]))
    code = (
        "import json, logging, pathlib, sys\n"
        "from forgather_core.pages import page\n"
        f"report = json.loads(pathlib.Path({str(file)!r}).read_text())\n"
        "assert 'matplotlib' not in sys.modules\n"
        "page('estimate', report)\n"
        "assert not {'torch', 'transformers', 'matplotlib.pyplot'} & sys.modules.keys()\n"
        "import matplotlib\n"
        "matplotlib.rcParams.update({'text.usetex': True, 'font.size': 33})\n"
        "page('estimate', report)\n"
        "assert matplotlib.rcParams['text.usetex'] and matplotlib.rcParams['font.size'] == 33\n"
        "assert logging.getLogger('matplotlib').level == logging.NOTSET\n"
    )
    environment = {**os.environ, "MPLCONFIGDIR": str(tmp_path / "new"), "MPLBACKEND": "svg"}
    ran = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, env=environment)
    assert (ran.stdout, ran.stderr) == ("", "")
