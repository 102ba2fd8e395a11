"""Values that were pickled by an earlier release, when their classes had fewer fields."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import attrs


class NewFields:
    """Base of attrs classes that have got fields since their first release."""

    __slots__ = ()

    if not TYPE_CHECKING:  # type checkers would accept any name

        def __getattr__(self, name: str) -> Any:
            """The default of a field that an earlier release, which pickled this value, did not have."""
            for field in attrs.fields(type(self)):
                if field.name == name:
                    default = field.default
                    return default.factory() if hasattr(default, "factory") else default
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
