"""YAML text to plain values. Imported only when a YAML file is read, since PyYAML is an optional dependency."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import yaml
from yaml.composer import ComposerError
from yaml.constructor import ConstructorError

from goplugins.config.problems import Path
from goplugins.errors import ConfigSyntaxError
from goplugins.json_text import shown_key

_MAX_ALIASED = 1_000_000
_OCTAL = re.compile(r"[-+]?0[0-7_]+")


class Strict:
    """What a loader refuses beside unsafe values: duplicate keys, and too many or circular aliases.

    Keys are strings, as they are written. To be put before a SafeLoader in the bases of a class.
    """

    def get_single_node(self) -> yaml.Node | None:
        node: yaml.Node | None = super().get_single_node()  # type: ignore[misc]
        if node is not None:
            sizes: dict[int, int] = {}
            # An anchored value counts once where it is written, and once more for each alias.
            if _measure(node, sizes) - len(sizes) > _MAX_ALIASED:
                message = f"the aliases expand to more than {_MAX_ALIASED:,} values"
                raise ComposerError(None, None, message, node.start_mark)
        return node

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode) or key.tag == "tag:yaml.org,2002:merge":
                continue
            # YAML 1.1 reads a key such as `on` as true; here every key is a string.
            key.tag = "tag:yaml.org,2002:str"
            if key.value in seen:
                mark = key.start_mark
                message = f"the key {shown_key(key.value)!r} occurs more than once"
                raise ConstructorError(None, None, message, mark, ": no key can be there twice")
            seen.add(key.value)
        found: dict[Any, Any] = super().construct_mapping(node, deep=deep)  # type: ignore[misc]
        return found


class _Loader(Strict, yaml.SafeLoader):
    """Only safe values, keys as they are written, no duplicate keys, and no alias of a value within itself.

    Numbers that only YAML 1.1 reads in its way are refused: 030 is 24 there, and 1:30 is 90.
    """

    def construct_number(self, node: yaml.ScalarNode) -> int | float:
        text = str(node.value)
        if _OCTAL.fullmatch(text) or ":" in text:
            kind = "an octal number" if ":" not in text else "a number to the base of 60"
            fix = "write it without the zero" if ":" not in text else 'write it with a unit, such as "1m30s"'
            message = f"YAML 1.1 reads this as {kind}"
            raise ConstructorError(
                None, None, message, node.start_mark, f": {fix}, or put it in quotes if it is a text"
            )
        whole = node.tag == "tag:yaml.org,2002:int"
        number: int | float = self.construct_yaml_int(node) if whole else self.construct_yaml_float(node)
        return number


for _tag in ("int", "float"):
    _Loader.add_constructor(f"tag:yaml.org,2002:{_tag}", _Loader.construct_number)


def _measure(node: yaml.Node, sizes: dict[int, int]) -> int:
    """The number of values in ``node``, with all aliases expanded; ``sizes`` caches it by the node's identity."""
    size = sizes.get(id(node))
    if size is None:
        sizes[id(node)] = 0  # marks a node that is being counted
        parts: list[yaml.Node] = []
        if isinstance(node, yaml.MappingNode):
            parts = [part for pair in node.value for part in pair]
        elif isinstance(node, yaml.SequenceNode):
            parts = node.value
        size = sizes[id(node)] = 1 + sum(_measure(part, sizes) for part in parts)
    elif size == 0:
        raise ComposerError(None, None, "an anchor contains an alias of itself", node.start_mark)
    return size


def parse_yaml(text: str, source: str, loader: type[Any] = _Loader) -> Any:
    """The value of a YAML text, by a safe ``loader``.

    The errors have no cause, since it would show lines of the text, secrets included, in a traceback.

    Raises:
        ConfigSyntaxError: the text is not YAML, or contains an unsafe tag, a second document, a duplicate key, or an
            alias within its own anchor; with line and column.
    """
    try:
        return yaml.load(text, loader)  # noqa: S506 - a SafeLoader
    except yaml.MarkedYAMLError as exc:
        mark = exc.problem_mark or exc.context_mark
        place = f"line {mark.line + 1}, column {mark.column + 1}: " if mark is not None else ""
        message = f"{place}{exc.problem or exc.context or 'not YAML'}"
        raise ConfigSyntaxError(message, path=source, fix=f"correct the YAML there{exc.note or ''}") from None
    except yaml.YAMLError:
        raise ConfigSyntaxError("not YAML", path=source, fix="remove control characters") from None
    except (ValueError, RecursionError):  # an invalid date; too deep nesting
        raise ConfigSyntaxError(
            "has an invalid date, or is nested too deeply", path=source, fix="put dates in quotes, nest less"
        ) from None


def yaml_lines(text: str) -> Iterator[tuple[Path, int]]:
    """Every path of a YAML text with its line, from 1; nothing for a text that :func:`parse_yaml` does not accept."""
    try:
        node = yaml.compose(text, _Loader)
    except (yaml.YAMLError, ValueError):
        return iter(())
    return iter(()) if node is None else _node_lines(node, ())


def _node_lines(node: yaml.Node, path: Path) -> Iterator[tuple[Path, int]]:
    if isinstance(node, yaml.MappingNode):
        merged = [part for part in node.value if part[0].tag == "tag:yaml.org,2002:merge"]
        for _, value in merged:  # first, so that the table's own keys override them
            for each in reversed(value.value) if isinstance(value, yaml.SequenceNode) else [value]:
                yield from _node_lines(each, path)
        for key, value in node.value:
            if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge":
                yield (*path, key.value), key.start_mark.line + 1
                yield from _node_lines(value, (*path, key.value))
    elif isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            yield (*path, index), item.start_mark.line + 1
            yield from _node_lines(item, (*path, index))
