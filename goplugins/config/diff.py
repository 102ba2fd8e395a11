"""The differences of two configurations: every field with its path, secrets masked."""

from __future__ import annotations

import enum
from collections.abc import Iterator, Mapping
from typing import Any

import attrs

from goplugins.config.groups import DnsGroupConfig, GroupConfig
from goplugins.config.manager import ManagerConfig
from goplugins.config.manager_sections import GROUP_POLICIES, LoadBalancerConfig
from goplugins.config.plugin import PluginConfig, is_dns_group
from goplugins.config.problems import counted
from goplugins.config.schema import UNSET, Field, fields_of, same_value, shown

__all__ = ["Change", "PluginDiff", "PluginUpdate"]

_LONGEST = 80
_IN_PLACE = frozenset(
    {
        "annotations",
        "bulkhead",
        "cache",
        "chaos",
        "circuit_breaker",
        "fallback",
        "health_check",
        "hedge",
        "labels",
        "priority",
        "rate_limit",
        "retry",
    }
)
"""Fields of a plugin that do not affect its connections."""

_OF_GROUPS = frozenset({"request_timeout", *GROUP_POLICIES})
"""Fields of a group's ``balancer`` that are also fields of the group's own configuration."""

_NOTHING: Any = object()


@attrs.frozen
class Change:
    """A field that differs.

    Attributes:
        path: path of the field, such as ``retry.max_retries``.
        old: the old value as text, with secrets masked.
        new: the new value.
    """

    path: str
    old: str
    new: str

    @property
    def in_place(self) -> bool:
        """Whether the change can be applied to a running plugin, which keeps its connections."""
        if self.path in {"connection.request_timeout", "health_check.endpoint", "health_check.kind"}:
            return self.path == "connection.request_timeout"
        first, _, rest = self.path.partition(".")
        return first in _IN_PLACE or (first == "balancer" and rest.partition(".")[0] in _OF_GROUPS)

    def __str__(self) -> str:
        return f"{self.path}: {self.old} -> {self.new}"


@attrs.frozen
class PluginUpdate:
    """A plugin or group whose configuration differs.

    Attributes:
        name: name of the plugin or group.
        old_config: the old configuration with its defaults.
        new_config: the new configuration with its defaults.
        changes: the fields that differ.
        in_place: whether the running plugin is changed; else it is replaced by a new one.
    """

    name: str
    old_config: PluginConfig | LoadBalancerConfig
    new_config: PluginConfig | LoadBalancerConfig
    changes: tuple[Change, ...]
    in_place: bool

    def __str__(self) -> str:
        how = "in place" if self.in_place else "replaced"
        return "\n".join([f"~ {self.name}: {how}", *(f"    {change}" for change in self.changes)])


@attrs.frozen
class PluginDiff:
    """The differences of two configurations. ``str()`` shows them; false if there are none.

    Attributes:
        added: new plugins and groups.
        updated: plugins and groups that differ.
        removed: names of removed plugins and groups.
        unchanged: names of plugins and groups without a difference.
        settings: further fields that differ.

    >>> from goplugins import ManagerConfig
    >>> def config(port, retries):
    ...     return ManagerConfig.from_mapping({"plugins": [
    ...         {"name": "geo", "transport": "http", "endpoint": f"http://127.0.0.1:{port}"},
    ...         {"name": "auth", "transport": "unix", "endpoint": "/run/auth", "retry": {"max_retries": retries}}]})
    >>> print(PluginDiff.between(config(8080, 3), config(8081, 5)))
    ~ geo: replaced
        endpoint: 'http://127.0.0.1:8080' -> 'http://127.0.0.1:8081'
    ~ auth: in place
        retry.max_retries: 3 -> 5
    """

    added: tuple[PluginConfig | LoadBalancerConfig, ...] = ()
    updated: tuple[PluginUpdate, ...] = ()
    removed: tuple[str, ...] = ()
    unchanged: tuple[str, ...] = ()
    settings: tuple[Change, ...] = ()

    @classmethod
    def between(cls, old: ManagerConfig, new: ManagerConfig) -> PluginDiff:
        """The differences of two configurations, with their defaults filled in."""
        return diff_of(old.with_defaults(), new.with_defaults())

    def __bool__(self) -> bool:
        return bool(self.added or self.updated or self.removed or self.settings)

    def __str__(self) -> str:
        lines = [f"+ {config.name}: {_described(config)}" for config in self.added]
        lines += map(str, self.updated)
        lines += [f"- {name}" for name in self.removed]
        lines += [f"* {change}" for change in self.settings]
        return "\n".join(lines) or "nothing differs"


def diff_of(old: ManagerConfig, new: ManagerConfig) -> PluginDiff:
    """The differences of two configurations with their defaults."""
    before, after = _named(old), _named(new)
    updated, unchanged = [], []
    for name, config in after.items():
        if name not in before:
            continue
        update = update_of(before[name], config)
        if update is None:
            unchanged.append(name)
        else:
            updated.append(update)
    settings = (
        change
        for change in changes_between(old, new)
        if change.path.partition(".")[0] not in {"plugins", "load_balancers"}
    )
    return PluginDiff(
        added=tuple(config for name, config in after.items() if name not in before),
        updated=tuple(updated),
        removed=tuple(name for name in before if name not in after),
        unchanged=tuple(unchanged),
        settings=tuple(settings),
    )


def update_of(old: Any, new: Any) -> PluginUpdate | None:
    """What differs between two configurations of one name; None if nothing does."""
    if type(old) is not type(new):
        changes: tuple[Change, ...] = (Change("kind", _kind(old), _kind(new)),)
    else:
        changes = tuple(changes_between(old, new))
    if not changes:
        return None
    changes = tuple(dict.fromkeys(map(_of_instance, changes)))
    repeated = [c for c in changes if c.path.startswith("balancer.") and c.in_place]
    if len(repeated) < len(changes):
        changes = tuple(change for change in changes if change not in repeated)
    in_place = isinstance(new, PluginConfig) and all(change.in_place for change in changes)
    return PluginUpdate(new.name, old, new, changes, in_place)


def _of_instance(change: Change) -> Change:
    """A change of the members' configuration, with the path that it has in the plugin's configuration."""
    return attrs.evolve(change, path=change.path.removeprefix("instance."))


def _named(config: ManagerConfig) -> dict[str, PluginConfig | LoadBalancerConfig]:
    items: tuple[PluginConfig | LoadBalancerConfig, ...] = (*config.plugins, *config.load_balancers)
    return {item.name: item for item in items}


def _described(config: PluginConfig | LoadBalancerConfig) -> str:
    """A short description."""
    if isinstance(config, LoadBalancerConfig):
        return f"group of {counted(config.members, 'member')}, {config.strategy}"
    off = "" if config.enabled in {None, True} else ", not enabled"
    where = shown(config).get("endpoint") or config.executable
    balancing = config.balancing or LoadBalancerConfig()
    if isinstance(config, GroupConfig) and isinstance(config.balancer, LoadBalancerConfig):
        if isinstance(config, DnsGroupConfig):
            return f"group of all addresses of {where}, {config.balancer.strategy}{off}"
        return _described(config.balancer) + off
    if config.endpoints:
        return f"{config.transport}, {counted(config.endpoints, 'endpoint')}, {balancing.strategy}{off}"
    if is_dns_group(config):
        return f"{config.transport}, all addresses of {where}, {balancing.strategy}{off}"
    return f"{config.transport} {where}".rstrip() + off


def _kind(config: PluginConfig | LoadBalancerConfig) -> str:
    if isinstance(config, DnsGroupConfig):
        return "group of a host's addresses"
    return "group" if isinstance(config, GroupConfig | LoadBalancerConfig) else "plugin"


# --- fields ----------------------------------------------------------------------------------------------------


def changes_between(old: Any, new: Any, path: str = "") -> Iterator[Change]:
    """The fields in which two instances of one configuration class differ."""
    for field in fields_of(type(new)):
        before, after = getattr(old, field.name), getattr(new, field.name)
        if same_value(before, after):
            continue
        here = f"{path}.{field.name}" if path else field.name
        if attrs.has(type(before)) and type(before) is type(after):
            yield from changes_between(before, after, here)
        elif isinstance(before, Mapping) and isinstance(after, Mapping):
            yield from _of_tables(before, after, field, here)
        else:
            yield Change(here, _text(_masked(before, field)), _text(_masked(after, field)))


def _of_tables(old: Mapping[Any, Any], new: Mapping[Any, Any], field: Field, path: str) -> Iterator[Change]:
    before, after = _masked(old, field), _masked(new, field)
    for key in {**old, **new}:
        if not same_value(old.get(key, _NOTHING), new.get(key, _NOTHING)):
            yield Change(f"{path}.{key}", _text(before.get(key, UNSET)), _text(after.get(key, UNSET)))


def _masked(value: Any, field: Field) -> Any:
    return value if field.masked is None else field.masked.mask(value)


def _text(value: Any) -> str:
    """A value as short text."""
    if value is None or value is UNSET:
        return "unset"
    if attrs.has(type(value)):
        value = shown(value)
    elif isinstance(value, enum.Enum):
        value = value.value
    elif isinstance(value, list | tuple) and any(attrs.has(type(item)) for item in value):
        value = [shown(item) if attrs.has(type(item)) else item for item in value]
    text = repr(value)
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 3]}..."
