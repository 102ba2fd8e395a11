"""Fallback: which errors it is for, the reserve, and its three kinds."""

from __future__ import annotations

import inspect
import re

import attrs
import pytest

import goplugins.errors as errors
from goplugins.config import FallbackConfig
from goplugins.errors import InvalidConfigError, PluginError, PluginTimeoutError, PluginUnavailableError
from goplugins.resilience.fallback import Fallback, could_not_serve, deadline_less_reserve
from goplugins.runtime.call import Call
from goplugins.runtime.deadline import Deadline
from goplugins.testing import ManualClock
from goplugins.transports.json_codec import codec_for

YES, NO, RATE_LIMIT = True, False, "rate-limit"

ELIGIBLE = {
    "AuthenticationError": NO,
    "BadReplyError": YES,
    "BulkheadFullError": YES,
    "CertificateError": YES,
    "CircuitBreakerOpenError": YES,
    "CircuitBreakerTimeoutError": YES,
    "ConnectionLostError": YES,
    "CredentialsProviderError": NO,
    "ExecTransportError": YES,
    "GRPCTransportError": YES,
    "HTTPTransportError": YES,
    "HealthCheckFailedError": YES,
    "HealthCheckTimeoutError": YES,
    "InterceptorError": NO,
    "InvalidArgumentError": NO,
    "InvalidHeaderError": NO,
    "LoadBalancerError": NO,
    "LocalResourceError": YES,
    "ManagerClosedError": NO,
    "NameResolutionError": YES,
    "NoAvailablePluginsError": YES,
    "OperationNotFoundError": NO,
    "PluginClosedError": NO,
    "PluginConnectionError": YES,
    "PluginError": YES,
    "PluginExecutionError": NO,
    "PluginInternalError": YES,
    "PluginNotEnabledError": NO,
    "PluginNotFoundError": NO,
    "PluginRequestError": NO,
    "PluginThrottledError": RATE_LIMIT,
    "PluginTimeoutError": YES,
    "PluginUnavailableError": YES,
    "RateLimitExceededError": RATE_LIMIT,
    "ReloadError": NO,
    "ReplyMismatchError": YES,
    "ReplyTooLargeError": YES,
    "ReplyTypeError": YES,
    "SaturatedError": YES,
    "TLSError": YES,
    "TokenRefusedError": NO,
    "TransportError": YES,
    "TruncatedReplyError": YES,
    "UnexpectedRedirectError": YES,
    "UnixTransportError": YES,
    "UnserializableRequestError": NO,
}
"""Every class of errors, so that a new one has to be added here; errors of the configuration are NO."""

CLASSES = {
    name: kind
    for name in errors.__all__
    if inspect.isclass(kind := getattr(errors, name)) and issubclass(kind, PluginError)
}


def test_the_table_has_every_error_of_calls():
    calls = {name for name, kind in CLASSES.items() if not issubclass(kind, errors.ConfigError)}
    assert set(ELIGIBLE) == calls


@pytest.mark.parametrize("name", CLASSES)
def test_could_not_serve(name):
    error = CLASSES[name]("it failed")
    wanted = ELIGIBLE.get(name, NO)
    assert could_not_serve(error) is (wanted is YES)
    assert could_not_serve(error, ["rate-limit"]) is (wanted in (YES, RATE_LIMIT))


@pytest.mark.parametrize("error", [ValueError("x"), KeyboardInterrupt(), SystemExit(), TimeoutError()], ids=repr)
def test_other_exceptions_have_no_fallback(error):
    assert not could_not_serve(error, ["rate-limit"])


def test_a_fallback_as_text():
    assert str(fallback_of(plugin="backup")) == "plugin 'backup'"
    assert str(fallback_of(value={"user": "guest"})) == "a static value"
    assert str(fallback_of(function=lambda request, error: None)) == "a function"


# --- reserve ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("left", "reserve", "plugin_has"),
    [(10.0, 2.0, 8.0), (10.0, 5.0, 5.0), (10.0, 8.0, 5.0), (1.0, 30.0, 0.5), (10.0, 0.0, 10.0), (-1.0, 2.0, -1.0)],
)
def test_the_reserve_is_at_most_half_of_the_remaining_time(left, reserve, plugin_has):
    clock = ManualClock(100.0)
    deadline = Deadline(100.0 + left, clock)
    assert deadline_less_reserve(deadline, reserve).remaining() == pytest.approx(plugin_has)
    assert deadline.remaining() == pytest.approx(left)
    assert (deadline_less_reserve(deadline, reserve) is deadline) is (plugin_has == left)


# --- another plugin --------------------------------------------------------------------------------------------------

ERROR = PluginUnavailableError("down")


def make_call(clock, codec=None, timeout=30.0, **fields):
    return Call("request", codec or codec_for(), Deadline.after(timeout, clock), "id-1", **fields)


def fallback_of(forward=None, clock=None, name="main", **fields):
    return Fallback(FallbackConfig(**fields), name, forward or (lambda name, call: None), clock or ManualClock())


def test_another_plugin_gets_an_equal_call_of_its_own():
    clock = ManualClock()
    seen = []

    def forward(name, call):
        seen.append((name, call))
        call.attempts = 2
        call.reply_metadata = {"rows": "1"}
        return "from backup"

    call = make_call(clock, headers={"h": "1"}, metadata={"m": "2"}, idempotent=True, key="k", priority=3)
    call.payload, call.attempts, call.admitted, call.inside, call.reconnected = b"bytes", 4, True, True, True
    assert fallback_of(forward, plugin="backup").answer(call, ERROR) == "from backup"
    ((name, other),) = seen
    assert name == "backup"
    assert other is not call
    same = ("request", "codec", "deadline", "request_id", "headers", "metadata", "idempotent", "key", "priority")
    assert {field: getattr(other, field) for field in same} == {field: getattr(call, field) for field in same}
    assert (other.payload, other.admitted, other.inside, other.reconnected) == (b"", False, False, False)
    assert other.through == ("main",)
    assert (call.member, call.reply_metadata, call.attempts) == ("backup", {"rows": "1"}, 4)


def test_the_member_of_a_group_that_answered_is_set():
    def forward(name, call):
        call.member = "backup-2"

    call = make_call(ManualClock())
    fallback_of(forward, plugin="backup").answer(call, ERROR)
    assert call.member == "backup-2"


@pytest.mark.parametrize(("name", "through", "way"), [("main", (), "main -> main"), ("b", ("a",), "a -> b -> a")])
def test_a_cycle_of_fallbacks_is_an_error_of_the_configuration(name, through, way):
    call = make_call(ManualClock())
    call.through = through
    fallback = fallback_of(name=name, plugin=way.split()[-1])
    with pytest.raises(InvalidConfigError, match=re.escape(f"fallbacks go in a circle: {way}")):
        fallback.answer(call, ERROR)


def test_another_plugin_is_not_called_without_time_left():
    clock = ManualClock()
    call = make_call(clock, timeout=1.0)
    clock.advance(1.0)
    fallback = fallback_of(lambda name, call: pytest.fail("it was called"), plugin="backup")
    with pytest.raises(PluginTimeoutError, match=r"set fallback\.reserve to keep some back"):
        fallback.answer(call, ERROR)


# --- a static value --------------------------------------------------------------------------------------------------


@attrs.frozen
class Answer:
    user: str
    roles: list[str]


def test_a_static_value_is_decoded_for_each_call():
    clock = ManualClock()
    fallback = fallback_of(value={"user": "guest", "roles": ["reader"]})
    codec = codec_for(str, Answer)
    fallback.check(codec)
    first = fallback.answer(make_call(clock, codec), ERROR)
    first.roles.append("admin")
    assert fallback.answer(make_call(clock, codec), ERROR) == Answer("guest", ["reader"])


def test_plain_json_is_not_shared():
    clock = ManualClock()
    fallback = fallback_of(value={"roles": []})
    fallback.answer(make_call(clock), ERROR)["roles"].append("admin")
    assert fallback.answer(make_call(clock), ERROR) == {"roles": []}


@pytest.mark.parametrize("value", [None, False, 0, "", []], ids=repr)
def test_a_falsy_value_is_a_value(value):
    assert fallback_of(value=value).answer(make_call(ManualClock()), ERROR) == value


def test_a_static_value_of_the_wrong_type_is_an_error_of_the_configuration():
    fallback = fallback_of(value={"user": "guest", "roles": "reader"})
    with pytest.raises(InvalidConfigError, match="it is not an Answer: expected a list, got a string") as caught:
        fallback.check(codec_for(str, Answer))
    assert caught.value.path == "fallback.value"
    assert "plugin 'main'" in str(caught.value)


def test_a_value_is_checked_for_each_pair_of_types():
    fallback = fallback_of(value=3)
    fallback.check(codec_for(str, int))
    with pytest.raises(InvalidConfigError):
        fallback.check(codec_for(str, Answer))


def test_an_object_of_the_response_type_is_a_value():
    fallback = fallback_of(value=Answer("guest", []))
    codec = codec_for(str, Answer)
    fallback.check(codec)
    first = fallback.answer(make_call(ManualClock(), codec), ERROR)
    first.roles.append("admin")
    assert fallback.answer(make_call(ManualClock(), codec), ERROR) == Answer("guest", [])


def test_a_value_is_decoded_once_for_its_check():
    decoded = []

    class CountingCodec:
        response_type = Answer

        def decode(self, data):
            decoded.append(data)
            return codec_for(str, Answer).decode(data)

    codec, fallback = CountingCodec(), fallback_of(value={"user": "guest", "roles": []})
    for _ in range(3):
        fallback.check(codec)
    fallback_of(plugin="backup").check(codec)
    assert len(decoded) == 1


def test_a_refused_value_names_the_fix():
    with pytest.raises(InvalidConfigError, match="write a value of the type of the plugin's answers"):
        fallback_of(value={"user": 7, "roles": []}).check(codec_for(str, Answer))


def test_an_object_of_another_type_is_refused():
    with pytest.raises(InvalidConfigError, match="it is of type Answer, and the response of type str"):
        fallback_of(value=Answer("guest", [])).check(codec_for(str, str))


def test_an_object_that_can_not_be_copied_is_refused_at_once():
    with pytest.raises(InvalidConfigError, match="a generator can't be copied"):
        fallback_of(value=(x for x in ()))


# --- a function ------------------------------------------------------------------------------------------------------


def test_a_function_gets_the_request_and_the_error():
    seen = []
    fallback = fallback_of(function=lambda request, error: seen.append((request, error)) or "made up")
    assert fallback.answer(make_call(ManualClock()), ERROR) == "made up"
    assert seen == [("request", ERROR)]


@pytest.mark.parametrize(("spent", "left"), [(4.0, 6.0), (10.0, 0.0)])
def test_the_deadline_bounds_calls_made_by_a_function(spent, left):
    clock = ManualClock()
    call = make_call(clock, timeout=10.0)
    clock.advance(spent)
    fallback = fallback_of(clock=clock, function=lambda request, error: Deadline.after(60.0, clock).remaining())
    assert fallback.answer(call, ERROR) == pytest.approx(left, abs=1e-4)
    assert Deadline.after(60.0, clock).remaining() == 60.0
