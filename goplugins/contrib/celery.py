"""Plugins in Celery tasks.

One line gives every task of an application a deadline and an id for its calls, and manages the workers::

    plugins = install(app, config="plugins.yaml")

Tasks on :class:`PluginTask` are retried when a plugin's error is retryable::

    @app.task(base=PluginTask)
    def fetch(symbol):
        return plugins.execute("quotes", symbol)

See docs/howto/celery.md.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Mapping
from os import PathLike
from typing import Any, ClassVar

from celery import Celery, Task, signals

from goplugins.config import ManagerConfig
from goplugins.contrib._manager_proxy import AnyManager, Hosted, manager_proxy
from goplugins.contrib._request_limits import Block, usable_request_id
from goplugins.contrib._settings import HostSettings
from goplugins.doctor import Host, bounded_here
from goplugins.doctor.this_process import call_limit, declare
from goplugins.errors import ConfigError, PluginError
from goplugins.runtime.clock import SYSTEM_CLOCK

__all__ = ["PluginTask", "install", "retry_delay"]

logger = logging.getLogger("goplugins.celery")

_BLOCK = "goplugins_block"
_CHILD_PATIENCE = 5.0
"""Seconds that an ending worker process waits for calls that threads of its tasks still make."""

_LONGEST_RETRY_AFTER = 86400.0
"""Maximum ``retry_after`` in seconds: a task's start time has to be a valid date."""


def install(
    app: Celery,
    manager: AnyManager | None = None,
    *,
    config: ManagerConfig | Mapping[str, Any] | str | PathLike[str] | None = None,
    setup: Callable[[AnyManager], object] | None = None,
) -> AnyManager:
    """Bounds the plugin calls of the application's tasks by their time limits, and manages the workers.

    - Calls end before the task's ``soft_time_limit`` or ``time_limit``, whichever comes first: a tenth before, at most
      2 s. Their ids begin with the task's.
    - A worker with an invalid configuration logs the problems and does not start.
    - A worker process that ends waits for its calls first.

    May be repeated with the same application: the last call counts.

    Args:
        app: the Celery application.
        manager: an existing manager, such as ``goplugins.contrib.django.plugins``. Created if left out.
        config: the configuration of a manager created here, loaded at its first use.
        setup: called with it before that, to register plugins in code.

    Returns:
        The manager. If it is created here, then at its first use, once per process.

    Raises:
        ConfigError: both a manager and a configuration or set-up for a new one.
    """
    if manager is not None and (config is not None or setup is not None):
        raise ConfigError("manager= excludes config= and setup=", fix="load the configuration into the manager")
    wiring = _Wiring(app, manager, HostSettings(config=config, setup=setup))
    identity = f"goplugins.{id(app)}"
    for signal, receiver in wiring.receivers():
        signal.disconnect(dispatch_uid=identity)
        signal.connect(receiver, weak=False, dispatch_uid=identity)
    return wiring.manager


class _Wiring:
    """Receivers of Celery's signals, which are sent for all applications."""

    def __init__(self, app: Celery, manager: AnyManager | None, settings: HostSettings) -> None:
        self._app = app
        self._hosted: Hosted | None = None
        if manager is None:
            self._hosted = Hosted(lambda: settings)
            manager = manager_proxy(self._hosted.get, "the plugins of the Celery application")
        self.manager = manager
        self._limits: tuple[float | None, float | None] = (None, None)  # the worker's, for tasks without their own

    def receivers(self) -> list[tuple[Any, Callable[..., None]]]:
        return [
            (signals.worker_init, self._worker_starts),
            (signals.worker_shutdown, self._worker_ends),
            (signals.worker_process_shutdown, self._process_ends),
            (signals.task_prerun, self._task_starts),
            (signals.task_postrun, self._task_ends),
        ]

    # --- workers -----------------------------------------------------------------------------------------------

    def _worker_starts(self, sender: Any, **_: Any) -> None:
        if sender.app is not self._app:
            return
        self._limits = (sender.time_limit, sender.soft_time_limit)
        limits = [each for each in self._limits if each]
        in_processes = "prefork" in str(getattr(sender.pool_cls, "__module__", sender.pool_cls))
        declare(
            Host(
                "celery",
                sender.concurrency if in_processes and isinstance(sender.concurrency, int) else 1,
                min(limits, default=None),
                "Celery's time limit",
            )
        )
        bounded_here()
        try:
            self.manager.list_plugins()
        except ConfigError as error:
            for problem in error.problems:
                logger.critical("the configuration can't be used: %s", problem)
            raise SystemExit(1) from error
        except Exception as error:  # Celery would log it and go on
            logger.critical("the plugins can't be set up", exc_info=True)
            raise SystemExit(1) from error

    def _worker_ends(self, sender: Any, **_: Any) -> None:
        # A manager that was passed in may serve others, where the worker is a thread of a test.
        if self._hosted is not None and sender.app is self._app:
            self._hosted.reset(_CHILD_PATIENCE)

    def _process_ends(self, **_: Any) -> None:
        if self._hosted is None or self._hosted.is_made:
            self.manager.shutdown(_CHILD_PATIENCE)

    # --- tasks -------------------------------------------------------------------------------------------------

    def _task_starts(self, task: Any, **_: Any) -> None:
        if task.app is not self._app:
            return
        hard, soft = task.request.timelimit or (None, None)
        limits = (hard or task.time_limit or self._limits[0], soft or task.soft_time_limit or self._limits[1])
        shortest = min((each for each in limits if each), default=None)
        seconds = None if shortest is None else call_limit(shortest)
        block = Block(usable_request_id(task.request.id), seconds, SYSTEM_CLOCK)
        # Kept on the request: once it is collected, the block bounds no call, however the task has ended.
        setattr(task.request, _BLOCK, block)
        block.__enter__()

    def _task_ends(self, task: Any, **_: Any) -> None:
        block = task.request.__dict__.pop(_BLOCK, None)
        if block is not None:
            block.__exit__(None, None, None)


# --- retries -------------------------------------------------------------------------------------------------------


class PluginTask(Task):  # type: ignore[type-arg]  # generic for type checkers only
    """A task that Celery retries when a plugin call fails with a retryable error.

    The delay is the error's ``retry_after``, and at least ``retry_backoff`` seconds, doubled each time and reduced at
    random by up to half. All other errors, and the last one after ``max_retries`` (3), are the task's result. The
    whole task is executed again.

    Attributes:
        retry_backoff: seconds before the first retry.
        retry_backoff_max: the longest wait, unless ``retry_after`` is longer.
    """

    abstract = True
    retry_backoff: float = 5.0
    retry_backoff_max: float = 600.0
    rng: ClassVar[random.Random] = random.SystemRandom()  # forked siblings must not retry in step

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Runs the task; called by Celery."""
        if self.request.called_directly:
            return super().__call__(*args, **kwargs)
        try:
            return self.run(*args, **kwargs)
        except PluginError as error:
            if not error.retryable:
                raise
            delay = retry_delay(
                error, self.request.retries, first=self.retry_backoff, longest=self.retry_backoff_max, rng=self.rng
            )
            raise self.retry(exc=error, countdown=delay) from error


def retry_delay(error: PluginError, retries: int, *, first: float, longest: float, rng: random.Random) -> float:
    """Seconds to wait before the next retry of a task.

    Args:
        error: its ``retry_after``, up to a day, is the minimum.
        retries: the number of retries so far.
        first: before the first retry; doubled each time.
        longest: the upper bound of the doubling, and the wait for a breaker that is forced open.
        rng: shortens the wait by up to half.
    """
    backoff: float = min(first * 2.0 ** min(retries, 32), longest) * rng.uniform(0.5, 1.0)
    retry_after = error.retry_after or 0.0
    return max(backoff, longest if retry_after == float("inf") else min(retry_after, _LONGEST_RETRY_AFTER))
