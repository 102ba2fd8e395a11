"""Who answers when the plugin need not, or could not: its cache and its fallback, around the whole call.

The fallback is outermost: what it answers can't get into the cache, those who wait for an identical call fall back
each at its own time, and an old answer of the plugin comes before anybody else's.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Collection, Hashable
from typing import Any

import attrs

from goplugins.config.manager_sections import LoadBalancerConfig
from goplugins.config.plugin import PluginConfig
from goplugins.config.plugin_sections import CacheConfig, FallbackConfig
from goplugins.errors import PluginError, PluginExecutionError, belongs_to_host
from goplugins.resilience.cache import Origin, ResponseCache
from goplugins.resilience.cache_entry import CacheEntry, CacheKeys
from goplugins.resilience.fallback import Fallback, could_not_serve, deadline_less_reserve
from goplugins.runtime.call import Call
from goplugins.runtime.clock import SYSTEM_CLOCK, Clock
from goplugins.runtime.counter import Counter
from goplugins.runtime.fork import register_forkable

__all__ = ["AnswerCounts", "Answers", "layered"]

logger = logging.getLogger("goplugins.plugin")

Run = Callable[[Call], Any]
Forward = Callable[[str, Call], Any]
Note = Callable[[Call, PluginError], object]

_MAX_BYTES = 64 * 1024 * 1024
"""What one plugin's answers may take: with ``max_entries`` alone, 1024 replies of 4 MiB each would be 4 GiB."""

_CALM = 5.0
"""Seconds without a stand-in after which a plugin that answers is said to be back. One that comes and goes is not."""


@attrs.frozen
class AnswerCounts:
    """How often somebody else than the plugin was to answer.

    Attributes:
        cache_hits: answers that had been kept.
        cache_misses: idempotent calls for which there was none, those that went on to wait for another's included.
        coalesced: calls that got the answer to an identical one which was under way.
        stale: old answers in place of failures.
        fallbacks: answers of the fallback.
        fallback_failures: calls that failed, and whose fallback failed as well.
    """

    cache_hits: int = 0
    cache_misses: int = 0
    coalesced: int = 0
    stale: int = 0
    fallbacks: int = 0
    fallback_failures: int = 0

    def as_metrics(self) -> dict[str, int]:
        """The same under the names of :class:`~goplugins.models.metrics.PluginMetrics`."""
        return {
            "cache_hits": self.cache_hits,
            "cache_misses": self.cache_misses,
            "cache_coalesced": self.coalesced,
            "stale_answers": self.stale,
            "fallback_answers": self.fallbacks,
            "fallback_failures": self.fallback_failures,
        }


class Answers:
    """The counters behind :class:`AnswerCounts`; many threads may add at once.

    >>> answers = Answers()
    >>> _ = answers.stale.add()
    >>> answers.snapshot().stale
    1
    """

    def __init__(self) -> None:
        self.cache_hits = Counter()
        self.cache_misses = Counter()
        self.coalesced = Counter()
        self.stale = Counter()
        self.fallbacks = Counter()
        self.fallback_failures = Counter()
        self._so_far = AnswerCounts()
        self._lock = threading.Lock()
        register_forkable(self)

    def snapshot(self) -> AnswerCounts:
        """The counts so far. Takes the lock."""
        with self._lock:
            before = attrs.asdict(self._so_far)
            self._so_far = AnswerCounts(**{name: count + getattr(self, name).take() for name, count in before.items()})
            return self._so_far

    def after_fork_in_child(self) -> None:
        """A fresh lock: another thread of the parent may have held the old one."""
        self._lock = threading.Lock()


class _Spell:
    """A time in which others answer for a plugin. The log has its beginning and its end, not each call."""

    def __init__(self, clock: Clock) -> None:
        self._now = clock.monotonic
        self._lock = threading.Lock()
        self._last = 0.0
        self._calls = 0
        self.since: float | None = None
        register_forkable(self)

    def begin(self) -> bool:
        """Counts one call that somebody else answered; True if it is the first. Takes the lock."""
        with self._lock:
            now = self._last = self._now()
            self._calls += 1
            if self.since is not None:
                return False
            self.since = now
            self._calls = 1
            return True

    def end(self) -> tuple[int, float] | None:
        """After an answer of the plugin's own: how many calls and seconds it was, if it is over. Takes the lock."""
        with self._lock:
            since, now = self.since, self._now()
            if since is None or now - self._last < _CALM:
                return None
            self.since = None
            return self._calls, self._last - since

    def after_fork_in_child(self) -> None:
        """A fresh lock."""
        self._lock = threading.Lock()


class _Cached:
    """A cache around a call."""

    def __init__(
        self, run: Run, config: CacheConfig, on: Collection[str], name: str, clock: Clock, counts: Answers, note: Note
    ) -> None:
        self.cache: ResponseCache[CacheEntry] = ResponseCache(
            config, clock=clock, size_of=lambda kept: kept.size, max_size=_MAX_BYTES
        )
        self._run = run
        self._keys = CacheKeys(config.vary_headers)
        self._on = on
        self._name = name
        self._counts = counts
        self._note = note
        self._spell = _Spell(clock)
        self._warned = False

    def __call__(self, call: Call) -> Any:
        key = self._keys.of(call) if call.idempotent else None
        if key is None:
            return self._run(call)
        kept = self.cache.get(key)
        if kept is not None:
            self._counts.cache_hits.add()
            return kept.respond(call, "cache")
        return self._ask(call, key)

    def _ask(self, call: Call, key: Hashable) -> Any:
        own: list[Any] = []

        def make() -> CacheEntry | None:
            own.append(self._run(call))
            return self._kept(call, own[0])

        try:
            kept, origin = self.cache.fetch(key, make, call.deadline)
        except PluginError as error:
            self._counts.cache_misses.add()
            kept = self.cache.stale(key) if could_not_serve(error, self._on) else None
            if kept is None:
                raise
            self._stood_in(call, error)
            return kept.respond(call, "stale")
        if origin is Origin.CALL or kept is None:
            self._counts.cache_misses.add()
            self._answers_again()
            return own[0]
        if origin is Origin.COALESCED:
            self._counts.cache_misses.add()
            self._counts.coalesced.add()
        else:
            self._counts.cache_hits.add()
        return kept.respond(call, "cache")

    def _stood_in(self, call: Call, error: PluginError) -> None:
        self._note(call, error)
        self._counts.stale.add()
        if self._spell.begin():
            text = "%s: could not serve, old answers from the cache stand in: %s %s"
            logger.warning(text, self._name, error.code, error.message)

    def _answers_again(self) -> None:
        if self._spell.since is not None and (over := self._spell.end()) is not None:
            logger.info("%s: answers again; the cache stood in for %d calls in %.1f s", self._name, *over)

    def _kept(self, call: Call, value: Any) -> CacheEntry | None:
        kept = CacheEntry.of(call, value)
        if kept is None and not self._warned:
            self._warned = True
            what = type(value).__name__
            logger.warning("%s: its answers can't be copied, so they are not cached: a %s", self._name, what)
        return kept

    def clear(self) -> None:
        """Forgets all answers."""
        self.cache.clear()


class _FallingBack:
    """A fallback around a call."""

    def __init__(
        self, run: Run, fallback: Fallback, config: FallbackConfig, clock: Clock, counts: Answers, note: Note
    ) -> None:
        self._run = run
        self._fallback = fallback
        self._on = frozenset(config.on)
        self._reserve = config.reserve or 0.0
        self._counts = counts
        self._note = note
        self._spell = _Spell(clock)
        self._failing = _Spell(clock)

    def __call__(self, call: Call) -> Any:
        self._fallback.check(call.codec)
        whole = call.deadline
        try:
            if self._reserve:
                call.deadline = deadline_less_reserve(whole, self._reserve)
            value = self._run(call)
        except PluginError as error:
            if not could_not_serve(error, self._on):
                raise
            call.deadline = whole
            stood_in, value = self._stand_in(call, error)
            if not stood_in:
                raise
            return value
        finally:
            call.deadline = whole
        if self._spell.since is not None and call.source == "plugin":
            self._answers_again()
        return value

    def _stand_in(self, call: Call, error: PluginError) -> tuple[bool, Any]:
        """Whether there is an answer after all, and which."""
        self._note(call, error)
        try:
            value = self._fallback.answer(call, error)
        except PluginExecutionError as answer:
            self._stood_in(call, error)
            raise answer from error
        except Exception as exc:
            if belongs_to_host(exc):
                raise
            if exc is not error:  # or it is a function that has no better answer
                self._failed(error, exc)
            return False, None
        self._stood_in(call, error)
        return True, value

    def _stood_in(self, call: Call, error: PluginError) -> None:
        call.source = "fallback"
        self._counts.fallbacks.add()
        if self._failing.since is not None:
            self._failing.end()
        if self._spell.begin():
            text = "%s: could not serve, %s answers instead: %s %s"
            logger.warning(text, self._fallback.name, self._fallback, error.code, error.message)

    def _failed(self, error: PluginError, failure: Exception) -> None:
        self._counts.fallback_failures.add()
        if isinstance(failure, PluginError):
            said = f"{failure.code} {failure.message}"
        else:
            said = f"{type(failure).__name__}: {failure}"
        error.details["fallback"] = f"{self._fallback} failed, too: {said}"
        if self._failing.begin():
            text = "%s: could not serve, and its fallback, %s, failed, too"
            logger.warning(text, self._fallback.name, self._fallback, exc_info=failure)

    def _answers_again(self) -> None:
        self._failing.end()
        if (over := self._spell.end()) is not None:
            logger.info("%s: answers again; its fallback stood in for %d calls in %.1f s", self._fallback.name, *over)

    def clear(self) -> None:
        """Forgets all answers, where there is a cache."""
        clear = getattr(self._run, "clear", None)
        if clear is not None:
            clear()


def _nothing(call: Call, error: PluginError) -> None:
    """Notes nothing."""


def layered(
    run: Run,
    config: PluginConfig | LoadBalancerConfig,
    *,
    forward: Forward,
    counts: Answers,
    clock: Clock = SYSTEM_CLOCK,
    note: Note = _nothing,
) -> Run:
    """``run`` with the cache and the fallback that the configuration asks for around it; itself where it asks for none.

    What comes back has a method ``clear()``, which empties the cache, unless it is ``run`` itself. The calls that it
    takes are prepared: their payload is written.

    Args:
        run: makes the whole call, with all attempts.
        config: resolved.
        forward: makes a call of another plugin by name, under that plugin's policies.
        counts: where it is counted who answered.
        clock: measures and waits.
        note: told of each error that somebody else's answer keeps from the caller, before the fallback is asked.

    Raises:
        ConfigError: a fallback that can't be used.
    """
    fallback, cache = config.fallback, getattr(config, "cache", None)
    answer = run
    if cache is not None:
        on = () if fallback is None else fallback.on
        answer = _Cached(answer, cache, on, config.name, clock, counts, note)
    if fallback is not None:
        stands_in = Fallback(fallback, config.name, forward, clock)
        answer = _FallingBack(answer, stands_in, fallback, clock, counts, note)
    return answer
