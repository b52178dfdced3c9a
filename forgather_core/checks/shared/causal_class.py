"""Refuse directories of models that are not causal language models."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ...errors import CheckError
from ...filesystem.strict_json import read_object


def require_causal_class(directory: Path, config: Any) -> None:
    """Check that there is a class of causal language models for a configuration.

    Args:
        directory: The model directory.
        config: Its configuration.

    Raises:
        CheckError: Neither the directory nor transformers has one.
    """
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING

    file = directory / "config.json"
    named = read_object(file).get("auto_map")
    has_own = isinstance(named, dict) and "AutoModelForCausalLM" in named
    if has_own or type(config) in MODEL_FOR_CAUSAL_LM_MAPPING:
        return
    problem = f"there is no causal language model of model_type '{config.model_type}'"
    raise CheckError(problem, file=file, hint="name the directory of a causal language model")
