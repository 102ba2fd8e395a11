"""YAML text to plain values. Imported only when a YAML file is read: PyYAML is an extra."""

from __future__ import annotations

from typing import Any

import yaml

from goplugins.errors import ConfigSyntaxError

__all__ = ["parse_yaml"]


class _Loader(yaml.SafeLoader):
    """Safe values only, keys as they are written, and no key twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode) or key.tag == "tag:yaml.org,2002:merge":
                continue
            # YAML 1.1 takes a key such as `on` for true; here every key is a name.
            key.tag = "tag:yaml.org,2002:str"
            if key.value in seen:
                mark = key.start_mark
                raise yaml.constructor.ConstructorError(None, None, f"the key {key.value!r} is there twice", mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep=deep)


def parse_yaml(text: str, source: str) -> Any:
    """The value of a YAML text.

    The errors have no cause: it would show lines of the text, secrets included, in a traceback.

    Raises:
        ConfigSyntaxError: not YAML, not safe, more than one document, or a key twice; with line and column.
    """
    try:
        return yaml.load(text, _Loader)  # noqa: S506 - a SafeLoader
    except yaml.MarkedYAMLError as exc:
        mark = exc.problem_mark or exc.context_mark
        place = f"line {mark.line + 1}, column {mark.column + 1}: " if mark is not None else ""
        message = f"{place}{exc.problem or exc.context or 'not YAML'}"
        raise ConfigSyntaxError(message, path=source, fix="correct the YAML there") from None
    except yaml.YAMLError:
        raise ConfigSyntaxError("not YAML", path=source, fix="take out characters that YAML can't hold") from None
    except (ValueError, RecursionError):  # a date that is none, nesting without end
        raise ConfigSyntaxError(
            "not YAML that can be read", path=source, fix="put dates in quotes, nest less"
        ) from None
