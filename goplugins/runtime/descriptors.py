"""How many file descriptors this process can still open, for libraries that do not report a lack of them."""

from __future__ import annotations

import errno
import os
import resource
import socket
from collections import deque

_OPEN = "/dev/fd"
"""The folder of this process's open descriptors."""


def require_descriptors(count: int) -> None:
    """Passes if this process can open ``count`` descriptors more. Occupies one of them for a moment.

    Raises:
        OSError: it can't, or the machine has none left.
    """
    # Opened and closed within one call of C code: an interrupt leaves no socket open.
    deque(map(socket.SocketType.close, map(socket.SocketType, (socket.AF_UNIX,))), maxlen=0)
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if limit != resource.RLIM_INFINITY and os.path.isdir(_OPEN) and limit - len(os.listdir(_OPEN)) < count:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
