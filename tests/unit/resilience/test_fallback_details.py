"""What a fallback says of itself and of what does not fit."""

from __future__ import annotations

import attrs
import pytest

from goplugins.config import FallbackConfig
from goplugins.errors import InvalidConfigError, PluginTimeoutError, PluginUnavailableError
from goplugins.resilience.cache_entry import CacheEntry, CacheKeys, CopyableValue
from goplugins.resilience.fallback import Fallback, deadline_less_reserve
from goplugins.runtime.call import Call
from goplugins.runtime.deadline import Deadline
from goplugins.testing import ManualClock
from goplugins.transports.json_codec import codec_for


@attrs.frozen
class Answer:
    user: str


def never(name, call):
    pytest.fail("another plugin was asked")


def make(forward=never, **fields):
    return Fallback(FallbackConfig(**fields), "shop", forward, ManualClock())


def a_call(codec=None, timeout=5.0, **options):
    return Call("request", codec or codec_for(), Deadline.after(timeout, ManualClock()), "id-1", **options)


def test_a_fallback_says_what_it_is():
    assert str(make(plugin="backup")) == "plugin 'backup'"
    assert str(make(value={"user": "nobody"})) == "a static value"
    assert str(make(function=lambda request, error: None)) == "a function"


def test_a_value_that_is_no_answer_is_refused_with_a_remedy():
    with pytest.raises(InvalidConfigError) as caught:
        make(value={"user": 7}).check(codec_for(str, Answer))
    text = str(caught.value)
    assert "it is" in text or "data.user" in text
    assert "write a value of the type of the plugin's answers" in text
    assert "fallback.value" in text
    assert "'shop'" in text


def test_a_value_is_looked_at_once_for_each_pair_of_types():
    looks = []

    class Counting:
        response_type = Answer

        def __init__(self, codec):
            self.codec = codec

        def decode(self, data):
            looks.append(data)
            return self.codec.decode(data)

    codec = Counting(codec_for(str, Answer))
    fallback = make(value={"user": "nobody"})
    for _ in range(3):
        fallback.check(codec)
    assert len(looks) == 1
    make(plugin="backup").check(codec)
    assert len(looks) == 1


def test_a_circle_names_its_plugins_and_its_place():
    call = a_call()
    call.through = ("backup",)
    with pytest.raises(InvalidConfigError) as caught:
        make(plugin="backup").answer(call, PluginUnavailableError("503"))
    assert "backup -> shop -> backup" in str(caught.value)
    assert "fallback:" in str(caught.value) or caught.value.path == "fallback"


@pytest.mark.parametrize(("left", "asked"), [(0.5, True), (0.0, False)])
def test_another_plugin_is_asked_as_long_as_there_is_any_time(left, asked):
    names = []
    fallback = make(plugin="backup", forward=lambda name, call: names.append(name) or "answer")
    call = a_call(timeout=left or 1.0)
    if not left:
        call.deadline.clock.advance(1.0)
        with pytest.raises(PluginTimeoutError) as caught:
            fallback.answer(call, PluginUnavailableError("503"))
        assert caught.value.message == "no time was left for the fallback; set fallback.reserve to keep some back"
    else:
        assert fallback.answer(call, PluginUnavailableError("503")) == "answer"
    assert names == ["backup"] * asked


def test_nothing_kept_back_leaves_the_deadline_itself():
    deadline = Deadline.after(1.0, ManualClock())
    assert deadline_less_reserve(deadline, 0.0) is deadline


# --- what a cache keeps beside the answer ----------------------------------------------------------------------


def test_what_is_kept_knows_who_answered():
    call, other = a_call(), a_call()
    call.member = "shop-2"
    CacheEntry.of(call, "answer").respond(other, "cache")
    assert (other.member, other.source) == ("shop-2", "cache")


def test_the_size_counts_answer_request_and_metadata():
    call = a_call()
    call.payload = b"x" * 10
    assert CacheEntry.of(call, "y" * 5).size == 15
    call.reply_metadata = {"k": "v"}
    assert CacheEntry.of(call, "y" * 5).size == 15 + len("('k', 'v')")
    assert CopyableValue.of(7).size == 0


def test_what_has_no_pickle_has_no_known_size():
    class Local:
        pass

    assert CopyableValue.of(Local()).size == 0


def test_metadata_tells_questions_apart_and_their_absence_too():
    keys = CacheKeys(())
    plain, marked = a_call(), a_call(metadata={"tenant": "blue"})
    assert keys.of(plain) == keys.of(a_call(codec=plain.codec))
    assert keys.of(marked) != keys.of(plain)
