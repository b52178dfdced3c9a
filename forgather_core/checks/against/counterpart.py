"""Another implementation of a model, built with the same weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ...errors import CheckError
from ...filesystem.printable import truncated_list
from ...model.directory_errors import load_config
from ...model.shrink import shrunk_config
from ..shared.model_under_test import ModelUnderTest

_OF_FILE = ("architectures", "auto_map", "model_type", "transformers_version", "_name_or_path", "name_or_path")


@dataclass(frozen=True)
class Counterpart:
    """Another implementation.

    Args:
        name: Its name in a report.
        model_type: The type of a class of transformers; None for a directory.
        directory: A model directory; None for a class of transformers.
    """

    name: str
    model_type: str | None = None
    directory: Path | None = None

    def config_for(self, subject: ModelUnderTest, config: Any) -> Any:
        """Return the configuration that corresponds to one of the model under test.

        A class of transformers gets the same values. A directory keeps its own, except for those that differ from the
        model's own file: the sizes of the small copy, the dropout of a case.

        Args:
            subject: The model under test.
            config: A configuration of its copy.
        """
        if self.directory is None:
            from transformers import CONFIG_MAPPING

            return CONFIG_MAPPING[self.model_type].from_dict(_content(config))
        other = load_config(self.directory, CheckError)
        content = other.to_dict() | ({} if subject.full else shrunk_config(other, keep=()))
        original = load_config(subject.directory, CheckError).to_dict()
        changed = {name: value for name, value in config.to_dict().items() if original.get(name) != value}
        usual = {own: name for name, own in config.attribute_map.items()}
        for name, value in changed.items():
            own = usual.get(name, name)
            own = other.attribute_map.get(own, own)
            if own in content and name not in _OF_FILE:
                content[own] = value
        new = type(other).from_dict(content)
        new.name_or_path = str(self.directory)
        return new

    def fresh_model(self, subject: ModelUnderTest, config: Any, *, attention: str | None = None) -> Any:
        """Build a float32 model with initial weights.

        Args:
            subject: The model under test.
            config: A configuration of its copy.
            attention: The attention implementation; None leaves the choice to transformers.
        """
        from transformers import AutoModelForCausalLM

        how = {} if attention is None else {"attn_implementation": attention}
        other = self.config_for(subject, config)
        torch.manual_seed(subject.seed)
        return AutoModelForCausalLM.from_config(other, trust_remote_code=True, dtype=torch.float32, **how)

    def model_of(self, subject: ModelUnderTest, model: Any, *, attention: str | None = None) -> tuple[Any, list[str]]:
        """Build a model with the weights of a model.

        Args:
            subject: The model under test.
            model: A float32 model of its copy.
            attention: The attention implementation; None leaves the choice to transformers.

        Returns:
            The model in eval mode, and a sentence for each group of weights that only one of the two has.
        """
        other = self.fresh_model(subject, model.config, attention=attention)
        if not different_parameters(model, other):
            other.load_state_dict(model.state_dict(), strict=False)
            return other.eval(), []
        return self._loaded(subject, model, other, attention)

    def _loaded(self, subject: ModelUnderTest, model: Any, other: Any, attention: str | None) -> tuple[Any, list[str]]:
        """Load the weights from a file, so that transformers converts names and layouts."""
        from transformers import AutoModelForCausalLM

        how = {} if attention is None else {"attn_implementation": attention}
        with subject.scratch() as folder:
            saved = subject.save(model, folder)
            loaded, report = AutoModelForCausalLM.from_pretrained(
                saved,
                config=other.config,
                dtype=torch.float32,
                trust_remote_code=True,
                output_loading_info=True,
                ignore_mismatched_sizes=True,
                **how,
            )
        problems = []
        for what, key in (
            (f"parameters of {self.name} that the model does not have", "missing_keys"),
            (f"parameters that {self.name} does not have", "unexpected_keys"),
            ("parameters of other shapes", "mismatched_keys"),
        ):
            names = sorted(one if isinstance(one, str) else one[0] for one in report.get(key) or ())
            if names:
                problems.append(f"{what}: {truncated_list(names)}")
        return loaded.eval(), problems


def different_parameters(model: nn.Module, other: nn.Module) -> list[str]:
    """Return the names of parameters that only one of two models has in this shape."""
    one, two = ({name: tuple(p.shape) for name, p in m.named_parameters()} for m in (model, other))
    return sorted(dict(one.items() ^ two.items()))


def _content(config: Any) -> dict[str, Any]:
    """Return the values of a configuration for another class."""
    content: Mapping[str, Any] = config.to_dict()
    return {name: value for name, value in content.items() if name not in _OF_FILE}


def cast(model: Any, dtype: torch.dtype, subject: ModelUnderTest) -> Any:
    """Return the model in another dtype, as `from_pretrained` loads it; the model itself in float32."""
    from transformers import AutoModelForCausalLM

    if dtype == torch.float32:
        return model
    with subject.scratch() as folder:
        target = folder / "other"
        model.save_pretrained(target)
        how = {"attn_implementation": model.config._attn_implementation, "dtype": dtype}
        return AutoModelForCausalLM.from_pretrained(target, config=model.config, trust_remote_code=True, **how).eval()
