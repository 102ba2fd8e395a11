"""Errors keep their attributes through pickle, copy and JSON; their classes say what they mean for an attempt."""

import copy
import inspect
import json
import pickle

import pytest

from goplugins import errors
from goplugins.errors import (
    CircuitBreakerOpenError,
    ConfigError,
    InvalidConfigError,
    PluginConnectionError,
    PluginError,
    PluginNotFoundError,
    PluginTimeoutError,
    RemoteCause,
    Replay,
    Verdict,
    belongs_to_host,
    is_fair_timeout,
    redact_url,
)

ALL = [cls for _, cls in inspect.getmembers(errors, inspect.isclass) if issubclass(cls, PluginError)]


def made(cls: type[PluginError]) -> PluginError:
    error = cls(
        "went wrong",
        plugin="auth",
        endpoint="http://127.0.0.1/x",
        attempts=3,
        elapsed=1.5,
        retry_after=2.0,
        details={"status": 503},
    )
    error.__cause__ = ConnectionResetError(104, "reset by peer")
    error.add_note("a note")
    return error


@pytest.mark.parametrize("cls", ALL, ids=lambda cls: cls.__name__)
@pytest.mark.parametrize("travel", [lambda e: pickle.loads(pickle.dumps(e)), copy.copy, copy.deepcopy])
def test_attributes_cause_and_notes_survive(cls, travel):
    error = made(cls)
    arrived = travel(error)
    assert type(arrived) is cls
    assert str(arrived) == str(error)
    assert arrived.__dict__ == error.__dict__
    assert arrived.__notes__ == ["a note"]
    assert type(arrived.__cause__) is ConnectionResetError


@pytest.mark.parametrize("cls", ALL, ids=lambda cls: cls.__name__)
def test_attributes_survive_a_json_channel_that_carries_args(cls):
    error = made(cls)
    arrived = cls(*json.loads(json.dumps(error.args)))
    for name in ("message", "code", "plugin", "endpoint", "attempts", "elapsed", "retryable", "retry_after", "details"):
        assert getattr(arrived, name) == getattr(error, name)
    assert isinstance(arrived.__cause__, RemoteCause)
    assert "ConnectionResetError" in str(arrived.__cause__)


@pytest.mark.parametrize("cls", ALL, ids=lambda cls: cls.__name__)
def test_every_class_can_be_made_without_arguments(cls):
    assert cls.code in str(cls())


def test_codes_are_distinct_except_for_a_refinement_of_the_same_kind():
    by_code: dict[str, list[type[PluginError]]] = {}
    for cls in ALL:
        by_code.setdefault(cls.code, []).append(cls)
    shared = {code: classes for code, classes in by_code.items() if len(classes) > 1}
    for classes in shared.values():
        assert any(all(issubclass(cls, top) for cls in classes) for top in classes), classes


def test_an_unpicklable_cause_arrives_as_its_text():
    error = PluginError("x")
    error.__cause__ = ValueError(lambda: None)
    assert "ValueError" in str(pickle.loads(pickle.dumps(error)).__cause__)


def test_details_that_json_can_not_hold_arrive_as_text():
    state = PluginError("x", details={"when": {1, 2}}).args[1]
    assert json.loads(json.dumps(state))["details"] == {"when": "{1, 2}"}


def test_errors_are_caught_by_the_standard_exceptions():
    assert issubclass(PluginConnectionError, ConnectionError)
    assert issubclass(PluginTimeoutError, TimeoutError)
    assert issubclass(PluginNotFoundError, LookupError)
    assert issubclass(ConfigError, ValueError)


def test_the_text_names_plugin_and_attempts_only_where_there_were_several():
    assert str(PluginTimeoutError("late", plugin="a", attempts=1)) == "[PLUGIN_1204] plugin 'a': late"
    several = str(PluginTimeoutError("late", plugin="a", attempts=3, elapsed=0.5))
    assert several == "[PLUGIN_1204] plugin 'a': late (after 3 attempts in 0.500 s)"


def test_config_problems_keep_path_and_fix():
    one = ConfigError("missing", path="plugins[0].name", fix="write one")
    arrived = pickle.loads(pickle.dumps(InvalidConfigError.of([one, one], "plugins.yaml")))
    assert [problem.path for problem in arrived.problems] == ["plugins[0].name"] * 2
    assert InvalidConfigError.of([one]) is one
    rebuilt = ConfigError(*json.loads(json.dumps(one.args)))
    assert (rebuilt.path, rebuilt.fix) == ("plugins[0].name", "write one")


def test_an_instance_may_be_safer_to_replay_than_its_class():
    error = PluginTimeoutError("while connecting", replay=Replay.ALWAYS)
    assert pickle.loads(pickle.dumps(error)).replay is Replay.ALWAYS
    assert PluginTimeoutError("x").replay is Replay.IF_IDEMPOTENT


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://user:secret@host:8443/p?token=secret#x", "https://host:8443/p"),
        ("/run/x.sock", "/run/x.sock"),
        ("host:443", "host:443"),
        ("http://[bad?secret", "<unreadable URL>"),
    ],
)
def test_redacted_urls_contain_no_secret(url, shown):
    assert redact_url(url) == shown


def test_exceptions_of_the_host_application_are_recognised_by_their_package():
    soft = type("SoftTimeLimitExceeded", (Exception,), {"__module__": "billiard.exceptions"})
    assert belongs_to_host(soft())
    assert belongs_to_host(KeyboardInterrupt())
    assert not belongs_to_host(ValueError())
    assert not belongs_to_host(CircuitBreakerOpenError())


def named(attribute, value=True):
    return {cls.__name__ for cls in ALL if attribute in vars(cls) and getattr(cls, attribute) == value}


def test_errors_raised_before_anything_is_sent_are_no_attempts():
    assert named("unsent") == {
        "CircuitBreakerOpenError",
        "CredentialsProviderError",
        "InvalidArgumentError",
        "NoAvailablePluginsError",
        "PluginClosedError",
        "RateLimitExceededError",
        "SaturatedError",
        "TokenRefusedError",
    }
    assert all(cls.verdict is Verdict.IGNORED for cls in ALL if cls.unsent)


def test_errors_that_are_signs_of_overload():
    assert named("overload") == {"PluginThrottledError", "PluginTimeoutError", "PluginUnavailableError"}


@pytest.mark.parametrize(
    ("elapsed", "usual_latency", "fair"),
    [(0.1, 0.0, True), (0.09, 0.0, False), (0.09, 0.045, True), (0.09, 0.05, False), (5.0, 10.0, True)],
)
def test_a_timeout_counts_if_the_plugin_had_enough_time(elapsed, usual_latency, fair):
    assert is_fair_timeout(elapsed, usual_latency) is fair
