"""Chaos for the length of a block: what a test of an application's behaviour under failure needs."""

from __future__ import annotations

import functools
import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, ParamSpec, Self, TypeVar

from goplugins.config import ChaosConfig
from goplugins.errors import InvalidArgumentError
from goplugins.runtime.fork import register_forkable
from goplugins.transports.chaos import ChaosSender

if TYPE_CHECKING:
    from goplugins import Manager
    from goplugins.pipeline.plugin import GuardedPlugin

__all__ = ["Injection", "inject"]

logger = logging.getLogger("goplugins.chaos")

P = ParamSpec("P")
T = TypeVar("T")


class _Layers:
    """Puts layers of chaos around wires and takes them off. One lock for all: it is held for two assignments."""

    def __init__(self) -> None:
        self._lock = threading.Lock()

    def put(self, plugin: GuardedPlugin, config: ChaosConfig) -> ChaosSender:
        """A new layer, outermost; the next attempt meets it. Takes the lock."""
        with self._lock:
            layer = ChaosSender(plugin.attempts.sender, config, plugin.config, clock=plugin.clock)
            plugin.attempts.sender = layer
            return layer

    def take(self, plugin: GuardedPlugin, layer: ChaosSender) -> None:
        """Takes that layer out, wherever others lie by now. Takes the lock."""
        with self._lock:
            above: Any = plugin.attempts.sender
            if above is layer:
                plugin.attempts.sender = layer.wrapped
                return
            while isinstance(above, ChaosSender):
                if above.wrapped is layer:
                    above.wrapped = layer.wrapped
                    return
                above = above.wrapped

    def after_fork_in_child(self) -> None:
        self._lock = threading.Lock()


_layers = _Layers()


class Injection:
    """Faults injected into one plugin while the block runs. Made by :func:`inject`."""

    def __init__(self, manager: Manager[Any, Any], name: str, config: ChaosConfig) -> None:
        config.validate()
        self._manager = manager
        self._name = name
        self._config = config
        self._plugin: GuardedPlugin | None = None
        self._layer: ChaosSender | None = None

    @property
    def counts(self) -> Mapping[str, int]:
        """How often each fault was injected, by name: latency, error, refuse, reset, garbage, hang, health."""
        return {} if self._layer is None else self._layer.counts

    @property
    def attempts(self) -> int:
        """How many attempts the block saw, those that met no fault included."""
        return 0 if self._layer is None else self._layer.attempts

    def __enter__(self) -> Self:
        if self._layer is not None:
            raise InvalidArgumentError("inject: a block can be entered once; make another one")
        register_forkable(_layers)
        self._plugin = self._manager._registry.get(self._name)
        self._layer = _layers.put(self._plugin, self._config)
        logger.warning("plugin %r: injecting from now on: %s", self._name, self._layer.chaos)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        plugin, layer = self._plugin, self._layer
        if plugin is None or layer is None:
            return
        _layers.take(plugin, layer)
        layer.end()
        counts = ", ".join(f"{count} x {fault}" for fault, count in layer.counts.items() if count)
        logger.warning(
            "plugin %r: injected %s into %d attempts, and ends", self._name, counts or "nothing", layer.attempts
        )
        if self._manager._registry.plugins.get(self._name) is not plugin:
            logger.warning("plugin %r was replaced or removed meanwhile: calls since then met no fault", self._name)

    def __call__(self, function: Callable[P, T]) -> Callable[P, T]:
        """As a decorator: each call of ``function`` runs in a block of its own, with the same seed."""

        @functools.wraps(function)
        def within(*args: P.args, **kwargs: P.kwargs) -> T:
            with Injection(self._manager, self._name, self._config):
                return function(*args, **kwargs)

        return within

    def __repr__(self) -> str:
        return f"<Injection into {self._name!r}: {self._config!r}>"


def inject(
    manager: Manager[Any, Any],
    name: str,
    *,
    latency: float | None = None,
    delay: float | Sequence[float] | None = None,
    error: float | None = None,
    status: int | None = None,
    retry_after: float | None = None,
    refuse: float | None = None,
    reset: float | None = None,
    garbage: float | None = None,
    hang: float | None = None,
    health: bool = False,
    seed: int | None = None,
) -> Injection:
    """Lets a plugin's attempts fail while a ``with`` block, a fixture or a decorated function runs.

    The faults come between the plugin's policies and its wire: retries, breaker and deadline meet them as real ones.
    Calls of other threads meet them, too; those under way are not touched. Blocks nest, and may overlap.

    Args:
        manager: whose plugin; from a configuration or registered in code.
        name: the plugin's; looked up when the block begins. A group's own name puts the faults before the choice of
            a member.
        latency: share of attempts that are late, 0 to 1.
        delay: by how many seconds; a pair draws between the two.
        error: share of attempts that are answered with ``status``.
        status: an HTTP status, on other wires what it means there; 500 when left out.
        retry_after: seconds that a 429 or 503 asks for.
        refuse: share of attempts that find no connection.
        reset: share of attempts that are really sent, and whose connection breaks before the answer.
        garbage: share of attempts that are really sent, and whose answer can't be read.
        hang: share of attempts that are really sent, and not answered before the deadline.
        health: whether looks at the plugin's health meet the same.
        seed: repeats a run, see :class:`~goplugins.transports.chaos.ChaosSender`; another one each time without it.

    Returns:
        The block; its ``counts`` and ``attempts`` tell what was injected.

    Raises:
        ConfigError: shares above 1 in all, or a setting without what it needs.
        PluginNotFoundError: when the block begins, no plugin of that name.

    >>> from goplugins import Manager, serve
    >>> @serve.plugin(name="shout")
    ... def shout(request: str) -> str:
    ...     return request.upper()
    >>> manager = Manager(str, str)
    >>> manager.register(shout)
    >>> with inject(manager, "shout", refuse=0.5, seed=1) as chaos:
    ...     manager.execute("shout", "hello")  # refused connections are replayed
    'HELLO'
    >>> chaos.attempts, chaos.counts["refuse"]
    (2, 1)
    >>> manager.shutdown()
    """
    config = ChaosConfig(
        enabled=True,
        seed=seed,
        latency=latency,
        delay=delay,
        error=error,
        status=status,
        retry_after=retry_after,
        refuse=refuse,
        reset=reset,
        garbage=garbage,
        hang=hang,
        health=health,
    )
    return Injection(manager, name, config)
