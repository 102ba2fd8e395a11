"""Plugin factories by kind: the built-in ones, imported when they are first used, and those that code registers."""

from __future__ import annotations

import importlib
from collections.abc import Container, Iterator, Set as AbstractSet

import attrs

from goplugins.config import ManagerConfig, PluginConfig
from goplugins.config.manager import FurtherCheck
from goplugins.errors import ConfigError, InvalidArgumentError, InvalidConfigError, UnsupportedTransportError
from goplugins.observability.setup import problems_of
from goplugins.runtime.clock import SYSTEM_CLOCK, Clock
from goplugins.transports.base import TransportFactory
from goplugins.transports.interface import PluginFactory

_BUILT_IN = {
    "exec": ("goplugins.transports.exec", "ExecPluginFactory"),
    "grpc": ("goplugins.transports.grpc", "GRPCPluginFactory"),
    "http": ("goplugins.transports.http", "HTTPPluginFactory"),
    "python": ("goplugins.serve.in_process", "FunctionPluginFactory"),
    "unix": ("goplugins.transports.unix", "UnixSocketPluginFactory"),
}
"""Modules of the built-in factories: they import heavy libraries, so only those in use are loaded."""


class Factories:
    """The factories of one manager.

    Args:
        clock: measures time, and waits.

    Attributes:
        registered: kinds of factories that code has registered.
    """

    def __init__(self, *, clock: Clock) -> None:
        self.registered: set[str] = set()
        self._clock = clock
        self._factories: dict[str, PluginFactory] = {}

    def register(self, kind: str, factory: PluginFactory) -> None:
        """Uses ``factory`` for plugins whose ``type`` is ``kind``, in place of a built-in one if it has that name.

        Raises:
            InvalidArgumentError: the name is empty, or the object lacks a method of a factory.
        """
        if not kind or not isinstance(kind, str):
            raise InvalidArgumentError(f"kind: expected a name, got {kind!r}")
        for method in ("create_plugin", "supported_transports", "validate_config"):
            if not callable(getattr(factory, method, None)):
                raise InvalidArgumentError(f"{type(factory).__name__} is not a plugin factory: it lacks {method}()")
        self._factories[kind] = _taken(factory)
        self.registered.add(kind)

    def find(self, config: PluginConfig, path: str = "") -> PluginFactory:
        """The factory for a plugin's configuration, resolved.

        Raises:
            UnsupportedTransportError: no factory of its ``type``, or one that does not support its transport.
        """
        kind = config.type or ""
        found = self._factories.get(kind)
        if found is None and kind in _BUILT_IN:
            module, name = _BUILT_IN[kind]
            found = getattr(importlib.import_module(module), name)(clock=self._clock)
            self._factories[kind] = _taken(found)
        if found is None:
            known = ", ".join(sorted({*_BUILT_IN, *self._factories}))
            raise UnsupportedTransportError(
                f"no factory for plugins of type {kind!r}",
                path=f"{path}.type",
                fix=f"use one of {known}, or register_factory({kind!r}, ...)",
            )
        transports = list(found.supported_transports())
        if config.transport not in transports:
            raise UnsupportedTransportError(
                f"the factory of type {kind!r} does not serve transport {str(config.transport)!r}",
                path=f"{path}.transport",
                fix=f"use one of {', '.join(transports)}",
            )
        return found

    def problems(self, config: ManagerConfig, suspect: Container[int]) -> Iterator[ConfigError]:
        """Settings that need a package which is not installed, and plugins that their factories refuse.

        Args:
            config: resolved.
            suspect: indexes of plugins with known problems, which are not validated again.
        """
        for path, fix in problems_of(config).items():
            yield InvalidConfigError("needs a package that is not installed", path=path, fix=fix)
        for index, plugin in enumerate(config.plugins):
            if plugin.enabled and index not in suspect:
                path = f"plugins[{index}]"
                try:
                    factory = self.find(plugin, path)
                    for endpoint in plugin.endpoints or (plugin.endpoint,):
                        factory.validate_config(attrs.evolve(plugin, endpoint=endpoint, endpoints=()))
                except ConfigError as error:
                    yield from with_path(error, path).problems


def check_by_built_in_factories() -> FurtherCheck:
    """A check by the built-in factories, for a configuration without a manager; custom factories are not known here."""
    factories = Factories(clock=SYSTEM_CLOCK)

    def check(config: ManagerConfig, suspect: AbstractSet[int]) -> Iterator[ConfigError]:
        custom = {index for index, plugin in enumerate(config.plugins) if plugin.type not in _BUILT_IN}
        return factories.problems(config, custom.union(suspect))

    return check


def with_path(error: ConfigError, path: str) -> ConfigError:
    """The error, with the plugin's path put before the paths of its problems."""
    for problem in error.problems:
        if not problem.path.startswith(path):
            problem.path = f"{path}.{problem.path}" if problem.path else path
    return error


def _taken(factory: PluginFactory) -> PluginFactory:
    """The factory, for configurations that a manager validates and whose policies it applies."""
    if isinstance(factory, TransportFactory):
        factory.of_manager = True
    return factory
