"""Plugins in Celery tasks: deadlines from time limits, retries, errors through a result backend."""

from __future__ import annotations

import json
import logging
import pickle
import random
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from celery import Celery, signals
from celery.backends.base import Backend
from celery.contrib.testing.worker import start_worker
from celery.exceptions import SoftTimeLimitExceeded

from goplugins import (
    CircuitBreakerOpenError,
    ConfigError,
    ExecutionContext,
    Manager,
    PluginConnectionError,
    PluginError,
    PluginExecutionError,
    PluginNotFoundError,
    RateLimitExceededError,
    serve,
)
from goplugins.contrib.celery import PluginTask, install, retry_delay
from goplugins.runtime.request_ids import current_request_id
from tests.unit.contrib.probes import manager_with_probe, register_probe


@pytest.fixture
def app() -> Iterator[Celery]:
    made = Celery("test", broker="memory://", backend="cache+memory://", set_as_current=False)
    made.conf.update(task_always_eager=True, task_store_eager_result=False)
    yield made
    made.close()


@pytest.fixture
def own_root_logger() -> Iterator[None]:
    """Restores the root logger, which a worker in this process configures."""
    root = logging.getLogger()
    level, handlers = root.level, list(root.handlers)
    yield
    root.setLevel(level)
    root.handlers = handlers


@pytest.fixture
def plugins() -> Iterator[Manager[Any, Any]]:
    with manager_with_probe() as made:
        yield made


class StubWorker:
    """The sender of worker signals."""

    def __init__(self, app: Celery) -> None:
        self.app = app


def task_of(app: Celery, function: Callable[[], Any], name: str = "call", **options: Any) -> Any:
    """A task that is registered with this application only."""

    def run() -> Any:
        return function()

    return app.task(name=name, shared=False, **options)(run)


# --- deadlines and ids -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("limits", "seconds"),
    [
        ({"soft_time_limit": 10}, 9.0),
        ({"time_limit": 10}, 9.0),
        ({"soft_time_limit": 10, "time_limit": 15}, 9.0),
        ({"soft_time_limit": 25}, 23.0),
        ({"soft_time_limit": 600}, 30.0),  # the timeout of the plugin
        ({}, 30.0),
    ],
)
def test_calls_end_before_the_tasks_limit(
    app: Celery, plugins: Manager[Any, Any], limits: dict[str, int], seconds: float
) -> None:
    install(app, plugins)
    task = task_of(app, lambda: plugins.execute("probe", ""), "call", **limits)
    left = task.delay().get()["timeout"]
    assert seconds - 0.5 < left <= seconds


def test_limits_of_the_application_and_of_a_message_apply(app: Celery, plugins: Manager[Any, Any]) -> None:
    install(app, plugins)
    app.conf.task_soft_time_limit = 20
    task = task_of(app, lambda: plugins.execute("probe", "")["timeout"], "call")
    assert 17 < task.delay().get() <= 18
    assert 4 < task.apply(time_limit=5).get() <= 18


def test_request_ids_begin_with_the_task_id(app: Celery, plugins: Manager[Any, Any]) -> None:
    install(app, plugins)
    task = task_of(app, lambda: plugins.execute("probe", "")["request_id"], "call")
    found = task.apply(task_id="task-7")
    assert found.get().startswith("task-7.")
    assert current_request_id() is None


def test_nested_tasks_obey_the_outer_limit(app: Celery, plugins: Manager[Any, Any]) -> None:
    install(app, plugins)
    inner = task_of(app, lambda: plugins.execute("probe", "")["timeout"], "inner", soft_time_limit=20)

    @app.task(name="outer", shared=False, soft_time_limit=10)
    def outer() -> list[float]:
        first = inner.apply().get(disable_sync_subtasks=False)
        return [first, plugins.execute("probe", "")["timeout"]]

    assert all(left <= 9 for left in outer.delay().get())
    assert plugins.execute("probe", "")["timeout"] > 29


def test_a_failed_task_leaves_no_deadline_and_no_request_id(app: Celery, plugins: Manager[Any, Any]) -> None:
    install(app, plugins)

    @app.task(name="fail", shared=False, soft_time_limit=1)
    def fail() -> None:
        raise RuntimeError("of a task")

    for _ in range(3):
        assert fail.apply().state == "FAILURE"
    assert plugins.execute("probe", "")["timeout"] > 29
    assert current_request_id() is None


def test_other_applications_are_not_affected(app: Celery, plugins: Manager[Any, Any]) -> None:
    install(app, plugins)
    other = Celery("other", broker="memory://", set_as_current=False)
    other.conf.task_always_eager = True
    task = task_of(other, lambda: plugins.execute("probe", "")["timeout"], "call", soft_time_limit=10)
    assert task.delay().get() > 29
    other.close()


def test_a_second_install_changes_nothing(app: Celery, plugins: Manager[Any, Any]) -> None:
    install(app, plugins)
    install(app, plugins)
    task = task_of(app, lambda: plugins.execute("probe", "")["request_id"], "call")
    assert task.apply(task_id="task-7").get().count("task-7") == 1


# --- the manager ---------------------------------------------------------------------------------------------------


def test_the_manager_is_created_at_first_use(app: Celery) -> None:
    made: list[Any] = []

    def setup(manager: Manager[Any, Any]) -> None:
        made.append(manager)
        register_probe(manager)

    plugins = install(app, setup=setup)
    task = task_of(app, lambda: plugins.execute("probe", "")["timeout"], "call", soft_time_limit=10)
    assert made == []
    assert task.delay().get() <= 9
    assert len(made) == 1
    made[0].shutdown()


@pytest.mark.parametrize("signal", [signals.worker_shutdown, signals.worker_process_shutdown])
def test_the_manager_is_shut_down_with_its_worker(app: Celery, signal: Any) -> None:
    made: list[Any] = []
    plugins = install(app, setup=made.append)
    signal.send(sender=StubWorker(app), app=app)
    assert made == []  # no manager is created for the signal
    plugins.list_plugins()
    signal.send(sender=StubWorker(app), app=app)
    assert repr(made[0]) == "<Manager: closed>"


def test_a_manager_passed_in_is_not_shut_down_with_the_worker(app: Celery, plugins: Manager[Any, Any]) -> None:
    install(app, plugins)
    signals.worker_shutdown.send(sender=StubWorker(app))
    assert plugins.execute("probe", "")["timeout"] > 0


def test_a_manager_and_a_configuration_exclude_each_other(app: Celery, plugins: Manager[Any, Any]) -> None:
    with pytest.raises(ConfigError):
        install(app, plugins, config={})


def test_a_worker_with_an_invalid_configuration_does_not_start(app: Celery, caplog: pytest.LogCaptureFixture) -> None:
    install(app, config="/nowhere/plugins.yaml")
    with pytest.raises(SystemExit):
        app.WorkController(pool="solo")
    assert "/nowhere/plugins.yaml" in caplog.text


def test_a_worker_with_a_failing_setup_does_not_start(app: Celery, caplog: pytest.LogCaptureFixture) -> None:
    def setup(manager: Manager[Any, Any]) -> None:
        raise KeyError("no such thing")

    install(app, setup=setup)
    with pytest.raises(SystemExit):
        app.WorkController(pool="solo")
    assert "no such thing" in caplog.text


# --- retries -------------------------------------------------------------------------------------------------------


class Flaky:
    """Raises ``errors`` one after the other, then returns."""

    def __init__(self, *errors: Exception) -> None:
        self.errors = list(errors)
        self.calls = 0

    def __call__(self) -> str:
        self.calls += 1
        if self.errors:
            raise self.errors.pop(0)
        return "done"


def retried(app: Celery, flaky: Flaky, **options: Any) -> tuple[Any, list[float]]:
    """The result of the task, and the countdowns of its retries in seconds."""
    delays: list[float] = []

    class RecordingTask(PluginTask):
        abstract = True

        def retry(self, *words: Any, countdown: float | None = None, **kwargs: Any) -> Any:
            delays.append(countdown or 0.0)
            return super().retry(*words, countdown=countdown, **kwargs)

    task = task_of(app, flaky, "flaky", base=RecordingTask, **options)
    return task.apply(), delays


def unreachable() -> PluginError:
    return PluginConnectionError("connection refused", retryable=True)


def test_retryable_errors_are_retried(app: Celery) -> None:
    flaky = Flaky(unreachable(), CircuitBreakerOpenError("open", retryable=True, retry_after=40.0))
    result, delays = retried(app, flaky)
    assert result.get() == "done"
    assert 2.5 <= delays[0] <= 5
    assert delays[1] == 40
    assert flaky.calls == 3


@pytest.mark.parametrize(
    "error", [PluginExecutionError("no"), PluginNotFoundError("no such plugin"), RuntimeError("of a task")]
)
def test_other_errors_are_not_retried(app: Celery, error: Exception) -> None:
    assert not getattr(error, "retryable", False)
    flaky = Flaky(error)
    result, delays = retried(app, flaky)
    with pytest.raises(type(error)):
        result.get()
    assert (flaky.calls, delays) == (1, [])


def test_the_last_error_is_the_result(app: Celery) -> None:
    flaky = Flaky(*(unreachable() for _ in range(9)))
    result, _ = retried(app, flaky, max_retries=2)
    with pytest.raises(PluginConnectionError, match="refused"):
        result.get()
    assert flaky.calls == 3


def test_a_task_called_as_a_function_raises_the_error(app: Celery) -> None:
    task = task_of(app, Flaky(unreachable()), "flaky", base=PluginTask)
    with pytest.raises(PluginConnectionError):
        task()


def test_a_bound_task_has_the_number_of_retries(app: Celery) -> None:
    tries: list[int] = []

    @app.task(name="count", shared=False, base=PluginTask, bind=True)
    def count(self: Any) -> None:
        tries.append(self.request.retries)
        if len(tries) < 3:
            raise unreachable()

    count.apply()
    assert tries == [0, 1, 2]


def test_retry_delays_grow_and_have_jitter() -> None:
    rng = random.Random(7)
    waits = [[retry_delay(unreachable(), n, first=5.0, longest=60.0, rng=rng) for _ in range(50)] for n in range(6)]
    for number, found in enumerate(waits):
        full = min(5.0 * 2**number, 60.0)
        assert full / 2 <= min(found) < max(found) <= full
    assert retry_delay(unreachable(), 10_000, first=5.0, longest=60.0, rng=rng) <= 60


def test_a_retry_delay_is_at_least_retry_after_and_at_most_a_day() -> None:
    rng = random.Random(7)
    limited = RateLimitExceededError("limited", retryable=True, retry_after=3600.0)
    assert retry_delay(limited, 0, first=5.0, longest=60.0, rng=rng) == 3600
    excessive = RateLimitExceededError("limited", retryable=True, retry_after=1e15)
    assert retry_delay(excessive, 0, first=5.0, longest=60.0, rng=rng) == 86400
    forced_open = CircuitBreakerOpenError("forced open", retryable=True, retry_after=float("inf"))
    assert retry_delay(forced_open, 0, first=5.0, longest=60.0, rng=rng) == 60


# --- soft time limits ------------------------------------------------------------------------------------------------


def test_a_soft_time_limit_passes_through_a_call_unchanged(app: Celery) -> None:
    @serve.plugin(name="interrupted")
    def interrupted(request: str, context: ExecutionContext) -> str:
        raise SoftTimeLimitExceeded(7)

    with Manager() as plugins:
        plugins.register(interrupted)
        install(app, plugins)

        @app.task(name="work", shared=False, base=PluginTask)
        def work() -> str:
            try:
                plugins.execute("interrupted", "", idempotent=True)
            except SoftTimeLimitExceeded:
                return "cleaned up"
            return "not reached"

        result = work.apply()
        assert result.get() == "cleaned up"
        assert result.state == "SUCCESS"


# --- result backends -----------------------------------------------------------------------------------------------


def rich_error() -> PluginError:
    try:
        try:
            raise OSError("socket")
        except OSError as cause:
            raise CircuitBreakerOpenError(
                "open", plugin="quotes", attempts=2, elapsed=0.5, retry_after=4.0, details={"status": 503}
            ) from cause
    except PluginError as error:
        return error


@pytest.mark.parametrize("serializer", ["json", "pickle"])
def test_errors_survive_a_result_backend(app: Celery, serializer: str) -> None:
    app.conf.update(result_serializer=serializer, accept_content=["json", "pickle"])
    backend: Backend = app.backend
    stored = backend.prepare_exception(rich_error(), serializer)
    transferred = json.loads(json.dumps(stored)) if serializer == "json" else pickle.loads(pickle.dumps(stored))
    found = backend.exception_to_python(transferred)
    assert type(found) is CircuitBreakerOpenError
    assert (found.code, found.plugin, found.attempts, found.elapsed) == ("CIRCUIT_1401", "quotes", 2, 0.5)
    assert (found.retry_after, found.details) == (4.0, {"status": 503})
    assert "socket" in str(found.__cause__)


# --- a real worker ---------------------------------------------------------------------------------------------------


@pytest.mark.hosts
@pytest.mark.usefixtures("own_root_logger")
@pytest.mark.parametrize(("pool", "serializer"), [("solo", "json"), ("threads", "pickle")])
def test_a_worker_makes_calls_and_returns_errors(pool: str, serializer: str) -> None:
    name = f"{pool}-{serializer}"
    app = Celery("worker", broker="memory://", backend="cache+memory://", set_as_current=False)
    app.conf.update(
        broker_transport_options={"polling_interval": 0.02},
        task_default_queue=name,  # all in-memory brokers of a process are one
        accept_content=["json", "pickle"],
        result_serializer=serializer,
        result_accept_content=["json", "pickle"],
        broker_connection_retry_on_startup=True,
    )
    made: list[Manager[Any, Any]] = []

    def setup(manager: Manager[Any, Any]) -> None:
        made.append(manager)
        register_probe(manager)

    plugins = install(app, setup=setup)

    @app.task(name="call", shared=False, soft_time_limit=10)
    def call(plugin: str) -> Any:
        return plugins.execute(plugin, "")

    with start_worker(app, pool=pool, concurrency=2, perform_ping_check=False, shutdown_timeout=20):
        pending = [call.apply_async(("probe",), task_id=f"{name}-{number}") for number in range(4)]
        for number, result in enumerate(pending):
            reply = result.get(timeout=20)
            assert reply["request_id"].startswith(f"{name}-{number}.")
            assert reply["timeout"] <= 9
        with pytest.raises(PluginNotFoundError) as raised:
            call.delay("missing").get(timeout=20)
        assert raised.value.plugin == "missing"
    made[0].shutdown()
    app.close()
