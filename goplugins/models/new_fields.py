"""Values that were pickled by an earlier release, when their classes had fewer fields."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import attrs

T = TypeVar("T")


def with_new_fields(cls: type[T]) -> type[T]:
    """Decorates an attrs class that has got fields since its first release: old pickles have their defaults.

    The fields are set when a value is unpickled: a ``__getattr__`` would make every access to any field slow.
    """
    fields: tuple[attrs.Attribute[Any], ...] = attrs.fields(cls)  # type: ignore[arg-type]
    made_by_attrs: Callable[[Any, Any], None] = cls.__setstate__  # type: ignore[attr-defined]

    def restore(self: Any, state: Any) -> None:
        made_by_attrs(self, state)
        for field in fields:
            if not hasattr(self, field.name):
                default: Any = field.default
                object.__setattr__(self, field.name, default.factory() if hasattr(default, "factory") else default)

    cls.__setstate__ = restore  # type: ignore[attr-defined]
    return cls
