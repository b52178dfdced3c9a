"""Replace flags by keywords in error messages."""

from __future__ import annotations

import re
from dataclasses import is_dataclass

from forgather_core.definitions.registry import SHARED_OPTIONS
from forgather_core.options import plain_options
from forgather_core.options.spec import OptionSpec, specs_of

# A flag with its verb, the short flag or keyword in parentheses, and the value, as in the hint "add --device cpu". The
# flags of `hf download` and `torchrun` are kept.
_FLAG = re.compile(
    r"""(?P<verb>\b(?:add|use|try|or|requires|with)\s)?
    (?<![\w'"/.=-])--(?!(?:local-dir|nproc-per-node)\b)(?P<name>[a-z][a-z0-9]*(?:-[a-z0-9]+)*)
    (?:\s\((?:-\w|\w+=\w+)\))?
    (?:\s(?P<value>meta|cpu|cuda|bfloat16|float16|float32|chatml)\b)?""",
    re.VERBOSE,
)
_ARGUMENTS = {"PROJECT": "project", "NAME": "name"}  # positional arguments of commands
_FUNCTIONS = {"list": "list_checks()", "json": "to_dict()"}  # flags that correspond to functions instead of keywords


def with_keywords(text: str) -> str:
    """Replace flags by keywords: `--batch-size` by `batch_size`, `add --device cpu` by `add device='cpu'`."""
    text = text.replace("forgather model verify --list", "--list")  # a command whose function has a name of its own
    return _ARGUMENTS.get(text) or _FLAG.sub(_keyword, text)


def _keyword(found: re.Match[str]) -> str:
    verb, value = found["verb"] or "", found["value"]
    if found["name"] in _FUNCTIONS:
        return verb + _FUNCTIONS[found["name"]]
    name = found["name"].replace("-", "_")
    spec = _options().get(name)
    if verb and value is not None:
        return f"{verb}{name}='{value}'"
    if verb and spec is not None and spec.kind is bool:
        name += "=True"
    return f"{verb}{name}" + ("" if value is None else f" {value}")


def _options() -> dict[str, OptionSpec]:
    plain = [one for one in vars(plain_options).values() if isinstance(one, type) and is_dataclass(one)]
    return {spec.name: spec for group in (*plain, *SHARED_OPTIONS) for spec in specs_of(group)}
