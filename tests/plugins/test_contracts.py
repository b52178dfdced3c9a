"""Frozen contracts: names and shapes of weights, and the files of an export.

After an intended change, rewrite them and review the difference:

    FORGATHER_REFRESH=1 python -m pytest tests/plugins/test_contracts.py && git diff tests/plugins/frozen
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
from transformers.dynamic_module_utils import check_imports, get_relative_import_files

from forgather_core.commands.construct import ConstructedModel, construct
from forgather_core.definitions.registry import Registry
from forgather_core.settings.layers import find_configuration
from forgather_core.settings.resolve import resolve

from .tiny import DEFINITIONS

FROZEN = Path(__file__).parent / "frozen"
ENTRIES = ("configuration", "modeling")


@pytest.fixture(scope="module", params=DEFINITIONS)
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> ConstructedModel:
    """Return the default preset of a definition, exported and built on meta."""
    resolved = resolve(find_configuration(request.param, Registry(), Path()), {"num_hidden_layers": 2})
    return construct(resolved, project=tmp_path_factory.mktemp(request.param))


def contract(made: ConstructedModel) -> dict[str, Any]:
    return {
        "files": sorted(path.name for path in made.directory.path.iterdir()),
        "weights": {name: list(tensor.shape) for name, tensor in made.model.state_dict().items()},
    }


def test_weights_and_files_are_the_frozen_ones(made: ConstructedModel) -> None:
    file = FROZEN / f"{made.resolved.definition.name}.json"
    text = re.sub(
        r"\[\s+([\d,\s]+?)\s+\]", lambda m: f"[{' '.join(m[1].split())}]", json.dumps(contract(made), indent=1)
    )
    if os.environ.get("FORGATHER_REFRESH"):
        file.write_text(text + "\n")
    assert contract(made) == json.loads(file.read_text()), "if that is wanted: FORGATHER_REFRESH=1"


def test_every_file_passes_the_rules_of_the_loader(made: ConstructedModel) -> None:
    directory, name = made.directory.path, made.resolved.definition.name
    sources = {path.stem for path in directory.glob("*.py")}
    for entry in ENTRIES:
        found = get_relative_import_files(str(directory / f"{entry}_{name}.py"))
        assert {Path(file).stem for file in found} | {f"{entry}_{name}"} == sources
    for path in directory.glob("*.py"):
        check_imports(str(path))  # every absolute import is there, or only tried
        assert re.search(r"^\s*(from|import) forgather", path.read_text(), re.MULTILINE) is None


def test_no_file_is_exported_that_the_model_does_not_use(made: ConstructedModel) -> None:
    names = {path.stem for path in made.directory.path.glob("*.py")}
    name = made.resolved.definition.name
    assert ("alibi" in names) == ("alibi_flash" in names) == (name in ("deepone", "single_head"))
    assert ("rope" in names) == (name in ("llama", "mistral", "qwen3", "smollm3"))
    assert ("rotation" in names) == ("attention" in names) == (name != "single_head")
    assert ("sinusoidal" in names) == (name == "causal_lm")
    assert ("single_head_attention" in names) == (name == "single_head")
    assert made.directory.manifest.requires == ()
