"""Request and response types: from annotations or from the decorator's arguments."""

from __future__ import annotations

import functools
import pickle
from typing import Any

import attrs
import pytest

from goplugins import ExecutionContext, serve
from goplugins.errors import InvalidArgumentError
from goplugins.serve._dispatch import Incoming, Kind, dispatch


@attrs.frozen
class Answer:
    number: int


def test_a_parameter_without_a_type_is_refused_by_name() -> None:
    def answer(question, context) -> str:  # type: ignore[no-untyped-def]
        return "yes"

    with pytest.raises(InvalidArgumentError, match="plugin 'answer': its parameter 'question' has no type") as caught:
        serve.plugin(answer)
    assert "question: Any accepts all JSON" in caught.value.message
    assert "request=" in caught.value.message


def test_a_return_without_a_type_is_refused() -> None:
    def answer(question: str):  # type: ignore[no-untyped-def]
        return "yes"

    with pytest.raises(InvalidArgumentError, match="its return value has no type") as caught:
        serve.plugin(name="oracle")(answer)
    assert "'oracle'" in caught.value.message
    assert "response=" in caught.value.message


def test_an_explicit_any_is_accepted() -> None:
    @serve.plugin
    def echo(request: Any) -> Any:
        return request

    assert (echo.request_type, echo.response_type) == (Any, Any)
    assert echo.decode({"a": [1, None]}) == {"a": [1, None]}
    assert echo.encode({"a": 1.5}) == b'{"a":1.5}'


def test_types_given_to_the_decorator_take_precedence() -> None:
    half = serve.plugin(name="half", request=int, response=float)(lambda number: number / 2)
    assert (half.request_type, half.response_type) == (int, float)
    with pytest.raises(InvalidArgumentError, match="does not fit"):
        half.decode("one")

    @serve.plugin(response=int)
    def loose(request: str, context: ExecutionContext) -> Any:
        return len(request)

    assert (loose.request_type, loose.response_type) == (str, int)


def test_none_is_a_type() -> None:
    assert serve.plugin(name="fire", request=int, response=None)(lambda number: None).encode(None) == b"null"


def test_a_partial_has_the_types_of_its_function() -> None:
    def scale(factor: float, request: int) -> float:
        return factor * request

    served = serve.plugin(name="double")(functools.partial(scale, 2.0))
    assert (served.request_type, served.response_type) == (int, float)
    assert served(4) == 8.0


def test_the_response_type_is_that_of_a_replys_value() -> None:
    @serve.plugin
    def with_metadata(request: int) -> serve.Reply[Answer]:
        return serve.Reply(Answer(request), metadata={"cost": "1"})

    @serve.plugin
    def sometimes(request: int) -> serve.Reply[Answer] | Answer | None:
        return None

    assert with_metadata.response_type is Answer
    assert sometimes.response_type == Answer | None
    assert with_metadata(7).value == Answer(7)
    outcome = dispatch(with_metadata, Incoming(7, "r", 0.0))
    assert (outcome.kind, outcome.data, outcome.metadata) == (Kind.OK, b'{"number":7}', {"cost": "1"})


def test_a_reply_that_does_not_fit_is_an_internal_error() -> None:
    @serve.plugin
    def wrong(request: int) -> serve.Reply[Answer]:
        return serve.Reply("seven")  # type: ignore[arg-type]

    assert dispatch(wrong, Incoming(7, "r", 0.0)).kind is Kind.INTERNAL


def test_reply_without_a_type_is_refused() -> None:
    def answer(request: int) -> serve.Reply:  # type: ignore[type-arg]
        return serve.Reply(1)

    with pytest.raises(InvalidArgumentError, match=r"write Reply\[YourType\]"):
        serve.plugin(answer)


def test_a_replys_metadata_is_converted_to_text() -> None:
    reply = serve.Reply(1, metadata={"rows": 3})
    assert reply.metadata == {"rows": "3"}
    assert pickle.loads(pickle.dumps(reply)) == reply
    assert serve.Reply(1).metadata == {}
