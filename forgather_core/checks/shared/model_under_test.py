"""The model under test: a model directory, by default as a small copy with the same features."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from ...definitions import contracts
from ...definitions.registry import registry
from ...deprecated import renamed_members
from ...errors import CheckError, UnknownDefinitionError, first_line
from ...filesystem.strict_json import read_object
from ...model.directory_errors import load_config
from ...model.manifest import MANIFEST, read_manifest
from ...model.randomize import randomize_weights
from ...options.shared import AttentionImplementation
from .causal_class import require_causal_class
from .option_fields import derived_fields
from .scope import DEFAULT_SCOPE, Scope
from .small_copy import copy_directory, shrink_copy, special_ids

if TYPE_CHECKING:
    from ...definitions.definition import ModelDefinition
    from ...settings.resolved_model import ResolvedModel

FLEX: Literal["flex_attention"] = "flex_attention"
ATTENTIONS: tuple[AttentionImplementation, ...] = ("eager", "sdpa", FLEX)  # all of them run on CPU
LENGTH = 20  # tokens of a text: longer than a shrunk window, and different from other sizes


@renamed_members(
    initial="fresh_model",
    initial_of="fresh_model_of",
    is_ours="made_by_forgather",
    limits="text_config",
    model="randomized_model",
    place="workdir",
    settings="resolved",
)
class ModelUnderTest:
    """A model directory under test; every model is built from the files of a copy.

    Args:
        directory: A model directory of Forgather, or of any causal language model of Hugging Face.
        workdir: An empty directory for the copy.
        resolved: The resolved model that the directory was written from, if a definition is checked.
        full: Check the full model instead of a small copy with the same features.
        seed: Seed of weights and texts.
        scope: How much the checks cover.

    Attributes:
        workdir: The copy, which has the name of the original directory.

    Raises:
        CheckError: The configuration cannot be loaded or shrunk, or the path of the copy is not UTF-8.
    """

    def __init__(
        self,
        directory: Path,
        workdir: Path,
        *,
        resolved: ResolvedModel | None = None,
        full: bool = False,
        seed: int = 0,
        scope: Scope = DEFAULT_SCOPE,
    ) -> None:
        self.directory, self.resolved, self.full, self.seed = directory, resolved, full, seed
        self.scope = scope
        self._classes = dict[type, Any]()  # classes of models by those of their configurations
        self.workdir = workdir / directory.resolve().name  # transformers names the module of the sources after it
        try:
            str(self.workdir).encode()
        except UnicodeEncodeError:  # safetensors and tokenizers cannot open such a path
            hint = "rename the directory, or set TMPDIR to a UTF-8 path"
            raise CheckError("is not UTF-8", file=self.workdir, hint=hint) from None
        config = load_config(directory, CheckError)
        require_causal_class(directory, config)
        copy_directory(directory, self.workdir)
        if not full:
            shrink_copy(directory, self.workdir, config)

    @property
    def made_by_forgather(self) -> bool:
        """Return whether Forgather wrote the directory."""
        return (self.directory / MANIFEST).is_file()

    @cached_property
    def is_builtin(self) -> bool:
        """Return whether the model is a class of transformers: the directory has no code of its own."""
        return not self.made_by_forgather and "auto_map" not in read_object(self.workdir / "config.json")

    @cached_property
    def definition(self) -> ModelDefinition | None:
        """The definition that made the directory; None if there is none or it is not installed."""
        if self.resolved is not None:
            return self.resolved.definition
        manifest = read_manifest(self.directory)
        try:
            return None if manifest is None else registry().definition(manifest.definition["name"])
        except UnknownDefinitionError:
            return None

    @cached_property
    def no_dropout(self) -> dict[str, Any]:
        """Configuration changes that disable dropout."""
        content = self.text_config.to_dict()
        return {name: 0.0 for name, value in content.items() if "drop" in name and isinstance(value, float)}

    def config(self, **changes: Any) -> Any:
        """Return a new configuration of the copy, changed after it is loaded."""
        if not self.is_builtin:
            return self._config_class.from_pretrained(self.workdir, name_or_path=str(self.workdir), **changes)
        from transformers import AutoConfig

        return AutoConfig.from_pretrained(self.workdir, trust_remote_code=True, **changes)

    @cached_property
    def refused_attention(self) -> dict[str, str]:
        """The attention implementations that the model or transformers refuses, with the reason.

        Raises:
            ValueError, ImportError: No implementation can build the model, because the model has an error.
        """
        refused = dict(contracts.unsupported_attention(self.config()))
        first: Exception | None = None  # that of the simplest implementation names the cause
        for name in ATTENTIONS:
            if name in refused:
                continue
            try:
                self._build(self.config(), attention=name)
            except (ValueError, ImportError) as error:
                first, refused[name] = first or error, first_line(error)
        if first is not None and refused.keys() >= set(ATTENTIONS):
            raise first
        return refused

    @cached_property
    def default_attention(self) -> AttentionImplementation | None:
        """The attention implementation to pass; None leaves the choice to transformers."""
        if "sdpa" not in self.refused_attention:
            return None
        return next((name for name in ATTENTIONS if name not in self.refused_attention), None)

    @property
    def loading(self) -> dict[str, Any]:
        """Arguments for `from_pretrained`: `trust_remote_code`, and an attention implementation if required."""
        default = {} if self.default_attention is None else {"attn_implementation": self.default_attention}
        return {"trust_remote_code": True} | default

    def constructed(self, changes: Mapping[str, Any], without: Sequence[str] = ()) -> Any:
        """Return a new configuration of the copy, constructed with changes, so that its validation applies to them.

        `config` applies changes after validation.

        Args:
            changes: Fields with other values, or new ones.
            without: Fields of the file to leave out.
        """
        content, _ = self._config_class.get_config_dict(self.workdir)
        kept = {name: value for name, value in content.items() if name not in without}
        config = self._config_class.from_dict(kept | dict(changes))
        config.name_or_path = str(self.workdir)
        return config

    @cached_property
    def _config_class(self) -> Any:
        from transformers import AutoConfig

        return type(AutoConfig.from_pretrained(self.workdir, trust_remote_code=True))

    def underived(self) -> dict[str, Any]:
        """Return the changes that make `constructed` recompute the fields that are derived from options."""
        return dict.fromkeys(derived_fields(self._config_class))

    def fresh_model_of(self, config: Any, *, seed: int | None = None, attention: str | None = None) -> Any:
        """Build a float32 model with initial weights, in training mode.

        Args:
            config: From `config` or `constructed`.
            seed: Seed of its weights; None uses `self.seed`.
            attention: The attention implementation; None uses `default_attention`.
        """
        attention = attention or self.default_attention
        torch.manual_seed(self.seed if seed is None else seed)
        return self._build(config, attention)

    def on_meta(self) -> Any:
        """Build the model of the copy on the meta device."""
        with torch.device("meta"):
            try:
                return self._build(self.config(), None)
            except (ValueError, ImportError):  # it may refuse transformers' choice of attention
                return self._build(self.config(), self.default_attention)

    def whole_on_meta(self) -> Any:
        """Build the full model of the directory on the meta device."""
        with torch.device("meta"):
            return self._build(load_config(self.directory, CheckError), None)

    def _build(self, config: Any, attention: str | None) -> Any:
        from transformers import AutoModelForCausalLM

        how = {"attn_implementation": attention} if attention is not None else {}
        if (known := self._classes.get(type(config))) is not None:
            return known._from_config(config, dtype=torch.float32, **how).train()
        model = AutoModelForCausalLM.from_config(config, trust_remote_code=True, dtype=torch.float32, **how).train()
        if not self.is_builtin:  # transformers compares all source files to find the class
            self._classes[type(config)] = type(model)
        return model

    def fresh_model(self, *, seed: int | None = None, attention: str | None = None, **changes: Any) -> Any:
        """Build a float32 model of the copy with initial weights, in training mode.

        Args:
            seed: Seed of its weights; None uses `self.seed`.
            attention: The attention implementation; None uses `default_attention`.
            **changes: Changes to the configuration.
        """
        return self.fresh_model_of(self.config(**changes), seed=seed, attention=attention)

    def randomized_model(self, *, seed: int | None = None, attention: str | None = None, **changes: Any) -> Any:
        """Build a float32 model of the copy with large random weights (`randomize_weights`), in eval mode.

        Args:
            seed: Seed of its weights; None uses `self.seed`.
            attention: The attention implementation; None uses `default_attention`.
            **changes: Changes to the configuration.
        """
        return self.randomized(self.fresh_model(seed=seed, attention=attention, **changes), seed).eval()

    def randomized(self, model: Any, seed: int | None = None) -> Any:
        """Give a model large random weights, and return it. Frozen parameters of other classes are constants."""
        randomize_weights(model, self.seed if seed is None else seed, frozen=self.made_by_forgather)
        return model

    @cached_property
    def text_config(self) -> Any:
        """The text configuration of the copy; do not modify it."""
        return self.config().get_text_config()

    @property
    def window(self) -> int | None:
        """The sliding window: the keys that a token attends to, itself included; None if no layer has one."""
        config = self.text_config
        window: int | None = getattr(config, "sliding_window", None)
        uses = getattr(config, "use_sliding_window", True)
        kinds = getattr(config, "layer_types", None)
        return window if uses and (kinds is None or "sliding_attention" in kinds) else None

    @cached_property
    def special_ids(self) -> frozenset[int]:
        """The token ids of the configuration's special tokens."""
        return frozenset(special_ids(self.text_config))

    def tokens(self, rows: int, length: int = LENGTH, seed: int = 0) -> Tensor:
        """Return random token ids [rows, length] without special tokens."""
        size: int = self.text_config.vocab_size
        usual = torch.tensor([i for i in range(size) if i not in self.special_ids])
        generator = torch.Generator().manual_seed((1000 * self.seed + seed + 1) % 2**63)
        return usual[torch.randint(len(usual), (rows, length), generator=generator)]

    @contextmanager
    def scratch(self) -> Iterator[Path]:
        """Provide an empty temporary directory."""
        with tempfile.TemporaryDirectory(dir=self.workdir.parent) as path:
            yield Path(path)

    def save(self, model: Any, directory: Path, **options: Any) -> Path:
        """Save a model with `save_pretrained`, add the sources that it leaves out, and return the path.

        Args:
            model: The model.
            directory: An empty directory, in which a directory with the name of the original is made.
            **options: Further arguments of `save_pretrained`.
        """
        target = directory / self.workdir.name
        model.save_pretrained(target, **options)
        for source in self.workdir.glob("*.py"):
            if not (target / source.name).exists():
                shutil.copy(source, target)
        return target
