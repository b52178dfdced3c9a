"""Small model directories with a planted mistake, for the tests of single checks."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

from transformers import GPT2Config

from forgather_core.checks.shared.model_under_test import ModelUnderTest
from forgather_core.checks.try_check import FAILED, try_check
from forgather_core.commands.construct import construct
from forgather_core.definitions.check import Check, failure_text
from forgather_core.definitions.registry import registry
from forgather_core.settings.layers import find_configuration
from forgather_core.settings.resolve import resolve
from tests.support.settings import Resolve


@cache
def written(definition: str, workdir: Path) -> Path:
    """Write the directory of a definition once, with a tokenizer of bytes and without weights."""
    flags = {"output_dir": workdir / definition, "tokenizer": "bytes"}
    return construct(resolve(find_configuration(f"{definition}/4M", registry(), Path()), flags)).directory.path


def edited(directory: Path, workdir: Path, file: str, old: str, new: str) -> Path:
    """Return a copy of a directory with other text at one place of a file, in a directory with a name of its own."""
    copy = Path(mkdtemp(prefix="edited_", dir=workdir)) / f"planted_{abs(hash((file, old, new)))}"
    shutil.copytree(directory, copy)
    text = (copy / file).read_text()
    assert text.count(old) >= 1, f"{file} has no {old!r}"
    (copy / file).write_text(text.replace(old, new, 1))
    return copy


def edited_subject(resolve: Resolve, place: Path, *edits: tuple[str, str, str], **options: Any) -> ModelUnderTest:
    """Return a small definition in which texts are replaced everywhere: file, old, new."""
    resolved = resolve(output_dir=place / "model", **options)
    directory = construct(resolved).directory.path
    for file, old, new in edits:
        text = (directory / file).read_text()
        assert old in text
        (directory / file).write_text(text.replace(old, new))
    (place / "work").mkdir()
    return ModelUnderTest(directory, place / "work", resolved=resolved)


def edited_row(
    check: Check, resolve: Resolve, place: Path, *edits: tuple[str, str, str], **options: Any
) -> dict[str, Any]:
    """Return the row of a check for a small definition in which texts are replaced: file, old, new."""
    return try_check(check, edited_subject(resolve, place, *edits, **options))


def gpt2_row(check: Check, place: Path) -> dict[str, Any]:
    """Return the row of a check for a small GPT-2 of transformers."""
    config = GPT2Config(vocab_size=300, n_embd=32, n_layer=2, n_head=4, architectures=["GPT2LMHeadModel"])
    config.save_pretrained(place / "gpt2")
    return row_of(place / "gpt2", check, place)


def changed_models(subject: ModelUnderTest, method: str, plant: Callable[[Any], object]) -> ModelUnderTest:
    """Let a function change each model that a method of the subject makes."""
    build = getattr(subject, method)

    def changed(**options: Any) -> Any:
        model = build(**options)
        plant(model)
        return model

    setattr(subject, method, changed)
    return subject


def row_of(directory: Path, check: Check, workdir: Path) -> dict[str, Any]:
    """Run a check in this process and return its row of the report."""
    subject = ModelUnderTest(directory, Path(mkdtemp(prefix="work_", dir=workdir)))
    return try_check(check, subject)


def failures(row: dict[str, Any]) -> list[str]:
    """Return the messages of a failed check."""
    assert row["result"] == FAILED, row["reason"] or [one["what"] for one in row["measured"]]
    return [failure_text(one) for one in row["measured"] if not one["holds"]] or [row["reason"]]
