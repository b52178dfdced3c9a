"""One call of a model, as a case describes it, and its results by document.

Shapes: B rows, W columns, V vocabulary, D hidden size, H heads; n tokens of a document.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from ...training.loss import can_skip_logits
from ..shared.cached_forward import token_arguments
from ..shared.compared_gradients import gradients_of
from ..shared.implementations import uncompiled_flex
from ..shared.traced import traced
from .arguments import (
    attention_mask,
    label_arguments,
    logits_to_keep,
    position_arguments,
    uneven,
)
from .caches import cache_arguments, logits_in_chunks
from .factors import Case
from .layout import Layout
from .models import DTYPES

_GRADIENT_MODES = {"off": torch.no_grad, "on": torch.enable_grad, "inference-mode": torch.inference_mode}


@dataclass
class Results:
    """The results of a call.

    Args:
        logits: The logits of each document, [n, V]; None where the call does not return them.
        loss: The loss, a scalar; None without labels.
        hidden: The hidden states of each document and layer, [n, D].
        weights: The attention weights of each document and layer, [H, n, n].
        gradients: The gradient of each parameter that has one.
    """

    logits: list[Tensor] | None = None
    loss: Tensor | None = None
    hidden: list[list[Tensor]] = field(default_factory=list)
    weights: list[list[Tensor]] = field(default_factory=list)
    gradients: dict[str, Tensor] = field(default_factory=dict)


def weighted_sum(layout: Layout, logits: Sequence[Tensor], kept: Sequence[Tensor] | None) -> Tensor:
    """Return a sum of logits by weights that depend on the tokens of a document only, not on their columns.

    Args:
        layout: The documents.
        logits: The logits of each document that are returned.
        kept: The indices of their tokens; None means all.
    """
    parts = []
    for number, one in enumerate(layout.documents):
        generator = torch.Generator().manual_seed(int(one.tokens.sum()) + len(one.tokens))
        weights = torch.randn(len(one.tokens), logits[number].shape[-1], generator=generator) / len(one.tokens)
        parts.append((logits[number].float() * (weights if kept is None else weights[kept[number]])).sum())
    return torch.stack(parts).sum()


def call(model: Any, case: Case, layout: Layout, *, windows: tuple[int | None, ...], passes_positions: bool) -> Results:
    """Call a model as a case describes it.

    Args:
        model: The model, with the attention implementation and the dtype of the case.
        case: The levels of all factors.
        layout: Its texts.
        windows: The sliding windows of the layers.
        passes_positions: Pass the positions of padded rows even if the case omits them, as `generate()` does.
    """
    low = case["dtype"].removeprefix("autocast-")
    autocast = case["dtype"].startswith("autocast-")
    with (
        prepared(model, case),
        _GRADIENT_MODES[case["gradients"]](),
        torch.autocast("cpu", DTYPES[low]) if autocast else nullcontext(),
        uncompiled_flex(case["attention"]),
        traced(model) if case["compile"] == "on" else nullcontext(model) as function,
    ):
        if case["chunks"] == "whole":
            results = _whole(function, case, layout, windows, passes_positions)
        else:
            logits = _in_chunks(function, case, layout, windows, passes_positions)
            results = Results(logits=_by_document(logits, layout, _columns(None, layout.ids.shape[1])))
        if case["gradients"] == "on":
            _backward(model, results, layout, kept_tokens(case, layout))
    return results


@contextmanager
def prepared(model: Any, case: Case) -> Iterator[None]:
    """Set mode, checkpointing, frozen parameters and use_cache, and restore them."""
    model.train(case["mode"] == "train")
    config = model.config.get_text_config()
    use_cache = getattr(config, "use_cache", None)
    if case["cache"] == "config-off":
        config.use_cache = False
    frozen = _frozen(model, case["frozen"])
    try:
        for parameter in frozen:
            parameter.requires_grad_(False)
        model.zero_grad()
        if case["checkpointing"] != "off":
            how = {"use_reentrant": case["checkpointing"] == "reentrant"}
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs=how)
        yield
    finally:
        if case["cache"] == "config-off":
            config.use_cache = use_cache
        if case["checkpointing"] != "off":
            model.gradient_checkpointing_disable()
            with suppress(AttributeError):  # transformers 5 makes the embeddings require gradients, and keeps the hooks
                model.disable_input_require_grads()
        for parameter in frozen:
            parameter.requires_grad_(True)
        model.zero_grad()


def _frozen(model: Any, level: str) -> list[nn.Parameter]:
    parameters = [one for one in model.parameters() if one.requires_grad]
    if level == "none":
        return []
    if level == "all-but-one":
        return parameters[: len(parameters) // 2] + parameters[len(parameters) // 2 + 1 :]
    module = model.get_output_embeddings() if level == "head" else model.get_input_embeddings()
    return [one for one in module.parameters() if one.requires_grad]


def _whole(model: Any, case: Case, layout: Layout, windows: tuple[int | None, ...], passes_positions: bool) -> Results:
    inputs: dict[str, Any] = dict(token_arguments(model, layout.ids, embed=case["input"] == "embeds"))
    inputs |= position_arguments(case, layout, passes_positions)
    if case["mask"] != "none":
        inputs["attention_mask"] = attention_mask(case, layout, windows, model.dtype)
    inputs |= cache_arguments(model, case, layout)
    keep = logits_to_keep(case, layout.ids.shape[1])
    if keep is not None:
        inputs["logits_to_keep"] = keep
    if case["outputs"] == "hidden-states":
        inputs["output_hidden_states"] = True
    elif case["outputs"] == "attentions":
        inputs["output_attentions"] = True
    if case["labels"] != "none":
        inputs |= label_arguments(case, layout)
    if case["labels"] != "none" and can_skip_logits(model):  # its default is in the configuration
        inputs["skip_logits"] = case["loss"] == "chunked"
    outputs = model(**inputs, return_dict=case["return"] == "dict")
    named = outputs if case["return"] == "dict" else dict(zip(_names(case), outputs, strict=False))
    results = Results(loss=named.get("loss"))
    logits = named.get("logits")
    if logits is not None and case["loss"] == "full":
        columns = _columns(keep, layout.ids.shape[1])
        results.logits = _by_document(logits, layout, columns)
    for one in layout.documents if case["return"] == "dict" else ():
        if case["outputs"] == "hidden-states":
            results.hidden.append([layer[one.row, one.columns] for layer in named["hidden_states"]])
        elif case["outputs"] == "attentions":
            layers = [layer for layer in named["attentions"] if layer is not None]
            rows = [layer[one.row][:, one.columns][..., one.columns] for layer in layers]
            results.weights.append(rows)
    return results


def _names(case: Case) -> tuple[str, ...]:
    return (*(("loss",) if case["labels"] != "none" else ()), "logits")


def kept_tokens(case: Case, layout: Layout) -> list[Tensor] | None:
    """Return, for each document, the indices of its tokens whose logits are returned; None means all."""
    width = layout.ids.shape[1]
    keep = logits_to_keep(case, width)
    if keep is None:
        return None
    return [torch.isin(one.columns, _columns(keep, width)).nonzero().flatten() for one in layout.documents]


def _columns(keep: int | Tensor | None, width: int) -> Tensor:
    """Return the columns whose logits are returned."""
    return keep if isinstance(keep, Tensor) else torch.arange(width - (width if keep is None else keep), width)


def _by_document(logits: Tensor, layout: Layout, columns: Tensor) -> list[Tensor]:
    """Return the logits [n, V] of the tokens of each document in these columns, from [B, columns, V]."""
    expected = (len(layout.ids), len(columns), logits.shape[-1])
    if tuple(logits.shape) != expected:
        raise ValueError(f"expected logits of the shape {list(expected)}, got {list(logits.shape)}")
    return [logits[one.row, torch.isin(columns, one.columns)] for one in layout.documents]


def _in_chunks(
    model: Any, case: Case, layout: Layout, windows: tuple[int | None, ...], passes_positions: bool
) -> Tensor:
    """Return the logits [B, W, V] of a text that is passed in chunks through a cache."""
    width = layout.ids.shape[1]
    sizes = (1,) * width if case["chunks"] == "single" else uneven(width)
    mask = None if case["mask"] == "none" else attention_mask(case, layout, windows, model.dtype)
    positions = position_arguments(case, layout, passes_positions)
    return logits_in_chunks(model, case, layout, mask, positions, sizes)


def _backward(model: Any, results: Results, layout: Layout, kept: list[Tensor] | None) -> None:
    """Compute the gradients of the loss, or of a weighted sum of the logits."""
    objective = results.loss
    if objective is None:
        assert results.logits is not None
        objective = weighted_sum(layout, results.logits, kept)
    if objective.requires_grad:
        objective.backward()  # type: ignore[no-untyped-call]
    results.gradients = gradients_of(model)
