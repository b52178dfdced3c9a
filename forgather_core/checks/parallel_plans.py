"""Parallel plans: tensor, pipeline and FSDP plans name existing modules, and split them correctly.

Two tensor-parallel ranks are simulated in one process: each runs the model with its part of the weights. The tensors
that the plan reduces over ranks are summed and compared with those of the full model (`tensor_parallel.py`).
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Collection, Iterator, Mapping
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..definitions.check import DoesNotApply, Measured, check, expect
from .shared.cached_forward import UNEQUAL, cache_argument, empty_cache
from .shared.implementations import forward_implementations
from .shared.layers import is_recurrent, layers_of
from .shared.model_under_test import FLEX, ModelUnderTest
from .shared.parallel_split import pattern_of
from .shared.source_attributes import attributes_set_in
from .shared.tensor_parallel import measure_ranks
from .shared.tolerance import compare, rounding

_FORWARD_ONLY = frozenset({"rowwise_split_input", "mla_kv_a_proj"})  # their gradients are not simulated
_RESULTS = frozenset({"logits", "last_hidden_state"})


@check("parallel-plans", cause="a plan of another architecture, or a module that was renamed, added or removed")
def parallel_plans(subject: ModelUnderTest) -> Iterator[Measured]:
    """Plans of tensor, pipeline and fully sharded parallelism name existing modules, and split them correctly."""
    model = subject.randomized_model()
    tensor, stages = tensor_plan(model), dict(getattr(model, "_pp_plan", None) or {})
    sharded = _sharded_plan(model)
    classes = set(model._no_split_modules or ())
    if not (tensor or stages or sharded or classes):
        raise DoesNotApply("the model has no plans")
    others = set() if subject.made_by_forgather else _attributes(type(model))
    for kind, plan in (("tensor", tensor), ("FSDP", sharded), ("pipeline", stages)):
        yield from _check_patterns(kind, plan, model, others)
    yield from _check_styles(tensor)
    yield from _check_layers(tensor, model)
    yield from _check_classes(classes, model)
    runs = bool(forward_implementations(subject))
    if stages and (subject.made_by_forgather or model.config.base_model_pp_plan):  # some classes have that of the head
        yield from _check_stages(stages, model, subject, runs=runs)
        if runs and subject.made_by_forgather:
            yield from _check_split(model.base_model, subject.tokens(2))
    if runs and tensor:
        simulated = subject.made_by_forgather or not (_FORWARD_ONLY & set(tensor.values()) or is_recurrent(model))
        backward = subject.default_attention != FLEX and simulated
        yield from measure_ranks(model, tensor, subject.tokens(2), backward=backward)


def tensor_plan(model: Any) -> dict[str, str]:
    """Return the tensor-parallel plan with the full names of modules and parameters, as transformers applies it."""
    plan = dict(getattr(model, "_tp_plan", None) or {})
    prefix = f"{model.base_model_prefix}." if model.base_model is not model else ""
    return {f"{prefix}{name}": style for name, style in (model.config.base_model_tp_plan or {}).items()} | plan


def _sharded_plan(model: Any) -> dict[str, str]:
    """Return the FSDP plan, or nothing if it is the default of transformers, which fits some models only."""
    from transformers import PreTrainedConfig

    default = getattr(PreTrainedConfig, "base_model_fsdp_plan", None)
    own = getattr(model.config, "base_model_fsdp_plan", None)
    plan = dict(getattr(model, "_fsdp_plan", None) or {})
    return plan if own != default or getattr(type(model), "_fsdp_plan", None) else {}


def _named(model: Any) -> set[str]:
    return {name for name, _ in (*model.named_modules(), *model.named_parameters(remove_duplicate=False)) if name}


def _attributes(model: type) -> set[str]:
    """Return the attributes that the source file of a class sets: those of modules in any configuration."""
    return attributes_set_in(Path(inspect.getfile(model)).read_text(encoding="utf-8"))


def _check_patterns(kind: str, plan: Mapping[str, Any], model: Any, others: Collection[str]) -> Iterator[Measured]:
    """Check that the modules of a plan exist; those of other configurations are called `others`."""
    names = _named(model)
    known = names | {pattern_of(name) for name in names}
    for pattern in plan:
        exists = pattern in known or pattern.rpartition(".")[2] in others
        failure = f"the {kind} plan names {pattern}, and the model has no such module"
        yield expect(f"{kind} plan, {pattern}: exists", exists, failure=failure)


def _check_styles(plan: Mapping[str, str]) -> Iterator[Measured]:
    from transformers.integrations.tensor_parallel import ALL_PARALLEL_STYLES

    for pattern, style in plan.items():
        failure = f"the tensor plan has the style {style!r} for {pattern}, which transformers does not support"
        yield expect(f"tensor plan, {pattern}: {style}", style in ALL_PARALLEL_STYLES, failure=failure)


def _check_layers(plan: Mapping[str, str], model: Any) -> Iterator[Measured]:
    """Check that a matrix is split in every layer or in none."""
    split: dict[str, dict[int, bool]] = {}
    for number, layer in enumerate(layers_of(model) if plan else ()):
        prefix = next(name for name, module in model.named_modules() if module is layer)
        for name, parameter in layer.named_parameters():
            if parameter.dim() >= 2:
                full = f"{prefix}.{name}"
                ends = [full, full.rpartition(".")[0]]
                split.setdefault(name, {})[number] = any(n in plan or pattern_of(n) in plan for n in ends)
    for name, layers in split.items():
        absent = [str(number) for number, covered in layers.items() if not covered]
        failure = f"the tensor plan splits {name} in some layers, and not in layers {', '.join(absent)}"
        yield expect(
            f"tensor plan, {name}: in every layer or in none", len(absent) in (0, len(layers)), failure=failure
        )


def _check_classes(classes: set[str], model: Any) -> Iterator[Measured]:
    if classes:
        absent = sorted({type(layer).__name__ for layer in layers_of(model)} - classes)
        failure = f"_no_split_modules lacks {', '.join(absent)}, the class of decoder layers; it has {sorted(classes)}"
        yield expect("_no_split_modules names the decoder layers", not absent, failure=failure)


def _check_stages(plan: Mapping[str, Any], model: Any, subject: ModelUnderTest, *, runs: bool) -> Iterator[Measured]:
    """Check that the stages have all weights and inputs that exist, in the order in which they run."""
    missing = sorted(
        name for name, _ in model.named_parameters() if not any(name.startswith(f"{stage}.") for stage in plan)
    )
    failure = f"no stage of the pipeline plan has {', '.join(missing[:3])}"
    yield expect("pipeline plan: every parameter is in a stage", not missing, failure=failure)
    own = list(plan)
    if runs and plan.keys() <= {name for name, _ in model.named_modules()}:
        order = _order(own, model, subject)
        # Each class has its own plan: the stages of the base model and those of the head are ordered separately.
        base = f"{model.base_model_prefix}."
        planned = [s for s in own if s.startswith(base) and s in order] + [s for s in own if not s.startswith(base)]
        ran = [stage for stage in order if stage in planned]
        failure = f"expected the stages of the pipeline plan as they run, {', '.join(ran)}; got {', '.join(planned)}"
        yield expect("pipeline plan: stages are in the order in which they run", planned == ran, failure=failure)
    arguments = set(inspect.signature(model.base_model.forward).parameters)
    for stage, entry in plan.items():
        well_formed = (
            isinstance(entry, tuple | list) and len(entry) == 2 and all(isinstance(e, list | tuple) for e in entry)
        )
        failure = f"the pipeline plan must have inputs and outputs for {stage}; got {entry!r}"
        yield expect(f"pipeline plan, {stage}: inputs and outputs", well_formed, failure=failure)
        if not well_formed:
            return
    made = {name for _, outputs in plan.values() for name in outputs}
    used = {name for inputs, _ in plan.values() for name in inputs}
    for stage, (inputs, outputs) in plan.items():
        unknown = sorted(set(inputs) - made - arguments)
        failure = f"the pipeline plan has the input {', '.join(unknown)} for {stage}, which nothing provides"
        yield expect(f"pipeline plan, {stage}: inputs exist", not unknown, failure=failure)
        unused = sorted(set(outputs) - used - arguments - _RESULTS)
        failure = f"the pipeline plan has the output {', '.join(unused)} for {stage}, which nothing uses"
        yield expect(f"pipeline plan, {stage}: outputs exist", not unused, failure=failure)


class _Placeholder(nn.Identity):
    """Stands for a module of another stage, as in transformers and vLLM."""

    def forward(self, input: Tensor, **_: Any) -> Tensor:
        return input


@torch.no_grad()
def _check_split(base: Any, text: Tensor) -> Iterator[Measured]:
    """Compare two stages of a pipeline with the whole model; later stages receive hidden states as embeddings."""
    stages = list(base.config.base_model_pp_plan)
    layers = next((name for name in stages if isinstance(base.get_submodule(name), nn.ModuleList)), None)
    if layers is None or len(base.get_submodule(layers)) < 2:
        return
    expected, count = base(text, use_cache=False).last_hidden_state, len(base.get_submodule(layers))
    at, half, first, second = stages.index(layers), count // 2, copy.deepcopy(base), copy.deepcopy(base)
    for stage, absent, numbers in (
        (first, stages[at + 1 :], range(half, count)),
        (second, stages[:at], range(half)),
    ):
        for name in (*absent, *(f"{layers}.{number}" for number in numbers)):
            stage.set_submodule(name, _Placeholder())
    middle = first(text, use_cache=False).last_hidden_state
    found = second(inputs_embeds=middle, use_cache=False).last_hidden_state
    yield compare("pipeline plan: two stages give the hidden states of the whole", found, expected)
    caches = [{cache_argument(stage): empty_cache("dynamic", stage), "use_cache": True} for stage in (first, second)]
    chunks = []
    for begin, end in pairwise((0, *accumulate(UNEQUAL))):
        middle = first(text[:, begin:end], **caches[0]).last_hidden_state
        chunks.append(second(inputs_embeds=middle, **caches[1]).last_hidden_state)
    what = "pipeline plan: two stages with caches, in chunks"
    yield compare(what, torch.cat(chunks, dim=1), expected, 10 * rounding(base))


def _order(stages: list[str], model: Any, subject: ModelUnderTest) -> list[str]:
    """Return the stages in the order of their first call; a list of layers runs when its first layer does."""
    order: list[str] = []

    def record(stage: str) -> Any:
        return lambda *_: order.append(stage) if stage not in order else None

    handles = []
    for stage in stages:
        module = model.get_submodule(stage)
        first = module[0] if isinstance(module, nn.ModuleList) and len(module) else module
        handles.append(first.register_forward_pre_hook(record(stage)))
    try:
        with torch.no_grad():
            model(subject.tokens(1), use_cache=False)
    finally:
        for handle in handles:
            handle.remove()
    return order
