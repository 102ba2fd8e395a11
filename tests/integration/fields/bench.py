"""Experiments: one field of the configuration with two values or more, and what is seen with each of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import pytest

from goplugins import HealthStatus, Manager, PluginConfig, PluginError, PluginInfo, PluginStatus
from goplugins.testing import ManualClock


class Experiment(NamedTuple):
    """What a field changes.

    Attributes:
        field: class and field, such as ``RetryConfig.max_retries``.
        seen: values of the field, each with what is seen.
        observe: returns what is seen with a value.
        rare: whether only `make processes` runs it, since it takes seconds.
    """

    field: str
    seen: list[tuple[Any, Any]]
    observe: Callable[..., Any]
    rare: bool = False


def runs(experiments: list[Experiment]) -> Any:
    """Runs a test with each value of each experiment."""
    cases = [
        pytest.param(
            each.observe,
            value,
            seen,
            id=f"{each.field}-{number}",
            marks=[pytest.mark.processes] if each.rare else [],
        )
        for each in experiments
        for number, (value, seen) in enumerate(each.seen)
    ]
    return pytest.mark.parametrize(("observe", "value", "seen"), cases)


class Scripted:
    """A plugin object that does what its script says: raises exceptions, calls functions, returns other values."""

    def __init__(self, *script: Any, default: Any = "ok") -> None:
        self.script = list(script)
        self.default = default
        self.contexts: list[Any] = []
        self.status = PluginStatus.HEALTHY

    @property
    def calls(self) -> int:
        return len(self.contexts)

    def info(self) -> PluginInfo:
        return PluginInfo("p")

    def execute(self, request: Any, context: Any) -> Any:
        self.contexts.append(context)
        step = self.script.pop(0) if self.script else self.default
        if isinstance(step, Exception):
            raise step.with_traceback(None)
        return step() if callable(step) else step

    def health(self, timeout: float) -> HealthStatus:
        return HealthStatus(self.status)

    def close(self) -> None: ...


class Bench:
    """A manager on a manual clock, with one scripted plugin ``p``; the keywords are sections of its configuration."""

    def __init__(self, *script: Any, default: Any = "ok", **sections: Any) -> None:
        self.clock = ManualClock(start=1000.0)
        self.manager: Manager[Any, Any] = Manager(clock=self.clock)
        self.plugin = Scripted(*script, default=default)
        sections["retry"] = {"random_jitter": False, **sections.get("retry", {})}
        self.manager.register(self.plugin, PluginConfig.from_mapping({"name": "p", **sections}))

    def call(self, request: Any = None, **options: Any) -> Any:
        """The answer, or the name of the error's class."""
        try:
            return self.manager.execute("p", request, **options)
        except PluginError as error:
            self.error = error
            return type(error).__name__

    def elapsed(self, **options: Any) -> float:
        """Seconds that a call takes."""
        started = self.clock.monotonic()
        self.call(**options)
        return round(self.clock.monotonic() - started, 3)

    def sent(self, calls: int, **options: Any) -> int:
        """The number of attempts that so many calls send."""
        before = self.plugin.calls
        for _ in range(calls):
            self.call(**options)
        return self.plugin.calls - before
