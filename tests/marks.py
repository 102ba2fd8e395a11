"""Markers for parts of a parametrized test: `make test` runs a few values, another target all of them."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

import pytest


def sample(values: Iterable[Any], kept: Collection[Any], mark: pytest.MarkDecorator) -> list[Any]:
    """All ``values`` as parameters; those not in ``kept`` carry ``mark``, so that only its target runs them."""
    return [value if value in kept else pytest.param(value, marks=mark) for value in values]
