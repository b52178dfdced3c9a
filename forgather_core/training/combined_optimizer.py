"""Create the optimizer of a training run, and combine several optimizers into one, as trainers require."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import TrainingError
from ..parts.weight_pieces import is_sharded
from .optimizers import update_in_backward

Groups = list[dict[str, Any]]
BETAS = (0.9, 0.95)  # usual for AdamW in language models (arXiv:2005.14165, app. B)
OPTIMIZERS = ("adamw", "sgd", "muon")
MOMENTUM = 0.9  # momentum of SGD


class CombinedOptimizer(torch.optim.Optimizer):
    """Step several optimizers together.

    Its parameter groups are those of all the optimizers, so that one learning rate schedule applies to them.

    Args:
        optimizers: Optimizers of different parameters.
    """

    def __init__(self, optimizers: Sequence[torch.optim.Optimizer]) -> None:
        self.optimizers = list(optimizers)
        super().__init__(chain.from_iterable(optimizer.param_groups for optimizer in self.optimizers), {})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Step every optimizer."""
        for optimizer in self.optimizers:
            optimizer.step()

    def state_dict(self) -> dict[str, Any]:
        """Return the state of every optimizer, in their order."""
        return {"optimizers": [optimizer.state_dict() for optimizer in self.optimizers]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a state of the same optimizers."""
        for optimizer, state in zip(self.optimizers, state_dict["optimizers"], strict=True):
            optimizer.load_state_dict(state)
        # Loading has replaced the groups of each optimizer.
        self.param_groups = list(chain.from_iterable(optimizer.param_groups for optimizer in self.optimizers))


class FusedInBackward(CombinedOptimizer):
    """Step an optimizer for each parameter as soon as its gradient is computed, then free the gradient.

    The gradients of all parameters never exist at once. Gradient accumulation and clipping by the global norm are
    therefore not supported.

    Args:
        make: A function that creates the optimizer of one parameter, from its parameter group.
        groups: The parameter groups.
    """

    def __init__(self, make: Callable[[Groups], torch.optim.Optimizer], groups: Groups) -> None:
        single = [{**group, "params": [parameter]} for group in groups for parameter in group["params"]]
        super().__init__([make([group]) for group in single])
        for optimizer in self.optimizers:
            update_in_backward(optimizer.param_groups[0]["params"][0], optimizer)

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Do nothing: backward has updated all parameters."""


def is_fused(optimizer: Any) -> bool:
    """Return whether an optimizer, possibly wrapped by accelerate, updates parameters within backward."""
    return isinstance(getattr(optimizer, "optimizer", optimizer), FusedInBackward)


def decayed_names(model: nn.Module) -> list[str]:
    """Return the names of the parameters to which weight decay applies: matrices, not norms, biases or slopes."""
    return [name for name, parameter in model.named_parameters() if parameter.dim() >= 2]


def check_optimizer(name: str, *, in_backward: bool) -> None:
    """Check that an optimizer exists, and that it can update each parameter within backward.

    Raises:
        TrainingError: There is no optimizer of this name, or `in_backward` is set with muon.
    """
    if name not in OPTIMIZERS:
        raise TrainingError(f"must be one of {', '.join(OPTIMIZERS)}; got '{name}'", option="--optimizer")
    if name == "muon" and in_backward:
        problem = "does not support muon"
        raise TrainingError(problem, option="--fuse-optim-with-backward", hint="use adamw or sgd")


def training_optimizer(
    name: str, model: nn.Module, *, lr: float, weight_decay: float, in_backward: bool = False
) -> torch.optim.Optimizer:
    """Return the optimizer of a training run.

    Weight decay applies to matrices, not to norms, biases and slopes. AdamW uses torch's fused implementation where
    the parameters allow it. Muon (arXiv:2502.16982) updates the matrices of the layers, with its updates scaled to the
    RMS of AdamW's; AdamW updates the embeddings, the head and the vectors.

    Args:
        name: adamw, sgd or muon.
        model: The model.
        lr: The learning rate.
        weight_decay: The weight decay coefficient.
        in_backward: Update each parameter within backward.

    Raises:
        TrainingError: There is no optimizer of this name, the installed torch has no Muon, or `in_backward` is set
            with muon.
    """
    check_optimizer(name, in_backward=in_backward)
    parameters = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    matrices = set(decayed_names(model))

    def groups(names: Iterable[str]) -> Groups:
        decayed, others = [n for n in names if n in matrices], [n for n in names if n not in matrices]
        return [
            {"params": [parameters[n] for n in members], "weight_decay": decay}
            for members, decay in ((decayed, weight_decay), (others, 0.0))
            if members
        ]

    fused = all(parameter.is_floating_point() and _can_fuse(parameter) for parameter in parameters.values())
    # torch does not update sharded parameters together with others.
    foreach = False if any(map(is_sharded, parameters.values())) else None
    adamw = partial(torch.optim.AdamW, lr=lr, betas=BETAS, fused=fused or None, foreach=foreach)
    make = adamw if name != "sgd" else partial(torch.optim.SGD, lr=lr, momentum=MOMENTUM, foreach=foreach)
    if name != "muon":
        return FusedInBackward(make, groups(parameters)) if in_backward else make(groups(parameters))
    if not hasattr(torch.optim, "Muon"):
        raise TrainingError("muon requires torch 2.10", option="--optimizer", hint="upgrade torch, or use adamw")
    outside = _outside_layers(model)
    inner = [n for n in parameters if parameters[n].dim() == 2 and n not in outside]
    muon = torch.optim.Muon(
        [parameters[n] for n in inner], lr=lr, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw"
    )
    return CombinedOptimizer([muon, adamw(groups([n for n in parameters if n not in set(inner)]))])


def _outside_layers(model: nn.Module) -> set[str]:
    """Return the names of the weights of the embeddings and of the head."""
    outside = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    find_head: Any = getattr(model, "get_output_embeddings", None)
    head = find_head() if find_head is not None else None
    if head is not None:
        outside.add(id(head.weight))
    return {name for name, parameter in model.named_parameters() if id(parameter) in outside}


def _can_fuse(parameter: Tensor) -> bool:
    return parameter.device.type in ("cpu", "cuda") and not is_sharded(parameter)
