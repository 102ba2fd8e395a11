"""The return value of a served function with metadata."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Generic, TypeVar

import attrs

__all__ = ["Reply"]

T = TypeVar("T")


def _texts(metadata: Mapping[str, object]) -> Mapping[str, str]:
    return {str(name): str(value) for name, value in metadata.items()}


@attrs.frozen
class Reply(Generic[T]):
    """A served function's answer with metadata, which the caller gets in ``CallResult.metadata``.

    Attributes:
        value: the answer, of the type in ``-> serve.Reply[...]``.
        metadata: names and values, sent as text.

    >>> Reply(3, metadata={"rows": 3}).metadata
    {'rows': '3'}
    """

    value: T
    metadata: Mapping[str, str] = attrs.field(factory=dict, converter=_texts, kw_only=True)
