"""The doctor's look at a running process: once, with the first call in it."""

from __future__ import annotations

import logging
import os
from collections.abc import Collection

from goplugins.config import PluginConfig
from goplugins.doctor.checks import examine
from goplugins.doctor.host import host_here

__all__ = ["bounded_here", "warn_once"]

logger = logging.getLogger("goplugins.doctor")

# Process -> what was said in it. A child has a look of its own: much is decided only after the fork.
_said: dict[int, set[str]] = {}
_bounded = False


def bounded_here() -> None:
    """Something ends this process's calls before the host's limit: nothing has to be said about their timeouts."""
    global _bounded  # noqa: PLW0603 - a fact of the process, as are those that host_here() finds
    _bounded = True


def warn_once(plugins: Collection[PluginConfig]) -> None:
    """Logs what is found here, each thing once a process. Never raises.

    Args:
        plugins: of one manager, resolved.
    """
    pid = os.getpid()
    if pid not in _said:
        _said.clear()
    said = _said.setdefault(pid, set())
    try:
        for finding in examine(plugins, host_here(), bounded=_bounded):
            if finding.kind not in said:
                said.add(finding.kind)
                logger.warning("%s", finding)
    except Exception:
        # It looks into what belongs to others. A call must not fail for that.
        logger.exception("could not look at what this process runs in")
