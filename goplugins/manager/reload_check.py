"""Health checks of new plugins, before calls reach them."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future, wait

from goplugins.config.groups import GroupConfig
from goplugins.enums import PluginStatus
from goplugins.errors import ReloadError
from goplugins.health.check_run import check_health
from goplugins.models.results import HealthStatus
from goplugins.pipeline.pipeline import resolved
from goplugins.pipeline.plugin import GuardedPlugin
from goplugins.runtime.workers import WorkerPool

_MOST_WORKERS = 16


def check_all(plugins: Sequence[GuardedPlugin], timeout: float) -> dict[str, HealthStatus]:
    """Checks all plugins in parallel, outside their policies; returns their health without those that are UNKNOWN.

    Groups are left out: they have no members before the reload ends, and their members are checked themselves. So are
    plugins with health checks of the kind "none".

    Args:
        plugins: not in use yet.
        timeout: seconds for all checks together, in real time: the checks run on other threads.

    Raises:
        ReloadError: a plugin can't be reached in that time, or is unhealthy; names all of them.
    """
    plugins = [plugin for plugin in plugins if type(plugin.config) is not GroupConfig and _kind(plugin) != "none"]
    if not plugins:
        return {}
    pool = WorkerPool("goplugins-reload", min(len(plugins), _MOST_WORKERS), len(plugins))
    try:
        checks = {plugin: pool.submit(_check, plugin, timeout) for plugin in plugins}
        wait(checks.values(), timeout + 0.1)  # the result of a check that ends in time may arrive a moment later
        failed = {plugin.name: why for plugin, check in checks.items() if (why := _failure(plugin, check, timeout))}
    finally:
        pool.shutdown(wait=False)  # does not wait for a check that hangs
    if failed:
        name, why = next(iter(failed.items()))
        others = f"; so do {len(failed) - 1} more: {', '.join(list(failed)[1:20])}" if len(failed) > 1 else ""
        raise ReloadError(f"{why}{others}", plugin=name, details={"plugins": failed})
    found = {plugin.name: check.result() for plugin, check in checks.items()}
    return {name: status for name, status in found.items() if status.status is not PluginStatus.UNKNOWN}


def _check(plugin: GuardedPlugin, timeout: float) -> HealthStatus:
    return check_health(plugin.wire.first_health, plugin.name, timeout)


def _kind(plugin: GuardedPlugin) -> str | None:
    return resolved(plugin.config.health_check).kind


def _failure(plugin: GuardedPlugin, check: Future[HealthStatus], timeout: float) -> str:
    """Why a plugin can't be put into use; empty if it can. With health checks switched off it need not be healthy."""
    if not check.done():
        return f"did not answer its health check within {timeout:g} s"
    found = check.result()
    if found.status is PluginStatus.OFFLINE:
        return f"can't be reached: {found.message or 'no reason given'}"
    if found.status is not PluginStatus.UNHEALTHY:
        return ""
    checked = resolved(plugin.config.health_check).enabled
    return f"is unhealthy: {found.message or 'no reason given'}" if checked else ""
