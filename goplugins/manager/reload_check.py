"""Whether new plugins are there, before anybody is sent to them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from concurrent.futures import Future, wait

from goplugins.config.groups import GroupConfig
from goplugins.enums import PluginStatus
from goplugins.errors import ReloadError
from goplugins.health.check_run import ask
from goplugins.models.results import HealthStatus
from goplugins.pipeline.plugin import GuardedPlugin
from goplugins.pipeline.policies import resolved
from goplugins.runtime.workers import WorkerPool

__all__ = ["check_all", "refusal_of"]

_MOST_WORKERS = 16

_HAS_NO_HEALTH = re.compile(
    r"HTTP (404|405|501)\b|\b(unknown|unsupported|unrecogni[sz]ed|invalid) (message|request|type|method)", re.IGNORECASE
)
"""What a plugin answers that is there and knows of no question after its health."""


def check_all(plugins: Sequence[GuardedPlugin], timeout: float) -> dict[str, HealthStatus]:
    """Looks at all of them side by side, on their wires, and returns what was found; UNKNOWN is left out.

    Groups of plugins are not looked at: their members are, and a group can only be asked once these are at work.

    Args:
        plugins: not in use yet.
        timeout: seconds for all looks together. Real ones: what other threads do takes real time.

    Raises:
        ReloadError: one can't be reached in that time, or says that it is not well; names all of them.
    """
    plugins = [plugin for plugin in plugins if type(plugin.config) is not GroupConfig]
    if not plugins:
        return {}
    pool = WorkerPool("goplugins-reload", min(len(plugins), _MOST_WORKERS), len(plugins))
    try:
        looks = {plugin: pool.submit(ask, plugin.wire, plugin.name, timeout) for plugin in plugins}
        wait(looks.values(), timeout + 0.1)  # a look that ends in time may be told a moment later
        refused = {plugin.name: why for plugin, look in looks.items() if (why := _why_not(plugin, look, timeout))}
    finally:
        pool.shutdown(wait=False)  # a look that hangs is left behind
    if refused:
        name, why = next(iter(refused.items()))
        others = f"; so do {len(refused) - 1} more: {', '.join(list(refused)[1:20])}" if len(refused) > 1 else ""
        raise ReloadError(f"{why}{others}", plugin=name, details={"plugins": refused})
    found = {plugin.name: look.result() for plugin, look in looks.items()}
    return {name: status for name, status in found.items() if status is not None}


def _why_not(plugin: GuardedPlugin, look: Future[HealthStatus | None], timeout: float) -> str:
    if not look.done():
        return f"did not answer within {timeout:g} s"
    return refusal_of(look.result(), lenient=not resolved(plugin.config.health_check).enabled)


def refusal_of(found: HealthStatus | None, *, lenient: bool = False) -> str:
    """Why a plugin that was found so may not be put to work; empty if it may.

    Args:
        found: None for no verdict.
        lenient: whether it may be unwell: its health is not to be looked at.
    """
    if found is None:
        return ""
    if found.status is PluginStatus.OFFLINE:
        return f"can't be reached: {found.message or 'no reason given'}"
    if found.status is PluginStatus.UNHEALTHY and not lenient and not _HAS_NO_HEALTH.search(found.message):
        return f"is not well: {found.message or 'no reason given'}"
    return ""
