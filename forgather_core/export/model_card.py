"""README.md of a model directory: what the model is, and how to load it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from ..definitions.definition import ModelDefinition
from ..model.manifest import Manifest
from .sources import SourceFile

_CARD = """\
---
library_name: transformers
pipeline_tag: text-generation
tags:
- forgather
- {definition}
---

# {name}

{summary}

Built by Forgather {forgather} from `{configuration}`. The directory holds all the source code of the model: it loads
with Hugging Face transformers, and without Forgather.

## Architecture

{about}

{files}

## Options

| option | value | from |
|---|---|---|
{rows}

Tokenizer: `{tokenizer}`, {vocab_size} entries.

## Load it

```python
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

path = "."  # this directory
tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=True)
config = AutoConfig.from_pretrained(path, trust_remote_code=True)

model = AutoModelForCausalLM.from_config(config)  # new weights

# Once weights have been saved beside this file:
model = AutoModelForCausalLM.from_pretrained(path, trust_remote_code=True)
```

For LoRA with PEFT, name the layers: `LoraConfig(target_modules="all-linear")`. PEFT has defaults only for the model
types of transformers.

`trust_remote_code=True` is needed because the code lies in this directory instead of in transformers: read
`{model_file}` first, it shows the whole model on one screen.

{requires}`forgather.json` names every file that Forgather wrote, where it came from, and its SHA-256.
"""


_BLANK = "\n\n"


def model_card(
    manifest: Manifest, definition: ModelDefinition, config: Mapping[str, Any], sources: Sequence[SourceFile]
) -> str:
    """The text of the card.

    Args:
        manifest: The manifest, files not needed.
        definition: The definition.
        config: The content of `config.json`.
        sources: The source files; what their docstrings say is said here.
    """
    model_file = definition.model.partition(":")[0].rsplit(".", 1)[-1] + ".py"
    docstrings = {file.name: file.docstring for file in sources}
    files = [f"- `{name}`: {' '.join(text.partition(_BLANK)[0].split())}" for name, text in docstrings.items() if text]
    rows = [f"| `{n}` | {_cell(config.get(n, o.value))} | {_cell(o.origin)} |" for n, o in manifest.options.items()]
    packages = ", ".join(f"`{name}`" for name in manifest.requires)
    return _CARD.format(
        definition=definition.name,
        name=manifest.model_name,
        summary=definition.summary,
        forgather=manifest.versions["forgather"],
        configuration=manifest.configuration,
        rows="\n".join(rows),
        tokenizer=manifest.tokenizer["name"],
        vocab_size=manifest.tokenizer["vocab_size"],
        model_file=model_file,
        about=docstrings.get(model_file) or definition.summary,
        files="\n".join(files),
        requires=f"The source code also needs {packages}.\n\n" if packages else "",
    )


def _cell(value: Any) -> str:
    text = json.dumps(value) if isinstance(value, (dict, list, bool)) or value is None else str(value)
    return text.replace("|", "\\|").replace("\n", " ")
