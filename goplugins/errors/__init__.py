"""Every error that goplugins raises: one base class, one class and one stable code per kind of error.

The codes 1000 to 1799 that the Go library defines have the same meaning here; further kinds have codes of their own in
the same ranges. No error contains a credential: messages and attributes are built from redacted values only.
"""

from __future__ import annotations

from goplugins.errors._base import *  # noqa: F403
from goplugins.errors._calls import *  # noqa: F403
from goplugins.errors._configuration import *  # noqa: F403
from goplugins.errors._host import *  # noqa: F403
from goplugins.errors._local import *  # noqa: F403

__all__ = [  # pyright: ignore[reportUnsupportedDunderAll]
    name for name in sorted(globals()) if getattr(globals()[name], "__module__", "").startswith(__name__)
]

# Tracebacks, pickles and logs name the public module, not the private one that defines the class.
for _name in __all__:
    if isinstance(globals()[_name], type):
        globals()[_name].__module__ = __name__
