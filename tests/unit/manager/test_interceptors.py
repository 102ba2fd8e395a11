"""Interceptors are around the whole call, on its thread, for every way of a call; refusals count against no plugin."""

from __future__ import annotations

import contextvars
import functools
import pickle
import signal
import threading
from typing import Any

import attrs
import pytest

from goplugins import (
    CallInfo,
    ExecutionContext,
    Manager,
    OperationConfig,
    PluginConfig,
    PluginError,
    PluginNotFoundError,
    ReplyTypeError,
    RetryConfig,
    deadline,
)
from goplugins.errors import InterceptorError, InvalidArgumentError, InvalidHeaderError, PluginTimeoutError
from goplugins.manager import pickling

seen: list[Any] = []


@attrs.frozen
class Sent:
    """What the plugin got."""

    text: str
    headers: dict[str, str]
    metadata: dict[str, str]
    operation: str = ""


class Plugin:
    """Answers with what it got; raises its request if that is an exception."""

    def __init__(self) -> None:
        self.calls = 0

    def info(self) -> Any:
        raise NotImplementedError

    def health(self, timeout: float) -> Any:
        raise NotImplementedError

    def close(self) -> None:
        pass

    def execute(self, request: Any, context: ExecutionContext) -> Any:
        self.calls += 1
        if isinstance(request, Exception):
            raise request
        return Sent(str(request), dict(context.headers), dict(context.metadata), context.operation)


def made(*interceptors: Any, response: Any = Sent) -> Manager[Any, Any]:
    manager: Manager[Any, Any] = Manager(Any, response, interceptors=interceptors)
    operations = {"find": OperationConfig(), "save": OperationConfig(idempotent=True)}
    manager.register(Plugin(), PluginConfig(name="shop", operations=operations, retry=RetryConfig(max_retries=0)))
    return manager


def tenant(call: CallInfo, proceed: Any) -> Any:
    call.headers = {**call.headers, "X-Tenant": "acme"}
    call.metadata = {**call.metadata, "by": "tenant"}
    return proceed()


def refuse(call: CallInfo, proceed: Any) -> Any:
    raise PluginError("no tenant", retryable=True)


@pytest.fixture(autouse=True)
def clear() -> Any:
    seen.clear()
    yield
    pickling._unpickled.clear()


# --- every way of a call -----------------------------------------------------------------------------------------


def by_execute(manager: Manager[Any, Any]) -> Sent:
    return manager.execute("shop", "x", operation="find")


def by_result(manager: Manager[Any, Any]) -> Sent:
    return manager.execute_result("shop", "x", operation="find").value


def by_submit(manager: Manager[Any, Any]) -> Sent:
    return manager.submit("shop", "x", operation="find").result(20)


def by_map(manager: Manager[Any, Any]) -> Sent:
    (answer,) = manager.map("shop", ["x"], operation="find")
    return answer


def by_map_results(manager: Manager[Any, Any]) -> Sent:
    (result,) = manager.map_results("shop", ["x"], operation="find")
    return result.value


def by_bound(manager: Manager[Any, Any]) -> Sent:
    return manager.bind("shop", Any, Sent, operation="find")("x")


def by_bound_submit(manager: Manager[Any, Any]) -> Sent:
    return manager.bind("shop", Any, Sent, operation="find").submit("x").result(20)


WAYS = [by_execute, by_result, by_submit, by_map, by_map_results, by_bound, by_bound_submit]


@pytest.mark.parametrize("way", WAYS)
def test_they_are_around_every_call_the_first_one_outermost(way: Any) -> None:
    def outer(call: CallInfo, proceed: Any) -> Any:
        seen.append("outer")
        answer = proceed()
        seen.append(f"outer: {call.attempts} {call.source}")
        return answer

    def inner(call: CallInfo, proceed: Any) -> Any:
        seen.append(f"inner: {call.plugin} {call.operation} {call.request} {call.attempts}")
        try:
            return proceed()
        finally:
            seen.append("inner ends")

    with made(outer, inner, tenant) as manager:
        answer = way(manager)
    assert answer == Sent("x", {"X-Tenant": "acme"}, {"by": "tenant"}, "find")
    assert seen == ["outer", "inner: shop find x 0", "inner ends", "outer: 1 plugin"]


@pytest.mark.parametrize("way", WAYS)
def test_a_refusal_is_the_error_of_the_call_and_counts_against_no_plugin(way: Any) -> None:
    with made(refuse) as manager:
        with pytest.raises(PluginError, match="plugin 'shop', operation 'find': no tenant") as caught:
            way(manager)
        assert (caught.value.plugin, caught.value.operation, caught.value.retryable) == ("shop", "find", True)
        counts = manager.metrics().plugins["shop"]
        assert (counts.requests_total, counts.attempts_total, counts.active_requests) == (0, 0, 0)
        assert manager.explain("shop").admits
    assert manager.metrics().requests_total == 0


def test_a_submitted_call_is_intercepted_on_its_worker_in_the_context_of_the_caller() -> None:
    current: contextvars.ContextVar[str] = contextvars.ContextVar("current", default="none")

    def note(call: CallInfo, proceed: Any) -> Any:
        seen.append((threading.current_thread() is threading.main_thread(), current.get()))
        return proceed()

    with made(note) as manager:
        token = current.set("acme")
        by_execute(manager)
        by_submit(manager)
        by_map(manager)
        current.reset(token)
    assert seen == [(True, "acme"), (False, "acme"), (False, "acme")]


def test_an_unloaded_name_reaches_no_interceptor() -> None:
    with made(tenant) as manager, pytest.raises(PluginNotFoundError):
        manager.execute("shap", "x")


def down(text: str) -> Sent:
    raise ConnectionError(text)


def test_a_fallback_is_part_of_its_call() -> None:
    def count(call: CallInfo, proceed: Any) -> Any:
        seen.append(call.plugin)
        return proceed()

    with made(count, tenant) as manager:
        fallback = {"fallback": {"plugin": "shop"}, "retry": {"max_retries": 0}}
        manager.register(down, PluginConfig.from_mapping({"name": "down", **fallback}))
        result = manager.execute_result("down", "x")
    assert seen == ["down"]
    assert (result.source, result.value.headers) == ("fallback", {"X-Tenant": "acme"})


# --- what they see ---------------------------------------------------------------------------------------------------


def test_the_call_as_they_see_it() -> None:
    def note(call: CallInfo, proceed: Any) -> Any:
        seen.append(call)
        seen.append((call.request_id, call.idempotent, call.key, call.context, dict(call.headers), dict(call.metadata)))
        seen.append(call.remaining)
        return proceed()

    context = ExecutionContext("id-1", headers={"A": "1"}, metadata={"m": "2"}, key="k")
    with made(note) as manager:
        with deadline(5):
            manager.execute("shop", "x", context, operation="save", headers={"B": "3"})
        manager.execute("shop", "x", operation="find")
    assert seen[1] == ("id-1", True, "k", context, {"A": "1", "B": "3"}, {"m": "2"})
    assert 0 < seen[2] <= 5
    assert seen[4][1:4] == (False, "", None)
    assert repr(seen[0]) == "<CallInfo: 'shop' 'save', request id-1>"


def test_headers_and_metadata_are_changed_as_a_whole() -> None:
    headers = {"A": "1"}

    def change(call: CallInfo, proceed: Any) -> Any:
        with pytest.raises(TypeError):
            call.headers["X"] = "1"  # type: ignore[index]
        with pytest.raises(AttributeError):
            call.request = 1  # type: ignore[misc]
        return tenant(call, proceed)

    with made(change) as manager:
        assert manager.execute("shop", "x", headers=headers).headers == {"A": "1", "X-Tenant": "acme"}
        assert manager.execute("shop", "x", ExecutionContext(headers=headers)).headers["A"] == "1"
        assert headers == {"A": "1"}
        assert manager.execute("shop", "x").headers == {"X-Tenant": "acme"}


@pytest.mark.parametrize(
    ("name", "value", "error", "text"),
    [
        ("headers", {"X": "a\nb"}, InvalidHeaderError, r"headers\['X'\]"),
        ("headers", {"X Y": "a"}, InvalidHeaderError, "'X Y' is not a valid header name"),
        ("headers", {"X": 3}, InvalidHeaderError, "expected a string, got int"),
        ("headers", None, InvalidArgumentError, "headers: expected a mapping of strings"),
        ("metadata", {"m": 1}, InvalidArgumentError, r"metadata\['m'\]: expected strings, got int"),
        ("metadata", [("m", "1")], InvalidArgumentError, "metadata: expected a mapping of strings"),
    ],
)
def test_they_are_checked_as_those_of_a_caller(name: str, value: Any, error: type[PluginError], text: str) -> None:
    def change(call: CallInfo, proceed: Any) -> Any:
        setattr(call, name, value)
        return proceed()

    with made(change) as manager, pytest.raises(error, match=text) as caught:
        by_execute(manager)
    assert caught.value.plugin == "shop"


@pytest.mark.parametrize("name", ["headers", "metadata"])
def test_a_change_after_the_call_is_an_error(name: str) -> None:
    def late(call: CallInfo, proceed: Any) -> Any:
        proceed()
        setattr(call, name, {})

    with made(late) as manager, pytest.raises(InvalidArgumentError, match=f"{name}: the call has been made"):
        by_execute(manager)


# --- what they raise -------------------------------------------------------------------------------------------------


def test_another_exception_becomes_one_plugin_error_with_its_cause() -> None:
    def broken(call: CallInfo, proceed: Any) -> Any:
        return {}["tenant"]

    with made(tenant, broken) as manager:
        with pytest.raises(InterceptorError, match=r"interceptor .*broken raised KeyError: 'tenant'") as caught:
            by_execute(manager)
        assert isinstance(caught.value.__cause__, KeyError)
        assert str(caught.value).startswith("[PLUGIN_1221] plugin 'shop', operation 'find': interceptor ")
        assert manager.metrics().requests_total == 0


def test_an_exception_after_the_answer_says_that_the_call_was_made() -> None:
    def broken(call: CallInfo, proceed: Any) -> Any:
        proceed()
        raise ValueError("late")

    with made(broken) as manager:
        with pytest.raises(InterceptorError) as caught:
            by_execute(manager)
        assert caught.value.attempts == 1
        assert manager.metrics().plugins["shop"].requests_success == 1


def test_an_error_of_the_call_passes_and_may_be_handled() -> None:
    def handle(call: CallInfo, proceed: Any) -> Any:
        try:
            return proceed()
        except PluginTimeoutError as error:
            seen.append((error.plugin, call.attempts))
            return Sent("default", {}, {})

    with made(tenant) as manager, pytest.raises(PluginTimeoutError, match="plugin 'shop': slow"):
        manager.execute("shop", PluginTimeoutError("slow"))
    with made(handle, tenant) as manager:
        result = manager.execute_result("shop", PluginTimeoutError("slow"))
        assert (result.value.text, result.source) == ("default", "interceptor")
        assert manager.metrics().plugins["shop"].requests_failure == 1
    assert seen == [("shop", 1)]


class Stop(BaseException):
    pass


def test_exceptions_that_are_no_errors_pass() -> None:
    def stop(call: CallInfo, proceed: Any) -> Any:
        raise Stop

    with made(tenant, stop) as manager, pytest.raises(Stop):
        by_execute(manager)


@pytest.mark.parametrize("wrapped", [False, True])
def test_an_exception_of_a_signal_handler_passes(wrapped: bool) -> None:
    def on_signal(number: int, frame: Any) -> None:
        raise TimeoutError("of the host")

    def interrupted(call: CallInfo, proceed: Any) -> Any:
        try:
            signal.raise_signal(signal.SIGUSR1)
        except TimeoutError as exc:
            if wrapped:
                raise ValueError("while interrupted") from exc
            raise
        return proceed()

    before = signal.signal(signal.SIGUSR1, on_signal)
    try:
        with made(tenant, interrupted) as manager, pytest.raises(TimeoutError, match="of the host") as caught:
            by_execute(manager)
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert type(caught.value) is TimeoutError


def test_the_error_of_another_plugin_keeps_its_name() -> None:
    def token(call: CallInfo, proceed: Any) -> Any:
        if call.plugin == "shop":
            manager.execute("tokens", PluginTimeoutError("slow"))
        return proceed()

    with made(token) as manager:
        manager.register(Plugin(), PluginConfig(name="tokens", retry=RetryConfig(max_retries=0)))
        with pytest.raises(PluginTimeoutError, match="plugin 'tokens': slow"):
            by_execute(manager)


# --- answers -------------------------------------------------------------------------------------------------------


def test_an_answer_without_the_call_is_held_to_the_response_type() -> None:
    def stored(call: CallInfo, proceed: Any) -> Any:
        return {"text": "stored", "headers": {}, "metadata": {}}

    def wrong(call: CallInfo, proceed: Any) -> Any:
        return {"text": 3}

    with made(stored) as manager:
        result = manager.execute_result("shop", "x")
        assert (result.value, result.source, result.attempts) == (Sent("stored", {}, {}), "interceptor", 0)
    with made(tenant, wrong) as manager, pytest.raises(ReplyTypeError, match=r"interceptor .*wrong: ") as caught:
        by_execute(manager)
    assert (caught.value.plugin, caught.value.operation) == ("shop", "find")


@pytest.mark.parametrize("response", [Sent, Any])
def test_a_forgotten_return_is_an_error(response: Any) -> None:
    def forgetful(call: CallInfo, proceed: Any) -> Any:
        proceed()

    with made(forgetful, response=response) as manager, pytest.raises(InterceptorError, match="return that answer"):
        by_execute(manager)


def test_an_answer_of_none_passes_as_any_other() -> None:
    def stored(call: CallInfo, proceed: Any) -> Any:
        return None

    with made(stored, response=Sent | None) as manager:
        assert manager.execute("shop", "x") is None
    with Manager(interceptors=[tenant]) as manager:
        manager.register(forget, name="none")
        assert manager.execute("none", "x") is None


def forget(text: str) -> None:
    """A plugin whose answer is None."""


def test_a_call_is_made_once() -> None:
    kept = []

    def twice(call: CallInfo, proceed: Any) -> Any:
        kept.append(proceed)
        proceed()
        return proceed()

    with made(twice) as manager:
        with pytest.raises(InvalidArgumentError, match=r"twice called proceed\(\) again"):
            by_execute(manager)
        with pytest.raises(InvalidArgumentError, match="after its end"):
            kept[0]()
        assert manager.metrics().plugins["shop"].requests_total == 1


def test_a_late_interceptor_is_bounded_by_the_deadline_of_the_call() -> None:
    def late(call: CallInfo, proceed: Any) -> Any:
        threading.Event().wait(call.remaining)
        return proceed()

    with made(late) as manager, pytest.raises(PluginTimeoutError, match="before anything was sent"):
        manager.execute("shop", "x", timeout=0.02)


# --- what can be an interceptor ------------------------------------------------------------------------------------


class Callable:
    def __call__(self, call: CallInfo, proceed: Any) -> Any:
        return proceed()


async def asynchronous(call: CallInfo, proceed: Any) -> Any:
    return proceed()


@pytest.mark.parametrize(
    ("interceptors", "text"),
    [
        (tenant, "expected a list of functions"),
        (3, "expected a list of functions"),
        (["shop:tenant"], "expected functions, got 'shop:tenant'"),
        ([asynchronous], "asynchronous is asynchronous"),
        ([lambda call: None], r"does not take \(call, proceed\)"),
        ([lambda call, proceed, more: None], r"does not take \(call, proceed\)"),
    ],
)
def test_what_is_no_interceptor_is_refused_at_once(interceptors: Any, text: str) -> None:
    with pytest.raises(InvalidArgumentError, match=text):
        Manager(interceptors=interceptors)


@pytest.mark.parametrize("interceptor", [Callable(), functools.partial(tenant), lambda call, proceed: proceed()])
def test_any_callable_of_two_arguments_is_one(interceptor: Any) -> None:
    with made(interceptor) as manager:
        assert by_execute(manager).text == "x"


# --- other processes -----------------------------------------------------------------------------------------------


def shout(text: str) -> str:
    return text.upper()


CONFIG = {"plugins": [{"name": "shout", "transport": "python", "endpoint": f"{__name__}:shout"}]}


def note_call(call: CallInfo, proceed: Any) -> Any:
    seen.append(call.plugin)
    return proceed()


@pytest.mark.parametrize("bound", [False, True])
def test_functions_of_modules_are_pickled_with_their_manager(bound: bool) -> None:
    manager = Manager(str, str, interceptors=[note_call])
    manager.load_from_config(CONFIG)
    pickled = pickle.dumps(manager.bind("shout") if bound else manager)
    managers = dict(pickling._managers)
    pickling._managers.clear()  # as in another process
    try:
        restored = pickle.loads(pickled)
    finally:
        pickling._managers.update(managers)
    assert (restored("x") if bound else restored.execute("shout", "x")) == "X"
    assert seen == ["shout"]
    manager.shutdown()


@pytest.mark.parametrize(
    ("interceptor", "name"),
    [
        (lambda call, proceed: proceed(), "<lambda>"),
        (Callable(), "Callable"),
        (functools.partial(note_call), "partial"),
        (Callable().__call__, "Callable.__call__"),
    ],
)
def test_others_are_not(interceptor: Any, name: str) -> None:
    manager = Manager(str, str, interceptors=[note_call, interceptor])
    manager.load_from_config(CONFIG)
    with pytest.raises(TypeError, match=rf"does not pickle: interceptor .*{name} is not a function of a module"):
        pickle.dumps(manager)
    manager.shutdown()
