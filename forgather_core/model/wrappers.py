"""Find the model within torch.compile, data parallelism, FSDP, activation checkpointing and PEFT, in any nesting.

A checkpoint has the names of the innermost model. Wrappers are recognized by their classes, not by attribute names, and
their packages are not imported: only a package that is already imported can wrap a model.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from ..errors import CheckpointError
from ..filesystem.printable import tensors, truncated_list

ADAPTERS_NOT_SAVED = "PEFT adapters are not saved"

_PEFT = "base_model.model"

# Module and name of the class, and the attribute that contains the wrapped module. In a PEFT class, all other
# attributes belong to adapters.
_WRAPPERS = (
    ("torch.nn.parallel", "DataParallel", "module"),
    ("torch.nn.parallel", "DistributedDataParallel", "module"),
    ("torch._dynamo.eval_frame", "OptimizedModule", "_orig_mod"),
    ("torch.distributed.fsdp", "FullyShardedDataParallel", "_fsdp_wrapped_module"),
    ("torch.distributed.algorithms._checkpoint.checkpoint_wrapper", "ActivationWrapper", "_checkpoint_wrapped_module"),
    ("peft.peft_model", "PeftModel", "base_model"),
    ("peft.tuners.tuners_utils", "BaseTuner", "model"),
    ("peft.tuners.tuners_utils", "BaseTunerLayer", "base_layer"),
    ("peft.utils.other", "AuxiliaryTrainingWrapper", "original_module"),
    ("peft.utils.other", "ModulesToSaveWrapper", "original_module"),
)


@dataclass(frozen=True)
class Wrapped:
    """A model with its wrappers.

    Args:
        root: The model as it was passed.
        base: The innermost model, which has a configuration and the names of a checkpoint.
    """

    root: nn.Module
    base: nn.Module
    _attributes: dict[type, str | None] = field(default_factory=dict, repr=False)

    @classmethod
    def of(cls, model: nn.Module) -> Wrapped:
        """Find the innermost model.

        Raises:
            TypeError: `model` is not a module.
        """
        if not isinstance(model, nn.Module):
            raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}")
        attributes: dict[type, str | None] = {}
        kinds = _kinds()
        waiting: list[nn.Module | None] = [model]
        while waiting:
            if (module := waiting.pop()) is None:
                continue
            if type(module) not in attributes:
                found = next((attribute for kind, attribute in kinds if isinstance(module, kind)), None)
                attributes[type(module)] = found
            waiting += module._modules.values()
        base = model
        while (attribute := attributes[type(base)]) is not None and attribute in base._modules:
            base = base._modules[attribute]  # type: ignore[assignment]
        return cls(model, base, attributes)

    @property
    def is_plain(self) -> bool:
        """Return whether there is no wrapper, so that all names are the model's own."""
        return not any(self._attributes.values())

    @property
    def has_adapters(self) -> bool:
        """Return whether PEFT has added adapters."""
        return any(attribute is not None and _is_peft(kind) for kind, attribute in self._attributes.items())

    def adapters(self) -> frozenset[str]:
        """Return the names of adapter tensors, as returned by `clean`."""
        if not self.has_adapters:
            return frozenset()
        return frozenset(self.clean(name) for name in self.root.state_dict(keep_vars=True) if self.is_adapter(name))

    @property
    def has_fsdp(self) -> bool:
        """Return whether FSDP1 has flattened and perhaps sharded parameters."""
        return any(_is_fsdp(module) for module in self._of_class("_fsdp_wrapped_module"))

    @property
    def has_ddp(self) -> bool:
        """Return whether DistributedDataParallel holds a copy of the model in each process."""
        return any(getattr(module, "process_group", None) is not None for module in self._of_class("module"))

    def clean(self, name: str) -> str:
        """Return the name in `base` for a name in the state of `root`; names of adapters are returned unchanged."""
        return ".".join(self._resolve(name)[0]) if not self.is_plain else name

    def is_adapter(self, name: str) -> bool:
        """Return whether a name in the state of `root` belongs to an adapter, not to the wrapped model."""
        return not self.is_plain and self._resolve(name)[2]

    def names_within(self, names: Iterable[str]) -> list[str]:
        """Return the names of parameters in the innermost model, with the components of inner wrappers."""
        selected, inner = set(names), Wrapped(self.base, self.base, self._attributes)
        found = (name for name, _ in self.base.named_parameters(remove_duplicate=False))
        return [name for name in found if inner.clean(name) in selected]

    def _resolve(self, name: str) -> tuple[list[str], list[str], bool]:
        """Return the components of a name without wrappers, those of wrappers, and whether it belongs to an adapter."""
        parts, kept, removed, adapter = name.split("."), list[str](), list[str](), False
        module: Any = self.root
        for part in parts:
            # FSDP and activation checkpointing remove their own component from the names of a state.
            while (attribute := self._attribute(module)) in {"_fsdp_wrapped_module", "_checkpoint_wrapped_module"}:
                if part == attribute:
                    break
                removed.append(str(attribute))
                module = module._modules.get(attribute)
            if attribute is None or part != attribute:
                kept.append(part)
                adapter |= attribute is not None and _is_peft(type(module))
            else:
                removed.append(part)
            module = module._modules.get(part) if isinstance(module, nn.Module) else None
        return kept, removed, adapter

    def _attribute(self, module: object) -> str | None:
        return self._attributes.get(type(module)) if module is not None else None

    def _of_class(self, attribute: str) -> Iterator[nn.Module]:
        kinds = {kind for kind, found in self._attributes.items() if found == attribute}
        return (module for module in self.root.modules() if type(module) in kinds) if kinds else iter(())

    def notes(self, names: Iterable[str], template: str) -> tuple[str, ...]:
        """Return one sentence for each prefix that is removed from names.

        Args:
            names: Names in the model, with the components of all wrappers.
            template: The sentence, with `{0}` for the number of tensors and `{1}` for the prefix.
        """
        if self.is_plain:
            return ()
        counts: Counter[str] = Counter()
        for name in names:
            found = set(self._resolve(name)[1])
            counts.update({_PEFT if part in {"base_model", "model"} else part for part in found})
        return tuple(template.format(tensors(count), prefix) for prefix, count in sorted(counts.items()))

    def refuse_merged(self) -> None:
        """Refuse adapters that are merged into the weights of the wrapped model.

        Raises:
            CheckpointError: Adapters are merged.
        """
        for module in self._of_class("base_layer"):
            if getattr(module, "merged", False):
                hint = "call unmerge_adapter(), or use the model that merge_and_unload() returns"
                raise CheckpointError("the adapters of this PEFT model are merged into its weights", hint=hint)

    @property
    def rank(self) -> int:
        """Rank in the process group of data parallelism; 0 if there is none."""
        for module in (*self._of_class("module"), *self._of_class("_fsdp_wrapped_module")):
            group = getattr(module, "process_group", None)
            if group is not None:
                return int(group.rank())
        return 0

    @contextmanager
    def full_parameters(self) -> Iterator[None]:
        """Gather FSDP1's full parameters within the block, and write changes back. Every process must call this."""
        if not self.has_fsdp:
            yield
            return
        from torch.distributed.fsdp import FullyShardedDataParallel

        with FullyShardedDataParallel.summon_full_params(self.root, writeback=True):
            yield

    def state(self, *, keep_vars: bool = False) -> dict[str, Any]:
        """Return the state of `root` by its own names. FSDP1 gathers it on rank 0, and every process must call this.

        Args:
            keep_vars: Return the parameters themselves, unless FSDP1 gathers them.
        """
        if not self.has_fsdp:
            return dict(self.root.state_dict(keep_vars=keep_vars))
        from torch.distributed.fsdp import FullStateDictConfig, FullyShardedDataParallel, StateDictType

        # With offload on the CPU, torch would free the tensors that it has just gathered.
        offload = any(parameter.device.type != "cpu" for parameter in self.root.parameters())
        config = FullStateDictConfig(offload_to_cpu=offload, rank0_only=True)
        with FullyShardedDataParallel.state_dict_type(self.root, StateDictType.FULL_STATE_DICT, config):
            return dict(self.root.state_dict())

    def broadcast(self, outcome: Any) -> Any:
        """Return the outcome of rank 0 on every rank of FSDP1."""
        if not self.has_fsdp:
            return outcome
        import torch.distributed as dist

        group: Any = next(iter(self._of_class("_fsdp_wrapped_module"))).process_group
        outcomes = [outcome]
        dist.broadcast_object_list(outcomes, src=dist.get_global_rank(group, 0), group=group)
        return outcomes[0]


def adapters_note(names: list[str]) -> str:
    """Return a sentence about adapters that are not saved."""
    return (
        f"{ADAPTERS_NOT_SAVED}, only the model that they adapt ({tensors(len(names))}: {truncated_list(names)}): "
        f"save them with the model's save_pretrained(), or save the model that merge_and_unload() returns"
    )


def _kinds() -> list[tuple[type, str]]:
    """Return the wrapper classes whose modules are imported, each with the attribute of the wrapped module."""
    found = []
    for module, name, attribute in _WRAPPERS:
        kind = getattr(sys.modules.get(module), name, None)
        if isinstance(kind, type):
            found.append((kind, attribute))
    return found


def _is_peft(kind: type) -> bool:
    return any(base.__module__.startswith("peft.") for base in kind.__mro__)


def _is_fsdp(module: nn.Module) -> bool:
    return getattr(module, "process_group", None) is not None
