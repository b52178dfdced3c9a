"""Memory of training and of generation, for settled options."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from ..model.build import build, enable_checkpointing
from ..model.meta_model import meta_model
from ..options.shared import BuildOptions
from ..parts.linear_cross_entropy import ENOUGH, MOST_PARTS
from ..settings.resolve import Settings
from .stage import Stage, Training
from .timeline import CACHE, Batches, Timeline

DTYPES = {
    "fp64": torch.float64,
    "fp32": torch.float32,
    "mixed": torch.float32,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
}
# What a fused kernel keeps is what sdpa's keeps: the result, and one number a row and head.
_TRACED = {"flash_attention_2": "sdpa", "flex_attention": "sdpa"}


class Memory:
    """What a model of these settings takes; each figure is traced when it is asked for, and kept.

    Args:
        settings: The settled options.
        optimizer: sgd, adamw, adamw_fused, adam8bit or none.
        precision: fp32 or fp64; bf16 or fp16, weights too; or mixed, where products are in bfloat16.
        attention: The attention implementation.
        checkpointing: Whether layers are computed again in backward.
        fused: Whether parameters take their steps within backward.
        full_logits: Whether the logits of all tokens are computed, where the model can do without.
        packed: Whether rows hold several documents.
        device_type: Where it is to run.
        directory: Take the model of this directory, rather than of the definition's own code.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        optimizer: str = "adamw",
        precision: str = "fp32",
        attention: str | None = None,
        checkpointing: bool = False,
        fused: bool = False,
        full_logits: bool = False,
        packed: bool = False,
        device_type: str = "cuda",
        directory: Path | None = None,
    ) -> None:
        self._directory = directory
        self._settings, self._dtype, self._checkpointing = settings, DTYPES[precision], checkpointing
        self._attention = _TRACED.get(attention or "", attention)
        self._training = Training(optimizer, fused, full_logits, packed, precision == "mixed", device_type)
        self._steps: dict[tuple[int, int], Timeline] = {}
        self._generations: dict[tuple[int, int, str], Timeline] = {}

    def model(self) -> Any:
        """A new model on meta."""
        if self._directory is None:
            return meta_model(self._settings, dtype=self._dtype, attention=self._attention)
        dtype = str(self._dtype).removeprefix("torch.")
        attention: Any = self._attention
        return build(self._directory, BuildOptions(dtype=dtype, attn_implementation=attention))

    @cached_property
    def _stage(self) -> Stage:
        model = self.model()
        if self._checkpointing:
            enable_checkpointing(model)
        return Stage(model, self._training)

    @property
    def traced(self) -> Any:
        """The model that is traced. It has no numbers."""
        return self._stage.model

    def training(self, rows: int, length: int) -> Timeline:
        """One step of training on `rows` rows of `length` tokens."""
        if (rows, length) not in self._steps:
            self._steps[rows, length] = self._stage.train(rows, length)
        return self._steps[rows, length]

    def forward(self, rows: int, length: int) -> Timeline:
        """A forward pass over such a batch, for its operations: a loss may compute gradients while it runs forward."""
        return self._stage.forward(rows, length)

    def batches(self, length: int) -> Batches:
        """Steps of any number of rows."""
        # From here on a loss in parts has all of its parts, and that many rows more give each part the same.
        rows = max(2, -(-MOST_PARTS * ENOUGH // length))
        return Batches(self.training(rows, length), self.training(rows + MOST_PARTS, length), rows, MOST_PARTS)

    def generation(self, rows: int, length: int, cache: str = "dynamic") -> Timeline:
        """A prefill and a step of generation, after which the cache holds `length` tokens, or room for them.

        Args:
            rows: Of the batch.
            length: Tokens in each, 2 at least.
            cache: dynamic or static.
        """
        key = (rows, length, cache)
        if key not in self._generations:
            make = None
            if cache == "static":
                from transformers import StaticCache

                config = self.traced.config
                make = lambda: StaticCache(config=config, max_cache_len=length)  # noqa: E731
            self._generations[key] = self._stage.generate(rows, length, make)
        return self._generations[key]

    def cache_per_token(self) -> int:
        """Bytes by which the cache of one row grows with a token, as long as no sliding window is full."""
        return self.generation(1, 2).after("decode").get(CACHE, 0) // 2
