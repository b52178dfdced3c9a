"""Dataset projects: where `test` and the commands on datasets take their text from.

A project is a built-in name (`stdlib`), or a directory with one or more configurations, `NAME.yaml` or
`configs/NAME.yaml`.
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
from .sources import configured_corpus

DEFAULT = "default"


def open_corpus(project: str, config: str | None = None) -> Corpus:
    """The documents of a dataset project.

    Args:
        project: A built-in name, or a directory.
        config: One of its configurations; None takes `default`, or the only one.

    Raises:
        DataError: There is no such project or configuration, or its configuration is wrong. Reading the documents
            raises it too, where columns are missing or files are broken.
    """
    if is_built_in(project):
        chosen = _choose(BUILT_IN[project], config, project)
        return Corpus(f"{project}/{chosen}", BUILT_IN[project][chosen].texts)
    files = configuration_files(project)
    chosen = _choose(files, config, project)
    return configured_corpus(f"{expanded(project).resolve().name}/{chosen}", read_configuration(files[chosen]))


def is_built_in(project: str) -> bool:
    """Whether a name means a built-in project: a directory of that name comes first."""
    return project in BUILT_IN and not Path(project).is_dir()


def configuration_files(project: str) -> dict[str, Path]:
    """The configurations of a directory, by name.

    Raises:
        DataError: There is no such directory, or none in it.
    """
    directory = expanded(project)
    if directory.is_file():
        raise DataError(f"dataset project: {directory} is a file: name its directory, and '{directory.stem}' as config")
    if not directory.is_dir():
        known = f"({', '.join(BUILT_IN)}){did_you_mean(project, BUILT_IN)}"
        raise DataError(f"dataset project: '{project}' is no directory and no built-in project {known}")
    folders = (directory, directory / "configs")
    found = [path for folder in folders for pattern in ("*.yaml", "*.yml") for path in folder.glob(pattern)]
    if not found:
        raise DataError(f"dataset project: {directory} holds no YAML configuration, for example default.yaml")
    return {path.stem: path for path in sorted(found, key=lambda path: path.stem)}


def _choose(known: Iterable[str], config: str | None, project: str) -> str:
    names = list(known)
    if config is None:
        if DEFAULT in names or len(names) == 1:
            return DEFAULT if DEFAULT in names else names[0]
        raise DataError(f"dataset config: {project} has several configurations; name one of {', '.join(names)}")
    if config not in names:
        hint = did_you_mean(config, names)
        raise DataError(f"dataset config: {project} has no configuration '{config}'{hint} (it has {', '.join(names)})")
    return config
