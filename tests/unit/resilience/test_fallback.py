"""The fallback alone: when it is asked, and its three kinds."""

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

ASKED = {
    "AuthenticationError": NO,
    "BadReplyError": YES,
    "BulkheadFullError": YES,
    "CertificateError": YES,
    "CircuitBreakerOpenError": YES,
    "CircuitBreakerTimeoutError": YES,
    "ConnectionLostError": YES,
    "ExecTransportError": YES,
    "GRPCTransportError": YES,
    "HTTPTransportError": YES,
    "HealthCheckFailedError": YES,
    "HealthCheckTimeoutError": YES,
    "InvalidArgumentError": NO,
    "InvalidHeaderError": NO,
    "LoadBalancerError": NO,
    "ManagerClosedError": NO,
    "NameResolutionError": YES,
    "NoAvailablePluginsError": YES,
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
    "TransportError": YES,
    "TruncatedReplyError": YES,
    "UnexpectedRedirectError": YES,
    "UnixTransportError": YES,
    "UnserializableRequestError": NO,
}
"""Every class of errors, so that a new one has to be decided on; those of configuration are no call's, and NO."""

CLASSES = {
    name: kind
    for name in errors.__all__
    if inspect.isclass(kind := getattr(errors, name)) and issubclass(kind, PluginError)
}


def test_the_table_names_every_class_that_a_call_can_raise():
    calls = {name for name, kind in CLASSES.items() if not issubclass(kind, errors.ConfigError)}
    assert set(ASKED) == calls


@pytest.mark.parametrize("name", CLASSES)
def test_whether_the_plugin_could_not_serve(name):
    error = CLASSES[name]("it failed")
    wanted = ASKED.get(name, NO)
    assert could_not_serve(error) is (wanted is YES)
    assert could_not_serve(error, ["rate-limit"]) is (wanted in (YES, RATE_LIMIT))


@pytest.mark.parametrize("error", [ValueError("x"), KeyboardInterrupt(), SystemExit(), TimeoutError()], ids=repr)
def test_what_is_no_plugin_error_is_never_answered_by_somebody_else(error):
    assert not could_not_serve(error, ["rate-limit"])


# --- time ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("left", "reserve", "plugin_has"),
    [(10.0, 2.0, 8.0), (10.0, 5.0, 5.0), (10.0, 8.0, 5.0), (1.0, 30.0, 0.5), (10.0, 0.0, 10.0), (-1.0, 2.0, -1.0)],
)
def test_the_reserve_is_kept_back_but_never_more_than_half(left, reserve, plugin_has):
    clock = ManualClock(100.0)
    deadline = Deadline(100.0 + left, clock)
    assert deadline_less_reserve(deadline, reserve).remaining() == pytest.approx(plugin_has)
    assert deadline.remaining() == pytest.approx(left), "the whole deadline stays what it is"


# --- another plugin --------------------------------------------------------------------------------------------------

ERROR = PluginUnavailableError("down")


def make_call(clock, codec=None, timeout=30.0, **fields):
    return Call("request", codec or codec_for(), Deadline.after(timeout, clock), "id-1", **fields)


def fallback_of(forward=None, clock=None, name="main", **fields):
    return Fallback(FallbackConfig(**fields), name, forward or (lambda name, call: None), clock or ManualClock())


def test_another_plugin_gets_the_same_call_as_its_own():
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


def test_the_member_of_a_group_that_answered_is_named():
    def forward(name, call):
        call.member = "backup-2"

    call = make_call(ManualClock())
    fallback_of(forward, plugin="backup").answer(call, ERROR)
    assert call.member == "backup-2"


@pytest.mark.parametrize(("name", "through", "way"), [("main", (), "main -> main"), ("b", ("a",), "a -> b -> a")])
def test_a_circle_ends_where_it_closes(name, through, way):
    call = make_call(ManualClock())
    call.through = through
    fallback = fallback_of(name=name, plugin=way.split()[-1])
    with pytest.raises(InvalidConfigError, match=re.escape(f"fallbacks go in a circle: {way}")):
        fallback.answer(call, ERROR)


def test_another_plugin_is_not_asked_when_no_time_is_left():
    clock = ManualClock()
    call = make_call(clock, timeout=1.0)
    clock.advance(1.0)
    fallback = fallback_of(lambda name, call: pytest.fail("it was asked"), plugin="backup")
    with pytest.raises(PluginTimeoutError, match=r"set fallback\.reserve to keep some back"):
        fallback.answer(call, ERROR)


# --- a static value --------------------------------------------------------------------------------------------------


@attrs.frozen
class Answer:
    user: str
    roles: list[str]


def test_a_static_value_becomes_the_response_type_anew_for_each_call():
    clock = ManualClock()
    fallback = fallback_of(value={"user": "guest", "roles": ["reader"]})
    codec = codec_for(str, Answer)
    fallback.check(codec)
    first = fallback.answer(make_call(clock, codec), ERROR)
    first.roles.append("admin")
    assert fallback.answer(make_call(clock, codec), ERROR) == Answer("guest", ["reader"])


def test_plain_json_is_not_shared_either():
    clock = ManualClock()
    fallback = fallback_of(value={"roles": []})
    fallback.answer(make_call(clock), ERROR)["roles"].append("admin")
    assert fallback.answer(make_call(clock), ERROR) == {"roles": []}


@pytest.mark.parametrize("value", [None, False, 0, "", []], ids=repr)
def test_a_value_that_counts_as_false_is_a_value(value):
    assert fallback_of(value=value).answer(make_call(ManualClock()), ERROR) == value


def test_a_static_value_of_the_wrong_type_is_an_error_of_the_configuration_before_it_is_needed():
    fallback = fallback_of(value={"user": "guest", "roles": "reader"})
    with pytest.raises(InvalidConfigError, match="it is not an Answer: expected a list, got a string") as caught:
        fallback.check(codec_for(str, Answer))
    assert caught.value.path == "fallback.value"
    assert "plugin 'main'" in str(caught.value)


def test_two_pairs_of_types_are_checked_each():
    fallback = fallback_of(value=3)
    fallback.check(codec_for(str, int))
    with pytest.raises(InvalidConfigError):
        fallback.check(codec_for(str, Answer))


def test_code_may_give_an_object_of_the_response_type():
    fallback = fallback_of(value=Answer("guest", []))
    codec = codec_for(str, Answer)
    fallback.check(codec)
    first = fallback.answer(make_call(ManualClock(), codec), ERROR)
    first.roles.append("admin")
    assert fallback.answer(make_call(ManualClock(), codec), ERROR) == Answer("guest", [])


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
def test_calls_that_a_function_makes_keep_to_what_is_left_of_the_deadline(spent, left):
    clock = ManualClock()
    call = make_call(clock, timeout=10.0)
    clock.advance(spent)
    fallback = fallback_of(clock=clock, function=lambda request, error: Deadline.after(60.0, clock).remaining())
    assert fallback.answer(call, ERROR) == pytest.approx(left, abs=1e-4)
    assert Deadline.after(60.0, clock).remaining() == 60.0
