"""Directories with the code of transformers' own models and `auto_map`, as models of others have."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import transformers
from transformers import CONFIG_MAPPING, MODEL_FOR_CAUSAL_LM_MAPPING
from transformers.models.auto.configuration_auto import model_type_to_module_name

Edit = tuple[str, str]
OTHER_TYPE = "a_model_of_others"


SMALL = {
    "vocab_size": 300,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
}


def write_remote_code(
    kind: str, directory: Path, edits: Iterable[Edit] = (), *, named: bool = True, **values: Any
) -> Path:
    """Write a directory with a copy of a modeling file of transformers, and return its path.

    Args:
        kind: The model type.
        directory: The directory to create.
        edits: Texts of the modeling file and their replacements; each occurs at least once.
        named: Whether config.json names the model type and the class of transformers.
        **values: Values of the configuration.
    """
    directory.mkdir(parents=True)
    name = model_type_to_module_name(kind)
    folder = Path(transformers.__file__).parent / "models" / name
    source = (folder / f"modeling_{name}.py").read_text(encoding="utf-8")
    for old, new in edits:
        assert source.count(old) >= 1, f"modeling_{name}.py has no {old!r}"
        source = source.replace(old, new, 1)
    source = re.sub(r"^(\s*)from \.\.\.(\w)", r"\1from transformers.\2", source, flags=re.MULTILINE)
    source = re.sub(r"^(\s*)from \.\.\. import", r"\1from transformers import", source, flags=re.MULTILINE)
    source = re.sub(r"^(\s*)from \.\.(\w)", r"\1from transformers.models.\2", source, flags=re.MULTILINE)
    own = rf"^(\s*)from \.(?!configuration_{name}\b)(\w)"
    source = re.sub(own, rf"\1from transformers.models.{name}.\2", source, flags=re.MULTILINE)
    (directory / f"modeling_{name}.py").write_text(source, encoding="utf-8")
    made = CONFIG_MAPPING[kind](**values)
    model = MODEL_FOR_CAUSAL_LM_MAPPING[type(made)].__name__
    (directory / f"configuration_{name}.py").write_text(
        f"import transformers\n\n\nclass {type(made).__name__}(transformers.{type(made).__name__}):\n"
        f"    model_type = {(kind if named else OTHER_TYPE)!r}\n",
        encoding="utf-8",
    )
    content = made.to_dict() | {
        "architectures": [model if named else "OtherModel"],
        "model_type": kind if named else OTHER_TYPE,
        "auto_map": {
            "AutoConfig": f"configuration_{name}.{type(made).__name__}",
            "AutoModelForCausalLM": f"modeling_{name}.{model}",
        },
    }
    (directory / "config.json").write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    return directory
