"""The fallback layer: another plugin, a static value or a function answers where the plugin could not serve."""

from __future__ import annotations

import logging
from typing import Any

from goplugins.config.plugin_sections import FallbackConfig
from goplugins.errors import PluginError, PluginExecutionError, belongs_to_host
from goplugins.pipeline.attempts import Run, Shared
from goplugins.pipeline.cache_layer import Outages
from goplugins.resilience.fallback import Fallback, could_not_serve, deadline_less_reserve
from goplugins.runtime.call import Call
from goplugins.runtime.text import counted

logger = logging.getLogger("goplugins.plugin")


class FallbackLayer:
    """Answers calls that failed, and keeps part of their deadline back for that.

    Args:
        run: makes the call.
        fallback: answers.
        config: its resolved configuration.
        outages: the plugin's.
        shared: of the plugin.
    """

    def __init__(self, run: Run, fallback: Fallback, config: FallbackConfig, outages: Outages, shared: Shared) -> None:
        self._inner = run
        self._fallback = fallback
        self._on = frozenset(config.on)
        self._reserve = config.reserve or 0.0
        self._outage = outages.fallback
        self._failing = outages.fallback_failing
        self._shared = shared
        self._counts = shared.counts

    def run(self, call: Call) -> Any:
        """Makes the call; where that fails, the fallback's answer."""
        self._fallback.check(call.codec)
        whole = call.deadline
        try:
            if self._reserve:
                call.deadline = deadline_less_reserve(whole, self._reserve)
            value = self._inner(call)
        except PluginError as error:
            if not could_not_serve(error, self._on):
                raise
            call.deadline = whole
            answered, value = self._answer(call, error)
            if not answered:
                raise
            return value
        finally:
            call.deadline = whole
        if self._outage.since is not None and call.source == "plugin":
            self._record_recovery()
        return value

    def _answer(self, call: Call, error: PluginError) -> tuple[bool, Any]:
        """Whether the fallback has an answer, and which."""
        self._shared.on_replaced_error(call, error)
        try:
            value = self._fallback.answer(call, error)
        except PluginExecutionError as rejection:  # an answer, too
            self._record_answer(call, error)
            raise rejection from error
        except Exception as exc:
            if belongs_to_host(exc):
                raise
            if exc is not error:  # a function raises it again if it has no answer
                self._record_failure(error, exc)
            return False, None
        self._record_answer(call, error)
        return True, value

    def _record_answer(self, call: Call, error: PluginError) -> None:
        call.source = "fallback"
        self._counts.fallback_answers.add()
        if self._failing.since is not None:
            self._failing.end()
        if self._outage.add():
            text = "%s: could not serve, %s answers instead: %s %s"
            logger.warning(text, self._shared.name, self._fallback, error.code, error.message)

    def _record_failure(self, error: PluginError, failure: Exception) -> None:
        self._counts.fallback_failures.add()
        if isinstance(failure, PluginError):
            reason = f"{failure.code} {failure.message}"
        else:
            reason = f"{type(failure).__name__}: {failure}"
        error.details["fallback"] = f"{self._fallback} failed, too: {reason}"
        if self._failing.add():
            text = "%s: could not serve, and its fallback, %s, failed, too"
            logger.warning(text, self._shared.name, self._fallback, exc_info=failure)

    def _record_recovery(self) -> None:
        self._failing.end()
        if (over := self._outage.end()) is not None:
            text = "%s: answers again; its fallback answered %s in %.1f s"
            logger.info(text, self._shared.name, counted(over[0], "call"), over[1])
