"""Calls that may leave state behind in a model or in the process."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

import torch
from torch import Tensor

from .cached_forward import UNEQUAL, empty_cache, forward_in_chunks, taken
from .inputs import packed_rows
from .layers import layers_of
from .model_under_test import FLEX, LENGTH, ModelUnderTest

LONG = 3 * LENGTH
GROWING = (3, 8, 13, 17, 22, 29)  # lengths that no other call has

Call = Callable[[Any], object]


def lengths_of(subject: ModelUnderTest) -> tuple[int, ...]:
    """Return growing lengths of texts, up to the longest for which the frequencies of RoPE do not change."""
    config = subject.text_config
    rope = getattr(config, "rope_parameters", None) or {}
    limits = (getattr(config, "max_position_embeddings", None), rope.get("original_max_position_embeddings"))
    longest = min([LONG, *(limit for limit in limits if isinstance(limit, int))])
    return (*(length for length in GROWING if length < longest), longest)


def calls_of(subject: ModelUnderTest, attention: str) -> dict[str, Call]:
    """Return calls that may leave state behind, by name."""
    text, (documents, position_ids) = subject.tokens(2), packed_rows(subject)
    calls: dict[str, Call] = {
        "a plain call": partial(plain_call, text=text),
        "a longer text": lambda model: model(subject.tokens(2, lengths_of(subject)[-1])),
        "a text of one row": lambda model: model(text[:1, :7]),
        "packed documents": lambda model: model(documents, use_cache=False, **taken(model, position_ids=position_ids)),
        "a dynamic cache": lambda model: forward_in_chunks(model, text, UNEQUAL, empty_cache("dynamic", model)),
        "a static cache": lambda model: forward_in_chunks(model, text, UNEQUAL, empty_cache("static", model)),
        "a call that asks for all outputs": partial(_all_outputs, text=text, attention=attention),
        "bfloat16 autocast": partial(autocast, text=text),
        "training mode": partial(_training, text=text),
        "an error": partial(_wrong_shapes, text=text),
        "an interruption in the last layer": partial(_interrupted, text=text),
    }
    if attention != FLEX:  # it has no backward pass on CPU
        calls["a training step"] = partial(training_step, text=text)
        if subject.on_meta().supports_gradient_checkpointing:
            calls["a training step with gradient checkpointing"] = partial(_checkpointed_step, text=text)
        calls["an interruption of a training step"] = partial(_interrupted, text=text, step=True)
    return calls


def plain_call(model: Any, text: Tensor) -> None:
    """Call a model with a text only."""
    model(text)


def _all_outputs(model: Any, text: Tensor, attention: str) -> None:
    """Call a model with arguments that take the place of settings of its configuration."""
    names = ["output_hidden_states", "output_router_logits", *(["output_attentions"] if attention == "eager" else [])]
    model(text, use_cache=False, return_dict=False, **{name: True for name in names if hasattr(model.config, name)})


def autocast(model: Any, text: Tensor) -> None:
    """Call a model in bfloat16 autocast."""
    with torch.autocast("cpu", torch.bfloat16):
        model(text)


def _training(model: Any, text: Tensor) -> None:
    model.train()(text, use_cache=False)
    model.eval()


def training_step(model: Any, text: Tensor) -> None:
    """Compute and delete all gradients; the model is in evaluation mode afterwards."""
    with torch.enable_grad():
        model.train()(text, labels=text.clone(), use_cache=False).loss.backward()
    model.zero_grad(set_to_none=True)
    model.eval()


def _checkpointed_step(model: Any, text: Tensor) -> None:
    """Compute a training step with gradient checkpointing, which is off afterwards."""
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    try:
        training_step(model, text)
    finally:
        model.gradient_checkpointing_disable()
        with suppress(AttributeError):  # transformers 5 makes the embeddings require gradients, and keeps the hooks
            model.disable_input_require_grads()


def _wrong_shapes(model: Any, text: Tensor) -> None:
    """Call a model with wrong shapes; it may accept some of them."""
    embeds = model.get_input_embeddings()(text)
    wrong: list[dict[str, Tensor]] = [
        {"inputs_embeds": torch.cat([embeds, embeds[..., :1]], dim=-1)},
        {"input_ids": text, "attention_mask": torch.ones_like(text)[:, :-3]},
        {"input_ids": text, "labels": text[:, :-3].clone()},
    ]
    for arguments in wrong:
        with suppress(Exception):
            model(**arguments)


class _InterruptedError(Exception):
    """An interruption of a call, raised by a hook."""


def _interrupted(model: Any, text: Tensor, *, step: bool = False) -> None:
    """Interrupt a call before the last layer, as Ctrl-C or a lack of memory does."""

    def interrupt(*_: Any) -> None:
        raise _InterruptedError

    hook = layers_of(model)[-1].register_forward_pre_hook(interrupt)
    try:
        with suppress(_InterruptedError):
            model.train(step)(text, use_cache=not step)
    finally:
        hook.remove()
        model.eval()
