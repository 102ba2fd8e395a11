"""The python transport: a plugin in this process, with the same policies as a remote one."""

from __future__ import annotations

import copy
import inspect
import json
from concurrent.futures import Future
from typing import Any

import attrs

from goplugins.config.endpoints import Endpoint
from goplugins.config.plugin import PluginConfig
from goplugins.enums import PluginStatus, TransportType
from goplugins.errors import (
    InvalidArgumentError,
    InvalidConfigError,
    PluginClosedError,
    PluginError,
    PluginInternalError,
    PluginRequestError,
    PluginTimeoutError,
    Replay,
    SaturatedError,
)
from goplugins.models.context import ExecutionContext
from goplugins.models.plugin import PluginInfo
from goplugins.models.results import HealthStatus
from goplugins.observability.tracing import serving_span
from goplugins.runtime.call import Call
from goplugins.runtime.clock import SYSTEM_CLOCK, Clock, Waiter
from goplugins.runtime.workers import WorkerPool
from goplugins.serve._served import Served, found_for
from goplugins.serve._served_function import plain_function
from goplugins.transports.adapter import PluginAdapter
from goplugins.transports.base import TransportFactory, TransportSettings
from goplugins.transports.health_status import failed_check
from goplugins.transports.import_object import named_object
from goplugins.transports.interface import Sender

__all__ = ["FunctionPlugin", "FunctionPluginFactory"]

_MAX_QUEUED = 1024

GROUP = "goplugins.plugins"
"""The group of entry points under which packages offer their plugins."""


class _ServedSender(Sender):
    """Calls a served plugin through JSON, as if it were remote.

    So the plugin gets and refuses the same values as over any transport, and shares no object with its caller.
    """

    def __init__(self, plugin: Served) -> None:
        self._plugin = plugin
        self._adapter = PluginAdapter(plugin)

    def prepare(self, call: Call) -> None:
        call.payload = call.codec.encode(call.request)

    def send(self, call: Call) -> Any:
        plugin = found_for(self._plugin, call.operation)
        try:
            request = plugin.decode(json.loads(call.payload))
        except InvalidArgumentError as exc:
            raise PluginRequestError(f"the request was refused: {exc.message}") from exc
        typed = copy.copy(call)  # the call itself keeps the caller's request
        typed.request = request
        if call.idempotent and not any(name.lower() == "idempotency-key" for name in call.headers):
            typed.headers = {**call.headers, "Idempotency-Key": call.request_id}  # as every transport sends it
        with serving_span(plugin.name, call.request_id, call.headers, plugin.operation):
            response = self._adapter.send(typed)
        call.reply_metadata = typed.reply_metadata
        try:
            data = json.loads(plugin.encode(response))
        except InvalidArgumentError as exc:
            raise PluginInternalError(f"its response can't be written as JSON: {exc.message}") from exc
        return call.codec.decode(data, call.deadline)

    def health(self, timeout: float) -> HealthStatus:
        return self._adapter.health(timeout)

    def info(self) -> PluginInfo:
        return self._adapter.info()


class _ModuleObject(PluginAdapter):
    """Calls an object with the Plugin methods, which its module owns."""

    def close(self) -> None:
        """Does nothing: others may use the object."""


class _Isolated(Sender):
    """Runs calls on worker threads, so that a caller gets its error at the deadline whatever the plugin does.

    A call that exceeds its deadline keeps its worker until it ends.
    """

    def __init__(self, sender: Sender, workers: WorkerPool, clock: Clock) -> None:
        self._sender = sender
        self._workers = workers
        self._clock = clock

    def prepare(self, call: Call) -> None:
        self._sender.prepare(call)

    def info(self) -> PluginInfo:
        return self._sender.info()

    def send(self, call: Call) -> Any:
        deadline = call.deadline
        if deadline.attempt_timeout is None:
            return self._wait(self._workers.submit(self._sender.send, call), deadline.remaining())
        begun = Waiter()
        future = self._workers.submit(self._begin, call, begun)
        future.add_done_callback(begun.set)  # also if it never begins
        try:
            self._clock.wait(begun, max(0.0, deadline.of_call.remaining()))
        except BaseException:
            future.cancel()
            raise
        return self._wait(future, deadline.remaining() if begun.is_set() else 0.0)

    def _begin(self, call: Call, begun: Waiter) -> Any:
        call.deadline.restart()  # the wait for a worker is no time of the attempt's
        begun.set()
        return self._sender.send(call)

    def _wait(self, future: Future[Any], seconds: float) -> Any:
        done = Waiter()
        future.add_done_callback(done.set)
        try:
            in_time = self._clock.wait(done, max(0.0, seconds))
        except BaseException:
            future.cancel()
            raise
        if in_time or future.done():
            return future.result()
        if future.cancel():
            raise SaturatedError(f"no free worker before the deadline: all {self._workers.max_workers} were busy")
        raise PluginTimeoutError("timed out; the plugin's code continues and keeps its worker thread until it ends")

    def health(self, timeout: float) -> HealthStatus:
        try:
            found: HealthStatus = self._wait(self._workers.submit(self._sender.health, timeout), timeout)
            return found
        except PluginError as error:
            return attrs.evolve(failed_check(error), message=error.message, last_check=self._clock.time())

    def close(self) -> None:
        self._sender.close()
        self._workers.shutdown(wait=False)


class FunctionPlugin(Sender):
    """A plugin in this process: a function, a served plugin, or an object with the Plugin methods.

    Functions and served plugins are called through JSON, as if they were remote; objects get the request itself. A
    call runs on the caller's thread, with its deadline in the context. With ``options.isolate`` it runs on one of
    ``connection.max_connections`` worker threads, and the caller does not wait beyond the deadline.

    Args:
        config: ``endpoint`` names the object; its module is imported now, so that a wrong name is a ConfigError.
        clock: source of time.

    Raises:
        ConfigError: there is no such object, it can't be called, or its module can't be imported.
    """

    def __init__(self, config: PluginConfig, *, clock: Clock = SYSTEM_CLOCK) -> None:
        self._settings = settings = TransportSettings.of(config, clock)
        self._endpoint = config.endpoint
        self._closed = False
        self._sender = _sender_for(config)
        if config.options.get("isolate"):
            workers = settings.connection.max_connections or 1
            pool = WorkerPool(f"goplugins-{config.name}", workers, _MAX_QUEUED, inline=False)
            self._sender = _Isolated(self._sender, pool, clock)

    # --- Sender ------------------------------------------------------------------------------------------------

    def prepare(self, call: Call) -> None:
        """Encodes the request as JSON, if the plugin is called through JSON."""
        self._sender.prepare(call)

    def send(self, call: Call) -> Any:
        """One attempt. See :class:`goplugins.transports.interface.Sender`."""
        if self._closed:
            raise PluginClosedError("the plugin is closed")
        if call.deadline.remaining() <= 0:
            raise PluginTimeoutError("the deadline passed before the plugin was called", replay=Replay.ALWAYS)
        try:
            return self._sender.send(call)
        except PluginError as error:
            error.plugin = self._settings.name  # the object may have set another name
            raise

    def health(self, timeout: float) -> HealthStatus:
        """Calls the plugin's health method; never raises."""
        if self._closed:
            return HealthStatus(PluginStatus.UNKNOWN, "the plugin is closed")
        return self._sender.health(timeout)

    def info(self) -> PluginInfo:
        """Name, version and capabilities of the plugin."""
        return self._sender.info()

    def close(self) -> None:
        """Rejects later calls. The object itself is not closed: its module owns it, and others may use it."""
        self._closed = True
        self._sender.close()

    # --- Plugin ------------------------------------------------------------------------------------------------

    def execute(self, request: Any, context: ExecutionContext = ExecutionContext(), /) -> Any:  # noqa: B008 - frozen
        """One attempt with plain JSON values, outside the policies.

        Raises:
            PluginError: the attempt failed.
        """
        return self._settings.execute(self, request, context)

    def __repr__(self) -> str:
        return f"<FunctionPlugin {self._settings.name!r} of {self._endpoint}>"


def _sender_for(config: PluginConfig) -> Sender:
    found = named_object(config.endpoint, GROUP)
    if isinstance(found, Served):
        _check_operations(found, config)
        return _ServedSender(found)
    if inspect.isclass(found):
        raise InvalidConfigError(f"{config.endpoint} is a class", path="endpoint", fix="name a function or an instance")
    if all(callable(getattr(found, method, None)) for method in ("info", "execute", "health", "close")):
        return _ModuleObject(found)
    if not callable(found):
        fix = "name a function, or an object with info, execute, health and close"
        raise InvalidConfigError(f"{config.endpoint} can't be called", path="endpoint", fix=fix)
    try:
        return _ServedSender(plain_function(found))
    except InvalidArgumentError as exc:
        raise InvalidConfigError(f"{config.endpoint}: {exc.message}", path="endpoint") from exc


def _check_operations(plugin: Served, config: PluginConfig) -> None:
    """Refuses operations of the configuration that the plugin does not have."""
    for name in config.operations:
        try:
            plugin.find(name)
        except InvalidArgumentError as exc:
            raise InvalidConfigError(
                exc.message, path=f"operations.{name}", fix="write a name of the plugin's"
            ) from exc


class FunctionPluginFactory(TransportFactory[FunctionPlugin]):
    """Creates plugins that run in this process.

    Args:
        clock: for its plugins.
    """

    transports = (TransportType.PYTHON,)

    def _create(self, config: PluginConfig) -> FunctionPlugin:
        return FunctionPlugin(config, clock=self._clock)

    def _check(self, config: PluginConfig) -> None:
        Endpoint.parse(TransportType.PYTHON, config.endpoint)
