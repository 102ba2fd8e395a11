"""How many file descriptors this process can still open, for libraries that do not report a lack of them."""

from __future__ import annotations

import errno
import os
import resource

_OPEN = "/dev/fd"
"""The folder of this process's open descriptors."""


def require_descriptors(count: int) -> None:
    """Passes if this process can open ``count`` descriptors more. Occupies one of them for a moment.

    Raises:
        OSError: it can't, or the machine has none left.
    """
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    # The listing itself needs a descriptor. It is one call of C code: an interrupt leaves nothing open.
    used = len(os.listdir(_OPEN)) if os.path.isdir(_OPEN) else 0
    if limit != resource.RLIM_INFINITY and limit - used < count:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
