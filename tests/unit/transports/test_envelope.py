import pytest

from goplugins.errors import (
    BadReplyError,
    PluginExecutionError,
    ReplyMismatchError,
    ReplyTypeError,
    TruncatedReplyError,
)
from goplugins.runtime.call import Call
from goplugins.runtime.deadline import Deadline
from goplugins.transports.envelope import check_request_id, decode_data, parse_object
from goplugins.transports.json_codec import codec_for


def call(response_type=int):
    return Call(None, codec_for(int, response_type), Deadline.after(1.0), "id-1")


@pytest.mark.parametrize("body", [b"", b"{", b'{"data"', b'{"data": "abc', b'{"data":1', b"  "])
def test_text_that_ends_early_is_a_truncated_reply(body):
    with pytest.raises(TruncatedReplyError):
        parse_object(body)


@pytest.mark.parametrize(
    "body",
    [b"[]", b"null", b"3", b"garbage", b'{"data":1}{"data":2}', b'{"data":1} x', b'{"data":NaN}', b"\xff\xfe",
     b'{"a" 1}', b"[" * 100_000, b'{"data":' + b"9" * 5000 + b"}"],
    ids=lambda body: repr(body[:20]),
)  # fmt: skip
def test_a_reply_other_than_one_object_is_a_bad_reply(body):
    with pytest.raises(BadReplyError) as caught:
        parse_object(body)
    assert type(caught.value) is BadReplyError
    assert len(str(caught.value)) < 400


def test_another_calls_id_is_refused():
    check_request_id({"request_id": "id-1"}, call(), required=True)
    check_request_id({}, call(), required=False)
    check_request_id({"request_id": ""}, call(), required=False)
    for envelope, required in (({"request_id": "id-2"}, False), ({}, True), ({"request_id": 7}, False)):
        with pytest.raises(ReplyMismatchError):
            check_request_id(envelope, call(), required=required)


def test_data_metadata_and_errors():
    one = call()
    assert decode_data({"data": 7, "metadata": {"took": "1", "n": 2}}, one) == 7
    assert one.reply_metadata == {"took": "1", "n": "2"}
    with pytest.raises(PluginExecutionError, match="Invalid credentials") as caught:
        decode_data({"error": "Invalid credentials", "metadata": {"error_code": "AUTH_FAILED"}}, call())
    assert caught.value.details == {"metadata": {"error_code": "AUTH_FAILED"}}
    with pytest.raises(PluginExecutionError):
        decode_data({"data": 7, "error": {"odd": 1}}, call())
    assert decode_data({"data": 7, "error": ""}, call()) == 7
    with pytest.raises(BadReplyError, match="metadata"):
        decode_data({"data": 7, "metadata": []}, call())


def test_go_servers_leave_out_empty_data():
    assert decode_data({"request_id": "id-1"}, call(int | None)) is None
    with pytest.raises(ReplyTypeError):
        decode_data({"request_id": "id-1"}, call(int))


def test_a_plugins_error_text_is_bounded():
    with pytest.raises(PluginExecutionError) as caught:
        decode_data({"error": "x" * 100_000}, call())
    assert len(caught.value.message) == 4096
