"""No dead options: every option has an effect; none is parsed and then ignored.

An option gets another valid value, and these properties of the model are compared, to the last bit: shapes, dtypes and
ties of weights, whether they are trainable, initial weights of a seed, logits of random weights in eval and in
training, and the generation config. If nothing changes, each other option is changed first: some options have an effect
only in combination. Of models of others, the fields are tried that mean the same in all classes of transformers.
"""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..definitions.check import DoesNotApply, Measured, check, expect
from .shared.implementations import require_dropout
from .shared.inputs import logits_of_random_weights
from .shared.model_under_test import ModelUnderTest
from .shared.option_fields import known_options, may_depend, options_of
from .shared.other_values import Values, other_values

_TOKENS = 40
Observation = tuple[str, ...]


@check("no-dead-options", cause="an option that is parsed and never read, or read under another name")
def no_dead_options(subject: ModelUnderTest) -> Iterator[Measured]:
    """Every option of the definition has an effect."""
    options = options_of(subject.config()) if subject.made_by_forgather else known_options(subject.config())
    if not options:
        raise DoesNotApply("the configuration declares no options")
    require_dropout(subject)
    observer = _Observer(subject)
    others = {
        option.name: list(observer.valid(other_values(option, observer.value(option.name)))) for option in options
    }
    unknown = []
    for option in options:
        name, values = option.name, others[option.name]
        if values and all(observer.is_default(value) for value in values):
            yield expect(
                f"{name}: null means {_printable(observer.value(name))}, and every other value is refused", True
            )
            continue
        if not values:
            if subject.made_by_forgather and [*other_values(option, observer.value(name))]:
                failure = f"{name} accepts no other value than {_printable(observer.value(name))}"
                yield expect(f"{name} accepts another value", False, failure=failure)
            else:
                unknown.append(name)  # nothing to try
            continue
        for label, some in _entries(name, observer.value(name), values):
            conditions = others if subject.made_by_forgather else {}
            if (effect := _effect(observer, name, some, conditions)) is not None:
                yield expect(f"{label}: {effect}", True)
            elif not subject.made_by_forgather and (may_depend(name, observer.source) or not observer.builds(some)):
                unknown.append(name)
            else:
                tried = _joined([_printable(value[name]) for value in some])
                yield expect(f"{label} has an effect", False, failure=f"{label} has no effect (tried {tried})")
    if len(unknown) == len(options):
        raise DoesNotApply(f"no other value is known for {', '.join(unknown)}")


def _entries(name: str, value: Any, others: list[Values]) -> Iterator[tuple[str, list[Values]]]:
    """Yield the entries of an option and the values that change them: each number of a mapping by itself."""
    single: dict[str, list[Values]] = {}
    several: list[Values] = []
    for other in others:
        found = other[name]
        changed = []
        if isinstance(value, Mapping) and isinstance(found, Mapping) and found.keys() == value.keys():
            changed = [key for key in found if found[key] != value[key]]
        if len(changed) == 1:
            single.setdefault(changed[0], []).append(other)
        else:
            several.append(other)
    if several:
        yield name, several
    for key, some in single.items():
        yield f"{name}.{key}", some


def _effect(observer: _Observer, name: str, values: list[Values], others: Mapping[str, list[Values]]) -> str | None:
    """Return the effect of an option as text, or None if it has none."""
    # Options that enable something come first: other options seldom depend on a size.
    ranked = sorted(others.keys() - {name}, key=lambda other: _rank(observer.value(other)))
    conditions = [value for other in ranked for value in others[other][:2] + others[other][2:][-1:]]
    alone: list[tuple[Values, Values]] = [(value, {}) for value in values]
    # In combination, most effects are seen with one of the first two values.
    combined = ((value, condition) for some in (values[:2], values[2:]) for condition in conditions for value in some)
    for value, condition in chain(alone, combined):
        if observer.differ({**condition, **value}, condition):
            return _effect_text(name, value, condition, observer)
    return None


def _effect_text(name: str, value: Values, condition: Values, observer: _Observer) -> str:
    if not condition:
        return f"{_printable(value[name])} differs from {_printable(observer.value(name))}"
    ((other, needed),) = condition.items()
    return f"{_printable(value[name])} has an effect if {other} is {_printable(needed)}"


def _rank(value: Any) -> int:
    kinds = (dict, type(None), bool, str, float)
    return next((rank for rank, kind in enumerate(kinds) if isinstance(value, kind)), len(kinds))


def _joined(texts: list[str]) -> str:
    return " and ".join(filter(None, (", ".join(texts[:-1]), texts[-1])))


def _printable(value: Any) -> str:
    return json.dumps(value, default=str)


class _Observer:
    """Observations of the model with changed options, made once for each set of changes.

    Args:
        subject: The model under test.

    Attributes:
        source: The source of the model.
    """

    def __init__(self, subject: ModelUnderTest) -> None:
        self._subject, self._base = subject, subject.config()
        self._underived = subject.underived()
        self._text = subject.tokens(2, _TOKENS)
        self._observations: dict[str, Observation | None] = {}
        own = Path(inspect.getfile(type(subject.on_meta())))
        files = [own] if subject.is_builtin else sorted(subject.workdir.glob("*.py"))
        self.source = "\n".join(file.read_text(encoding="utf-8") for file in files)

    def value(self, name: str) -> Any:
        """Return the unchanged value of an option."""
        return getattr(self._base, name)

    def _construct(self, changes: Values) -> Any:
        return self._subject.constructed({**self._underived, **changes})

    def accepts(self, changes: Values) -> bool:
        """Return whether the configuration accepts changes."""
        try:
            self._construct(changes)
        except Exception:  # transformers or the definition rejects the changes
            return False
        return True

    def is_default(self, value: Values) -> bool:
        """Return whether the value is null and the configuration derives the present value from it."""
        return [*value.values()] == [None] and self._construct(value).to_dict() == self._construct({}).to_dict()

    def valid(self, values: Iterable[Values]) -> Iterator[Values]:
        """Yield the values that the configuration accepts."""
        yield from (value for value in values if self.accepts(value))

    def builds(self, values: Iterable[Values]) -> bool:
        """Return whether a model can be built and called with one of the values."""
        return any(self._observe(value) is not None for value in values)

    def differ(self, changes: Values, condition: Values) -> bool:
        """Return whether two models differ: one with `changes`, and one with the changes of `condition`."""
        before = self._observe(condition)
        after = self._observe(changes) if before is not None else None
        return None not in (before, after) and before != after

    def _observe(self, changes: Values) -> Observation | None:
        """Return the observation with these changes; None if there is no such model."""
        key = json.dumps(changes, sort_keys=True, default=str)
        if key not in self._observations:
            try:
                self._observations[key] = self._build_and_observe(changes)
            except Exception:
                if not changes:
                    raise
                self._observations[key] = None  # such as a padding token beyond the vocabulary: try other values
        return self._observations[key]

    def _build_and_observe(self, changes: Values) -> Observation:
        model = self._subject.fresh_model_of(self._construct(changes))
        named = [*model.named_parameters(remove_duplicate=False), *model.named_buffers()]
        first: dict[int, str] = {}
        shapes = [(name, *t.shape, str(t.dtype), t.requires_grad, first.setdefault(id(t), name)) for name, t in named]
        initial = _digest(tensor for _, tensor in named)
        evaluated, trained = logits_of_random_weights(self._subject, model, self._text)
        generation = getattr(model, "generation_config", None)
        settings = generation.to_diff_dict() if generation is not None else {}
        return str(shapes), initial, _digest([evaluated]), _digest([trained]), str(settings)


def _digest(tensors: Iterable[Tensor]) -> str:
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(tensor.detach().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
