"""Fixtures: a directory of texts, and a function that trains a small llama on them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from forgather_core.options.train_options import TrainOptions
from forgather_core.training_run.run import TrainingCallbacks, run_training
from tests.support.settings import Resolve, small

Train = Callable[..., dict[str, Any]]
WORDS = "the model reads a text and predicts its next word from those before it".split()  # noqa: SIM905


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    """Return a directory of short texts, which differ and are easy to predict."""
    place = tmp_path / "texts"
    place.mkdir()
    for number in range(40):
        words = (WORDS[(number + at * (number % 3 + 1)) % len(WORDS)] for at in range(60))
        (place / f"{number:02}.txt").write_text(" ".join(words))
    return place


@pytest.fixture
def train(small: Resolve, texts: Path, tmp_path: Path) -> Train:
    """Return a function that trains a small llama; keywords are options of `train`, or of the model in `model`."""

    def run(
        name: str = "out",
        model: dict[str, Any] | None = None,
        callbacks: TrainingCallbacks | None = None,
        force: bool = False,
        refresh: bool = False,
        **options: Any,
    ) -> dict[str, Any]:
        flags = {"device": "cpu", "num_hidden_layers": 1, "output_dir": tmp_path / name} | (model or {})
        resolved = small(**{flag: value for flag, value in flags.items() if value is not None})
        usual = {"dataset_project": str(texts), "tokens": "1536", "sequence_length": 32, "batch_size": 4}
        return run_training(
            resolved,
            TrainOptions(**usual | options),
            callbacks=callbacks or TrainingCallbacks(),
            force=force,
            refresh=refresh,
        )

    return run


__all__ = ["small"]
