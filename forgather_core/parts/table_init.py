"""Applies a definition's table of initial weights, module by module, as transformers asks for it."""

import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cached_property
from typing import Any

import torch
from torch import nn

from forgather_core.parts.initial_weights import Rule
from forgather_core.parts.weight_pieces import Fill, fill_all

# torch's wrappers, and the name that each adds to the path of what it wraps.
_WRAPPERS = {
    ("OptimizedModule", "_orig_mod"),
    ("DistributedDataParallel", "module"),
    ("DataParallel", "module"),
    ("FullyShardedDataParallel", "_fsdp_wrapped_module"),
    ("CheckpointWrapper", "_checkpoint_wrapped_module"),
}


class _Initialization:
    """Parameters of one model that wait to be filled, all at once."""

    def __init__(self, root: nn.Module, seed: int | None) -> None:
        self.fills: dict[int, Fill] = {}
        self.modules: list[nn.Module] = []
        self._seed = seed
        has_base = getattr(root, "base_model", root) is not root
        self._prefix = f"{getattr(root, 'base_model_prefix', '')}." if has_base else ""
        self._root = root
        self._models: dict[int, tuple[dict[int, str], list[tuple[str, Rule]]]] = {}

    @cached_property
    def _names(self) -> dict[int, str]:
        return _names(self._root)  # after a load, there may be nothing to fill

    def add(self, model: Any, module: nn.Module) -> None:
        """Plan to fill the parameters that a module itself owns."""
        self.modules.append(module)
        if not any(True for _ in module.parameters(recurse=False)):
            return
        if id(model) not in self._models:
            self._models[id(model)] = _names(model), list(model.initial_weights())
        names, table = self._models[id(model)]
        tied = getattr(model, "all_tied_weights_keys", None) or {}
        path = names.get(id(module), _new_module(module))
        within = self._names.get(id(module), path)
        for leaf, parameter in module.named_parameters(recurse=False):
            rule = find_rule(table, f"{path}.{leaf}".removeprefix("."))
            skip = f"{path}.{leaf}" in tied or getattr(parameter, "_is_hf_initialized", False) or parameter.is_meta
            if not skip:
                name = f"{within}.{leaf}".removeprefix(".").removeprefix(self._prefix)
                self.fills.setdefault(id(parameter), Fill(rule, parameter, name))

    def fill(self) -> None:
        """Fill them."""
        if self.fills:
            fill_all(list(self.fills.values()), self._seed)


_current: ContextVar[_Initialization | None] = ContextVar("_current", default=None)


@contextmanager
def initialization(root: nn.Module, seed: int | None = None) -> Iterator[None]:
    """Collect what `initialise_module` is asked to fill within the block, and fill it on all cores at the end of it.

    Args:
        root: The whole model. Names count from it, without the prefix of its base model: a decoder has the same numbers
            with and without a head.
        seed: The base seed; None takes one from torch's global generator if something random is to be filled.
    """
    if _current.get() is not None:
        yield  # a model within a model is part of it
        return
    work = _Initialization(root, seed)
    token = _current.set(work)
    try:
        yield
        work.fill()
    except BaseException:
        for module in work.modules:  # transformers has marked them already
            module._is_hf_initialized = False  # type: ignore[assignment]
        raise
    finally:
        _current.reset(token)


@torch.no_grad()
def initialise_module(model: Any, module: Any) -> None:
    """Fill the parameters that a module itself owns, and let it compute its buffers.

    What a checkpoint has filled, which transformers marks, stays; so does the target of a tie, which is about to become
    its source. Parameters on the meta device have nothing to fill. Within `initialization`, parameters are filled at
    the end of that block.

    Args:
        model: Has `initial_weights()` and, from transformers, `all_tied_weights_keys`.
        module: One of its modules, or a replacement for its embedding or head.

    Raises:
        ValueError: No rule matches a parameter: it would silently keep what memory held. Or its rule cannot fill it.
    """
    with initialization(model):
        work = _current.get()
        assert work is not None
        work.add(model, module)
    if hasattr(module, "reset_buffers"):
        module.reset_buffers()


def mark_filled(model: nn.Module, names: Iterable[str]) -> None:
    """Mark modules whose parameters a checkpoint has filled, so that `post_init()` does not fill them again.

    Args:
        model: The model.
        names: The parameters that are filled.
    """
    filled = set(names)
    waiting: list[tuple[str, nn.Module]] = [("", model)]  # named_modules() takes three times as long
    while waiting:
        prefix, module = waiting.pop()
        own = [prefix + leaf for leaf, parameter in module._parameters.items() if parameter is not None]
        if own and filled.issuperset(own):
            module._is_hf_initialized = True  # type: ignore[assignment]
        waiting += [(f"{prefix}{name}.", child) for name, child in module._modules.items() if child is not None]


def find_row(table: Sequence[tuple[str, Rule]], name: str) -> int:
    """Which row of a table fills a parameter: the first whose pattern is found in its name.

    Raises:
        ValueError: There is none.
    """
    for number, (pattern, _) in enumerate(table):
        if re.search(pattern, name):
            return number
    raise ValueError(f"no row of the table of initial weights matches the parameter '{name}'")


def find_rule(table: Sequence[tuple[str, Rule]], name: str) -> Rule:
    """The rule of that row; raises as `find_row`."""
    return table[find_row(table, name)][1]


def _names(model: nn.Module) -> dict[int, str]:
    """The paths of all modules by id, without the names that wrappers add; the first path of a shared one."""
    names: dict[int, str] = {}

    def walk(module: nn.Module, path: str) -> None:
        if id(module) in names:
            return
        names[id(module)] = path
        for name, child in module.named_children():
            wraps = (type(module).__name__, name) in _WRAPPERS
            walk(child, path if wraps else f"{path}.{name}".removeprefix("."))

    walk(model, "")
    return names


def _new_module(module: nn.Module) -> str:
    # resize_token_embeddings makes new modules and fills them before they take their place
    return "embed_tokens" if isinstance(module, nn.Embedding) else "lm_head"
