"""Models whose values identify their save, and which save a directory loads as."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from forgather_core.checkpoint import load_checkpoint, save_checkpoint
from forgather_core.errors import CheckpointError

SIZES: dict[str, Any] = {
    "vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1,
    "num_attention_heads": 2, "num_key_value_heads": 2, "max_position_embeddings": 32,
}  # fmt: skip
MARK = "bos_token_id"  # a configuration value that does not affect weights: it identifies the generation


def model_of(generation: int, *, marked: bool = False, dtype: str = "float32", **sizes: Any) -> LlamaForCausalLM:
    """Return a model whose weights all equal its generation; with `marked`, its configuration records it too."""
    config = LlamaConfig(**(SIZES | sizes), **({MARK: generation} if marked else {MARK: 1}), tie_word_embeddings=False)
    with torch.device("cpu"):
        model = LlamaForCausalLM(config).to(getattr(torch, dtype))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(generation)
    return model


def generation_of(directory: Path, *, marked: bool = False) -> int | None:
    """Return the save that a directory loads as, completely and with both loaders; None if it has none.

    Raises:
        AssertionError: It mixes two, or the loaders differ.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model = model_of(-1, **_sizes_of(directory))
            report = load_checkpoint(directory, model)
    except CheckpointError:
        ours = None
    else:
        assert report.complete, report.problems()
        ours = _only(model)
    try:
        theirs_model = AutoModelForCausalLM.from_pretrained(directory, dtype="auto")
    except (OSError, ValueError):
        theirs = None
    else:
        theirs = _only(theirs_model)
        if marked:
            assert getattr(theirs_model.config, MARK) == theirs, "weights of one save, configuration of another"
    assert ours == theirs, (ours, theirs)
    return ours


def _sizes_of(directory: Path) -> dict[str, Any]:
    try:
        config = LlamaConfig.from_pretrained(directory)
    except (OSError, ValueError):
        return {}
    return {name: getattr(config, name) for name in SIZES}


def _only(model: Any) -> int:
    values = {float(value) for parameter in model.parameters() for value in parameter.detach().float().unique()}
    assert len(values) == 1, f"a mix of the saves {sorted(values)}"
    return int(values.pop())


def save(directory: Path, generation: int, *, marked: bool = False, dtype: str = "float32", **how: Any) -> None:
    """Save a model of that generation with Forgather."""
    save_checkpoint(directory, model_of(generation, marked=marked, dtype=dtype), **how)


def tree(directory: Path) -> set[str]:
    """Return every file and directory below a directory."""
    return {str(path.relative_to(directory)) for path in directory.rglob("*")}
