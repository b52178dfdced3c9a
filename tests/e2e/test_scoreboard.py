"""tools/scoreboard.py on ten types of different families, and its page."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.append(str(Path(__file__).parent.parent.parent / "tools"))
import reproduce
import scoreboard
import scoreboard_page
import upstream_defects

# Dense, learned positions (two), windows, experts, latent attention, recurrent layers, a decoder with an encoder.
TYPES = ("llama", "gpt2", "opt", "gemma2", "mixtral", "deepseek_v3", "mamba2", "bamba", "bart", "falcon")
SHOWN = ("packed documents leak", "labels are not shifted", "padding on the left changes the text")


@pytest.mark.slow
@pytest.mark.parametrize("kind", TYPES)
def test_each_failure_of_a_type_is_a_known_defect(kind: str) -> None:
    result = scoreboard.try_type((kind, 0, True))
    assert result.outcome == scoreboard.BUILT, result.reason
    assert upstream_defects.unexplained(kind, result.failures) == [], result.failures


@pytest.mark.slow
@pytest.mark.parametrize("name", SHOWN)
def test_a_program_shows_the_defect_without_forgather(name: str, tmp_path: Path) -> None:
    defect = next(one for one in upstream_defects.DEFECTS if one.name == name)
    kind = next(iter(sorted(set(defect.types) & {*TYPES, "gpt_oss"})))
    reproduce.write_small([kind, "llama"], tmp_path / reproduce.CONFIGURATIONS)
    assert reproduce.shows(defect, kind, tmp_path) == "True"
    assert reproduce.shows(defect, "llama", tmp_path) == "False"


def result_of(kind: str, outcome: str = scoreboard.BUILT, **more: Any) -> dict[str, Any]:
    return {"kind": kind, "seed": 0, "outcome": outcome, "reason": None, "failures": {}, **more}


def test_the_page_has_every_type_and_explains_failures() -> None:
    packed = next(one for one in upstream_defects.DEFECTS if one.name == "packed documents leak")
    leaking = packed.types[0]
    text = scoreboard_page.page(
        [
            result_of("llama"),
            result_of(leaking, failures={"packing-isolation": ["a leak"]}),
            result_of("gpt2", failures={"buffers": ["other values"]}),
            result_of("blt", scoreboard.DIED, reason="it | died"),
        ]
    )
    assert "4 types: 1 passed, 1 defects, 1 unexplained, 1 died." in text
    assert "**Passed**: `llama`." in text
    assert f"| `{leaking}` | defects | packed documents leak |" in text
    assert "| `gpt2` | unexplained | not explained: buffers |" in text
    assert "| `blt` | died | it \\| died |" in text
    assert packed.program in text


def test_every_program_is_short_and_prints_one_result() -> None:
    for defect in upstream_defects.DEFECTS:
        lines = defect.program.splitlines()
        assert len(lines) <= 6, defect.name
        assert sum("print(" in line for line in lines) in (1, 2), defect.name


def test_types_with_other_modalities_are_left_out() -> None:
    kinds = scoreboard.model_types()
    assert {"llama", "gemma3_text", "mixtral", "mamba"} <= set(kinds)
    assert not {"gemma3", "llama4", "musicgen", "got_ocr2"} & set(kinds)
