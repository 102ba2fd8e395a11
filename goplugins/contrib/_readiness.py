"""Whether an application should get requests, as far as that hangs on its plugins."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection
from typing import Any

from goplugins.contrib.health import culprits
from goplugins.errors import ConfigError
from goplugins.manager.manager import Manager

__all__ = ["readiness"]

logger = logging.getLogger("goplugins.health")


def readiness(
    find: Callable[[], Manager[Any, Any]], required: Callable[[], Collection[str] | None]
) -> tuple[int, dict[str, Any]]:
    """The HTTP status and the JSON that say it.

    Args:
        find: the application's manager, made now if it is not there yet.
        required: the plugins that count; all when None.
    """
    try:
        found = culprits(find(), required())
    except ConfigError as error:
        logger.error("not ready: %s", error)  # noqa: TRY400 - a traceback would hide the problems
        found = {"configuration": "can't be used"}  # what is wrong with it is for the log, not for whoever asks
    if not found:
        return 200, {"status": "ready"}
    return 503, {"status": "not ready", "culprits": found}
