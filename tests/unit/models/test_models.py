"""Contexts refuse what a call could not use; enums read Go's integers."""

import copy
import pickle

import pytest

from goplugins import CallResult, ExecutionContext, Explanation, HealthStatus, PluginError, PluginStatus
from goplugins.enums import AuthMethod, CircuitBreakerState, LoadBalancingStrategy, ReloadStrategy, TransportType
from goplugins.errors import InvalidArgumentError, InvalidHeaderError
from goplugins.models.context import trusted_context


@pytest.mark.parametrize("timeout", [0, -1, 0.0, float("nan"), True, "5"])
def test_known_fault_a_timeout_of_zero_or_less_was_an_expired_context(timeout):
    with pytest.raises(InvalidArgumentError, match="timeout: expected seconds greater than 0"):
        ExecutionContext(timeout=timeout)


@pytest.mark.parametrize("retries", [-1, 1.5, True])
def test_known_fault_negative_max_retries_gave_a_nil_error(retries):
    with pytest.raises(InvalidArgumentError, match="max_retries"):
        ExecutionContext(max_retries=retries)


@pytest.mark.parametrize("value", ["a\r\nX-Evil: 1", "a\nb", "a\x00b", "\x7f"])
def test_line_breaks_in_headers_are_refused_without_showing_the_value(value):
    with pytest.raises(InvalidHeaderError) as caught:
        ExecutionContext(headers={"X-Token": value})
    assert "X-Token" in str(caught.value)
    assert value not in str(caught.value)
    with pytest.raises(InvalidHeaderError):
        ExecutionContext(request_id=value)


@pytest.mark.parametrize("name", ["", "a b", "a:b", "a\n", "ä"])
def test_header_names_are_tokens(name):
    with pytest.raises(InvalidHeaderError):
        ExecutionContext(headers={name: "x"})


def test_metadata_is_text():
    with pytest.raises(InvalidArgumentError, match=r"metadata\['n'\]: expected strings, got int"):
        ExecutionContext(metadata={"n": 1})


def test_go_integers_and_strings_name_the_same_member():
    assert PluginStatus(1) is PluginStatus("healthy") is PluginStatus.HEALTHY
    assert CircuitBreakerState(2) is CircuitBreakerState.HALF_OPEN
    assert str(ReloadStrategy.ROLLING) == "rolling"
    for wrong in (7, -1, True, "Healthy", None):
        with pytest.raises(ValueError, match="is not a valid"):
            PluginStatus(wrong)
    assert TransportType("grpc-tls") is TransportType.GRPC_TLS


def test_the_value_of_a_failed_result_raises_its_error():
    failed = CallResult(None, error=PluginError("no"))
    assert not failed.ok
    with pytest.raises(PluginError, match="no"):
        _ = failed.value
    assert CallResult(3).value == 3


def test_the_repr_of_a_result_names_its_value():
    assert repr(CallResult(3)) == "CallResult(value=3, source='plugin', attempts=1, elapsed=0.0)"
    text = repr(CallResult(None, error=PluginError("no"), attempts=2, member="m", metadata={"a": "b"}))
    assert text == (
        "CallResult(error=PluginError('no'), source='plugin', attempts=2, elapsed=0.0, member='m', metadata={'a': 'b'})"
    )


def test_the_text_of_an_explanation():
    text = str(
        Explanation(
            "quotes",
            False,
            "circuit breaker is open, next call admitted in 0.8 s",
            "http://127.0.0.1:8000",
            CircuitBreakerState.OPEN,
            HealthStatus(),
            4.0,
            2,
            "PLUGIN_1205 connection refused",
            0.24,
        )
    )
    assert text.splitlines() == [
        "quotes (http://127.0.0.1:8000): takes no calls: circuit breaker is open, next call admitted in 0.8 s",
        "  circuit breaker open, health unknown, 2 in flight, rate limiter has 4 tokens",
        "  last error 0.2 s ago: PLUGIN_1205 connection refused",
    ]


def test_a_trusted_context_equals_the_checked_one_in_every_field():
    parts = ("id", 2.0, {"A": "1"}, {"m": "1"}, True, "k", 3, ("x",), "find")
    names = (
        "request_id",
        "timeout",
        "headers",
        "metadata",
        "idempotent",
        "key",
        "priority",
        "preferences",
        "operation",
    )
    assert trusted_context(*parts) == ExecutionContext(**dict(zip(names, parts, strict=True)))


@pytest.mark.parametrize("field", ["headers", "metadata"])
@pytest.mark.parametrize("value", [None, [("a", "b")], "a=b", 5])
def test_headers_and_metadata_that_are_no_mapping_are_refused(field, value):
    with pytest.raises(
        InvalidArgumentError, match=f"{field}: expected a mapping of strings, got {type(value).__name__}"
    ):
        ExecutionContext(**{field: value})


def test_a_context_is_copied_and_pickled_with_all_fields():
    context = ExecutionContext("id", headers={"A": "1"}, operation="find")
    assert copy.copy(context) == copy.deepcopy(context) == pickle.loads(pickle.dumps(context)) == context


def test_a_context_that_was_pickled_without_operations_has_none():
    name, arguments, state = ExecutionContext("id").__reduce_ex__(2)[:3]
    restored = name(*arguments)
    restored.__setstate__({field: value for field, value in state.items() if field != "operation"})
    assert restored == ExecutionContext("id")
    with pytest.raises(AttributeError, match="no attribute 'operations'"):
        _ = restored.operations


@pytest.mark.parametrize(
    ("kind", "member"),
    [(AuthMethod, "oauth2"), (TransportType, "python"), (LoadBalancingStrategy, "p2c")],
)
def test_no_integer_stands_for_a_member_that_go_lacks(kind, member):
    known = [kind(number) for number in range(len(kind) - 1)]
    assert kind(member) not in known
    with pytest.raises(ValueError, match="is not a valid"):
        kind(len(kind) - 1)
