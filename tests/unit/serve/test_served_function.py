from __future__ import annotations

import copy
import functools
import logging
import pickle
import threading
from dataclasses import dataclass
from typing import Any

import attrs
import pytest

from goplugins import serve
from goplugins.enums import PluginStatus
from goplugins.errors import (
    InvalidArgumentError,
    PluginConnectionError,
    PluginExecutionError,
    PluginInternalError,
    PluginTimeoutError,
    PluginUnavailableError,
    Replay,
)
from goplugins.models.context import ExecutionContext
from goplugins.models.plugin import PluginInfo
from goplugins.models.results import HealthStatus
from goplugins.runtime.deadline import Deadline
from goplugins.serve._served_function import ServedPlugin
from goplugins.testing import ManualClock


@attrs.frozen
class Login:
    user: str
    tries: list[int] = attrs.field(factory=list)


@dataclass
class Answer:
    welcome: str


class NoJSON:
    pass


def login(request: Login, context: ExecutionContext) -> Answer:
    """Lets a user in.

    More about it.
    """
    return Answer(f"{request.user} {context.request_id}")


def test_a_served_function_can_be_called_directly() -> None:
    served = serve.plugin(login)
    assert served(Login("ada"), ExecutionContext(request_id="r")) == Answer("ada r")
    assert served(Login("ada")) == Answer("ada None")
    assert served.__name__ == "login"  # type: ignore[attr-defined]


def test_name_and_description_default_to_the_functions() -> None:
    assert serve.plugin(login).info() == PluginInfo("login", description="Lets a user in.")


def test_the_decorators_arguments_become_the_info() -> None:
    served = serve.plugin(
        name="auth", version="2.1.0", description="d", author="me", capabilities=["a", "b"], metadata={"k": "v"}
    )(login)
    assert served.info() == PluginInfo("auth", "2.1.0", "d", "me", ("a", "b"), {"k": "v"})


def test_a_function_of_the_request_alone_needs_no_context() -> None:
    @serve.plugin
    def double(request: int) -> int:
        return request * 2

    assert double(4) == 8
    assert double.execute(4, ExecutionContext()) == 8
    assert double.request_type is int
    assert double.response_type is int


def test_a_callable_object_can_be_served() -> None:
    class Doubler:
        def __call__(self, request: int, context: ExecutionContext) -> int:
            return request * 2

    served = serve.plugin(Doubler())
    assert (served(3), served.info().name, served.request_type) == (6, "Doubler", int)


def test_decode_names_the_field_that_does_not_fit() -> None:
    served = serve.plugin(login)
    assert served.decode({"user": "ada", "tries": [1]}) == Login("ada", [1])
    with pytest.raises(InvalidArgumentError, match=r"data\.tries\[1\]"):
        served.decode({"user": "ada", "tries": [1, "x"]})
    with pytest.raises(InvalidArgumentError, match=r"data\.user"):
        served.decode({})


@pytest.mark.parametrize("function", [lambda: 0, lambda a, b, c: 0, lambda *, request: 0])
def test_a_function_of_other_arguments_is_refused(function: Any) -> None:
    with pytest.raises(InvalidArgumentError, match=r"expected f\(request\) or f\(request, context\)"):
        serve.plugin(function)


def test_an_async_function_is_refused() -> None:
    async def answer(request: int) -> int:
        return request

    with pytest.raises(InvalidArgumentError, match="can't be async"):
        serve.plugin(answer)


def test_types_that_json_can_not_express_are_refused_by_the_decorator() -> None:
    def takes(request: NoJSON) -> int:
        return 0

    def returns(request: int) -> NoJSON:
        return NoJSON()

    with pytest.raises(InvalidArgumentError, match=r"'takes', request: NoJSON"):
        serve.plugin(takes)
    with pytest.raises(InvalidArgumentError, match=r"'returns', response: NoJSON"):
        serve.plugin(returns)


def test_an_unresolvable_annotation_is_refused_by_name() -> None:
    def takes(request: Missing) -> int:  # type: ignore[name-defined]  # noqa: F821
        return 0

    with pytest.raises(InvalidArgumentError, match="'Missing' is not defined"):
        serve.plugin(takes)


def test_a_function_may_return_nothing() -> None:
    @serve.plugin
    def fire(request: int) -> None:
        return None

    assert fire.encode(fire(1)) == b"null"  # type: ignore[func-returns-value]


def test_rejected_is_never_empty_and_pickles() -> None:
    assert serve.Rejected("").message == "rejected"
    assert serve.Rejected("", code="NO").message == "NO"
    error = serve.Rejected("no", code="AUTH_FAILED", metadata={"left": "2"})
    for twin in (pickle.loads(pickle.dumps(error)), copy.copy(error)):
        assert (str(twin), twin.code, twin.metadata) == (
            "no",
            "AUTH_FAILED",
            {"left": "2", "error_code": "AUTH_FAILED"},
        )


def raising(error: BaseException) -> ServedPlugin[Any, Any]:
    @serve.plugin(name="it")
    def fail(request: Any) -> Any:
        raise error

    return fail


def test_in_process_a_rejection_is_an_execution_error_with_metadata() -> None:
    with pytest.raises(PluginExecutionError, match="no way") as caught:
        raising(serve.Rejected("no way", code="NO")).execute(None, ExecutionContext())
    assert caught.value.details == {"metadata": {"error_code": "NO"}}


def test_in_process_unavailable_with_retry_after_is_safe_to_retry() -> None:
    with pytest.raises(PluginUnavailableError, match="full") as caught:
        raising(serve.Unavailable("full", retry_after=2)).execute(None, ExecutionContext())
    assert (caught.value.retry_after, caught.value.replay) == (2, Replay.ALWAYS)
    with pytest.raises(PluginUnavailableError) as caught:
        raising(serve.Unavailable()).execute(None, ExecutionContext())
    assert caught.value.replay is Replay.IF_IDEMPOTENT
    with pytest.raises(InvalidArgumentError, match="retry_after"):
        serve.Unavailable(retry_after=-1)


def test_in_process_an_error_of_another_plugin_is_an_internal_error() -> None:
    # "Nothing was sent" of a nested call must not make the outer call retryable.
    with pytest.raises(PluginInternalError, match="raised PluginConnectionError") as caught:
        raising(PluginConnectionError("refused")).execute(None, ExecutionContext())
    assert caught.value.replay is not Replay.ALWAYS
    assert isinstance(caught.value.__cause__, PluginConnectionError)


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(3)])
def test_in_process_exceptions_for_the_host_propagate(error: BaseException) -> None:
    with pytest.raises(type(error)):
        raising(error).execute(None, ExecutionContext())


def test_in_process_calls_within_are_bounded_by_the_contexts_timeout() -> None:
    @serve.plugin
    def remaining(request: None) -> float:
        return Deadline.after(60.0).remaining()

    assert remaining.execute(None, ExecutionContext(timeout=5.0)) <= 5.0
    assert remaining.execute(None, ExecutionContext()) > 50.0


def test_in_process_a_nested_timeout_at_the_deadline_is_a_timeout() -> None:
    clock = ManualClock()

    def late(request: Any) -> Any:
        clock.advance(2.0)
        raise PluginTimeoutError("nested")

    served = ServedPlugin(late, PluginInfo("late"), clock=clock)
    with pytest.raises(PluginTimeoutError, match="during execution"):
        served.execute(None, ExecutionContext(timeout=1.0))
    with pytest.raises(PluginInternalError):
        served.execute(None, ExecutionContext(timeout=5.0))


@pytest.mark.parametrize(
    ("found", "status", "message"),
    [
        (True, PluginStatus.HEALTHY, ""),
        (False, PluginStatus.UNHEALTHY, ""),
        ("degraded", PluginStatus.DEGRADED, ""),
        (PluginStatus.OFFLINE, PluginStatus.OFFLINE, ""),
        ("the disk is full", PluginStatus.UNHEALTHY, "the disk is full"),
        (HealthStatus(PluginStatus.DEGRADED, "slow"), PluginStatus.DEGRADED, "slow"),
    ],
)
def test_results_of_a_health_function(found: Any, status: PluginStatus, message: str) -> None:
    health = serve.plugin(health=lambda: found)(login).health(1.0)
    assert (health.status, health.message) == (status, message)


def test_a_plugin_without_health_function_is_healthy() -> None:
    clock = ManualClock(100.0)
    health = ServedPlugin(login, PluginInfo("login"), clock=clock).health(1.0)
    assert health == HealthStatus(PluginStatus.HEALTHY, last_check=clock.time())


@pytest.mark.parametrize("error", [RuntimeError("secret"), SystemExit(1)])
def test_a_health_function_that_fails_is_unhealthy_and_logged(
    error: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    def check() -> bool:
        raise error

    health = serve.plugin(health=check)(login).health(1.0)
    assert (health.status, health.message) == (PluginStatus.UNHEALTHY, "the health check failed")
    (record,) = caplog.records
    assert record.levelno == logging.ERROR
    assert record.exc_info is not None
    assert record.exc_info[1] is error


def test_a_health_function_without_a_result_is_a_failure(caplog: pytest.LogCaptureFixture) -> None:
    health = serve.plugin(health=lambda: None)(login).health(1.0)  # type: ignore[arg-type,return-value]
    assert health.status is PluginStatus.UNHEALTHY
    assert "got NoneType" in caplog.text


def test_close_has_no_effect_and_the_import_starts_no_thread() -> None:
    served = serve.plugin(login)
    served.close()
    served.close()
    assert not [thread for thread in threading.enumerate() if "goplugins-serve" in thread.name]


@serve.plugin(name="top")
def at_the_top(request: str) -> str:
    return request.upper()


class Holder:
    @staticmethod
    @serve.plugin
    def inside(request: str) -> str:
        return request


def test_a_plugin_at_the_top_of_a_module_pickles_by_its_name() -> None:
    assert pickle.loads(pickle.dumps(at_the_top)) is at_the_top
    assert pickle.loads(pickle.dumps(Holder.inside)) is Holder.inside
    assert pickle.loads(pickle.dumps({"plugins": [at_the_top]}))["plugins"][0]("a") == "A"


def original(request: str) -> str:
    return request


under_another_name = serve.plugin(name="other")(original)


def test_a_plugin_that_is_not_found_by_its_name_can_not_be_pickled() -> None:
    @serve.plugin
    def local(request: str) -> str:
        return request

    for plugin in (local, under_another_name, serve.plugin(name="partial")(functools.partial(original))):
        with pytest.raises(InvalidArgumentError, match=r"can't be pickled: .* is not the plugin itself"):
            pickle.dumps(plugin)


def test_a_copy_of_a_plugin_is_the_plugin_itself() -> None:
    assert copy.copy(under_another_name) is under_another_name
    assert copy.deepcopy([under_another_name])[0] is under_another_name


@pytest.mark.parametrize("value", [float("inf"), float("nan"), -1, "5", float("-inf")])
def test_an_invalid_retry_after_is_refused(value: Any) -> None:
    with pytest.raises(InvalidArgumentError, match="retry_after: expected finite seconds of 0 or more"):
        serve.Unavailable(retry_after=value)


@pytest.mark.parametrize("value", [1e300, 10**400, 86_401])
def test_a_retry_after_is_a_day_at_most(value: float) -> None:
    assert serve.Unavailable(retry_after=value).retry_after == 86_400
