"""The contracts of a plugin's classes: the members that Forgather reads, their types, and their defaults.

Every member is optional. The functions below return its value, or the default if a class does not define it.
`check_options`, `check_config` and `check_model` refuse misspelt members and members of the wrong type.
"""

from __future__ import annotations

import inspect
from collections.abc import Collection, Iterable, Iterator, Mapping
from types import UnionType
from typing import Any, ClassVar, Protocol, get_args, get_origin, get_type_hints, runtime_checkable

from ..errors import DefinitionError, Place
from ..options.spec import did_you_mean, specs_of

Problem = tuple[str, str]  # an option and a sentence

# --- options classes: importable without torch ---------------------------------------------------------------------


@runtime_checkable
class HasProblems(Protocol):
    """Options with constraints between them."""

    def problems(self) -> Iterable[Problem]:
        """Yield the violated constraints, as (option, sentence)."""
        ...


@runtime_checkable
class HasDerived(Protocol):
    """Options whose values may follow from other options."""

    def derived(self) -> Mapping[str, Any]:
        """Return derived values for options that are null, by name."""
        ...


@runtime_checkable
class HasUnsupportedAttention(Protocol):
    """Options or a configuration of a model that some attention implementations cannot compute."""

    def unsupported_attention(self) -> Mapping[str, str]:
        """Return the attention implementations that cannot compute the model: name -> reason and alternative."""
        ...


@runtime_checkable
class HasNativeProblems(Protocol):
    """Options or a configuration with values that transformers' own class cannot represent."""

    def native_problems(self) -> Iterable[str]:
        """Yield the reasons why the native class cannot replace this model."""
        ...


class OptionsContract(HasProblems, HasDerived, HasUnsupportedAttention, HasNativeProblems, Protocol):
    """All methods that an options class may have."""


def problems(options: object) -> Iterable[Problem]:
    """Return the violated constraints between options, as (option, sentence)."""
    return options.problems() if isinstance(options, HasProblems) else ()


def derived(options: object) -> Mapping[str, Any]:
    """Return the values that the definition derives for options that are null."""
    return options.derived() if isinstance(options, HasDerived) else {}


def unsupported_attention(options: object) -> Mapping[str, str]:
    """Return the attention implementations that cannot compute the model: name -> reason and alternative."""
    return options.unsupported_attention() if isinstance(options, HasUnsupportedAttention) else {}


def native_problems(options: object) -> Iterable[str]:
    """Return the reasons why the native class cannot replace a model with these options."""
    return options.native_problems() if isinstance(options, HasNativeProblems) else ()


# --- configuration classes -----------------------------------------------------------------------------------------


@runtime_checkable
class HasNativeModelType(Protocol):
    """A configuration with an equivalent in transformers."""

    native_model_type: ClassVar[str | None]


@runtime_checkable
class HasAlsoReads(Protocol):
    """A configuration that accepts the config.json of further model types."""

    also_reads: ClassVar[tuple[str, ...] | list[str]]


@runtime_checkable
class HasBuiltIn(Protocol):
    """A configuration with fixed values of options of the native class."""

    built_in: ClassVar[Mapping[str, Any]]


class ConfigContract(HasNativeModelType, HasAlsoReads, HasBuiltIn, OptionsContract, Protocol):
    """All members that a configuration class may have; `DecoderConfig` itself reads the last two."""

    native_ignores: ClassVar[tuple[str, ...] | list[str]]
    native_defaults: ClassVar[Mapping[str, Any]]


def native_model_type(config: object) -> str | None:
    """Return the model type of the equivalent transformers class, or None. `config` is a class or an instance."""
    return config.native_model_type if isinstance(config, HasNativeModelType) else None


def also_reads(config: object) -> tuple[str, ...]:
    """Return the further model types whose config.json is accepted. `config` is a class or an instance."""
    return tuple(config.also_reads) if isinstance(config, HasAlsoReads) else ()


def built_in(config: object) -> Mapping[str, Any]:
    """Return the fixed values of options of the native class. `config` is a class or an instance."""
    return config.built_in if isinstance(config, HasBuiltIn) else {}


# --- model classes -------------------------------------------------------------------------------------------------


@runtime_checkable
class HasInitialWeights(Protocol):
    """A model with an initialization table."""

    def initial_weights(self) -> Iterable[tuple[str, Any]]:
        """Yield (pattern, rule); the first pattern found in a parameter's name applies."""
        ...


@runtime_checkable
class HasDecoderClass(Protocol):
    """A language model whose decoder is a class of its own, which vLLM and AutoModel require."""

    decoder_class: ClassVar[type]


@runtime_checkable
class HasBackendProblem(Protocol):
    """A decoder that a server's attention kernel may not be able to run."""

    def backend_problem(self) -> str | None:
        """Return the reason why a kernel that takes only queries, keys and values cannot run this model, or None."""
        ...


class ModelContract(HasInitialWeights, HasDecoderClass, HasBackendProblem, Protocol):
    """All members that a model class may have; `Decoder` itself calls the last one."""

    def prepare(self, inputs_embeds: Any, position_ids: Any) -> Any:
        """Return the embeddings [B, T, D] to pass to the first layer; `position_ids` are [B, T]."""


def initial_weights(model: object) -> list[tuple[str, Any]] | None:
    """Return the initialization table of a model, or None if it has none."""
    return list(model.initial_weights()) if isinstance(model, HasInitialWeights) else None


def decoder_class(model: object) -> type | None:
    """Return the class of the decoder of a language model, or None. `model` is a class or an instance."""
    return model.decoder_class if isinstance(model, HasDecoderClass) else None


def backend_problem(decoder: object) -> str | None:
    """Return the reason why a server's attention kernel cannot run a model, or None."""
    return decoder.backend_problem() if isinstance(decoder, HasBackendProblem) else None


# --- checks --------------------------------------------------------------------------------------------------------

_SIMILAR = 0.85  # `problem` is a misspelling of `problems`; `get_problems` is a helper
_FRAMEWORKS = frozenset({"builtins", "forgather_core", "huggingface_hub", "torch", "transformers", "typing"})


def check_options(options: type, definition: str) -> None:
    """Check an options class against its contract.

    Args:
        options: The dataclass.
        definition: The name of its definition.

    Raises:
        DefinitionError: The name of a member is similar to one of the contract, or a member has another type.
    """
    names = [spec.name for spec in specs_of(options)]
    _check(options, OptionsContract, definition, names)
    for name in names:
        if hasattr(OptionsContract, name):
            problem = f"'{definition}': {options.__name__}.{name} must be a method, got an option"
            raise DefinitionError(problem, hint="rename the option")


def check_config(config_class: type, options: type, definition: str) -> None:
    """Check a configuration class, which inherits the options, against its contract. Raises like `check_options`."""
    _check(config_class, ConfigContract, definition, [spec.name for spec in specs_of(options)])


def check_model(model_class: type, definition: str) -> None:
    """Check a model class and its decoder against their contract. Raises like `check_options`."""
    _check(model_class, ModelContract, definition, ())
    if (decoder := decoder_class(model_class)) is not None:
        _check(decoder, ModelContract, definition, ())


def _check(cls: type, contract: type, definition: str, options: Collection[str]) -> None:
    members = dict(member for base in contract.__mro__ if base.__module__ == __name__ for member in _members(base))
    framework_bases = [base for base in cls.__mro__ if base.__module__.partition(".")[0] in _FRAMEWORKS]
    known = {*options, *members, *(name for base in framework_bases for name in vars(base))}
    for owner in (base for base in cls.__mro__ if base not in framework_bases):
        for name, member in vars(owner).items():
            if name in members:
                problem, hint = _problem(owner, name, member, members[name]), None
            elif name.startswith("_") or name in known:
                continue
            else:
                hint = did_you_mean(name, members, similarity=_SIMILAR)
                problem = "is not a member that Forgather reads" if hint is not None else None
            if problem is not None:
                text = f"'{definition}': {owner.__name__}.{name} {problem}"
                raise DefinitionError(text, hint=hint, **_place(member))


def _members(contract: type) -> Iterator[tuple[str, Any]]:
    """Yield the members that a Protocol declares: its methods, and its attributes with their allowed types."""
    yield from ((name, member) for name, member in vars(contract).items() if name[0] != "_" and callable(member))
    hints = get_type_hints(contract)
    for name in inspect.get_annotations(contract):
        (kind,) = get_args(hints[name])  # of ClassVar
        kinds = get_args(kind) if isinstance(kind, UnionType) else (kind,)
        yield name, tuple(get_origin(kind) or kind for kind in kinds)


def _problem(owner: type, name: str, member: Any, expected: Any) -> str | None:
    """Return the problem of a member, or None. A member must have the expected type or the expected parameters."""
    if isinstance(expected, tuple):
        names = " or ".join("None" if kind is type(None) else kind.__name__.lower() for kind in expected)
        return None if isinstance(member, expected) else f"must be a {names}, got a {type(member).__name__}"
    bound = isinstance(member, classmethod | staticmethod)
    if not (bound or callable(member)) or isinstance(member, type):
        return f"must be a method, got a {type(member).__name__}"
    parameters = list(inspect.signature(expected).parameters)
    found = inspect.signature(getattr(owner, name))
    try:
        found.bind(*parameters[bound:])
    except TypeError:
        return f"must take ({', '.join(parameters)}), got ({', '.join(map(str, found.parameters.values()))})"
    return None


def _place(member: Any) -> Place:
    """Return file and line of a method."""
    if not inspect.isfunction(member):
        return {}
    return {"file": member.__code__.co_filename, "line": member.__code__.co_firstlineno}
