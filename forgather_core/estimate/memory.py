"""Estimate the memory of training and generation of a resolved model."""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from ..model.build import build, enable_checkpointing
from ..model.meta_model import Template, meta_model
from ..options.shared import BuildOptions
from ..parallel.mesh import Mesh
from ..parts.linear_cross_entropy import ENOUGH_TOKENS, MAX_CHUNKS
from ..settings.resolved_model import ResolvedModel
from .fake_model import FakeModel, TrainingStep
from .timeline import CACHE, BatchExtrapolation, Timeline
from .wire import strides

DTYPES = {
    "fp64": torch.float64,
    "fp32": torch.float32,
    "mixed": torch.float32,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
}
# Fused kernels save the same tensors for backward as sdpa's: the output, and the log-sum-exp of each query and head.
_TRACED = {"flash_attention_2": "sdpa", "flex_attention": "sdpa"}


class Memory:
    """Memory of a model; each timeline is traced on first use and cached.

    Args:
        resolved: The resolved model.
        optimizer: sgd, adamw, adamw_fused, adam8bit or none.
        precision: fp32, fp64, bf16, fp16, or mixed (float32 weights, matrix products in bfloat16).
        attention: Attention implementation.
        checkpointing: Recompute layers in backward.
        fused: Update parameters within backward.
        full_logits: Compute the logits of all tokens even if the model supports a chunked loss.
        packed: Rows contain several documents.
        device_type: Device type that the estimate is for.
        source: The directory or template of the model; None uses the definition's code.
        mesh: A mesh over which the model is distributed: the memory is that of this process.
    """

    def __init__(
        self,
        resolved: ResolvedModel,
        *,
        optimizer: str = "adamw",
        precision: str = "fp32",
        attention: str | None = None,
        checkpointing: bool = False,
        fused: bool = False,
        full_logits: bool = False,
        packed: bool = False,
        device_type: str = "cuda",
        source: Path | Template | None = None,
        mesh: Mesh | None = None,
    ) -> None:
        self._source, self._mesh = source, mesh
        self._resolved, self._dtype, self._checkpointing = resolved, DTYPES[precision], checkpointing
        self._attention = _TRACED.get(attention or "", attention)
        self._step = TrainingStep(optimizer, fused, full_logits, packed, precision == "mixed", device_type)
        self._steps: dict[tuple[int, int], Timeline] = {}
        self._generations: dict[tuple[int, int, str], Timeline] = {}

    def model(self) -> Any:
        """Return a new model on meta."""
        if self._source is None:
            return meta_model(self._resolved, dtype=self._dtype, attention=self._attention)
        if isinstance(self._source, Template):
            return self._source.on_meta(dtype=self._dtype, attention=self._attention)
        dtype = str(self._dtype).removeprefix("torch.")
        attention: Any = self._attention
        return build(self._source, BuildOptions(dtype=dtype, attn_implementation=attention))

    @cached_property
    def _fake(self) -> FakeModel:
        model, axes = self.model(), dict[int, str]()
        if self._mesh is not None:
            model = replace(self._mesh, bf16=self._step.autocast).distribute(model)
            axes = {stride: axis for axis, stride in strides(self._mesh.sizes).items()}
        if self._checkpointing:
            enable_checkpointing(model)
        return FakeModel(model, self._step, axes)

    @property
    def traced(self) -> Any:
        """The traced model, on fake tensors."""
        return self._fake.model

    def training(self, rows: int, length: int) -> Timeline:
        """Return the timeline of a training step on `rows` rows of `length` tokens."""
        if (rows, length) not in self._steps:
            self._steps[rows, length] = self._fake.train(rows, length)
        return self._steps[rows, length]

    def forward(self, rows: int, length: int) -> Timeline:
        """Return the timeline of a forward pass without loss: a chunked loss would add the FLOPs of its gradients."""
        return self._fake.forward(rows, length)

    def batches(self, length: int) -> BatchExtrapolation:
        """Return the peaks of training steps for any batch size."""
        # From this batch size on, a chunked loss has its maximum number of chunks, and MAX_CHUNKS more rows enlarge
        # each chunk equally.
        rows = max(2, -(-MAX_CHUNKS * ENOUGH_TOKENS // length))
        return BatchExtrapolation(
            self.training(rows, length), self.training(rows + MAX_CHUNKS, length), rows, MAX_CHUNKS
        )

    def generation(self, rows: int, length: int, cache: str = "dynamic") -> Timeline:
        """Return the timeline of a prefill and one decoding step.

        Args:
            rows: Batch size.
            length: Tokens in the cache after the step (capacity of a static cache), at least 2.
            cache: Type of KV cache: dynamic or static.
        """
        key = (rows, length, cache)
        if key not in self._generations:
            make = None
            if cache == "static":
                from transformers import StaticCache

                config = self.traced.config
                make = lambda: StaticCache(config=config, max_cache_len=length)  # noqa: E731
            self._generations[key] = self._fake.generate(rows, length, make)
        return self._generations[key]

    def cache_per_token(self) -> int:
        """Return the cache size per token of one row, in bytes, before any sliding window is full."""
        return self.generation(1, 2).after("decode").get(CACHE, 0) // 2
