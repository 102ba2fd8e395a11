"""The manager of a web application: created at its first use, in any process, and found by proxies."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import Any, cast

import attrs

from goplugins.contrib._settings import HostSettings
from goplugins.errors import InvalidArgumentError
from goplugins.manager.bound import BoundPlugin
from goplugins.manager.dispatch import CallDispatcher
from goplugins.manager.manager import Manager
from goplugins.transports.json_codec import codec_for

__all__ = ["AnyManager", "Hosted", "manager_proxy"]

AnyManager = Manager[Any, Any]


class Hosted:
    """One application's manager, created once, at its first use. A manager created before a fork works in children.

    Args:
        settings: returns the application's settings.
    """

    def __init__(self, settings: Callable[[], HostSettings]) -> None:
        self._settings = settings
        self._made: dict[str, AnyManager] = {}  # a dict: its operations are atomic
        self._in_making: tuple[int, int, AnyManager] | None = None
        # One lock per process: another thread may have held the parent's at the fork.
        self._turns: dict[int, threading.RLock] = {}

    @property
    def is_made(self) -> bool:
        """Whether the manager exists."""
        return bool(self._made)

    def get(self) -> AnyManager:
        """The manager, configured.

        Raises:
            ConfigError: the settings, or the configuration that they name, can't be used. The next use tries again.
        """
        return self._made.get("manager") or self._make()

    def _make(self) -> AnyManager:
        here = (os.getpid(), threading.get_ident())
        # Other threads wait here: reading the file twice and dropping one manager would take longer.
        with self._turns.setdefault(os.getpid(), threading.RLock()):
            if "manager" in self._made:
                return self._made["manager"]
            current = self._in_making
            if current is not None and current[:2] == here:
                return current[2]  # requested by the application's own set-up function
            settings = self._settings()
            manager: AnyManager = Manager(interceptors=settings.interceptors)
            self._in_making = (*here, manager)
            try:
                _configure(manager, settings)
            except BaseException:
                manager.shutdown(0.0)
                raise
            finally:
                self._in_making = None
            self._made["manager"] = manager
            return manager

    def reset(self, timeout: float = 5.0) -> None:
        """Shuts the manager down; the next use creates a new one. For tests and changed settings."""
        with self._turns.setdefault(os.getpid(), threading.RLock()):  # waits for one under construction
            manager = self._made.pop("manager", None)
        if manager is not None:
            manager.shutdown(timeout)


def _configure(manager: AnyManager, settings: HostSettings) -> None:
    if settings.setup is not None:
        settings.setup(manager)
    if settings.config is None:
        return
    if settings.watched is not None:
        manager.watch(settings.watched)
    else:
        manager.load_from_config(settings.config)


class _CurrentManager:
    """The call dispatcher of the application's current manager; pickles as that manager."""

    __slots__ = ("_find",)

    def __init__(self, find: Callable[[], AnyManager]) -> None:
        self._find = find

    def __getattr__(self, name: str) -> Any:
        return getattr(self._find()._dispatcher, name)

    def __reduce__(self) -> tuple[Any, ...]:
        return self._find().__reduce__()


class _Proxy:
    __slots__ = ("_find_manager", "_how")

    def __init__(self, find: Callable[[], AnyManager], how: str) -> None:
        self._find_manager = find
        self._how = how

    def bind(
        self, name: str, request_type: Any = attrs.NOTHING, response_type: Any = attrs.NOTHING, *, operation: str = ""
    ) -> BoundPlugin[Any, Any]:
        """See :meth:`goplugins.Manager.bind`. Creates no manager, and follows its replacement."""
        if (request_type is attrs.NOTHING) != (response_type is attrs.NOTHING):
            raise InvalidArgumentError("give both request_type and response_type, or neither for plain JSON values")
        codec = codec_for() if request_type is attrs.NOTHING else codec_for(request_type, response_type)
        manager = _CurrentManager(self._find_manager)
        return BoundPlugin(cast(CallDispatcher, manager), name, codec, manager, operation)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # inspecting a module must not create a manager
            raise AttributeError(name)
        return getattr(self._find_manager(), name)

    def __repr__(self) -> str:
        return f"<{self._how}>"


def manager_proxy(find: Callable[[], AnyManager], how: str) -> AnyManager:
    """A proxy for the manager that ``find`` returns at each use; ``how`` is its repr."""
    return cast(AnyManager, _Proxy(find, how))
