"""Find another implementation of a model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from ...errors import CheckError
from ...filesystem.paths import expanded
from ...filesystem.strict_json import read_object
from ...model.directory_errors import directory_problem, load_config
from ...options.spec import did_you_mean
from ..shared.causal_class import require_causal_class
from ..shared.model_under_test import ModelUnderTest
from ..shared.source_attributes import attributes_set_in
from ..shared.trust import require_trust
from .counterpart import Counterpart, different_parameters

_MOST_BUILT = 12  # classes of transformers that are built to compare their parameters
_MOST_NAMED = 3


def find_counterpart(text: str, *, trusted: bool) -> Counterpart:
    """Return the implementation that `--against` names.

    Args:
        text: A model directory, or a class or a model type of transformers.
        trusted: Whether the code of a directory that Forgather did not write may run.

    Raises:
        CheckError: It is neither, or its code is not trusted.
    """
    path, types = expanded(text), _causal_types()
    if path.exists() and directory_problem(path) is None:
        require_trust(path, trusted=trusted, option="--against")
        require_causal_class(path, load_config(path, CheckError))
        return Counterpart(str(path), directory=path.resolve())
    if (kind := _type_of(text)) is not None:
        return Counterpart(f"{types[kind]} of transformers", model_type=kind)
    problem = "is neither a model directory nor a causal language model of transformers"
    hint = did_you_mean(text, [*types, *types.values()]) or "name a directory, a class or a model type, such as llama"
    raise CheckError(f"{problem}: {text!r}", option="--against", hint=hint)


def by_config(subject: ModelUnderTest) -> Counterpart | None:
    """Return the class of transformers that the configuration of a directory with its own code names, or None."""
    if subject.made_by_forgather or subject.is_builtin:
        return None
    content = read_object(subject.workdir / "config.json")
    named = content.get("architectures")
    names = [content.get("model_type"), *(named if isinstance(named, list) else [])]
    kind = next((found for name in names if isinstance(name, str) and (found := _type_of(name)) is not None), None)
    return None if kind is None else Counterpart(f"{_causal_types()[kind]} of transformers", model_type=kind)


def _type_of(name: str) -> str | None:
    """Return the model type with this name or, if there is none, the one whose class has it."""
    import transformers
    from transformers.models.auto.auto_factory import getattribute_from_module

    types = _causal_types()
    if name in types:
        return name
    kinds = [kind for kind, found in types.items() if found == name]
    if len(kinds) < 2:
        return kinds[0] if kinds else None
    config_class = getattribute_from_module(transformers, name).config_class
    return next((kind for kind in kinds if transformers.CONFIG_MAPPING[kind] is config_class), kinds[0])


def by_parameters(subject: ModelUnderTest) -> list[str]:
    """Return the model types of transformers whose classes have the same parameters, by name and shape.

    Those with the most similar options come first.
    """
    model = subject.on_meta()
    parts = {part for name, _ in model.named_parameters() for part in name.split(".")[:-1] if not part.isdigit()}
    texts = {kind: _source(kind) for kind in _causal_types()}
    candidates = [kind for kind, text in texts.items() if parts <= attributes_set_in(text)]
    candidates.sort(key=lambda kind: len(texts[kind]))  # the plainest first
    found = [kind for kind in candidates[:_MOST_BUILT] if _has_parameters(kind, subject, model)]
    names = model.config.to_dict().keys()
    return sorted(found, key=lambda kind: len(names ^ _default(kind).keys()))[:_MOST_NAMED]


def _default(kind: str) -> dict[str, Any]:
    from transformers import CONFIG_MAPPING

    content: dict[str, Any] = CONFIG_MAPPING[kind]().to_dict()
    return content


def _has_parameters(kind: str, subject: ModelUnderTest, model: Any) -> bool:
    try:
        with torch.device("meta"):
            other = Counterpart(kind, model_type=kind).fresh_model(subject, model.config)
    except Exception:  # the values of the configuration may mean nothing to another class
        return False
    return not different_parameters(model, other)


def _causal_types() -> dict[str, str]:
    """Return the model types of transformers with a class of causal language models, and its name."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    return dict(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)


def _source(kind: str) -> str:
    """Return the text of the modeling file of a model type."""
    import transformers
    from transformers.models.auto.configuration_auto import model_type_to_module_name

    name = model_type_to_module_name(kind)
    file = Path(transformers.__file__).parent / "models" / name / f"modeling_{name}.py"
    return file.read_text(encoding="utf-8") if file.is_file() else ""
