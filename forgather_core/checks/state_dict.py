"""State dict: it has exactly the parameters, under fixed names, and no undeclared sharing of memory.

A parameter that is a view into a larger tensor is saved with the whole tensor by `torch.save`, and refused by
safetensors; parameters that share memory without a declared tie are saved once and loaded as two.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ..definitions.check import Measured, check, expect
from ..errors import first_line
from ..filesystem.printable import dtype_of, truncated_list
from .shared.model_under_test import ModelUnderTest
from .shared.tolerance import different_tensors

_TRAINED = re.compile(r"^(?:train(?:able|ed|s)?_(.+)|(.+)_train(?:able|ed))$")
_FROZEN = re.compile(r"^(?:freezes?_(.+)|frozen_(.+)|(.+)_frozen)$")
_POSITIONS = re.compile(r"pos(?:ition|_|$)|sinusoid|wpe", re.IGNORECASE)


@check("state-dict", cause="a persistent buffer, a frozen or hidden parameter, or weights that share memory")
def state_dict(subject: ModelUnderTest) -> Iterator[Measured]:
    """The state dict has exactly the parameters, loads strictly, and its names never change."""
    model = subject.fresh_model()
    yield from _check_content(subject, model)
    yield from _check_loading(subject, model)
    yield from _check_training(subject, model)
    yield from _check_memory(model)
    yield from _check_names(subject, model)
    yield from _check_casts(model)
    yield _check_deep_copy(subject)


@torch.no_grad()
def _check_deep_copy(subject: ModelUnderTest) -> Measured:
    """Check that a deep copy, such as an average of weights or a frozen reference, computes with its own weights."""
    model, text = subject.randomized_model(), subject.tokens(2)
    twin = copy.deepcopy(model)
    before = twin(text, use_cache=False).logits
    for tensor in (*model.parameters(), *model.buffers()):
        if tensor.is_floating_point():
            tensor.mul_(0.5).add_(0.1)
    failure = "a deep copy computes with weights of the original"
    unchanged = torch.equal(before, twin(text, use_cache=False).logits)
    return expect("a deep copy has its own weights", unchanged, failure=failure)


def _check_content(subject: ModelUnderTest, model: Any) -> Iterator[Measured]:
    state, parameters = model.state_dict(), _parameters(model)
    buffers = {} if subject.made_by_forgather else _persistent_buffers(model)
    absent = [name for name in parameters if name not in state]
    failure = f"the state dict lacks parameters: {truncated_list(absent)}"
    yield expect(f"all {len(parameters)} parameters are in the state dict", not absent, failure=failure)
    hidden = _unregistered(model)
    failure = f"parameters in plain attributes are not registered, so that they are not saved: {truncated_list(hidden)}"
    yield expect("all parameters are registered", not hidden, failure=failure)
    more = [name for name in state if name not in parameters and name not in buffers]
    kind = "buffers" if set(more) <= _persistent_buffers(model).keys() else "entries that are not parameters"
    failure = f"the state dict has {kind}: {truncated_list(more)}"
    yield expect("the state dict has no other entries", not more, failure=failure)
    kept = {name: state[name] for name in parameters if name in state}
    wrong = different_tensors(kept, {name: parameters[name].detach() for name in kept})
    failure = "values in the state dict differ from the parameters"
    yield expect("the state dict has the values of the parameters", not wrong, truncated_list(wrong), failure=failure)


def _check_casts(model: nn.Module) -> Iterator[Measured]:
    """Check that a cast keeps the parameters, which an optimizer may already have, and their latest values."""
    before = dict(model.named_parameters())
    for dtype in (torch.float32, torch.bfloat16, torch.float32):
        with torch.no_grad():
            for parameter in before.values():
                parameter.mul_(0.7).add_(0.3)
        values = {name: parameter.detach().clone() for name, parameter in before.items()}
        model.to(dtype)
        found = {name: parameter.detach() for name, parameter in model.named_parameters()}
        wrong = different_tensors(found, {name: values[name].to(one.dtype) for name, one in found.items()})
        failure = f"to({dtype_of(dtype)}) gives parameters other values than they had"
        yield expect(f"to({dtype_of(dtype)}) keeps the values", not wrong, truncated_list(wrong), failure=failure)
        replaced = [name for name, parameter in model.named_parameters() if parameter is not before.get(name)]
        what = f"to({dtype_of(dtype)}) keeps the parameters"
        failure = f"to({dtype_of(dtype)}) replaces parameters by new ones, which an optimizer does not have"
        yield expect(what, not replaced, truncated_list(replaced), failure=failure)


def _check_loading(subject: ModelUnderTest, model: Any) -> Iterator[Measured]:
    state = model.state_dict()
    other = subject.fresh_model(seed=subject.seed + 1)
    try:
        report = other.load_state_dict(state, strict=True)
    except Exception as error:
        failure = f"load_state_dict with strict=True raises {type(error).__name__}: {first_line(error)}"
        yield expect("the state dict loads", False, failure=failure)
        return
    reported = [*getattr(report, "missing_keys", []), *getattr(report, "unexpected_keys", [])]
    failure = f"load_state_dict reports missing or unexpected keys: {truncated_list(reported)}"
    yield expect("loading reports no missing or unexpected keys", not reported, failure=failure)
    wrong = different_tensors(other.state_dict(), state)
    failure = "after load_state_dict, values differ from the loaded ones"
    yield expect("loading fills every entry", not wrong, truncated_list(wrong), failure=failure)
    name = next(iter(state))
    for what, content in {
        "lacks a weight": {entry: tensor for entry, tensor in state.items() if entry != name},
        "has an unknown weight": {**state, f"{name}_of_a_check": state[name]},
    }.items():
        failure = f"load_state_dict with strict=True accepts a state dict that {what}"
        yield expect(f"a state dict that {what} is refused", _is_refused(other, content), failure=failure)
    assigned = {name: tensor.to(torch.float64) for name, tensor in state.items()}
    other.load_state_dict(assigned, assign=True)
    copied = sorted(n for n, p in other.named_parameters() if n in assigned and p.data_ptr() != assigned[n].data_ptr())
    failure = f"load_state_dict with assign=True copies values in place of assigning tensors: {truncated_list(copied)}"
    yield expect("assign=True assigns the tensors", not copied, failure=failure)


def _is_refused(model: Any, state: Mapping[str, Tensor]) -> bool:
    try:
        model.load_state_dict(state)
    except Exception:  # load_state_dict of torch raises RuntimeError; others may raise any exception
        return True
    return False


def _check_training(subject: ModelUnderTest, model: Any) -> Iterator[Measured]:
    """Check that every parameter is trained, except those that an option of the configuration freezes."""
    stems = frozen_stems(model.config.to_dict())
    frozen = [n for n, p in _parameters(model).items() if not p.requires_grad and not any(s in n for s in stems)]
    if not subject.made_by_forgather:  # some classes have fixed tables of positions, and biases of routers
        matrices = [name for name in frozen if model.get_parameter(name).dim() > 1 and not name.endswith("bias")]
        frozen = [name for name in matrices if not _POSITIONS.search(name)]
    failure = f"parameters do not require a gradient, and no option freezes them: {truncated_list(frozen)}"
    yield expect("every parameter requires a gradient", not frozen, failure=failure)


def frozen_stems(config: Mapping[str, Any]) -> list[str]:
    """Return the parts of parameter names that options freeze: "alibi" if `alibi_trainable` is false."""
    found = []
    for name, value in config.items():
        for pattern, freezes in ((_TRAINED, False), (_FROZEN, True)):
            if value is freezes and (match := pattern.match(name)):
                found.append(next(filter(None, match.groups())))
    return found


def _check_memory(model: Any) -> Iterator[Measured]:
    parameters, declared = _parameters(model), _declared_ties(model)
    views = [n for n, p in parameters.items() if p.untyped_storage().nbytes() != p.numel() * p.element_size()]
    failure = f"parameters are views into larger tensors: {truncated_list(views)}"
    yield expect("no parameter is a view into a larger tensor", not views, failure=failure)
    groups: dict[int, list[str]] = {}
    for name, parameter in parameters.items():
        if parameter.numel():
            groups.setdefault(parameter.untyped_storage().data_ptr(), []).append(name)
    for names in filter(lambda names: len(names) > 1, groups.values()):
        ends = {declared.get(name, name) for name in names}
        failure = f"{' and '.join(names)} share memory and are not declared as tied: see _tied_weights_keys"
        yield expect(f"{' and '.join(names)} are declared as tied", len(ends) == 1, failure=failure)
    for target, source in declared.items():
        tied = target in parameters and source in parameters and parameters[target] is parameters[source]
        failure = f"{target} is declared as tied to {source}, and is not the same parameter"
        yield expect(f"{target} is tied to {source}", tied, failure=failure)


def _check_names(subject: ModelUnderTest, model: Any) -> Iterator[Measured]:
    names, text = list(model.state_dict()), subject.tokens(2)
    for mode in ("eval", "training"):
        model.train(mode == "training")
        yield _same_names(f"in {mode}", model, names)
        with torch.no_grad():
            model(text, use_cache=False)
        yield _same_names(f"after a forward pass in {mode}", model, names)


def _same_names(when: str, model: Any, names: list[str]) -> Measured:
    found = list(model.state_dict())
    changed = sorted(set(found) ^ set(names)) or [n for n, m in zip(names, found, strict=True) if n != m]
    failure = f"the names of the state dict change {when}: {truncated_list(changed)}"
    return expect(f"the same names {when}", not changed, failure=failure)


def _parameters(model: Any) -> dict[str, Any]:
    """Return all parameters, tied ones under each of their names."""
    return dict(model.named_parameters(remove_duplicate=False))


def _persistent_buffers(model: Any) -> dict[str, Tensor]:
    modules = model.named_modules(remove_duplicate=False)
    return {
        f"{path}.{name}".lstrip("."): buffer
        for path, module in modules
        for name, buffer in module._buffers.items()
        if buffer is not None and name not in module._non_persistent_buffers_set
    }


def _unregistered(model: Any) -> list[str]:
    """Return the attributes whose parameters, modules, or lists of them are not registered with torch."""
    known = {id(parameter) for parameter in model.parameters()}
    found = []
    for path, module in model.named_modules():
        for name, value in vars(module).items():
            if name in ("_parameters", "_modules", "_buffers"):
                continue
            items = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else [value]
            held = [p for i in items for p in (i.parameters() if isinstance(i, nn.Module) else [i])]
            if any(isinstance(p, nn.Parameter) and id(p) not in known for p in held):
                found.append(f"{path}.{name}".lstrip("."))
    return found


def _declared_ties(model: Any) -> dict[str, str]:
    """Return the declared ties, from each name to the name of the parameter that it is tied to."""
    declared = getattr(model, "all_tied_weights_keys", None)
    return dict(declared) if isinstance(declared, Mapping) else {}
