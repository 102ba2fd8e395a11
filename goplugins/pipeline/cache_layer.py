"""The cache layer: answers of idempotent calls that are kept for a while, and stand in for failures after that."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Hashable
from typing import Any

from goplugins.config.plugin_sections import CacheConfig
from goplugins.errors import PluginError
from goplugins.pipeline.attempts import Run, Shared
from goplugins.resilience.cache import Origin, ResponseCache
from goplugins.resilience.cache_entry import CacheEntry, CacheKeys
from goplugins.resilience.fallback import could_not_serve
from goplugins.runtime.call import Call
from goplugins.runtime.clock import Clock
from goplugins.runtime.fork import create_lock
from goplugins.runtime.text import counted

logger = logging.getLogger("goplugins.plugin")

Store = ResponseCache[CacheEntry]

_MAX_BYTES = 64 * 1024 * 1024
"""Size limit of one plugin's cache: with ``max_entries`` alone, 1024 replies of 4 MiB each would be 4 GiB."""

_RECOVERED = 5.0
"""Seconds without a substitute after which an answer of the plugin ends its outage. A flapping plugin is not back."""


def new_store(config: CacheConfig, clock: Clock) -> Store:
    """An empty cache for a resolved configuration."""
    return ResponseCache(config, clock=clock, size_of=lambda entry: entry.size, max_size=_MAX_BYTES)


class Outage:
    """A time in which substitutes answer for a plugin. Its beginning and its end are logged, and not each call.

    Attributes:
        since: when it began, on the clock's monotonic scale; None while there is none.
    """

    def __init__(self, clock: Clock) -> None:
        self.since: float | None = None
        self._now = clock.monotonic
        self._lock = create_lock(self)
        self._last = 0.0
        self._calls = 0

    def add(self) -> bool:
        """Counts one call that a substitute answered; True if it is the first. Takes the lock."""
        with self._lock:
            now = self._last = self._now()
            self._calls += 1
            if self.since is not None:
                return False
            self.since = now
            self._calls = 1
            return True

    def end(self) -> tuple[int, float] | None:
        """After an answer of the plugin: the outage's calls and seconds if it is over, else None. Takes the lock."""
        with self._lock:
            since, now = self.since, self._now()
            if since is None or now - self._last < _RECOVERED:
                return None
            self.since = None
            return self._calls, self._last - since


class Outages:
    """The outages of one plugin: a reload does not end them.

    Attributes:
        stale: expired entries of the cache answer.
        fallback: the fallback answers.
        fallback_failing: the fallback fails as well.
    """

    def __init__(self, clock: Clock) -> None:
        self.stale = Outage(clock)
        self.fallback = Outage(clock)
        self.fallback_failing = Outage(clock)


class CacheLayer:
    """Answers idempotent calls from the cache, coalesces identical ones, and answers failures with expired entries.

    Args:
        run: makes the call.
        store: the cache.
        config: its resolved configuration.
        fallback_on: kinds of errors besides the usual ones that an expired entry may replace.
        outage: during which expired entries answer.
        shared: of the plugin.
        changes_nothing: whether answers of an operation may be used again.
    """

    def __init__(
        self,
        run: Run,
        store: Store,
        config: CacheConfig,
        fallback_on: Collection[str],
        outage: Outage,
        shared: Shared,
        changes_nothing: Callable[[str], bool],
    ) -> None:
        self._inner = run
        self._changes_nothing = changes_nothing
        self._store = store
        self._keys = CacheKeys(config.vary_headers)
        self._on = fallback_on
        self._outage = outage
        self._shared = shared
        self._counts = shared.counts
        self._warned = False

    def run(self, call: Call) -> Any:
        """Answers the call from the cache, or makes it."""
        usable = call.idempotent and (not call.operation or self._changes_nothing(call.operation))
        key = self._keys.of(call) if usable else None
        if key is None:
            return self._inner(call)
        entry = self._store.get(key)
        if entry is not None:
            self._counts.cache_hits.add()
            return entry.respond(call, "cache")
        return self._fetch(call, key)

    def _fetch(self, call: Call, key: Hashable) -> Any:
        made: list[Any] = []

        def make() -> CacheEntry | None:
            made.append(self._inner(call))
            return self._entry(call, made[0])

        try:
            entry, origin = self._store.fetch(key, make, call.deadline)
        except PluginError as error:
            self._counts.cache_misses.add()
            entry = self._store.stale(key) if could_not_serve(error, self._on) else None
            if entry is None:
                raise
            self._record_stale(call, error)
            return entry.respond(call, "stale")
        if origin is Origin.CALL or entry is None:
            self._counts.cache_misses.add()
            self._record_answer()
            return made[0]
        if origin is Origin.COALESCED:
            self._counts.cache_misses.add()
            self._counts.cache_coalesced.add()
        else:
            self._counts.cache_hits.add()
        return entry.respond(call, "cache")

    def _record_stale(self, call: Call, error: PluginError) -> None:
        self._shared.on_replaced_error(call, error)
        self._counts.stale_answers.add()
        if self._outage.add():
            text = "%s: could not serve, expired answers from the cache are used: %s %s"
            logger.warning(text, self._shared.name, error.code, error.message)

    def _record_answer(self) -> None:
        if self._outage.since is not None and (over := self._outage.end()) is not None:
            text = "%s: answers again; the cache answered %s in %.1f s"
            logger.info(text, self._shared.name, counted(over[0], "call"), over[1])

    def _entry(self, call: Call, value: Any) -> CacheEntry | None:
        if call.deadline.remaining() <= 0:  # to copy a large answer would keep its caller even longer
            return None
        entry = CacheEntry.of(call, value)
        if entry is None and not self._warned:
            self._warned = True
            kind = type(value).__name__
            logger.warning("%s: its answers can't be copied, so they are not cached: a %s", self._shared.name, kind)
        return entry
