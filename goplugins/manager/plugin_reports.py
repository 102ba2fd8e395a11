"""A manager's plugins at a moment: their health, counts and explanations. Calls none of them."""

from __future__ import annotations

from collections.abc import Container, Mapping
from typing import Any

import attrs

from goplugins.config import LoadBalancerConfig
from goplugins.config.groups import GroupConfig
from goplugins.enums import PluginStatus, TransportType
from goplugins.health.monitor import overall
from goplugins.manager.maintenance import Maintenance
from goplugins.models.explanation import Explanation
from goplugins.models.metrics import ManagerMetrics
from goplugins.models.results import HealthStatus
from goplugins.observability.report import ObservabilityReport
from goplugins.observability.spans import call_attributes, peer_attributes
from goplugins.pipeline.plugin import GuardedPlugin
from goplugins.pipeline.registry import Registry
from goplugins.runtime.clock import Clock


class PluginReports:
    """Reads the state of a manager's plugins.

    Args:
        registry: the plugins.
        maintenance: has their health and counts, and the members of DNS groups.
        clock: measures time.
    """

    def __init__(self, registry: Registry, maintenance: Maintenance, clock: Clock) -> None:
        self._registry = registry
        self._maintenance = maintenance
        self._clock = clock
        self._made_at = clock.monotonic()

    def statuses(self) -> dict[str, HealthStatus]:
        """The last known health of all plugins, and of the members of DNS groups."""
        names = {**self._registry.plugins, **self._maintenance.members}
        return {name: self._maintenance.status_of(name) for name in names}

    def overall_health(self) -> HealthStatus:
        """See :meth:`goplugins.Manager.overall_health`."""
        without = self.instances()
        found = {
            name: status
            for name, status in self.statuses().items()
            if name not in without
            and (status.status is not PluginStatus.UNKNOWN or self._maintenance.awaits_check(name))
        }
        return overall({**self._maintenance.monitor.reported, **found})

    def metrics(self) -> ManagerMetrics:
        """See :meth:`goplugins.Manager.metrics`."""
        counts, total = self._maintenance.metrics()
        names = (*self._maintenance.members, *self._registry.plugins)
        plugins = {name: counts[name] for name in names if name in counts}
        return ManagerMetrics(**attrs.asdict(total, recurse=False), plugins=plugins)

    def explain(self, name: str) -> Explanation:
        """See :meth:`goplugins.Manager.explain`."""
        return self.find(name).explain(self._maintenance.status_of(name))

    def report(self) -> ObservabilityReport:
        """See :meth:`goplugins.Manager.report`."""
        uptime = self._clock.monotonic() - self._made_at
        return ObservabilityReport.of(self.metrics(), at=self._clock.time(), uptime=uptime)

    def find(self, name: str) -> GuardedPlugin:
        """The plugin, or the member of a DNS group, of that name.

        Raises:
            PluginNotFoundError: there is none.
        """
        return self._maintenance.members.get(name) or self._registry.get(name)

    def labels_of(self, name: str) -> Mapping[str, str]:
        """The labels in a plugin's configuration."""
        plugin = self._maintenance.members.get(name) or self._registry.plugins.get(name)
        return {} if plugin is None or plugin.config.labels is None else plugin.config.labels

    def operations_of(self, name: str) -> Container[str]:
        """The names of a plugin's operations."""
        plugin = self._maintenance.members.get(name) or self._registry.plugins.get(name)
        return () if plugin is None else plugin.pipeline.operations

    def describe(self, name: str, operation: str) -> Mapping[str, Any]:
        """Attributes of a call for its span, by the semantic conventions of OpenTelemetry."""
        plugin = self._registry.plugins.get(name)
        found: dict[str, Any] = call_attributes(name, operation)
        if plugin is not None:
            found["goplugins.transport"] = str(plugin.config.transport)
            if plugin.config.transport is not None:
                found |= peer_attributes(TransportType(plugin.config.transport), plugin.endpoint)
            configured = plugin.pipeline.operations.get(operation)
            if configured is not None and configured.path:
                found |= {"url.template": configured.path, "http.request.method": configured.method}
        return found

    def instances(self) -> frozenset[str]:
        """Names of the instances of plugins with several endpoints; the plugin's own name stands for them."""
        groups = (plugin.config for plugin in self._registry.plugins.values() if isinstance(plugin.config, GroupConfig))
        named = (
            member.name
            for group in groups
            if isinstance(group.balancer, LoadBalancerConfig)
            for member in group.balancer.members
            if member.name.startswith(f"{group.name}@")
        )
        return frozenset(named).union(self._maintenance.members)
