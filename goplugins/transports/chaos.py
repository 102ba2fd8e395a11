"""Chaos: faults injected between a plugin's policies and its wire, so that an application can rehearse failure.

A wire that shall fail is wrapped; all others are left as they are and cost nothing.
"""

from __future__ import annotations

import itertools
import logging
import math
import random
import threading
from collections.abc import Mapping
from typing import Any

from goplugins.config import ChaosConfig, PluginConfig
from goplugins.config.chaos import FAULTS
from goplugins.errors import PluginError, PluginTimeoutError, Verdict
from goplugins.models.explanation import GroupExplanation
from goplugins.models.plugin import PluginInfo
from goplugins.models.results import HealthStatus
from goplugins.runtime.call import Call
from goplugins.runtime.clock import Clock, Waiter
from goplugins.runtime.deadline import Deadline
from goplugins.runtime.fork import register_forkable
from goplugins.transports.chaos_errors import FaultMaker
from goplugins.transports.health_status import failed_check
from goplugins.transports.interface import Sender

__all__ = ["ChaosSender", "with_chaos"]

logger = logging.getLogger("goplugins.chaos")

_UNSENT = frozenset({"error", "refuse"})
_COUNTED = ("latency", *FAULTS, "health")


def with_chaos(sender: Sender, config: PluginConfig, *, clock: Clock) -> Sender:
    """The sender as it is, or wrapped if ``config.chaos`` is enabled; that is said in a warning.

    Args:
        sender: the wire.
        config: of the plugin; its ``chaos`` section says what to inject.
        clock: waits.
    """
    chaos = config.chaos
    if chaos is None or not chaos.enabled:
        return sender
    wrapped = ChaosSender(sender, chaos, config, clock=clock)
    logger.warning("plugin %r: its configuration has chaos on: %s", config.name, wrapped.chaos)
    return wrapped


class ChaosSender(Sender):
    """A layer around a :class:`~goplugins.transports.interface.Sender` that delays attempts and lets them fail.

    The n-th attempt meets the same faults for the same seed and plugin, whatever threads do: each attempt makes the
    same two draws. Only which call makes the n-th attempt is up to the threads. A forked child goes on from where its
    parent was.

    An attempt that meets ``reset``, ``garbage`` or ``hang`` is really made and its answer thrown away, so the plugin
    has acted on it. If it fails for real, that failure is what the caller sees. No connection is held while an attempt
    is late or hangs.

    Args:
        sender: the wire, or another layer of chaos.
        chaos: valid; whether it is enabled is not asked.
        config: of the plugin.
        clock: waits.

    Attributes:
        wrapped: the sender beneath. Layers of chaos come and go; see :mod:`goplugins.testing`.
        chaos: what is injected, in words, layers beneath included.
    """

    def __init__(self, sender: Sender, chaos: ChaosConfig, config: PluginConfig, *, clock: Clock) -> None:
        seed = chaos.seed
        if seed is None:
            seed = random.Random().getrandbits(32)  # noqa: S311 - no secret, and told in the warning
        self.wrapped = sender
        self.watches_credentials = sender.watches_credentials
        self._name = config.name
        self._clock = clock
        self._faults = FaultMaker(chaos, config)
        self._looks_too = bool(chaos.health)
        self._late = chaos.latency or 0.0
        self._delay = chaos.delay or (0.0, 0.0)
        shares = [getattr(chaos, fault) or 0.0 for fault in FAULTS]
        self._limits = tuple(zip(itertools.accumulate(shares), FAULTS, strict=True))
        self._description = f"{_described(chaos)}; seed {seed}"
        # With the name, or plugins of one seed would fail in step. Looks must not shift what attempts meet.
        self._attempts_rng = random.Random(f"{seed} {config.name}")  # noqa: S311 - dice
        self._looks_rng = random.Random(f"{seed} {config.name} health")  # noqa: S311 - dice
        self._lock = threading.Lock()
        self._counts: dict[str, int] = dict.fromkeys(_COUNTED, 0)
        self._attempts = 0
        self._over = False
        self._waiting: set[Waiter] = set()
        register_forkable(self)

    # --- Sender ------------------------------------------------------------------------------------------------

    def prepare(self, call: Call) -> None:
        """Nothing fails here: what can't be sent is the caller's own mistake."""
        self.wrapped.prepare(call)

    def send(self, call: Call) -> Any:
        """One attempt, perhaps late, perhaps in vain. See :class:`goplugins.transports.interface.Sender`."""
        fault, delay = self._draw(self._attempts_rng)
        if delay:
            self._count("latency")
            if self._wait(delay, call.deadline) and call.deadline.remaining() <= 0:
                raise self._faults.make("hang")
        if fault in _UNSENT:
            self._count(fault)
            raise self._faults.make(fault)
        if fault:
            return self._send_in_vain(call, fault)
        if not delay:
            return self.wrapped.send(call)
        try:
            return self.wrapped.send(call)
        except PluginTimeoutError as error:
            error.message = f"{error.message} (after an injected latency of {delay:.3f} s)"
            error.details["chaos"] = True
            raise

    def health(self, timeout: float) -> HealthStatus:
        """Asks the wire; with ``health: true`` the answer is perhaps late, or a failure. Never raises."""
        if not self._looks_too:
            return self.wrapped.health(timeout)
        clock = self._clock
        started = clock.monotonic()
        deadline = Deadline(started + timeout, clock)
        fault, delay = self._draw(self._looks_rng)
        if delay and self._wait(delay, deadline) and deadline.remaining() <= 0:
            fault = "hang"
        if fault == "hang" and not self._wait(timeout, deadline):
            fault = ""
        if not fault:
            return self.wrapped.health(max(deadline.remaining(), 1e-3))
        self._count("health")
        status, message = failed_check(self._faults.make(fault))
        return HealthStatus(status, message, last_check=clock.time(), response_time=clock.monotonic() - started)

    def info(self) -> PluginInfo:
        """Who the plugin is."""
        return self.wrapped.info()

    def close(self) -> None:
        """Ends the waits of this layer, and closes the wire."""
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

    # --- for those who look ------------------------------------------------------------------------------------

    @property
    def chaos(self) -> str:
        """What is injected, in words; layers beneath follow."""
        beneath = self.wrapped.chaos
        return f"{self._description}; {beneath}" if beneath else self._description

    @property
    def wire(self) -> Sender:
        """The sender beneath all layers."""
        return self.wrapped.wire

    @property
    def counts(self) -> Mapping[str, int]:
        """How often each fault was injected so far, by its name; under ``health`` the failed looks. Takes the lock."""
        with self._lock:
            return dict(self._counts)

    @property
    def attempts(self) -> int:
        """How many attempts came by, those that met nothing included."""
        return self._attempts

    def end(self) -> None:
        """Whoever is late goes on now, and whoever hangs gets the answer that the wire gave."""
        self._over = True  # first: who begins to wait looks at it after it can be found
        for wakeup in list(self._waiting):
            wakeup.set()

    def after_fork_in_child(self) -> None:
        """A fresh lock: the parent's may have been held. Who waits, waits there."""
        self._lock = threading.Lock()
        self._waiting = set()

    # --- inside ------------------------------------------------------------------------------------------------

    def _draw(self, rng: random.Random) -> tuple[str, float]:
        """The fault that the next attempt meets, or "", and by how many seconds it is late. Takes the lock.

        Always two draws, so that the share of one kind does not shift what later attempts draw for the other.
        """
        with self._lock:
            late, second = rng.random(), rng.random()
            if rng is self._attempts_rng:
                self._attempts += 1
        delay = 0.0
        if late < self._late:
            low, high = self._delay
            delay = low + (high - low) * (late / self._late)  # as good as a draw of its own
        return next((fault for limit, fault in self._limits if second < limit), ""), delay

    def _count(self, fault: str) -> None:
        with self._lock:
            self._counts[fault] += 1
        # An injected latency shows nowhere else.
        logger.debug("plugin %r: injected %s", self._name, fault)

    def _wait(self, seconds: float, deadline: Deadline) -> bool:
        """Waits ``seconds``, at most to the deadline; False if chaos ended meanwhile."""
        wakeup = Waiter()
        self._waiting.add(wakeup)
        try:
            if self._over:
                return False
            timeout = max(0.0, min(seconds, deadline.remaining()))
            if deadline.cancellation is None:
                return not self._clock.wait(wakeup, timeout)
            # One of two hedged attempts: nobody waits for the one that loses.
            return not deadline.cancellation.guard(wakeup.set, lambda: self._clock.wait(wakeup, timeout))
        finally:
            self._waiting.discard(wakeup)

    def _send_in_vain(self, call: Call, fault: str) -> Any:
        """Makes the attempt and throws its answer away."""
        before = call.reply_metadata
        refusal: PluginError | None = None
        answer = None
        try:
            answer = self.wrapped.send(call)
        except PluginError as error:
            if error.verdict is not Verdict.SUCCESS:
                raise
            refusal = error  # an answer, too
        if fault == "hang" and not self._wait(math.inf, call.deadline):
            if refusal is not None:
                raise refusal
            return answer
        call.reply_metadata = before
        self._count(fault)
        raise self._faults.make(fault)


def _described(chaos: ChaosConfig) -> str:
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
    return (", ".join(parts) or "no fault") + (", health looks too" if chaos.health else "")
