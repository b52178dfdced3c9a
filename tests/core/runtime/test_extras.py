"""A missing optional package is named with the extra that installs it."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from forgather_core.errors import BuildError
from forgather_core.model.build import check_attention
from forgather_core.runtime import extras
from forgather_core.runtime.extras import install_hint


@pytest.fixture
def nothing_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extras, "_is_installed", lambda module: False)


@pytest.mark.parametrize(
    ("reason", "extra"),
    [
        ("Compression type zstd not supported", "compression"),
        ("`tiktoken` is required to read a `tiktoken` file.", "tokenizers"),
        ("T5Tokenizer requires the SentencePiece library but it was not found", "tokenizers"),
    ],
)
@pytest.mark.usefixtures("nothing_installed")
def test_the_extra_is_named(reason: str, extra: str) -> None:
    assert install_hint(reason) == f"; install it with: pip install 'forgather[{extra}]'"


def test_what_is_installed_is_no_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extras, "_is_installed", lambda module: True)
    assert install_hint("tiktoken cannot read this file") == ""
    assert install_hint("the file is empty") == ""


@pytest.mark.usefixtures("nothing_installed")
def test_flash_attention() -> None:
    import torch

    with pytest.raises(BuildError, match=r"not installed.*forgather\[flash-attention\]"):
        check_attention("flash_attention_2", torch.device("cuda"), torch.bfloat16, {})


def test_every_extra_exists() -> None:
    project = tomllib.loads((Path(__file__).parents[3] / "pyproject.toml").read_text())
    known = project["project"]["optional-dependencies"]
    assert {extra for _, extra in extras._EXTRAS.values()} <= set(known)
