"""Dataset projects, the source of text for `model train`, `model test`, `eval`, `dataset` and `tokenizer train`.

A project is built-in (`stdlib`), a directory with one or more configurations (`NAME.yaml` or `configs/NAME.yaml`), or
data without a configuration: a file or a directory of text, JSON, Parquet or Arrow (see `files`).
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from ..errors import DataError
from ..filesystem.paths import expanded
from ..options.spec import did_you_mean
from .built_in import BUILT_IN
from .configuration import read_configuration
from .corpus import Corpus
from .files import KINDS, data_files, files_corpus
from .sources import configured_corpus

DEFAULT = "default"
PROJECT, _CONFIG = "--dataset-project", "--dataset-config"


def open_corpus(project: str, config: str | None = None) -> Corpus:
    """Return the documents of a dataset project.

    Args:
        project: Name of a built-in project, a directory, or a data file.
        config: Configuration of the project; None uses `default`, or the only one.

    Raises:
        DataError: The project or configuration does not exist or is invalid. Reading the documents also raises it if
            columns are missing or files are broken.
    """
    if is_built_in(project):
        chosen = _choose(BUILT_IN[project], config, project)
        return Corpus(f"{project}/{chosen}", BUILT_IN[project][chosen].texts)
    if data_only(project) is not None:
        if config is not None:
            hint = "remove it, or write a YAML configuration"
            raise DataError(f"'{project}' has no configurations, only data", option=_CONFIG, hint=hint)
        return files_corpus(expanded(project), PROJECT)
    files = configuration_files(project)
    chosen = _choose(files, config, project)
    return configured_corpus(f"{expanded(project).resolve().name}/{chosen}", read_configuration(files[chosen]))


def data_only(project: str) -> int | None:
    """Return the number of data files of a file or a directory without configurations; None if it has none."""
    path = expanded(project)
    return None if configurations(path) else len(data_files(path)) or None


def is_built_in(project: str) -> bool:
    """Return whether a name refers to a built-in project. A directory of the same name takes precedence."""
    return project in BUILT_IN and not Path(project).is_dir()


def configuration_files(project: str) -> dict[str, Path]:
    """Return the configuration files of a directory by name.

    Raises:
        DataError: The directory does not exist or contains no configuration.
    """
    directory = expanded(project)
    if directory.is_file() and directory.suffix in {".yaml", ".yml"}:
        hint = f"use its directory, with the configuration '{directory.stem}'"
        raise DataError("is a file", option=PROJECT, file=directory, hint=hint)
    if directory.is_file():
        hint = f"use a {KINDS} file"
        raise DataError("is a file of an unknown kind", option=PROJECT, file=directory, hint=hint)
    if not directory.is_dir():
        problem = f"'{project}' is neither a file, a directory nor a built-in project ({', '.join(BUILT_IN)})"
        raise DataError(problem, option=PROJECT, hint=did_you_mean(project, BUILT_IN) or "check the path")
    found = configurations(directory)
    if not found:
        problem = f"contains neither a YAML configuration nor data ({KINDS})"
        raise DataError(problem, option=PROJECT, file=directory, hint="check the path")
    return found


def configurations(directory: Path) -> dict[str, Path]:
    """Return the YAML files of a dataset project by name; none if it is not a directory."""
    folders = (directory, directory / "configs")
    found = [path for folder in folders for pattern in ("*.yaml", "*.yml") for path in folder.glob(pattern)]
    return {path.stem: path for path in sorted(found, key=lambda path: path.stem)}


def _choose(known: Iterable[str], config: str | None, project: str) -> str:
    names = list(known)
    if config is None:
        if DEFAULT in names or len(names) == 1:
            return DEFAULT if DEFAULT in names else names[0]
        hint = f"choose one of {', '.join(names)}"
        raise DataError(f"'{project}' has several configurations", option=_CONFIG, hint=hint)
    if config not in names:
        problem = f"'{project}' has no configuration '{config}'"
        raise DataError(
            problem, option=_CONFIG, hint=did_you_mean(config, names) or f"choose one of {', '.join(names)}"
        )
    return config
