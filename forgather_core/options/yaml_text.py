"""Safe YAML parsing with line numbers, YAML 1.2 numbers, and no duplicate keys."""

from __future__ import annotations

import re
from functools import cache
from typing import Any, NamedTuple

import yaml

from ..errors import ConfigurationError, Place

_MAX_CHARACTERS = 500_000  # characters; PyYAML reads about 100,000 in a second
_MAX_DEPTH = 50  # nested mappings and sequences
_MAX_NODES = 100_000  # including those that aliases repeat
_START: Place = {"line": 1, "column": 1}
_MAX_NUMBER_CHARACTERS = 4_000  # characters; Python does not parse integers with more digits


class YamlError(ConfigurationError):
    """The text is not valid YAML. The caller adds the file (`error.at(...)`)."""


class YamlText(NamedTuple):
    """A parsed document: its value, and the node tree with the position of each part."""

    value: Any
    node: yaml.Node | None

    def place(self, *path: str) -> tuple[int, int]:
        """Return the 1-based line and column of the key at `path`, or of the deepest existing part of the path."""
        node, mark = self.node, self.node.start_mark if self.node is not None else None
        for part in path:
            if not isinstance(node, yaml.MappingNode):
                break
            entry = next(((key, value) for key, value in node.value if key.value == part), None)
            if entry is None:
                break
            mark, node = entry[0].start_mark, entry[1]
        return (mark.line + 1, mark.column + 1) if mark is not None else (1, 1)

    def written(self, *path: str | int) -> str | None:
        """Return the source text of the scalar at `path`.

        Text options use it, so that `1.10`, `007` and `no` are not read as 1.1, 7 and false.

        Args:
            path: Keys of mappings and indices of sequences.

        Returns:
            The text, or None for a null, a mapping, a sequence, or a path that does not exist.
        """
        node = self.node
        for part in path:
            if isinstance(node, yaml.MappingNode):
                node = next((value for key, value in node.value if key.value == part), None)
            elif isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
                node = node.value[part]
            else:
                return None
        return node.value if isinstance(node, yaml.ScalarNode) and node.tag != _NULL_TAG else None


# PyYAML implements YAML 1.1, where 5e5 and 1e-6 are text, 0100 is octal, 1:30 is 90 and 2026-01-01 is a date. Its bools
# (yes, on) are kept: options convert these words anyway. Digits may be grouped as in Python, 1_000.
_FLOAT = re.compile(
    r"^[-+]?(?:\d[\d_]*\.[\d_]*(?:[eE][-+]?\d+)?|\.\d[\d_]*(?:[eE][-+]?\d+)?|\d[\d_]*[eE][-+]?\d+"
    r"|\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$"
)
_INT = re.compile(r"^(?:[-+]?[0-9]+(?:_[0-9]+)*|0o[0-7]+|0x[0-9a-fA-F]+)$")
_FLOAT_TAG, _INT_TAG = "tag:yaml.org,2002:float", "tag:yaml.org,2002:int"
_NULL_TAG, _TEXT_TAG, _MERGE_TAG = "tag:yaml.org,2002:null", "tag:yaml.org,2002:str", "tag:yaml.org,2002:merge"
_NUMBERS = (_FLOAT_TAG, _INT_TAG)
_UNUSED = frozenset(f"tag:yaml.org,2002:{kind}" for kind in ("timestamp", "value", "binary", "set", "omap", "pairs"))
_SURROGATE = re.compile("[\ud800-\udfff]")


@cache
def _loader() -> type[yaml.SafeLoader]:
    class Loader(yaml.SafeLoader):
        def construct_int(self, node: yaml.ScalarNode) -> int:
            if not _INT.match(node.value):
                raise yaml.constructor.ConstructorError(
                    None, None, f"expected an integer, got '{node.value[:40]}'", node.start_mark
                )
            base = {"0o": 8, "0x": 16}.get(node.value[:2], 10)
            return int(node.value, base)

    Loader.yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in rules if tag not in _UNUSED and tag not in _NUMBERS]
        for first, rules in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }
    Loader.add_implicit_resolver(_FLOAT_TAG, _FLOAT, list("-+0123456789."))
    Loader.add_implicit_resolver(_INT_TAG, _INT, list("-+0123456789"))
    Loader.yaml_constructors = {t: make for t, make in yaml.SafeLoader.yaml_constructors.items() if t not in _UNUSED}
    Loader.add_constructor(_INT_TAG, Loader.construct_int)
    return Loader


def parse_yaml(text: str) -> YamlText:
    """Parse a single document.

    Raises:
        YamlError: A syntax error, an unsafe tag, a duplicate key, a key that is not text, an unpaired surrogate, or
            a document larger than the limits.
    """
    if len(text) > _MAX_CHARACTERS:
        raise YamlError(
            f"a text of {len(text):,} characters is too long: the maximum is {_MAX_CHARACTERS:,}",
            **_START,
            hint="shorten it",
        )
    loader = None
    try:
        loader = _loader()(text)
        node = loader.get_single_node()
        if node is None:
            return YamlText(None, None)
        _check(node, _MAX_NODES, frozenset())
        return YamlText(loader.construct_document(node), node)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line, column = (mark.line + 1, mark.column + 1) if mark else (1, 1)
        problem = error.problem or str(error).splitlines()[0]
        raise YamlError(problem, line=line, column=column, hint="correct the YAML") from None
    except RecursionError:
        raise YamlError("lists and mappings are nested too deeply", **_START, hint="flatten them") from None
    except (yaml.YAMLError, ValueError) as error:
        raise YamlError(str(error).splitlines()[0], **_START, hint="correct the YAML") from None
    finally:
        if loader is not None:
            loader.dispose()


def _check(node: yaml.Node, remaining: int, ancestors: frozenset[int]) -> int:
    """Refuse duplicate keys, keys that are not text, and too many or too deeply nested nodes.

    Args:
        node: The node to check, including its descendants.
        remaining: Maximum number of nodes.
        ancestors: The nodes that contain it.

    Returns:
        The remaining number of nodes.
    """
    start = _place(node)
    if id(node) in ancestors:
        raise YamlError("the alias refers to itself", **start, hint="remove it")
    if len(ancestors) > _MAX_DEPTH:
        raise YamlError("lists and mappings are nested too deeply", **start, hint="flatten them")
    remaining -= 1
    if remaining < 0:
        raise YamlError(f"too many values: the maximum is {_MAX_NODES:,}", **start, hint="remove some")
    if isinstance(node, yaml.ScalarNode) and _SURROGATE.search(node.value):
        raise YamlError("an unpaired surrogate is not valid in file names or text", **start, hint="remove it")
    if isinstance(node, yaml.ScalarNode) and node.tag in _NUMBERS and len(node.value) > _MAX_NUMBER_CHARACTERS:
        raise YamlError(f"a number of {len(node.value):,} characters is too long", **start, hint="shorten it")
    if isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise YamlError("a key must be plain text", **_place(key), hint="replace the list or mapping by a name")
            if key.tag != _MERGE_TAG:
                _check(key, remaining, ancestors)
                key.tag = _TEXT_TAG  # an option named `on`, a device named 4090
            if key.value in seen and key.tag != _MERGE_TAG:
                raise YamlError(f"duplicate key '{key.value}'", **_place(key), hint="remove one")
            seen.add(key.value)
            remaining = _check(value, remaining, ancestors | {id(node)})
    elif isinstance(node, yaml.SequenceNode):
        for item in node.value:
            remaining = _check(item, remaining, ancestors | {id(node)})
    return remaining


def _place(node: yaml.Node) -> Place:
    """Return line and column of a node."""
    return {"line": node.start_mark.line + 1, "column": node.start_mark.column + 1}
