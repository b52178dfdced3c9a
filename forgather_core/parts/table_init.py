"""Apply a definition's initialization table module by module, as transformers requests it."""

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

# torch's wrappers, and the name that each adds to the path of the wrapped module.
_WRAPPERS = {
    ("OptimizedModule", "_orig_mod"),
    ("DistributedDataParallel", "module"),
    ("DataParallel", "module"),
    ("FullyShardedDataParallel", "_fsdp_wrapped_module"),
    ("CheckpointWrapper", "_checkpoint_wrapped_module"),
}


class _Initialization:
    """Collected parameters of one model, to be filled together."""

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
        return _names(self._root)  # lazy: after a checkpoint is loaded, there may be nothing to fill

    def add(self, model: Any, module: nn.Module) -> None:
        """Collect the parameters that a module owns directly."""
        self.modules.append(module)
        if not any(True for _ in module.parameters(recurse=False)):
            return
        if id(model) not in self._models:
            self._models[id(model)] = _names(model), list(model.initial_weights())
        names, table = self._models[id(model)]
        tied = getattr(model, "all_tied_weights_keys", None) or {}
        path = names.get(id(module), _assumed_name(module))
        within = self._names.get(id(module), path)
        for leaf, parameter in module.named_parameters(recurse=False):
            rule = find_rule(table, f"{path}.{leaf}".removeprefix("."))
            skip = f"{path}.{leaf}" in tied or getattr(parameter, "_is_hf_initialized", False) or parameter.is_meta
            if not skip:
                name = f"{within}.{leaf}".removeprefix(".").removeprefix(self._prefix)
                self.fills.setdefault(id(parameter), Fill(rule, parameter, name))

    def fill(self) -> None:
        """Fill the collected parameters."""
        if self.fills:
            fill_all(list(self.fills.values()), self._seed)


_current: ContextVar[_Initialization | None] = ContextVar("_current", default=None)


@contextmanager
def initialization(root: nn.Module, seed: int | None = None) -> Iterator[None]:
    """Collect the parameters of `initialize_module` calls in the block, and fill them on all cores at its end.

    Args:
        root: The full model. Names are relative to it, without the prefix of its base model: a decoder gets the same
            values with and without a head.
        seed: The base seed; None takes one from torch's global generator if a rule is random.
    """
    if _current.get() is not None:
        yield  # a nested model belongs to the outer one
        return
    work = _Initialization(root, seed)
    token = _current.set(work)
    try:
        yield
        work.fill()
    except BaseException:
        for module in work.modules:  # already marked by transformers
            module._is_hf_initialized = False  # type: ignore[assignment]
        raise
    finally:
        _current.reset(token)


@torch.no_grad()
def initialize_module(model: Any, module: Any) -> None:
    """Fill the parameters that a module owns directly, and recompute its buffers.

    Skips parameters filled by a checkpoint, which transformers marks; targets of ties, which are replaced by their
    source; and parameters on the meta device. Within `initialization`, parameters are filled at the end of its block.

    Args:
        model: A model with `initial_weights()` and transformers' `all_tied_weights_keys`.
        module: One of its modules, or a replacement for its embedding or head.

    Raises:
        ValueError: No rule matches a parameter, which would keep undefined values, or its rule cannot fill it.
    """
    with initialization(model):
        work = _current.get()
        assert work is not None
        work.add(model, module)
    if hasattr(module, "reset_buffers"):
        module.reset_buffers()


def mark_filled(model: nn.Module, names: Iterable[str]) -> None:
    """Mark modules with parameters from a checkpoint, so that `post_init()` does not fill them again.

    Args:
        model: The model.
        names: Names of the loaded parameters.
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
    """Return the index of the first row of a table whose pattern is found in a parameter's name.

    Raises:
        ValueError: No row matches.
    """
    for number, (pattern, _) in enumerate(table):
        if re.search(pattern, name):
            return number
    raise ValueError(f"no row of the initialization table matches the parameter '{name}': add one")


def find_rule(table: Sequence[tuple[str, Rule]], name: str) -> Rule:
    """Return the rule of the first row of a table whose pattern is found in a parameter's name.

    Raises:
        ValueError: No row matches.
    """
    return table[find_row(table, name)][1]


def _names(model: nn.Module) -> dict[int, str]:
    """Return the paths of all modules by id, without the names of wrappers; the first path of a shared module."""
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


def _assumed_name(module: nn.Module) -> str:
    """Return a name for a new module, which resize_token_embeddings fills before it inserts it into the model."""
    return "embed_tokens" if isinstance(module, nn.Embedding) else "lm_head"
