"""What is checked: a model directory, by default in a small copy with the same features."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from ..definitions.registry import registry
from ..errors import CheckError, UnknownDefinitionError, first_line
from ..filesystem.model_files import skip_unsuitable
from ..filesystem.strict_json import read_object
from ..model.directory_errors import load_config
from ..model.manifest import MANIFEST, read_manifest
from ..model.shrink import shrunk
from ..option import METADATA_KEY
from ..options.shared import AttentionImplementation

if TYPE_CHECKING:
    from ..definitions.definition import ModelDefinition
    from ..settings.resolve import Settings

WEIGHTS = ("*.safetensors", "*.bin", "*.index.json", "*.pt", "*.pth", "checkpoint-*")
FLEX: Literal["flex_attention"] = "flex_attention"
ATTENTIONS: tuple[AttentionImplementation, ...] = ("eager", "sdpa", FLEX)  # those that run on CPU
LENGTH = 20  # tokens of a text: longer than a shrunk window, and no multiple of anything


class ModelUnderTest:
    """A model directory under test. Every model is made anew, from the files of a copy.

    Args:
        directory: The model directory: ours, or any causal language model's of Hugging Face.
        place: Where the copy is made: an empty directory.
        settings: What the directory was made of, where a definition is checked.
        full: Keep the configuration as it is, rather than shrink it.
        seed: Of weights and texts.
    """

    def __init__(
        self, directory: Path, place: Path, *, settings: Settings | None = None, full: bool = False, seed: int = 0
    ) -> None:
        self.directory, self.settings, self.full, self.seed = directory, settings, full, seed
        self.place = place / directory.resolve().name  # loaders call the module of the sources after it
        try:
            str(self.place).encode()
        except UnicodeEncodeError:  # the libraries in Rust open no such path
            raise CheckError(f"{self.place} is not UTF-8: rename the directory, or set TMPDIR to another") from None
        config = load_config(directory, CheckError)
        shutil.copytree(directory, self.place, ignore=skip_unsuitable(WEIGHTS))
        if not full:
            self._shrink(config)

    def _shrink(self, config: Any) -> None:
        file = self.place / "config.json"
        content = read_object(file)
        try:
            content |= shrunk(config.to_dict(), config.attribute_map)
        except Exception as error:  # a foreign configuration fails in any way
            raise CheckError(f"{self.directory / file.name} cannot be loaded: {first_line(error)}") from None
        file.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")

    @property
    def is_ours(self) -> bool:
        """Whether Forgather wrote the directory."""
        return (self.directory / MANIFEST).is_file()

    @cached_property
    def is_builtin(self) -> bool:
        """Whether the model is a class of transformers itself: the directory has no code of its own."""
        content = read_object(self.place / "config.json")
        return not self.is_ours and "auto_map" not in content

    @cached_property
    def definition(self) -> ModelDefinition | None:
        """The definition that the directory was made of; None for another's directory, or where it is not installed."""
        if self.settings is not None:
            return self.settings.configuration.definition
        manifest = read_manifest(self.directory)
        try:
            return None if manifest is None else registry().definition(manifest.definition["name"])
        except UnknownDefinitionError:
            return None

    @cached_property
    def no_dropout(self) -> dict[str, Any]:
        """The changes to the configuration that switch off every dropout."""
        content = self.text_config.to_dict()
        return {name: 0.0 for name, value in content.items() if "drop" in name and isinstance(value, float)}

    def config(self, **changes: Any) -> Any:
        """A new configuration of the copy, with changes."""
        from transformers import AutoConfig

        return AutoConfig.from_pretrained(self.place, trust_remote_code=True, **changes)

    @cached_property
    def refused_attention(self) -> dict[str, str]:
        """The attention implementations that the model or transformers refuses: name -> reason.

        Raises:
            ValueError, ImportError: The model cannot be constructed with any, which is no refusal but a fault.
        """
        refused = dict(getattr(self.config(), "unsupported_attention", dict)())
        last: Exception | None = None
        for name in ATTENTIONS:
            if name in refused:
                continue
            try:
                self._made(self.config(), attention=name)
            except (ValueError, ImportError) as error:
                last, refused[name] = error, first_line(error)
        if last is not None and refused.keys() >= set(ATTENTIONS):
            raise last
        return refused

    @cached_property
    def default_attention(self) -> AttentionImplementation | None:
        """The implementation that checks take unless they name one: transformers' choice, unless that is refused."""
        if "sdpa" not in self.refused_attention:
            return None
        return next((name for name in ATTENTIONS if name not in self.refused_attention), None)

    @property
    def loading(self) -> dict[str, Any]:
        """Arguments of `from_pretrained`: the directory's code, and an attention implementation where it needs one."""
        default = {} if self.default_attention is None else {"attn_implementation": self.default_attention}
        return {"trust_remote_code": True} | default

    def constructed(self, changes: Mapping[str, Any]) -> Any:
        """A new configuration of the copy, made with changes, so that it sees whether they go together.

        Unlike `config`, which changes it afterwards, and tells no rule of it.
        """
        content = read_object(self.place / "config.json") | dict(changes)
        config = self._config_class.from_dict(content)
        config.name_or_path = str(self.place)
        return config

    @cached_property
    def _config_class(self) -> Any:
        return type(self.config())

    def underived(self) -> dict[str, Any]:
        """The changes by which `constructed` derives anew what a configuration of options has derived from them."""
        from transformers import PreTrainedConfig

        fields = {name: field for name, field in self._config_class.__dataclass_fields__.items() if field.init}
        if not any(METADATA_KEY in field.metadata for field in fields.values()):
            return {}
        own = {name: field for name, field in fields.items() if name not in PreTrainedConfig.__dataclass_fields__}
        given = ("_token_id", "vocab_size", "max_position_embeddings")
        return {
            name: None
            for name, field in own.items()
            if METADATA_KEY not in field.metadata and field.default is None and not name.endswith(given)
        }

    def fresh_model_of(self, config: Any, *, seed: int | None = None, attention: str | None = None) -> Any:
        """A new float32 model of a configuration with its initial weights, in training mode.

        Args:
            config: From `config` or `constructed`.
            seed: Of its weights; None takes the subject's.
            attention: The attention implementation; None takes the subject's default.
        """
        attention = attention or self.default_attention
        torch.manual_seed(self.seed if seed is None else seed)
        return self._made(config, attention)

    def on_meta(self) -> Any:
        """The model of the copy, without numbers."""
        with torch.device("meta"):
            return self._made(self.config(), None)

    def whole_on_meta(self) -> Any:
        """The model of the directory as it is, without numbers."""
        with torch.device("meta"):
            return self._made(load_config(self.directory, CheckError), None)

    @staticmethod
    def _made(config: Any, attention: str | None) -> Any:
        from transformers import AutoModelForCausalLM

        how = {"attn_implementation": attention} if attention is not None else {}
        return AutoModelForCausalLM.from_config(config, trust_remote_code=True, dtype=torch.float32, **how).train()

    def fresh_model(self, *, seed: int | None = None, attention: str | None = None, **changes: Any) -> Any:
        """The same of the copy's configuration, with changes."""
        return self.fresh_model_of(self.config(**changes), seed=seed, attention=attention)

    def model(self, *, seed: int | None = None, attention: str | None = None, **changes: Any) -> Any:
        """A new float32 model with strong weights, in eval mode.

        Args:
            seed: Of its weights; None takes the subject's.
            attention: The attention implementation; None takes transformers' choice.
            changes: To the configuration.
        """
        model = self.fresh_model(seed=seed, attention=attention, **changes)
        randomize_weights(model, self.seed if seed is None else seed)
        return model.eval()

    @cached_property
    def text_config(self) -> Any:
        """The configuration of the copy, to read."""
        return self.config().get_text_config()

    @property
    def window(self) -> int | None:
        """How many keys a token sees at most, itself included, in the layers that limit it."""
        config = self.text_config
        window: int | None = getattr(config, "sliding_window", None)
        uses = getattr(config, "use_sliding_window", True)
        kinds = getattr(config, "layer_types", None)
        return window if uses and (kinds is None or "sliding_attention" in kinds) else None

    def tokens(self, rows: int, length: int = LENGTH, seed: int = 0) -> Tensor:
        """Random token ids [rows, length] without special ones."""
        config = self.text_config
        special = set[int]()
        for name in ("bos_token_id", "eos_token_id", "pad_token_id", "unk_token_id"):
            value = getattr(config, name, None)
            special |= set(value) if isinstance(value, list) else {value} if isinstance(value, int) else set()
        usual = torch.tensor([i for i in range(config.vocab_size) if i not in special])
        generator = torch.Generator().manual_seed(1000 * self.seed + seed + 1)
        return usual[torch.randint(len(usual), (rows, length), generator=generator)]

    @contextmanager
    def scratch(self) -> Iterator[Path]:
        """An empty directory for a while."""
        with tempfile.TemporaryDirectory(dir=self.place.parent) as path:
            yield Path(path)

    def save(self, model: Any, place: Path, **how: Any) -> Path:
        """Save a model with `save_pretrained` in an empty directory, and sources beside it that it leaves behind."""
        target = place / self.place.name
        model.save_pretrained(target, **how)
        for source in self.place.glob("*.py"):
            if not (target / source.name).exists():
                shutil.copy(source, target)
        return target


def randomize_weights(model: nn.Module, seed: int) -> None:
    """Draw all weights anew, so large that a leak shows in the logits, and that norms and biases matter.

    Initial weights are no use for this: their attention is close to uniform, their biases are zero and norms one.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            drawn = torch.randn(parameter.shape, generator=generator).to(parameter.dtype)
            if parameter.dim() >= 2 and min(parameter.shape) > 1:
                parameter.copy_(1.5 * drawn * parameter.shape[-1] ** -0.5)
            elif name.endswith("bias"):
                parameter.copy_(0.2 * drawn)
            else:  # scales: of norms, of ALiBi
                parameter.mul_(1 + 0.2 * drawn).add_(0.05 * drawn)
