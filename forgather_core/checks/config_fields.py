"""Config fields: every field of a configuration survives saving and loading, and keeps its effect.

Each option gets another valid value. If a model declares no options, each field of its config.json does. The
configuration is saved and loaded twice. A model of the loaded configuration must equal a model of the configuration in
memory, to the last bit.
"""

from __future__ import annotations

import copy
import json
import pickle
import shutil
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..definitions import contracts
from ..definitions.check import Measured, check, expect
from ..errors import first_line
from ..filesystem.strict_json import read_object
from .shared.inputs import logits_of_random_weights
from .shared.model_under_test import ModelUnderTest
from .shared.option_fields import options_of
from .shared.other_values import Values, alternatives, other_values
from .shared.tolerance import different_tensors

UNCOMPARED = ("transformers_version", "_name_or_path")
# Fields that identify the model's class and files, or the classes of a classifier, which must fit each other.
_IDENTITY = frozenset(
    {"architectures", "auto_map", "dtype", "id2label", "label2id", "model_type", "torch_dtype", *UNCOMPARED}
)
EXTRA: Values = {
    "extra_field_of_a_check": {"text": "é", "list": [1, None, 2.5], "switch": True},
    "extra_number_of_a_check": 0.1,
}


@check("config-fields", cause="a field that is not saved, or derived from another one when it is loaded", quick=False)
def config_fields(subject: ModelUnderTest) -> Iterator[Measured]:
    """Every field of the configuration survives saving, loading and copying, and the model remains the same."""
    with subject.scratch() as directory:
        store = _Store(subject, directory / subject.workdir.name)
        yield from _check_config("config.json", subject.config(), store)
        extended = yield from _check_config("unknown fields", subject.constructed(EXTRA), store)
        if extended is not None:
            yield from _check_extra(extended)
        if subject.made_by_forgather:
            yield from _check_older_rope_fields(subject)
            yield _check_callers_values(subject)
        for name, values in _values(subject):
            for value in values:
                try:
                    config, same = (subject.constructed({**subject.underived(), **value}) for _ in range(2))
                    observed = _observe(subject, same)  # building a model changes its configuration
                except Exception:  # transformers or the definition rejects the value: try another one
                    continue
                what = f"{name} {_printable(value[name])}"
                loaded = yield from _check_config(what, config, store, name)
                if loaded is not None:
                    yield from _check_model(what, subject, observed, loaded)
                yield from _check_native_form(what, name, config, store)
                break


class _Store:
    """A directory with the sources of the model, in which configurations are saved.

    Args:
        subject: The model under test.
        directory: The directory to make.
    """

    def __init__(self, subject: ModelUnderTest, directory: Path) -> None:
        self.directory = directory
        self.directory.mkdir()
        for source in subject.workdir.glob("*.py"):
            shutil.copy(source, directory)

    def saved_and_loaded(self, config: Any) -> Any:
        """Return the configuration, saved by `save_pretrained` and loaded by `AutoConfig`."""
        from transformers import AutoConfig

        config.save_pretrained(self.directory)
        return AutoConfig.from_pretrained(self.directory, trust_remote_code=True)


def _values(subject: ModelUnderTest) -> Iterator[tuple[str, list[Values]]]:
    """Yield the name of each option, or else of each field of config.json, with other values to try; null by itself."""
    config = subject.config()
    if options := options_of(config):
        for option in options:
            name, values = option.name, [*other_values(option, getattr(config, option.name))]
            yield name, [value for value in values if value[name] is not None]
            yield name, [value for value in values if value[name] is None]
        return
    for name, value in read_object(subject.workdir / "config.json").items():
        if name not in _IDENTITY:
            yield name, [{name: other} for other in alternatives(value, type(value))]


def _check_config(what: str, config: Any, store: _Store, name: str | None = None) -> Generator[Measured, None, Any]:
    """Compare a configuration with its copies, and with the configurations loaded after saving it once and twice.

    Args:
        what: The case.
        config: The configuration.
        store: The directory to save it in.
        name: The field that was changed; it is compared even if `to_dict` leaves it out.

    Returns:
        The loaded configuration; None if it cannot be loaded.
    """
    content, loaded = _plain(config), None
    for way in ("saved and loaded", "saved and loaded twice", "copy.deepcopy", "pickle"):
        try:
            if way == "pickle":
                found = pickle.loads(pickle.dumps(config))
            elif way == "copy.deepcopy":
                found = copy.deepcopy(config)
            else:
                found = store.saved_and_loaded(loaded or config)
        except Exception as error:  # the configuration's own code may raise any exception
            failure = f"{what}, {way}: raises {type(error).__name__}: {first_line(error)}"
            yield expect(f"{what}, {way}", False, failure=failure)
            if loaded is None:
                return None
            continue
        loaded = loaded or found
        changed = _changes(content, _plain(found))
        if name is not None and not changed:
            changed = _changes({name: getattr(config, name)}, {name: getattr(found, name, None)})
        yield expect(f"{what}, {way}", not changed, failure=f"{what}, {way}: {changed}")
    return loaded


def _check_native_form(what: str, name: str, config: Any, store: _Store) -> Iterator[Measured]:
    """Check that a field survives in a config.json for transformers' own class, if there is an equivalent one."""
    native_type = contracts.native_model_type(config)
    if native_type is None or any(contracts.native_problems(config)):
        return
    native = copy.deepcopy(config)
    native.native = True
    try:
        native.save_pretrained(store.directory)
        loaded = type(config).from_pretrained(store.directory)
        expected = {name: getattr(config, name), "model_type": native_type}
        found = {name: getattr(loaded, name), "model_type": loaded.to_dict()["model_type"]}
        failure, holds = f"{what}, a config.json of '{native_type}': {_changes(expected, found)}", found == expected
    except Exception as error:  # the configuration's own code may raise any exception
        failure, holds = f"{what}, a config.json of '{native_type}': {type(error).__name__}: {first_line(error)}", False
    yield expect(f"{what}, a config.json of '{native_type}'", holds, failure=failure)


def _check_extra(loaded: Any) -> Iterator[Measured]:
    for name, value in EXTRA.items():
        found = getattr(loaded, name, None)
        failure = f"an unknown field of config.json is lost: {_printable(value)} becomes {_printable(found)}"
        yield expect("an unknown field of config.json is kept", found == value, name, failure=failure)


def _check_older_rope_fields(subject: ModelUnderTest) -> Iterator[Measured]:
    """Check that a file from before transformers 5, which has no rope_parameters, gives the same RoPE."""
    config = subject.config()
    rope = getattr(config, "rope_parameters", None) or {}
    if not isinstance(rope.get("rope_theta"), (int, float)) or config.get_text_config() is not config:
        return
    theta = {"rope_theta": 2 * rope["rope_theta"]}
    scaled = theta | {"rope_scaling": {"type": "linear", "factor": 2.0}}
    for what, former, expected in (
        ("rope_theta of older files", theta, theta),
        ("rope_theta and rope_scaling of older files", scaled, theta | {"rope_type": "linear", "factor": 2.0}),
    ):
        found = subject.constructed(former, without=("rope_parameters",)).rope_parameters
        changed = _changes(expected, {name: found.get(name, _ABSENT) for name in expected})
        yield expect(f"{what} is in rope_parameters", not changed, failure=f"{what} is ignored: {changed}")


def _check_callers_values(subject: ModelUnderTest) -> Measured:
    """Check that a configuration copies the mappings and lists that a caller passes, and does not change them."""
    config = subject.config()
    options = {option.name for option in options_of(config)}
    content = {name: value for name, value in read_object(subject.workdir / "config.json").items() if name in options}
    before = copy.deepcopy(content)
    made = type(config)(**content)
    changed = _changes(before, content)
    shared = [n for n, value in content.items() if isinstance(value, (dict, list)) and getattr(made, n) is value]
    failure = f"the configuration changes its arguments: {changed}" if changed else None
    failure = failure or f"the configuration shares {', '.join(shared)} with the caller, who may change it"
    return expect(
        "the configuration copies mappings and lists of the caller", not changed and not shared, failure=failure
    )


Observation = tuple[dict[str, Tensor], Tensor, Tensor]


def _check_model(what: str, subject: ModelUnderTest, expected: Observation, loaded: Any) -> Iterator[Measured]:
    """Compare the model of a loaded configuration with the observation of the one in memory."""
    found = _observe(subject, loaded)
    wrong = different_tensors(found[0], expected[0])
    shapes = sorted(n for n in wrong if n not in found[0] or n not in expected[0] or _shapes_differ(n, found, expected))
    failure = f"{what}: the model of the loaded configuration has weights with other names or shapes"
    yield expect(f"{what}: names and shapes of weights", not shapes, ", ".join(shapes[:3]), failure=failure)
    failure = f"{what}: the model of the loaded configuration has other initial weights"
    yield expect(f"{what}: initial weights", not wrong, ", ".join(wrong[:3]), failure=failure)
    for kind, one, two in zip(("eval", "training"), found[1:], expected[1:], strict=True):
        failure = f"{what}: the model of the loaded configuration has other logits in {kind}"
        yield expect(f"{what}: logits, {kind}", torch.equal(one, two), failure=failure)


def _shapes_differ(name: str, found: Observation, expected: Observation) -> bool:
    return found[0][name].shape != expected[0][name].shape


def _observe(subject: ModelUnderTest, config: Any) -> Observation:
    """Return the initial weights of the seed, and the logits of random weights in eval and in training."""
    model = subject.fresh_model_of(config)
    initial = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    return initial, *logits_of_random_weights(subject, model, subject.tokens(2))


def _plain(config: Any) -> dict[str, Any]:
    """Return the content of a configuration after a round trip through JSON, without `UNCOMPARED`."""
    content = json.loads(json.dumps(config.to_dict(), default=str))
    return {name: value for name, value in content.items() if name not in UNCOMPARED}


_ABSENT = object()


def _changes(expected: dict[str, Any], found: dict[str, Any]) -> str:
    """Return the first fields that differ, such as "rope_theta: 10000 becomes 500"; empty if none does."""
    names = sorted(n for n in expected.keys() | found.keys() if expected.get(n, _ABSENT) != found.get(n, _ABSENT))
    texts = [f"{n}: {_printable(expected.get(n, _ABSENT))} becomes {_printable(found.get(n, _ABSENT))}" for n in names]
    return ", ".join(texts[:3])


def _printable(value: Any) -> str:
    return "nothing" if value is _ABSENT else json.dumps(value, default=str, ensure_ascii=False)
