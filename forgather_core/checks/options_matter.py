"""Options: each changes something, so that none is parsed and then forgotten.

An option gets another valid value, and all that can be seen of a model is compared, to the last bit: shapes, dtypes and
ties of its weights, what is trained, initial weights of a seed, logits of strong weights in eval and in training, the
settings of generation. Where nothing changes, each other option is changed first: some matter together only.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import typing
from collections.abc import Iterable, Iterator, Mapping
from types import UnionType
from typing import Any, Literal

import torch
from torch import Tensor

from ..definitions.check import DoesNotApply, Measured, check, expect
from ..option import METADATA_KEY
from .attentions import needs_dropout
from .subject import ModelUnderTest, randomize_weights

_TOKENS = 40
Values = Mapping[str, Any]
Seen = tuple[str, ...]


@check("options-matter", cause="an option that is parsed and never read, or read by another name")
def options_matter(subject: ModelUnderTest) -> Iterator[Measured]:
    """Every option of the definition changes something."""
    options = options_of(subject.config())
    if not options:
        raise DoesNotApply("the configuration declares no options")
    needs_dropout(subject)
    looking = _Looking(subject)
    others = {option.name: list(looking.valid(_others(option, looking.value(option.name)))) for option in options}
    unknown = []
    for option in options:
        name, values = option.name, others[option.name]
        if values and all(looking.is_default(value) for value in values):
            yield expect(f"{name}: null means {_told(looking.value(name))}, and every other value is refused", True)
            continue
        if not values:
            if [*_others(option, looking.value(name))]:
                yield expect(f"{name}: every other value is refused", False)
            else:
                unknown.append(name)  # nothing to try, which proves nothing
            continue
        yield expect(*_verdict(looking, name, values, others), name)
    if len(unknown) == len(options):
        raise DoesNotApply(f"no other value is known of {', '.join(unknown)}")


def options_of(config: Any) -> list[Any]:
    """The options of a configuration, as dataclass fields."""
    if not dataclasses.is_dataclass(config):
        return []
    return [field for field in dataclasses.fields(config) if METADATA_KEY in field.metadata]


def _verdict(
    looking: _Looking, name: str, values: list[Values], others: Mapping[str, list[Values]]
) -> tuple[str, bool]:
    """In words, and whether the option does anything."""
    for value in values:
        if looking.differ(value, {}):
            return f"{name}: {_told(value[name])} is not {_told(looking.value(name))}", True
    # What switches something on comes before sizes, on which little depends.
    for other in sorted(others.keys() - {name}, key=lambda other: _rank(looking.value(other))):
        for condition in others[other][:2] + others[other][2:][-1:]:
            for value in values:
                if looking.differ({**condition, **value}, condition):
                    return f"{name}: {_told(value[name])} matters where {other} is {_told(condition[other])}", True
    return f"{name}: {', '.join(_told(value[name]) for value in values)} change nothing", False


def _rank(value: Any) -> int:
    kinds = (dict, type(None), bool, str, float)
    return next((rank for rank, kind in enumerate(kinds) if isinstance(value, kind)), len(kinds))


def _told(value: Any) -> str:
    return json.dumps(value, default=str)


class _Looking:
    """What is seen of the model with changed options; each is looked at once.

    Args:
        subject: Whose model.
    """

    def __init__(self, subject: ModelUnderTest) -> None:
        self._subject, self._base = subject, subject.config()
        self._underived = subject.underived()
        self._text = subject.tokens(2, _TOKENS)
        self._seen: dict[str, Seen | None] = {}

    def value(self, name: str) -> Any:
        """What an option is, unchanged."""
        return getattr(self._base, name)

    def _construct(self, changes: Values) -> Any:
        return self._subject.constructed({**self._underived, **changes})

    def accepts(self, changes: Values) -> bool:
        """Whether the configuration does."""
        try:
            self._construct(changes)
        except Exception:  # of transformers' rules as of the definition's
            return False
        return True

    def is_default(self, value: Values) -> bool:
        """Whether it is null, from which the configuration derives what the option is already."""
        return [*value.values()] == [None] and self._construct(value).to_dict() == self._construct({}).to_dict()

    def valid(self, values: Iterable[Values]) -> Iterator[Values]:
        """Those that the configuration accepts."""
        yield from (value for value in values if self.accepts(value))

    def differ(self, changes: Values, condition: Values) -> bool:
        """Whether changes are seen, against those of a condition."""
        before = self._at(condition)
        after = self._at(changes) if before is not None else None
        return None not in (before, after) and before != after

    def _at(self, changes: Values) -> Seen | None:
        """What is seen with these changes; None where there is no such model."""
        key = json.dumps(changes, sort_keys=True, default=str)
        if key not in self._seen:
            try:
                self._seen[key] = self._look(changes)
            except Exception:
                if not changes:
                    raise
                self._seen[key] = None  # padding beyond the vocabulary, say: other values are tried
        return self._seen[key]

    def _look(self, changes: Values) -> Seen:
        model = self._subject.fresh_model_of(self._construct(changes))
        named = [*model.named_parameters(remove_duplicate=False), *model.named_buffers()]
        first: dict[int, str] = {}
        shapes = [(name, *t.shape, str(t.dtype), t.requires_grad, first.setdefault(id(t), name)) for name, t in named]
        initial = _digest(tensor for _, tensor in named)
        randomize_weights(model, self._subject.seed)
        text = self._text % model.get_input_embeddings().weight.shape[0]
        with torch.no_grad():
            # Without a cache, which reads some of the configuration too: it is the model that must.
            evaluated = model.eval()(text, use_cache=False).logits
            torch.manual_seed(self._subject.seed)
            trained = model.train()(text, use_cache=False).logits
        generation = getattr(model, "generation_config", None)
        settings = generation.to_diff_dict() if generation is not None else {}
        return str(shapes), initial, _digest([evaluated]), _digest([trained]), str(settings)


def _digest(tensors: Iterable[Tensor]) -> str:
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(tensor.detach().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _others(option: Any, value: Any) -> Iterator[Values]:
    """Other values of an option that it may accept, the likeliest to matter first."""
    for other in _like(value, option.type):
        info = option.metadata[METADATA_KEY]
        complaint = getattr(info, "complaint", lambda _: None)
        if other != value and complaint(other) is None:
            yield {option.name: other}


def _like(value: Any, kind: Any) -> Iterator[Any]:
    kinds = [kind, *(typing.get_args(kind) if isinstance(kind, UnionType) or _is_union(kind) else ())]
    yield from (choice for k in kinds if typing.get_origin(k) is Literal for choice in typing.get_args(k))
    if isinstance(value, bool) or (value is None and bool in kinds):
        yield from (True, False)
    elif isinstance(value, dict):
        yield from _mappings(value)
    elif isinstance(value, int) or (value is None and (int in kinds or "int" in str(kind))):
        # Near and far, with the same divisors and with others: sizes share, windows are short, limits are long.
        yield from (2 * value, value // 2, value + 1, 1, 2, 4, 8, 3) if value else (1, 2, 4, 8, 3)
    elif isinstance(value, float) or (value is None and (float in kinds or "float" in str(kind))):
        yield from (value * 1000, value + 0.25, value / 2, 0.5) if value else (0.5, 0.25, 1.0)
    if value is not None and (type(None) in kinds or "None" in str(kind)):
        yield None


def _is_union(kind: Any) -> bool:
    return typing.get_origin(kind) is typing.Union


def _mappings(value: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """With one of its numbers tenfold; and RoPE whose frequencies depend on the length."""
    for name, number in value.items():
        if isinstance(number, (int, float)) and not isinstance(number, bool):
            yield value | {name: 10 * number}
    if "rope_theta" in value:
        yield {"rope_type": "dynamic", "rope_theta": value["rope_theta"], "factor": 2.0}
