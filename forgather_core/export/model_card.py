"""Write the model card (README.md): description, options, and how to load the model."""

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

Built by Forgather {forgather} from `{configuration}`. The directory contains the complete source code of the model and
loads with Hugging Face transformers, without Forgather.

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

model = AutoModelForCausalLM.from_config(config)  # randomly initialized weights

# After weights have been saved in this directory:
model = AutoModelForCausalLM.from_pretrained(path, trust_remote_code=True)
```

For LoRA with PEFT, set the target modules: `LoraConfig(target_modules="all-linear")`. PEFT has defaults only for the
model types of transformers.

`trust_remote_code=True` is required because the code is in this directory instead of in transformers. Read
`{model_file}` first: it shows the complete model.

{requires}`forgather.json` lists every file that Forgather wrote, with its origin and SHA-256.
"""


_BLANK = "\n\n"


def model_card(
    manifest: Manifest, definition: ModelDefinition, config: Mapping[str, Any], sources: Sequence[SourceFile]
) -> str:
    """Return the text of the model card.

    Args:
        manifest: The manifest; its files are not used.
        definition: The model definition.
        config: Content of `config.json`.
        sources: The source files; the card includes their docstrings.
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
        requires=f"The source code also requires {packages}.\n\n" if packages else "",
    )


def _cell(value: Any) -> str:
    text = json.dumps(value) if isinstance(value, (dict, list, bool)) or value is None else str(value)
    return text.replace("|", "\\|").replace("\n", " ")
