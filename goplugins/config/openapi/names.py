"""Names for operations, fields, classes and variables, made from names of a specification."""

from __future__ import annotations

import builtins
import keyword
import re
from collections.abc import Collection

_BETWEEN = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])|[^A-Za-z0-9]+")

MODULES = ("attrs", "datetime", "decimal", "goplugins", "typing", "uuid")
"""Modules that a file of types may import."""

_RESERVED = frozenset((*MODULES, *dir(builtins), "self", "annotations"))


def words_of(text: str) -> list[str]:
    """The words of a name.

    >>> words_of("getPetByID2"), words_of("repos/list-for-org"), words_of("HTTPValidationError")
    (['get', 'Pet', 'By', 'ID2'], ['repos', 'list', 'for', 'org'], ['HTTP', 'Validation', 'Error'])
    """
    return [word for word in _BETWEEN.split(text) if word]


def snake_case(text: str, default: str = "") -> str:
    """The name in snake_case, of ASCII letters, digits and underscores; ``default`` if there are none.

    >>> snake_case("getPetById"), snake_case("GET /repos/{owner}"), snake_case("2fa"), snake_case("日本", "unnamed")
    ('get_pet_by_id', 'get_repos_owner', 'n2fa', 'unnamed')
    """
    name = "_".join(words_of(text)).lower() or default
    return f"n{name}" if name[:1].isdigit() else name


def class_name(text: str, default: str = "Item") -> str:
    """The name in PascalCase.

    >>> class_name("simple-user"), class_name("io.k8s.api.Pod"), class_name("3d"), class_name("none")
    ('SimpleUser', 'IoK8sApiPod', 'N3d', 'None_')
    """
    name = "".join(word[:1].upper() + word[1:] for word in words_of(text)) or default
    name = f"N{name}" if name[:1].isdigit() else name
    return f"{name}_" if keyword.iskeyword(name) else name


def variable_name(text: str) -> str:
    """The name of an environment variable.

    >>> variable_name("my-api_2"), variable_name("1st")
    ('MY_API_2', '_1ST')
    """
    name = re.sub(r"[^A-Z0-9]+", "_", text.upper()).strip("_") or "API"
    return f"_{name}" if name[0].isdigit() else name


def field_name(text: str, taken: Collection[str] = ()) -> str:
    """A field's name: ``text`` as it is where Python admits it, and it is not in ``taken``.

    Names that would hide a type of an annotation get an underscore, as keywords do. So do names with a leading
    underscore, which attrs leaves out of the constructor.

    >>> field_name("login"), field_name("class"), field_name("list"), field_name("X-Request-ID"), field_name("_id")
    ('login', 'class_', 'list_', 'X_Request_ID', 'id_')
    >>> field_name("+1"), field_name("id", {"id"})
    ('n1', 'id_2')
    """
    name = text
    if not (text.isidentifier() and text.isascii()):
        name = re.sub(r"[^A-Za-z0-9_]+", "_", text).strip("_") or "field"
        name = f"n{name}" if name[0].isdigit() else name
    if name.startswith("_"):
        name = (name.strip("_") or "field") + "_"
        name = f"n{name}" if name[0].isdigit() else name
    if keyword.iskeyword(name) or (name in _RESERVED and name not in _HARMLESS):
        name += "_"
    return unique(name, taken)


_HARMLESS = frozenset(
    name for name in dir(builtins) if name not in {"bool", "bytes", "dict", "float", "int", "list", "str", "tuple"}
)
"""Built-in names that no annotation of a file of types uses: fields may be called ``id`` or ``type``."""


def unique(name: str, taken: Collection[str]) -> str:
    """``name``, with a number if it is taken.

    >>> unique("get", {"get", "get_2"})
    'get_3'
    """
    found, number = name, 2
    while found in taken:
        found, number = f"{name.rstrip('_')}_{number}", number + 1
    return found
