"""Chaos: faults injected between a plugin's policies and its wire, so that an application can rehearse failures.

Only the senders of plugins with chaos are wrapped; all others stay as they are and cost nothing.
"""

from __future__ import annotations

import itertools
import logging
import math
import random
from collections.abc import Callable, Mapping
from typing import Any

import attrs

from goplugins.config import ChaosConfig, OperationConfig, PluginConfig
from goplugins.config.chaos import FAULTS
from goplugins.enums import TransportType
from goplugins.errors import (
    AuthenticationError,
    BadReplyError,
    ConnectionLostError,
    GRPCTransportError,
    HTTPTransportError,
    PluginConnectionError,
    PluginError,
    PluginInternalError,
    PluginRequestError,
    PluginThrottledError,
    PluginTimeoutError,
    PluginUnavailableError,
    Replay,
    Verdict,
)
from goplugins.models.explanation import GroupExplanation
from goplugins.models.plugin import PluginInfo
from goplugins.models.results import HealthStatus
from goplugins.runtime.call import Call
from goplugins.runtime.clock import Clock, Waiter
from goplugins.runtime.deadline import Deadline
from goplugins.runtime.fork import create_lock, register_forkable
from goplugins.transports.health_status import failed_check
from goplugins.transports.interface import Sender

logger = logging.getLogger("goplugins.chaos")

_UNSENT = frozenset({"error", "refuse"})
_COUNTED = ("latency", *FAULTS, "health")

_ERRORS: Mapping[str, tuple[type[PluginError], str]] = {
    "refuse": (PluginConnectionError, "no connection: connection refused"),
    "reset": (ConnectionLostError, "the connection broke before the reply: connection reset by peer"),
    "garbage": (BadReplyError, "the reply is not JSON"),
    "hang": (PluginTimeoutError, "timed out waiting for the reply (no bytes received)"),
}
"""Class and message by fault, the same on every wire."""

_BY_STATUS: Mapping[int, type[PluginError]] = {
    401: AuthenticationError,
    403: AuthenticationError,
    429: PluginThrottledError,
    503: PluginUnavailableError,
    504: PluginTimeoutError,
}

_HTTP = (TransportType.HTTP, TransportType.HTTPS)
_GRPC = (TransportType.GRPC, TransportType.GRPC_TLS)


def with_chaos(sender: Sender, config: PluginConfig, *, clock: Clock) -> Sender:
    """The sender as it is, or wrapped if ``config.chaos`` is enabled, which is logged as a warning.

    Args:
        sender: the wire.
        config: of the plugin; its ``chaos`` section has the faults.
        clock: waits.
    """
    chaos = config.chaos
    if chaos is None or not chaos.enabled:
        return sender
    wrapped = ChaosSender(sender, chaos, config, clock=clock)
    logger.warning("plugin %r: its configuration has chaos on: %s", config.name, wrapped.chaos)
    return wrapped


def with_other_chaos(sender: Sender, config: PluginConfig, *, clock: Clock) -> tuple[Sender, Callable[[], object]]:
    """Replaces the layer of the former configuration; layers of :func:`goplugins.testing.inject` stay, outside of it.

    Returns:
        The sender to be used from now on, and a function to be called once it is: that ends the former layer's waits.
    """
    beneath = with_chaos(sender.wire, config, clock=clock)
    lowest, former = None, sender
    while isinstance(former, ChaosSender) and former.injected:
        lowest, former = former, former.wrapped

    def commit() -> None:
        if lowest is not None:
            lowest.wrapped = beneath
        if isinstance(former, ChaosSender):
            former.end()  # delayed attempts continue now

    return (beneath if lowest is None else sender), commit


class ChaosSender(Sender):
    """A layer around a :class:`~goplugins.transports.interface.Sender` that delays attempts and lets them fail.

    The n-th attempt meets the same faults for the same seed and plugin, whatever threads do: each attempt makes the
    same two draws. Only which call makes the n-th attempt depends on the threads. A forked child continues with the
    state of its parent.

    An attempt that meets ``reset``, ``garbage`` or ``hang`` is really made and its reply dropped, so the plugin has
    acted on it. If it really fails, the caller gets that error. No connection is held while an attempt is delayed or
    hangs.

    Args:
        sender: the wire, or another layer of chaos.
        chaos: valid; ``enabled`` is ignored.
        config: of the plugin.
        clock: waits.
        injected: it belongs to a test and not to the configuration.

    Attributes:
        wrapped: the sender beneath, which a reload may replace.
        ended: it injects no more faults.
        chaos: description of the faults, layers beneath included.
    """

    def __init__(
        self, sender: Sender, chaos: ChaosConfig, config: PluginConfig, *, clock: Clock, injected: bool = False
    ) -> None:
        seed = chaos.seed
        if seed is None:
            seed = random.Random().getrandbits(32)  # noqa: S311 - not a secret; logged for repetition
        self.wrapped = sender
        self.injected = injected
        self.watches_credentials = sender.watches_credentials
        self._config = config
        self._faults = chaos
        self._name = config.name
        self._clock = clock
        self._includes_health = bool(chaos.health)
        self._latency_share = chaos.latency or 0.0
        self._delay = chaos.delay or (0.0, 0.0)
        shares = [getattr(chaos, fault) or 0.0 for fault in FAULTS]
        self._limits = tuple(zip(itertools.accumulate(shares), FAULTS, strict=True))
        self._description = f"{_describe(chaos)}; seed {seed}"
        # With the name, or plugins of one seed would fail in step. Health checks must not shift the attempts' draws.
        self._attempts_rng = random.Random(f"{seed} {config.name}")  # noqa: S311 - dice
        self._health_rng = random.Random(f"{seed} {config.name} health")  # noqa: S311 - dice
        self._lock = create_lock(self)
        self._counts: dict[str, int] = dict.fromkeys(_COUNTED, 0)
        self._attempts = 0
        self.ended = False
        self._waiting: set[Waiter] = set()
        register_forkable(self)

    # --- Sender ------------------------------------------------------------------------------------------------

    def prepare(self, call: Call) -> None:
        """Injects nothing: a request that can't be sent is the caller's own mistake."""
        self.wrapped.prepare(call)

    def send(self, call: Call) -> Any:
        """One attempt, perhaps delayed, perhaps with a fault. See :class:`goplugins.transports.interface.Sender`."""
        if self.ended:  # a call that began earlier, and is retried
            return self.wrapped.send(call)
        fault, delay = self._draw(self._attempts_rng)
        if delay:
            self._count("latency")
            if self._wait(delay, call.deadline) and call.deadline.remaining() <= 0:
                raise self._error("hang")
        if fault in _UNSENT:
            self._count(fault)
            raise self._error(fault)
        if fault:
            return self._send_and_fail(call, fault)
        if not delay:
            return self.wrapped.send(call)
        try:
            return self.wrapped.send(call)
        except PluginTimeoutError as error:
            error.message = f"{error.message} (after an injected latency of {delay:.3f} s)"
            error.details["chaos"] = True
            raise

    def health(self, timeout: float) -> HealthStatus:
        """Checks the wire; with ``health: true`` the check may be delayed or fail. Never raises."""
        if self.ended or not self._includes_health:
            return self.wrapped.health(timeout)
        clock = self._clock
        started = clock.monotonic()
        deadline = Deadline(started + timeout, clock)
        fault, delay = self._draw(self._health_rng)
        if delay and self._wait(delay, deadline) and deadline.remaining() <= 0:
            fault = "hang"
        if fault == "hang" and not self._wait(timeout, deadline):
            fault = ""
        if not fault:
            return self.wrapped.health(max(deadline.remaining(), 1e-3))
        self._count("health")
        found = failed_check(self._error(fault))
        return attrs.evolve(found, last_check=clock.time(), response_time=clock.monotonic() - started)

    def first_health(self, timeout: float) -> HealthStatus:
        return self.wrapped.first_health(timeout)

    def group_health(self) -> HealthStatus | None:
        return self.wrapped.group_health()

    def operator_settings(self) -> Mapping[str, bool]:
        return self.wrapped.operator_settings()

    def apply_operator_settings(self, members: Mapping[str, bool]) -> None:
        self.wrapped.apply_operator_settings(members)

    @property
    def operations(self) -> Mapping[str, OperationConfig]:
        return self.wrapped.operations

    def operations_with(self, name: str) -> Mapping[str, OperationConfig]:
        return self.wrapped.operations_with(name)

    @property
    def policies(self) -> PluginConfig | None:
        return self.wrapped.policies

    def info(self) -> PluginInfo:
        return self.wrapped.info()

    def close(self) -> None:
        """Ends the waits in this layer, and closes the wire."""
        self.end()
        self.wrapped.close()

    def sweep(self) -> None:
        self.wrapped.sweep()

    def renew_credentials(self) -> None:
        self.wrapped.renew_credentials()

    def explain(self) -> GroupExplanation | None:
        return self.wrapped.explain()

    def reconfigure(self, config: PluginConfig) -> None:
        self.wrapped.reconfigure(config)

    # --- state -------------------------------------------------------------------------------------------------

    @property
    def chaos(self) -> str:
        """Description of the faults; layers beneath follow."""
        beneath = self.wrapped.chaos
        if self.ended:
            return beneath
        return f"{self._description}; {beneath}" if beneath else self._description

    @property
    def wire(self) -> Sender:
        """The sender beneath all layers."""
        return self.wrapped.wire

    @property
    def counts(self) -> Mapping[str, int]:
        """Number of injected faults by name; under ``health`` that of failed health checks. Takes the lock."""
        with self._lock:
            return dict(self._counts)

    @property
    def attempts(self) -> int:
        """Number of attempts, those without a fault included."""
        return self._attempts

    def end(self) -> None:
        """Injects no more faults: delayed attempts continue now, and hanging ones return the wire's reply."""
        self.ended = True  # first: a thread that starts to wait reads it after its waiter is in the set
        for waiter in list(self._waiting):
            waiter.set()

    def after_fork_in_child(self) -> None:
        """Forgets the parent's waiting threads."""
        self._waiting = set()

    # --- inside ------------------------------------------------------------------------------------------------

    def _draw(self, rng: random.Random) -> tuple[str, float]:
        """The fault of the next attempt, or "", and its delay in seconds. Takes the lock.

        Always two draws, so that the share of one kind does not shift later draws for the other.
        """
        with self._lock:
            first, second = rng.random(), rng.random()
            if rng is self._attempts_rng:
                self._attempts += 1
        delay = 0.0
        if first < self._latency_share:
            low, high = self._delay
            delay = low + (high - low) * (first / self._latency_share)  # uniform like a third draw
        return next((fault for limit, fault in self._limits if second < limit), ""), delay

    def _count(self, fault: str) -> None:
        with self._lock:
            self._counts[fault] += 1
        # An injected latency is visible nowhere else.
        logger.debug("plugin %r: injected %s", self._name, fault)

    def _wait(self, seconds: float, deadline: Deadline) -> bool:
        """Waits ``seconds``, at most to the deadline; False if chaos ended meanwhile."""
        waiter = Waiter()
        self._waiting.add(waiter)
        try:
            if self.ended:
                return False
            timeout = max(0.0, min(seconds, deadline.remaining()))
            if deadline.cancellation is None:
                return not self._clock.wait(waiter, timeout)
            # One of two hedged attempts: the one that loses must not wait any longer.
            return not deadline.cancellation.guard(waiter.set, lambda: self._clock.wait(waiter, timeout))
        finally:
            self._waiting.discard(waiter)

    def _send_and_fail(self, call: Call, fault: str) -> Any:
        """Makes the attempt and drops its reply."""
        before = call.reply_metadata
        refusal: PluginError | None = None
        reply = None
        try:
            reply = self.wrapped.send(call)
        except PluginError as error:
            if error.verdict is not Verdict.SUCCESS:
                raise
            refusal = error  # a reply, too
        if fault == "hang" and not self._wait(math.inf, call.deadline):
            if refusal is not None:
                raise refusal
            return reply
        call.reply_metadata = before
        self._count(fault)
        raise self._error(fault)

    def _error(self, fault: str) -> PluginError:
        """The error of a fault, of the class that the wire would raise; marked by message and ``details``."""
        if fault == "error":
            error = self._status_error(self._faults.status or 500)
        else:
            kind, message = _ERRORS[fault]
            error = kind(message)
        error.message = f"{error.message} (injected)"
        error.details["chaos"] = True
        return error

    def _status_error(self, status: int) -> PluginError:
        kind, options = self._status_class(status), dict[str, Any]()
        retry_after = self._faults.retry_after
        if retry_after is not None:
            options["replay"] = Replay.ALWAYS
            # The header of HTTP has whole seconds.
            options["retry_after"] = math.ceil(retry_after) if self._config.transport in _HTTP else retry_after
        if kind is HTTPTransportError and status not in (500, 502, 504):
            options.update(retryable=False, replay=Replay.NEVER)
        if self._config.transport in _HTTP:
            options["details"] = {"status": status}
        return kind(f"status {status}", **options)

    def _status_class(self, status: int) -> type[PluginError]:
        """The class of the error for an HTTP status, or for its equivalent on another wire."""
        http, grpc = self._config.transport in _HTTP, self._config.transport in _GRPC
        found = _BY_STATUS.get(status)
        if found is PluginThrottledError and not (http or grpc):
            return PluginUnavailableError  # lines have no error_kind for 429
        if found is not None and not (status == 504 and http):
            return found
        if status < 500:
            return PluginRequestError
        if http:
            return HTTPTransportError
        native = bool(self._config.options.get("method"))
        return GRPCTransportError if grpc and (status != 500 or native) else PluginInternalError


def _describe(chaos: ChaosConfig) -> str:
    parts = []
    for name in ("latency", *FAULTS):
        share = getattr(chaos, name)
        if not share:
            continue
        text = f"{name} {100 * share:g} %"
        if name == "latency" and chaos.delay is not None:
            low, high = chaos.delay
            text += f" ({low:g} s)" if low == high else f" ({low:g} to {high:g} s)"
        if name == "error":
            text += f" (status {chaos.status or 500}"
            text += ")" if chaos.retry_after is None else f", retry after {chaos.retry_after:g} s)"
        parts.append(text)
    return (", ".join(parts) or "no fault") + (", health checks included" if chaos.health else "")
