"""Write a new plugin package with a working definition (`forgather plugin new`).

The template is the package of a definition named `newmodel` next to this file; its names are replaced.
"""

from __future__ import annotations

import importlib.util
import keyword
import os
import re
import shlex
from collections.abc import Iterator
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

from ..definitions.registry import Registry, registry
from ..errors import DefinitionError, DirectoryError
from ..filesystem.atomic import new_directory
from ..filesystem.paths import expanded

_TEMPLATE, _NAME, _CLASS, _DISTRIBUTION = "forgather-newmodel", "newmodel", "NewModel", "new-model"
_RENAMED = {"gitignore": ".gitignore"}  # under its real name, git would apply it to the template
_LONGEST_NAME = 32
_ABOUT = {  # in reading order
    "README.md": "description of the model",
    "pyproject.toml": "package metadata, and the entry point through which Forgather finds the plugin",
    "forgather_newmodel/__init__.py": "",
    "forgather_newmodel/plugin.py": "the definition: name, options, classes, presets",
    "forgather_newmodel/options.py": "the options: flags, YAML keys and configuration fields",
    "forgather_newmodel/configuration_newmodel.py": "the configuration class",
    "forgather_newmodel/modeling_newmodel.py": "the model, assembled from parts, and its weight initialization",
    "forgather_newmodel/scaled_block.py": "a custom part: a residual block",
    "forgather_newmodel/reference.py": "reference implementation of the model, for `verify`",
    "forgather_newmodel/presets/4M.yaml": "a preset: option values and parameter count",
    "tests/test_newmodel.py": "every check of `verify` as a test, and the parameter counts of the presets",
    "gitignore": "",
}


def new_plugin(name: str, directory: str | Path | None = None, *, plugins: Registry | None = None) -> dict[str, Any]:
    """Write a package with one definition, its tests and a preset.

    Args:
        name: Name of the definition, for `-t`.
        directory: Directory to create; None is `forgather-NAME` in the working directory.
        plugins: Registry whose names are taken; None uses the registry of this process.

    Returns:
        The report as plain data: name, distribution, module, directory, files (path, about), next (commands).

    Raises:
        DefinitionError: The name is invalid or taken.
        DirectoryError: The directory exists or cannot be written.
    """
    _check_name(name, plugins or registry())
    new = {_NAME: name, _CLASS: _camel_case(name), _DISTRIBUTION: name.replace("_", "-")}
    distribution = f"forgather-{new[_DISTRIBUTION]}"
    target = expanded(directory) if directory is not None else Path(distribution)
    template = files(__name__) / _TEMPLATE
    texts = {_replaced(path, new): _replaced(_read(template, path), new) for path in _ABOUT}
    _refuse_existing(target)
    with new_directory(target, lambda: _refuse_existing(target)) as staging:
        for path, text in texts.items():
            file = staging / _RENAMED.get(path, path)
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text, encoding="utf-8")
    quoted = shlex.quote(str(target) if target.is_absolute() else f".{os.sep}{target}")
    return {
        "name": name,
        "distribution": distribution,
        "module": f"forgather_{name}",
        "directory": str(target),
        "files": [
            {"path": _RENAMED.get(path, _replaced(path, new)), "about": about or None} for path, about in _ABOUT.items()
        ],
        "next": [
            f"pip install -e {quoted}",
            f"forgather -t {name} model construct",
            f"forgather -t {name} model --device cpu test",
            f"forgather -t {name} model verify",
            f"pip install pytest && pytest {quoted}",
        ],
    }


def _read(template: Traversable, path: str) -> str:
    return template.joinpath(*path.split("/")).read_text(encoding="utf-8")


def _replaced(text: str, new: dict[str, str]) -> str:
    return re.sub("|".join(new), lambda found: new[found[0]], text)


def _camel_case(name: str) -> str:
    return "".join(word.capitalize() for word in name.split("_"))


def _check_name(name: str, plugins: Registry) -> None:
    for problem, hint in _problems(name, plugins):
        summary = f"'{name}' cannot be the name of a new definition"
        text = summary if problem is None else f"{summary}: {problem}"
        raise DefinitionError(text, option="NAME", hint=hint)


def _problems(name: str, plugins: Registry) -> Iterator[tuple[str | None, str]]:
    """Yield (problem, hint) for each rule that a name violates; the problem is None if the hint implies it.

    Each rule assumes that the previous ones hold.
    """
    another = "choose another name"
    if not re.fullmatch(r"[a-z][a-z0-9]*(_[a-z0-9]+)*", name):
        yield None, "use lower-case letters, digits and '_' between words, starting with a letter, such as my_model"
    if len(name) > _LONGEST_NAME:
        yield (
            f"it has {len(name)} characters",
            f"use at most {_LONGEST_NAME}, since it becomes part of file names",
        )
    if keyword.iskeyword(name):
        yield "it is a Python keyword", another
    if name in plugins.plugins:
        yield f"the plugin '{name}' of {plugins.plugins[name].distribution} uses it", another
    for plugin in plugins.load_all():
        if name in plugin.definitions:
            yield f"the plugin '{plugin.name}' of {plugin.distribution} uses it", another
    module = f"forgather_{name}"
    if importlib.util.find_spec(module) is not None:
        yield f"the package '{module}' already exists", another
    taken = {word for path in _ABOUT for word in re.findall(r"\w+", _read(files(__name__) / _TEMPLATE, path))}
    for kind in ("Options", "Config", "Model", "ForCausalLM"):
        if (class_name := _camel_case(name) + kind) in taken:
            yield f"its class '{class_name}' would have the name of a class of Forgather", another


def _refuse_existing(target: Path) -> None:
    if os.path.lexists(target):
        raise DirectoryError("already exists", file=target, hint="choose another --output-dir, or remove it")
