"""YAML as Forgather reads it: safe, numbers as in YAML 1.2, duplicate keys refused, every value's place kept."""

from __future__ import annotations

import re
from functools import cache
from typing import Any, NamedTuple

import yaml


class YamlError(ValueError):
    """The text is no valid YAML: `problem` at `line` and `column`, both counted from 1."""

    def __init__(self, problem: str, line: int = 1, column: int = 1) -> None:
        super().__init__(f"{line}:{column}: {problem}")
        self.problem, self.line, self.column = problem, line, column


class YamlText(NamedTuple):
    """A parsed document: its value, and where each part of it stands."""

    value: Any
    node: yaml.Node | None

    def place(self, *path: str) -> tuple[int, int]:
        """Line and column, from 1, of the key that `path` leads to, or of the deepest part of it there is."""
        node, mark = self.node, self.node.start_mark if self.node is not None else None
        for part in path:
            if not isinstance(node, yaml.MappingNode):
                break
            hit = next(((key, value) for key, value in node.value if key.value == part), None)
            if hit is None:
                break
            mark, node = hit[0].start_mark, hit[1]
        return (mark.line + 1, mark.column + 1) if mark is not None else (1, 1)


# PyYAML follows YAML 1.1, where 5e5 and 1e-6 are text. Its bools (yes, on) stay: options convert those words anyway.
_FLOAT = re.compile(
    r"^[-+]?(?:\d[\d_]*\.[\d_]*(?:[eE][-+]?\d+)?|\.\d[\d_]*(?:[eE][-+]?\d+)?|\d[\d_]*[eE][-+]?\d+"
    r"|\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$"
)
_FLOAT_TAG = "tag:yaml.org,2002:float"


@cache
def _loader() -> type[yaml.SafeLoader]:
    class Loader(yaml.SafeLoader):
        pass

    Loader.yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in rules if tag != _FLOAT_TAG]
        for first, rules in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }
    Loader.add_implicit_resolver(_FLOAT_TAG, _FLOAT, list("-+0123456789."))
    return Loader


def parse_yaml(text: str) -> YamlText:
    """Parse one document.

    Raises:
        YamlError: A syntax error, an unsafe tag, a duplicate key, or a key that is not text.
    """
    loader = None
    try:
        loader = _loader()(text)
        node = loader.get_single_node()
        if node is None:
            return YamlText(None, None)
        _refuse_duplicates(node, frozenset())
        return YamlText(loader.construct_document(node), node)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line, column = (mark.line + 1, mark.column + 1) if mark else (1, 1)
        raise YamlError(error.problem or str(error).splitlines()[0], line, column) from None
    except (yaml.YAMLError, ValueError) as error:
        if isinstance(error, YamlError):
            raise
        raise YamlError(str(error).splitlines()[0]) from None
    finally:
        if loader is not None:
            loader.dispose()


def _refuse_duplicates(node: yaml.Node, above: frozenset[int]) -> None:
    if id(node) in above:
        raise YamlError("an alias that contains itself", node.start_mark.line + 1, node.start_mark.column + 1)
    if isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key, value in node.value:
            mark = key.start_mark
            if not isinstance(key, yaml.ScalarNode):
                raise YamlError("a key must be plain text", mark.line + 1, mark.column + 1)
            if key.value in seen and key.value != "<<":
                raise YamlError(f"duplicate key '{key.value}'", mark.line + 1, mark.column + 1)
            seen.add(key.value)
            _refuse_duplicates(value, above | {id(node)})
    elif isinstance(node, yaml.SequenceNode):
        for item in node.value:
            _refuse_duplicates(item, above | {id(node)})
