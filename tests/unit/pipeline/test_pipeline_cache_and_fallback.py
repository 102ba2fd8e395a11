"""Cache and fallback layers: sources of answers, counts and log lines."""

import contextlib
import gc
import logging
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor

import attrs
import pytest

from goplugins.errors import (
    CircuitBreakerOpenError,
    InvalidConfigError,
    PluginConnectionError,
    PluginExecutionError,
    PluginRequestError,
    PluginTimeoutError,
    PluginUnavailableError,
    RateLimitExceededError,
)
from goplugins.pipeline.pipeline import Pipeline, RetryLayer
from goplugins.runtime.call import Call
from goplugins.runtime.deadline import Deadline
from goplugins.testing import ManualClock
from goplugins.transports.json_codec import codec_for

from .fakes import make_shared, plugin_config

CACHE = {"ttl": 10.0, "stale_if_error": 60.0}


class Plugin:
    """Answers from a script, behind cache and fallback: an exception is raised, a callable called, all else returned.

    Single attempts, and no breaker.
    """

    wire = property(lambda self: self)

    def __init__(self, *script, clock=None, forward=None, **sections):
        self.clock = clock or ManualClock()
        self.script = list(script)
        self.calls = []
        self.left = []
        self.replaced = []
        sections = {"retry": {"max_retries": 0}, "circuit_breaker": {"enabled": False}, **sections}
        config = plugin_config("main", **sections)
        more = {} if forward is None else {"forward": forward}
        self.shared = make_shared(
            self.clock, "main", on_replaced_error=lambda call, error: self.replaced.append(error), **more
        )
        self.pipeline = Pipeline.build(config, self, self.shared)
        self.answer = self.pipeline.run

    def send(self, call):
        self.calls.append(call)
        self.left.append(call.deadline.remaining())
        step = self.script.pop(0) if self.script else "answer"
        if isinstance(step, BaseException):
            raise step
        return step(call) if callable(step) else step

    def start(self, request="request", timeout=30.0, idempotent=True, codec=None, **fields):
        codec = codec or codec_for()
        deadline = Deadline.after(timeout, self.clock)
        call = Call(request, codec, deadline, "id", idempotent=idempotent, **fields)
        call.payload = codec.encode(request)
        return call

    def ask(self, *args, **fields):
        """The answer and its source."""
        call = self.start(*args, **fields)
        return self.answer(call), call.source

    def counted(self):
        counts = attrs.asdict(self.shared.counts.metrics(), recurse=False)
        return {
            name: count for name, count in counts.items() if count and name.startswith(("cache", "stale", "fallback"))
        }


def down(text="down"):
    return PluginUnavailableError(text)


def test_layers_that_are_not_configured_do_not_exist():
    plugin = Plugin()
    assert isinstance(plugin.answer.__self__, RetryLayer)


# --- cache ---------------------------------------------------------------------------------------------------------


def test_the_second_identical_call_is_answered_from_the_cache():
    plugin = Plugin({"rows": [1]}, cache=CACHE)
    assert plugin.ask() == ({"rows": [1]}, "plugin")
    call = plugin.start()
    assert plugin.answer(call) == {"rows": [1]}
    assert (call.source, call.attempts) == ("cache", 0)
    assert plugin.counted() == {"cache_hits": 1, "cache_misses": 1}


def test_a_call_that_is_not_idempotent_never_uses_the_cache():
    plugin = Plugin("first", "second", down(), cache=CACHE)
    assert plugin.ask() == ("first", "plugin")
    assert plugin.ask(idempotent=False) == ("second", "plugin")
    with pytest.raises(PluginUnavailableError):
        plugin.ask(idempotent=False)
    assert plugin.ask() == ("first", "cache"), "nor is its answer kept"


def test_a_call_with_credentials_of_its_own_never_uses_the_cache():
    plugin = Plugin("for all", "for Ann", "for Bob", cache=CACHE)
    assert plugin.ask() == ("for all", "plugin")
    assert plugin.ask(headers={"Authorization": "Bearer ann"}) == ("for Ann", "plugin")
    assert plugin.ask(headers={"Authorization": "Bearer bob"}) == ("for Bob", "plugin")


def test_callers_get_copies_of_a_cached_answer():
    plugin = Plugin({"rows": [1]}, cache=CACHE)
    plugin.ask()[0]["rows"].append("changed by the first")
    plugin.ask()[0]["rows"].append("changed by the second")
    assert plugin.ask() == ({"rows": [1]}, "cache")


def test_pairs_of_types_that_share_a_plugin_do_not_share_answers():
    plugin = Plugin("text", 3, cache=CACHE)
    assert plugin.ask("x", codec=codec_for(str, str))[0] == "text"
    assert plugin.ask("x", codec=codec_for(str, int))[0] == 3


def test_member_and_metadata_are_cached_with_the_answer():
    def answer(call):
        call.member = "member-2"
        call.reply_metadata = {"rows": "3"}
        return "answer"

    plugin = Plugin(answer, cache=CACHE)
    plugin.ask()
    call = plugin.start()
    plugin.answer(call)
    assert (call.member, call.reply_metadata) == ("member-2", {"rows": "3"})


def test_answers_that_can_not_be_copied_are_not_cached_and_logged_once(caplog):
    plugin = Plugin(*[threading.Lock() for _ in range(3)], cache=CACHE)
    sources = [plugin.ask()[1] for _ in range(3)]
    assert sources == ["plugin"] * 3
    assert [record.getMessage() for record in caplog.records] == [
        "main: its answers can't be copied, so they are not cached: a lock"
    ]


def test_identical_concurrent_calls_are_one_request():
    entered, go = threading.Semaphore(0), threading.Event()

    def slow(call):
        entered.release()
        assert go.wait(20)
        return ["answer"]

    plugin = Plugin(slow, clock=ManualClock(auto_advance=False), cache=CACHE)
    with ThreadPoolExecutor(20) as pool:
        futures = [pool.submit(plugin.ask) for _ in range(20)]
        assert entered.acquire(timeout=20)
        plugin.clock.wait_for_waiters(19)
        go.set()
        outcomes = [future.result(20) for future in futures]
    assert len(plugin.calls) == 1
    assert sorted(source for _, source in outcomes) == ["cache"] * 19 + ["plugin"]
    assert len({id(answer) for answer, _ in outcomes}) == 20, "each has its own"
    assert plugin.counted() == {"cache_misses": 20, "cache_coalesced": 19}


# --- old answers ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "error",
    [down(), PluginTimeoutError("late"), CircuitBreakerOpenError("open"), PluginConnectionError("refused")],
    ids=lambda error: type(error).__name__,
)
def test_an_expired_entry_answers_when_the_plugin_could_not_serve(error):
    plugin = Plugin("old", error, cache=CACHE)
    plugin.ask()
    plugin.clock.advance(11.0)
    call = plugin.start()
    assert plugin.answer(call) == "old"
    assert call.source == "stale"
    assert plugin.replaced == [error]
    assert plugin.counted() == {"cache_misses": 2, "stale_answers": 1}


@pytest.mark.parametrize(
    "error",
    [PluginRequestError("400"), PluginExecutionError("no"), RateLimitExceededError("too many")],
    ids=lambda error: type(error).__name__,
)
def test_an_expired_entry_never_replaces_an_error_of_the_caller(error):
    plugin = Plugin("old", error, cache=CACHE)
    plugin.ask()
    plugin.clock.advance(11.0)
    with pytest.raises(type(error)):
        plugin.ask()
    assert plugin.replaced == []


def test_an_expired_entry_never_replaces_a_cancellation_by_the_caller():
    plugin = Plugin("old", KeyboardInterrupt(), cache=CACHE, fallback={"value": 0})
    plugin.ask()
    plugin.clock.advance(11.0)
    with pytest.raises(KeyboardInterrupt):
        plugin.ask()


def test_an_expired_entry_answers_for_stale_if_error_seconds():
    plugin = Plugin("old", down(), down("still"), cache=CACHE)
    plugin.ask()
    plugin.clock.advance(69.0)
    assert plugin.ask() == ("old", "stale")
    plugin.clock.advance(1.0)
    with pytest.raises(PluginUnavailableError, match="still"):
        plugin.ask()


def test_cache_and_fallback_cover_the_rate_limit_if_fallback_on_includes_it():
    error = RateLimitExceededError("too many")
    plugin = Plugin("old", error, error, cache=CACHE, fallback={"value": "static", "on": ["rate-limit"]})
    plugin.ask("a")
    plugin.clock.advance(11.0)
    assert plugin.ask("a") == ("old", "stale")
    assert plugin.ask("b") == ("static", "fallback")


# --- fallback ------------------------------------------------------------------------------------------------------


def test_the_fallback_answers_when_the_plugin_could_not():
    plugin = Plugin("answer", down(), fallback={"value": "static"})
    assert plugin.ask() == ("answer", "plugin")
    assert plugin.ask() == ("static", "fallback")
    assert plugin.counted() == {"fallback_answers": 1}
    assert [error.message for error in plugin.replaced] == ["down"]


def test_the_fallback_applies_to_calls_that_are_not_idempotent_as_well():
    plugin = Plugin(down(), cache=CACHE, fallback={"value": "static"})
    assert plugin.ask(idempotent=False) == ("static", "fallback")


@pytest.mark.parametrize("error", [PluginRequestError("400"), PluginExecutionError("no")], ids=repr)
def test_the_fallback_never_replaces_a_rejection_by_the_plugin(error):
    plugin = Plugin(error, fallback={"value": "static"})
    with pytest.raises(type(error)):
        plugin.ask()
    assert plugin.counted() == {}


def test_a_fallbacks_answer_is_never_cached():
    plugin = Plugin(down(), "answer", cache=CACHE, fallback={"value": "static"})
    assert plugin.ask() == ("static", "fallback")
    assert plugin.ask() == ("answer", "plugin")
    assert plugin.ask() == ("answer", "cache")


def test_an_expired_entry_is_preferred_to_the_fallback():
    plugin = Plugin("old", down(), down(), cache=CACHE, fallback={"value": "static"})
    plugin.ask()
    plugin.clock.advance(11.0)
    assert plugin.ask() == ("old", "stale")
    assert plugin.ask("another request") == ("static", "fallback")


def test_coalesced_calls_fall_back_each_at_its_own_deadline():
    clock = ManualClock(auto_advance=False)
    entered, go = threading.Semaphore(0), threading.Event()

    def hang(call):
        entered.release()
        assert go.wait(20)
        return "at last"

    plugin = Plugin(hang, clock=clock, cache=CACHE, fallback={"function": lambda *_: clock.monotonic(), "reserve": 1.0})
    with ThreadPoolExecutor(2) as pool:
        leader = pool.submit(plugin.ask, timeout=60.0)
        assert entered.acquire(timeout=20)
        follower = pool.submit(plugin.ask, timeout=5.0)
        clock.wait_for_waiters(1)
        clock.advance(4.0)
        assert follower.result(20) == (4.0, "fallback")
        go.set()
        assert leader.result(20) == ("at last", "plugin")


def test_the_plugin_gets_the_deadline_minus_the_reserve_and_the_fallback_the_rest():
    left = []

    def forward(name, call):
        left.append(call.deadline.remaining())
        return "from backup"

    def late(call):
        plugin.clock.advance(call.deadline.remaining())
        raise PluginTimeoutError("late")

    plugin = Plugin(late, forward=forward, fallback={"plugin": "backup", "reserve": 2.0})
    call = plugin.start(timeout=10.0)
    assert plugin.answer(call) == "from backup"
    assert (plugin.left, left) == ([8.0], [2.0])
    assert call.deadline.remaining() == 2.0, "the whole deadline is put back"


def test_a_call_shorter_than_twice_the_reserve_keeps_half_of_its_time_for_the_fallback():
    plugin = Plugin(down(), fallback={"value": 0, "reserve": 5.0})
    plugin.ask(timeout=4.0)
    assert plugin.left == [2.0]


def test_the_whole_deadline_is_restored_however_the_call_ends():
    for step in ("answer", PluginRequestError("400"), KeyboardInterrupt()):
        plugin = Plugin(step, fallback={"value": 0, "reserve": 5.0})
        call = plugin.start(timeout=20.0)
        try:
            plugin.answer(call)
        except BaseException as exc:
            assert exc is step  # noqa: PT017 - whichever it is
        assert call.deadline.remaining() == 20.0


def test_when_the_fallback_fails_the_first_error_is_raised_with_the_other_in_its_details():
    def forward(name, call):
        raise PluginConnectionError("refused")

    error = down()
    plugin = Plugin(error, forward=forward, fallback={"plugin": "backup"})
    with pytest.raises(PluginUnavailableError) as caught:
        plugin.ask()
    assert caught.value is error
    assert error.details["fallback"] == "plugin 'backup' failed, too: PLUGIN_1205 refused"
    assert plugin.counted() == {"fallback_failures": 1}


def test_a_function_that_fails_leaves_the_first_error_and_its_traceback_is_logged(caplog):
    def broken(request, error):
        raise KeyError("no such default")

    plugin = Plugin(down(), down(), fallback={"function": broken})
    for _ in range(2):
        with pytest.raises(PluginUnavailableError) as caught:
            plugin.ask()
        assert caught.value.details["fallback"] == "a function failed, too: KeyError: 'no such default'"
    (record,) = caplog.records
    assert record.getMessage() == "main: could not serve, and its fallback, a function, failed, too"
    assert record.exc_info[0] is KeyError


def test_a_function_without_an_answer_raises_the_error_that_it_was_given():
    def picky(request, error):
        raise error

    error = down()
    plugin = Plugin(error, fallback={"function": picky})
    with pytest.raises(PluginUnavailableError) as caught:
        plugin.ask()
    assert caught.value is error
    assert error.details == {}
    assert plugin.counted() == {}


def test_a_rejection_by_the_fallback_is_an_answer():
    def refuse(request, error):
        raise PluginExecutionError("closed on Sundays")

    error = down()
    plugin = Plugin(error, fallback={"function": refuse})
    call = plugin.start()
    with pytest.raises(PluginExecutionError, match="closed on Sundays") as caught:
        plugin.answer(call)
    assert caught.value.__cause__ is error
    assert call.source == "fallback"
    assert plugin.counted() == {"fallback_answers": 1}


def test_an_interrupt_in_the_fallback_passes():
    def interrupted(request, error):
        raise SystemExit

    plugin = Plugin(down(), fallback={"function": interrupted})
    with pytest.raises(SystemExit):
        plugin.ask()


def test_a_static_value_of_the_wrong_type_is_refused_while_the_plugin_still_works():
    plugin = Plugin("answer", fallback={"value": 3})
    with pytest.raises(InvalidConfigError, match=r"fallback\.value: it is not a str"):
        plugin.ask(codec=codec_for(str, str))
    assert plugin.calls == []


def test_two_plugins_that_are_fallbacks_of_each_other_end_with_the_first_error():
    def forward(name, call):
        return second.answer(call)

    second = Plugin(down("second"), forward=lambda name, call: pytest.fail("round again"), fallback={"plugin": "main"})
    first = Plugin(down("first"), forward=forward, fallback={"plugin": "second"})
    with pytest.raises(PluginUnavailableError, match="first") as caught:
        first.ask()
    assert "second" in caught.value.details["fallback"]


@pytest.mark.parametrize("sections", [{"cache": CACHE}, {"fallback": {"plugin": "backup"}}], ids=str)
def test_an_error_that_passes_the_layers_leaves_no_reference_cycle(sections, caplog):
    made = []

    class WatchedError(PluginUnavailableError):
        def __init__(self, message):
            super().__init__(message)
            made.append(weakref.ref(self))

    def forward(name, call):
        raise PluginConnectionError("refused")

    def fail(call):
        raise WatchedError("down")

    caplog.set_level(logging.CRITICAL, "goplugins.plugin")  # a record of the log would hold it
    plugin = Plugin(fail, forward=forward, **sections)
    call = plugin.start()
    gc.collect()
    gc.disable()
    try:
        with contextlib.suppress(WatchedError):
            plugin.answer(call)
        plugin.replaced.clear()
        assert made[0]() is None
    finally:
        gc.enable()


# --- the log -------------------------------------------------------------------------------------------------------


def messages(caplog):
    return [(record.levelname, record.getMessage()) for record in caplog.records]


@pytest.mark.parametrize(
    ("sections", "begins", "ends"),
    [
        (
            {"fallback": {"plugin": "backup"}},
            "main: could not serve, plugin 'backup' answers instead: TRANSPORT_1305 down",
            "main: answers again; its fallback answered 50 calls in 49.0 s",
        ),
        (
            {"cache": {"ttl": 0.5, "stale_if_error": 600.0}},
            "main: could not serve, expired answers from the cache are used: TRANSPORT_1305 down",
            "main: answers again; the cache answered 50 calls in 49.0 s",
        ),
    ],
    ids=["fallback", "stale"],
)
def test_beginning_and_end_of_an_outage_are_logged_and_not_each_call(caplog, sections, begins, ends):
    caplog.set_level(logging.INFO, "goplugins")
    plugin = Plugin("answer", *[down() for _ in range(50)], **sections)
    plugin.ask()
    for _ in range(50):
        plugin.clock.advance(1.0)
        plugin.ask()
    assert messages(caplog) == [("WARNING", begins)]
    for _ in range(10):
        plugin.clock.advance(1.0)
        plugin.ask()
    assert messages(caplog) == [("WARNING", begins), ("INFO", ends)]


def test_a_flapping_plugin_does_not_fill_the_log(caplog):
    caplog.set_level(logging.INFO, "goplugins")
    plugin = Plugin(*[step for _ in range(100) for step in (down(), "answer")], fallback={"value": 0})
    for _ in range(200):
        plugin.clock.advance(0.1)
        plugin.ask()
    assert len(caplog.records) == 1


def test_the_next_outage_is_logged_again(caplog):
    caplog.set_level(logging.INFO, "goplugins")
    plugin = Plugin(down(), "answer", down(), fallback={"value": 0})
    for _ in range(3):
        plugin.ask()
        plugin.clock.advance(6.0)
    assert [level for level, _ in messages(caplog)] == ["WARNING", "INFO", "WARNING"]


def test_answers_from_the_cache_do_not_end_an_outage(caplog):
    caplog.set_level(logging.INFO, "goplugins")
    plugin = Plugin("answer", down(), cache={"ttl": 60.0}, fallback={"value": 0})
    plugin.ask("a")
    assert plugin.ask("b") == (0, "fallback")
    plugin.clock.advance(6.0)
    assert plugin.ask("a") == ("answer", "cache")
    assert [level for level, _ in messages(caplog)] == ["WARNING"]
    assert plugin.ask("c") == ("answer", "plugin")
    assert [level for level, _ in messages(caplog)] == ["WARNING", "INFO"]


def test_a_fallback_that_fails_again_later_is_logged_again(caplog):
    works = iter([False, False, True, False])

    def fallback(request, error):
        if not next(works):
            raise KeyError("no default")
        return "default"

    plugin = Plugin(*[down() for _ in range(4)], fallback={"function": fallback})
    for _ in range(4):
        with contextlib.suppress(PluginUnavailableError):
            plugin.ask()
        plugin.clock.advance(6.0)
    texts = [text for _, text in messages(caplog)]
    assert sum("failed, too" in text for text in texts) == 2
    assert sum("answers instead" in text for text in texts) == 1


@pytest.mark.parametrize(("took", "stored"), [(0.9, True), (1.0, False), (1.5, False)])
def test_an_answer_that_was_converted_after_the_deadline_is_returned_and_not_copied_into_the_cache(took, stored):
    plugin = Plugin(cache=CACHE)
    copied = []

    class Answer:
        """What the conversion of a reply returns: its copy for the cache is recorded."""

        def __deepcopy__(self, memo):
            copied.append(self)
            return self

        def __reduce_ex__(self, protocol):
            copied.append(self)
            return (str, ("copy",))

    def convert(call):
        plugin.clock.advance(took)
        return Answer()

    plugin.script = [convert, convert]
    answer, _ = plugin.ask(timeout=1.0)
    assert isinstance(answer, Answer)
    assert bool(copied) is stored
    assert plugin.ask(timeout=1.0)[1] == ("cache" if stored else "plugin")
    assert len(plugin.calls) == (1 if stored else 2)
