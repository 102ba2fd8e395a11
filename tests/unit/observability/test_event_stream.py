"""The event stream: no cost without sinks; a listener that raises or blocks affects no caller."""

from __future__ import annotations

import gc
import threading
import time
import weakref

import pytest

from goplugins import InvalidArgumentError
from goplugins.enums import PluginStatus
from goplugins.observability.event_stream import EventStream, publish
from goplugins.observability.events import HealthChanged, MemberReturned
from tests.processes import in_child, run


def event(number):
    return MemberReturned("group", float(number), "member")


class Listener:
    def __init__(self, expected):
        self.events = []
        self.threads = set()
        self.done = threading.Event()
        self.expected = expected

    def __call__(self, event):
        self.events.append(event)
        self.threads.add(threading.current_thread())
        if len(self.events) >= self.expected:
            self.done.set()


def test_events_are_delivered_in_order_on_one_thread():
    stream, listener = EventStream(), Listener(1000)
    with stream.subscribe(listener):
        for number in range(1000):
            publish(stream.changes, event(number))
        assert listener.done.wait(10)
    assert [each.at for each in listener.events] == list(range(1000))
    assert len(listener.threads) == 1
    assert listener.threads.isdisjoint({threading.current_thread()})


def test_without_subscribers_there_are_no_sinks_and_no_thread():
    before = set(threading.enumerate())
    stream = EventStream()
    assert (stream.calls, stream.changes) == ((), ())
    subscription = stream.subscribe(print)
    started = [thread.name for thread in set(threading.enumerate()) - before if "events" in thread.name]
    assert started == [], "the thread starts with the first event"
    subscription.close()
    assert (stream.calls, stream.changes) == ((), ())


def test_only_the_requested_kinds_are_delivered():
    stream, listener = EventStream(), Listener(1)
    change = HealthChanged("a", 0.0, PluginStatus.HEALTHY, PluginStatus.OFFLINE)
    with stream.subscribe(listener, (HealthChanged,)):
        publish(stream.changes, event(1))
        publish(stream.changes, change)
        assert listener.done.wait(10)
    assert listener.events == [change]


def test_a_listener_that_raises_receives_the_next_event(caplog):
    stream, listener = EventStream(), Listener(2)

    def failing(each):
        listener(each)
        raise RuntimeError("oh")

    with stream.subscribe(failing):
        publish(stream.changes, event(1))
        publish(stream.changes, event(2))
        assert listener.done.wait(10)
    assert "an event listener failed" in caplog.text


def test_a_sink_that_raises_affects_neither_other_sinks_nor_the_caller(caplog):
    stream, seen = EventStream(), []

    def failing(each):
        raise RuntimeError("oh")

    stream.attach(failing)
    detach = stream.attach(seen.append)
    publish(stream.changes, event(1))
    detach()
    publish(stream.changes, event(2))
    assert [each.at for each in seen] == [1.0]
    assert caplog.text.count("an event sink failed") == 2


def test_a_blocking_listener_delays_no_publisher_and_dropped_events_are_counted(caplog):
    stream, go, listener = EventStream(), threading.Event(), Listener(11)

    def hanging(each):
        assert go.wait(10)
        listener(each)

    subscription = stream.subscribe(hanging, buffer=10)
    started = time.monotonic()
    publish(stream.changes, event(0))
    while subscription._events.qsize():
        time.sleep(0.001)  # until the thread has taken the first one
    for number in range(1, 51):
        publish(stream.changes, event(number))
    assert time.monotonic() - started < 5.0
    assert subscription.dropped == 40
    assert caplog.text.count("is too slow") == 1
    go.set()
    assert listener.done.wait(10)
    subscription.close()
    assert [each.at for each in listener.events] == list(range(11)), "the oldest are kept"


def test_close_delivers_queued_events_and_accepts_no_more():
    stream, listener = EventStream(), Listener(1)

    def slowly(each):
        time.sleep(0.002)
        listener(each)

    subscription = stream.subscribe(slowly)
    for number in range(20):
        publish(stream.changes, event(number))
    stream.close(10.0)
    publish(stream.changes, event(99))
    assert len(listener.events) == 20
    subscription.close()


def test_a_listener_may_close_its_own_subscription():
    stream, ended = EventStream(), threading.Event()

    def once(each):
        subscription.close()
        ended.set()

    subscription = stream.subscribe(once)
    publish(stream.changes, event(1))
    assert ended.wait(10)
    assert (stream.calls, stream.changes) == ((), ())


def test_close_waits_for_a_blocking_listener_only_until_its_timeout():
    stream, go = EventStream(), threading.Event()
    subscription = stream.subscribe(lambda each: go.wait(10))
    publish(stream.changes, event(1))
    started = time.monotonic()
    subscription.close(0.05)
    assert time.monotonic() - started < 2.0
    go.set()


def test_an_idle_thread_ends_and_the_next_event_starts_another(monkeypatch):
    monkeypatch.setattr("goplugins.observability.event_stream._IDLE_SECONDS", 0.01)
    stream, listener = EventStream(), Listener(1)
    with stream.subscribe(listener) as subscription:
        for round_ in range(5):
            listener.done.clear()
            listener.events.clear()
            publish(stream.changes, event(round_))
            assert listener.done.wait(10)
            deadline = time.monotonic() + 10
            while subscription._thread is not None and time.monotonic() < deadline:
                time.sleep(0.002)
            assert subscription._thread is None


def test_an_event_published_while_the_thread_ends_is_delivered(monkeypatch):
    monkeypatch.setattr("goplugins.observability.event_stream._IDLE_SECONDS", 0.0005)
    stream, listener = EventStream(), Listener(400)
    with stream.subscribe(listener):
        for number in range(400):
            publish(stream.changes, event(number))
            time.sleep(0.0005)
        assert listener.done.wait(10)
    assert [each.at for each in listener.events] == list(range(400))


def fork_with_a_listener():
    stream, listener = EventStream(), Listener(1)
    with stream.subscribe(listener):
        publish(stream.changes, event(1))
        assert listener.done.wait(10)

        def child():
            listener.events.clear()
            listener.done.clear()
            publish(stream.changes, event(2))
            return listener.done.wait(10), [each.at for each in listener.events]

        return in_child(child)


def test_a_child_process_receives_only_its_own_events():
    assert run(fork_with_a_listener) == [True, [2.0]]


def test_an_unreferenced_stream_is_collected():
    stream = EventStream()
    gone = weakref.ref(stream)
    stream.subscribe(print)
    del stream
    gc.collect()
    assert gone() is None


@pytest.mark.parametrize(
    ("listener", "kinds", "buffer", "text"),
    [
        (None, (), 1, "listener"),
        (print, (1,), 1, "kinds"),
        (print, (), 0, "buffer"),
    ],
)
def test_wrong_arguments_are_refused(listener, kinds, buffer, text):
    with pytest.raises(InvalidArgumentError, match=text):
        EventStream().subscribe(listener, kinds, buffer=buffer)
