"""Fault injection for the duration of a block: tests of an application's behaviour under failure."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, ParamSpec, Self, TypeVar

from goplugins.config import ChaosConfig
from goplugins.errors import InvalidArgumentError
from goplugins.runtime.text import counted
from goplugins.transports.chaos import ChaosSender
from goplugins.transports.interface import Sender

if TYPE_CHECKING:
    from goplugins import Manager
    from goplugins.pipeline.plugin import GuardedPlugin

__all__ = ["Injection", "inject"]

logger = logging.getLogger("goplugins.chaos")

P = ParamSpec("P")
T = TypeVar("T")


def _without_ended(sender: Sender) -> Sender:
    """The sender without the outermost layers that have ended; one beneath another layer passes all calls on."""
    while isinstance(sender, ChaosSender) and sender.injected and sender.ended:
        sender = sender.wrapped
    return sender


class Injection:
    """Injects faults into one plugin while its block runs. Made by :func:`inject`."""

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
        """The number of attempts during the block, with and without a fault."""
        return 0 if self._layer is None else self._layer.attempts

    def __enter__(self) -> Self:
        if self._layer is not None:
            raise InvalidArgumentError("inject: a block can be entered only once; call inject() again")
        plugin = self._plugin = self._manager._registry.get(self._name)
        layer = ChaosSender(plugin.wire, self._config, plugin.config, clock=plugin.clock, injected=True)

        def wrap(present: Sender) -> Sender:
            layer.wrapped = present
            return layer

        plugin.replace_sender(wrap)
        self._layer = layer
        logger.warning("plugin %r: fault injection begins: %s", self._name, self._layer.chaos)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        plugin, layer = self._plugin, self._layer
        if plugin is None or layer is None:
            return
        layer.end()
        plugin.replace_sender(_without_ended)
        counts = ", ".join(f"{count} x {fault}" for fault, count in layer.counts.items() if count)
        logger.warning(
            "plugin %r: fault injection ends: %s in %s",
            self._name,
            counts or "no fault",
            counted(layer.attempts, "attempt"),
        )
        if self._manager._registry.plugins.get(self._name) is not plugin:
            logger.warning("plugin %r was replaced or removed during the block: later calls had no faults", self._name)

    def __call__(self, function: Callable[P, T]) -> Callable[P, T]:
        """Decorator: each call of ``function`` runs in a block of its own, with the same seed."""

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
    """Injects faults into a plugin's attempts while a ``with`` block, a fixture or a decorated function runs.

    The faults occur between the plugin's policies and its transport: retries, breaker and deadline handle them as real
    ones. Calls of other threads are affected as well, calls in flight are not. Blocks nest, and may overlap.

    Args:
        manager: the manager of the plugin.
        name: the plugin's name, looked up when the block begins. For a group, the faults occur before a member is
            picked.
        latency: share of attempts that are delayed, 0 to 1.
        delay: seconds of the delay; of a pair, a random value between the two.
        error: share of attempts that fail with ``status``.
        status: an HTTP status, or its equivalent on other transports; 500 by default.
        retry_after: seconds to wait after a 429 or 503.
        refuse: share of attempts whose connection is refused.
        reset: share of attempts that are really sent, and whose connection breaks before the reply.
        garbage: share of attempts that are really sent, and whose reply can't be parsed.
        hang: share of attempts that are really sent, and get no reply before the deadline.
        health: whether health checks have the same faults.
        seed: repeats a run, see :class:`~goplugins.transports.chaos.ChaosSender`; random by default.

    Returns:
        The block, with the ``counts`` of injected faults and the number of ``attempts``.

    Raises:
        ConfigError: shares above 1 in all, or a setting without what it needs.
        PluginNotFoundError: when the block begins, there is no plugin of that name.

    >>> from goplugins import Manager, serve
    >>> @serve.plugin(name="shout")
    ... def shout(request: str) -> str:
    ...     return request.upper()
    >>> manager = Manager(str, str)
    >>> manager.register(shout)
    >>> with inject(manager, "shout", refuse=0.5, seed=1) as chaos:
    ...     manager.execute("shout", "hello")  # refused connections are retried
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
