"""A scripted sender, and ways to put it behind policies."""

import random
import threading
from collections import deque

import attrs

from goplugins.config import ManagerConfig, PluginConfig
from goplugins.enums import PluginStatus
from goplugins.models.plugin import PluginInfo
from goplugins.models.results import HealthStatus
from goplugins.observability.event_stream import EventStream
from goplugins.pipeline.attempts import Shared
from goplugins.pipeline.plugin import GuardedPlugin
from goplugins.resilience.call_counts import Counts
from goplugins.runtime.call import Call
from goplugins.runtime.deadline import Deadline
from goplugins.testing import ManualClock
from goplugins.transports.interface import Sender
from goplugins.transports.json_codec import codec_for


class FakeSender(Sender):
    """Answers from a script: an exception is raised, a callable is called, anything else is returned."""

    def __init__(self, *script, default="ok"):
        self.script = deque(script)
        self.default = default
        self.sent: list[Call] = []
        self.remaining: list[float] = []
        self.closed = 0
        self.status = HealthStatus(PluginStatus.HEALTHY)

    def prepare(self, call):
        call.payload = call.codec.encode(call.request)

    def send(self, call):
        self.sent.append(call)
        self.remaining.append(call.deadline.remaining())
        step = self.script.popleft() if self.script else self.default
        if isinstance(step, BaseException):
            raise step
        return step(call) if callable(step) else step

    def execute(self, request, context):
        return request

    def health(self, timeout):
        return self.status

    def info(self):
        return PluginInfo("fake")

    def close(self):
        self.closed += 1


def plugin_config(name="fake", **sections):
    return ManagerConfig().resolve(PluginConfig.from_mapping({"name": name, "transport": "python", **sections}))


def guarded(sender, clock=None, **sections):
    sections.setdefault("retry", {"random_jitter": False})
    return GuardedPlugin(sender, sender, plugin_config(**sections), clock=clock or ManualClock(), rng=random.Random(1))


def make_shared(clock=None, name="fake", **fields):
    """What the pipelines of one plugin share."""
    fields.setdefault("forward", lambda name, call: f"from {name}")
    fields.setdefault("on_transition", lambda old, new: None)
    fields.setdefault("on_replaced_error", lambda call, error: None)
    clock, rng = clock or ManualClock(), random.Random(1)
    return Shared(name=name, clock=clock, rng=rng, events=EventStream(), counts=Counts(), **fields)


def make_call(clock, timeout=30.0, **options):
    return Call("request", codec_for(), Deadline.after(timeout, clock), "id-1", **options)


@attrs.define
class Latch:
    """Holds calls inside a sender until released."""

    entered: threading.Semaphore = attrs.field(factory=lambda: threading.Semaphore(0))
    gate: threading.Event = attrs.field(factory=threading.Event)

    def __call__(self, call):
        self.entered.release()
        assert self.gate.wait(10)
        return "ok"
