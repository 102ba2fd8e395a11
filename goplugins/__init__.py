"""A typed, blocking plugin client: calls by name over HTTP(S), gRPC, Unix sockets, subprocesses or in this process.

>>> import goplugins
>>> manager = goplugins.Manager()

Importing this package starts nothing, opens nothing and loads almost nothing: each public name is imported from its
module when it is first used. ``goplugins/_exports.py`` lists them all.
"""

from __future__ import annotations

import importlib
import logging
import sys
from importlib.machinery import ModuleSpec
from typing import Any

from goplugins._exports import MODULE_OF, PUBLIC_NAMES
from goplugins._version import __version__ as __version__

__all__ = list(PUBLIC_NAMES)

logging.getLogger("goplugins").addHandler(logging.NullHandler())


def __getattr__(name: str) -> Any:
    if name in MODULE_OF:
        value = getattr(importlib.import_module(MODULE_OF[name]), name)
    elif name == "serve":
        value = importlib.import_module("goplugins.serve")
    else:
        raise AttributeError(f"module 'goplugins' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


class _MovedModules:
    """On ``sys.meta_path``, behind all others: finds former modules of this package for pickles that name them."""

    @staticmethod
    def find_spec(name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        if not name.startswith("goplugins."):
            return None
        from goplugins._moved_modules import spec_of

        return spec_of(name)


if all(getattr(finder, "__qualname__", "") != _MovedModules.__qualname__ for finder in sys.meta_path):
    sys.meta_path.append(_MovedModules)
