"""Compare models side by side: differing options, parameters, memory, FLOPs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from math import prod
from typing import Any

from ..model.kinds import kind_of
from ..options.command_options import EstimateOptions
from ..runtime.partial_results import keep_partial
from ..settings.resolved_model import ResolvedModel
from .run import Estimate, OnProgress, estimate_of

_ABSENT = "-"  # the definition does not have the option


def compare(
    models: Sequence[ResolvedModel],
    options: EstimateOptions,
    on_progress: OnProgress | None = None,
    on_partial: Callable[[dict[str, Any]], None] | None = None,
) -> dict[str, Any]:
    """Compare models in the same training step and the same generation.

    Args:
        models: Two or more resolved models.
        options: The training step and the generation.
        on_progress: Called with the name of the part being estimated.
        on_partial: Called with the report of the models so far if the comparison ends early.

    Returns:
        The report as plain data. Every row has one value per model, in the order of `models`.
    """
    report_progress = on_progress or (lambda _: None)
    names = _names([resolved.configuration.name for resolved in models])
    estimates: list[Estimate] = []

    def keep(reason: str) -> None:
        if estimates and on_partial is not None:
            report = _report(names[: len(estimates)], models[: len(estimates)], estimates)
            ended = f"ended early, after {len(estimates)} of {len(models)} models: {reason}"
            on_partial(report | {"notes": [*report["notes"], ended]})

    with keep_partial(keep):
        for name, resolved in zip(names, models, strict=True):
            on_part = partial(_report_part, report_progress, name)
            estimates.append(estimate_of(resolved, options, on_part))
    return _report(names, models, estimates)


def _report_part(report_progress: OnProgress, model: str, part: str) -> None:
    report_progress(f"{model}: {part}")


def _report(names: Sequence[str], models: Sequence[ResolvedModel], estimates: Sequence[Estimate]) -> dict[str, Any]:
    shapes = [_shapes(estimate.model) for estimate in estimates]
    reports = [estimate.report for estimate in estimates]
    return {
        "models": list(names),
        "setups": [report["setup"] for report in reports],
        "options": _differing([_values(resolved) for resolved in models]),
        "parameters": _parameters(shapes),
        "only": {
            name: sorted(own.keys() - set().union(*(other.keys() for other in shapes if other is not own)))
            for name, own in zip(names, shapes, strict=True)
        },
        "totals": {key: [report["parameters"][key] for report in reports] for key in _TOTALS},
        "training": _side_by_side([report["training"] for report in reports]),
        "generation": _side_by_side([report["generation"] for report in reports]),
        "flops": _side_by_side([report["flops"] for report in reports]),
        "notes": sorted({note for report in reports for note in report["notes"]}),
    }


_TOTALS = ("total", "trainable", "embedding", "non_embedding", "active", "bytes")


def _names(names: Sequence[str]) -> list[str]:
    """Number equal names, since a preset may be compared with a variant of itself."""
    return [name if names.count(name) == 1 else f"{name} ({names[:n].count(name) + 1})" for n, name in enumerate(names)]


def _values(resolved: ResolvedModel) -> dict[str, Any]:
    return {name: item.value for name, item in resolved.values.items()}


def _differing(values: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    names = dict.fromkeys(name for options in values for name in options)
    rows = {name: [options.get(name, _ABSENT) for options in values] for name in names}
    return {name: row for name, row in rows.items() if any(value != row[0] for value in row)}


def _shapes(model: Any) -> dict[str, list[tuple[int, ...]]]:
    """Return the parameter shapes by kind, one per layer; a tied parameter counts under its first name only."""
    found: dict[str, list[tuple[int, ...]]] = {}
    for name, parameter in model.named_parameters():
        found.setdefault(kind_of(name), []).append(tuple(parameter.shape))
    return found


def _parameters(shapes: Sequence[Mapping[str, list[tuple[int, ...]]]]) -> list[dict[str, Any]]:
    kinds = dict.fromkeys(kind for by_kind in shapes for kind in by_kind)
    return [
        {
            "name": kind,
            "shapes": [by_kind[kind][0] if kind in by_kind else None for by_kind in shapes],
            "layers": [len(by_kind.get(kind, ())) for by_kind in shapes],
            "elements": [sum(map(prod, by_kind.get(kind, ()))) for by_kind in shapes],
        }
        for kind in kinds
    ]


def _side_by_side(parts: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    return {name: [part[name] for part in parts] for name in parts[0] if not isinstance(parts[0][name], dict)}
