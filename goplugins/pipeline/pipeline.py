"""The policies around a plugin's sender, as one value: built whole, and swapped in one assignment at a reload."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import attrs

from goplugins.config import BulkheadConfig, OperationConfig, PluginConfig
from goplugins.config.operations import CHANGING_METHODS, NAME_FIX, is_operation_name, operation_not_found
from goplugins.errors import InvalidArgumentError, PluginError, Replay
from goplugins.pipeline.attempts import Attempt, Run, Shared, TimedAttempt
from goplugins.resilience.bulkhead import Bulkhead, load_signal
from goplugins.resilience.circuit_breaker import CircuitBreaker
from goplugins.resilience.hedge_policy import HedgePolicy
from goplugins.resilience.rate_limiter import RateLimiter
from goplugins.resilience.retry import RetryPolicy
from goplugins.resilience.retry_budget import RetryBudget
from goplugins.runtime.call import Call
from goplugins.runtime.workers import WorkerPool
from goplugins.transports.interface import Sender

if TYPE_CHECKING:
    from goplugins.pipeline.cache_layer import Outages, Store
    from goplugins.pipeline.hedging import Hedger

T = TypeVar("T")
P = TypeVar("P")
C = TypeVar("C")

_UNLIMITED = BulkheadConfig(max_concurrent=1_000_000_000)
"""For a bulkhead that is no longer configured: it admits every call, and counts those in flight."""


def resolved(value: T | None) -> T:
    """A field of a configuration whose defaults are filled in: never None.

    Raises:
        InvalidArgumentError: it is None all the same.
    """
    if value is None:
        raise InvalidArgumentError("the plugin's configuration has fields to inherit: pass ManagerConfig().resolve(it)")
    return value


@attrs.define(eq=False)
class RetryLayer:
    """Makes the first attempt, hedged if so configured, and the retries that the policy allows after a failure."""

    _inner: Run
    _policy: RetryPolicy
    _budget: RetryBudget
    _hedger: Hedger | None
    _shared: Shared

    def run(self, call: Call) -> Any:
        """Makes the attempts of a call.

        Raises:
            PluginError: of the last attempt that reached the plugin.
        """
        hedger, attempt = self._hedger, self._inner  # a slot's value is called faster by a variable
        try:
            value = attempt(call) if hedger is None else hedger(call, attempt)
        except PluginError as error:
            if call.attempts:
                self._budget.deposit()
            if error.replay is Replay.NEVER and self._policy.statuses is None:
                raise  # most refusals end here, and must stay as cheap as a call
            return self._retry(call, error)
        self._budget.deposit()
        return value

    def _retry(self, call: Call, error: PluginError) -> Any:
        try:
            return self._policy.run(
                error,
                lambda: self._inner(call),
                idempotent=call.idempotent,
                max_retries=call.max_retries,
                deadline=call.deadline,
                budget=self._budget,
                clock=self._shared.clock,
                closing=self._shared.closing,
                on_budget_exhausted=self._shared.counts.retry_budget_exhausted.add,
            )
        finally:
            del error  # its traceback holds this frame: no work for the collector


class BulkheadLayer:
    """Makes calls while they hold a slot of the bulkhead, which adapts its limit to how long they take."""

    __slots__ = ("_bulkhead", "_closing", "_history", "_inner", "_now")

    def __init__(self, run: Run, bulkhead: Bulkhead, shared: Shared) -> None:
        self._inner = run
        self._bulkhead = bulkhead
        self._closing = shared.closing
        self._history = shared.history
        self._now = shared.clock.monotonic

    def run(self, call: Call) -> Any:
        """Waits for a slot as long as the configuration allows, and makes the call."""
        bulkhead = self._bulkhead
        call.admitted = False  # a call that is still waiting when the plugin is replaced goes to the successor
        slot = bulkhead.acquire(call.deadline, closing=self._closing)
        call.admitted = True
        ok: bool | None = None
        started = self._now()
        try:
            value = self._inner(call)
            # With retries the time is mostly backoff, and says nothing of the plugin.
            ok = True if call.attempts == 1 else None
            return value
        except BaseException as exc:
            if call.attempts and (not isinstance(exc, TimeoutError) or self._history.was_fair(self._now() - started)):
                ok = load_signal(exc)
            raise
        finally:
            try:
                bulkhead.release(slot, self._now() - started, ok)
            except BaseException:
                bulkhead.release(slot)  # has no effect if the first time got through
                raise


@attrs.frozen(eq=False, kw_only=True)
class Pipeline:
    """The layers that a call passes, and the policies in them.

    Outermost first::

        fallback      another plugin, a value or a function answers if the plugin could not serve
        cache         answers idempotent calls, and coalesces identical ones
        bulkhead      limits the calls in flight; further ones wait for a slot, or are refused
        retry, hedge  repeats failed attempts, within the budget; makes a second attempt beside a late one
        attempt       permit of the breaker > token of the limiter > send

    The fallback is outermost: its answers never get into the cache, calls that wait for an identical one fall back
    each at its own deadline, and an expired entry of the cache is preferred to it. Attempts for a group pass bulkhead
    and attempt only: the other layers are the group's.

    Layers that are not configured do not exist, save a bulkhead that was configured earlier: it stays, without a limit,
    and so has counted the calls in flight when it gets a limit again. A call runs to its end on the pipeline that it
    began with.

    Attributes:
        config: what the pipeline was built from, resolved.
        sender: makes the attempts.
        request_timeout: seconds for a call that states no timeout.
        idempotent: whether calls are idempotent that do not state it.
        outages: of cache and fallback; None without both.
        run: makes a whole call.
        run_as_member: makes one attempt for a group.
    """

    config: PluginConfig
    sender: Sender
    request_timeout: float
    idempotent: bool
    breaker: CircuitBreaker
    limiter: RateLimiter | None
    retry: RetryPolicy
    budget: RetryBudget
    hedger: Hedger | None
    bulkhead: Bulkhead | None
    cache: Store | None
    outages: Outages | None
    run: Run = attrs.field(init=False)
    run_as_member: Run = attrs.field(init=False)
    _shared: Shared = attrs.field(alias="shared")

    def __attrs_post_init__(self) -> None:
        """Puts the layers around one another: the one place that says their order."""
        layers = (self._fallback_layer, self._cache_layer, self._bulkhead_layer, self._retry_layer)
        parts, seconds = (self.sender, self.breaker, self.limiter, self._shared), self.retry.attempt_timeout
        attempt: Run = (Attempt(*parts) if seconds is None else TimedAttempt(*parts, seconds)).run
        run = attempt
        for layer in reversed(layers):
            run = layer(run)
        object.__setattr__(self, "run", run)
        object.__setattr__(self, "run_as_member", self._bulkhead_layer(attempt))

    def _retry_layer(self, run: Run) -> Run:
        return RetryLayer(run, self.retry, self.budget, self.hedger, self._shared).run

    def _bulkhead_layer(self, run: Run) -> Run:
        return run if self.bulkhead is None else BulkheadLayer(run, self.bulkhead, self._shared).run

    def _cache_layer(self, run: Run) -> Run:
        config, fallback = self.config.cache, self.config.fallback
        if config is None or self.cache is None or self.outages is None:
            return run
        from goplugins.pipeline.cache_layer import CacheLayer

        on = () if fallback is None else fallback.on
        return CacheLayer(run, self.cache, config, on, self.outages.stale, self._shared, self.changes_nothing).run

    def _fallback_layer(self, run: Run) -> Run:
        config, shared = self.config.fallback, self._shared
        if config is None or self.outages is None:
            return run
        from goplugins.pipeline.fallback_layer import FallbackLayer
        from goplugins.resilience.fallback import Fallback

        fallback = Fallback(config, shared.name, shared.forward, shared.clock)
        return FallbackLayer(run, fallback, config, self.outages, shared).run

    @property
    def operations(self) -> Mapping[str, OperationConfig]:
        """The operations, by name: of the configuration, or of a group's members."""
        return self.config.operations or self.sender.operations

    def changes_nothing(self, operation: str) -> bool:
        """Whether an earlier answer of an operation may stand for a call: not if its HTTP method changes something."""
        found = self.operations.get(operation)
        return found is None or found.method not in CHANGING_METHODS

    def usual_of(self, name: str) -> tuple[float, bool]:
        """Timeout in seconds, and whether a call is idempotent, of an operation where the call states neither.

        Without any operation in the configuration, every name is one, with the plugin's own.

        Raises:
            OperationNotFoundError: there are others, but none of that name.
            InvalidArgumentError: no operation can have that name.
        """
        known = self.config.operations or self.sender.operations_with(name)
        timeout, idempotent = self.request_timeout, self.idempotent
        found = known.get(name) if isinstance(name, str) else None
        if found is None:
            if not is_operation_name(name):
                text = f"operation: {name!r:.100} is not a name for an operation: {NAME_FIX}"
                raise InvalidArgumentError(text, plugin=self.config.name)
            if known:
                raise operation_not_found(name, known, self.config.name)
            return timeout, idempotent
        return (
            timeout if found.timeout is None else found.timeout,
            idempotent if found.idempotent is None else found.idempotent,
        )

    @classmethod
    def build(
        cls,
        config: PluginConfig,
        sender: Sender,
        shared: Shared,
        *,
        hedge_pool: WorkerPool | None = None,
        keep: Pipeline | None = None,
    ) -> Pipeline:
        """The pipeline of a configuration.

        Args:
            config: resolved.
            sender: makes the attempts.
            shared: the plugin's.
            hedge_pool: runs hedged attempts; without it there are none.
            keep: a pipeline of the same plugin, whose policies keep their state: breaker, budget, latencies and cache
                are taken over. Like limiter and bulkhead, which all pipelines of the plugin share, they are
                reconfigured in place, once nothing can fail any more.

        Raises:
            ConfigError: a fallback that can't be used.
            InvalidArgumentError: the configuration is not resolved.
        """
        parts = _Parts(config, shared, keep)
        budget = parts.budget()
        pipeline = cls(
            config=config,
            sender=sender,
            request_timeout=resolved(resolved(config.connection).request_timeout),
            idempotent=resolved(resolved(config.retry).idempotent),
            breaker=parts.breaker(),
            limiter=parts.limiter(),
            retry=RetryPolicy(resolved(config.retry), rng=shared.rng),
            budget=budget,
            hedger=parts.hedger(budget, hedge_pool),
            bulkhead=parts.bulkhead(),
            cache=parts.cache(),
            outages=parts.outages(),
            shared=shared,
        )
        for reconfigure in parts.changes:
            reconfigure()
        return pipeline


class _Parts:
    """The policies of a configuration: new ones, or those of an earlier pipeline and the changes to be made to them."""

    def __init__(self, config: PluginConfig, shared: Shared, keep: Pipeline | None) -> None:
        self._config = config
        self._shared = shared
        self._keep = keep
        self.changes: list[Callable[[], object]] = []

    def _part(self, old: P | None, config: C, make: Callable[[C], P], configure: Callable[[P, C], object]) -> P:
        if old is None:
            return make(config)
        self.changes.append(partial(configure, old, config))
        return old

    def breaker(self) -> CircuitBreaker:
        shared = self._shared
        make = partial(
            CircuitBreaker,
            clock=shared.clock,
            rng=shared.rng,
            name=shared.name,
            on_transition=shared.on_transition,
            trips=shared.counts.circuit_breaker_trips,
        )
        old = None if self._keep is None else self._keep.breaker
        return self._part(old, resolved(self._config.circuit_breaker), make, CircuitBreaker.configure)

    def limiter(self) -> RateLimiter | None:
        config, limits = resolved(self._config.rate_limit), self._shared.limits
        if limits.limiter is not None:
            self.changes.append(partial(limits.limiter.set_rate, config))  # disabled, it admits the calls that wait
        elif config.enabled:
            limits.limiter = RateLimiter(config, clock=self._shared.clock)
        return limits.limiter if config.enabled else None

    def budget(self) -> RetryBudget:
        ratio = resolved(resolved(self._config.retry).budget_ratio)
        old = None if self._keep is None else self._keep.budget
        return self._part(old, ratio, partial(RetryBudget, clock=self._shared.clock), RetryBudget.set_ratio)

    def hedger(self, budget: RetryBudget, pool: WorkerPool | None) -> Hedger | None:
        config, old = self._config.hedge, None if self._keep is None else self._keep.hedger
        if config is None or not config.enabled or pool is None:
            return None
        from goplugins.pipeline.hedging import Hedger

        make = partial(HedgePolicy, clock=self._shared.clock)
        policy = self._part(None if old is None else old.policy, config, make, HedgePolicy.configure)
        return Hedger(policy, pool, budget, self._shared.clock, self._shared.counts)

    def bulkhead(self) -> Bulkhead | None:
        config, shared = self._config.bulkhead, self._shared
        limits = shared.limits
        if limits.bulkhead is not None:
            self.changes.append(partial(limits.bulkhead.configure, config or _UNLIMITED))
        elif config is not None:
            refused = shared.counts.refused_bulkhead
            limits.bulkhead = Bulkhead(config, clock=shared.clock, name=shared.name, refused=refused)
        return limits.bulkhead

    def cache(self) -> Store | None:
        config, keep = self._config.cache, self._keep
        if config is None:
            return None
        from goplugins.pipeline.cache_layer import Store, new_store

        # Under other ``vary_headers`` an entry may be the answer to another request.
        same = keep is not None and keep.config.cache and keep.config.cache.vary_headers == config.vary_headers
        make = partial(new_store, clock=self._shared.clock)
        return self._part(keep.cache if keep is not None and same else None, config, make, Store.configure)

    def outages(self) -> Outages | None:
        if self._config.cache is None and self._config.fallback is None:
            return None
        from goplugins.pipeline.cache_layer import Outages

        old = None if self._keep is None else self._keep.outages
        return old or Outages(self._shared.clock)
